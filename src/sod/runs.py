"""A run is a directory; everything that is known about it stands there, and reports only read it.

    options.json          every option, resolved
    environment.json      versions, machine, fingerprints of the data
    metrics.jsonl         one row per update; keys are area/name
    trajectories/         update-0001.jsonl ...: tokens, text, mask, per-step d and w, reward, why it ended
    checkpoints/          update-0010/ ...: Hugging Face format, the optimiser's state, and a manifest
    results.json          what `sod eval` measured; results.md, the same as a table
    calibration.json      what `sod calibrate` found about the weights; continuations.jsonl beside it in its own directory

A checkpoint is written beside its place, with a manifest of sizes and hashes, and moved there when it is whole; a
directory without a manifest that verifies does not count. Metrics of updates after the newest checkpoint are written
again by a resumed run, so they are cut off first.
"""

import hashlib
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sod import __version__
from sod.config import Options
from sod.errors import RunError
from sod.ranks import ALONE, Ranks

MANIFEST = "manifest.json"
PARTIAL = ".partial"
"""Ends the name of what is being written."""
TRAINER = "trainer"
"""Folder in a checkpoint, of what only a resumed run needs."""
RESUME_MAY_CHANGE = {
    *("resume", "dry_run", "out", "updates", "save_every", "keep", "save_trajectories"),
    *("engine.url", "engine.memory_share", "engine.exchange", "engine.patience", "engine.key_variable"),
    *("score.offload_teacher", "score.shard_teacher", "score.teacher_url", "score.teacher_served_name", "processes"),
    *("score.teacher_patience", "learn.checkpointing", "data_dir", "rollout.concurrency", "microbatch_tokens"),
    *("sandbox.workers", "sandbox.retries", "sandbox.patience", "sandbox.max_failure_rate"),
    *("rollout.seconds", "rollout.update_seconds", "rollout.retries"),
    *("samples", "limit", "judges", "paper", "demonstrations"),
    *("model", "student", "teacher", "data"),  # by their fingerprints, wherever they are
}
"""Options that do not change what a run computes up to a given update, or a given sample."""


@dataclass(frozen=True, slots=True)
class Run:
    folder: Path

    @classmethod
    def open(cls, options: Options, out: Path, *, data: dict[str, str], resume: bool = False) -> "Run":
        """Create the directory and write down what is about to happen; or, with `resume`, check that it is the same.

        `data` maps the name of each file that the run reads to its fingerprint.
        """
        run = cls(out)
        if resume:
            run._check_same(options, data)
            return run
        if run.begun:
            how = "Continue it with --resume, or choose " if "resume" in type(options).model_fields else "Choose "
            raise RunError(f"{out} already holds a run. {how}another --out.")
        try:
            out.mkdir(parents=True, exist_ok=True)
            run._write_json("environment.json", environment() | {"data": data})
            run.write_options(options)
        except OSError as error:
            raise RunError(
                f"The run directory {out} cannot be written: {error.strerror}. Choose another --out."
            ) from error
        return run

    @property
    def begun(self) -> bool:
        """Whether there is a run already."""
        return (self.folder / "options.json").exists()

    def write_options(self, options: Options) -> None:
        """Every option, resolved; again where a run that is taken up may have others."""
        self._write_json("options.json", options.model_dump(mode="json"))

    # Metrics and trajectories

    @property
    def metrics_file(self) -> Path:
        return self.folder / "metrics.jsonl"

    def record(self, update: int, metrics: dict[str, float], trajectories: Iterable[dict[str, Any]] = ()) -> None:
        """Append one row of metrics, and write the update's trajectories."""
        self.write_trajectories(update, trajectories)
        with self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"update": update} | metrics) + "\n")

    def trajectory_file(self, update: int) -> Path:
        return self.folder / "trajectories" / f"update-{update:04}.jsonl"

    def write_trajectories(self, update: int, trajectories: Iterable[dict[str, Any]]) -> None:
        """Write the update's trajectories, in place of earlier ones; no file if there are none."""
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in trajectories)
        if lines:
            file = self.trajectory_file(update)
            file.parent.mkdir(exist_ok=True)
            _write_atomically(file, lines)

    def metrics(self) -> list[dict[str, float]]:
        """All rows so far; a last line cut short by a crash is left out."""
        if not self.metrics_file.exists():
            return []
        lines = self.metrics_file.read_text(encoding="utf-8").split("\n")
        whole = lines[:-1]  # every complete row ends in a line break
        return [json.loads(line) for line in whole if line]

    def write_metrics(self, rows: Iterable[dict[str, float]]) -> None:
        """All rows, in place of those so far."""
        _write_atomically(self.metrics_file, "".join(json.dumps(row) + "\n" for row in rows))

    def write_results(self, results: dict[str, Any], table: str) -> None:
        """As data and, in Markdown, for people."""
        self._write_json("results.json", results)
        _write_atomically(self.folder / "results.md", table)

    # Checkpoints

    def save(self, update: int, write: Callable[[Path], None], *, keep: int, ranks: Ranks = ALONE) -> Path:
        """A checkpoint that is whole or not there at all; then delete all but the newest `keep` (and this one).

        Where there are several processes, all write into it, the first does the rest, and none goes on before it is whole.
        """
        place = self.folder / "checkpoints" / f"update-{update:04}"
        partial = place.with_name(place.name + PARTIAL)
        if ranks.is_first:
            self._write_whole(place, partial, write)
            for old in self._checkpoints()[: -(keep + 1)]:
                shutil.rmtree(old)
        else:
            write(partial)
        ranks.meet()
        return place

    def _write_whole(self, place: Path, partial: Path, write: Callable[[Path], None]) -> None:
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            write(partial)
            manifest = {
                file.relative_to(partial).as_posix(): {"bytes": file.stat().st_size, "sha256": _sha256(file)}
                for file in sorted(partial.rglob("*"))
                if file.is_file()
            }
            (partial / MANIFEST).write_text(json.dumps(manifest, indent=2))
            _sync(partial)
        except BaseException as error:
            shutil.rmtree(partial, ignore_errors=True)
            if not isinstance(error, Exception):  # an interrupt
                raise
            # On a full disk, each library below raises something else.
            raise RunError(f"The checkpoint {place} cannot be written: {error}.") from error
        shutil.rmtree(place, ignore_errors=True)
        partial.rename(place)
        _sync_folder(place.parent)

    def newest_checkpoint(self) -> tuple[int, Path] | None:
        """(update, directory) of the newest checkpoint whose manifest verifies; None if there is none."""
        for place in reversed(self._checkpoints()):
            if _verifies(place):
                return int(place.name.removeprefix("update-")), place
        return None

    def conclusion(self) -> str:
        """Where the outcome is; the last checkpoint was whole when it got its name, so it is not read again."""
        places = self._checkpoints()
        return f"the model is in {places[-1]}" if places else f"{self.folder} holds no checkpoint"

    def rewind(self, update: int) -> None:
        """Forget the metrics and trajectories of updates after `update`: they are about to be computed again. And what is left of
        a checkpoint that was never whole."""
        for partial in (self.folder / "checkpoints").glob(f"*{PARTIAL}"):
            shutil.rmtree(partial)
        self.write_metrics([row for row in self.metrics() if row["update"] <= update])
        for file in (self.folder / "trajectories").glob("update-*.jsonl"):
            if int(file.stem.removeprefix("update-")) > update:
                file.unlink()

    def _checkpoints(self) -> list[Path]:
        """Oldest first; whether they are whole is another question."""
        places = (self.folder / "checkpoints").glob("update-*")
        return sorted((place for place in places if place.name[7:].isdecimal()), key=lambda place: int(place.name[7:]))

    # Resuming

    def _check_same(self, options: Options, data: dict[str, str]) -> None:
        try:
            before = json.loads((self.folder / "options.json").read_text())
            data_before = json.loads((self.folder / "environment.json").read_text())["data"]
        except (OSError, ValueError, KeyError) as error:
            raise RunError(
                f"{self.folder} holds no run to resume. Start one without --resume, or choose another --out."
            ) from error
        now, before = _flat(options.model_dump(mode="json")), _flat(before)
        if unknown := sorted(now.keys() ^ before.keys()):
            raise RunError(
                f"{self.folder} holds a run of another command, or of another version of sod ({unknown[0]} is an option of "
                "only one of them). Choose another --out."
            )
        changed = [key for key in now if key not in RESUME_MAY_CHANGE and now[key] != before[key]]
        if changed:
            raise RunError(
                f"The run in {self.folder} was started with other options ({', '.join(changed)}); resume it with the "
                "options in its options.json, or choose another --out."
            )
        for name in data | data_before:
            if data_before.get(name) != data.get(name):
                raise RunError(
                    f"The {name} of the run in {self.folder} is another one now, or has changed. Give the one that it was "
                    "started with (of a run, name the checkpoint), or choose another --out."
                )

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        _write_atomically(self.folder / name, json.dumps(content, indent=2) + "\n")


def _flat(options: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options by dotted name."""
    flat: dict[str, Any] = {}
    for key, value in options.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


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


def _verifies(place: Path) -> bool:
    try:
        manifest = json.loads((place / MANIFEST).read_text())
        return all(
            (place / name).stat().st_size == entry["bytes"] and _sha256(place / name) == entry["sha256"]
            for name, entry in manifest.items()
        )
    except (OSError, ValueError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_atomically(path: Path, text: str) -> None:
    partial = path.with_name(path.name + PARTIAL)
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}.") from error


def _sync(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
