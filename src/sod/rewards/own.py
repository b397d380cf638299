"""Rewards and a judge of the user's own, given as FILE.py:FUNCTION.

A reward is `def NAME(attempt: sod.rewards.Attempt) -> float | Verdict`. A judge is
`def NAME(text: str, problem: Problem) -> bool | Verdict | None`. Both may be async. An async function runs in the event loop,
which it must not block. Any other function runs in a new thread per call; after a time-out the thread is abandoned.

An exception, a time-out, another type, NaN or infinity raises `sod.errors.InfrastructureError`: the attempt is retried, then
dropped and counted. It is never a reward of 0.
"""

import asyncio
import inspect
import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

from sod.config import RewardOptions
from sod.config.plugins import load
from sod.config.reward import ENVIRONMENT, VERDICT
from sod.errors import InfrastructureError, OptionError
from sod.processes.concurrency import call_function
from sod.rewards import Attempt, Verdict
from sod.rewards.answers import final_answer, final_turn
from sod.types import Problem

RIGHT, WRONG = 1.0, -1.0
"""Numbers of a verdict that a reward of the user's own returns."""
SHOWN_CHARACTERS = 200
"""Longest value or answer that is shown or counted in votes, in characters."""


class OwnFunction:
    """A user's function with a limit on the time of a call. Messages begin with the option that names it."""

    def __init__(self, path: str, *, option: str, parameters: Sequence[str], seconds: float):
        """Load the function. Raises OptionError unless it can be called with these parameters, by position."""
        self._function = load(path, option=option)
        self._seconds = seconds
        self.name = path.rpartition(":")[2]
        self._label = f"{option}: {self.name}"
        self._check_parameters(path, parameters)

    def __str__(self) -> str:
        return self._label

    def _check_parameters(self, path: str, parameters: Sequence[str]) -> None:
        try:
            inspect.signature(self._function).bind(*parameters)
        except ValueError:  # a function without a signature, such as some of C
            return
        except TypeError as error:
            raise OptionError(
                f"{self} in {path.rpartition(':')[0]} cannot be called: {error}. Write def {self.name}({', '.join(parameters)})."
            ) from error

    async def __call__(self, *arguments: Any) -> Any:
        """Return the function's value. Raises InfrastructureError if it raises an exception or exceeds the limit."""
        deadline = asyncio.timeout(self._seconds)
        try:
            async with deadline:
                return await call_function(self._function, *arguments)
        except InfrastructureError:
            raise
        except (Exception, SystemExit) as error:  # the user's function may raise anything
            if deadline.expired():
                raise InfrastructureError(
                    f"{self} returned nothing within reward.own_seconds = {self._seconds:g} s"
                ) from error
            raise InfrastructureError(f"{self} raised {type(error).__name__}: {_short(error)}") from error


def _short(value: object) -> str:
    try:
        text = value if isinstance(value, str) else str(value)
    except Exception:  # a user's __str__
        text = type(value).__name__
    return text[:SHOWN_CHARACTERS]


# Rewards


class OwnReward:
    """A part of the reward that a user's function computes."""

    def __init__(self, path: str, *, seconds: float):
        self._function = OwnFunction(path, option="reward.own", parameters=["attempt"], seconds=seconds)
        self.name = self._function.name

    async def __call__(self, attempt: Attempt) -> float | Verdict:
        """Return a finite number, or a verdict that is ungraded. A graded verdict becomes +1 or -1."""
        value = await self._function(attempt)
        if isinstance(value, Verdict):
            return (RIGHT if value.is_right else WRONG) if value.is_graded else value
        if not isinstance(value, Real):
            raise InfrastructureError(
                f"{self._function} returned a value of type {type(value).__name__}. It must return a number or a Verdict"
            )
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise InfrastructureError(f"{self._function} returned {number}. It must return a finite number")
        return number


def own_rewards(options: RewardOptions) -> list[OwnReward]:
    """Load the functions of `reward.own`. Raises OptionError if one cannot be used, or two have the same name."""
    found: list[OwnReward] = []
    for path in options.own:
        name = path.rpartition(":")[2]
        if name in (VERDICT, ENVIRONMENT):
            raise OptionError(
                f"reward.own: {path} has the name of another part of the reward, {name}. Rename your function."
            )
        if name in {reward.name for reward in found}:
            raise OptionError(f"reward.own: two functions have the name {name}, such as {path}. Rename one.")
        found.append(OwnReward(path, seconds=options.own_seconds))
    return found


def weights_of(options: RewardOptions) -> dict[str, float]:
    """Return the weight of each part of the reward, by name. Raises OptionError for a wrong `reward.weights`."""
    weights = dict.fromkeys((VERDICT, ENVIRONMENT, *(path.rpartition(":")[2] for path in options.own)), 1.0)
    given: set[str] = set()
    for text in options.weights:
        name, _, number = (part.strip() for part in text.partition("="))
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not math.isfinite(weight):
            raise OptionError(f"reward.weights: {text!r} must have the form NAME=NUMBER, such as {VERDICT}=0.5.")
        if name not in weights:
            raise OptionError(
                f"reward.weights: there is no part {name!r} of the reward. Its parts are {', '.join(weights)}."
            )
        if name in given:
            raise OptionError(f"reward.weights: {name} has two weights. Give one.")
        given.add(name)
        weights[name] = weight
    return weights


# A judge


class OwnJudge:
    """A user's function as the judge of every problem."""

    def __init__(self, path: str, *, seconds: float):
        self._function = OwnFunction(path, option="reward.judge", parameters=["text", "problem"], seconds=seconds)

    async def prove(self, problem: Problem) -> None:
        """Judge the gold answer of a problem. Any verdict is valid. Raises OptionError if the function returns none."""
        try:
            await self(rf"\boxed{{{problem.answer}}}", problem)
        except InfrastructureError as error:
            raise OptionError(f"{error}. This was a trial with the gold answer of problem {problem.id!r}.") from error

    async def __call__(self, text: str, problem: Problem) -> Verdict:
        value = await self._function(text, problem)
        if isinstance(value, Verdict):
            return value
        if value is None:
            return Verdict(outcome="ungraded", reason=f"{self._function} returned None")
        if not isinstance(value, bool):
            raise InfrastructureError(
                f"{self._function} returned a value of type {type(value).__name__}. It must return True, False, a Verdict, or "
                "None for an attempt that it cannot decide"
            )
        return Verdict(outcome="right" if value else "wrong", answer=stated_answer(text), reason=self._function.name)


def stated_answer(text: str) -> str:
    """Return the answer for majority votes, where a judge gives none: the last box of the text, or its beginning."""
    return (final_answer(text) or final_turn(text).strip())[:SHOWN_CHARACTERS]
