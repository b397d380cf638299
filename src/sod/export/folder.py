"""Read the files of a run or a checkpoint, and write a new directory completely or not at all."""

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
    """Read a JSON object. Raises RunError if the file is missing or invalid."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(
            f"{path} cannot be read ({error}). {path.parent} is not a run, or is damaged. Pass another run."
        ) from error
    if not isinstance(content, dict):
        raise RunError(f"{path} is not a JSON object. {path.parent} is not a run, or is damaged. Pass another run.")
    return content


def read_options(kind: type[SomeOptions], run: Path) -> SomeOptions:
    """Read the options of a run. Raises RunError if they are not of this kind."""
    try:
        return kind.model_validate(read_json(run / "options.json"))
    except ValidationError as error:
        raise RunError(f"{run}/options.json was written by another version of sod: {error}") from error


def check_whole(checkpoint: Path) -> None:
    """Raises ModelError if a checkpoint differs from its manifest. The optimiser's state is not checked."""
    if (checkpoint / MANIFEST).is_file() and (what := fault(checkpoint, model_only=True)):
        raise ModelError(
            f"The checkpoint {checkpoint} is damaged: {what}. Pass the run directory to use its newest intact checkpoint, or "
            "pass an older checkpoint."
        )


@contextmanager
def whole_or_not_at_all(out: Path) -> Iterator[Path]:
    """Create a directory next to `out`. Rename it to `out` after success; remove it after an error. Raises RunError."""
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


def write_json_files(folder: Path, files: Mapping[str, Json]) -> None:
    """Write NAME.json for each name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        text = to_json(content, indent=2) + "\n"
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
