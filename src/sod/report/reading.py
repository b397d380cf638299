"""Read run directories for a report. Unreadable parts are left out and noted; they raise no error.

`sod.runs.directory` writes runs and reads its own. This module also reads interrupted, running or damaged runs, and those of
other versions.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sod.errors import RunError
from sod.report.trajectories import Compact, ShownTrajectory, TokenTotals, UnreadableError, drawable, parse_trajectory
from sod.runs.directory import command_of
from sod.runs.results import Numbers, Results, read_results
from sod.runs.validations import FILE as VALIDATIONS
from sod.runs.validations import VALIDATIONS_FOLDER as VALIDATED
from sod.runs.validations import Validation, best_update, validation_of

NOT_FINITE = "numbers that are not finite"
ADVICE = "Pass run directories of `sod train` or `sod eval`."
SIGNS_OF_A_RUN = ("options.json", "metrics.jsonl", "trajectories")
OF_VALIDATIONS = 8
"""At most this part of a run's trajectories on the page, one in eight, are of validations."""
NAMED = 6
"""Largest number of runs named in the error for a directory that contains runs."""

Keep = Callable[[Compact], tuple[int, int]]
"""Stores a trajectory for the page. -> number of the chunk, position in it"""


@dataclass(slots=True)
class Notes:
    """Notes on the parts of a run that were left out."""

    _places: dict[str, list[str]] = field(default_factory=dict)

    def add(self, what: str, where: str) -> None:
        self._places.setdefault(what, []).append(where)

    def lines(self) -> list[str]:
        """Return one line per kind, with the first place and the number of further ones."""
        return [
            f"{what}: {places[0]}" + (f" and {len(places) - 1} more" if len(places) > 1 else "")
            for what, places in self._places.items()
        ]


@dataclass(slots=True, kw_only=True)
class RunRecord:
    """All data of one run for the page."""

    name: str
    folder: Path
    options: dict[str, Any]
    environment: dict[str, Any]
    results: Results | None
    """None if there are none, or if they cannot be read."""
    calibration: dict[str, Any]
    metrics: list[dict[str, float]]
    """One row per update, in order; finite numbers only, including `update`."""
    validations: list[dict[str, float]] = field(default_factory=list)
    """Numbers of each validation with the settings of the last one, in order; finite numbers only, including `update`."""
    best: int | None = None
    """Number of updates before the checkpoint that the link RUN/best names. None without such a checkpoint."""
    trajectories: list[ShownTrajectory] = field(default_factory=list)
    """The newest trajectories, up to the limit, ordered by update."""
    places: list[tuple[int, int]] = field(default_factory=list)
    """Place of each trajectory in the page: chunk, position in it."""
    totals: TokenTotals = field(default_factory=TokenTotals)
    older_files: int = 0
    """Trajectory files not read, because newer ones already reach the limit."""
    notes: Notes = field(default_factory=Notes)

    @property
    def command(self) -> str:
        return command_of(self.environment, self.options)

    @property
    def algorithm(self) -> str | None:
        """Name of the algorithm that trains, or None."""
        algorithm = self.options.get("algorithm")
        name = algorithm.get("name") if isinstance(algorithm, dict) else None
        return name if isinstance(name, str) else None

    @property
    def measured(self) -> Numbers:
        """Results of an evaluation, averaged over its benchmarks."""
        return self.results.mean if self.results else {}

    @property
    def benchmarks(self) -> dict[str, Numbers]:
        """Results of an evaluation per benchmark."""
        return {name: each.measured for name, each in self.results.benchmarks.items()} if self.results else {}

    @property
    def empty(self) -> bool:
        return not (self.metrics or self.validations or self.trajectories or self.results or self.calibration)

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        """Return the updates that have a metric of the training or of its validations, and the metric's values."""
        rows = [row for row in (*self.metrics, *self.validations) if name in row]
        return [int(row["update"]) for row in rows], [row[name] for row in rows]


def check_run(folder: Path) -> None:
    """Raises RunError if the directory is not a run."""
    try:
        if _is_run(folder):
            return
        if not folder.is_dir():
            raise RunError(f"{folder} is not a directory. {ADVICE}")
        within = sorted(str(path.parent) for path in folder.rglob("options.json"))
    except OSError as error:
        raise RunError(f"{folder} cannot be read: {error.strerror}. {ADVICE}") from error
    if not within:
        raise RunError(f"{folder} is not a run directory. {ADVICE}")
    more = f" and {len(within) - NAMED} more" if len(within) > NAMED else ""
    raise RunError(
        f"{folder} is not a run directory, but contains some. Pass one or more of these: {' '.join(within[:NAMED])}{more}."
    )


def names(folders: Sequence[Path]) -> list[str]:
    """Return the shortest unique ends of the paths, of equal length."""
    paths = [folder.resolve() for folder in folders]
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        ends = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(ends)) == len(ends):
            return ends
    raise AssertionError("the same path twice")


def trajectory_files(folder: Path) -> list[tuple[int, Path]]:
    """Return (update, file) pairs, newest first."""
    return _numbered(folder / "trajectories")


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    files = [(path.stem.removeprefix("update-"), path) for path in folder.glob("update-*.jsonl")]
    return sorted(((int(update), path) for update, path in files if update.isdecimal()), reverse=True)


def read_run(folder: Path, name: str, *, limit: int, keep: Keep, advance: Callable[[], None]) -> RunRecord:
    """Read the whole run, with at most `limit` trajectories. Calls `advance` for each trajectory file."""
    notes = Notes()
    record = RunRecord(
        name=name,
        folder=folder,
        options=_object(folder / "options.json", notes),
        environment=_object(folder / "environment.json", notes),
        results=_results(folder, notes),
        calibration=_object(folder / "calibration.json", notes),
        metrics=_metrics(folder / "metrics.jsonl", notes),
        validations=_validations(folder / VALIDATIONS, notes),
        best=_best(folder),
        notes=notes,
    )
    for update, file in _numbered(folder / VALIDATED):
        _add_trajectories(record, update, file, limit // OF_VALIDATIONS, keep)
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


def _results(folder: Path, notes: Notes) -> Results | None:
    """Read the results of an evaluation; return None if they are missing or unreadable."""
    if not (folder / "results.json").exists():
        return None
    try:
        return read_results(folder)
    except RunError:
        notes.add("results that cannot be read", "results.json")
        return None


def _object(file: Path, notes: Notes) -> dict[str, Any]:
    """Read a file of one JSON object; return {} if it is missing or unreadable."""
    if not file.exists():
        return {}
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        notes.add("files that are not a JSON object", file.name)
        return {}
    return content


def _lines(file: Path, place: str, notes: Notes) -> Iterator[tuple[str, Any]]:
    """Yield (place, content) of every line that is JSON."""
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
                        "lines that are not JSON" if whole else "incomplete last lines (interrupted, or still running)",
                        where,
                    )
    except OSError as error:
        notes.add("files that cannot be read", f"{place} ({error.strerror})")


def _metrics(file: Path, notes: Notes) -> list[dict[str, float]]:
    rows: dict[float, dict[str, float]] = {}
    for where, content in _lines(file, file.name, notes):
        update = drawable(content.get("update")) if isinstance(content, dict) else None
        if update is None:
            notes.add("rows of metrics without an update", where)
            continue
        row = {key: finite for key, value in content.items() if (finite := drawable(value)) is not None}
        for key in sorted(content.keys() - row.keys()):
            if content[key] is not None:  # None stands for a number that is not finite, which is already noted
                notes.add("metrics that are not numbers", f"{key} in {where}")
        rows[update] = row  # a resumed run repeats updates; the last row counts
    return [rows[update] for update in sorted(rows)]


def _validations(file: Path, notes: Notes) -> list[dict[str, float]]:
    """Return the numbers of the validations that have the settings of the last one. Others are not comparable with it."""
    found: list[tuple[str, Validation]] = []
    for where, content in _lines(file, file.name, notes):
        try:
            found.append((where, validation_of(content)))
        except (ValueError, TypeError, LookupError):
            notes.add("validations that cannot be read", where)
    rows: dict[int, dict[str, float]] = {}
    for where, each in found:
        if each.settings != found[-1][1].settings:
            notes.add("validations with other options or problems than the last one", where)
            continue
        numbers = {key: finite for key, value in each.metrics.items() if (finite := drawable(value)) is not None}
        rows[each.update] = {"update": each.update} | numbers
    return [rows[update] for update in sorted(rows)]


def _best(folder: Path) -> int | None:
    with suppress(OSError, ValueError):  # the link may change meanwhile, or name something else
        return best_update(folder)
    return None


def _add_trajectories(record: RunRecord, update: int, file: Path, limit: int, keep: Keep) -> None:
    for where, content in _lines(file, f"{file.parent.name}/{file.name}", record.notes):
        if len(record.trajectories) >= limit:
            return
        if isinstance(content, dict) and content.get("private"):
            record.notes.add("trajectories of problems that their authors ask not to publish", where)
            continue
        if file.parent.name == VALIDATED and isinstance(content, dict):
            content["problem"] = f"{VALIDATED} {content.get('benchmark')}: {content.get('problem')}"
        try:
            trajectory, compact = parse_trajectory(content, update, record.totals)
        except UnreadableError as error:
            record.notes.add(f"trajectories ({error})", where)
            continue
        record.trajectories.append(trajectory)
        record.places.append(keep(compact))
