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

    A line that a crash has cut short is cut off, a damaged one is left out and said. One process at a time holds the file,
    which is created with the first sample.
    """

    def __init__(self, path: Path):
        self._path = path
        self._places: dict[Key, int] = {}
        self._file: BinaryIO | None = None
        if path.exists():
            self._index(self._opened())

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> "Iterator[SampleFile]":
        file = cls(path)
        try:
            yield file
        finally:
            if file._file is not None:
                file._file.close()

    def __contains__(self, key: Key) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Key]:
        """Keys, in the order in which they were added."""
        return iter(self._places)

    def append(self, row: Row) -> None:
        """Add a sample; it survives the process from now on."""
        file = self._opened()
        file.seek(0, 2)
        self._places[_key(row)] = file.tell()
        file.write(_line(row))
        file.flush()

    def read(self, key: Key) -> Row:
        file = self._opened()
        file.seek(self._places[key])
        return json.loads(file.readline())

    def replace(self, rows: Iterable[Row]) -> None:
        """Write these rows, which may come from `read`, in place of all; whole or not at all. The last thing to do."""
        partial = self._path.with_name(self._path.name + ".partial")
        with partial.open("wb") as file:
            for row in rows:
                file.write(_line(row))
        partial.replace(self._path)

    def _opened(self) -> BinaryIO:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = self._path.open("a+b")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.close()
                raise RunError(
                    f"{self._path} is in use: another process is measuring there. Wait for it, or end it."
                ) from error
            self._file = file
        return self._file

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


def _key(row: Row) -> Key:
    return str(row["problem"]), int(row["sample"])


def _line(row: Row) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
