"""Samples on disk: each is there as soon as it ends, is found again by its problem and number, and is never held in memory."""

import fcntl
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from sod.errors import RunError
from sod.progress import say

Row = dict[str, Any]
Key = tuple[str, int]
"""A problem's id and the number of an attempt at it."""


class SampleFile:
    """A file of lines of JSON, each a trajectory (`sod.records`); of lines with the same key, the last counts.

    A line that a crash has cut short is cut off, a damaged one is left out and said. Nothing is created before `hold`, which
    keeps every other process out. Raises RunError where the disk is full, or nothing can be written.
    """

    def __init__(self, path: Path):
        self._path = path
        self._places: dict[Key, int] = {}
        self._file: BinaryIO | None = None
        self._lock: BinaryIO | None = None
        if path.exists():
            self.hold()

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> "Iterator[SampleFile]":
        file = cls(path)
        try:
            yield file
        finally:
            for opened in (file._file, file._lock):
                if opened is not None:
                    opened.close()

    def hold(self) -> None:
        """Take hold of the file, and find out what is there. The lock is a file of its own, since `replace` renames."""
        if self._lock is not None:
            return
        with _in_words(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self._path.with_suffix(".lock").open("wb")
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                self._lock.close()
                raise RunError(
                    f"{self._path} is in use: another process is measuring there. Wait for it, or end it."
                ) from error
            self._file = self._path.open("a+b")
            self._index(self._file)

    def __contains__(self, key: Key) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Key]:
        """Keys, in the order in which they were added."""
        return iter(self._places)

    def append(self, row: Row) -> None:
        """Add a sample; it survives the process from now on."""
        assert self._file is not None, "hold it first"
        with _in_words(self._path):
            at = self._file.seek(0, 2)
            self._file.write(_line(row))
            self._file.flush()
        self._places[_key(row)] = at

    def read(self, key: Key) -> Row:
        assert self._file is not None
        self._file.seek(self._places[key])
        return json.loads(self._file.readline())

    def replace(self, rows: Iterable[Row]) -> None:
        """Write these rows, which may come from `read`, in place of all; whole or not at all. The last thing to do."""
        partial = self._path.with_name(self._path.name + ".partial")
        with _in_words(self._path):
            with partial.open("wb") as file:
                for row in rows:
                    file.write(_line(row))
            partial.replace(self._path)

    def _index(self, file: BinaryIO) -> None:
        file.seek(0)
        at = damaged = 0
        for line in file:
            if not line.endswith(b"\n"):
                file.truncate(at)
                break
            try:
                self._places[_key(json.loads(line))] = at
            except (ValueError, LookupError, TypeError):
                damaged += 1
            at += len(line)
        if damaged:
            say(f"{self._path}: {damaged} damaged lines are left out; what they told of is sampled again.")


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}. What is there is kept.") from error


def _key(row: Row) -> Key:
    return str(row["problem"]), int(row["sample"])


def _line(row: Row) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
