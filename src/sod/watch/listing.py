"""`sod runs`: list the runs below a directory, the newest first."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from sod.config import RunsOptions
from sod.console.progress import clock, console, echo
from sod.console.text import cell
from sod.errors import RunError
from sod.report import summary
from sod.runs.directory import SIGNS
from sod.runs.files import to_json
from sod.runs.locks import LOCK_FILE
from sod.watch.status import RunStatus, status_of

OF_A_RUN = ("checkpoints", "trajectories")
"""Folders of a run; no other run is below them."""
UNITS = ("B", "kB", "MB", "GB")


@dataclass(frozen=True, slots=True)
class ListedRun:
    """A line of the list."""

    status: RunStatus
    bytes: int
    """Size of the directory, without other runs below it."""


def list_runs(options: RunsOptions) -> None:
    """Print the table, or JSON."""
    if not options.directory.is_dir():
        raise RunError(f"{options.directory} is not a directory. Give the directory that contains your runs.")
    now = time.time()
    found = find_runs(options.directory, now)
    if options.json:
        print(to_json([as_json(run, now) for run in found], indent=2, ascii=True))
    elif not found:
        echo(f"There is no run below {options.directory}.")
    else:
        console.print(table(found, now))


def find_runs(directory: Path, now: float) -> list[ListedRun]:
    """Return all runs in the directory and below it, the newest first."""
    folders = sorted(_folders(directory))
    above = {parent for folder in folders for parent in folder.parents}
    found: list[ListedRun] = []
    for folder in folders:
        if folder in above and not _begun(folder):  # the lock of `sod compare`, above its runs
            continue
        name = folder.relative_to(directory).as_posix() if folder != directory else folder.as_posix()
        found.append(ListedRun(status_of(folder, name, now), _size(folder, {*folders} - {folder})))
    return sorted(found, key=lambda run: -(run.status.changed or 0.0))


def table(runs: list[ListedRun], now: float) -> Table:
    made = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    made.add_column("run", overflow="fold")
    made.add_column("state", overflow="fold")
    made.add_column("command", no_wrap=True)
    for head in ("update", "score", "age", "size"):
        made.add_column(head, justify="right", no_wrap=True)
    for run in runs:
        status = run.status
        made.add_row(
            *(cell(status.name), cell(status.words), cell(status.command), status.progress, status.score_words),
            summary.UNKNOWN if status.changed is None else clock(max(0.0, now - status.changed)),
            size(run.bytes),
        )
    return made


def as_json(run: ListedRun, now: float) -> dict[str, Any]:
    status = run.status
    return {
        "run": str(status.record.folder),
        "state": status.state,
        "by": status.end.by if status.end else None,
        "message": status.end.message if status.end else None,
        "command": status.record.command,
        "algorithm": status.record.algorithm,
        "done": status.done,
        "planned": status.planned,
        "seconds_left": status.left,
        "score": status.score[1] if status.score else None,
        "score_name": status.score[0] if status.score else None,
        "seconds_old": None if status.changed is None else max(0.0, now - status.changed),
        "bytes": run.bytes,
    }


def size(count: int) -> str:
    """Return a number of bytes with a unit.

    >>> size(0), size(1234), size(5_600_000)
    ('0 B', '1.2 kB', '5.6 MB')
    """
    value, unit = float(count), 0
    while value >= 1000 and unit < len(UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.1f} {UNITS[unit]}" if unit else f"{count} B"


def _folders(directory: Path) -> Iterator[Path]:
    """Yield the directories that look like runs. Links to directories are not followed."""
    for place, folders, files in os.walk(directory):
        if LOCK_FILE in files or any(sign in (*files, *folders) for sign in SIGNS):
            yield Path(place)
            folders[:] = [folder for folder in folders if folder not in OF_A_RUN]


def _begun(folder: Path) -> bool:
    return any((folder / sign).exists() for sign in SIGNS)


def _size(folder: Path, others: set[Path]) -> int:
    """Return the size of all files, without those of other runs below the directory."""
    total = 0
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if Path(place, name) not in others]
        for name in files:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except OSError:  # deleted meanwhile
                continue
    return total
