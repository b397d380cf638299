"""A shipped tool: SQL queries of a SQLite database, read-only. It shows how to write a tool that uses a problem's files.

`open` gives each attempt the database of its problem. A wrong query is text for the student. A database that cannot be read is
an InfrastructureError: the student did not cause it.
"""

import copy
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

from sod.config import ToolOptions
from sod.errors import InfrastructureError
from sod.processes.concurrency import in_a_thread
from sod.tools import shorten
from sod.types import Observation, Problem

ENDINGS = (".db", ".sqlite", ".sqlite3")
LONGEST_VALUE, MOST_COLUMNS, LONGEST_ANSWER = 1_000_000, 100, 1_000_000
"""Longest text or blob that SQLite makes, columns of a query, and bytes of rows that are read. They bound the memory."""
STEPS = 10_000
"""Instructions of SQLite between two looks at the clock."""
READS = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
PRAGMAS = {"table_list", "table_info", "foreign_key_list", "index_list", "index_info"}
SQL_SCHEMA = {
    "type": "function",
    "function": {
        "name": "sql",
        "description": "Runs one SQLite query and returns its rows. The table sqlite_schema describes the database.",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string", "description": "A SELECT statement."}},
            "required": ["query"],
        },
    },
}


class SqlTool:
    """`sql(query)` on tool.database, or on the database among the problem's files."""

    has_state = False

    def __init__(self, options: ToolOptions):
        self._options = options
        self._path = options.database
        self.schema = SQL_SCHEMA

    def complaint(self, problem: Problem) -> str:
        """Return why the problem's database cannot be used; empty if it can."""
        path = self._path or database_of(problem)
        if path is None:
            return f"it has no database. Give it a file that ends in {', '.join(ENDINGS)}, or give --tool.database."
        return fault_of(path)

    async def open(self, problem: Problem, seed: int) -> "SqlTool":
        """Return the tool of one attempt."""
        opened = copy.copy(self)
        opened._path = self._path or database_of(problem)
        return opened

    async def close(self) -> None:
        """Nothing to release: each call opens the database anew."""

    async def __call__(self, arguments: Mapping[str, Any]) -> Observation:
        return await in_a_thread(self._answer, arguments["query"])

    def _answer(self, query: str) -> Observation:
        deadline = time.monotonic() + self._options.seconds
        with closing(connect(self._path)) as connection:
            connection.set_progress_handler(lambda: time.monotonic() > deadline, STEPS)
            try:
                cursor = connection.execute(query)
                names = [column[0] for column in cursor.description or ()]
                lines, size = [" | ".join(names)], 0
                for row in cursor:
                    lines.append(" | ".join(map(cell_text, row)))
                    if len(lines) > self._options.max_rows + 1 or (size := size + len(lines[-1])) > LONGEST_ANSWER:
                        break
            except (sqlite3.Error, sqlite3.Warning, ValueError, MemoryError) as error:  # ValueError: a NUL, a surrogate
                if time.monotonic() > deadline:
                    return Observation(text=f"[stopped: longer than {self._options.seconds:g} s]", outcome="timeout")
                text = f"{type(error).__name__}: {error}".encode(errors="replace").decode()
                return Observation(text=shorten(text, self._options.max_chars), outcome="error")
        more = f"\n[more than {self._options.max_rows} rows]" if len(lines) > self._options.max_rows + 1 else ""
        table = (
            shorten("\n".join(lines[: self._options.max_rows + 1]), max(0, self._options.max_chars - len(more))) + more
        )
        return Observation(text=table if len(lines) > 1 else "[no rows]", outcome="ok")


def connect(path: Path | None) -> sqlite3.Connection:
    """Open a database that can only be read. Raises InfrastructureError."""
    try:
        if path is None:
            raise FileNotFoundError("there is no database")
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
        connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1")
    except (OSError, sqlite3.Error) as error:
        raise InfrastructureError(f"The database {path} cannot be read: {error}") from error
    connection.text_factory = lambda data: data.decode(errors="replace")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
    connection.setlimit(sqlite3.SQLITE_LIMIT_COLUMN, MOST_COLUMNS)
    connection.set_authorizer(lambda action, name, *_: sqlite3.SQLITE_OK if may(action, name) else sqlite3.SQLITE_DENY)
    return connection


@cache
def fault_of(path: Path) -> str:
    """Return why a database cannot be read; empty if it can."""
    try:
        connect(path).close()
    except InfrastructureError as error:
        return str(error)
    return ""


def may(action: int, name: str | None) -> bool:
    """Return whether a query may do this. It may not write, or attach another file."""
    return action in READS or (action == sqlite3.SQLITE_PRAGMA and name in PRAGMAS)


def cell_text(value: object) -> str:
    """Return a value as text."""
    return "NULL" if value is None else f"<{len(value)} bytes>" if isinstance(value, bytes) else str(value)


def database_of(problem: Problem) -> Path | None:
    """Return the first database among the problem's files."""
    return next((Path(path) for name, path in problem.files.items() if name.lower().endswith(ENDINGS)), None)
