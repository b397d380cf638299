"""Compare methods x seeds on equal terms: the same student, problems and budget, and a control.

    compare.json                        options that all runs share
    tuning/METHOD/lr-RATE/              runs to choose a learning rate, if `lrs` is given
    cells/METHOD/seed-N/train, eval     ordinary runs of `sod train` and `sod eval`
    start/  teacher/                    evaluations of the untrained student and of the teacher
    results.json  table.md              the results

Every cell is a pair of commands in processes of their own. When the command is repeated, finished runs are skipped and
interrupted ones are resumed. Failed runs are reported, left out of the table, and tried again the next time.
"""

import math
import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sod.compare.jobs import Commands, timed
from sod.compare.parts import TUNING_SEED, ComparisonParts
from sod.compare.table import (
    Measured,
    Method,
    MethodRow,
    check_same_problems,
    read_measured,
    table_markdown,
    table_rows,
    told_apart,
)
from sod.config import CompareOptions, ReportOptions, TrainOptions
from sod.config.recipes import over
from sod.console.progress import echo, warn
from sod.errors import DataError, RunError, SodError, TrainingError
from sod.evaluation.results import read_evaluation
from sod.lab.presets import Setting
from sod.processes.concurrency import run_concurrently
from sod.report import report
from sod.runs.alarms import cold_start
from sod.runs.directory import Run
from sod.runs.files import write_json, write_whole


class Comparison(ComparisonParts):
    """A comparison: the progress of its runs, and their results."""

    def __init__(self, options: CompareOptions, setting: Setting, out: Path, commands: Commands | None = None):
        super().__init__(options, setting, out)
        self._commands = commands or Commands(options.jobs)
        self._finished = 0

    # Running

    async def run(self, is_wanted: Callable[[str, int | None], bool] = lambda _name, _seed: True) -> dict[str, str]:
        """Run the missing parts. -> name of each failed run: its error

        `is_wanted` selects cells by method and seed, and untrained models by their name and None.
        """
        failed: dict[str, str] = {}

        async def attempt(name: str, work: Any) -> None:
            try:
                await work
            except (SodError, OSError) as error:
                failed[name] = str(error)
                echo(f"{name} failed: {error}")

        async def method(method: Method) -> None:
            seeds = [seed for seed in self.options.seeds if is_wanted(method.name, seed)]
            if not seeds:
                return
            try:
                lr = await self._learning_rate(method)
            except SodError as error:
                failed[f"{method.name}, tuning"] = str(error)
                return
            await run_concurrently(
                attempt(f"{method.name}, seed {seed}", self._cell(method, seed, lr)) for seed in seeds
            )

        async def known(name: str, model: Path) -> None:
            async with self._commands.slot:
                await self._evaluate(model, self.out / name, {})

        models = {name: model for name, model in self.untrained().items() if is_wanted(name, None)}
        await run_concurrently(
            [*(attempt(name, known(name, model)) for name, model in models.items()), *map(method, self.methods)]
        )
        return failed

    async def _learning_rate(self, method: Method) -> float | None:
        """Return the rate of `lrs` with the best solve rate on the tuning problems. None: use the recipe's."""
        runs = self.tunings(method)
        if not runs:
            return None
        budget = {"updates": self.options.tune_updates}
        found = await run_concurrently(
            self._solved(method, TUNING_SEED, lr, folder, budget, {"data": self.tune}) for lr, folder in runs.items()
        )
        solved = dict(zip(runs, found, strict=True))
        return min(solved, key=lambda lr: (-solved[lr], lr))  # the smaller rate if two are equal

    async def _solved(
        self,
        method: Method,
        seed: int,
        lr: float | None,
        folder: Path,
        budget: dict[str, Any],
        problems: dict[str, Any],
    ) -> float:
        """Train and evaluate, unless that is already done. -> the solve rate"""
        async with self._commands.slot:
            with timed(folder):
                model = await self._learn(method, seed, lr, folder / "train", budget)
                await self._evaluate(model, folder / "eval", problems)
        return read_evaluation(folder / "eval").mean.get("avg", math.nan)

    async def _cell(self, method: Method, seed: int, lr: float | None) -> None:
        solved = await self._solved(method, seed, lr, self.cell_folder(method, seed), {}, {})
        self._finished += 1
        runs = len(self.methods) * len(self.options.seeds)
        self.show_cell(method, seed, f"measured: {solved:.1%} solved; {self._finished} of {runs} runs done")

    def show_cell(self, method: Method, seed: int, text: str) -> None:
        """Print that a cell is done."""
        echo(f"{method.name} {seed} | {text}")

    async def _learn(self, method: Method, seed: int, lr: float | None, folder: Path, budget: dict[str, Any]) -> Path:
        """Train, or resume training. -> the folder of the model"""
        recipe = over(self.recipe(method, seed, folder) | budget, {"learn": {} if lr is None else {"lr": lr}})
        updates = int(recipe.get("updates", TrainOptions.model_fields["updates"].default))
        run = Run(folder)
        if (run.newest_checkpoint() or (-1,))[0] < updates:
            recipe["resume"] = run.begun
            shown = f"{method.name} {seed if seed != TUNING_SEED else f'lr {lr:g}'}"
            await self._commands.run("train", folder.with_suffix(".toml"), recipe, name=shown)
        newest = run.newest_checkpoint()
        if newest is None or newest[0] < updates:
            raise TrainingError(f"{folder} has {newest[0] if newest else 0} of {updates} updates.")
        return newest[1]

    async def _evaluate(self, model: Path, folder: Path, other: dict[str, Any]) -> None:
        """Evaluate, or continue an evaluation."""
        with suppress(DataError):
            read_evaluation(folder)
            return
        content = self.measure | {"model": model, "out": folder} | other
        await self._commands.run("eval", folder.with_suffix(".toml"), content)

    # Results

    def rows(self) -> tuple[list[MethodRow], dict[str, str]]:
        """Write the results. -> their rows, and the reason for each part that cannot be read

        The rows are the untrained student, the teacher, and each method with a finished run.
        """
        damaged: dict[str, str] = {}
        runs: dict[Method, dict[int, Measured]] = {}
        for method in self.methods:
            for seed, folder in self.cells(method).items():
                try:
                    runs.setdefault(method, {})[seed] = read_measured(folder / "eval", folder / "train")
                except DataError as error:
                    if (folder / "eval").exists():
                        damaged[f"{method.name}, seed {seed}"] = str(error)
        known: dict[str, Measured] = {}
        for name in ("start", "teacher"):
            try:
                known[name] = read_measured(self.out / name)
            except DataError as error:
                if (self.out / name).exists():
                    damaged[name] = str(error)
        check_same_problems([*known.values(), *(m for seeds in runs.values() for m in seeds.values())])
        made = table_rows(runs, known, self.baseline)
        content = {
            "baseline": self.baseline.name,
            "seeds": self.options.seeds,
            "rows": [row.to_json() for row in made],
        }
        write_json(self.out / "results.json", content)
        write_whole(self.out / "table.md", table_markdown(made) + "\n\n" + "\n".join(self.notes(made)) + "\n")
        return made, damaged

    def hopeless(self) -> str:
        """Return a warning if the untrained student solves no problem, else ""."""
        try:
            start = read_evaluation(self.out / "start")
        except DataError:
            return ""
        return cold_start(start.mean.get("avg", math.nan))

    def conclude(self) -> None:
        """Write report.html of the finished runs. Print the paths of the results and the next commands."""
        cells = [folder for method in self.methods for folder in self.cells(method).values()]
        trained = tuple(cell / "train" for cell in cells if (cell / "eval" / "results.json").exists())
        echo(f"table: {self.out / 'table.md'}; every run is in {self.out}")
        if trained:
            page = self.out / "report.html"
            try:
                report(ReportOptions(runs=trained, out=page))
            except RunError as error:
                warn(f"The page {page} was not written: {error}")
            echo(f"next: sod report {shlex.quote(str(trained[0]))} for a page about a single run")
        echo("next, with your own data: sod train --student MODEL --teacher MODEL --data PROBLEMS.jsonl --out RUN")

    def notes(self, made: Sequence[MethodRow]) -> list[str]:
        """Return the lines below the table: how to read the intervals and differences."""
        seeds = len(self.options.seeds)
        lines = [
            f"Intervals: 95 %, over problems and {seeds} training seeds (Student's t). "
            if seeds > 1
            else "Intervals: 95 %, over problems, for this one seed. They do not include variation between seeds. "
        ]
        lines[0] += (
            f"Differences: against {self.baseline.name}, paired by problem and seed, not corrected for multiple comparisons."
        )
        lines += told_apart(made, self.baseline.name)
        if not any(row.method == "sham" for row in made):
            lines.append(
                "No control was run, so part of every gain may not be caused by the method. Add it with --control."
            )
        return lines
