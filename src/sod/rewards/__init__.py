"""Answer to score: what an attempt is worth.

A judge reads what the student wrote and a gold answer, and returns a `Verdict`: right, wrong, or ungraded. Ungraded
means that the judge does not know, because its own machinery failed or gave up; it is never counted as wrong.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

Outcome = Literal["right", "wrong", "ungraded"]
NO_CODE = "no code"
"""The verdict's reason where a program was asked for and none was given; programs have no canonical answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    outcome: Outcome
    answer: str | None = None
    """The answer in canonical form, as votes count it; None if there was none, or where votes make no sense."""
    reason: str = ""
    """What decided: the layer that settled it, the test that failed, or why nothing could be decided."""


class Judge(Protocol):
    """Judges one kind of problem."""

    def check(self, gold: str) -> None:
        """Raises `sod.errors.DataError` for a gold answer that it could never judge by."""
        ...

    async def __call__(self, text: str, gold: str) -> Verdict:
        """The verdict on an attempt. Never raises for what the student wrote."""
        ...
