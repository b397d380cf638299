"""What the tests of other people's environments share. `make test-environments` installs the packages."""

import asyncio
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from sod.environments import Environment, Opening, Step, Turn
from sod.types import Problem, Verdict

REASON = "this package has an environment of its own: make test-environments"


async def _value(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


Played = tuple[Opening, list[Step], Verdict]
Student = Callable[[Opening, list[Step]], Turn | None]


async def play_async(environment: Environment, setting: dict[str, Any], student: Student, seed: int = 0) -> Played:
    """Play an attempt to its end. `student` returns the next turn, or None to give up."""
    problem = Problem(id="p", messages=(), answer="", setting=setting)
    try:
        opening: Opening = await _value(environment.open(problem, seed))
        steps: list[Step] = []
        while not (steps and steps[-1].is_over) and (turn := student(opening, steps)) is not None:
            steps.append(await _value(environment.step(turn)))
        return opening, steps, await _value(environment.verdict(""))
    finally:
        await _value(environment.close())


def play(environment: Environment, setting: dict[str, Any], student: Student, seed: int = 0) -> Played:
    return asyncio.run(play_async(environment, setting, student, seed))


def writes(*texts: str) -> Student:
    """A student that writes these turns."""
    return lambda _, steps: Turn(texts[len(steps)]) if len(steps) < len(texts) else None


def text_of(opening: Opening) -> str:
    return str(opening.conversation[-1]["content"])


def total(steps: Sequence[Step]) -> float:
    return sum(step.reward or 0.0 for step in steps)
