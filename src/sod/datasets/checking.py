"""Find the faults of each row in a file of problems or demonstrations."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sod.chat.conversations import CallStatistics
from sod.console.progress import slow_bar
from sod.datasets.asking import asks, reworded
from sod.datasets.columns import check_characters
from sod.datasets.overlap import key
from sod.datasets.rows import (
    Row,
    beside_text,
    check_file,
    demonstration_of,
    each_row,
    lines_of,
    unique_names,
    usable_problem,
)
from sod.errors import DataError


@dataclass(frozen=True, slots=True)
class Checked:
    """A row, or a line that is not a row."""

    number: int
    """The number of the row, from 1; the line in a .jsonl file."""
    content: Any
    """The row, or the text of a line that is not a row."""
    why: str
    """The fault; empty if no fault is known."""


class Inspector:
    """Check the rows of one file, in their order. A row is also compared with the rows before it."""

    def __init__(self) -> None:
        self._seen: dict[bytes, int] = {}
        self._answers: dict[bytes, tuple[int, bytes]] = {}
        self._ids: set[str] = set()
        self._sort = ""
        self.kinds: Counter[str] = Counter()
        self.quiet: Counter[str] = Counter()
        """By kind, the number of problems that do not ask for the form that their judge reads. `kinds` counts all problems."""
        self.tool_use = CallStatistics()
        """Tool use in the demonstrations."""
        self.same_ids = 0
        """Number of rows with the id of another row. They are used with a numbered id."""

    def fault(self, row: Row, number: int) -> str:
        """Return the fault of a row; empty if it has none."""
        try:
            check_characters(row)
            sort = "demonstration" if "messages" in row else "problem"
            if self._sort not in ("", sort):
                return f"it is a {sort} among {self._sort}s. Put them into separate files."
            if sort == "demonstration":
                demonstration = demonstration_of(row, number)
                self._sort = sort
                self.tool_use.add(demonstration)
                return self._repeats(demonstration.messages, number)
            problem = usable_problem(row, number)
            self._sort = sort
        except DataError as error:
            return str(error)
        self.kinds[problem.kind] += 1
        self.quiet[problem.kind] += not asks(reworded([problem])[0][0])
        around = beside_text(problem)
        if why := self._repeats([problem.messages, problem.answer, problem.kind, *around], number):
            return why
        asked = key("\n".join(str(message.get("content")) for message in problem.messages))
        gold = _digest(problem.answer)
        question = _digest(json.dumps([problem.kind, asked, *around], default=str))
        first, answer = self._answers.setdefault(question, (number, gold))
        if answer != gold:
            return f"it has the same question as row {first}, but another answer."
        self.same_ids += "id" in row and problem.id in self._ids
        self._ids.add(problem.id)
        return ""

    def _repeats(self, content: Any, number: int) -> str:
        first = self._seen.setdefault(_digest(json.dumps(content, default=str)), number)
        return "" if first == number else f"it repeats row {first}."


def _digest(text: str) -> bytes:
    """Return a digest to store in place of a text. A file may have millions of texts."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def unchecked_rows(path: Path) -> Iterator[Checked]:
    """Yield the rows of a .jsonl or .parquet file. In a .jsonl file, lines that are not rows have their fault in `why`.

    Raises DataError for an empty file and for any other type of file.
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
        raise DataError(f"{path} is empty: it has no rows.")


def _read(line: bytes, number: int) -> Checked:
    row = _parsed(line)
    return Checked(number, row, "") if isinstance(row, dict) else Checked(number, line.decode(errors="replace"), row)


def _parsed(line: bytes) -> Row | str:
    """Return the row of a line, or the fault of a line that is not a row."""
    try:
        row = json.loads(line.decode("utf-8"), object_pairs_hook=unique_names)
    except UnicodeDecodeError as error:
        return f"it is not UTF-8 text: {error.reason} at byte {error.start}."
    except (ValueError, RecursionError) as error:
        return f"it is not JSON: {error}."
    return row if isinstance(row, dict) else f"it is {type(row).__name__}, not an object with named fields."
