"""Judge answers and compute rewards.

A judge compares the text of an attempt with a gold answer and returns a `Verdict`: right, wrong or ungraded. Ungraded means that
the judge itself failed, or that a limit stopped it. An ungraded attempt is never counted as wrong.

A reward of the user's own is a function of an `Attempt`, and a judge of the user's own a function of a text and a `Problem`:
see `sod.rewards.own`.
"""

from dataclasses import dataclass
from typing import Protocol

from sod.types import Message, Problem, Stop, Verdict

__all__ = ["NO_ANSWER", "NO_CODE", "Attempt", "Judge", "Verdict", "WholeJudge"]

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


class WholeJudge(Protocol):
    """Judge problems of every kind. The judge reads the whole problem, not only its gold answer."""

    async def prove(self, problem: Problem) -> None:
        """Judge a known case before the first attempt. Raises `sod.errors.OptionError` if the judge does not work."""
        ...

    async def __call__(self, text: str, problem: Problem) -> Verdict:
        """Return the verdict on the last turn of an attempt, without thoughts and calls."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One judged attempt, as a reward of the user's own reads it.

    Example:
        >>> problem = Problem(id="sum", messages=({"role": "user", "content": "What is 1 + 2?"},), answer="3")
        >>> verdict = Verdict(outcome="right", answer="3")
        >>> said = {"role": "assistant", "content": "It is 3."}
        >>> attempt = Attempt(problem=problem, messages=[*problem.messages, said], final_text="It is 3.",
        ...     stop="answered", verdict=verdict)
        >>> attempt.verdict.is_right, len(attempt.messages)
        (True, 2)
    """

    problem: Problem
    messages: list[Message]
    """The conversation in OpenAI's format, prompt included. The content of an assistant message is the whole text of a turn:
    thoughts, words and calls, as the student wrote them. Answers to a turn have the role tool, or user after a turn without
    calls."""
    final_text: str
    """Text of the last turn, which holds the answer. Empty if a limit ended the attempt."""
    stop: Stop
    """Why the attempt ended."""
    verdict: Verdict
    turn_rewards: tuple[float, ...] = ()
    """The environment's reward of each turn; empty if it gives none."""
    tool_errors: int = 0
    """Number of calls with another outcome than `ok`."""
    response_tokens: int = 0
    """Length of the response in tokens, tool results included."""
