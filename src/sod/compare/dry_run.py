"""Compute which runs a comparison would start, the resources they need, and what the user must do first: `--dry-run`.

Nothing is downloaded and no model is loaded. Every part is checked as its own command checks it.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from sod.compare.parts import TUNING_SEED, ComparisonParts, own_recipes
from sod.config import CompareOptions, EvalOptions, TrainOptions
from sod.datasets.published import SETS
from sod.errors import DataError, OptionError, RunError
from sod.evaluation.results import read_evaluation
from sod.lab.make import is_made
from sod.lab.presets import REAL_PRESETS, SMALL_TEACHER, check_place, real_settings, setting_of
from sod.lab.real import TRAINED_TEACHER, starts_of
from sod.lab.wordproblems import are_made
from sod.planning.checks import of_evaluation, of_training
from sod.planning.dry_run import planned
from sod.planning.estimates import usable_bytes
from sod.planning.found import DryRun
from sod.planning.inventory import as_bytes
from sod.planning.text import Text, columns
from sod.runs.directory import Run
from sod.sandbox.retries import open_sandbox


@dataclass(frozen=True)
class Part:
    """One command of a comparison."""

    name: str
    options: TrainOptions | EvalOptions
    is_finished: bool


def plan_comparison(options: CompareOptions, width: int | None = None) -> str:
    """Return which runs the command would start, as lines of text.

    `width`: characters in a line. Default: the terminal's width, or no limit without a terminal.

    Raise the errors of the run for options that belong to no part, and for existing files that cannot be used.
    """
    text = Text("sod compare, a dry run: nothing is loaded, downloaded or written.")
    comparisons, exists = _comparisons(options)
    parts = [part for each in comparisons for part in (*_trainings(each), *_evaluations(each))]
    missing = [part for part in parts if not part.is_finished]
    jobs = min(options.jobs or os.cpu_count() or 1, max(1, len(missing)))
    methods = comparisons[0].methods
    text.add("compares", *(f"{method.name}" for method in methods))
    shape = f"{len(methods)} methods x {len(options.seeds)} seeds"
    if len(comparisons) > 1:
        shape += f" x {len(comparisons)} cold starts"
    text.add("runs", shape, *_counts(parts), f"{jobs} at the same time" if missing else "nothing is left to run")
    if not exists:
        text.add("creates", f"{_created(options)}, in {options.out}")
    text.add("writes", str(options.out))
    first: dict[str, None] = {}
    for each in comparisons:
        own = [part for part in parts if part.options.out.is_relative_to(each.out)]
        first |= dict.fromkeys(_refusals(each, own, with_files=exists))
    if exists:
        first |= dict.fromkeys(_add_parts(text, missing, jobs))
    else:
        text.add("memory", "not known: the models to compare do not exist yet")
    steps = [f"{number}. {step}" for number, step in enumerate(first, 1)]
    text.add("to do", *(steps or ["nothing: all inputs are available"]))
    return text.written(width or columns())


def _created(options: CompareOptions) -> str:
    if options.preset in REAL_PRESETS:
        return "word problems, a teacher and the students, fine-tuned from a pretrained model"
    return "the lab and the student's cold start"


def _comparisons(options: CompareOptions) -> tuple[list[ComparisonParts], bool]:
    """Return the parts of each comparison, and whether their models and data can exist before it starts."""
    if not options.preset:
        return [ComparisonParts(options, own_recipes(options), options.out)], True
    open_sandbox(options.sandbox)  # raises what the run raises
    check_place(options)
    if options.preset in REAL_PRESETS:
        runs = [
            Run(options.out / name)
            for name in (TRAINED_TEACHER, *(f"student-{start}" for start in starts_of(options).values()))
        ]
        chosen = real_settings(options)
        exists = are_made(options.out / "problems") and all(run.finished() is not None for run in runs)
        return [ComparisonParts(options, setting, options.out / name) for name, setting in chosen.items()], exists
    student, small = Run(options.out / "cold-start").finished(), Run(options.out / SMALL_TEACHER).finished()
    exists = is_made(options.out / "lab") and student is not None
    exists &= options.preset != "teacher-size" or small is not None
    setting = setting_of(options, student or options.out / "cold-start", small or options.out / SMALL_TEACHER)
    return [ComparisonParts(options, setting, options.out)], exists


def _trainings(comparison: ComparisonParts) -> Iterator[Part]:
    """Yield the training runs: those that choose learning rates, then those of the table."""
    for method in comparison.methods:
        for lr, folder in comparison.tunings(method).items():
            run, updates = folder / "train", comparison.options.tune_updates
            options = comparison.training(method, TUNING_SEED, run, updates=updates, resume=Run(run).begun)
            learn = options.learn.model_copy(update={"lr": lr})
            yield Part(f"{method.name}, lr {lr:g}", options.model_copy(update={"learn": learn}), _has(run, updates))
    for method in comparison.methods:
        for seed, folder in comparison.cells(method).items():
            run = folder / "train"
            options = comparison.training(method, seed, run, resume=Run(run).begun)
            yield Part(f"{method.name}, seed {seed}", options, _has(run, options.updates))


def _evaluations(comparison: ComparisonParts) -> Iterator[Part]:
    """Yield the evaluations. The model of an unfinished training run is planned with the student's size."""
    student = comparison.untrained()["start"]
    for name, model in comparison.untrained().items():
        folder = comparison.out / name
        yield Part(f"evaluation of {name}", comparison.evaluation(model, folder), _is_evaluated(folder))
    for method in comparison.methods:
        for lr, folder in comparison.tunings(method).items():
            options = comparison.evaluation(student, folder / "eval", data=comparison.tune)
            yield Part(f"evaluation of {method.name}, lr {lr:g}", options, _is_evaluated(folder / "eval"))
        for seed, folder in comparison.cells(method).items():
            options = comparison.evaluation(student, folder / "eval")
            yield Part(f"evaluation of {method.name}, seed {seed}", options, _is_evaluated(folder / "eval"))


def _has(run: Path, updates: int) -> bool:
    return (Run(run).newest_checkpoint() or (-1,))[0] >= updates


def _is_evaluated(folder: Path) -> bool:
    try:
        read_evaluation(folder)
    except DataError:
        return False
    return True


def _counts(parts: list[Part]) -> Iterator[str]:
    """Yield how many parts of each kind there are, and how many are finished."""
    trainings = [part for part in parts if isinstance(part.options, TrainOptions)]
    tunings = [part for part in trainings if part.options.seed == TUNING_SEED]
    kinds = {
        "training runs": [part for part in trainings if part not in tunings],
        "training runs that choose a learning rate": tunings,
        "evaluations": [part for part in parts if part not in trainings],
    }
    for what, of_kind in kinds.items():
        finished = sum(part.is_finished for part in of_kind)
        if of_kind:
            yield f"{len(of_kind)} {what}" + (f", {finished} of them finished" if finished else "")


def _refusals(comparison: ComparisonParts, parts: list[Part], *, with_files: bool) -> Iterator[str]:
    """Yield what the comparison itself refuses, and what each unfinished part refuses of its directory and options."""
    try:
        comparison.check_plan()
        if with_files and _can_check_tuning(comparison):
            comparison.check_tuning()
    except (OptionError, RunError) as error:
        yield str(error)
    for part in parts:
        if part.is_finished:
            continue
        run = Run(part.options.out)
        if run.begun:
            try:
                run.check(part.options, resume=True)
            except RunError as error:
                yield f"{part.name}: {error}"
        if not with_files:  # else the plan of the part lists them
            yield from (
                of_training(part.options, 1) if isinstance(part.options, TrainOptions) else of_evaluation(part.options)
            )


def _can_check_tuning(comparison: ComparisonParts) -> bool:
    """Return whether all problems to compare are here. The plans of the parts report the missing files."""
    options = comparison.evaluation(Path("model"), Path("eval"))
    files = [options.data_dir / f"{name}.jsonl" if name in SETS else Path(name) for name in options.data]
    return all(file.exists() for file in [*files, *([comparison.tune] if comparison.tune else [])])


def _add_parts(text: Text, missing: list[Part], jobs: int) -> Iterator[str]:
    """Add what the parts read and do, and their memory. Yield what must be done first."""
    plans = [(part, planned(part.options)) for part in _distinct(missing)]
    for title in ("reads", "does"):
        lines = {
            part.name: [line for line in plan.sections.get(title, []) if not line.startswith("tokens")]
            for part, plan in plans
        }
        if title == "reads":
            text.add(title, *dict.fromkeys(chain.from_iterable(lines.values())))
        else:
            text.add(title, *(f"{name}: {line}" for name, of_part in lines.items() for line in of_part[:1]))
    text.add("memory", *dict.fromkeys(_memory(plans, jobs)))
    for _, plan in plans:
        yield from plan.first


def _distinct(parts: list[Part]) -> Iterator[Part]:
    """Yield one of the parts that differ only in their seed and their directory."""
    seen: set[str] = set()
    for part in parts:
        content = part.options.model_dump_json(exclude={"seed", "out", "resume", "tracking"})
        if content not in seen:
            seen.add(content)
            yield part


def _memory(plans: list[tuple[Part, DryRun]], jobs: int) -> Iterator[str]:
    """Yield the memory of each part, and whether the largest ones fit together."""
    for part, plan in plans:
        if plan.peak is None:
            yield from plan.sections.get("memory", [])
        else:
            yield f"{as_bytes(plan.peak):>9}  {part.name}"
    peaks = [plan.peak for _, plan in plans if plan.peak is not None]
    if not peaks:
        return
    whole, device = jobs * max(peaks), plans[0][1].device
    yield f"{as_bytes(whole):>9}  {jobs} at the same time, each as large as the largest"
    if device is not None:
        fits = whole <= usable_bytes(device)
        advice = "" if fits else "; give a smaller --jobs"
        yield f"{'fits' if fits else 'does NOT fit'} into {as_bytes(device.memory)}: {device.name}{advice}"
