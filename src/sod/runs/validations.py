"""The validations of a run: validation.jsonl, a few of their trajectories, and the link to the best checkpoint.

validation.jsonl has one row per validation:

    update     number of updates before it, 0 for the initial model
    settings   what the numbers depend on: sets, samples, ...; only validations with equal settings are compared
    metrics    numbers under validate/NAME/..., and under validate/... their means over the sets
    problems   per set, what each problem contributes: [right, graded, majority] samples, or [nats, tokens] of a conversation
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sod.runs.checkpoints import updates_of
from sod.runs.files import PARTIAL, append_line, in_words, to_json, write_whole

FILE = "validation.jsonl"
VALIDATIONS_FOLDER = "validation"
"""Folder with a few trajectories of each validation: update-0010.jsonl."""
BEST = "best"
"""Name of the link to the best checkpoint. Any command takes RUN/best as a model."""

Contributions = dict[str, dict[str, list[float]]]
"""By set and by problem or conversation."""


@dataclass(frozen=True, slots=True)
class Validation:
    """What a model did on held-out rows after `update` updates."""

    update: int
    settings: dict[str, Any]
    metrics: dict[str, float]
    problems: Contributions


def read_validations(run: Path) -> list[Validation]:
    """Return the validations of a run, by update. The last row of an update and settings counts; others are skipped."""
    found: dict[tuple[int, str], Validation] = {}
    for line in _lines(run):
        with suppress(ValueError, TypeError, LookupError, RecursionError):
            one = validation_of(json.loads(line))
            found[one.update, to_json(one.settings)] = one
    return sorted(found.values(), key=lambda each: each.update)


def validation_of(row: Any) -> Validation:
    """Return the validation in a row. Raise ValueError, TypeError or LookupError for a damaged row."""
    return Validation(int(row["update"]), dict(row["settings"]), dict(row["metrics"]), dict(row["problems"]))


def add_validation(run: Path, validation: Validation, trajectories: Iterable[dict[str, Any]] = ()) -> None:
    """Append a validation, and write some of its trajectories."""
    lines = "".join(to_json(row) + "\n" for row in trajectories)
    if lines:
        file = trajectory_file(run, validation.update)
        with in_words(file):
            file.parent.mkdir(exist_ok=True)
        write_whole(file, lines, sync=False)
    append_line(run / FILE, to_json(asdict(validation), ascii=True))


def trajectory_file(run: Path, update: int) -> Path:
    return run / VALIDATIONS_FOLDER / f"update-{update:04}.jsonl"


def rewind_validations(run: Path, update: int) -> None:
    """Delete the validations after `update`, which are about to be computed again."""
    rows = [each for each in read_validations(run) if each.update <= update]
    if (run / FILE).exists():
        write_whole(run / FILE, "".join(to_json(asdict(row), ascii=True) + "\n" for row in rows))
    for file in (run / VALIDATIONS_FOLDER).glob("update-*.jsonl*"):
        number = file.name.removeprefix("update-").partition(".")[0]
        if file.name.endswith(PARTIAL) or (number.isdecimal() and int(number) > update):
            file.unlink()


def best_checkpoint(run: Path) -> Path | None:
    """Return the checkpoint that the link names, or None if there is none. Its content is not verified."""
    place = run / BEST
    if not place.is_symlink():
        return None
    folder = run / place.readlink()
    return folder if folder.is_dir() and folder.name.rpartition("-")[2].isdecimal() else None


def link_best(run: Path, checkpoint: Path) -> None:
    """Make the link name this checkpoint, atomically."""
    partial = run / f"{BEST}{PARTIAL}"
    with in_words(run / BEST):
        partial.unlink(missing_ok=True)
        partial.symlink_to(checkpoint.relative_to(run), target_is_directory=True)
        partial.replace(run / BEST)


def best_update(run: Path) -> int | None:
    """Return the number of updates before the best checkpoint, or None if there is none."""
    folder = best_checkpoint(run)
    return None if folder is None else updates_of(folder)


def _lines(run: Path) -> list[bytes]:
    """Return the complete lines of the file."""
    file = run / FILE
    return file.read_bytes().split(b"\n")[:-1] if file.exists() else []
