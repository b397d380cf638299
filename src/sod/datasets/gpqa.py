"""Convert GPQA: four choices in one fixed order.

The order of the wrong choices depends only on the question's `Record ID`. The right choice is evenly at A, B, C and D over the
whole set. Both do not depend on the order of rows in the file.
"""

from collections.abc import Sequence

from sod.datasets.choices import scattered
from sod.datasets.columns import Columns
from sod.datasets.rows import Row
from sod.errors import DataError

LETTERS = "ABCD"
WRONG = ("incorrect_answer_1", "incorrect_answer_2", "incorrect_answer_3")
NEEDED = ("record_id", "question", "correct_answer", *WRONG)


def questions(rows: Sequence[Row]) -> list[Row]:
    """Convert published rows into rows in sod's columns, with the column `choices`."""
    asked = [Columns(row) for row in rows]
    for number, columns in enumerate(asked, 1):
        if any(columns.one_of((name,)) is None for name in NEEDED):
            raise DataError(f"row {number}: {columns.lacks(', '.join(f'`{name}`' for name in NEEDED))}")
    ids = [columns.text("id") for columns in asked]
    if len(set(ids)) < len(ids):
        raise DataError("two rows have the same `record_id`. Download the file again.")
    places = {id: place % len(LETTERS) for place, id in enumerate(sorted(ids, key=scattered))}
    return [_question(columns, id, places[id]) for columns, id in zip(asked, ids, strict=True)]


def _question(columns: Columns, id: str, place: int) -> Row:
    wrong = [str(columns.one_of((name,))).strip() for name in WRONG]
    choices = sorted(wrong, key=lambda choice: scattered(f"{id}/{choice}"))
    choices.insert(place, columns.text("answer"))
    options = "\n".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=True))
    return {
        "id": id,
        "problem": f"{str(columns.need('problem')).strip()}\n\n{options}",
        "answer": LETTERS[place],
        "kind": "choice",
        "choices": choices,
        "domain": columns.text("domain"),
        "subject": columns.text("subject"),
    }
