"""Write files atomically, as valid JSON, with clear errors for a full disk.

A file is written under a temporary name, flushed to the disk, and renamed. A line is appended completely or not at all.
The remains of a failed write are removed, so that they do not fill the disk.
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
"""Suffix of files and folders that are being written."""
NO_ROOM = {
    errno.ENOSPC: "there is no space left on {disk}. Free some, then continue",
    errno.EDQUOT: "the disk quota on {disk} is used up. Free some space, then continue",
    errno.EFBIG: "it would exceed the file size limit (`ulimit -f`, or the limit of {disk}). Raise the limit",
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
    """Return JSON text. A number that is not finite becomes null, because JSON has no such numbers."""
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
    """Replace a file atomically. `sync` waits until it is on the disk. Raise RunError if that fails."""
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
    """Replace a file atomically by one JSON document. Raise RunError if that fails."""
    write_whole(path, to_json(content, indent=2, ascii=True) + "\n")


def append(descriptor: int, data: bytes) -> int:
    """Append to a file. -> offset of the new data. If that fails, remove the written part and raise OSError."""
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
    """Append a line completely or not at all. Raise RunError if that fails."""
    with in_words(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            append(descriptor, line.encode() + b"\n")
        finally:
            os.close(descriptor)


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def in_words(path: Path, *others: type[Exception]) -> Iterator[None]:
    """Raise RunError that `path` cannot be written, in place of an OSError or of `others`, the writing library's errors."""
    try:
        yield
    except (OSError, *others) as error:
        raise RunError(cannot_be_written(path, error)) from error


def cannot_be_written(path: Path, error: BaseException) -> str:
    """Return a sentence with the path and the cause.

    PyTorch and safetensors report a full disk in their own words. Therefore this also tries to write a small file to the
    same folder.
    """
    number = _number(error) or (0 if isinstance(error, OSError) else _probe(path.parent))
    if number in NO_ROOM:
        return f"{path} cannot be written: {NO_ROOM[number].format(disk=_disk(path))}."
    what = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    return f"{path} cannot be written: {what.rstrip('.')}."


def _number(error: BaseException | None) -> int:
    """Return the errno of an error's cause if it is in `NO_ROOM`, else 0."""
    while error is not None:
        for number in NO_ROOM:
            if (isinstance(error, OSError) and error.errno == number) or f"(os error {number})" in str(error):
                return number
        error = error.__cause__ or error.__context__
    return 0


def _probe(folder: Path) -> int:
    """Return the errno of writing a small file to the folder, or 0 if that works."""
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
    """Return the mount point of a path's disk."""
    place = path.absolute()
    while place != place.parent and not os.path.ismount(place):
        place = place.parent
    return place


def begun_options(run: Path, group: str) -> dict[str, Any]:
    """Return a group of the options that a run began with. Empty for a new run, and if they cannot be read."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        return dict(json.loads((run / "options.json").read_bytes())[group])
    return {}
