"""Store samples on disk: each is written when it ends and is read again by its problem and number."""

import json
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from sod.runs.files import PARTIAL, append, in_words, to_json
from sod.runs.records import Record

logger = logging.getLogger(__name__)

Key = tuple[str, int]
"""A problem's id and the number of an attempt at it."""


class SampleFile:
    """A JSON Lines file of trajectories (`sod.runs.records`). The last line with a key counts. Only keys are in memory.

    A line truncated by a crash is removed. Damaged lines are ignored and reported. The file is not created before `hold`.
    Only one process at a time may use it: lock the run (`Run.held`). Raise RunError if the file cannot be written.
    """

    def __init__(self, path: Path):
        self._path = path
        self._places: dict[Key, int] = {}
        self._writer: int | None = None
        self._reader: BinaryIO | None = None
        if path.exists():
            self.hold()

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> "Iterator[SampleFile]":
        file = cls(path)
        try:
            yield file
        finally:
            if file._reader is not None:
                file._reader.close()
            if file._writer is not None:
                os.close(file._writer)

    def hold(self) -> None:
        """Create the file if it is missing, and index its lines."""
        if self._reader is not None:
            return
        with in_words(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._reader = self._path.open("rb")
            self._index(self._reader, self._writer)

    def __contains__(self, key: Key) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Key]:
        """Iterate over the keys, in the order in which they were added."""
        return iter(self._places)

    def append(self, row: Record) -> None:
        """Append a sample. From then on it survives a crash of the process."""
        assert self._writer is not None, "hold it first"
        with in_words(self._path):
            self._places[_key(row)] = append(self._writer, _line(row))

    def read(self, key: Key) -> Record:
        assert self._reader is not None
        self._reader.seek(self._places[key])
        return json.loads(self._reader.readline())

    def replace(self, rows: Iterable[Record]) -> None:
        """Replace all rows atomically. The new rows may come from `read`. Afterwards this object must not be used."""
        partial = self._path.with_name(self._path.name + PARTIAL)
        with in_words(self._path):
            try:
                with partial.open("wb") as file:
                    for row in rows:
                        file.write(_line(row))
                partial.replace(self._path)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise

    def _index(self, file: BinaryIO, writer: int) -> None:
        at = damaged = 0
        for line in file:
            if not line.endswith(b"\n"):
                os.ftruncate(writer, at)
                break
            try:
                self._places[_key(json.loads(line))] = at
            except (ValueError, LookupError, TypeError):
                damaged += 1
            at += len(line)
        if damaged:
            logger.warning(f"{self._path}: {damaged} damaged lines are ignored; their attempts are sampled again.")


def _key(row: Record) -> Key:
    return str(row["problem"]), int(row["sample"])


def _line(row: Record) -> bytes:
    return to_json(row).encode("utf-8", "surrogatepass") + b"\n"
