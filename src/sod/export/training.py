"""Find the training runs behind a model, and write them as sections of the card."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from sod.config import SftOptions, TrainOptions
from sod.config.teachers import routes_of
from sod.datasets.rows import fingerprint_model
from sod.errors import OptionError
from sod.evaluation.sheets import Sheet
from sod.export.folder import Json, read_json, read_options
from sod.export.wording import DIFFERING, counted, options_and_environment, public, ran_with, recipe
from sod.model.hub import HUB_NAME
from sod.report.reading import RunRecord
from sod.report.summary import alarms, learning_table
from sod.runs.contents import same_input
from sod.runs.directory import Run, command_of


@dataclass(frozen=True)
class Stage:
    """A training run, up to one of its checkpoints."""

    updates: int
    """Updates of the checkpoint; for fine-tuning, optimiser steps."""
    options: SftOptions | TrainOptions
    environment: Json
    metrics: list[dict[str, float]]

    @classmethod
    def of(cls, checkpoint: Path) -> "Stage | None":
        """Return the stage of a checkpoint; None if the checkpoint does not belong to a run."""
        checkpoint = checkpoint.resolve()
        name = re.fullmatch(r"update-(\d+)", checkpoint.name)
        run = checkpoint.parent.parent
        if name is None or checkpoint.parent.name != "checkpoints" or not (run / "options.json").is_file():
            return None
        environment = read_json(run / "environment.json")
        command = command_of(environment, read_json(run / "options.json"))
        updates = int(name[1])
        metrics = [row for row in Run(run).metrics() if row["update"] <= updates]
        return cls(updates, read_options(SftOptions if command == "sft" else TrainOptions, run), environment, metrics)

    # Facts

    @property
    def algorithm(self) -> str:
        return public(self.options.algorithm.name) if isinstance(self.options, TrainOptions) else "sft"

    @property
    def data(self) -> dict[str, str]:
        """Fingerprints of the run's inputs."""
        return self.environment["data"]

    @property
    def start(self) -> tuple[Path, str]:
        """The model that the run started from, as named in its options, and the model's fingerprint."""
        if isinstance(self.options, TrainOptions):
            return self.options.student, self.data["student"]
        return self.options.model, self.data["model"]

    @property
    def has_teacher(self) -> bool:
        return any(name.split()[0] == "teacher" for name in self.data) or self.algorithm.startswith("opsd")

    def before(self) -> "Stage | None":
        """Return the run of the model that this run started from; None if it no longer exists."""
        start, fingerprint = self.start
        places = [start, *(start / "checkpoints").glob("update-*")]
        made = next((place for place in places if same_input(fingerprint, fingerprint_model(place))), None)
        return None if made is None else Stage.of(made)

    # Text

    def files(self) -> dict[str, Json]:
        return options_and_environment(self.options, self.environment)

    def facts(self) -> Iterator[str]:
        yield f"started from `{public(str(self.start[0]))}`"
        yield f"algorithm: `{self.algorithm}`"
        if isinstance(options := self.options, SftOptions):
            yield f"optimiser steps: {self.updates:,} of {counted(options.batch, 'conversation')}"
            return
        if options.teacher is not None:
            yield f"teacher: `{public(str(options.teacher))}`, fingerprint `{self.data['teacher']}`"
        for route in routes_of(options.teachers):
            yield f"teacher of {route.key}: `{public(str(route.model))}`, fingerprint `{self.data[route.recorded]}`"
        yield f"updates: {self.updates:,} of {options.rollout.problems} problems x {options.rollout.group} trajectories"

    def section(self) -> str:
        """Return the section of the card: recipe, data and metrics."""
        on_policy = isinstance(self.options, TrainOptions)
        where = "on the training problems" if on_policy else "where an update is one optimiser step"
        parts = [
            f"### {self.algorithm}",
            f"Recipe of `sod {'train' if on_policy else 'sft'}` ({DIFFERING}):",
            recipe(self.options, "out", "resume", "dry_run"),
            f"Data: `{public(str(self.options.data))}`, SHA-256 `{self.data['data']}`.",
            ran_with(self.environment),
        ]
        if course := learning_table([self._record]):
            parts.append(f"Mean metrics at the start and at the end of training, {where}:")
            parts.append(Sheet("", ["", *course.heads], [[name, *cells] for name, cells in course.rows]).markdown())
        if on_policy and self.metrics:
            raised = [f"- alarm `{alarm.name}`: {alarm.when}" for alarm in alarms([self._record])]
            parts.append("\n".join(raised) or "No alarm was raised.")
        return "\n\n".join(parts)

    @property
    def _record(self) -> RunRecord:
        """The run's metrics as a `Record`, for the tables of a report."""
        return RunRecord(
            name="", folder=Path(), options={}, environment={}, results=None, calibration={}, metrics=self.metrics
        )


def history(checkpoint: Path) -> list[Stage]:
    """Return the run of a checkpoint and the runs before it, newest first."""
    stages: list[Stage] = []
    stage = Stage.of(checkpoint)
    while stage is not None:
        stages.append(stage)
        stage = stage.before()
    return stages


def known_base(stages: Sequence[Stage]) -> str | None:
    """Return the hub name of the model that the first run started from, if its weights are verified to be that model's."""
    if not stages:
        return None
    start, fingerprint = stages[-1].start
    name = HUB_NAME.fullmatch(str(start))
    config = name and try_to_load_from_cache(name["repo"], "config.json", revision=name["revision"])
    known = isinstance(config, str) and same_input(fingerprint, fingerprint_model(Path(config).parent))
    return name["repo"] if name and known else None


def checked_name(model: str, option: str = "base") -> str:
    """Check and return a model name. Raises OptionError if it cannot be a name on the hub."""
    name = HUB_NAME.fullmatch(model)
    if name is None or name["revision"] is not None:
        raise OptionError(f"{option} = {model!r} is not the name of a model on the hub. Pass it as ORG/NAME.")
    return name["repo"] if option == "push" else model
