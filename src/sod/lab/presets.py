"""Comparisons in the lab: the paper's comparisons at laptop size."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sod.config import CompareOptions, LabOptions, LabTeacherOptions, SftOptions
from sod.console.progress import echo
from sod.errors import DataError, RunError, TrainingError
from sod.evaluation.results import read_evaluation
from sod.lab import settings
from sod.lab.make import is_made, make, make_folder, make_teacher
from sod.lab.real import prepare_real, real_recipes, starts_of
from sod.runs.directory import Run
from sod.runs.locks import LOCK_FILE
from sod.sandbox.retries import open_sandbox
from sod.training.sft import sft


@dataclass(frozen=True)
class Setting:
    """Settings shared by all methods of a comparison."""

    train: dict[str, Any]
    """Options of `sod train`."""
    measure: dict[str, Any]
    """Options of `sod eval`."""
    methods: tuple[str, ...] = ()
    lrs: tuple[float, ...] = ()
    """Learning rates to choose from."""
    tune: Path | None = None
    """Problems for choosing the learning rate."""


SMALL_TEACHER = "small-teacher"
"""Directory of the second teacher, in that of the comparison."""
REAL_PRESETS = ("real", "laptop")
"""Presets with a pretrained model instead of the lab's own."""
REAL_SYSTEMS = ("sod", "grpo", "opd")
COMPARED_SYSTEMS = ("sod", "opd", "grpo", "opsd_gt", "opsd_hint")
ABLATIONS = (  # opd equals sod_uniform
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


def settings_of(options: CompareOptions) -> dict[str, Setting]:
    """Create what a preset needs. Return each comparison by the name of its folder in `out`; "" is `out` itself."""
    if options.preset not in REAL_PRESETS:
        return {"": prepare(options)}
    open_sandbox(options.sandbox)
    check_place(options)
    make_folder(options.out)
    for start in starts_of(options).values():
        prepare_real(options, start)
    return real_settings(options)


def real_settings(options: CompareOptions) -> dict[str, Setting]:
    """Return each comparison of a preset with a pretrained model, as `settings_of`. Nothing is created."""
    made: dict[str, Setting] = {}
    for name, start in starts_of(options).items():
        train, measure = real_recipes(options, start)
        made[name] = Setting(train=train, measure=measure, methods=REAL_SYSTEMS)
    return made


def prepare(options: CompareOptions) -> Setting:
    """Create the lab in `out/lab`, and a student with a finished cold start. Finished parts are reused, others resumed."""
    lab, cold_start = options.out / "lab", Run(options.out / "cold-start")
    open_sandbox(options.sandbox)  # raises now, not after the cold start, if there is no sandbox
    check_place(options)
    make_folder(options.out)
    if not is_made(lab):
        echo(
            "Creating the lab: a tokenizer, problems, demonstrations, a trained teacher, a student with random weights."
        )
        make(LabOptions(out=lab, seed=options.lab_seed))
    student = cold_start.finished()
    if student is None:
        echo("Cold start: fine-tuning the student on demonstrations; the later ones contain errors.")
        files = {"model": lab / "student", "data": lab / "demonstrations.jsonl", "out": cold_start.folder}
        resume = {"resume": cold_start.begun}
        sft(SftOptions.model_validate(settings.STUDENT_SFT | files | resume | {"epochs": 1, "shuffle": False}))
        student = cold_start.finished()
    if student is None:
        raise TrainingError(
            f"The cold start in {cold_start.folder} has not finished. Run the same command again to continue it."
        )
    small = _small_teacher(options.out / SMALL_TEACHER) if options.preset == "teacher-size" else None
    return setting_of(options, student, small)


def setting_of(options: CompareOptions, student: Path, small_teacher: Path | None) -> Setting:
    """Return the setting of a preset. Nothing is created."""
    lab = options.out / "lab"
    sandbox = {"sandbox": options.sandbox.model_dump(exclude_defaults=True)}
    teacher = {"teacher": lab / "teacher"}
    train = settings.TRAIN | sandbox | teacher | {"student": student, "data": lab / "train.jsonl"}
    measure = settings.EVAL | sandbox | teacher | {"data": lab / "eval.jsonl"}
    is_demo = options.preset == "demo"
    if is_demo:
        train |= {"validate": settings.DEMO_VALIDATE | {"data": [str(lab / "tune.jsonl")]}}
    return Setting(
        train=train,
        measure=measure,
        methods=_methods(options, small_teacher),
        lrs=() if is_demo else settings.LRS,
        tune=None if is_demo else lab / "tune.jsonl",
    )


def _methods(options: CompareOptions, small_teacher: Path | None) -> tuple[str, ...]:
    match options.preset:
        case "paper-table1":
            return COMPARED_SYSTEMS
        case "ablations":
            return ABLATIONS
        case "rivals":
            return RIVALS
        case "teacher-size":
            return ("sod", "opd", f"sod teacher={small_teacher}", f"opd teacher={small_teacher}")
        case _:
            return ("sod",)


def _small_teacher(folder: Path) -> Path:
    """Train a teacher of the student's size in the same way as the other teacher. -> the model"""
    with suppress(DataError):
        read_evaluation(folder / "eval")
        if teacher := Run(folder).finished():
            return teacher
    echo("Training a second teacher, of the student's size, from scratch.")
    return make_teacher(LabTeacherOptions(out=folder, size="small"))


def check_place(options: CompareOptions) -> None:
    """Raise RunError if the directory holds other files than a comparison of a preset of the same kind."""
    part = "problems" if options.preset in REAL_PRESETS else "lab"
    files = options.out.iterdir() if options.out.is_dir() else ()
    others = [path for path in files if path.name not in (LOCK_FILE, "base")]
    if others and not (options.out / part).exists():
        raise RunError(f"{options.out} is not empty and contains no comparison of this preset. Choose another --out.")
