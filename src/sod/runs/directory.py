"""The directory of a run. It holds all facts about the run; reports only read it.

    options.json          every option, resolved; a resumed run writes it again, because some options may change
    environment.json      versions, machine, fingerprints of the data, digests of other files, planned number of updates
    metrics.jsonl         one row per update; keys are area/name (`sod.runs.metrics` computes them)
    trajectories/         update-0001.jsonl ...: tokens, text, mask, per-step d and w, reward, reason of the end
    checkpoints/          update-0010/ ...: model and training state (`sod.runs.checkpoints` lists their files)
    validation.jsonl      one row per validation: numbers, and what each problem contributes (sod.runs.validations)
    validation/           update-0000.jsonl ...: a few trajectories of each validation
    best                  link to the checkpoint with the best validation, which is never deleted
    results.json          results of `sod eval`; results.md has the same as a table
    calibration.json      results of `sod calibrate`; continuations.jsonl is in the same directory
    open/                 conversations of `sod serve` that are under way (`sod.serving.open_files`)
    run.lock              exists only while a process uses the directory, or after that process was killed
    end.json              how the run ended: finished, stopped by an alarm, interrupted, or failed (`sod.runs.ends`)

A resumed run computes the updates after the newest checkpoint again, so their metrics and validations are removed first. Rows
that cannot be read are kept in metrics.jsonl.damaged. Validations have a file of their own, because there is one before the
first update and none after most.

end.json is written by the process that holds the directory, and deleted when a run begins or resumes. A killed process writes
none: run.lock is then left, and no process holds it.
"""

import json
import logging
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sod.config import Options
from sod.errors import RunError
from sod.processes.distributed import ALONE, Ranks
from sod.runs import checkpoints
from sod.runs.ends import forget_end, write_end
from sod.runs.files import PARTIAL, append_line, to_json, write_json, write_whole
from sod.runs.locks import Lock
from sod.runs.results import Results
from sod.runs.resuming import check_options, contents_known, describe_environment, environment_before, stored
from sod.runs.validations import BEST, best_update, link_best, rewind_validations

logger = logging.getLogger(__name__)

SIGNS = ("options.json", "metrics.jsonl", "checkpoints", "trajectories")
"""Files and folders; a run has at least one of them."""

_under_way: set[Path] = set()
"""Runs that this process has begun or resumed, and still holds."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run directory."""

    folder: Path

    @contextmanager
    def held(self, ranks: Ranks = ALONE) -> Iterator[None]:
        """Lock the directory, and write at the end how the run ended. Raise RunError if another run has locked it.

        Of several processes, the first does both. A run that was not opened meanwhile keeps its earlier end.
        """
        lock = Lock(self.folder)
        if warning := ranks.first(lock.take):
            logger.warning(warning)
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            if ranks.is_first and self.folder.resolve() in _under_way:
                _under_way.discard(self.folder.resolve())
                write_end(self.folder, error)
            lock.release()

    def check(self, options: Options, *, resume: bool) -> None:
        """Raise the RunError of `open` if the options already cause it."""
        if resume and not self.begun:
            raise RunError(f"{self.folder} holds no run to resume. Leave --resume out, or choose another --out.")
        if resume:
            check_options(self.folder, options)
        elif self.begun:
            how = "Continue it with --resume, or choose " if "resume" in type(options).model_fields else "Choose "
            raise RunError(f"{self.folder} already holds a run. {how}another --out.")

    @classmethod
    def open(
        cls,
        options: Options,
        out: Path,
        *,
        data: dict[str, str],
        files: Mapping[str, str] | None = None,
        resume: bool = False,
        updates: int | None = None,
    ) -> "Run":
        """Create the directory and write options and environment. With `resume`, check that they are the same.

        `data` maps the name of each input to its fingerprint, `files` that of each other file to its digest
        (`sod.runs.contents`). `updates` is the planned number of updates.
        """
        run = cls(out)
        run.check(options, resume=resume)
        before = environment_before(out, data) if resume else None
        known = contents_known(out, before, dict(files or {}), accept=getattr(options, "accept_changed", False))
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{out} cannot be written: {error.strerror}. Choose another --out.") from error
        if before is None:
            now = describe_environment() | {"command": options.COMMAND, "data": data} | known | {"updates": updates}
            run._write_again("environment.json", now, resume)
        elif before | known | {"updates": updates} != before:
            write_json(out / "environment.json", before | known | {"updates": updates})
        if not (out / "options.json").exists():
            run._write_again("options.json", options.model_dump(mode="json"), resume)
        forget_end(out)
        _under_way.add(out.resolve())
        return run

    @property
    def begun(self) -> bool:
        """Return whether the directory already holds a run."""
        return any((self.folder / sign).exists() for sign in SIGNS)

    def write_options(self, options: Options) -> None:
        """Write options.json: every option, resolved. Call it when a run continues, because some options may then change."""
        write_json(self.folder / "options.json", options.model_dump(mode="json"))

    @property
    def updates(self) -> int | None:
        """Return the planned number of updates, or None if it is unknown."""
        try:
            environment, options = (
                stored(self.folder, "environment.json") or {},
                stored(self.folder, "options.json") or {},
            )
        except RunError:
            return None
        updates = environment.get("updates") or options.get("updates")
        return updates if isinstance(updates, int) else None

    def finished(self) -> Path | None:
        """Return the newest checkpoint if it is after all planned updates, else None."""
        newest, updates = self.newest_checkpoint(), self.updates
        return newest[1] if newest and updates is not None and newest[0] >= updates else None

    # Metrics and trajectories

    @property
    def metrics_file(self) -> Path:
        return self.folder / "metrics.jsonl"

    def record(self, update: int, metrics: dict[str, float], trajectories: Iterable[dict[str, Any]] = ()) -> None:
        """Append a row of metrics, and write the update's trajectories."""
        self.write_trajectories(update, trajectories)
        append_line(self.metrics_file, to_json({"update": update} | metrics, ascii=True))

    def trajectory_file(self, update: int) -> Path:
        return self.folder / "trajectories" / f"update-{update:04}.jsonl"

    def write_trajectories(self, update: int, trajectories: Iterable[dict[str, Any]]) -> None:
        """Write the update's trajectories over earlier ones. Without trajectories, write no file."""
        lines = "".join(to_json(row) + "\n" for row in trajectories)
        if lines:
            file = self.trajectory_file(update)
            file.parent.mkdir(exist_ok=True)
            write_whole(file, lines, sync=False)

    def metrics(self) -> list[dict[str, float]]:
        """Return all readable rows, sorted by update; the last row of each update counts. null becomes NaN."""
        return self._rows()[0]

    def _rows(self) -> tuple[list[dict[str, float]], int]:
        """Return the rows of `metrics`, and the number of unreadable lines except a truncated last one."""
        rows: dict[int, dict[str, float]] = {}
        damaged = 0
        lines = self.metrics_file.read_bytes().split(b"\n") if self.metrics_file.exists() else [b""]
        for line in lines[:-1]:  # a complete row ends with a line break
            row = _metrics_row(line)
            if row is not None:
                rows[int(row["update"])] = row
            elif line:
                damaged += 1
        return [rows[update] for update in sorted(rows)], damaged

    def write_metrics(self, rows: Iterable[dict[str, float]]) -> None:
        """Replace all rows of metrics."""
        write_whole(self.metrics_file, "".join(to_json(row, ascii=True) + "\n" for row in rows))

    def write_results(self, results: Results, table: str) -> None:
        """Write the results as JSON, and the table as Markdown."""
        write_json(self.folder / "results.json", results.record())
        write_whole(self.folder / "results.md", table)

    # Checkpoints

    def save(self, update: int, write: Callable[[Path], None], *, keep: int, ranks: Ranks = ALONE) -> Path:
        """Write a checkpoint atomically. Then delete all earlier ones except the newest `keep` and the best. -> its folder

        Several processes all write into it. The first one writes the manifest, and the others wait for that.
        """
        place = self._place(update)
        if ranks.is_first:
            checkpoints.write_checkpoint(place, write)
            self._prune(update, keep)
        else:
            write(place.with_name(place.name + PARTIAL))
        ranks.meet()
        return place

    def _prune(self, update: int, keep: int) -> None:
        """Delete all checkpoints before `update` except the newest `keep` and the best."""
        best = best_update(self.folder)
        earlier = [old for old in self._checkpoints() if checkpoints.updates_of(old) < update]
        for old in earlier[: max(0, len(earlier) - keep)]:
            if checkpoints.updates_of(old) != best:
                shutil.rmtree(old)

    def choose_best(self, update: int, *, keep: int) -> None:
        """Make the link `best` name the checkpoint after `update` updates. The former best one is kept no longer."""
        self.link_best(update)
        self._prune(checkpoints.updates_of(self._checkpoints()[-1]), keep)

    def link_best(self, update: int) -> None:
        """Make the link `best` name the checkpoint after `update` updates, unless it does or there is none."""
        place = self._place(update)
        if update != best_update(self.folder) and place.is_dir():
            link_best(self.folder, place)

    def saved_updates(self) -> list[int]:
        """Return the number of updates before each checkpoint, oldest first. Their content is not verified."""
        return list(map(checkpoints.updates_of, self._checkpoints()))

    def shorten(self, update: int) -> None:
        """Write that the run is complete after `update` updates."""
        environment = stored(self.folder, "environment.json")
        if environment is not None:
            write_json(self.folder / "environment.json", environment | {"updates": update})

    def newest_checkpoint(self) -> tuple[int, Path] | None:
        """Return (update, directory) of the newest checkpoint whose manifest verifies, or None."""
        place, _ = self.newest_whole()
        return None if place is None else (checkpoints.updates_of(place), place)

    def newest_whole(self) -> tuple[Path | None, list[str]]:
        """Return the newest checkpoint whose manifest verifies, and a sentence about each newer (damaged) one."""
        damaged: list[str] = []
        for place in reversed(self._checkpoints()):
            what = checkpoints.fault(place)
            if not what:
                return place, damaged
            damaged.append(f"{place} is damaged: {what}.")
        return None, damaged

    def take_up(self) -> tuple[int, Path | None]:
        """Return (updates done, checkpoint) to resume from, or (0, None) if no checkpoint was written.

        Damaged checkpoints are reported and kept. Raise RunError if all are damaged.
        """
        place, damaged = self.newest_whole()
        if place is not None:
            for line in damaged:
                logger.warning(line)
            update = checkpoints.updates_of(place)
            logger.info(f"The run continues from {place}." if damaged else f"The run continues after update {update}.")
            return update, place
        if damaged:
            raise RunError(
                f"Every checkpoint of {self.folder} is damaged. {' '.join(damaged)} Nothing was changed. Restore one of them, "
                f"or move {self.folder / 'checkpoints'} away to train again from the start."
            )
        if self.begun:
            logger.warning(f"{self.folder} has no checkpoint yet: the run starts again at update 0.")
        return 0, None

    def conclusion(self) -> str:
        """Return where the model is, in words. Hashes are not computed again, because checkpoints are renamed when complete."""
        for place in reversed(self._checkpoints()):
            if not checkpoints.fault(place, hashes=False):
                best = best_update(self.folder)
                chosen = f"; the best by validation, after update {best}, is {self.folder / BEST}"
                return f"the model is in {place}" + (chosen if best is not None else "")
        return f"{self.folder} holds no checkpoint"

    def rewind(self, update: int) -> None:
        """Delete metrics and trajectories of updates after `update`, and incomplete checkpoints.

        The run is about to compute these updates again.
        """
        for partial in (self.folder / "checkpoints").glob(f"*{PARTIAL}"):
            shutil.rmtree(partial)
        rows, damaged = self._rows()
        rows = [row for row in rows if 0 < row["update"] <= update]
        if damaged:
            kept = self._keep_aside(self.metrics_file)
            logger.warning(
                f"{self.metrics_file}, unreadable lines: {damaged}. They are removed; the original file is kept as {kept}."
            )
        if missing := update - len(rows):
            logger.warning(
                f"{self.metrics_file} lacks the metrics of {missing} of the first {update} updates. They remain missing."
            )
        self.write_metrics(rows)
        rewind_validations(self.folder, update)
        for file in (self.folder / "trajectories").glob("update-*"):
            number = file.name.removeprefix("update-").partition(".")[0]
            if file.name.endswith(PARTIAL) or (number.isdecimal() and int(number) > update):
                file.unlink()

    def _keep_aside(self, file: Path) -> Path:
        """Copy a damaged file to an unused name. -> the copy"""
        kept, count = file.with_name(f"{file.name}.damaged"), 1
        while kept.exists():
            count += 1
            kept = file.with_name(f"{file.name}.damaged-{count}")
        write_whole(kept, file.read_bytes())
        return kept

    def _place(self, update: int) -> Path:
        return self.folder / "checkpoints" / f"{checkpoints.PREFIX}{update:04}"

    def _checkpoints(self) -> list[Path]:
        """Return all checkpoints, oldest first. Their content is not verified."""
        return checkpoints.checkpoint_folders(self.folder / "checkpoints")

    def _write_again(self, name: str, content: dict[str, Any], resume: bool) -> None:
        if resume:
            logger.warning(
                f"{self.folder / name} is missing. It is written again from the current values, without a comparison."
            )
        write_json(self.folder / name, content)


def _metrics_row(line: bytes) -> dict[str, float] | None:
    """Return a row of metrics, or None for an invalid line."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get("update")) is not int:
        return None
    if not all(value is None or type(value) in (int, float) for value in row.values()):
        return None
    return {name: math.nan if value is None else value for name, value in row.items()}


def command_of(environment: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """Return the command that made a run, from its environment.json; "?" if unknown.

    Runs before 2026-12 did not record it. Theirs is recognised by an option that only this command has.
    """
    if isinstance(command := environment.get("command"), str):
        return command
    signs = {"updates": "train", "samples": "eval", "epochs": "sft", "run": "calibrate"}
    return next((command for sign, command in signs.items() if sign in options), "?")
