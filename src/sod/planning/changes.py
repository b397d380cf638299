"""Fingerprint the inputs of a command, and find those whose content has changed since a run began.

environment.json of a run holds the fingerprints of its data and models, and the digests of its other files
(`sod.runs.contents`). An input that no longer exists, and a model on the hub, are not compared.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sod.config import EvalOptions, Options, SftOptions, TrainOptions
from sod.config.base import options_of
from sod.config.teachers import Route, routes_of, with_servers
from sod.datasets import ProblemSet
from sod.datasets.asking import load_asked
from sod.datasets.published import SETS
from sod.datasets.rows import fingerprint_model
from sod.datasets.several import open_sets, sets_fingerprint
from sod.engines import ENGINES
from sod.errors import DataError, ModelError
from sod.model.hub import model_folder
from sod.runs.contents import changed_contents, content_digests, same_input
from sod.runs.directory import Run
from sod.runs.files import sha256_of_file

RecordedOptions = SftOptions | TrainOptions | EvalOptions
"""Options of the commands whose runs record their inputs in environment.json."""


@dataclass(frozen=True, slots=True)
class RunInput:
    """Data or a model that a run reads."""

    name: str
    """Its name in environment.json."""
    paths: tuple[Path, ...]
    """The files or the directory that the options name."""
    fingerprint: Callable[[], str]


def run_inputs(options: RecordedOptions, sets: Sequence[ProblemSet] | None = None) -> Iterator[RunInput]:
    """Yield the data and the models of a run. `sets`: the opened problems of an evaluation. Default: open them."""
    match options:
        case SftOptions():
            yield RunInput("data", (options.data,), lambda: sha256_of_file(options.data))
            yield RunInput("model", (options.model,), lambda: fingerprint_model(model_folder(options.model)))
        case TrainOptions():
            yield RunInput("data", (options.data,), lambda: sha256_of_file(options.data))
            yield RunInput("student", (options.student,), lambda: fingerprint_model(model_folder(options.student)))
            rates = {"rates": options.problems.rates, "teacher_rates": options.algorithm.teacher_rates}
            for name, run in rates.items():
                if run is not None:
                    yield _file(name, Run(run).trajectory_file(0))
            yield from _teachers(options)
        case EvalOptions():
            files = tuple(options.data_dir / f"{name}.jsonl" if name in SETS else Path(name) for name in options.data)
            yield RunInput("data", files, lambda: _fingerprint_of_problems(options, sets))
            if ENGINES[options.engine.name].loads_model:
                yield RunInput("model", (options.model,), lambda: fingerprint_model(model_folder(options.model)))
            else:
                yield RunInput("model", (), lambda: f"served {options.engine.served_name}")
            yield from _teachers(options)


def fingerprints_of(options: RecordedOptions, sets: Sequence[ProblemSet] | None = None) -> dict[str, str]:
    """Return the fingerprint of each input of a run, by its name in environment.json."""
    return {each.name: each.fingerprint() for each in run_inputs(options, sets)}


def _fingerprint_of_problems(options: EvalOptions, sets: Sequence[ProblemSet] | None) -> str:
    """Return the fingerprint of the problems of an evaluation. Problems that cannot be read are not those of a run."""
    try:
        return sets_fingerprint(open_sets(options) if sets is None else sets)
    except DataError as error:
        return f"unreadable: {error}"


def _file(name: str, path: Path) -> RunInput:
    return RunInput(name, (path,), lambda: sha256_of_file(path))


def _teachers(options: TrainOptions | EvalOptions) -> Iterator[RunInput]:
    if options.teacher is not None:
        yield _teacher(options, options.teacher)
    routes = with_servers(routes_of(options.teachers), options.score.teacher_urls)
    yield from (_routed(options, route) for route in routes)


def _teacher(options: TrainOptions | EvalOptions, model: Path) -> RunInput:
    from sod.teachers.opening import fingerprint_teacher, teacher_folder  # imports torch

    score = options.score
    return RunInput("teacher", (model,), lambda: fingerprint_teacher(teacher_folder(model, score), score))


def _routed(options: TrainOptions | EvalOptions, route: Route) -> RunInput:
    from sod.teachers.opening import fingerprint_teacher, teacher_folder  # imports torch

    score = route.score(options.score)
    return RunInput(
        route.recorded, (route.model,), lambda: fingerprint_teacher(teacher_folder(route.model, score), score)
    )


@dataclass
class ChangedInputs:
    """Compares the inputs of many runs with their records. An input of several runs is read once."""

    _known: dict[str, Any] = field(default_factory=dict)

    def of(self, folder: Path, options: RecordedOptions) -> list[str]:
        """Return the inputs that have changed since the run in `folder` began: paths, and names of `content_digests`."""
        try:
            stored = json.loads((folder / "environment.json").read_bytes())
            before, files = dict(stored["data"]), dict(stored.get("files", {}))
        except (OSError, ValueError, LookupError, TypeError):  # the reader of the run reports it
            return []
        changed: list[str] = []
        for each in run_inputs(options):
            if each.paths and each.name in before and all(path.exists() for path in each.paths):
                now = self._once(f"{each.name} {each.paths} {_limits(options)}", each.fingerprint)
                changed += (
                    [", ".join(map(str, each.paths))]
                    if now is not None and not same_input(before[each.name], now)
                    else []
                )
        return changed + (changed_contents(files, self._contents(options)) if files else [])

    def _contents(self, options: RecordedOptions) -> dict[str, str]:
        sets = self._once(f"sets {type(options)} {options.data} {_limits(options)}", lambda: _sets(options)) or []
        return content_digests(options, sets)

    def _once(self, key: str, compute: Callable[[], Any]) -> Any:
        """Return the computed value, or None if it cannot be computed."""
        if key not in self._known:
            self._known[key] = None
            with suppress(DataError, ModelError, OSError):
                self._known[key] = compute()
        return self._known[key]


def _limits(options: RecordedOptions) -> object:
    return (options.limit, options.prompts, options.data_dir) if isinstance(options, EvalOptions) else None


def _sets(options: RecordedOptions) -> list[tuple[Path, Sequence[Any]]]:
    match options:
        case TrainOptions() if options.data.exists():
            return [(options.data, load_asked(options.data)[0])]
        case EvalOptions() if all(Path(name).exists() for name in options.data if name not in SETS):
            missing = any(name in SETS and not (options.data_dir / f"{name}.jsonl").exists() for name in options.data)
            return [] if missing else [(each.path, each.problems) for each in open_sets(options)]
        case _:
            return []


def path_digests(options: Options, out: Path) -> dict[str, str]:
    """Return the digest of each file, model and evaluation that options of a command without a record name.

    `out`: what the command writes, which is left out.
    """
    found: dict[str, str] = {}
    for name, _, _ in options_of(type(options)):
        value: Any = options
        for part in name.split("."):
            value = getattr(value, part)
        for each in value if isinstance(value, tuple) else (value,):
            path = _existing(each, getattr(options, "data_dir", None))
            if path is not None and path != out and (digest := _digest(path)):
                found[str(path)] = digest
    return found


def _existing(value: object, data_dir: Path | None) -> Path | None:
    """Return the file or directory that a value names; None if there is none."""
    if not isinstance(value, str | Path) or not str(value):
        return None
    path = data_dir / f"{value}.jsonl" if data_dir is not None and value in SETS else Path(value)
    with suppress(OSError, ValueError):  # too long for a path
        return path if path.is_file() or (isinstance(value, Path) and path.is_dir()) else None
    return None


def _digest(path: Path) -> str | None:
    """Return the digest of a file, of an evaluation's results, or of a model; None for another directory."""
    with suppress(ModelError, OSError):
        if path.is_file():
            return sha256_of_file(path)
        if (path / "results.json").is_file():
            return sha256_of_file(path / "results.json")
        folder = model_folder(path)
        return fingerprint_model(folder) if (folder / "config.json").is_file() else None
    return None
