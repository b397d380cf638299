"""A file of problems or demonstrations, row by row: what is wrong with each."""

import json
from codecs import BOM_UTF8
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sod.conversations import ToolUse
from sod.data import Row, as_demonstration, as_problem, read_rows
from sod.datasets.columns import check_characters
from sod.datasets.golds import check_gold
from sod.datasets.overlap import key
from sod.errors import DataError


@dataclass(frozen=True, slots=True)
class Checked:
    """A row, or what stands in its place."""

    number: int
    """From 1; of a .jsonl file, the line."""
    content: Any
    """The row; the text of a line that is none."""
    why: str
    """What is wrong with it; empty if nothing is known to be."""


class Inspector:
    """Judges the rows of one file, in their order: it remembers those before."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}
        self._answers: dict[str, tuple[int, str]] = {}
        self._ids: set[str] = set()
        self._sort = ""
        self.tool_use = ToolUse()
        """Of demonstrations."""
        self.same_ids = 0
        """Rows whose id is another's; they are used under a number of their own."""

    def fault(self, row: Row, number: int) -> str:
        """What is wrong with a row; empty if nothing is."""
        try:
            check_characters(row)
            sort = "demonstration" if "messages" in row else "problem"
            if self._sort not in ("", sort):
                return f"it is a {sort} among {self._sort}s; a file has one or the other."
            if sort == "demonstration":
                demonstration = as_demonstration(row, number)
                self._sort = sort
                self.tool_use.add(demonstration)
                return self._repeats(demonstration.messages, number)
            problem = as_problem(row, number)
            check_gold(problem.kind, problem.answer)
            self._sort = sort
        except DataError as error:
            return str(error)
        if why := self._repeats([problem.messages, problem.answer, problem.kind], number):
            return why
        asked = key("\n".join(str(message.get("content")) for message in problem.messages))
        first, answer = self._answers.setdefault(f"{problem.kind} {asked}", (number, problem.answer))
        if answer != problem.answer:
            return f"it asks what row {first} asks, and has another answer."
        self.same_ids += "id" in row and problem.id in self._ids
        self._ids.add(problem.id)
        return ""

    def _repeats(self, content: Any, number: int) -> str:
        first = self._seen.setdefault(json.dumps(content, default=str), number)
        return "" if first == number else f"it repeats row {first}."


def unchecked_rows(path: Path) -> list[Checked]:
    """The rows of a .jsonl or .parquet file; of a .jsonl file, what is wrong with lines that are none.

    Raises DataError for a file that has none, or is no such file.
    """
    if path.suffix != ".jsonl":
        return [Checked(number, row, "") for number, row in enumerate(read_rows(path), 1)]
    if not path.is_file():
        raise DataError(f"{path} does not exist; give a .jsonl or .parquet file.")
    rows = [_read(line, number) for number, line in enumerate(path.read_bytes().split(b"\n"), 1) if line.strip()]
    if not rows:
        raise DataError(f"{path} is empty: it has no row.")
    return rows


def _read(line: bytes, number: int) -> Checked:
    row = _parsed(line)
    return Checked(number, row, "") if isinstance(row, dict) else Checked(number, line.decode(errors="replace"), row)


def _parsed(line: bytes) -> Row | str:
    """A line's row, or why it has none."""
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return f"it is not UTF-8 text: {error.reason} at byte {error.start}."
    except (ValueError, RecursionError) as error:
        if line.startswith(BOM_UTF8):
            return "it begins with a byte order mark: write the file again as UTF-8 without one."
        return f"it is not JSON: {error}."
    return row if isinstance(row, dict) else f"it is no object with named fields, but {type(row).__name__}."
