"""Follow a run directory: read again what has changed. The directory may appear, vanish and lose rows meanwhile."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sod.report.reading import trajectory_files
from sod.report.trajectories import Compact, ShownTrajectory, TokenTotals, UnreadableError, parse_trajectory
from sod.watch.status import RunStatus, Signature, signature, status_of

NEWEST = 64
"""Number of trajectories to keep for reading."""
TAIL_BYTES = 1 << 23
"""Number of bytes to read from the end of a trajectory file: an evaluation has only one, which may be large."""
COST = 10
"""A run is not read again before this many times the duration of reading it have passed."""

Identity = tuple[int, str, int]


@dataclass(frozen=True, slots=True)
class Attempt:
    """A trajectory for reading."""

    shown: ShownTrajectory
    content: Compact

    @property
    def identity(self) -> Identity:
        return self.shown.update, self.shown.problem, self.shown.sample


@dataclass(slots=True)
class Follower:
    """A run that is followed. Call `refresh` again and again."""

    folder: Path
    name: str
    status: RunStatus = field(init=False)
    attempts: list[Attempt] = field(default_factory=list)
    """The newest trajectories, the newest first."""
    _seen: Signature | None = None
    _seen_files: tuple[object, ...] | None = None
    _not_before: float = 0.0

    def __post_init__(self) -> None:
        self.refresh(time.time())

    def refresh(self, now: float) -> bool:
        """Read the run again if it has changed. -> whether it was read. `now`: seconds since 1970"""
        seen, began = signature(self.folder), time.monotonic()
        if began < self._not_before or (seen == self._seen and not self._is_under_way):
            return False
        self.status = status_of(self.folder, self.name, now)
        if seen != self._seen:
            self._read_attempts()
        self._seen = seen
        self._not_before = time.monotonic() + COST * (time.monotonic() - began)
        return True

    @property
    def _is_under_way(self) -> bool:
        """Whether time alone changes the status: the process may be killed, which changes no file."""
        return self.status.state in ("starting", "running")

    def _read_attempts(self) -> None:
        files = trajectory_files(self.folder)
        newest = tuple((update, *_stat(file)) for update, file in files[:2])
        if newest == self._seen_files:
            return
        self._seen_files = newest
        self.attempts = []
        for update, file in files:
            self.attempts += newest_attempts(file, update, NEWEST - len(self.attempts))
            if len(self.attempts) >= NEWEST:
                break


def newest_attempts(file: Path, update: int, limit: int) -> list[Attempt]:
    """Return at most `limit` trajectories from the end of a file, the last one first. Skips unreadable and private rows."""
    found: list[Attempt] = []
    for line in _last_lines(file):
        if len(found) >= limit:
            break
        try:
            row = json.loads(line)
            if isinstance(row, dict) and row.get("private"):  # its authors ask not to publish it; screens are shared
                continue
            found.append(Attempt(*parse_trajectory(row, update, TokenTotals())))
        except (ValueError, RecursionError, UnreadableError):
            continue
    return found


def _last_lines(file: Path) -> Iterator[bytes]:
    """Yield the complete lines within the last `TAIL_BYTES`, the last one first."""
    try:
        with file.open("rb") as opened:
            length = opened.seek(0, os.SEEK_END)
            start = opened.seek(max(0, length - TAIL_BYTES))
            lines = opened.read().split(b"\n")
    except OSError:
        return
    yield from reversed(lines[1 if start else 0 : -1])


def _stat(file: Path) -> tuple[int, int]:
    try:
        stat = file.stat()
    except OSError:
        return 0, 0
    return stat.st_mtime_ns, stat.st_size
