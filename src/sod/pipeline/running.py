"""Run the missing stages of an experiment, one after another, in processes of their own."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sod.config import ReportOptions, RunOptions
from sod.config.recipes import flat, to_toml
from sod.console.progress import clock, echo
from sod.errors import (
    EXIT_INTERRUPTED,
    EXIT_TRY_AGAIN,
    InfrastructureError,
    OptionError,
    RunError,
    TrainingError,
)
from sod.pipeline.forecasting import Forecast
from sod.pipeline.planning import plan_stages
from sod.pipeline.stages import ExperimentStage, read_stages, reads, runs_of
from sod.planning.changes import ChangedInputs, RecordedOptions, path_digests
from sod.planning.dry_run import DRY_RUN_REFUSED
from sod.processes.interrupts import Terminated
from sod.report import report
from sod.runs.contents import changed_contents
from sod.runs.directory import Run
from sod.runs.files import to_json, write_json, write_whole

POLL_SECONDS = 10.0
"""Time between two looks at the pace of a stage."""
STAGE_INPUTS = "@inputs"
"""Key of the digests in done.json. No option has this name."""
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def run_stages(options: RunOptions) -> None:
    """Run the stages that are not done. Raise TrainingError for one that fails, InfrastructureError at the end of the budget."""
    stages = read_stages(options)
    end = None if options.budget is None else time.monotonic() + seconds_of(options.budget)
    if options.dry_run:
        text, refused = plan_stages(options, stages, Done(options.out).names(stages), end)
        echo(text)
        if refused:
            raise OptionError(DRY_RUN_REFUSED)
        return
    with Run(options.out).held():
        _run(options, stages, end)


def _run(options: RunOptions, stages: Sequence[ExperimentStage], end: float | None) -> None:
    done = Done(options.out)
    finished = done.names(stages)
    for number, stage in enumerate(stages, 1):
        shown = f"stage {number} of {len(stages)}, {stage.name}"
        if stage.name in finished:
            echo(f"{shown}: done before")
            continue
        echo(f"{shown}: sod {stage.command} {_recipe(options, stage)}")
        begun, inputs = time.monotonic(), stage_inputs(stage)
        _start(options, stage, end)
        done.add(stage, inputs)
        echo(f"{shown}: done in {clock(time.monotonic() - begun)}")
    runs = tuple(folder for folder in runs_of(list(stages)) if folder.exists())
    if runs:
        page = options.out / "report.html"
        report(ReportOptions(runs=runs, out=page))


def _recipe(options: RunOptions, stage: ExperimentStage) -> Path:
    return options.out / f"{stage.name}.toml"


def _start(options: RunOptions, stage: ExperimentStage, end: float | None) -> None:
    """Run the command of a stage and wait for it. A signal that ends this process also ends the command."""
    if end is not None and time.monotonic() >= end:
        raise InfrastructureError(
            f"The budget of {options.budget} is used up before stage {stage.name}. Run the same command again to continue."
        )
    if stage.command == "calibrate" and Run(stage.out).begun:
        raise RunError(
            f"Stage {stage.name} was interrupted, and a calibration cannot be continued. Remove {stage.out}, then run the same "
            "command again."
        )
    recipe = _recipe(options, stage)
    recipe.parent.mkdir(parents=True, exist_ok=True)
    write_whole(recipe, to_toml(stage.content | _resumption(stage)))
    words = [*stage.command.split(), str(recipe)]
    start = [sys.executable, "-m"]
    if stage.processes > 1:
        start += ["torch.distributed.run", "--nproc-per-node", str(stage.processes), "-m"]
    process = subprocess.Popen([*start, "sod", *words])
    try:
        status = _wait(process, stage, end)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait()
        raise InfrastructureError(
            f"The budget of {options.budget} is used up in stage {stage.name}, which has saved its work. Run the same command "
            "again to continue."
        ) from None
    except KeyboardInterrupt as error:
        if isinstance(error, Terminated):  # Ctrl-C reaches the command as well
            process.terminate()
        process.wait()
        raise
    if status == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    if status:
        error = InfrastructureError if status == EXIT_TRY_AGAIN else TrainingError
        raise error(
            f"Stage {stage.name} failed with status {status}; the lines above give the reason. Run the same command again to "
            "continue from there."
        )


def _wait(process: "subprocess.Popen[bytes]", stage: ExperimentStage, end: float | None) -> int:
    """Return the exit status of a stage's command. Raise TimeoutExpired at the end of the budget.

    Once the pace of a training stage is known, a line states how much of it fits into the budget.
    """
    while end is not None and (room := end - time.monotonic()) > 0:
        try:
            return process.wait(min(room, POLL_SECONDS))
        except subprocess.TimeoutExpired:
            if forecast := Forecast.of(stage):
                if line := forecast.against(end):
                    echo(f"stage {stage.name}: {line}")
                break
    return process.wait(None if end is None else max(0.0, end - time.monotonic()))


def _resumption(stage: ExperimentStage) -> dict[str, Any]:
    return {"resume": True} if stage.trains and Run(stage.out).begun else {}


def stage_inputs(stage: ExperimentStage) -> dict[str, str]:
    """Return the digests of the files and models that a stage reads; {} if the stage's own run records them."""
    options = stage.options()
    return {} if isinstance(options, RecordedOptions) else path_digests(options, stage.out)


class Done:
    """The finished stages of an experiment: done.json, which holds their commands, options and inputs."""

    def __init__(self, out: Path):
        self._file = out / "done.json"
        try:
            self._stages: dict[str, Any] = json.loads(self._file.read_bytes())
        except FileNotFoundError:
            self._stages = {}
        except ValueError as error:
            raise RunError(
                f"{self._file} is damaged. Move it away to start every stage again; most finished stages then end at once."
            ) from error

    def names(self, stages: Sequence[ExperimentStage]) -> set[str]:
        """Return the names of the finished stages. Raise OptionError for one that was run with other options.

        A stage is started again if what it wrote no longer exists. Raise OptionError if a finished one rests on it.
        """
        found = [stage for stage in stages if stage.name in self._stages and stage.out.exists()]
        for stage in found:
            if lost := next((other for other in stages if other not in found and reads(stage, other)), None):
                raise OptionError(
                    f"Stage {lost.name} is not done, but stage {stage.name}, which reads what it writes, is. Remove {stage.out} "
                    "as well to run both again, or choose another --out."
                )
        for stage in found:
            stored = {key: value for key, value in self._stages[stage.name].items() if key != STAGE_INPUTS}
            now, before = flat(_plain(stage)), flat(stored)
            if changed := sorted(key for key in now.keys() | before.keys() if now.get(key) != before.get(key)):
                raise OptionError(
                    f"Stage {stage.name} was run with other options ({', '.join(changed)}). Restore them, remove {stage.out} to "
                    "run the stage again, or choose another --out."
                )
        inputs = ChangedInputs()
        for stage in found:
            if changed := self._changed(stage, inputs):
                raise OptionError(
                    f"{changed[0]} has changed since stage {stage.name} was run. Restore it, or remove {stage.out} to run the "
                    "stage again."
                )
        return {stage.name for stage in found}

    def _changed(self, stage: ExperimentStage, inputs: ChangedInputs) -> list[str]:
        """Return the inputs of a finished stage that have another content than when it began."""
        options = stage.options()
        if isinstance(options, RecordedOptions):
            return inputs.of(stage.out, options)
        return changed_contents(self._stages[stage.name].get(STAGE_INPUTS, {}), stage_inputs(stage))

    def add(self, stage: ExperimentStage, inputs: dict[str, str]) -> None:
        """Record that a stage is finished. `inputs`: digests of what it read."""
        self._stages[stage.name] = _plain(stage) | {STAGE_INPUTS: inputs}
        write_json(self._file, self._stages)


def _plain(stage: ExperimentStage) -> dict[str, Any]:
    """Return command and options as JSON holds them."""
    content = stage.content | {"out": str(stage.out)}
    return json.loads(to_json({"command": stage.command} | content))


def seconds_of(duration: str) -> float:
    """Return a duration such as 90m, 10h or 2d in seconds. Raise OptionError for another text."""
    try:
        seconds = float(duration[:-1]) * UNITS[duration[-1:]]
    except (ValueError, KeyError):
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise OptionError(f"budget is {duration!r}. It must be a number and a unit, such as 90m, 10h or 2d.")
    return seconds
