"""A small SQLite database: look at tables, change them as the task demands, and answer a question about the result.

One tool, `sql(query=...)`, runs real SQL. Consequences stay: a wrong UPDATE or DELETE changes the table. The verdict compares the
whole database and the answer.

Levels: 1 names the table, 2 does not name it, 3 names two tables, copies a value, removes a row and asks for a sum.
"""

import random
import sqlite3

from sod.environments.worlds.base import Effect, Move, SmallWorld, invalid
from sod.environments.worlds.maze import PEOPLE

TABLES = ("staff", "team", "club", "crew", "guests", "pupils")
COLUMNS = ("age", "pay", "rank", "room", "score", "cost")
ROWS = 3
LONGEST_VALUE = 10_000
"""Largest value of a query, in bytes. A query computes in the trainer's process."""
MAX_ROWS, MAX_STEPS = 20, 100
"""Most rows of a result; most thousands of instructions of SQLite for one query."""
ALLOWED = {
    *(sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_INSERT, sqlite3.SQLITE_DELETE),
    *(sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE),
}
Content = dict[str, list[tuple[str | int, ...]]]
"""Rows of each table, sorted."""


class Database(SmallWorld):
    NAME = "database"
    TOOL = ("sql", "query")
    TOOL_HELP = "Run one SQL statement in SQLite."

    columns: dict[str, tuple[str, ...]]
    """Columns of each table; the first is `name`."""
    before: Content
    after: Content
    """The content that the task demands."""
    table: str
    """The table to change."""
    person: str
    column: str
    value: int
    source: tuple[str, str]
    """Level 3: person and column that the new value is copied from."""
    removed: str
    asked: tuple[str, str]
    """Column and person of the question. Level 3: column and the word `sum`."""
    seen: dict[str, bool]
    """Tables whose rows were read."""
    names_seen: bool
    source_seen: bool
    """Level 3: whether the value to copy was queried."""
    asked_after: bool
    """Whether the question's query was made after the last change."""

    def draw(self, rng: random.Random) -> None:
        count = 1 if self.level == 1 else 2
        tables, people = rng.sample(TABLES, count), rng.sample(PEOPLE, ROWS * count)
        columns = rng.sample(COLUMNS, 2 * count)
        self.columns, self.before = {}, {}
        for at, table in enumerate(tables):
            self.columns[table] = ("name", *columns[2 * at : 2 * at + 2])
            names = people[ROWS * at : ROWS * (at + 1)]
            self.before[table] = sorted((name, rng.randint(1, 9), rng.randint(1, 9)) for name in names)
        self.table = rng.choice(tables)
        rows = self.before[self.table]
        self.person, self.removed, other = (str(row[0]) for row in rng.sample(rows, 3))
        self.column, second = rng.sample(self.columns[self.table][1:], 2)
        old = self._cell(self.before, self.table, self.person, self.column)
        self.value = rng.choice([each for each in range(1, 10) if each != old])
        self.asked = (second, other)
        if self.level == 3:
            elsewhere = next(table for table in tables if table != self.table)
            self.source = (str(rng.choice(self.before[elsewhere])[0]), rng.choice(self.columns[elsewhere][1:]))
            self.value = self._cell(self.before, elsewhere, *self.source)
            self.asked = (self.column, "sum")
        self.after = self._demanded()
        self.seen = dict.fromkeys(tables, False)
        self.names_seen = self.source_seen = self.asked_after = False
        self._fill()

    def _cell(self, content: Content, table: str, person: str, column: str) -> int:
        row = next(row for row in content[table] if row[0] == person)
        return int(row[self.columns[table].index(column)])

    def _demanded(self) -> Content:
        at = self.columns[self.table].index(self.column)
        rows = [
            (*row[:at], self.value, *row[at + 1 :]) if row[0] == self.person else row
            for row in self.before[self.table]
            if self.level < 3 or row[0] != self.removed
        ]
        return self.before | {self.table: rows}

    def _fill(self) -> None:
        self._base = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._base.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
        for table, columns in self.columns.items():
            self._base.execute(f"CREATE TABLE {table} ({', '.join(columns)})")
            self._base.executemany(f"INSERT INTO {table} VALUES (?, ?, ?)", self.before[table])
        self._base.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in ALLOWED else sqlite3.SQLITE_DENY)

    @property
    def task(self) -> str:
        where = f"table {self.table}. " if self.level == 1 else ""
        column, of = self.asked
        if self.level < 3:
            return f"{where}set {self.column} of '{self.person}' to {self.value}. then {column} of '{of}'?"
        person, source = self.source
        copy = f"set {column} of '{self.person}' in {self.table} to {source} of '{person}' in {self._table_of(person)}."
        return f"{copy} remove '{self.removed}'. then {of} of {column}?"

    @property
    def gold(self) -> str:
        column, of = self.asked
        at = self.columns[self.table].index(column)
        if of == "sum":
            return str(sum(int(row[at]) for row in self.after[self.table]))
        return str(self._cell(self.after, self.table, of, column))

    # Actions

    def act(self, action: str) -> Effect:
        if not action:
            return invalid("the query is empty.")
        changes = self._base.total_changes
        try:
            text = self._run(action)
        except (sqlite3.Error, sqlite3.Warning, UnicodeError) as error:
            return invalid(f"{error}")
        self._note(action, is_change=self._base.total_changes > changes)
        return Effect(text)

    def _run(self, query: str) -> str:
        """Return the result as text: the names of the columns, and a line for each row."""
        steps = 0

        def count() -> bool:
            nonlocal steps
            steps += 1
            return steps > MAX_STEPS

        self._base.set_progress_handler(count, 1000)
        cursor = self._base.execute(query)
        if cursor.description is None:
            return f"{max(cursor.rowcount, 0)} rows changed."
        rows = cursor.fetchmany(MAX_ROWS)
        lines = [[column[0] for column in cursor.description], *rows]
        return "\n".join(" ".join(str(each)[:40] for each in line) for line in lines)

    def _note(self, query: str, *, is_change: bool) -> None:
        if is_change:
            self.asked_after = False
        elif query == self._question:
            self.asked_after = True
        elif "sqlite_master" in query:
            self.names_seen = True
        elif self.level == 3 and query == self._query(*self.source):
            self.source_seen = True
        for table in self.columns:
            if query == f"SELECT * FROM {table}":
                self.seen[table] = True

    @property
    def content(self) -> Content:
        """The present rows of each table, sorted."""
        return {
            table: sorted(self._base.execute(f"SELECT * FROM {table}").fetchall(), key=repr) for table in self.columns
        }

    def end(self) -> None:
        self._base.close()

    # Verdict

    def judge(self) -> tuple[bool, str]:
        content = self.content
        for table, rows in self.after.items():
            if content[table] != sorted(rows, key=repr):
                return False, f"the table {table} has other rows than the task demands"
        words = (self.answer or "").strip().rstrip(".").split()
        if not words:
            return False, "no answer"
        return words[-1] == self.gold, self.gold if words[
            -1
        ] == self.gold else f"{words[-1]!r} instead of {self.gold!r}"

    # Players

    @property
    def _question(self) -> str:
        column, of = self.asked
        return f"SELECT sum( {column} ) FROM {self.table}" if of == "sum" else self._query(of, column)

    def _query(self, person: str, column: str) -> str:
        return f"SELECT {column} FROM {self._table_of(person)} WHERE name='{person}'"

    def _table_of(self, person: str) -> str:
        return next(table for table, rows in self.before.items() if any(row[0] == person for row in rows))

    def expert(self) -> Move:
        if self.level == 2 and not self.names_seen:
            return Move("find tables", "SELECT sql FROM sqlite_master")
        tables = list(self.columns)
        needed = (
            [self.table, self._table_of(self.source[0])] if self.level == 3 else tables[: tables.index(self.table) + 1]
        )
        for table in needed:
            if not self.seen[table] and not (self.level == 2 and self.seen[self.table]):
                return Move(f"read {table}", f"SELECT * FROM {table}")
        # A tiny model does not learn to look up a value by row and column, so it is queried. The task names the tables for the
        # same reason.
        if self.level == 3 and not self.source_seen:
            person, column = self.source
            return Move(
                f"'{person}' in {self._table_of(person)}. ask {column} of '{person}'", self._query(person, column)
            )
        if repair := self._repair():
            return repair
        column, of = self.asked
        if not self.asked_after:
            return Move(f"ask {column} of '{of}'" if of != "sum" else f"ask sum of {column}", self._question)
        at = self.columns[self.table].index(column)
        rows = self.content[self.table]
        value = sum(int(row[at]) for row in rows) if of == "sum" else self._cell(self.content, self.table, of, column)
        return Move(f"{column} is {value}", f"answer {value}", is_answer=True)

    def _repair(self) -> Move | None:
        """Return the first change that is still missing. A mistaken change is undone with the values that were read before."""
        content = self.content
        for table, rows in self.after.items():
            present = {row[0]: row for row in content[table]}
            for row in rows:
                name = row[0]
                if name not in present:
                    values = ", ".join(map(str, row[1:]))
                    return Move(f"add '{name}'", f"INSERT INTO {table} VALUES ('{name}', {values})")
                for column, value, now in zip(self.columns[table], row, present[name], strict=True):
                    if value != now:
                        change = f"UPDATE {table} SET {column}={value} WHERE name='{name}'"
                        note = f"'{name}' in {table}. " if self.level > 1 else ""
                        return Move(f"{note}set {column} of '{name}' to {value}", change)
            wanted = {row[0] for row in rows}
            for name in present:
                if name not in wanted:
                    return Move(f"remove '{name}'", f"DELETE FROM {table} WHERE name='{name}'")
        return None

    def actions(self) -> list[str]:
        table, people = self.table, [str(row[0]) for row in self.before[self.table]]
        first, second = self.columns[table][1:]
        return [
            *(f"SELECT * FROM {each}" for each in self.columns),
            *(
                f"UPDATE {table} SET {each}={self.value} WHERE name='{name}'"
                for each in (first, second)
                for name in people
            ),
            f"UPDATE {table} SET {self.column}={self.value}",
            *(f"DELETE FROM {table} WHERE name='{name}'" for name in people if self.level == 3),
            *(f"SELECT {each} FROM {table} WHERE name='{name}'" for each in (first, second) for name in people),
            *([self._question] if self.level == 3 else []),
            f"SELECT name FROM {table}s",
        ]
