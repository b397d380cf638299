"""An environment behind checks: time limits, types of what it returns, and its failures as errors in words.

What the student does wrong is answered here, as text: malformed calls, unknown tools and wrong arguments do not reach the
environment. What the environment does wrong raises InfrastructureError with the name of the environment and the method.
"""

import asyncio
import copy
import inspect
import logging
import math
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, cast, get_args

from sod.chat.conversations import as_messages
from sod.config import ToolOptions
from sod.environments import Environment, Opening, Step, Turn
from sod.errors import DataError, InfrastructureError, OptionError
from sod.processes.concurrency import call_function
from sod.tools import NO_OUTPUT, damaged, refuse_call, shorten
from sod.types import MalformedCall, Observation, Outcome, Problem, ToolCall, Verdict

logger = logging.getLogger(__name__)

CLOSING_SECONDS = 10.0
"""Longest time that `close` may take."""
_BOOLEANS = ("bool", "bool_")
"""Names of Python's and NumPy's types of truth values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A checked answer to a turn."""

    observations: tuple[Observation, ...]
    """One for each call of the turn; one for a turn without calls. Empty if the attempt is over."""
    is_over: bool = False
    reward: float | None = None


class GuardedEnvironment:
    """The environment of one attempt, checked. Methods that are plain functions run in a thread.

    `seconds`: limit of each method. None: this project's own environment, with limits of its own; its errors are not caught.
    """

    def __init__(self, environment: Environment, name: str, options: ToolOptions, *, seconds: float | None):
        self._environment = environment
        self._name = name
        self._options = options
        self._seconds = seconds
        self._opening = Opening("")
        self._has_ended = False

    @property
    def has_state(self) -> bool:
        """Whether answers depend on earlier turns."""
        return getattr(self._environment, "has_state", True)

    async def open(self, problem: Problem, seed: int) -> Opening:
        """Begin the attempt, and return what the student reads first."""
        blocks = self._seconds is not None and not inspect.iscoroutinefunction(self._environment.open)
        opening = await self._call(self._open if blocks else self._environment.open, problem, seed, name="open")
        if self._seconds is None:
            self._opening = opening
            return opening
        if not isinstance(opening, Opening):
            raise self._wrong("open", f"returned {_kind(opening)}; it must return an Opening")
        try:
            messages = as_messages(copy.deepcopy(list(opening.conversation)))
        except (DataError, TypeError, ValueError) as error:
            raise self._wrong("open", f"returned messages that cannot be used: {error}") from error
        if not messages or messages[-1]["role"] not in ("user", "tool") or not messages[-1]["content"].strip():
            raise self._wrong("open", "returned no text for the student; the last message must be a user's, with text")
        self._opening = Opening(tuple(messages), self._tools(opening))
        return self._opening

    def _open(self, problem: Problem, seed: int) -> Opening:
        """Begin the attempt, in a thread. What returns after the time limit is closed, because no attempt uses it."""
        opening = self._environment.open(problem, seed)
        if self._has_ended:
            logger.warning(f"environment {self._name}: open returned after its time limit; it is closed once more.")
            asyncio.run(self.close())
        return cast("Opening", opening)

    async def answer(
        self, text: str, calls: Sequence[ToolCall | MalformedCall], seed: int, lengths: tuple[int, int] = (0, 0)
    ) -> Answer:
        """Answer a turn of the student. `seed` determines the calls that `tool.faults` damages.

        `lengths`: tokens before the turn, and of the turn.
        """
        if not calls:
            return self._checked(await self._step(Turn(text, (), *lengths)), 1)
        if self._options.faults:
            calls = damaged(calls, self._options.faults, seed)
        judges = getattr(self._environment, "judges_calls", False)
        refusals = [
            None if judges and isinstance(call, ToolCall) else refuse_call(call, self._opening.tools) for call in calls
        ]
        valid = tuple(c for c, refused in zip(calls, refusals, strict=True) if not refused and isinstance(c, ToolCall))
        if not valid and not judges:
            return Answer(observations=tuple(each for each in refusals if each))
        malformed = sum(isinstance(call, MalformedCall) for call in calls)
        answer = self._checked(await self._step(Turn(text, valid, *lengths, malformed)), len(valid))
        results = iter(answer.observations)
        if answer.is_over:
            return answer
        merged = tuple(refused or next(results) for refused in refusals)
        return Answer(observations=merged, reward=answer.reward)

    async def verdict(self, text: str) -> Verdict | None:
        """Return the environment's verdict; None if the judge of the problem's kind decides."""
        found = await self._call(self._environment.verdict, text)
        if type(found).__name__ in _BOOLEANS:
            return Verdict(outcome="right" if found else "wrong", reason="environment")
        if not isinstance(found, Verdict | None):
            raise self._wrong("verdict", f"returned {_kind(found)}; it must return a Verdict, True, False or None")
        return found

    async def close(self) -> None:
        """Close the environment. A failure is logged, because the attempt has ended."""
        self._has_ended = True
        try:
            async with asyncio.timeout(CLOSING_SECONDS):
                await asyncio.shield(asyncio.ensure_future(call_function(self._environment.close)))
        except (Exception, SystemExit) as error:  # the user's class may raise anything
            logger.warning(
                f"environment {self._name}: close failed, and its attempt may hold resources: {_told(error)}"
            )

    async def _step(self, turn: Turn) -> Any:
        return await self._call(self._environment.step, turn)

    def _checked(self, step: Any, count: int) -> Answer:
        """Check the answer to a turn that needs `count` observations."""
        if not isinstance(step, Step):
            raise self._wrong("step", f"returned {_kind(step)}; it must return a Step")
        reward = step.reward
        if reward is not None and (not isinstance(reward, Real) or not math.isfinite(reward)):
            raise self._wrong("step", f"returned the reward {reward!r}; it must be a finite number or None")
        reward = None if reward is None else float(reward)
        if step.is_over:
            return Answer(observations=(), is_over=True, reward=reward)
        if not isinstance(step.answer, str | Sequence) or not all(map(_is_observation, step.observations)):
            raise self._wrong("step", "returned an answer that is neither text nor an Observation")
        observations = step.observations
        if len(observations) != count:
            raise self._wrong(
                "step", f"returned {len(observations)} answers to a turn that needs {count}, one per call"
            )
        return Answer(observations=tuple(map(self._readable, observations)), reward=reward)

    def _readable(self, observation: Observation) -> Observation:
        """Return the observation without lone surrogates, which no tokenizer encodes, and within `tool.max_chars`."""
        text = observation.text.encode("utf-8", "replace").decode()
        if (
            self._seconds is None
        ):  # the tools of the run shorten their own results; the reference interpreter's may be empty
            return replace(observation, text=text)
        text = shorten(text, self._options.max_chars)
        return Observation(text=text if text.strip() else NO_OUTPUT, outcome=observation.outcome)

    def _tools(self, opening: Opening) -> tuple[dict[str, Any], ...]:
        try:
            tools = tuple(copy.deepcopy(tool) for tool in opening.tools)
            names = [str(tool["function"]["name"]) for tool in tools]
            _ = [tool["function"]["parameters"]["properties"] for tool in tools]
        except (KeyError, TypeError) as error:
            raise self._wrong("open", "returned a tool that is not an OpenAI function schema") from error
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise self._wrong("open", f"returned two tools of the name {twice[0]!r}; rename one")
        return tools

    async def _call(self, method: Callable[..., Any], *arguments: Any, name: str = "") -> Any:
        """Call a method within the limit. Raises InfrastructureError if it fails. `name`: in messages; default: its own."""
        name = name or method.__name__
        if self._seconds is None:
            return await call_function(method, *arguments)
        deadline = asyncio.timeout(self._seconds)
        try:
            async with deadline:
                return await call_function(method, *arguments)
        except (InfrastructureError, OptionError):
            raise
        except (Exception, SystemExit) as error:  # the user's class may raise anything
            if deadline.expired():
                late = f"did not return within tool.seconds = {self._seconds:g} s"
                raise self._wrong(name, late) from error
            raise self._wrong(name, f"raised {_told(error)}") from error

    def _wrong(self, method: str, what: str) -> InfrastructureError:
        return InfrastructureError(f"The environment {self._name} failed: {method} {what}.")


def _is_observation(value: object) -> bool:
    return isinstance(value, Observation) and isinstance(value.text, str) and value.outcome in get_args(Outcome)


def _kind(value: object) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"


def _told(error: BaseException) -> str:
    """Return an exception in one line, with the last place in its traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"
