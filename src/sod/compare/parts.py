"""The runs of a comparison and their options."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from sod.compare.table import Method
from sod.config import CompareOptions, EvalOptions, Options, SandboxOptions, TrainOptions, model_path
from sod.config.base import first_fault
from sod.config.recipes import over, read_recipe
from sod.credit.algorithms import find
from sod.datasets.asking import load_asked
from sod.datasets.contamination import same_questions
from sod.datasets.overlap import ProblemIdentity
from sod.datasets.several import open_sets
from sod.errors import OptionError, RunError
from sod.lab.presets import Setting
from sod.planning.changes import ChangedInputs
from sod.runs.checkpoints import checkpoint_folders
from sod.runs.directory import Run
from sod.runs.files import to_json, write_json
from sod.sandbox.retries import open_sandbox

FEW = 3
"""Largest number of runs that an error lists."""
TUNING_SEED = 1_000_003
"""Seed of the runs that choose a learning rate. No cell uses it."""
AnyOptions = TypeVar("AnyOptions", bound=Options)


class ComparisonParts:
    """The parts of a comparison: methods, runs, and their options. Nothing is run."""

    def __init__(self, options: CompareOptions, setting: Setting, out: Path):
        self.options = options
        self.out = out
        self.train: dict[str, Any] = setting.train | _given(updates=options.updates)
        self.measure: dict[str, Any] = setting.measure | _given(samples=options.samples)
        self.tune, self.lrs = options.tune or setting.tune, options.lrs or setting.lrs
        names = options.methods or setting.methods
        if not names:
            raise OptionError("methods is empty. Name at least one method, or give a --preset.")
        if options.control and "sham" not in names:
            names = (*names, "sham")
        self.methods = [Method.parse(name) for name in names]
        self.baseline = Method.parse(options.baseline or names[0])
        self._check()

    def _check(self) -> None:
        """Raise OptionError for invalid options, before the first run starts.

        `validate.stop_after` is refused: all cells must have the same number of updates. Otherwise the noise of a validation
        would decide how long a method trains, and a difference could come from the budget instead of the method.
        """
        options = self.options
        slugs = [method.slug for method in self.methods]
        if doubled := next((slug for slug in slugs if slugs.count(slug) > 1), None):
            raise OptionError(f"methods: {doubled!r} is given twice. Remove one of the two.")
        if self.baseline.slug not in slugs:
            raise OptionError(
                f"baseline: {self.baseline.name!r} is not a method of this comparison. Choose one of "
                f"{', '.join(m.name for m in self.methods)}."
            )
        if len(set(options.seeds)) < len(options.seeds) or not options.seeds:
            raise OptionError("seeds is empty or holds a seed twice. Give at least one seed, and each only once.")
        for method in self.methods:
            find(method.algorithm)
            if stop_after := self.training(method, 0, Path("train")).validate.stop_after:
                raise OptionError(
                    f"method {method.name!r}: validate.stop_after is {stop_after}, so its runs could end after fewer updates "
                    "than others. A comparison gives all runs the same number of updates. Remove validate.stop_after; validation "
                    "itself can stay."
                )
        self.evaluation(Path("model"), Path("eval"))
        if self.lrs and self.tune is None:
            raise OptionError("lrs needs separate problems to choose the learning rate on. Give --tune.")

    def check_tuning(self) -> None:
        """Raise OptionError if problems to tune on are also evaluation problems. Missing benchmarks are downloaded."""
        if not self.lrs or self.tune is None:
            return
        measured = self.evaluation(Path("model"), Path("eval"))
        asked = [ProblemIdentity.of(problem) for each in open_sets(measured) for problem in each.problems]
        shared = same_questions(list(map(ProblemIdentity.of, load_asked(self.tune)[0])), asked)
        if shared:
            raise OptionError(
                f"tune: {len(shared)} problems of {self.tune} are also evaluation problems, so the results would be "
                "biased. Give other problems to --tune."
            )

    def keep_plan(self) -> None:
        """Write the options that all runs share to compare.json. Raise RunError if existing runs have other options or inputs."""
        plan = self.check_plan()
        if not (path := self.out / "compare.json").exists():
            write_json(path, plan)

    def check_plan(self) -> dict[str, Any]:
        """Return the options that all runs share. Raise RunError if existing runs have other options or inputs."""
        plan = {
            "train": self.train,
            "measure": self.measure,
            "lrs": self.lrs,
            "tune_updates": self.options.tune_updates,
        }
        plan = json.loads(to_json(plan, default=str))
        path = self.out / "compare.json"
        if path.exists() and (before := _plan_before(path)) != plan:
            changed = [key for key in plan if plan[key] != before.get(key)]
            raise RunError(
                f"{self.out} holds a comparison with other options: {', '.join(changed)} differ, see {path}. Only methods "
                "and seeds can be added to a comparison. Choose another --out."
            )
        self._check_inputs()
        return plan

    def _check_inputs(self) -> None:
        """Raise RunError if data, a model or code of an existing run has another content than when it began."""
        inputs, changed = ChangedInputs(), dict[str, list[Path]]()
        for options in self._existing():
            for name in inputs.of(options.out, options):
                changed.setdefault(name, []).append(options.out)
        if changed:
            name, folders = next(iter(changed.items()))
            shown = (
                " and ".join(map(str, folders))
                if len(folders) <= FEW
                else f"{folders[0]} and {len(folders) - 1} more runs"
            )
            ways = f"remove {shown} to run again" if len(folders) <= FEW else "choose another --out"
            raise RunError(
                f"{name} has changed since {shown} began, so the table would mix two contents. Restore it, or {ways}."
            )

    def _existing(self) -> Iterator[TrainOptions | EvalOptions]:
        """Yield the options of each run that has begun, with the model that it evaluates."""
        for name, model in self.untrained().items():
            if Run(self.out / name).begun:
                yield self.evaluation(model, self.out / name)
        runs = [
            (method, TUNING_SEED, at, {"data": self.tune})
            for method in self.methods
            for at in self.tunings(method).values()
        ]
        runs += [(method, seed, at, {}) for method in self.methods for seed, at in self.cells(method).items()]
        for method, seed, folder, problems in runs:
            train, evaluation = folder / "train", folder / "eval"
            if Run(train).begun:
                yield self.training(method, seed, train)
            if Run(evaluation).begun:
                checkpoints = checkpoint_folders(train / "checkpoints")
                yield self.evaluation(checkpoints[-1] if checkpoints else train, evaluation, **problems)

    # ComparisonParts

    def training(self, method: Method, seed: int, folder: Path, **other: Any) -> TrainOptions:
        """Return the options of a training run. Raise OptionError for a wrong one, with the name of the method."""
        content = self.recipe(method, seed, folder) | other
        return _validated(TrainOptions, content, f"method {method.name!r}")

    def evaluation(self, model: Path, folder: Path, **other: Any) -> EvalOptions:
        """Return the options of an evaluation. Raise OptionError for a wrong one."""
        return _validated(EvalOptions, self.measure | {"model": model, "out": folder} | other, "measure")

    def untrained(self) -> dict[str, Path]:
        """Return the models to evaluate without training, by name: the student, and the teacher if there is one here."""
        here = not self.train.get("score", {}).get("teacher_url")
        models = {"start": self.train["student"]} | _given(teacher=self.train.get("teacher") if here else None)
        return {name: Path(model_path(model)) for name, model in models.items()}

    def tunings(self, method: Method) -> dict[float, Path]:
        """Return the directory of each run that chooses the method's learning rate; {} if nothing is chosen."""
        if not self.lrs or method.sets("learn.lr"):
            return {}
        return {lr: self.out / "tuning" / method.slug / f"lr-{lr:g}" for lr in self.lrs}

    def cells(self, method: Method) -> dict[int, Path]:
        """Return the directory of the method's run with each seed."""
        return {seed: self.cell_folder(method, seed) for seed in self.options.seeds}

    def recipe(self, method: Method, seed: int, folder: Path) -> dict[str, Any]:
        """Return the recipe of a training run in `folder`. Trackers get a name of the run that no other run has."""
        recipe = over(self.train, {"algorithm": {"name": method.algorithm}, "seed": seed, "out": folder})
        if find(method.algorithm).context is not None:
            recipe.pop("teacher", None)
            recipe.pop("teachers", None)
        recipe = over(recipe, method.options)
        tracking = recipe.get("tracking", {})
        if recipe.get("track") and isinstance(tracking, dict) and not tracking.get("name"):
            name = "-".join(folder.parts[-3:-1])  # METHOD-seed-N of a cell, METHOD-lr-RATE of a tuning run
            recipe = over(recipe, {"tracking": {"name": name}})
        return recipe

    def cell_folder(self, method: Method, seed: int) -> Path:
        return self.out / "cells" / method.slug / f"seed-{seed}"


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


def own_recipes(options: CompareOptions) -> Setting:
    """Return the setting of the user's recipes. Raise OptionError for one that is missing or incomplete."""
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


def _validated(kind: type[AnyOptions], content: dict[str, Any], whose: str) -> AnyOptions:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise OptionError(f"{whose}: {first_fault(error)}.") from error


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
