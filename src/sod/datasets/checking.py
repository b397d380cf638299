"""A file of problems or demonstrations, row by row: what is wrong with each."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sod.chat.conversations import ToolUse
from sod.console.progress import slow_bar
from sod.datasets.asking import asks, reworded
from sod.datasets.columns import check_characters
from sod.datasets.overlap import key
from sod.datasets.rows import Row, as_demonstration, check_file, each_row, lines_of, usable_problem
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
        self._seen: dict[bytes, int] = {}
        self._answers: dict[bytes, tuple[int, bytes]] = {}
        self._ids: set[str] = set()
        self._sort = ""
        self.kinds: Counter[str] = Counter()
        self.quiet: Counter[str] = Counter()
        """By kind, how many problems there are, and how many do not ask for what their judge reads."""
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
            problem = usable_problem(row, number)
            self._sort = sort
        except DataError as error:
            return str(error)
        self.kinds[problem.kind] += 1
        self.quiet[problem.kind] += not asks(reworded([problem])[0][0])
        if why := self._repeats([problem.messages, problem.answer, problem.kind], number):
            return why
        asked = key("\n".join(str(message.get("content")) for message in problem.messages))
        gold = _digest(problem.answer)
        first, answer = self._answers.setdefault(_digest(f"{problem.kind} {asked}"), (number, gold))
        if answer != gold:
            return f"it asks what row {first} asks, and has another answer."
        self.same_ids += "id" in row and problem.id in self._ids
        self._ids.add(problem.id)
        return ""

    def _repeats(self, content: Any, number: int) -> str:
        first = self._seen.setdefault(_digest(json.dumps(content, default=str)), number)
        return "" if first == number else f"it repeats row {first}."


def _digest(text: str) -> bytes:
    """What is remembered of a text: a file may have millions."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def unchecked_rows(path: Path) -> Iterator[Checked]:
    """The rows of a .jsonl or .parquet file; of a .jsonl file, what is wrong with lines that are none.

    Raises DataError for a file that has none, or is no such file.
    """
    check_file(path)
    if path.suffix == ".parquet":
        yield from (Checked(number, row, "") for number, row in enumerate(each_row(path), 1))
        return
    empty = True
    with slow_bar(path.name, "check, %", 100) as at:
        for number, _, line in lines_of(path, at):
            empty = False
            yield _read(line, number)
    if empty:
        raise DataError(f"{path} is empty: it has no row.")


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
        return f"it is not JSON: {error}."
    return row if isinstance(row, dict) else f"it is no object with named fields, but {type(row).__name__}."
