"""Write files completely or not at all, and never over other content."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sod.datasets.rows import Row
from sod.errors import DataError
from sod.runs.files import cannot_be_written, sha256_of_file, to_json


def lines(rows: Iterable[Row]) -> bytes:
    """Return rows as the bytes of a .jsonl file. Equal rows give equal bytes. A lone surrogate stays a JSON escape."""
    texts = (to_json(row, default=_refuse) + "\n" for row in rows)
    return "".join(texts).encode("utf-8", "backslashreplace")


def _refuse(cell: object) -> None:
    raise DataError(
        f"a cell is of type {type(cell).__name__}, but .jsonl has only text, numbers, lists and objects. Convert or remove its "
        "column."
    )


def document(content: dict[str, Any]) -> bytes:
    """Return an object as the bytes of a .json file."""
    return (to_json(content, indent=2) + "\n").encode()


def write_file(path: Path, content: bytes) -> bool:
    """Write a file unless it already has this content. Return whether it was written.

    Raises DataError if the file has other content, or cannot be written.
    """
    return bool(write_all({path: content}))


def write_all(contents: Mapping[Path, bytes]) -> list[Path]:
    """Write all files or none. Skip files that already have their content. Return the written ones.

    Raises DataError if a file has other content, or cannot be written.
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
    """Return True if a path is free, False if it already has this content. Raises DataError if it has other content."""
    if not path.exists():
        return True
    if not path.is_file() or sha256_of_file(path) != sha256_of_bytes(content):
        raise DataError(f"{path} already exists with other content. Move it away, or choose another path.")
    return False


def replace(path: Path, content: bytes) -> None:
    """Write a file atomically: first beside it, then moved over any existing file."""
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
    """Add a file to the .gitignore beside it."""
    ignore = path.with_name(".gitignore")
    before = ignore.read_text(encoding="utf-8") if ignore.exists() else ""
    if path.name not in before.split("\n"):
        joint = "" if before.endswith("\n") or not before else "\n"
        replace(ignore, f"{before}{joint}{path.name}\n".encode())


def sha256_of_bytes(content: bytes) -> str:
    """Return the SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
