"""Judge answers and compute rewards.

A judge compares the text of an attempt with a gold answer and returns a `Verdict`: right, wrong or ungraded. Ungraded means that
the judge itself failed, or that a limit stopped it. An ungraded attempt is never counted as wrong.
"""

from typing import Protocol

from sod.types import Verdict

__all__ = ["NO_ANSWER", "NO_CODE", "Judge", "Verdict"]

NO_ANSWER = "no answer"
"""The reason of a verdict on an attempt without an answer."""
NO_CODE = "no code"
"""The reason of a verdict on an attempt without a program."""


class Judge(Protocol):
    """Judge one kind of problem."""

    def check(self, gold: str) -> None:
        """Raise `sod.errors.DataError` for a gold answer that this judge cannot use."""
        ...

    async def __call__(self, text: str, gold: str) -> Verdict:
        """Return the verdict on an attempt. Never raises for a text of the student."""
        ...
