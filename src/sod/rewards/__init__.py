"""Answer to score: what a final turn is worth.

A judge reads the text of a trajectory's last turn and a gold answer, and returns a `Verdict`. Which judge a problem
needs is its `kind`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sod.errors import DataError
from sod.rewards import math
from sod.types import Problem

RIGHT, WRONG = 1.0, -1.0
"""The paper's rewards."""


@dataclass(frozen=True, slots=True)
class Verdict:
    correct: bool
    answer: str | None
    """The answer in canonical form, as votes count it; None if there was none."""

    @property
    def reward(self) -> float:
        return RIGHT if self.correct else WRONG


JUDGES: dict[str, Callable[[str, str], tuple[bool, str | None]]] = {"math": math.judge}


def judge(problem: Problem, final_text: str) -> Verdict:
    """The verdict on the last turn of an attempt at `problem`."""
    return Verdict(*JUDGES[problem.kind](final_text, problem.answer))


def check_kinds(problems: list[Problem]) -> None:
    """Every problem must have a judge, before the first token is sampled."""
    for problem in problems:
        if problem.kind not in JUDGES:
            raise DataError(
                f"Problem {problem.id!r} is of kind {problem.kind!r}; judges exist for {', '.join(JUDGES)}."
            )
        if problem.kind == "math" and math.canonical(problem.answer) is None:
            raise DataError(f"The answer of problem {problem.id!r}, {problem.answer!r}, is empty.")
