"""Run directories as they are found. What can be read is; what cannot is left out and said so, never raised.

`sod.runs.directory` writes them and reads its own; this reads anybody's: of other versions, cut short, still under way, damaged.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sod.errors import RunError
from sod.report.trajectories import Compact, TokenTotals, Trajectory, UnreadableError, number, parse

NOT_FINITE = "numbers that are not finite"
ADVICE = "Give run directories of `sod train` or `sod eval`."
SIGNS_OF_A_RUN = ("options.json", "metrics.jsonl", "trajectories")
NAMED = 6
"""Runs that are named to somebody who gave the directory above them."""

Keep = Callable[[Compact], tuple[int, int]]
"""Stores a trajectory for the page. -> where: number of the chunk, place in it"""


@dataclass(slots=True)
class Notes:
    """What was left out of a run, in words."""

    _places: dict[str, list[str]] = field(default_factory=dict)

    def add(self, what: str, where: str) -> None:
        self._places.setdefault(what, []).append(where)

    def lines(self) -> list[str]:
        """One line for each kind, with the first place and how many more there are."""
        return [
            f"{what}: {places[0]}" + (f" and {len(places) - 1} more" if len(places) > 1 else "")
            for what, places in self._places.items()
        ]


@dataclass(slots=True, kw_only=True)
class Record:
    """Everything that a page tells of one run."""

    name: str
    folder: Path
    options: dict[str, Any]
    environment: dict[str, Any]
    results: dict[str, Any]
    calibration: dict[str, Any]
    metrics: list[dict[str, float]]
    """One row per update, in their order; finite numbers only, among them `update`."""
    trajectories: list[Trajectory] = field(default_factory=list)
    """By update, at most as many as were asked for: the newest."""
    places: list[tuple[int, int]] = field(default_factory=list)
    """Where the page keeps each trajectory: chunk, place in it."""
    totals: TokenTotals = field(default_factory=TokenTotals)
    older_files: int = 0
    """Trajectory files that were not read, since newer ones hold as many as were asked for."""
    notes: Notes = field(default_factory=Notes)

    @property
    def command(self) -> str:
        """Which command made it, by an option that no other has; ? if that cannot be told."""
        signs = {"updates": "train", "samples": "eval", "epochs": "sft", "run": "calibrate"}
        return next((command for sign, command in signs.items() if sign in self.options), "?")

    @property
    def measured(self) -> dict[str, Any]:
        """What an evaluation measured, in the mean over its benchmarks."""
        mean = self.results.get("mean")
        return mean if isinstance(mean, dict) else {}

    @property
    def benchmarks(self) -> dict[str, dict[str, Any]]:
        """And of each of them."""
        benchmarks = self.results.get("benchmarks")
        each = benchmarks.items() if isinstance(benchmarks, dict) else ()
        return {
            name: content["measured"]
            for name, content in each
            if isinstance(content, dict) and isinstance(content.get("measured"), dict)
        }

    @property
    def empty(self) -> bool:
        return not (self.metrics or self.trajectories or self.results or self.calibration)

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        """Updates that know a metric, and its values."""
        rows = [row for row in self.metrics if name in row]
        return [int(row["update"]) for row in rows], [row[name] for row in rows]


def check(folder: Path) -> None:
    """Refuse what is no run directory, with what to do."""
    try:
        if _is_run(folder):
            return
        if not folder.is_dir():
            raise RunError(f"{folder} is no directory. {ADVICE}")
        within = sorted(str(path.parent) for path in folder.rglob("options.json"))
    except OSError as error:
        raise RunError(f"{folder} cannot be read: {error.strerror}. {ADVICE}") from error
    if not within:
        raise RunError(f"{folder} is no run directory. {ADVICE}")
    more = f" and {len(within) - NAMED} more" if len(within) > NAMED else ""
    raise RunError(f"{folder} is no run directory, but holds some: {' '.join(within[:NAMED])}{more}.")


def names(folders: Sequence[Path]) -> list[str]:
    """The shortest end of each path that no other has."""
    paths = [folder.resolve() for folder in folders]
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        ends = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(ends)) == len(ends):
            return ends
    raise AssertionError("the same path twice")


def trajectory_files(folder: Path) -> list[tuple[int, Path]]:
    """(update, file), the newest first."""
    files = [(path.stem.removeprefix("update-"), path) for path in (folder / "trajectories").glob("update-*.jsonl")]
    return sorted(((int(update), path) for update, path in files if update.isdecimal()), reverse=True)


def read(folder: Path, name: str, *, limit: int, keep: Keep, advance: Callable[[], None]) -> Record:
    """The whole run, with at most `limit` trajectories; `advance` is called for each trajectory file."""
    notes = Notes()
    record = Record(
        name=name,
        folder=folder,
        options=_object(folder / "options.json", notes),
        environment=_object(folder / "environment.json", notes),
        results=_object(folder / "results.json", notes),
        calibration=_object(folder / "calibration.json", notes),
        metrics=_metrics(folder / "metrics.jsonl", notes),
        notes=notes,
    )
    for update, file in trajectory_files(folder):
        if len(record.trajectories) < limit:
            _add_trajectories(record, update, file, limit, keep)
        else:
            record.older_files += 1
        advance()
    order = sorted(range(len(record.places)), key=lambda i: record.trajectories[i].update)
    record.trajectories = [record.trajectories[i] for i in order]
    record.places = [record.places[i] for i in order]
    return record


def _is_run(folder: Path) -> bool:
    return any((folder / sign).exists() for sign in SIGNS_OF_A_RUN)


def _object(file: Path, notes: Notes) -> dict[str, Any]:
    """A file of one JSON object; empty if there is none that can be read."""
    if not file.exists():
        return {}
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        notes.add("files that are no JSON object", file.name)
        return {}
    return content


def _lines(file: Path, place: str, notes: Notes) -> Iterator[tuple[str, Any]]:
    """(place, content) of every line that is JSON."""
    if not file.exists():
        return
    try:
        with file.open("rb") as opened:
            for count, line in enumerate(opened, start=1):
                where = f"{place} line {count}"
                if not line.strip():
                    continue
                try:
                    yield where, json.loads(line, parse_constant=lambda _, where=where: notes.add(NOT_FINITE, where))
                except (ValueError, RecursionError):
                    whole = line.endswith(b"\n")
                    notes.add(
                        "lines that are no JSON" if whole else "half-written last lines (cut short, or under way)",
                        where,
                    )
    except OSError as error:
        notes.add("files that cannot be read", f"{place} ({error.strerror})")


def _metrics(file: Path, notes: Notes) -> list[dict[str, float]]:
    rows: dict[float, dict[str, float]] = {}
    for where, content in _lines(file, file.name, notes):
        update = number(content.get("update")) if isinstance(content, dict) else None
        if update is None:
            notes.add("rows of metrics without an update", where)
            continue
        row = {key: finite for key, value in content.items() if (finite := number(value)) is not None}
        for key in sorted(content.keys() - row.keys()):
            if content[key] is not None:  # numbers that are not finite came as None, and are noted
                notes.add("metrics that are no numbers", f"{key} in {where}")
        rows[update] = row  # where a run was taken up again, the last row is the one that counts
    return [rows[update] for update in sorted(rows)]


def _add_trajectories(record: Record, update: int, file: Path, limit: int, keep: Keep) -> None:
    for where, content in _lines(file, f"trajectories/{file.name}", record.notes):
        if len(record.trajectories) == limit:
            return
        if isinstance(content, dict) and content.get("private"):
            record.notes.add("trajectories whose problems' authors ask not to publish them", where)
            continue
        try:
            trajectory, compact = parse(content, update, record.totals)
        except UnreadableError as error:
            record.notes.add(f"trajectories ({error})", where)
            continue
        record.trajectories.append(trajectory)
        record.places.append(keep(compact))
