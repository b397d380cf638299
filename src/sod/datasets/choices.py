"""Multiple choice as it is published: what the options are, and which of them is right.

Options stand in one column (a list of texts, an object of texts by letter, lists of texts and labels, a list of objects with
both) or in a column each; or the right answer and the wrong ones have columns of their own. The right option is named by its
letter, label, text or number, or by several of these, which must agree. A number may count from 0, from 1, or be the text of
an option: what it is in a column follows from all rows of the file together, and where it does not follow it is an error.
"""

import ast
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from string import ascii_uppercase
from typing import Any, Literal

from sod.errors import DataError
from sod.rewards.choice import MOST, gold_letter

Numbering = Literal["from 0", "from 1", "text"]

LISTS = (
    *("options", "choices", "endings", "answer_choices", "answer_options"),
    *("extra_info.options", "extra_info.choices"),
)
"""Columns that hold all options."""
_PREFIXES = ("option_", "option", "answer_", "answer", "choice_", "choice", "op", "sol", "ending")
SEPARATE = (
    *(tuple(f"{prefix}{letter}" for letter in ascii_uppercase.casefold()) for prefix in _PREFIXES),
    *(tuple(f"{prefix}{number}" for number in range(start, MOST)) for prefix in _PREFIXES for start in (0, 1)),
    tuple(ascii_uppercase.casefold()),
)
"""Columns that hold an option each."""
WRONG = tuple(
    tuple(f"{name}{number}" for number in range(1, MOST)) for name in ("incorrect_answer_", "distractor", "distractor_")
)
"""Columns of wrong options, beside a column of the right one."""
RIGHT = (
    *(
        "answer",
        "answerkey",
        "answer_key",
        "answer_letter",
        "correct_option",
        "correct_choice",
        "correct_answer",
        "correct",
    ),
    *(
        "answer_index",
        "answer_idx",
        "correct_index",
        "correct_answer_index",
        "label",
        "cop",
        "gold",
        "gold_index",
        "target",
    ),
    *("ground_truth", "expected_answer", "final_answer"),
)
"""Columns that name the right option."""
_LABELLED = re.compile(r"\s*\(?(?:([A-Za-z])\s*[.):]|(\d{1,2})\s*[.):](?=\s))\s*(\S.*)", re.DOTALL)

Cells = Mapping[str, Any]
"""A row's cells by the normal names of their columns."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A row's options, and what its columns say of the right one."""

    options: tuple[str, ...]
    possible: frozenset[int]
    """The options that can be right by all but numbers."""
    numbers: Mapping[str, int]
    """What columns with numbers say."""
    columns: frozenset[str]
    """The columns that all of this stands in."""

    def number(self, column: str, numbering: Numbering) -> int | None:
        """The option that a number means; None where it can mean none."""
        number = self.numbers[column]
        if numbering == "text":
            return next(iter(places)) if len(places := _places(str(number), self.options)) == 1 else None
        place = number - (numbering == "from 1")
        return place if place in self.possible else None

    def numberings(self, column: str) -> set[Numbering]:
        return {each for each in _NUMBERINGS if self.number(column, each) in self.possible}

    def letter(self, numbering: "Numberings") -> str:
        """The letter of the right option. Raises DataError where it is not known."""
        possible = set(self.possible)
        for column in self.numbers:
            if not numbering.of(column):
                raise DataError(
                    f"its column `{column}` counts options from 0 in some rows of the file, and from 1 in others."
                )
            found = {self.number(column, each) for each in numbering.of(column) & self.numberings(column)}
            if len(found) > 1:
                raise DataError(
                    f"its `{column}` is {self.numbers[column]}, which is one option counted from 0, another from 1 or by its "
                    "text, and the file does not show which is meant. Write letters."
                )
            possible &= found
        if len(possible) != 1:
            what = "none" if not possible else "several"
            raise DataError(f"what it says of the right answer fits {what} of its {len(self.options)} options.")
        return ascii_uppercase[possible.pop()]


_NUMBERINGS: tuple[Numbering, ...] = ("from 0", "from 1", "text")


class Numberings:
    """How the columns of a file number options: read off all of its rows, once it is asked for."""

    def __init__(self, rows: Callable[[], Iterator[Cells]]):
        self._rows = rows

    def of(self, column: str) -> set[Numbering]:
        """The numberings that fit every row, but for rows that fit none."""
        return self._found.get(column, set(_NUMBERINGS))

    @cached_property
    def _found(self) -> dict[str, set[Numbering]]:
        found: dict[str, set[Numbering]] = {}
        for cells in self._rows():
            try:
                choice = read_choice(cells)
            except DataError:
                continue
            for column in choice.numbers if choice else ():
                if fits := choice.numberings(column) if choice else set():
                    found[column] = found.get(column, set(_NUMBERINGS)) & fits
        return found


def read_choice(cells: Cells) -> Choice | None:
    """The options in a row; None if it has none. Raises DataError where they cannot be read."""
    if (found := _options(cells)) is None:
        return None
    labels, options, columns, possible = found
    if not 2 <= len(options) <= MOST or not all(options):
        raise DataError(f"it has {len(options)} options, or empty ones; multiple choice has 2 to {MOST}.")
    numbers: dict[str, int] = {}
    strange: list[str] = []  # a text that is no option: it says nothing, where another column does
    told = [name for name in RIGHT if name in cells and name not in columns]
    for name in told:
        value = as_value(cells[name])
        value = value[0] if isinstance(value, list) and len(value) == 1 else value
        if isinstance(value, list):
            raise DataError(f"its `{name}` names {len(value)} right options; the judge of choices reads one letter.")
        text = str(value).strip()
        if re.fullmatch(r"-?\d+", text) and text not in labels:
            numbers[name] = int(text)
        elif fits := _places(text, options) | _labelled(text, labels):
            possible &= fits
        else:
            strange.append(name)
    if not told and len(possible) > 1:
        raise DataError(f"it has options, but none of the columns {', '.join(f'`{name}`' for name in RIGHT)}.")
    if strange and not numbers and len(possible) == len(options):
        raise DataError(f"its `{strange[0]}` is {cells[strange[0]]!r}, which is none of its {len(options)} options.")
    return Choice(tuple(options), frozenset(possible), numbers, frozenset({*columns, *told} - {*strange}))


def listed(text: str, options: Sequence[str]) -> str:
    """A problem's text with its options, each after its letter; as it is if it lists them so already."""
    lettered = list(zip(ascii_uppercase, options, strict=False))
    marks = [rf"\(?{letter}\s*[.):\]]\s*{re.escape(option)}" for letter, option in lettered]
    if all(re.search(mark, text) for mark in marks):
        return text
    lines = "\n".join(f"({letter}) {option}" for letter, option in lettered)
    return f"{text.strip()}\n\n{lines}"


def _options(cells: Cells) -> tuple[list[str], list[str], tuple[str, ...], set[int]] | None:
    """Labels, texts, the columns that they stand in, and the places where the right one can be."""
    for name in LISTS:
        if name in cells:
            labels, texts = _labels_and_texts(name, as_value(cells[name]))
            return labels, texts, (name,), set(range(len(texts)))
    for names in SEPARATE:
        there = [name for name in names if name in cells]
        if len(there) < 2 or there != list(names[: len(there)]):
            continue
        letters = list(ascii_uppercase[: len(there)])
        # Columns a, b and c may be anything, unless one of these letters is the answer.
        if len(names[0]) > 1 or any(_labelled(str(cells[name]), letters) for name in RIGHT if name in cells):
            return letters, [_text(cells[name]) for name in there], tuple(there), set(range(len(there)))
    for names in WRONG:
        there = [name for name in names if name in cells]
        if there and (right := next((name for name in RIGHT if name in cells), None)):
            texts = sorted((_text(cells[name]) for name in (right, *there)), key=_draw)
            place = _places(_text(cells[right]), texts)
            return list(ascii_uppercase[: len(texts)]), texts, (right, *there), place
    return None


def _labels_and_texts(name: str, cell: Any) -> tuple[list[str], list[str]]:
    """Of one column with all options. Labels are theirs, which may be numbers."""
    match cell:
        case {"text": list(texts), "label": list(labels)} if len(texts) == len(labels):
            pass
        case [{"text": _, "label": _}, *_]:
            labels, texts = [each.get("label") for each in cell], [each.get("text") for each in cell]
        case dict() if cell and not any(isinstance(text, list | dict) for text in cell.values()):
            there = {label: text for label, text in cell.items() if text not in (None, "")}
            labels, texts = list(there), list(there.values())
        case list() if not any(isinstance(text, list | dict) for text in cell):
            while cell and cell[-1] in (None, ""):
                cell = cell[:-1]
            marks = [_LABELLED.fullmatch(str(text)) for text in cell]
            labels = [mark[1] or mark[2] for mark in marks if mark]
            if len(labels) == len(cell) and _in_order(labels):
                return [label.upper() for label in labels], [mark[3].strip() for mark in marks if mark]
            labels, texts = list(ascii_uppercase[: len(cell)]), cell
        case _:
            raise DataError(f"its `{name}` are {type(cell).__name__} in a shape that is not known for options.")
    labels = [str(label).strip().upper() for label in labels]
    if not _in_order(labels):
        raise DataError(f"its options have the labels {', '.join(labels)}, which are not A, B, ... or 1, 2, ....")
    return labels, [_text(text) for text in texts]


def _in_order(labels: Sequence[str]) -> bool:
    """Whether labels are A, B, ... or count from 0 or 1."""
    count = len(labels)
    orders = [list(ascii_uppercase[:count]), *([str(start + n) for n in range(count)] for start in (0, 1))]
    return [label.upper() for label in labels] in orders


def _places(text: str, options: Sequence[str]) -> set[int]:
    """The options with this text."""
    return {place for place, option in enumerate(options) if _alike(option) == _alike(text)}


def _labelled(text: str, labels: Sequence[str]) -> set[int]:
    """The option with this label, or with the letter in this text."""
    if text.upper() in labels:
        return {list(labels).index(text.upper())}
    letter = gold_letter(text, min(len(labels), MOST))
    return {ascii_uppercase.index(letter)} if letter else set()


def _alike(text: str) -> str:
    return " ".join(text.split()).casefold()


def as_value(cell: Any) -> Any:
    """A cell, or what it holds as the text of a list or an object, as .csv has it."""
    if isinstance(cell, float) and cell.is_integer():
        return int(cell)
    if not isinstance(cell, str) or cell.strip()[:1] not in ("[", "{"):
        return cell
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return value
    return cell


def _text(cell: Any) -> str:
    return "" if cell is None else str(int(cell) if isinstance(cell, float) and cell.is_integer() else cell).strip()


def _draw(text: str) -> str:
    """A number that looks like chance, the same on every machine."""
    return hashlib.sha256(text.encode()).hexdigest()
