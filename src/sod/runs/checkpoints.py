"""A checkpoint: what it contains, and how it is written and verified.

    config.json, model.safetensors, ...   the whole model, its tokenizer and template in Hugging Face's format
    teacher.pt            with opsd.decay: the teacher, an average of the student (`sod.teachers.privileged`)
    manifest.json         size and SHA-256 of every other file (this module)
    trainer/              what only a resumed run reads:
      .metadata, *.distcp   master weights or LoRA adapters, AdamW's moments, counts of steps (`sod.model.training_state`)
      problems.json         how many problems were taken (`sod.datasets.order`)
      history.json          what rules read of earlier updates (`sod.credit.history`)

`Policy.save` (`sod.model.policy`) writes the model and the .distcp files; `sod.training.on_policy` adds the others. Everything
else that a resumed run needs is a function of its options, or is in the directory of the run (`sod.runs.directory`).

A checkpoint is written to a temporary folder and renamed when it is complete. One that does not match its manifest is ignored.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sod.errors import RunError
from sod.runs.files import PARTIAL, cannot_be_written, sha256_of_file, to_json

MANIFEST = "manifest.json"
TRAINER = "trainer"
"""Folder in a checkpoint with the training state, which only a resumed run needs."""
PREFIX = "update-"


def checkpoint_folders(folder: Path) -> list[Path]:
    """Return the checkpoints' folders by name, oldest first. Their content is not verified."""
    places = (place for place in folder.glob(f"{PREFIX}*") if place.name.removeprefix(PREFIX).isdecimal())
    return sorted(places, key=updates_of)


def updates_of(place: Path) -> int:
    """Return the number of updates before a checkpoint."""
    return int(place.name.removeprefix(PREFIX))


def fault(place: Path, *, model_only: bool = False, hashes: bool = True) -> str:
    """Return what is wrong with a checkpoint, in words, or "" if it matches its manifest."""
    try:
        manifest: Any = json.loads((place / MANIFEST).read_bytes())
    except OSError as error:
        return f"{MANIFEST} cannot be read: {error.strerror}"
    except (ValueError, RecursionError):
        return f"{MANIFEST} is not JSON"
    entries = manifest.items() if isinstance(manifest, dict) else [("", manifest)]
    if not all(isinstance(entry, dict) and {"bytes", "sha256"} <= entry.keys() for _, entry in entries):
        return f"{MANIFEST} is not a list of files with sizes and hashes"
    if not entries:
        return f"{MANIFEST} lists no file"
    for name, entry in entries:
        if model_only and name.startswith(f"{TRAINER}/"):
            continue
        file = place / name
        try:
            if file.stat().st_size != entry["bytes"] or (hashes and sha256_of_file(file) != entry["sha256"]):
                return f"{name} differs from {MANIFEST}"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
    return ""


def write_checkpoint(place: Path, content: Callable[[Path], None]) -> None:
    """Write a checkpoint and its manifest to a temporary folder, and rename it. Raise RunError if that fails."""
    partial = place.with_name(place.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        content(partial)
        manifest = {
            file.relative_to(partial).as_posix(): {"bytes": file.stat().st_size, "sha256": sha256_of_file(file)}
            for file in sorted(partial.rglob("*"))
            if file.is_file()
        }
        (partial / MANIFEST).write_text(to_json(manifest, indent=2))
        _sync(partial)
    except BaseException as error:
        # On a full disk, each library raises another exception.
        words = f"The checkpoint {cannot_be_written(place, error)}" if isinstance(error, Exception) else ""
        shutil.rmtree(partial, ignore_errors=True)
        if not words:  # an interrupt
            raise
        raise RunError(words) from error
    shutil.rmtree(place, ignore_errors=True)
    partial.rename(place)
    _sync_folder(place.parent)


def _sync(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
