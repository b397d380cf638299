"""A run is a directory; everything that is known about it stands there, and reports only read it.

    options.json          every option, resolved
    environment.json      versions, machine, fingerprints of the data, updates that the run is to make
    metrics.jsonl         one row per update; keys are area/name
    trajectories/         update-0001.jsonl ...: tokens, text, mask, per-step d and w, reward, why it ended
    checkpoints/          update-0010/ ...: Hugging Face format, the optimiser's state, and a manifest
    results.json          what `sod eval` measured; results.md, the same as a table
    calibration.json      what `sod calibrate` found about the weights; continuations.jsonl beside it in its own directory
    run.lock              only while a process works there

A checkpoint is written beside its place, with a manifest of sizes and hashes, and moved there when it is whole; a
directory without a manifest that verifies does not count. Metrics of updates after the newest checkpoint are written
again by a resumed run, so they are cut off first. Rows that cannot be read are kept in metrics.jsonl.damaged.
"""

import json
import math
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sod import __version__
from sod.config import Options, resume_may_change
from sod.console.progress import say
from sod.distributed import ALONE, Ranks
from sod.errors import RunError
from sod.recipes import flat
from sod.runs import checkpoints
from sod.runs.files import PARTIAL, append_line, to_json, write_json, write_whole
from sod.runs.locks import Lock
from sod.runs.results import Results

SIGNS = ("options.json", "metrics.jsonl", "checkpoints", "trajectories")
"""Files and folders of which a run has at least one."""


@dataclass(frozen=True, slots=True)
class Run:
    folder: Path

    @contextmanager
    def held(self, ranks: Ranks = ALONE) -> Iterator[None]:
        """Keep every other process out; of several of this run, the first does. Raises RunError where one is in."""
        lock = Lock(self.folder)
        if warning := ranks.first(lock.take):
            say(warning)
        try:
            yield
        finally:
            lock.release()

    def check(self, options: Options, *, resume: bool) -> None:
        """Refuse at once what `open` would refuse for the options alone."""
        if resume:
            self._check_options(options)
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
        resume: bool = False,
        updates: int | None = None,
    ) -> "Run":
        """Create the directory and write down what is about to happen; or, with `resume`, check that it is the same.

        `data` maps the name of each file that the run reads to its fingerprint; `updates` is how many it is to make.
        """
        run = cls(out)
        run.check(options, resume=resume)
        before = run._environment_before(data) if resume else None
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{out} cannot be written: {error.strerror}. Choose another --out.") from error
        if before is None:
            run._write_again("environment.json", environment() | {"data": data, "updates": updates}, resume)
        elif before.get("updates") != updates:
            write_json(out / "environment.json", before | {"updates": updates})
        if not (out / "options.json").exists():
            run._write_again("options.json", options.model_dump(mode="json"), resume)
        return run

    @property
    def begun(self) -> bool:
        """Whether there is a run already."""
        return any((self.folder / sign).exists() for sign in SIGNS)

    def write_options(self, options: Options) -> None:
        """Every option, resolved; again where a run that is taken up may have others."""
        write_json(self.folder / "options.json", options.model_dump(mode="json"))

    @property
    def updates(self) -> int | None:
        """How many the run is to make; None where that is not known."""
        try:
            environment, options = self._stored("environment.json") or {}, self._stored("options.json") or {}
        except RunError:
            return None
        updates = environment.get("updates") or options.get("updates")
        return updates if isinstance(updates, int) else None

    def finished(self) -> Path | None:
        """The newest checkpoint, if it has all updates behind it that the run is to make."""
        newest, updates = self.newest_checkpoint(), self.updates
        return newest[1] if newest and updates is not None and newest[0] >= updates else None

    # Metrics and trajectories

    @property
    def metrics_file(self) -> Path:
        return self.folder / "metrics.jsonl"

    def record(self, update: int, metrics: dict[str, float], trajectories: Iterable[dict[str, Any]] = ()) -> None:
        """Append one row of metrics, and write the update's trajectories."""
        self.write_trajectories(update, trajectories)
        append_line(self.metrics_file, to_json({"update": update} | metrics, ascii=True))

    def trajectory_file(self, update: int) -> Path:
        return self.folder / "trajectories" / f"update-{update:04}.jsonl"

    def write_trajectories(self, update: int, trajectories: Iterable[dict[str, Any]]) -> None:
        """Write the update's trajectories, in place of earlier ones; no file if there are none."""
        lines = "".join(to_json(row) + "\n" for row in trajectories)
        if lines:
            file = self.trajectory_file(update)
            file.parent.mkdir(exist_ok=True)
            write_whole(file, lines, sync=False)

    def metrics(self) -> list[dict[str, float]]:
        """All rows that can be read, by update, the last of each; null is NaN."""
        return self._rows()[0]

    def _rows(self) -> tuple[list[dict[str, float]], int]:
        """Also how many lines cannot be read, except a last one that a crash has cut short."""
        rows: dict[int, dict[str, float]] = {}
        damaged = 0
        lines = self.metrics_file.read_bytes().split(b"\n") if self.metrics_file.exists() else [b""]
        for line in lines[:-1]:  # every complete row ends in a line break
            row = _metrics_row(line)
            if row is not None:
                rows[int(row["update"])] = row
            elif line:
                damaged += 1
        return [rows[update] for update in sorted(rows)], damaged

    def write_metrics(self, rows: Iterable[dict[str, float]]) -> None:
        """All rows, in place of those so far."""
        write_whole(self.metrics_file, "".join(to_json(row, ascii=True) + "\n" for row in rows))

    def write_results(self, results: Results, table: str) -> None:
        """As data and, in Markdown, for people."""
        write_json(self.folder / "results.json", results.record())
        write_whole(self.folder / "results.md", table)

    # Checkpoints

    def save(self, update: int, write: Callable[[Path], None], *, keep: int, ranks: Ranks = ALONE) -> Path:
        """A checkpoint that is whole or not there at all; then delete all earlier ones but the newest `keep`.

        Where there are several processes, all write into it, the first does the rest, and none goes on before it is whole.
        """
        place = self.folder / "checkpoints" / f"{checkpoints.PREFIX}{update:04}"
        if ranks.is_first:
            checkpoints.write(place, write)
            earlier = [old for old in self._checkpoints() if checkpoints.number(old) < update]
            for old in earlier[: max(0, len(earlier) - keep)]:
                shutil.rmtree(old)
        else:
            write(place.with_name(place.name + PARTIAL))
        ranks.meet()
        return place

    def newest_checkpoint(self) -> tuple[int, Path] | None:
        """(update, directory) of the newest checkpoint whose manifest verifies; None if there is none."""
        place, _ = self.newest_whole()
        return None if place is None else (checkpoints.number(place), place)

    def newest_whole(self) -> tuple[Path | None, list[str]]:
        """Return the newest checkpoint whose manifest verifies, and a sentence about each newer one, which is damaged."""
        damaged: list[str] = []
        for place in reversed(self._checkpoints()):
            what = checkpoints.fault(place)
            if not what:
                return place, damaged
            damaged.append(f"{place} is damaged: {what}.")
        return None, damaged

    def take_up(self) -> tuple[int, Path | None]:
        """(updates done, checkpoint) of what `newest_checkpoint` finds; (0, None) before the first was written.

        Damaged checkpoints are reported and left where they are. Raises RunError where all are damaged.
        """
        place, damaged = self.newest_whole()
        if place is not None:
            for line in damaged:
                say(line)
            update = checkpoints.number(place)
            say(f"The run continues from {place}." if damaged else f"The run continues after update {update}.")
            return update, place
        if damaged:
            raise RunError(
                f"No checkpoint of {self.folder} is whole. {' '.join(damaged)} Nothing was changed. Restore one of them, or "
                f"move {self.folder / 'checkpoints'} away to train again from the start."
            )
        if self.begun:
            say(f"{self.folder} has no checkpoint yet: the run starts again from update 0.")
        return 0, None

    def conclusion(self) -> str:
        """Where the outcome is; the last checkpoint was whole when it got its name, so its hashes are not computed again."""
        for place in reversed(self._checkpoints()):
            if not checkpoints.fault(place, hashes=False):
                return f"the model is in {place}"
        return f"{self.folder} holds no checkpoint"

    def rewind(self, update: int) -> None:
        """Forget the metrics and trajectories of updates after `update`: they are about to be computed again. And what is left of
        a checkpoint that was never whole."""
        for partial in (self.folder / "checkpoints").glob(f"*{PARTIAL}"):
            shutil.rmtree(partial)
        rows, damaged = self._rows()
        rows = [row for row in rows if 0 < row["update"] <= update]
        if damaged:
            kept = self._keep_aside(self.metrics_file)
            say(f"{self.metrics_file}, lines that cannot be read: {damaged}. The file as it was is kept in {kept}.")
        if missing := update - len(rows):
            say(f"{self.metrics_file} has no metrics of {missing} of the first {update} updates; they stay missing.")
        self.write_metrics(rows)
        for file in (self.folder / "trajectories").glob("update-*"):
            number = file.name.removeprefix("update-").partition(".")[0]
            if file.name.endswith(PARTIAL) or (number.isdecimal() and int(number) > update):
                file.unlink()

    def _keep_aside(self, file: Path) -> Path:
        """Copy a damaged file to a name that is free."""
        kept, count = file.with_name(f"{file.name}.damaged"), 1
        while kept.exists():
            count += 1
            kept = file.with_name(f"{file.name}.damaged-{count}")
        write_whole(kept, file.read_bytes())
        return kept

    def _checkpoints(self) -> list[Path]:
        """Oldest first; whether they are whole is another question."""
        return checkpoints.listed(self.folder / "checkpoints")

    # Resuming

    def _check_options(self, options: Options) -> None:
        if not self.begun:
            raise RunError(
                f"{self.folder} holds no run to resume. Start one without --resume, or choose another --out."
            )
        before = self._stored("options.json")
        if before is None:
            return
        now, before = flat(options.model_dump(mode="json")), flat(before)
        if unknown := sorted(now.keys() ^ before.keys()):
            raise RunError(
                f"{self.folder} holds a run of another command, or of another version of sod ({unknown[0]} is an option of "
                "only one of them). Choose another --out."
            )
        may_change = resume_may_change(type(options))
        changed = [key for key in now if key not in may_change and now[key] != before[key]]
        if changed:
            raise RunError(
                f"The run in {self.folder} was started with other options ({', '.join(changed)}); resume it with the "
                "options in its options.json, or choose another --out."
            )

    def _environment_before(self, data: dict[str, str]) -> dict[str, Any] | None:
        """What environment.json holds; None where there is none. Raises RunError where it is of other data."""
        before = self._stored("environment.json")
        if before is None:
            return None
        data_before = before.get("data")
        if not isinstance(data_before, dict):
            raise self._damaged("environment.json")
        for name in data | data_before:
            if data_before.get(name) != data.get(name):
                raise RunError(
                    f"The {name} of the run in {self.folder} is another one now, or has changed. Give the one that it was "
                    "started with (of a run, name the checkpoint), or choose another --out."
                )
        return before

    def _stored(self, name: str) -> dict[str, Any] | None:
        """A JSON object of the run; None where there is no such file. Raises RunError where it is damaged."""
        try:
            content = json.loads((self.folder / name).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise self._damaged(name) from error
        if not isinstance(content, dict) or not content:
            raise self._damaged(name)
        return content

    def _damaged(self, name: str) -> RunError:
        what = "options" if name == "options.json" else "data and models"
        return RunError(
            f"{self.folder / name} is damaged, so the {what} of the run cannot be compared with those given now. If they are "
            f"the same, move this file away and resume: it is then written again. Everything else is kept."
        )

    def _write_again(self, name: str, content: dict[str, Any], resume: bool) -> None:
        if resume:
            say(f"{self.folder / name} is missing. It is written again, and was not compared with what is given now.")
        write_json(self.folder / name, content)


def _metrics_row(line: bytes) -> dict[str, float] | None:
    """A row of metrics; None where the line is none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get("update")) is not int:
        return None
    if not all(value is None or type(value) in (int, float) for value in row.values()):
        return None
    return {name: math.nan if value is None else value for name, value in row.items()}


def environment() -> dict[str, Any]:
    """What this run ran on."""
    packages = ("torch", "transformers", "tokenizers", "safetensors", "pydantic")
    return {
        "sod": __version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "packages": {name: version(name) for name in packages},
        "command": sys.argv,
    }
