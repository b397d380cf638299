"""Check that an existing folder can be uploaded: it holds the checkpoint, and was written with the options that are given."""

import json
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import ModelCard

from sod.config import ExportOptions
from sod.errors import RunError
from sod.export.evaluation import Evaluation
from sod.export.folder import Json, read_json
from sod.runs.files import to_json

CARD = "README.md"


def check_existing(options: ExportOptions, fingerprint: str) -> None:
    """Raise RunError if the folder holds another checkpoint, or was written with another value of a given option.

    Options that are not given are those of the folder.
    """
    card = options.out / CARD
    if not card.is_file() or fingerprint not in card.read_text(encoding="utf-8"):
        raise RunError(f"{options.out} exists already, and does not hold this checkpoint. Choose another --out.")
    if differing := list(_differing(options, fingerprint)):
        raise RunError(
            f"{options.out} exists already, and was written with another value of {', '.join(differing)}. An exported folder is "
            "never changed. Choose another --out to write it with these options, or leave them out to upload it unchanged."
        )


def _differing(options: ExportOptions, fingerprint: str) -> Iterator[str]:
    """Yield each given option about the folder's content that does not agree with the folder."""
    card = ModelCard.load(options.out / CARD)
    facts = card.data.to_dict()
    if options.license not in (None, facts.get("license")):
        yield "--license"
    if options.base not in (None, facts.get("base_model")):
        yield "--base"
    if options.name is not None and not card.text.lstrip().startswith(f"# {options.name}\n"):
        yield "--name"
    config = read_json(options.out / "config.json")
    if options.dtype not in ("same", config.get("dtype"), config.get("torch_dtype")):
        yield "--dtype"
    if options.results and not _holds_results(options, fingerprint):
        yield "--results"


def _holds_results(options: ExportOptions, fingerprint: str) -> bool:
    """Return whether the folder has these evaluations, in this order, and no other."""
    given = [Evaluation.read(folder, fingerprint).files() for folder in options.results]
    number = len(list((options.out / "sod").glob("evaluation-*")))
    folders = [options.out / "sod" / f"evaluation-{each}" for each in range(1, number + 1)]
    return [json.loads(to_json(files)) for files in given] == [_files(folder) for folder in folders]


def _files(folder: Path) -> dict[str, Json]:
    return {file.stem: read_json(file) for file in folder.glob("*.json")}
