"""ScienceWorld: experiments of primary-school science in a simulated house (arXiv 2203.07540). Package: `scienceworld`; Java.

One Java process runs one attempt at a time, because the simulator keeps its state in static variables. Processes are reused;
each holds about 0.3 GB.
"""

import logging
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from random import Random
from typing import Any, ClassVar

from sod.config.plugins import require
from sod.environments.games import GameSetting, MadeRow, Scene, TextGame, in_turn, row
from sod.errors import DataError, OptionError

JAVA = "-XX:+UnlockExperimentalVMOptions -XX:hashCode=2 -XX:+UseSerialGC -Xmx512m"
"""Options of the Java runtime. hashCode=2: the order of objects in a room does not change from episode to episode."""
SPLITS = ("train", "dev", "test")
UNKNOWN = ("No known action", "Unknown action", "Ambiguous request")
"""Beginnings of answers to commands that were not carried out."""


class ScienceWorldSetting(GameSetting):
    """The setting of a problem of ScienceWorld."""

    task: str
    """Name of one of its 30 tasks, such as `boil`."""
    variation: int | None = None
    """Number of the variation of the task. Default: chosen by the seed from the training variations."""
    simplifications: str = ""
    """Simplifications of ScienceWorld, separated by commas; `easy` is all of them."""


class ScienceWorld(TextGame[ScienceWorldSetting]):
    """An attempt at a task of ScienceWorld. Its score is a share of the task's subgoals; a fatal mistake ends it at 0."""

    setting_type = ScienceWorldSetting
    rules = (
        "You are in a simulated house. Commands: open/close/activate/deactivate/use/read/look at/look in/pick up/put down/eat/"
        "flush OBJ, use OBJ on OBJ, move OBJ to OBJ, pour OBJ into OBJ, dunk OBJ into OBJ, mix OBJ, connect OBJ to OBJ, "
        "disconnect OBJ, go to PLACE, focus on OBJ, look around, inventory, wait, task."
    )
    _idle: ClassVar[list[Any]] = []
    _lock = threading.Lock()
    _simulator: Any = None
    _is_sound = False

    @classmethod
    def start(cls) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Start one process, so that a missing package or Java runtime is an error before the first attempt."""
        cls._idle.append(_launch())

    @classmethod
    def stop(cls) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        while cls._idle:
            _end(cls._idle.pop())

    def begin(self, setting: ScienceWorldSetting, seed: int) -> Scene:
        with suppress(IndexError):
            self._simulator = self._idle.pop()
        self._simulator = self._simulator or _launch()
        self._shows, variation = setting.commands, setting.variation
        count = self._simulator.get_max_variations(setting.task) if setting.task in tasks(self._simulator) else 0
        if not count or not 0 <= (variation or 0) < count:
            self._is_sound = True
            raise DataError(
                f"ScienceWorld has no variation {variation} of the task {setting.task!r}. "
                + (f"Give 0 to {count - 1}." if count else f"Tasks: {', '.join(tasks(self._simulator))}.")
            )
        if variation is None:
            self._simulator.load(setting.task, 0, "")
            variation = Random(seed).choice(self._simulator.get_variations_train())
        try:
            self._simulator.load(setting.task, variation, setting.simplifications)
        except ValueError as error:
            self._is_sound = True
            raise DataError(f"ScienceWorld has no such setting.simplifications. {error}") from error
        self._simulator.server.reset()
        goal = self._simulator.get_task_description()
        scene = self.act("look around")
        return Scene(f"{goal}\n\n{scene.text}", scene.score, scene.is_over, commands=scene.commands)

    def act(self, command: str) -> Scene:
        self._is_sound = False  # an exception or a time-out leaves it so
        server = (
            self._simulator.server
        )  # `step` of the package lists every possible command, which takes 30 times as long
        text = str(server.step(command))
        score = float(server.getScore())
        is_over = bool(server.getCompleted()) or score < 0
        commands = self._simulator.get_valid_action_object_combinations() if self._shows else ()
        self._is_sound = True
        return Scene(text, max(0.0, score), is_over, not text.startswith(UNKNOWN), sorted(commands))

    def close(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        simulator, self._simulator = self._simulator, None
        if simulator is not None:
            self._idle.append(simulator) if self._is_sound else _end(simulator)

    @classmethod
    def make(cls, tasks: Sequence[str], rows: int, seed: int, level: int) -> Iterator[MadeRow]:
        """Yield variations of the training split. Level 1: with all simplifications. 2 and higher: without."""
        simulator = _launch()
        try:
            random, simple = Random(seed), "easy" if level < 2 else ""
            for number, task in in_turn(tasks, simulator.get_task_names(), rows, of="scienceworld"):
                simulator.load(task, 0, "")
                variation = random.choice(simulator.get_variations_train())
                setting = {"task": task, "variation": variation, "simplifications": simple}
                yield row("scienceworld", f"{task}-{variation}-{number}", setting, level)
        finally:
            _end(simulator)


def tasks(simulator: Any) -> list[str]:
    return list(simulator.get_task_names())


def _launch() -> Any:
    """Start a simulator in a Java process. Raises OptionError without the package or Java."""
    package = require("scienceworld", "scienceworld", "1.2", what="The environment scienceworld")
    if shutil.which("java") is None:
        raise OptionError(
            "The environment scienceworld needs Java, but there is no `java`. Install default-jre-headless."
        )
    with ScienceWorld._lock:  # the process inherits the options from the environment variables
        before = os.environ.get("JDK_JAVA_OPTIONS")
        os.environ["JDK_JAVA_OPTIONS"] = JAVA if before is None else f"{JAVA} {before}"
        try:
            return package.ScienceWorldEnv("")
        finally:
            os.environ.pop("JDK_JAVA_OPTIONS")
            if before is not None:
                os.environ["JDK_JAVA_OPTIONS"] = before


def _end(simulator: Any) -> None:
    logging.getLogger("py4j").setLevel(logging.CRITICAL)  # it reports every closed connection as an error
    process = simulator._gateway.java_process
    process.kill()
    with suppress(Exception):
        simulator.close()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
    simulator._obj_tree_tempdir.cleanup()
