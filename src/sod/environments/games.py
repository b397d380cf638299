"""Base class of the adapters of text games: the student types one command a turn, and reads the game's answer.

A subclass starts a game and carries out commands. Prompt, rewards, limits and verdict are the same for all games: the reward of
a turn is the change of the score, and an attempt is right if it reaches the full score.
"""

import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from sod.config.base import first_fault
from sod.environments import Environment, Opening, Step, Turn
from sod.errors import DataError, OptionError
from sod.types import Message, Problem, Verdict

MadeRow = dict[str, Any]
_LABEL = re.compile(r"^(?:(?:action|command)\s*:|>)\s*", re.IGNORECASE)


class WorldSetting(BaseModel):
    """The column `setting` of a problem. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class GameSetting(WorldSetting):
    """Keys that all text games have."""

    commands: bool = False
    """Whether each text ends with the list of commands that are possible now."""
    turns: int = 50
    """Number of turns after which the attempt ends."""


S = TypeVar("S", bound=WorldSetting)
G = TypeVar("G", bound=GameSetting)


class RowMaker(Protocol):
    """An environment that can write problems, for `sod data make`."""

    @classmethod
    def make(cls, tasks: Sequence[str], rows: int, seed: int, level: int) -> Iterator[MadeRow]:
        """Yield rows of the given tasks in turn; without tasks, of the environment's default tasks."""
        ...


@dataclass(frozen=True, slots=True)
class Scene:
    """The state of a game after a command, as far as the student and the rewards need it."""

    text: str
    score: float = 0.0
    """Share of the full score that is reached, from 0 to 1."""
    is_over: bool = False
    is_valid: bool = True
    """False if the game did not understand the command, or refused it."""
    commands: Sequence[str] = ()
    """Commands that are possible now; empty if the setting does not ask for them."""


class TextGame(Environment, Generic[G]):
    """A text game. Its methods are plain functions, because the games' packages block; they run in threads."""

    setting_type: ClassVar[type[GameSetting]] = GameSetting
    rules: ClassVar[str] = ""
    """The beginning of the first message, about this game."""

    @abstractmethod
    def begin(self, setting: G, seed: int) -> Scene:
        """Start the game. The same setting and seed start the same game."""

    @abstractmethod
    def act(self, command: str) -> Scene:
        """Carry out a command of one line, which may be empty."""

    def open(self, problem: Problem, seed: int) -> Opening:  # pyright: ignore[reportIncompatibleMethodOverride]
        setting: Any = read_setting(self.setting_type, problem)
        self._left, self._scene = setting.turns, self.begin(setting, seed)
        rules = f"{self.rules} Reply with one command; only the last line of your reply is read.".strip()
        return Opening([*instructions(problem), {"role": "user", "content": f"{rules}\n\n{scene_text(self._scene)}"}])

    def step(self, turn: Turn) -> Step:  # pyright: ignore[reportIncompatibleMethodOverride]
        before, self._scene = self._scene, self.act(command_in(turn.text))
        self._left -= 1
        return Step(
            scene_text(self._scene),
            is_over=self._scene.is_over or self._left <= 0,
            reward=self._scene.score - before.score,
            outcome="ok" if self._scene.is_valid else "error",
        )

    def verdict(self, text: str) -> Verdict:  # pyright: ignore[reportIncompatibleMethodOverride]
        del text
        return scored(self._scene.score)


def scored(score: float) -> Verdict:
    """Return right for the full score, which is 1."""
    return Verdict(outcome="right" if score >= 1 else "wrong", reason=f"score {score:.3g} of 1")


def scene_text(scene: Scene) -> str:
    """Return the text of a scene, with the possible commands if there are any."""
    commands = f"\n\nPossible commands: {', '.join(scene.commands)}" if scene.commands else ""
    return scene.text.strip() + commands


def command_in(text: str) -> str:
    """Return the command of a turn: its last line, without "Action:", ">" or quotation marks.

    Example:
        >>> command_in("I need a light.\\nAction: take lamp")
        'take lamp'
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _LABEL.sub("", lines[-1]).strip(" `\"'*") if lines else ""


def instructions(problem: Problem) -> list[Message]:
    """Return the system messages of a problem. They stand before the environment's own messages."""
    return [message for message in problem.messages if message["role"] == "system"]


def read_setting(kind: type[S], problem: Problem) -> S:
    """Return the setting of a problem. Raises DataError for an unknown key, a missing key or a wrong type."""
    try:
        return kind.model_validate(dict(problem.setting))
    except ValidationError as error:
        raise DataError(
            f"problem {problem.id!r}: setting.{first_fault(error)}. The keys are {', '.join(kind.model_fields)}."
        ) from error


def in_turn(tasks: Sequence[str], known: Iterable[str], rows: int, *, of: str) -> Iterator[tuple[int, str]]:
    """Yield the number of each row and its task, task after task. Raises OptionError for an unknown task."""
    names = list(known)
    for task in tasks:
        if task not in names:
            raise OptionError(f"{task!r} is not a task of {of}. Tasks: {', '.join(names)}.")
    chosen = list(tasks) or names
    yield from ((number, chosen[number % len(chosen)]) for number in range(rows))


def row(environment: str, name: str, setting: Mapping[str, Any], level: int) -> MadeRow:
    """Return a problem of an environment. It needs no prompt and no answer of its own."""
    return {"id": name, "environment": environment, "setting": dict(setting), "level": str(level)}
