"""Refuse a row with two questions or two answers, in columns of which only one would be read.

Two columns may say the same: the question with and without a known wording, or one value in two forms.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from sod.datasets.golds import canonical, number_text, vote
from sod.datasets.overlap import key
from sod.errors import DataError
from sod.rewards.golds import worked
from sod.rewards.kinds import KINDS
from sod.rewards.math import INTEGER

QUESTIONS = ("prompt", "problem", "question", "query", "question_content")
"""Columns that hold a whole question."""
ANSWERS = ("answer", "correct_answer", "final_answer", "expected_answer", "ground_truth", "gold", "target")
"""Columns that hold the answer."""


def check_question(cells: Mapping[str, Any]) -> None:
    """Raise DataError if columns hold different questions. `cells`: by normalised name (`cells_of`)."""
    _check({name: key(_text(cells[name])) for name in QUESTIONS if name in cells})


def check_answer(cells: Mapping[str, Any], kind: str) -> None:
    """Raise DataError if columns hold different answers. Options have many forms, and `Choice` compares them."""
    if KINDS[kind].gold_is_answer and not KINDS[kind].has_options:
        _check({name: _value(cells[name], kind) for name in ANSWERS if name in cells})


def check_solution(kind: str, gold: str, solution: str) -> None:
    """Raise DataError if a solution marks another integer as its answer than the gold."""
    marked = worked(solution)[1] if solution and KINDS[kind].gold_is_answer and not KINDS[kind].has_options else None
    if marked is None:
        return
    values = _value(gold, kind), _value(marked, kind)
    if values[0] != values[1] and all(map(INTEGER.fullmatch, values)):
        raise DataError(
            f"its answer is {gold!r}, but its `solution` ends with the answer {marked!r}; keep the right one."
        )


def _check(found: Mapping[str, str]) -> None:
    first, *others = found or ("",)
    for name in others:
        if found[name] != found[first]:
            raise DataError(
                f"its `{first}` and `{name}` differ, and only one of them would be used; keep the right one."
            )


def _text(cell: Any) -> str:
    """Return the text of a question: itself, or what the user says in messages."""
    if isinstance(cell, Sequence) and not isinstance(cell, str):
        said = [m.get("content") for m in cell if isinstance(m, Mapping) and m.get("role") == "user"]
        return "\n".join(map(str, said))
    return str(cell)


def _value(cell: Any, kind: str) -> str:
    """Return a form of an answer that is equal for equal values."""
    (cell,) = cell if isinstance(cell, list) and len(cell) == 1 else (cell,)
    text = number_text(cell) if isinstance(cell, float) else str(cell).strip()
    text = worked(text)[1] or text
    with suppress(DataError):
        return vote(kind, canonical(kind, text))
    return text
