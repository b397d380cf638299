"""What `sod run --dry-run` prints: each stage as its own command plans it."""

from collections.abc import Collection, Sequence

from sod.config import EvalOptions, RunOptions, SftOptions, TrainOptions
from sod.pipeline.stages import MODELS, ExperimentStage, origin_of
from sod.planning.dry_run import columns
from sod.planning.dry_run import planned as planned_as
from sod.runs.directory import Run


def plan_stages(options: RunOptions, stages: Sequence[ExperimentStage], done: Collection[str]) -> str:
    """Return what the stages would do, as lines of text.

    A model that an unfinished stage trains is planned with the model which that training starts from.
    """
    by_name = {stage.name: stage for stage in stages}
    parts = [f"sod run, a dry run of {len(stages)} stages in {options.out}; {len(done)} are done"]
    for number, stage in enumerate(stages, 1):
        state = "done" if stage.name in done else f"sod {stage.command}"
        parts.append(f"\nStage {number}, {stage.name}: {state}")
        if stage.name in done:
            continue
        planned = stage.options(**_with_existing_models(stage, by_name))
        if isinstance(planned, SftOptions | TrainOptions) and Run(stage.out).begun:
            planned = planned.model_copy(update={"resume": True})
        missing = {name: str(other.out) for name, other in by_name.items() if name not in done and _reads(stage, other)}
        if missing:
            parts.append(f"It reads what {', '.join(missing)} will write.")
        if isinstance(planned, SftOptions | TrainOptions | EvalOptions):
            text = planned_as(planned)
            text.first = [step for step in text.first if not any(out in step for out in missing.values())]
            parts.append(text.finished(columns()))
        else:
            parts.append(f"It writes {stage.out}.")
    return "\n".join(parts)


def _with_existing_models(stage: ExperimentStage, stages: dict[str, ExperimentStage]) -> dict[str, str]:
    given = {key: stage.content[key] for key in (*MODELS, "teacher") if isinstance(stage.content.get(key), str)}
    return {key: path if Run(stage.out).begun else origin_of(path, stages) for key, path in given.items()}


def _reads(stage: ExperimentStage, other: ExperimentStage) -> bool:
    """Return whether an option of the stage names something that the other one writes."""
    return stage is not other and str(other.out) in _texts(stage.content)


def _texts(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(_texts(each) for each in value.values())
    return "\n".join(map(_texts, value)) if isinstance(value, list | tuple) else str(value)
