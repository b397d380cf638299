"""Send a run to its trackers, in a thread for each. A tracker that is down, slow or faulty neither stops nor delays the run.

A run directory with trackers also has

    tracking/wandb.json   the tracker's run, its project, the newest update and the newest validation that were sent; the same
                          for other trackers
    tracking/report.html  the page that is sent at the end

An update or a validation that could not be sent is sent again before the next one. A resumed run continues the same run of the
tracker: it first sends what is missing. What is computed again after a crash is not sent twice, unless the tracker can replace
it.
"""

import json
import logging
import queue
import shlex
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from sod import __version__
from sod.config import ReportOptions, TrackOptions
from sod.config.tracking import TrackerNames
from sod.errors import SodError
from sod.processes.distributed import ALONE, OtherFailed, Ranks
from sod.runs.directory import Run
from sod.runs.files import write_whole
from sod.runs.validations import read_validations
from sod.trackers.base import NEEDS, Ending, TrackedRun, Tracker, project_of

logger = logging.getLogger(__name__)

TRACKERS = {
    "trackio": "sod.trackers.trackio:Trackio",
    "wandb": "sod.trackers.wandb:WeightsAndBiases",
    "tensorboard": "sod.trackers.tensorboard:TensorBoard",
    "mlflow": "sod.trackers.mlflow:MLflow",
}
END_SECONDS = 60.0
"""Seconds that a finished run waits for its trackers."""
HURRIED_SECONDS = 5.0
"""The same for a run that is killed soon: by a scheduler that interrupted it, or because another of its processes failed."""
TRAJECTORIES = 500
"""Number of trajectories on the page that is sent, the newest first."""


class TrackedOptions(Protocol):
    """Options of a command that has trackers."""

    @property
    def track(self) -> TrackerNames: ...
    @property
    def tracking(self) -> TrackOptions: ...
    def model_dump(self, *, mode: str) -> dict[str, Any]: ...


class Tracking:
    """The trackers of a run. No method waits for them."""

    def __init__(self, senders: "Sequence[Sender]" = ()):
        self._senders = senders

    def log(self, update: int, metrics: Mapping[str, float]) -> None:
        """Send the metrics of an update."""
        for sender in self._senders:
            sender.log(update, metrics)

    def log_validation(self, update: int, metrics: Mapping[str, float]) -> None:
        """Send the metrics of a validation after an update."""
        for sender in self._senders:
            sender.log_validation(update, metrics)

    def alert(self, update: int, name: str, text: str) -> None:
        """Send an alarm."""
        for sender in self._senders:
            sender.alert(update, name, text)


@contextmanager
def tracked(run: Run, options: TrackedOptions, ranks: Ranks = ALONE) -> Iterator[Tracking]:
    """Send the run to its trackers until the block ends, with the state in which it ends.

    The run directory must exist. Its metrics and validations so far are sent first, if a tracker lacks them. Only the first
    process sends.
    """
    if not options.track or not ranks.is_first:
        yield Tracking()
        return
    rows = [row for row in run.metrics() if row["update"] > 0]
    done = int(rows[-1]["update"]) if rows else 0
    senders = [Sender(name, _about(run, name, options, done)) for name in dict.fromkeys(options.track)]
    tracking = Tracking(senders)
    _log_again(run, rows, tracking)
    state: Ending = "finished"
    words = ""
    hurried = False
    try:
        yield tracking
    except KeyboardInterrupt:  # also a signal
        state, hurried = "interrupted", True
        raise
    except OtherFailed as error:
        state, words, hurried = "failed", str(error), True
        raise
    except BaseException as error:
        state, words = "failed", f"{type(error).__name__}: {error}"
        raise
    finally:
        files = _files(run) if options.tracking.files and not hurried else []
        for sender in senders:
            sender.end(state, words, files)
        end = time.monotonic() + (HURRIED_SECONDS if hurried else END_SECONDS)
        for sender in senders:
            sender.wait(max(0.0, end - time.monotonic()))


def _log_again(run: Run, rows: Sequence[Mapping[str, float]], tracking: Tracking) -> None:
    """Log what the run directory holds, in the order of the run: each update, then the validation after it."""
    metrics = {int(row["update"]): {name: value for name, value in row.items() if name != "update"} for row in rows}
    validations: dict[int, dict[str, float]] = {}
    for each in read_validations(run.folder):  # several of an update if the options of validation were changed
        validations.setdefault(each.update, {}).update(each.metrics)
    for update in sorted(metrics.keys() | validations.keys()):
        if update in metrics:
            tracking.log(update, metrics[update])
        if update in validations:
            tracking.log_validation(update, validations[update])


def _about(run: Run, tracker: str, options: TrackedOptions, done: int) -> TrackedRun:
    """Return what the tracker stores, with its run to continue if there is one."""
    project = project_of(tracker, options.tracking.project)
    stored = _stored(run, tracker)
    if stored.get("project") != project:  # of another project, or none
        stored = {}
    return TrackedRun(
        folder=run.folder,
        project=project,
        name=options.tracking.name or run.folder.resolve().name,
        id=stored.get("id"),
        sent=stored.get("sent", 0),
        validated=stored.get("validated", -1),
        done=done,
        options=options.model_dump(mode="json"),
        facts={"sod": __version__, "run_directory": str(run.folder.resolve()), "command_line": shlex.join(sys.argv)},
    )


def _file(folder: Path, tracker: str) -> Path:
    return folder / "tracking" / f"{tracker}.json"


def _stored(run: Run, tracker: str) -> dict[str, Any]:
    """Return what an earlier process stored about the tracker's run; nothing if that is missing or damaged."""
    try:
        content = json.loads(_file(run.folder, tracker).read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict) or not isinstance(content.get("id"), str):
        return {}
    whole = all(type(content.get(mark)) is int for mark in get_args(Mark))
    return content if whole else {}


def _files(run: Run) -> list[Path]:
    """Write the report page. -> it and the files of the run that are sent"""
    from sod.report import report

    page = run.folder / "tracking" / "report.html"
    try:
        report(ReportOptions(runs=(run.folder,), out=page, trajectories=TRAJECTORIES))
    except (SodError, OSError) as error:
        logger.warning(f"The trackers get no report page: {error}")
    newest = sorted((run.folder / "trajectories").glob("update-*.jsonl"))[-1:]
    named = [run.folder / name for name in ("options.json", "environment.json", "metrics.jsonl")]
    return [file for file in (page, *named, *newest) if file.is_file()]


Mark = Literal["sent", "validated"]
"""A fact in tracking/NAME.json: the newest update, or the newest validation, that the tracker has."""


@dataclass(frozen=True, slots=True)
class Job:
    """A call of a tracker."""

    call: Callable[[Tracker], None]
    mark: Mark | None = None
    """The fact that changes when the call succeeds. None for calls that are neither repeated nor stored."""
    update: int = 0


class Sender:
    """The queue of a tracker, and the thread that empties it."""

    def __init__(self, name: str, about: TrackedRun):
        self.name, self._about = name, about
        self._newest: dict[Mark, int] = {"sent": about.sent, "validated": about.validated}
        self._tracker: Tracker | None = None
        self._waiting: deque[Job] = deque()
        self._warned = False
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    # In the run's thread

    def log(self, update: int, metrics: Mapping[str, float]) -> None:
        self._queue.put(Job(lambda tracker: tracker.log(update, metrics), "sent", update))

    def log_validation(self, update: int, metrics: Mapping[str, float]) -> None:
        self._queue.put(Job(lambda tracker: tracker.log(update, metrics), "validated", update))

    def alert(self, update: int, name: str, text: str) -> None:
        self._queue.put(Job(lambda tracker: tracker.alert(update, name, text)))

    def end(self, state: Ending, words: str, files: Sequence[Path]) -> None:
        """Add the last calls."""
        if files:
            self._queue.put(Job(lambda tracker: tracker.add_files(files)))
        self._queue.put(Job(lambda tracker: tracker.close(state, words)))
        self._queue.put(None)

    def wait(self, seconds: float) -> None:
        """Wait until everything is sent, but no longer than this. Log a warning if something is missing."""
        self._thread.join(seconds)
        if missing := [job for job in list(self._waiting) if self._lacks(job)]:
            what = f"{'the validation after ' if missing[0].mark == 'validated' else ''}update {missing[0].update}"
            logger.warning(
                f"{self.name} lacks {what} and later ones. They are in {self._about.folder}. To send them, repeat the command "
                "with --resume."
            )
        elif self._thread.is_alive():
            logger.warning(f"{self.name} has not received everything. The run ends without waiting for it.")

    def _lacks(self, job: Job) -> bool:
        """Return whether the tracker does not have these metrics."""
        return job.mark is not None and job.update > self._newest[job.mark]

    # In the tracker's own thread

    def _work(self) -> None:
        for job in iter(self._queue.get, None):
            self._waiting.append(job)
            try:
                self._send()
            except Exception as error:
                self._warn(error)

    def _send(self) -> None:
        """Send the waiting calls in order. After an error, metrics wait for the next call; other calls are dropped."""
        if self._tracker is None:
            self._tracker = self._opened()
        while self._waiting:
            job = self._waiting[0]
            if job.mark is None:
                self._waiting.popleft()
                job.call(self._tracker)
                continue
            if self._lacks(job):
                job.call(self._tracker)
                self._newest[job.mark] = job.update
                self._store()
            self._waiting.popleft()

    def _opened(self) -> Tracker:
        """Open the tracker. Store its run at once, so that a killed run continues it."""
        module, kind = TRACKERS[self.name].split(":")
        tracker: Tracker = getattr(import_module(module), kind)()
        if tracker.replaces:
            self._newest = {mark: min(update, self._about.done) for mark, update in self._newest.items()}
        id = tracker.open(replace(self._about, **self._newest))
        self._about = replace(self._about, id=id)
        self._store()
        return tracker

    def _store(self) -> None:
        content = {"id": self._about.id, "project": self._about.project, **self._newest}
        file = _file(self._about.folder, self.name)
        with suppress(SodError, OSError):  # a full disk stops the run elsewhere
            file.parent.mkdir(exist_ok=True)
            write_whole(file, json.dumps(content), sync=False)

    def _warn(self, error: Exception) -> None:
        """Log the first error of the tracker."""
        if self._warned:
            return
        self._warned = True
        words = " ".join(f"{type(error).__name__}: {error}".split())
        logger.warning(
            f"{self.name} does not accept the run ({words}). The run goes on without it, and sends the missing updates when "
            f"{self.name} works again. {NEEDS[self.name].remedy}"
        )
