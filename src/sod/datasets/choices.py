"""Read published multiple choice: the options, and the right one.

The options have one of three layouts:

- one column with all options: a list of texts, an object of texts by letter, lists of texts and labels, or a list of objects with
  text and label
- one column per option
- one column for the right answer, and other columns for the wrong answers
- no column, and an answer that is true or false

The right option is given by its letter, label, text or number, or by several of these, and they must agree. A number may count
from 0, count from 1, or be the text of an option. All rows of the file together decide this for each column. If they do not
decide it, it is an error.
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

OPTION_LISTS = (
    *("options", "choices", "endings", "answer_choices", "answer_options"),
    *("extra_info.options", "extra_info.choices"),
)
"""Columns that contain all options."""
_PREFIXES = ("option_", "option", "answer_", "answer", "choice_", "choice", "op", "sol", "ending")
SEPARATE = (
    *(tuple(f"{prefix}{letter}" for letter in ascii_uppercase.casefold()) for prefix in _PREFIXES),
    *(tuple(f"{prefix}{number}" for number in range(start, MOST)) for prefix in _PREFIXES for start in (0, 1)),
    tuple(ascii_uppercase.casefold()),
)
"""Columns that contain one option each."""
WRONG = (
    *(
        tuple(f"{name}{number}" for number in range(1, MOST))
        for name in ("incorrect_answer_", "distractor", "distractor_")
    ),
    *((name,) for name in ("incorrect_answers", "distractors", "wrong_answers", "incorrect_options")),
)
"""Columns of wrong options, each with one or with a list of them. Another column has the right one."""
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
"""The cells of a row by normalised column name."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The options of a row, and the data in its columns about the right one."""

    options: tuple[str, ...]
    possible: frozenset[int]
    """The options that can be right, from all columns without numbers."""
    numbers: Mapping[str, int]
    """By column, the number of the right option."""
    columns: frozenset[str]
    """The columns of this data."""

    def number(self, column: str, numbering: Numbering) -> int | None:
        """Return the option for the number in a column; None if no option fits."""
        number = self.numbers[column]
        if numbering == "text":
            return next(iter(places)) if len(places := _places(str(number), self.options)) == 1 else None
        place = number - (numbering == "from 1")
        return place if place in self.possible else None

    def numberings(self, column: str) -> set[Numbering]:
        """Return the numberings in which the number in a column fits a possible option."""
        return {each for each in _NUMBERINGS if self.number(column, each) in self.possible}

    def letter(self, numbering: "Numberings") -> str:
        """Return the letter of the right option. Raises DataError if the row does not determine it."""
        possible = set(self.possible)
        for column in self.numbers:
            if not numbering.of(column):
                raise DataError(
                    f"its column `{column}` counts options from 0 in some rows of the file, and from 1 in others. Write letters."
                )
            found = {self.number(column, each) for each in numbering.of(column) & self.numberings(column)}
            if len(found) > 1:
                raise DataError(
                    f"its `{column}` is {self.numbers[column]}. The number is one option if counted from 0, and another if "
                    "counted from 1 or taken as a text. The file does not show the right reading. Write letters."
                )
            possible &= found
        if len(possible) != 1:
            what = "none" if not possible else "several"
            raise DataError(
                f"its columns for the right answer fit {what} of its {len(self.options)} options. Write one letter."
            )
        (place,) = possible
        if self.options.count(self.options[place]) > 1:
            raise DataError(
                f"its right option {self.options[place]!r} is listed twice, and only one of the two letters would be right; "
                "remove one."
            )
        return ascii_uppercase[place]


_NUMBERINGS: tuple[Numbering, ...] = ("from 0", "from 1", "text")


class Numberings:
    """Find how the columns of a file number options, from all of its rows. The rows are read at the first call of `of`."""

    def __init__(self, rows: Callable[[], Iterator[Cells]]):
        self._rows = rows

    def of(self, column: str) -> set[Numbering]:
        """Return the numberings that fit every row of the file. Rows that fit no numbering are ignored."""
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
    """Return the options of a row; None if it has none. Raises DataError if they cannot be parsed."""
    if (found := _options(cells)) is None:
        return None
    labels, options, columns, possible = found
    if not 2 <= len(options) <= MOST or not all(options):
        raise DataError(f"it has {len(options)} options, or empty ones; give 2 to {MOST} options with text.")
    numbers: dict[str, int] = {}
    unmatched: list[str] = []  # columns with a text that is not an option; ignored if another column decides
    named = [name for name in RIGHT if name in cells and name not in columns]
    for name in named:
        value = as_value(cells[name])
        value = value[0] if isinstance(value, list) and len(value) == 1 else value
        if isinstance(value, list):
            raise DataError(f"its `{name}` names {len(value)} right options, but the judge accepts one letter.")
        text = str(value).strip()
        if re.fullmatch(r"-?\d+", text) and text not in labels:
            numbers[name] = int(text)
        elif fits := _places(text, options) | _labelled(text, labels):
            possible &= fits
        else:
            unmatched.append(name)
    if not named and len(possible) > 1:
        raise DataError(
            f"it has options, but no right one. Give it in one of the columns {', '.join(f'`{name}`' for name in RIGHT)}."
        )
    if unmatched and not numbers and len(possible) == len(options):
        raise DataError(f"its `{unmatched[0]}` is {cells[unmatched[0]]!r}, not one of its {len(options)} options.")
    return Choice(tuple(options), frozenset(possible), numbers, frozenset({*columns, *named} - {*unmatched}))


def with_options(text: str, options: Sequence[str]) -> str:
    """Return the text of a problem with its options, each after its letter; unchanged if it lists them in this form."""
    lettered = list(zip(ascii_uppercase, options, strict=False))
    marks = [rf"\(?{letter}\s*[.):\]]\s*{re.escape(option)}" for letter, option in lettered]
    if all(re.search(mark, text) for mark in marks):
        return text
    lines = "\n".join(f"({letter}) {option}" for letter, option in lettered)
    return f"{text.strip()}\n\n{lines}"


def option_columns(cells: Cells) -> tuple[str, ...]:
    """Return the columns with the options of a row; () without options. The right option is first if wrong ones have columns."""
    right = [name for name in RIGHT if name in cells]
    for name in OPTION_LISTS:
        if name in cells:
            return (name,)
    if isinstance(cells.get("answer"), bool):
        return ("answer",)
    for names in SEPARATE:
        if names[0] not in cells:
            continue
        there = [name for name in names if name in cells]
        if len(there) < 2 or there != list(names[: len(there)]):
            continue
        letters = list(ascii_uppercase[: len(there)])
        # Columns named only a, b, c may be anything. They are options if one of these letters is the answer.
        if len(names[0]) > 1 or any(_labelled(str(cells[name]), letters) for name in right):
            return tuple(there)
    for names in WRONG:
        if right and (there := [name for name in names if name in cells]):
            return (right[0], *there)
    return ()


def _options(cells: Cells) -> tuple[list[str], list[str], tuple[str, ...], set[int]] | None:
    """Return the labels, the texts, their columns, and the positions that the right option can have; None without options."""
    match columns := option_columns(cells):
        case ():
            return None
        case ("answer",):
            return list("AB"), ["true", "false"], columns, {0 if cells["answer"] else 1}
        case (name,):
            labels, texts = _labels_and_texts(name, as_value(cells[name]))
            return labels, texts, columns, set(range(len(texts)))
        case (name, *wrong) if name in RIGHT:
            values = [as_value(cells[other]) for other in wrong]
            texts = [_text(text) for value in values for text in (value if isinstance(value, list) else [value])]
            texts = sorted((_text(cells[name]), *texts), key=scattered)
            return list(ascii_uppercase[: len(texts)]), texts, columns, _places(_text(cells[name]), texts)
        case _:
            labels = list(ascii_uppercase[: len(columns)])
            return labels, [_text(cells[name]) for name in columns], columns, set(range(len(columns)))


def _labels_and_texts(name: str, cell: Any) -> tuple[list[str], list[str]]:
    """Return the labels and texts in one column with all options. Labels may be numbers."""
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
            if len(labels) == len(cell) and _are_shuffled(labels):
                raise DataError(
                    f"its options have the labels {', '.join(labels)}, so a letter could mean the label or the place. Sort them."
                )
            labels, texts = list(ascii_uppercase[: len(cell)]), cell
        case _:
            raise DataError(
                f"its `{name}` is {type(cell).__name__} in an unknown shape; give the options as a list of texts."
            )
    labels = [str(label).strip().upper() for label in labels]
    if not _in_order(labels):
        raise DataError(f"its options have the labels {', '.join(labels)}; they must be A, B, ... or 1, 2, ....")
    return labels, [_text(text) for text in texts]


def _orders(count: int) -> list[list[str]]:
    """Return the labels that so many options can have: A, B, ..., or numbers from 0 or 1."""
    return [list(ascii_uppercase[:count]), *([str(start + n) for n in range(count)] for start in (0, 1))]


def _in_order(labels: Sequence[str]) -> bool:
    return [label.upper() for label in labels] in _orders(len(labels))


def _are_shuffled(labels: Sequence[str]) -> bool:
    """Return whether the labels are those of an order, in another one."""
    return not _in_order(labels) and sorted(label.upper() for label in labels) in map(sorted, _orders(len(labels)))


def _places(text: str, options: Sequence[str]) -> set[int]:
    """Return the positions of the options with a text."""
    return {place for place, option in enumerate(options) if _alike(option) == _alike(text)}


def _labelled(text: str, labels: Sequence[str]) -> set[int]:
    """Return the position of the option with a label, or with the letter in a text."""
    if text.upper() in labels:
        return {list(labels).index(text.upper())}
    letter = gold_letter(text, min(len(labels), MOST))
    return {ascii_uppercase.index(letter)} if letter else set()


def _alike(text: str) -> str:
    return " ".join(text.split()).casefold()


def as_value(cell: Any) -> Any:
    """Return a cell; a list or an object if it is the text of one, as in .csv files."""
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


def scattered(text: str) -> str:
    """Return a pseudo-random sort key that is the same on every machine."""
    return hashlib.sha256(text.encode()).hexdigest()
