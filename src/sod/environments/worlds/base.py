"""The common part of the lab's worlds: opening, budget of turns, verdict, problems, and the expert's interface.

A world is drawn from its level and number alone. `SmallWorld.problem` returns the problem of a level and a number.
"""

import random
from abc import abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal, Self

from sod.environments import Environment, Opening, Schema, Step, Turn
from sod.environments.games import WorldSetting, read_setting
from sod.rewards.kinds import ENVIRONMENT_KIND
from sod.types import Observation, Problem, ToolCall, Verdict

LEVELS = (1, 2, 3)
SPARE = 3
"""Turns that an attempt has beyond those of the expert."""


class LabSetting(WorldSetting):
    """The setting of a problem of a small world."""

    level: Literal[1, 2, 3] = 1
    number: int | None = None
    """Number of the problem. Default: the seed of the attempt."""


@dataclass(frozen=True, slots=True)
class Move:
    """A turn: the thought about the next aim, and the action. An answer ends the attempt and calls no tool."""

    thought: str
    action: str
    is_answer: bool = False


@dataclass(frozen=True, slots=True)
class Effect:
    """The world's reaction to an action."""

    text: str
    is_valid: bool = True
    reward: float = 0.0


def invalid(text: str, reward: float = 0.0) -> Effect:
    """Return the effect of an invalid action. It may have consequences, such as a broken object."""
    return Effect(text, is_valid=False, reward=reward)


class SmallWorld(Environment):
    """One attempt in a world. A subclass draws itself, answers actions, judges its state, and contains its expert."""

    NAME: ClassVar[str]
    TOOL: ClassVar[tuple[str, str] | None] = None
    """Name of the only tool and of its only argument. None: a turn is text, and its last line is the action."""
    TOOL_HELP: ClassVar[str] = ""

    level: int
    left: int
    """Turns left."""
    answer: str | None
    """Text of the final answer, in worlds that end with one."""

    # A subclass implements these

    @abstractmethod
    def draw(self, rng: random.Random) -> None:
        """Draw the initial state at the level `self.level`."""

    @property
    @abstractmethod
    def task(self) -> str:
        """The task, one sentence or two."""

    @property
    @abstractmethod
    def gold(self) -> str:
        """The aim or the right answer, for the file of problems."""

    @abstractmethod
    def act(self, action: str) -> Effect:
        """Change the state by an action."""

    @abstractmethod
    def judge(self) -> tuple[bool, str]:
        """Return whether the task is solved, and the reason."""

    @property
    def is_settled(self) -> bool:
        """Whether further actions cannot change the verdict."""
        return False

    def end(self) -> None:
        """Release what the attempt holds."""

    @abstractmethod
    def expert(self) -> Move:
        """Return the best next turn, from what the student can know."""

    @abstractmethod
    def actions(self) -> list[str]:
        """Return plausible actions in this state, right and wrong ones, for slips and for a random player."""

    # The interface of an environment

    async def open(self, problem: Problem, seed: int) -> Opening:
        setting = read_setting(LabSetting, problem)
        return self.begin(setting.level, seed if setting.number is None else setting.number)

    async def step(self, turn: Turn) -> Step:
        return self.play(turn)

    async def verdict(self, text: str) -> Verdict:
        del text  # `play` has read it
        return self.decide()

    async def close(self) -> None:
        self.end()

    # The same without `async`, for the expert

    def begin(self, level: int, number: int) -> Opening:
        """Draw the world. `level`: 1 to 3. Level and number determine everything."""
        self.level = level
        self.answer = None
        self.draw(random.Random(f"{self.NAME}/{self.level}/{number}"))
        self.left = turns_of_expert(type(self), self.level, number) + SPARE
        return Opening(f"{self.task} {self.left} turns.", self.schemas())

    def play(self, turn: Turn) -> Step:
        """Answer a turn."""
        if self.TOOL is None:
            lines = turn.text.strip().splitlines() or [""]
            return self._step([lines[-1].strip()])
        if not turn.calls:
            self.answer = turn.text
            self.left -= 1
            return Step(is_over=True, reward=float(self.judge()[0]))
        return self._step([str(call.arguments.get(self.TOOL[1], "")).strip() for call in turn.calls])

    def decide(self) -> Verdict:
        """Return the verdict on the present state."""
        is_right, reason = self.judge()
        if not is_right and self.left <= 0 and not self.is_settled:
            reason = f"no turns left; {reason}"
        return Verdict(outcome="right" if is_right else "wrong", answer=self.gold if is_right else None, reason=reason)

    def _step(self, actions: list[str]) -> Step:
        """Carry out the actions of a turn. Those after the end of the attempt have no effect."""
        effects: list[Effect] = []
        for action in actions:
            is_over = self.left <= 0 or self.is_settled
            effects.append(invalid("the attempt is over.") if is_over else self.act(action))
            self.left -= 1
        return Step(
            [Observation(text=effect.text, outcome="ok" if effect.is_valid else "error") for effect in effects],
            is_over=self.left <= 0 or self.is_settled,
            reward=sum(effect.reward for effect in effects),
        )

    @classmethod
    def schemas(cls) -> list[Schema]:
        """Return the schema of the tool; empty if turns are text."""
        if cls.TOOL is None:
            return []
        name, argument = cls.TOOL
        parameters = {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}
        function = {"name": name, "description": cls.TOOL_HELP, "parameters": parameters}
        return [{"type": "function", "function": function}]

    # Problems

    @classmethod
    def opened(cls, level: int, number: int) -> Self:
        """Return the world of a level and a number, ready for the first turn."""
        world = cls()
        world.begin(level, number)
        return world

    @classmethod
    def problem(cls, level: int, number: int, id: str = "") -> Problem:
        """Return the problem of a level and a number."""
        world = cls()
        opening = world.begin(level, number)
        world.end()
        return Problem(
            id=id or f"{cls.NAME}-{level}-{number}",
            messages=opening.conversation,
            answer=world.gold,
            kind=ENVIRONMENT_KIND,
            labels={"level": str(level)},
            environment=cls.NAME,
            setting={"level": level, "number": number},
        )


@lru_cache(maxsize=4096)
def turns_of_expert(kind: type[SmallWorld], level: int, number: int) -> int:
    """Return the number of turns in which the expert solves the task."""
    world = kind()
    world.level, world.left, world.answer = level, 100, None
    world.draw(random.Random(f"{kind.NAME}/{level}/{number}"))
    turns = 0
    is_over = False
    while not is_over:
        is_over = world.play(turn_of(world.expert(), kind)).is_over
        turns += 1
    world.end()
    return turns


def turn_of(move: Move, kind: type[SmallWorld]) -> Turn:
    """Return a move as a turn, as the rollout passes it to the environment."""
    if kind.TOOL is None:
        return Turn(f"{move.thought}\n{move.action}")
    if move.is_answer:
        return Turn(move.action)
    name, argument = kind.TOOL
    return Turn(move.thought, (ToolCall(name=name, arguments={argument: move.action}),))
