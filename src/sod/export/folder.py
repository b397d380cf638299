"""Folders: what a run or a checkpoint holds, and a new one that is whole or not there at all."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from sod.config import Options
from sod.errors import ModelError, RunError
from sod.runs.checkpoints import MANIFEST, fault
from sod.runs.files import cannot_be_written, to_json

Json = dict[str, Any]
SomeOptions = TypeVar("SomeOptions", bound=Options)


def read_json(path: Path) -> Json:
    """Raises RunError where there is none."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read ({error}); {path.parent} holds no run, or a damaged one.") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} is not a JSON object; {path.parent} holds no run, or a damaged one.")
    return content


def read_options(kind: type[SomeOptions], run: Path) -> SomeOptions:
    """Raises RunError where they are not of this kind."""
    try:
        return kind.model_validate(read_json(run / "options.json"))
    except ValidationError as error:
        raise RunError(f"{run}/options.json is of another version of sod: {error}") from error


def check_whole(checkpoint: Path) -> None:
    """Raises ModelError where a checkpoint is not what its manifest says; the optimiser's state does not matter here."""
    if (checkpoint / MANIFEST).is_file() and (what := fault(checkpoint, model_only=True)):
        raise ModelError(
            f"The checkpoint {checkpoint} is damaged: {what}. Name the run instead, whose newest whole checkpoint is then "
            "taken, or an older checkpoint."
        )


@contextmanager
def whole_or_not_at_all(out: Path) -> Iterator[Path]:
    """A folder beside `out`, which takes its name when all went well, and is gone when not. Raises RunError."""
    partial = out.with_name(f"{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        partial.rename(out)
    except OSError as error:
        raise RunError(cannot_be_written(out, error)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_json(folder: Path, files: Mapping[str, Json]) -> None:
    """Write NAME.json for each name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        text = to_json(content, indent=2) + "\n"
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
