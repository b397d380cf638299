"""Files that are written whole or not at all, and never over something else."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sod.datasets.rows import Row, fingerprint
from sod.errors import DataError
from sod.runs.files import cannot_be_written, to_json


def lines(rows: Iterable[Row]) -> bytes:
    """Rows as the text of a .jsonl file: the same rows are the same bytes. Half a character stays the JSON escape it was."""
    texts = (to_json(row, default=_refuse) + "\n" for row in rows)
    return "".join(texts).encode("utf-8", "backslashreplace")


def _refuse(cell: object) -> None:
    raise DataError(f"a cell is of type {type(cell).__name__}; .jsonl takes text, numbers, lists and objects alone.")


def document(content: dict[str, Any]) -> bytes:
    return (to_json(content, indent=2) + "\n").encode()


def write(path: Path, content: bytes) -> bool:
    """Write a file, unless it is there with this very content. -> whether it had to be written

    Raises DataError where something else is there, or nothing can be written.
    """
    return bool(write_all({path: content}))


def write_all(contents: Mapping[Path, bytes]) -> list[Path]:
    """Write files, all or none, but for those that are there with this very content. -> those that had to be written

    Raises DataError where something else is in the place of one, or one cannot be written.
    """
    new = [path for path, content in contents.items() if is_free(path, content)]
    for number, path in enumerate(new):
        try:
            replace(path, contents[path])
        except DataError:
            for written in new[:number]:
                written.unlink(missing_ok=True)
            raise
    return new


def is_free(path: Path, content: bytes) -> bool:
    """Whether nothing is there; False where this very content is. Raises DataError where something else is."""
    if not path.exists():
        return True
    if not path.is_file() or fingerprint(path) != sha256(content):
        raise DataError(f"{path} is there already, and holds something else. Move it away, or choose another place.")
    return False


def replace(path: Path, content: bytes) -> None:
    """Write a file in place of whatever is there: beside it at first, then in one move."""
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise DataError(cannot_be_written(path, error)) from error


def keep_out_of_git(path: Path) -> None:
    """Name a file in the .gitignore beside it."""
    ignore = path.with_name(".gitignore")
    before = ignore.read_text(encoding="utf-8") if ignore.exists() else ""
    if path.name not in before.split("\n"):
        joint = "" if before.endswith("\n") or not before else "\n"
        replace(ignore, f"{before}{joint}{path.name}\n".encode())


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
