"""TextArena: games that one player plays by text (arXiv 2504.11442). Package: `textarena`.

Games for two or more players are refused. Word games need a word list that their package downloads, so they are refused without
it.
"""

import random
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from random import Random
from typing import Any, ClassVar

from sod.config.plugins import require
from sod.environments.games import GameSetting, MadeRow, Scene, TextGame, in_turn, row
from sod.errors import DataError

GAMES = (
    *(
        "2048",
        "Bandit",
        "Blackjack",
        "Crosswords",
        "FifteenPuzzle",
        "FrozenLake",
        "GuessTheNumber",
        "LightsOut",
        "LogicPuzzle",
    ),
    *("Mastermind", "Minesweeper", "PegJump", "RushHour", "Secretary", "Set", "Sokoban", "Sudoku", "TowerOfHanoi"),
)
"""Games of 0.7.4 for one player that need no download and whose rewards are numbers."""
HARDER = ("", "-medium", "-hard", "-hardcore", "-extreme")
"""Endings of a game's name, from easy to hard. The levels of a game are those of its endings that exist."""


class TextArenaSetting(GameSetting):
    """The setting of a problem of TextArena."""

    game: str
    """Name of a game in TextArena's registry, such as `Mastermind-v0`."""
    game_seed: int | None = None
    """Seed of the game. Default: the seed of the attempt."""


class TextArena(TextGame[TextArenaSetting]):
    """An attempt at a game. Its score is the game's reward at the end, from 0 to 1."""

    setting_type = TextArenaSetting
    _lock: ClassVar[Any] = threading.RLock()
    """The games draw from Python's one random generator, so they run one after another, each with a state of its own."""
    _state: Any = None

    @classmethod
    def start(cls) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        _package()

    def begin(self, setting: TextArenaSetting, seed: int) -> Scene:
        package = _package()
        if setting.game not in package.envs.registration.ENV_REGISTRY:
            raise DataError(
                f"TextArena has no game {setting.game!r}. Games for one player: {', '.join(GAMES)}, each with -v0."
            )
        random_seed = (seed if setting.game_seed is None else setting.game_seed) % 2**31
        self._state = Random(random_seed).getstate()
        with self._own_random():
            try:
                self._game = package.make(setting.game)
                _silence(self._game)
                self._game.reset(num_players=1, seed=random_seed)
            except (AssertionError, ValueError, LookupError, ImportError, SyntaxError) as error:
                first = next(
                    (line.strip() for line in str(error).splitlines() if line.strip(" *")), type(error).__name__
                )
                raise DataError(
                    f"TextArena's game {setting.game} cannot be played alone and offline: {first}"
                ) from error
            if type(self._game.state).__name__ != "SinglePlayerState":
                raise DataError(f"TextArena's game {setting.game} is not for one player.")
            return Scene(self._news())

    def act(self, command: str) -> Scene:
        with self._own_random():
            is_over, _ = self._game.step(command if "[" in command else f"[{command}]")
            news = self._news()
            state = self._game.state
        reward = (state.rewards or {}).get(0, 0.0) if is_over else 0.0
        score = min(1.0, max(0.0, float(reward))) if isinstance(reward, Real) else 0.0
        is_valid = "invalid move" not in news.lower() and not state.game_info[0]["invalid_move"]
        return Scene(news, score, is_over, is_valid)

    def _news(self) -> str:
        """Return what the game has written since the last call."""
        seen = self._game.state.get_current_player_observation()
        return "\n".join(text.strip() for _, text, kind in seen if kind.name != "PLAYER_ACTION") or "The game goes on."

    @contextmanager
    def _own_random(self) -> Iterator[None]:
        with self._lock:
            shared = random.getstate()
            random.setstate(self._state)
            try:
                yield
            finally:
                self._state = random.getstate()
                random.setstate(shared)

    @classmethod
    def make(cls, tasks: Sequence[str], rows: int, seed: int, level: int) -> Iterator[MadeRow]:
        """Yield games with different seeds. A level above a game's hardest is its hardest."""
        known = _package().envs.registration.ENV_REGISTRY
        own = Random(seed)
        for _, task in in_turn(tasks, GAMES, rows, of="textarena"):
            levels = [name for ending in HARDER if (name := f"{task}-v0{ending}") in known]
            game = levels[min(level, len(levels)) - 1]
            game_seed = own.randrange(2**31)
            yield row("textarena", f"{game}-{game_seed}", {"game": game, "game_seed": game_seed}, level)


def _silence(game: Any) -> None:
    """Let the modules of a game print nothing, because several print notes while they make a board."""
    own = ".".join(str(game.entry_point).split(".")[:3])
    for name in [name for name in sys.modules if name.startswith(own)]:
        vars(sys.modules[name])["print"] = lambda *_, **__: None


def _package() -> Any:
    return require("textarena", "textarena", "0.7", what="The environment textarena")
