"""The worlds of an arena: problems, a teacher and cold-started students for each, as recipes of the ordinary commands.

    WORLD/lab/                     the files of `sod lab make`
    WORLD/lab/cold-start-NAME/     a further cold start, on demonstrations of its own
    WORLD/lab/teacher-rates/       an evaluation of the teacher on the training problems

Finished parts are reused, others resumed.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from sod.config import CompareOptions, EvalOptions, LabOptions, SftOptions
from sod.config.recipes import over, read_recipe
from sod.console.progress import echo
from sod.datasets.rows import load_problems
from sod.environments.worlds import WORLDS
from sod.errors import DataError, OptionError, TrainingError
from sod.evaluation.results import read_evaluation
from sod.lab import settings
from sod.lab.demonstrations import STUDENT_STYLE
from sod.lab.make import DEMONSTRATIONS, STUDENT_SIZE, is_made, make, tokenizer, write_demonstrations
from sod.lab.models import save_new_model
from sod.lab.presets import Setting
from sod.lab.worlds.make import COLD_START, train_from_scratch
from sod.runs.directory import Run

SHARES = {"usual": 1.0, "short": 0.5}
"""Share of the usual demonstrations of each cold start."""
TEACHER_RATES = "teacher-rates"


def prepare_world(options: CompareOptions, world: str) -> dict[str, Setting]:
    """Create what a world needs. Return the setting of each cold start."""
    lab = lab_of(options, world)
    if not is_made(lab):
        echo(f"{world}: creating problems, a teacher and a student.")
        make(
            LabOptions(
                out=lab,
                world=world,  # pyright: ignore[reportArgumentType]
                seed=options.lab_seed,
                demonstrations=options.arena.demonstrations,
                train_problems=options.arena.train_problems,
                eval_problems=options.arena.eval_problems,
            )
        )
    _check_sizes(options, lab)
    for start in options.arena.starts:
        _cold_start(options, world, start)
    chosen = settings_of_world(options, world)
    folder = lab / TEACHER_RATES
    if not _is_evaluated(folder):
        from sod.evaluation.evaluate import evaluate

        echo(f"{world}: the teacher's solve rate on every training problem, for the rules that read it.")
        setting = next(iter(chosen.values()))
        content = setting.measure | {"model": setting.train["teacher"], "data": setting.train["data"], "out": folder}
        for option in ("teacher", "limit"):
            content.pop(option, None)
        evaluate(EvalOptions.model_validate(content | {"samples": 1}))
    return chosen


def _check_sizes(options: CompareOptions, lab: Path) -> None:
    """Raise OptionError if the files of problems, which may be older, have other sizes than the options demand."""
    for part, wanted in (("train", options.arena.train_problems), ("eval", options.arena.eval_problems)):
        file = lab / f"{part}.jsonl"
        if (found := len(load_problems(file))) != wanted:
            raise OptionError(
                f"{file} has {found} problems instead of {wanted}. Type --arena.{part}-problems {found}, or use another --out."
            )


def is_prepared(options: CompareOptions, world: str) -> bool:
    """Return whether `prepare_world` has finished."""
    lab = lab_of(options, world)
    return (
        is_made(lab)
        and all(Run(start_folder(lab, start)).finished() is not None for start in options.arena.starts)
        and _is_evaluated(lab / TEACHER_RATES)
    )


def settings_of_world(options: CompareOptions, world: str) -> dict[str, Setting]:
    """Return the setting of each cold start. Nothing is created; a missing model is named by its run's folder."""
    lab = lab_of(options, world)
    teacher = {"teacher": lab / "teacher" if world == "sums" else _finished(lab / "teacher")}
    shared = teacher | {"sandbox": options.sandbox.model_dump(exclude_defaults=True)}
    train: dict[str, Any] = settings.TRAIN | shared
    measure: dict[str, Any] = settings.EVAL | shared
    if world != "sums":
        rollout = {
            "rollout": settings.WORLD_ROLLOUT | {key: settings.TRAIN["rollout"][key] for key in ("problems", "group")}
        }
        train = {key: value for key, value in train.items() if key != "tool"} | rollout
        measure = settings.WORLD_EVAL | shared | {"samples": settings.EVAL["samples"]}
    train = over(train | {"data": lab / "train.jsonl"}, _given(options.train))
    measure = over(measure | {"data": lab / "eval.jsonl"}, _given(options.measure))
    return {
        start: Setting(
            train=train | {"student": _finished(start_folder(lab, start))},
            measure=measure,
            lrs=options.lrs or settings.LRS,
            tune=lab / "tune.jsonl",
        )
        for start in options.arena.starts
    }


def lab_of(options: CompareOptions, world: str) -> Path:
    return options.out / world / "lab"


def start_folder(lab: Path, start: str) -> Path:
    """Return the run of a cold start. The usual one of a world is a part of `sod lab make`."""
    return lab / (COLD_START.name if start == "usual" else f"{COLD_START.name}-{start}")


def _is_evaluated(folder: Path) -> bool:
    try:
        read_evaluation(folder)
    except DataError:
        return False
    return True


def _finished(run: Path) -> Path:
    return Run(run).finished() or run


def _given(recipe: Path | None) -> dict[str, Any]:
    return read_recipe(recipe) if recipe else {}


def _cold_start(options: CompareOptions, world: str, start: str) -> None:
    lab = lab_of(options, world)
    run = Run(start_folder(lab, start))
    if run.finished() is not None:
        return
    echo(f"{world}: cold start {start!r} of the student.")
    seed = options.lab_seed + list(SHARES).index(start)
    names = {"start": f"student-{start}", "data": f"demonstrations-{start}.jsonl"}
    if world != "sums":
        usual = options.arena.demonstrations or settings.WORLD_STEPS[world]["cold-start"] * settings.WORLD_SFT["batch"]
        steps = max(1, int(SHARES[start] * usual) // settings.WORLD_SFT["batch"])
        train_from_scratch(lab, WORLDS[world], replace(COLD_START, name=run.folder.name, **names), steps, seed)
        return
    from sod.training.sft import sft

    student, data = lab / names["start"], lab / names["data"]
    if start == "usual":
        student, data = lab / "student", lab / "demonstrations.jsonl"
    elif not run.begun:
        save_new_model(STUDENT_SIZE, tokenizer(), seed, student)
        count = max(1, int(SHARES[start] * (options.arena.demonstrations or DEMONSTRATIONS)))
        write_demonstrations(data, STUDENT_STYLE, count, seed)
    files = {"model": student, "data": data, "out": run.folder, "resume": run.begun}
    sft(SftOptions.model_validate(settings.STUDENT_SFT | files | {"epochs": 1, "shuffle": False}))
    if run.finished() is None:
        raise TrainingError(
            f"The cold start in {run.folder} has not finished. Run the same command again to continue it."
        )
