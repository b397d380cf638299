"""Comparisons in the lab: the paper's, at a size that a laptop runs."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sod.config import CompareOptions, LabOptions, LabTeacherOptions, SftOptions
from sod.console.progress import say
from sod.errors import DataError, RunError, TrainingError
from sod.evaluation.results import read_evaluation
from sod.lab import settings
from sod.lab.make import is_made, make, make_folder, make_teacher
from sod.runs.directory import Run
from sod.runs.locks import NAME as LOCK
from sod.sandbox.guarded import open_sandbox
from sod.sft import sft


@dataclass(frozen=True)
class Setting:
    """What all methods of a comparison share."""

    train: dict[str, Any]
    """Of `sod train`."""
    measure: dict[str, Any]
    """Of `sod eval`."""
    methods: tuple[str, ...] = ()
    lrs: tuple[float, ...] = ()
    """Learning rates to choose from."""
    tune: Path | None = None
    """Problems to choose them with."""


SYSTEMS = ("sod", "opd", "grpo", "opsd_gt", "opsd_hint")
ABLATIONS = (  # opd is sod_uniform
    *("sod", "opd", "sod_decay", "sod_mask_after_error"),
    *("sod_unclipped", "sod_without_grpo", "grpo", "opd_without_grpo"),
)
RIVALS = (
    *("sod", "opd", "grpo", "gated", "position", "trust_region", "sign_consistent", "curriculum"),
    *("entropy", "drift_from_median", "drift_with_floor", "per_error", "entropy_in_trust_region"),
    *(
        "sod algorithm.divergence=exact algorithm.candidates=600",
        "opd algorithm.divergence=exact algorithm.candidates=600",
    ),
)


def prepare(options: CompareOptions) -> Setting:
    """The lab in `out/lab`, and a student with a cold start behind it. What is finished is taken as it is; what is not
    is resumed."""
    lab, cold_start = options.out / "lab", Run(options.out / "cold-start")
    open_sandbox(options.sandbox)  # where there is none, that is said now and not after the cold start
    _check_place(options)
    if not is_made(lab):
        say("The lab: a tokenizer, problems, demonstrations, a trained teacher, a student with random weights.")
        make(LabOptions(out=lab, seed=options.lab_seed))
    student = cold_start.finished()
    if student is None:
        say("Cold start: the student is fine-tuned on demonstrations, the last of them careless.")
        files = {"model": lab / "student", "data": lab / "demonstrations.jsonl", "out": cold_start.folder}
        resume = {"resume": cold_start.begun}
        sft(SftOptions.model_validate(settings.STUDENT_SFT | files | resume | {"epochs": 1, "shuffle": False}))
        student = cold_start.finished()
    if student is None:
        raise TrainingError(f"The cold start in {cold_start.folder} has not finished.")
    sandbox = {"sandbox": options.sandbox.model_dump(exclude_defaults=True)}
    teacher = {"teacher": lab / "teacher"}
    train = settings.TRAIN | sandbox | teacher | {"student": student, "data": lab / "train.jsonl"}
    measure = settings.EVAL | sandbox | teacher | {"data": lab / "eval.jsonl"}
    is_demo = options.preset == "demo"
    return Setting(
        train=train,
        measure=measure,
        methods=_methods(options),
        lrs=() if is_demo else settings.LRS,
        tune=None if is_demo else lab / "tune.jsonl",
    )


def _methods(options: CompareOptions) -> tuple[str, ...]:
    match options.preset:
        case "paper-table1":
            return SYSTEMS
        case "ablations":
            return ABLATIONS
        case "rivals":
            return RIVALS
        case "teacher-size":
            small = _small_teacher(options.out / "small-teacher")
            return ("sod", "opd", f"sod teacher={small}", f"opd teacher={small}")
        case _:
            return ("sod",)


def _small_teacher(folder: Path) -> Path:
    """A teacher of the student's size, trained like the other."""
    with suppress(DataError):
        read_evaluation(folder / "eval")
        if teacher := Run(folder).finished():
            return teacher
    say("A second teacher, as small as the student, from nothing.")
    return make_teacher(LabTeacherOptions(out=folder, size="small"))


def _check_place(options: CompareOptions) -> None:
    make_folder(options.out)
    others = [path for path in options.out.iterdir() if path.name != LOCK]
    if others and not (options.out / "lab").exists():
        raise RunError(f"{options.out} is not empty and holds no comparison in the lab. Choose another --out.")
