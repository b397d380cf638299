"""Gymnasium environments with text or a small number of actions. Package: `gymnasium`.

Observations may be of the spaces Text, Discrete, MultiDiscrete, Tuple and Dict of these; actions Text or Discrete. A Discrete
action is written as its number, or as its name in `actions`.
"""

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from pydantic import Field, ValidationInfo, field_validator

from sod.config.plugins import require
from sod.environments.games import GameSetting, MadeRow, Scene, TextGame, in_turn, row
from sod.errors import DataError

GAMES = {
    "FrozenLake-v1": (
        ("left", "down", "right", "up"),
        "Cross a frozen lake of 4 x 4 fields, numbered by rows from 0 (start) to 15 (goal), without falling into a hole.",
    ),
    "Blackjack-v1": (
        ("stick", "hit"),
        "Blackjack. You see: your sum, the dealer's card, whether you have a usable ace (1).",
    ),
    "CliffWalking-v1": (
        ("up", "right", "down", "left"),
        "Walk from field 36 to field 47 of a grid of 4 x 12 fields. Fields 37 to 46 are a cliff.",
    ),
    "Taxi-v4": (
        ("south", "north", "east", "west", "pick up", "drop off"),
        "Drive a taxi on a 5 x 5 grid. The state is ((row * 5 + column) * 5 + passenger) * 4 + destination.",
    ),
}
"""Toy games of Gymnasium that `sod data make` writes: names of their actions, and their text."""


class GymnasiumSetting(GameSetting):
    """The setting of a problem of Gymnasium."""

    id: str
    """Id of the environment, such as FrozenLake-v1, or MODULE:ID of an installed package that registers it."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Arguments of `gymnasium.make`."""
    actions: list[str] = Field(default_factory=list)
    """Names of the actions of a Discrete space, in order. Default: their numbers."""
    text: str = ""
    """What the student reads about the task."""
    game_seed: int | None = None
    """Seed of `reset`. Default: the seed of the attempt."""
    lowest: float = Field(default=0.0, allow_inf_nan=False)
    """Sum of the rewards that is the score 0. Below 0, the score counts at the end only, because it begins above 0."""
    highest: float = Field(default=1.0, allow_inf_nan=False, validate_default=True)
    """Sum of the rewards that is the score 1, the full score."""

    @field_validator("highest")
    @classmethod
    def _above_lowest(cls, highest: float, info: ValidationInfo) -> float:
        lowest = info.data.get("lowest", highest - 1)
        if highest <= lowest:
            raise ValueError(f"must be above lowest, {lowest:g}, because the score is a share of their difference")
        return highest


class Gymnasium(TextGame[GymnasiumSetting]):
    """An attempt in an environment of Gymnasium. Its score is the sum of the rewards, scaled."""

    setting_type = GymnasiumSetting
    _world: Any = None

    def begin(self, setting: GymnasiumSetting, seed: int) -> Scene:
        package = _package()
        self._setting = setting
        try:
            self._world = package.make(setting.id, **setting.arguments)
        except (package.error.Error, TypeError, ModuleNotFoundError) as error:
            raise DataError(f"Gymnasium cannot make {setting.id!r} with {setting.arguments}: {error}") from error
        spaces = package.spaces
        actions, self._is_text = self._world.action_space, isinstance(self._world.action_space, spaces.Text)
        if not isinstance(actions, spaces.Text | spaces.Discrete):
            raise DataError(f"the actions of {setting.id} are {actions}; only Text and Discrete can be played by text.")
        _check(self._world.observation_space, spaces, setting.id)
        count = 0 if self._is_text else int(actions.n)
        first = 0 if self._is_text else int(actions.start)
        names = [name.lower() for name in setting.actions] or [str(first + number) for number in range(count)]
        if len(names) != count and not self._is_text:
            raise DataError(f"{setting.id} has {count} actions, but setting.actions has {len(names)}.")
        self._numbers = dict(zip(names, range(first, first + count), strict=False))
        observed, _ = self._world.reset(seed=(seed if setting.game_seed is None else setting.game_seed) % 2**31)
        self._sum = 0.0
        actions_text = "" if self._is_text else f"\n\nActions: {', '.join(names)}."
        return Scene(f"{setting.text}{actions_text}\n\n{observed_text(observed)}", self._score(is_over=False))

    def act(self, command: str) -> Scene:
        action = command if self._is_text else self._numbers.get(command.lower())
        if action is None or not self._world.action_space.contains(action):
            return Scene(f"{command!r} is not an action.", self._score(is_over=False), is_valid=False)
        observed, reward, terminated, truncated, _ = self._world.step(action)
        self._sum += float(reward)
        is_over = bool(terminated or truncated)
        return Scene(observed_text(observed), self._score(is_over=is_over), is_over)

    def close(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self._world is not None:
            self._world.close()

    def _score(self, *, is_over: bool) -> float:
        span = self._setting.highest - self._setting.lowest
        if self._setting.lowest < 0 and not is_over:
            return 0.0
        return min(1.0, max(0.0, (self._sum - self._setting.lowest) / span))

    @classmethod
    def make(cls, tasks: Sequence[str], rows: int, seed: int, level: int) -> Iterator[MadeRow]:
        """Yield toy games with different seeds. `level`: FrozenLake is slippery from level 2 on; others have no levels."""
        _package()
        own = Random(seed)
        scales = {"Blackjack-v1": (-1.0, 1.0), "CliffWalking-v1": (-100.0, -13.0), "Taxi-v4": (-100.0, 0.0)}
        for _, task in in_turn(tasks, GAMES, rows, of="gymnasium"):
            names, text = GAMES[task]
            setting = {"id": task, "actions": list(names), "text": text, "game_seed": own.randrange(2**31)}
            if task == "FrozenLake-v1":
                setting["arguments"] = {"is_slippery": level > 1}
            if task in scales:
                setting["lowest"], setting["highest"] = scales[task]
            yield row("gymnasium", f"{task}-{setting['game_seed']}", setting, level)


def observed_text(observed: Any) -> str:
    """Return an observation as text."""
    if isinstance(observed, dict):
        return ", ".join(f"{name}: {observed_text(value)}" for name, value in observed.items())
    if isinstance(observed, tuple):
        return ", ".join(map(observed_text, observed))
    return str(observed.tolist() if hasattr(observed, "tolist") else observed)


def _check(space: Any, spaces: Any, name: str) -> None:
    """Raise DataError for an observation that cannot be shown as text."""
    parts = list(space.spaces.values()) if isinstance(space, spaces.Dict) else getattr(space, "spaces", None)
    if parts is not None:
        for part in parts:
            _check(part, spaces, name)
    elif not isinstance(space, spaces.Text | spaces.Discrete | spaces.MultiDiscrete):
        raise DataError(f"{name} shows {space}; only Text, Discrete and MultiDiscrete can be shown as text.")


def _package() -> Any:
    return require("gymnasium", "gymnasium", "1.0", what="The environment gymnasium")
