"""Plan each stage as its own command does: `sod run --dry-run`."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from sod.config import EvalOptions, Options, RunOptions, SftOptions, TrainOptions
from sod.model.hub import name_on_hub
from sod.pipeline.forecasting import Forecast
from sod.pipeline.stages import MODELS, ExperimentStage, is_below, origin_of, reads
from sod.planning.dry_run import planned as planned_as
from sod.planning.text import columns
from sod.runs.directory import Run

READ = ("file", "files", "run", "runs", "model", "teacher", "results")
"""Options that name what `sod data`, `sod calibrate`, `sod report` and `sod export` read."""


def plan_stages(
    options: RunOptions, stages: Sequence[ExperimentStage], done: Collection[str], end: float | None = None
) -> tuple[str, bool]:
    """Return what the stages would do, as lines of text, and whether one of them would refuse its options or inputs.

    A model that an unfinished stage trains is planned with the model which that training starts from. `end`: end of the budget, a
    time of time.monotonic().
    """
    by_name, refused = {stage.name: stage for stage in stages}, False
    parts = [f"sod run, a dry run of {len(stages)} stages in {options.out}; {len(done)} are done"]
    for number, stage in enumerate(stages, 1):
        state = "done" if stage.name in done else f"sod {stage.command}"
        parts.append(f"\nStage {number}, {stage.name}: {state}")
        if stage.name in done:
            continue
        if forecast := Forecast.of(stage):
            parts.append(f"At its pace so far, {(end and forecast.against(end)) or forecast.text() + '.'}")
        planned = stage.options(**_with_existing_models(stage, by_name))
        if isinstance(planned, SftOptions | TrainOptions):  # `processes` is for torchrun, which the stage starts
            planned = planned.model_copy(update={"processes": None, "resume": Run(stage.out).begun})
        missing = {name: other.out for name, other in by_name.items() if name not in done and reads(stage, other)}
        if missing:
            parts.append(f"It reads what {', '.join(missing)} will write.")
        if isinstance(planned, SftOptions | TrainOptions | EvalOptions):
            text = planned_as(planned)
            text.first = [step for step in text.first if not _is_made(step, missing.values())]
            parts.append(text.finished(columns()))
            refused |= text.is_refused
        else:
            lost = [
                path for path in _read(stage.options()) if not any(is_below(str(path), out) for out in missing.values())
            ]
            parts += [f"{path} does not exist. Correct its path." for path in lost]
            parts.append(f"It writes {stage.out}.")
            refused |= bool(lost)
    return "\n".join(parts), refused


def _read(options: Options) -> Iterator[Path]:
    """Yield the missing files and models that a command without a plan of its own reads."""
    for name in READ:
        value = getattr(options, name, None)
        for path in value if isinstance(value, tuple) else (value,):
            if isinstance(path, Path) and not path.exists() and name_on_hub(path) is None:
                yield path


def _with_existing_models(stage: ExperimentStage, stages: dict[str, ExperimentStage]) -> dict[str, str]:
    given = {key: stage.content[key] for key in (*MODELS, "teacher") if isinstance(stage.content.get(key), str)}
    return {key: path if Run(stage.out).begun else origin_of(path, stages) for key, path in given.items()}


def _is_made(step: str, outs: Iterable[Path]) -> bool:
    """Return whether something to do is about a file or folder that an earlier stage writes."""
    paths = [word.strip(".,;:()'\"") for word in step.split() if "/" in word]
    return any(is_below(path, out) for out in outs for path in paths)
