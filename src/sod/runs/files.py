"""Writing files: valid JSON, whole files or none, and a full disk in words.

A file is written beside its place, flushed to the disk, and moved there. A line is appended whole or not at all. What a
failed write has left is removed, so that it does not take the last room.
"""

import errno
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sod.errors import RunError

PARTIAL = ".partial"
"""Ends the name of what is being written."""
NO_ROOM = {
    errno.ENOSPC: "there is no space left on {disk}. Free some, then continue",
    errno.EDQUOT: "the disk quota on {disk} is used up. Free some space, then continue",
    errno.EFBIG: "it would be larger than the limit for files (`ulimit -f`, or that of {disk}). Raise the limit",
}
PROBE_BYTES = 1 << 16


def to_json(
    value: Any,
    *,
    indent: int | None = None,
    ascii: bool = False,
    separators: tuple[str, str] | None = None,
    default: Callable[[Any], Any] | None = None,
) -> str:
    """JSON text. A number that is not finite becomes null, since JSON has no word for it."""
    encoder = json.JSONEncoder(
        indent=indent, ensure_ascii=ascii, allow_nan=False, separators=separators, default=default
    )
    try:
        return encoder.encode(value)
    except ValueError:
        return encoder.encode(_finite(value))


def _finite(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: _finite(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_finite(inner) for inner in value]
        case _:
            return value


def write_whole(path: Path, content: str | bytes, *, sync: bool = True) -> None:
    """Replace a file, or leave it as it was. `sync` waits until it is on the disk. Raises RunError."""
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    partial = path.with_name(path.name + PARTIAL)
    with in_words(path):
        try:
            with partial.open("wb") as file:
                file.write(data)
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise


def write_json(path: Path, content: Any) -> None:
    """Replace a file by one JSON document, or leave it as it was. Raises RunError."""
    write_whole(path, to_json(content, indent=2, ascii=True) + "\n")


def append(descriptor: int, data: bytes) -> int:
    """Append to a file; if that fails, cut off what was written of it. -> where it begins. Raises OSError."""
    start = os.lseek(descriptor, 0, os.SEEK_END)
    left = memoryview(data)
    try:
        while left:
            left = left[os.write(descriptor, left) :]
    except OSError:
        os.ftruncate(descriptor, start)
        raise
    return start


def append_line(path: Path, line: str) -> None:
    """Append a line, whole or not at all. Raises RunError."""
    with in_words(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            append(descriptor, line.encode() + b"\n")
        finally:
            os.close(descriptor)


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def in_words(path: Path, *others: type[Exception]) -> Iterator[None]:
    """Raise RunError where `path` cannot be written: for an OSError, or for other errors of the library that writes."""
    try:
        yield
    except (OSError, *others) as error:
        raise RunError(cannot_be_written(path, error)) from error


def cannot_be_written(path: Path, error: BaseException) -> str:
    """A sentence that names the path and the cause.

    PyTorch and safetensors report a full disk in words of their own. So a small file is written beside the path, to see
    whether that fails as well.
    """
    number = _number(error) or (0 if isinstance(error, OSError) else _probe(path.parent))
    if number in NO_ROOM:
        return f"{path} cannot be written: {NO_ROOM[number].format(disk=_disk(path))}."
    what = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    return f"{path} cannot be written: {what.rstrip('.')}."


def _number(error: BaseException | None) -> int:
    """The number of the cause of an error, if it is a lack of room; else 0."""
    while error is not None:
        for number in NO_ROOM:
            if (isinstance(error, OSError) and error.errno == number) or f"(os error {number})" in str(error):
                return number
        error = error.__cause__ or error.__context__
    return 0


def _probe(folder: Path) -> int:
    """The number of the error of writing a small file there; 0 if there is none."""
    probe = folder / f".probe-{os.getpid()}"
    try:
        probe.write_bytes(b"\0" * PROBE_BYTES)
    except OSError as error:
        return error.errno or 0
    finally:
        with suppress(OSError):
            probe.unlink()
    return 0


def _disk(path: Path) -> Path:
    """The directory where the disk of a path is mounted."""
    place = path.absolute()
    while place != place.parent and not os.path.ismount(place):
        place = place.parent
    return place
