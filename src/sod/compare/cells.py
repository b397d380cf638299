"""Compare methods x seeds on equal terms: the same student, problems and budget, and a control.

    compare.json                        options that all runs share
    tuning/METHOD/lr-RATE/              runs to choose a learning rate, if `lrs` is given
    cells/METHOD/seed-N/train, eval     ordinary runs of `sod train` and `sod eval`
    start/  teacher/                    evaluations of the untrained student and of the teacher
    results.json  table.md              the results

Every cell is a pair of commands in processes of their own. When the command is repeated, finished runs are skipped and
interrupted ones are resumed. Failed runs are reported, left out of the table, and tried again the next time.
"""

import asyncio
import json
import math
import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sod.algorithms import find
from sod.compare.jobs import Commands
from sod.compare.table import (
    Measured,
    Method,
    MethodRow,
    check_same_problems,
    read_measured,
    show_table,
    table_markdown,
    table_rows,
    told_apart,
)
from sod.concurrency import run_concurrently
from sod.config import CompareOptions, EvalOptions, Options, ReportOptions, SandboxOptions, TrainOptions, model_path
from sod.console.progress import echo, warn
from sod.datasets.asking import load_asked
from sod.datasets.several import open_sets
from sod.errors import DataError, OptionError, RunError, SodError, TrainingError
from sod.evaluation.results import read_evaluation
from sod.lab.presets import Setting, settings_of
from sod.recipes import over, read_recipe
from sod.report import report
from sod.runs.alarms import cold_start
from sod.runs.directory import Run
from sod.runs.files import to_json, write_json, write_whole
from sod.sandbox.guarded import open_sandbox

TUNING_SEED = 1_000_003
"""Seed of the runs that choose a learning rate. No cell uses it."""


def compare(options: CompareOptions) -> None:
    """Run the missing parts of a comparison and print its tables."""
    with Run(options.out).held():
        _compare(options)


def _compare(options: CompareOptions) -> None:
    chosen = settings_of(options) if options.preset else {"": _own_recipes(options)}
    failed: dict[str, str] = {}
    for name, setting in chosen.items():
        if name:
            echo(f"Cold start: {name}")
        failed |= {f"{name} {run}".strip(): why for run, why in _compared(options, setting, options.out / name).items()}
    if failed:
        raise TrainingError(
            f"{len(failed)} of the runs failed and are not in the table. Repeat the same command to try them again:\n"
            + "\n".join(f"  {name}: {why}" for name, why in failed.items())
        )


def _compared(options: CompareOptions, setting: Setting, out: Path) -> dict[str, str]:
    """Run a comparison and print its tables. -> name of each failed run: its error"""
    comparison = Comparison(options, setting, out)
    comparison.keep_plan()
    failed = asyncio.run(comparison.run())
    made = comparison.rows()
    show_table(made)
    for line in comparison.notes(made):
        echo(line)
    if warning := comparison.hopeless():
        warn(warning)
    comparison.conclude()
    return failed


class Comparison:
    """A comparison: its runs, their progress and their results."""

    def __init__(self, options: CompareOptions, setting: Setting, out: Path):
        self._options = options
        self._out = out
        self._train = setting.train | _given(updates=options.updates)
        self._measure = setting.measure | _given(samples=options.samples)
        self._tune, self._lrs = options.tune or setting.tune, options.lrs or setting.lrs
        self._commands = Commands(options.jobs)
        self._finished = 0
        names = options.methods or setting.methods
        if not names:
            raise OptionError("methods is empty. Name at least one method, or give a --preset.")
        if options.control and "sham" not in names:
            names = (*names, "sham")
        self._methods = [Method.parse(name) for name in names]
        self._baseline = Method.parse(options.baseline or names[0])
        self._check()

    def _check(self) -> None:
        """Raise OptionError for invalid options, before the first run starts."""
        options = self._options
        slugs = [method.slug for method in self._methods]
        if doubled := next((slug for slug in slugs if slugs.count(slug) > 1), None):
            raise OptionError(f"methods: {doubled!r} is given twice. Remove one of the two.")
        if self._baseline.slug not in slugs:
            raise OptionError(
                f"baseline: {self._baseline.name!r} is not a method of this comparison. Choose one of "
                f"{', '.join(m.name for m in self._methods)}."
            )
        if len(set(options.seeds)) < len(options.seeds) or not options.seeds:
            raise OptionError("seeds is empty or holds a seed twice. Give at least one seed, and each only once.")
        for method in self._methods:
            find(method.algorithm)
            _validate(TrainOptions, self._recipe(method, 0, Path("train")), f"method {method.name!r}")
        _validate(EvalOptions, self._measure | {"model": Path("model"), "out": Path("eval")}, "measure")
        if self._lrs:
            if self._tune is None:
                raise OptionError("lrs needs separate problems to choose the learning rate on. Give --tune.")
            measured = EvalOptions.model_validate(self._measure | {"model": Path("model"), "out": Path("eval")})
            asked = {p.messages[-1]["content"] for each in open_sets(measured) for p in each.problems}
            shared = asked & {p.messages[-1]["content"] for p in load_asked(self._tune)[0]}
            if shared:
                raise OptionError(
                    f"tune: {len(shared)} problems of {self._tune} are also evaluation problems, so the results would be "
                    "biased. Give other problems to --tune."
                )

    def keep_plan(self) -> None:
        """Write the options that all runs share to compare.json. Raise RunError if existing runs have other ones."""
        plan = {
            "train": self._train,
            "measure": self._measure,
            "lrs": self._lrs,
            "tune_updates": self._options.tune_updates,
        }
        plan = json.loads(to_json(plan, default=str))
        path = self._out / "compare.json"
        if not path.exists():
            write_json(path, plan)
        elif (before := _plan_before(path)) != plan:
            changed = [key for key in plan if plan[key] != before.get(key)]
            raise RunError(
                f"{self._out} holds a comparison with other options: {', '.join(changed)} differ, see {path}. Only methods "
                "and seeds can be added to a comparison. Choose another --out."
            )

    # Running

    async def run(self) -> dict[str, str]:
        """Run the missing parts. -> name of each failed run: its error"""
        failed: dict[str, str] = {}

        async def attempt(name: str, work: Any) -> None:
            try:
                await work
            except (SodError, OSError) as error:
                failed[name] = str(error)
                echo(f"{name} failed: {error}")

        async def method(method: Method) -> None:
            try:
                lr = await self._learning_rate(method)
            except SodError as error:
                failed[f"{method.name}, tuning"] = str(error)
                return
            await run_concurrently(
                attempt(f"{method.name}, seed {seed}", self._cell(method, seed, lr)) for seed in self._options.seeds
            )

        async def known(name: str, model: str | Path) -> None:
            async with self._commands.slot:
                await self._evaluate(Path(model_path(model)), self._out / name, {})

        models = {"start": self._train["student"]} | _given(teacher=self._train.get("teacher"))
        await run_concurrently(
            [*(attempt(name, known(name, model)) for name, model in models.items()), *map(method, self._methods)]
        )
        return failed

    async def _learning_rate(self, method: Method) -> float | None:
        """Return the rate of `lrs` with the best solve rate on the tuning problems. None: use the recipe's."""
        if not self._lrs or method.sets("learn.lr"):
            return None
        folder, budget = self._out / "tuning" / method.slug, {"updates": self._options.tune_updates}
        found = await run_concurrently(
            self._solved(method, TUNING_SEED, lr, folder / f"lr-{lr:g}", budget, {"data": self._tune})
            for lr in self._lrs
        )
        solved = dict(zip(self._lrs, found, strict=True))
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
            model = await self._learn(method, seed, lr, folder / "train", budget)
            await self._evaluate(model, folder / "eval", problems)
        return read_evaluation(folder / "eval").mean.get("avg", math.nan)

    async def _cell(self, method: Method, seed: int, lr: float | None) -> None:
        solved = await self._solved(method, seed, lr, self._cell_folder(method, seed), {}, {})
        self._finished += 1
        runs = len(self._methods) * len(self._options.seeds)
        echo(f"{method.name} {seed} | measured: {solved:.1%} solved; {self._finished} of {runs} runs done")

    def _cell_folder(self, method: Method, seed: int) -> Path:
        return self._out / "cells" / method.slug / f"seed-{seed}"

    async def _learn(self, method: Method, seed: int, lr: float | None, folder: Path, budget: dict[str, Any]) -> Path:
        """Train, or resume training. -> the folder of the model"""
        recipe = over(self._recipe(method, seed, folder) | budget, {"learn": _given(lr=lr)})
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

    def _recipe(self, method: Method, seed: int, folder: Path) -> dict[str, Any]:
        recipe = over(self._train, {"algorithm": {"name": method.algorithm}, "seed": seed, "out": folder})
        if find(method.algorithm).context is not None:
            recipe.pop("teacher", None)
        return over(recipe, method.options)

    async def _evaluate(self, model: Path, folder: Path, other: dict[str, Any]) -> None:
        """Evaluate, or continue an evaluation."""
        with suppress(DataError):
            read_evaluation(folder)
            return
        content = self._measure | {"model": model, "out": folder} | other
        await self._commands.run("eval", folder.with_suffix(".toml"), content)

    # Results
    def rows(self) -> list[MethodRow]:
        """Write the results, and return their rows: the untrained student, the teacher, each method with a finished run."""
        runs: dict[Method, dict[int, Measured]] = {}
        for method in self._methods:
            for seed in self._options.seeds:
                folder = self._cell_folder(method, seed)
                try:
                    runs.setdefault(method, {})[seed] = read_measured(folder / "eval", folder / "train")
                except DataError as error:
                    echo(f"left out: {error}")
        known: dict[str, Measured] = {}
        for name in ("start", "teacher"):
            try:
                known[name] = read_measured(self._out / name)
            except DataError as error:
                if (self._out / name).exists():
                    echo(f"left out: {error}")
        check_same_problems([*known.values(), *(m for seeds in runs.values() for m in seeds.values())])
        made = table_rows(runs, known, self._baseline)
        content = {
            "baseline": self._baseline.name,
            "seeds": self._options.seeds,
            "rows": [row.to_json() for row in made],
        }
        write_json(self._out / "results.json", content)
        write_whole(self._out / "table.md", table_markdown(made) + "\n\n" + "\n".join(self.notes(made)) + "\n")
        return made

    def hopeless(self) -> str:
        """Return a warning if the untrained student solves no problem, else ""."""
        try:
            start = read_evaluation(self._out / "start")
        except DataError:
            return ""
        return cold_start(start.mean.get("avg", math.nan))

    def conclude(self) -> None:
        """Write report.html of the finished runs. Print the paths of the results and the next commands."""
        cells = [self._cell_folder(method, seed) for method in self._methods for seed in self._options.seeds]
        trained = tuple(cell / "train" for cell in cells if (cell / "eval" / "results.json").exists())
        echo(f"table: {self._out / 'table.md'}; every run is in {self._out}")
        if trained:
            page = self._out / "report.html"
            try:
                report(ReportOptions(runs=trained, out=page))
            except RunError as error:
                warn(f"The page {page} was not written: {error}")
            echo(f"next: sod report {shlex.quote(str(trained[0]))} for a page about a single run")
        echo("next, with your own data: sod train --student MODEL --teacher MODEL --data PROBLEMS.jsonl --out RUN")

    def notes(self, made: Sequence[MethodRow]) -> list[str]:
        """Return the lines below the table: how to read the intervals and differences."""
        seeds = len(self._options.seeds)
        lines = [
            f"Intervals: 95 %, over problems and {seeds} training seeds (Student's t). "
            if seeds > 1
            else "Intervals: 95 %, over problems, for this one seed. They do not include variation between seeds. "
        ]
        lines[0] += (
            f"Differences: against {self._baseline.name}, paired by problem and seed, not corrected for multiple comparisons."
        )
        lines += told_apart(made, self._baseline.name)
        if not any(row.method == "sham" for row in made):
            lines.append(
                "No control was run, so part of every gain may not be caused by the method. Add it with --control."
            )
        return lines


def _plan_before(path: Path) -> dict[str, Any]:
    """Return the content of compare.json. Raise RunError if it is damaged."""
    try:
        plan = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        plan = None
    if not isinstance(plan, dict):
        raise RunError(
            f"{path} is damaged, so the options of the existing runs cannot be checked. If their options are the same, move "
            "this file away and repeat the command, which then writes it again. Otherwise choose another --out."
        )
    return plan


def _own_recipes(options: CompareOptions) -> Setting:
    if options.train is None or options.measure is None:
        raise OptionError(
            "--train or --measure is missing. Give both (recipes of `sod train` and `sod eval`), or a --preset."
        )
    train, measure = read_recipe(options.train), read_recipe(options.measure)
    for key, where in (("student", train), ("data", train), ("data", measure)):
        if key not in where:
            raise OptionError(
                f"The recipe {options.train if where is train else options.measure} has no `{key}`. Add it."
            )
    open_sandbox(SandboxOptions.model_validate(train.get("sandbox", {})))  # fail now if there is none
    return Setting(train=train, measure=measure, methods=options.methods)


def _validate(kind: type[Options], content: dict[str, Any], whose: str) -> None:
    from pydantic import ValidationError

    try:
        kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise OptionError(f"{whose}: {'.'.join(map(str, first['loc']))}: {first['msg']}.") from error


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
