"""Derive the state of a run from its directory: state, progress, time left, score. Nothing is written.

A directory may be missing, half written or damaged. Missing facts are None.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

from sod.report import summary
from sod.report.reading import RunRecord, read_run
from sod.runs.checkpoints import checkpoint_folders, updates_of
from sod.runs.directory import Run
from sod.runs.ends import END_FILE, End, read_end
from sod.runs.locks import LOCK_FILE, is_held
from sod.runs.validations import BEST, VALIDATIONS_FOLDER
from sod.runs.validations import FILE as VALIDATIONS

State = Literal["waiting", "starting", "running", "finished", "alarm", "interrupted", "failed", "crashed", "unfinished"]
"""waiting: no run yet. starting: locked, nothing written yet. alarm, interrupted, failed: see `sod.runs.ends`. crashed: its
process was killed. unfinished: no end is recorded (a copied run, or one of an older version)."""
EXPECTED: tuple[State, ...] = ("waiting", "starting", "running", "finished")
"""States that are no reason to act."""

SAMPLES = "trajectories/update-0000.jsonl"
SAMPLED = ("eval", "rollout", "serve")
"""Commands that write each sample when it ends."""
"""File of an evaluation: a line per sample."""
CHANGING = (
    "metrics.jsonl",
    VALIDATIONS,
    VALIDATIONS_FOLDER,
    BEST,
    "options.json",
    "results.json",
    "calibration.json",
    "trajectories",
    SAMPLES,
    END_FILE,
    LOCK_FILE,
)
"""Files and folders whose change means that the run has changed."""
RECENT = 10
"""Number of updates whose duration predicts the time left."""
SCORES = (("rollout/solved", "solved"), ("learn/loss", "loss"))
"""Metrics that are a score, the first known one counts, and their names in a table. An evaluation's avg comes first."""

Signature = tuple[tuple[int, int, int] | None, ...]
"""Time of the last change, size and inode of each entry of `CHANGING`; None if it is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """The state of a run at one moment."""

    record: RunRecord
    """All facts of the directory, without trajectories."""
    state: State
    end: End | None
    """How the run ended, if that is recorded and the run is not running again."""
    done: int
    """Number of updates; for an evaluation, of samples."""
    planned: int | None
    """Planned number of updates; None if it is unknown."""
    left: float | None
    """Estimated seconds until the end; None if the run is not running, or before the first update."""
    score: tuple[str, float] | None
    """Name and value of the newest solve rate, of an evaluation's average, or of the loss."""
    changed: float | None
    """Time of the last change, in seconds since 1970; None for a missing directory."""

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def words(self) -> str:
        """The state in words, with its cause."""
        by = self.end.by if self.end else ""
        match self.state:
            case "alarm":
                return f"stopped by alarm {by}"
            case "interrupted" | "failed":
                return f"{self.state} ({by})" if by else self.state
            case _:
                return self.state

    @property
    def command(self) -> str:
        """The command that made the run, with its algorithm."""
        return " ".join(filter(None, (self.record.command, self.record.algorithm)))

    @property
    def score_words(self) -> str:
        """The score with its name."""
        if self.score is None:
            return summary.UNKNOWN
        name, value = self.score
        return f"{name} {value:.3f}" if name == "loss" else f"{name} {value:.1%}"

    @property
    def progress(self) -> str:
        """Updates or samples done, of the planned number if it is known."""
        if self.state in ("waiting", "starting"):
            return ""
        if self.planned is None:
            return f"{self.done:,} samples" if self.record.command in SAMPLED else f"{self.done:,}"
        return f"{self.done:,}/{self.planned:,}"


def status_of(folder: Path, name: str, now: float) -> RunStatus:
    """Read the state of a run. `now`: seconds since 1970."""
    held = is_held(folder)  # first: a run that ends meanwhile has written everything that is read later
    record = read_run(folder, name, limit=0, keep=lambda _: (0, 0), advance=lambda: None)
    end = None if held else read_end(folder)
    planned = Run(folder).updates
    state = _state(folder, record, held, end, planned)
    updates = int(record.metrics[-1]["update"]) if record.metrics else 0
    done = _lines(folder / SAMPLES) if record.command in SAMPLED else updates
    left = _left(record, planned - done, now) if state == "running" and planned is not None else None
    return RunStatus(
        record=record,
        state=state,
        end=end,
        done=done,
        planned=planned,
        left=left,
        score=_score(record),
        changed=_changed(folder),
    )


def signature(folder: Path) -> Signature:
    """Return a value that differs whenever the run has changed. Reads no file."""
    found: list[tuple[int, int, int] | None] = []
    for name in CHANGING:
        try:
            stat = (folder / name).stat()
            found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
        except OSError:
            found.append(None)
    return tuple(found)


def _state(folder: Path, record: RunRecord, held: bool | None, end: End | None, planned: int | None) -> State:
    begun = bool(record.options) or not record.empty
    if held:
        return "running" if begun else "starting"
    if end:
        return end.how
    if held is None:
        return "crashed"
    if not begun:
        return "waiting"
    if record.results:
        return "interrupted" if record.results.partial else "finished"
    saved = checkpoint_folders(folder / "checkpoints")
    if record.calibration or (saved and planned is not None and updates_of(saved[-1]) >= planned):
        return "finished"
    return "unfinished"


def _left(record: RunRecord, updates: int, now: float) -> float | None:
    """Return the seconds that so many updates take, at the speed of the latest ones."""
    seconds = [row["seconds/update"] for row in record.metrics[-RECENT:] if "seconds/update" in row]
    if not seconds:
        return None
    waited = 0.0
    with suppress(OSError):
        waited = now - (record.folder / "metrics.jsonl").stat().st_mtime
    return max(0.0, updates * fmean(seconds) - max(0.0, waited))


def _score(record: RunRecord) -> tuple[str, float] | None:
    if "avg" in record.measured:
        return "avg", record.measured["avg"]
    for key, name in SCORES:
        if values := record.curve(key)[1]:
            return name, values[-1]
    return None


def _changed(folder: Path) -> float | None:
    times = [entry[0] / 1e9 for entry in signature(folder) if entry is not None]
    return max(times, default=None)


def _lines(file: Path) -> int:
    """Return the number of complete lines."""
    with suppress(OSError):
        return sum(block.count(b"\n") for block in _blocks(file))
    return 0


def _blocks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while block := opened.read(1 << 20):
            yield block
