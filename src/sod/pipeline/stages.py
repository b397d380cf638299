"""The stages of an experiment, as a recipe describes them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sod.arguments.parsing import options_from
from sod.config import (
    CalibrateOptions,
    ConvertOptions,
    DecontaminateOptions,
    EvalOptions,
    ExportOptions,
    FetchOptions,
    LabOptions,
    MakeOptions,
    MixOptions,
    Options,
    ReportOptions,
    RolloutCommandOptions,
    RunOptions,
    SftOptions,
    SplitOptions,
    TrainOptions,
    WordProblemOptions,
)
from sod.config.recipes import over, read_recipe
from sod.errors import OptionError
from sod.processes.interrupts import RESUMED
from sod.runs.validations import BEST

STAGE_COMMANDS: dict[str, type[Options]] = {
    "lab make": LabOptions,
    "lab words": WordProblemOptions,
    "data fetch": FetchOptions,
    "data convert": ConvertOptions,
    "data make": MakeOptions,
    "data mix": MixOptions,
    "data split": SplitOptions,
    "data decontaminate": DecontaminateOptions,
    "sft": SftOptions,
    "train": TrainOptions,
    "rollout": RolloutCommandOptions,
    "eval": EvalOptions,
    "calibrate": CalibrateOptions,
    "report": ReportOptions,
    "export": ExportOptions,
}
"""Commands that a stage may run, with their options."""
WRITES_FILE = {
    "data convert": ".jsonl",
    "data make": ".jsonl",
    "data mix": ".jsonl",
    "data decontaminate": ".jsonl",
    "report": ".html",
}
"""Commands that write a file instead of a folder, and its suffix."""
OWN_KEYS = ("command", "recipe")
"""Keys of a stage that are not options of its command."""
MODELS = ("model", "student")
"""Options that name the model which a stage starts from."""


@dataclass(frozen=True)
class ExperimentStage:
    """One command of an experiment."""

    name: str
    command: str
    content: dict[str, Any]
    """Options, nested; references to other stages are paths."""
    out: Path

    @property
    def processes(self) -> int:
        """Number of processes that torchrun starts."""
        count = self.content.get("processes")
        return count if isinstance(count, int) else 1

    @property
    def trains(self) -> bool:
        """Return whether the stage trains a model, and continues with --resume."""
        return self.command in RESUMED

    def options(self, **other: Any) -> Options:
        """Return the options of the command. Raise OptionError for wrong ones."""
        return options_from(self.command, STAGE_COMMANDS[self.command], over(self.content, other), f"stage {self.name}")


def read_stages(options: RunOptions) -> list[ExperimentStage]:
    """Return the stages in the order of the recipe. Raise OptionError for a stage that cannot be run as described."""
    if not options.stages:
        raise OptionError("The recipe has no stages. Add a table for each, such as [stages.sft].")
    made: dict[str, ExperimentStage] = {}
    for name, table in options.stages.items():
        if not isinstance(table, dict):
            raise OptionError(f"stages.{name} is {table!r}; it must be a table of options: [stages.{name}].")
        made[name] = stage = _stage(name, table, options, made)
        stage.options()
    return list(made.values())


def _stage(
    name: str, table: Mapping[str, Any], options: RunOptions, earlier: Mapping[str, ExperimentStage]
) -> ExperimentStage:
    command = str(table.get("command", name))
    if command not in STAGE_COMMANDS:
        near = get_close_matches(command, STAGE_COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(STAGE_COMMANDS)}."
        raise OptionError(f"stages.{name}: {command!r} is not a command of a stage; {hint}")
    if "/" in name or name.startswith("."):
        raise OptionError(f"stages.{name}: the name is also that of a folder. Use letters, digits and hyphens.")
    content = {key: value for key, value in table.items() if key not in OWN_KEYS}
    recipes = table.get("recipe", ())
    for recipe in reversed([recipes] if isinstance(recipes, str) else list(recipes)):
        content = over(read_recipe(Path(recipe)), content)
    out = Path(str(table.get("out", options.out / f"{name}{WRITES_FILE.get(command, '')}")))
    content = _resolved(content, earlier, f"stages.{name}") | {"out": out}
    return ExperimentStage(name, command, content, out)


def _resolved(value: Any, earlier: Mapping[str, ExperimentStage], where: str) -> Any:
    """Return the value with each reference @STAGE or @STAGE/PATH replaced by a path."""
    if isinstance(value, dict):
        return {key: _resolved(each, earlier, f"{where}.{key}") for key, each in value.items()}
    if isinstance(value, list):
        return [_resolved(each, earlier, where) for each in value]
    if not (isinstance(value, str) and value.startswith("@")):
        return value
    name, _, path = value[1:].partition("/")
    if name not in earlier:
        known = ", ".join(f"@{each}" for each in earlier) or "no stage is"
        raise OptionError(
            f"{where}: {value!r} is not an earlier stage ({known} above it). Correct the name or the order."
        )
    stage = earlier[name]
    if path == BEST and stage.trains and not stage.content.get("validate", {}).get("data"):
        raise OptionError(
            f"{where}: {value!r} is the checkpoint with the best validation, but stage {name} does not validate. Give it "
            f"validate.data, or write @{name}."
        )
    return str(stage.out / path if path else stage.out)


def reads(stage: ExperimentStage, other: ExperimentStage) -> bool:
    """Return whether an option of the stage names something that the other one writes."""
    return stage is not other and any(is_below(text, other.out) for text in _texts(stage.content))


def is_below(text: str, folder: Path) -> bool:
    """Return whether a text is the path of a folder or of something in it."""
    return Path(text).is_relative_to(folder)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        yield from (text for each in value for text in _texts(each))
    elif isinstance(value, str | Path):
        yield str(value)


def runs_of(stages: list[ExperimentStage]) -> Iterator[Path]:
    """Yield the run directories that a report can show."""
    yield from (stage.out for stage in stages if stage.command in ("train", "eval"))


def origin_of(path: str, stages: Mapping[str, ExperimentStage]) -> str:
    """Return the model that the training behind a path starts from; the path itself if no stage trains it."""
    for stage in stages.values():
        if stage.trains and Path(path).is_relative_to(stage.out):
            return origin_of(str(stage.content[next(key for key in MODELS if key in stage.content)]), stages)
    return path
