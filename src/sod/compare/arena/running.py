"""Run one world of an arena: the rounds of screening, the finals, and the results."""

import asyncio
import math
import time
from collections.abc import Callable, Coroutine
from typing import Any

from sod.compare.arena.plan import Cell, Shard, seconds_of_cell, survivors, tied, units
from sod.compare.arena.results import Finals, check_same_models, noise_among, rates_of, save_finals
from sod.compare.arena.world import ArenaStage, ArenaWorld, is_evaluated
from sod.compare.jobs import Commands, cell_seconds
from sod.compare.table import read_measured
from sod.console.progress import echo, warn
from sod.errors import TrainingError, UnfinishedError
from sod.evaluation.significance import Noise
from sod.lab.make import make_folder
from sod.processes.concurrency import Runner, run_concurrently

NAMED = 3
"""Number of missing cells that a message names."""


class OutOfTime(UnfinishedError):
    """The time of --hours is over."""


class TimeLimit:
    """The time that --hours gives to a call."""

    def __init__(self, hours: float | None):
        self._end = math.inf if hours is None else time.monotonic() + 3600 * hours

    @property
    def left(self) -> float:
        """Seconds that are left; infinite without a limit."""
        return max(0.0, self._end - time.monotonic())

    async def limited(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run the work. At the end of the time, cancel it, wait until it has saved its state, and raise TimeoutError."""
        async with asyncio.timeout(None if math.isinf(self.left) else self.left):
            return await work


class WorldRun:
    """One call's work on a world."""

    def __init__(self, world: ArenaWorld, shard: Shard, clock: TimeLimit, commands: Callable[[], Commands]):
        """`commands` creates the pool of processes of a stage."""
        self._world, self._shard, self._clock, self._commands = world, shard, clock, commands
        self._measured: list[tuple[int, float]] = []

    def run(self) -> None:
        """Do this shard's part of every stage, until cells of other shards are missing. After the finals, write the results.

        Raise TrainingError if a cell failed, OutOfTime, or UnfinishedError if cells of other shards are missing.
        """
        world = self._world
        world.check_problems()
        systems, noise = world.candidates, None
        history: list[dict[str, Any]] = []
        for each in world.rounds:
            stage = world.screening(each, systems)
            self._do(stage)
            measured = stage.measured()
            rates = rates_of(measured)
            kept = survivors(rates, each.kept)
            if equal := tied(rates, each.kept):
                warn(f"{world.name}, {each.name}: {', '.join(equal)} have equal solve rates; only their order decided.")
            noise = noise_among([measured[name] for name in kept]) or noise
            history.append({"updates": each.updates, "seeds": each.seeds, "rates": rates, "kept": kept})
            echo(f"{world.name}, {each.name}: kept {', '.join(kept)}")
            systems = kept
        if noise is not None:
            echo(world.power(noise))
        stage = world.final([*world.always, *systems])
        self._do(stage)
        self._conclude(stage, history, noise)

    def _conclude(self, stage: ArenaStage, history: list[dict[str, Any]], noise: Noise | None) -> None:
        world = self._world
        for start, comparison in stage.comparisons.items():
            comparison.rows()
            if warning := comparison.hopeless():
                warn(f"{world.name}, {start}: {warning}")
        untrained = {
            start: {name: read_measured(comparison.out / name) for name in comparison.untrained()}
            for start, comparison in stage.comparisons.items()
        }
        plan = world.plan | {"rounds": history, "power": world.power(noise)}
        save_finals(Finals(world.name, stage.out.parent, world.baseline, stage.measured(), untrained, plan))

    def _do(self, stage: ArenaStage) -> None:
        """Run what this shard has of a stage. Raise an error unless all of its cells are then done, in all shards."""
        name = f"{self._world.name}, {stage.name}"
        whole = [[(cell.start, cell.system, cell.seed) for cell in unit] for unit in units(stage.name, stage.cells)]
        whole += [[(start, model, None)] for start, model in stage.untrained]
        mine = {each for unit in self._shard.share(whole) for each in unit}
        own = [cell for cell in stage.cells if (cell.start, cell.system, cell.seed) in mine]
        shown = self._show_time(name, stage, own, is_shown=False)

        def done() -> None:
            nonlocal shown
            shown = self._show_time(name, stage, own, is_shown=shown)

        commands = self._commands()
        for comparison in stage.comparisons.values():
            comparison.use(commands, done)
            make_folder(comparison.out)
            comparison.keep_plan()

        async def work() -> list[dict[str, str]]:
            return await run_concurrently(
                comparison.run(lambda system, seed, start=start: (start, system, seed) in mine)
                for start, comparison in stage.comparisons.items()
            )

        try:
            with Runner() as loop:
                found = loop.run(self._clock.limited(work()))
        except TimeoutError as error:
            total, left = len(stage.cells) + len(stage.untrained), len(stage.left)
            raise OutOfTime(
                f"The time of --hours is over. {name} has {total - left} of {total} cells. Every run is saved. Run the same "
                "command again to continue."
            ) from error
        failed = {
            f"{start}, {run}": why
            for start, of_start in zip(stage.comparisons, found, strict=True)
            for run, why in of_start.items()
        }
        if failed:
            raise TrainingError(
                f"{name}: {len(failed)} runs failed. Repeat the command to try them again, or leave their systems out with "
                "--methods:\n" + "\n".join(f"  {run}: {why}" for run, why in failed.items())
            )
        if left := stage.left:
            more = f" and {len(left) - NAMED} more" if len(left) > NAMED else ""
            raise UnfinishedError(
                f"{name}: the part of shard {self._shard.number}/{self._shard.count} is done. {len(left)} cells of other shards "
                f"are missing: {', '.join(left[:NAMED])}{more}. Copy the directories of all shards into one and run the command "
                "again."
            )
        for start in stage.comparisons:
            check_same_models(start, [stage.folder(cell) for cell in stage.cells if cell.start == start])

    def _show_time(self, name: str, stage: ArenaStage, own: list[Cell], *, is_shown: bool) -> bool:
        """Print how many cells are left and how long they take, once that can be estimated. -> whether it was printed"""
        if is_shown:
            return True
        left = [cell for cell in own if not is_evaluated(stage.folder(cell) / "eval")]
        finished = [cell for cell in own if cell not in left]
        of_stage = [(cell.updates, seconds) for cell in finished if (seconds := cell_seconds(stage.folder(cell)))]
        self._measured = of_stage or self._measured
        head = f"{name}: {len(stage.cells)} cells, {len(own)} of them in this shard, {len(left)} left"
        if not left:
            echo(head)
            return True
        one = seconds_of_cell(self._measured, left[0].updates)
        if one is None:
            echo(f"{head}; their time is shown after the first")
            return False
        jobs = self._commands().jobs
        tunings = self._world.tunings(stage, left)
        whole = (len(left) * one + tunings * (seconds_of_cell(self._measured, self._world.tune_updates) or 0)) / jobs
        text = f"{head}; {one:.0f} s for a cell, about {whole / 3600:.1f} h for all with {jobs} at the same time"
        if not math.isinf(self._clock.left):
            fit = min(len(left), int(len(left) * self._clock.left / whole))
            text += f"; about {fit} fit into the {self._clock.left / 3600:.1f} h that are left"
        echo(text)
        return True
