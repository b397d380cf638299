"""Check that the files and folders that options name exist, before a heavy package is imported.

Existing files are not read, and nothing is downloaded. The commands themselves check the content. Dry runs that list what is
missing are left out.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sod.config import (
    CalibrateOptions,
    CompareOptions,
    DiagnoseOptions,
    EvalOptions,
    Options,
    ServeOptions,
    SftOptions,
    TrainOptions,
    model_path,
)
from sod.config.chat import BUILT_IN_TEMPLATE
from sod.config.recipes import read_recipe
from sod.config.teachers import routes_of, with_servers
from sod.datasets import check_name, to_fetch
from sod.datasets.rows import check_file
from sod.engines import ENGINES
from sod.errors import DataError, OptionError, RunError
from sod.model.hub import model_folder, name_on_hub, refuse_gguf
from sod.runs.directory import Run


def check_inputs(options: Options) -> None:
    """Raise UsageError for a missing file or folder. The message names the command that creates it, if there is one."""
    match options:
        case SftOptions(dry_run=False):
            Run(options.out).check(options, resume=options.resume)
            _templates(options.chat.template)
            _data(options.data)
            with _named("validate.data"):
                _data(*map(Path, options.validate.data))
            _models(options.model)
        case TrainOptions(dry_run=False):
            Run(options.out).check(options, resume=options.resume)
            _templates(options.chat.template)
            _data(options.data)
            with _named("validate.data"):
                for name in options.validate.data:
                    check_name(name)
            _models(options.student, options.teacher if options.score.teacher_url is None else None)
            _routed(options)
        case EvalOptions(dry_run=False):
            _templates(options.chat.template)
            for name in options.data:
                check_name(name)
            _models(options.model if ENGINES[options.engine.name].loads_model else None, options.teacher)
            _routed(options)
        case ServeOptions():
            for name in options.data:
                check_name(name)
            _models(options.model if ENGINES[options.engine.name].loads_model else None)
        case CompareOptions(preset=None):
            train, measure = (read_recipe(path) if path else {} for path in (options.train, options.measure))
            _data(*map(_path, (train.get("data"), options.tune)))
            for name in _names(measure.get("data")):
                check_name(name)
            _models(*map(_path, (train.get("student"), train.get("teacher"))))
            _templates(*(recipe.get("chat", {}).get("template") for recipe in (train, measure)))
        case CalibrateOptions():
            if not options.run.is_dir():
                raise RunError(f"{options.run} is not a directory. Give the run directory of `sod eval --teacher`.")
            _models(options.teacher, *(route.model for route in routes_of(options.teachers)))
        case DiagnoseOptions():
            for name in options.data:
                check_name(name)
            _models(options.student, options.teacher if options.score.teacher_url is None else None)
        case _:
            pass


@contextmanager
def _named(option: str) -> Iterator[None]:
    """Begin an error about data with the name of the option."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{option}: {error}") from error


def _data(*paths: Path | None) -> None:
    for path in paths:
        if path is None:
            continue
        if not path.exists() and (fetch := to_fetch(path)):
            raise DataError(f"{path} does not exist; {fetch}.")
        check_file(path)


def _routed(options: TrainOptions | EvalOptions) -> None:
    """Check the several teachers that are not on servers."""
    routes = with_servers(routes_of(options.teachers), options.score.teacher_urls)
    _models(*(route.model for route in routes if route.url is None))


def _models(*models: Path | None) -> None:
    """Raise UsageError for a model that is neither a path nor a hub name. Existing models are not read, as they are large."""
    for model in models:
        if model is not None:
            refuse_gguf(model)
        if model is not None and not model.exists() and name_on_hub(model) is None:
            model_folder(model)


def _templates(*templates: str | None) -> None:
    """Raise OptionError for a chat template that is neither a file nor a part of this package."""
    for template in templates:
        if template is not None and template != BUILT_IN_TEMPLATE and not Path(template).is_file():
            raise OptionError(
                f"chat.template: there is no file {template!r}. Type {BUILT_IN_TEMPLATE}, or the path of a chat template."
            )


def _path(value: Any) -> Path | None:
    return Path(model_path(value)) if isinstance(value, str | Path) else None


def _names(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [str(name) for name in value or ()]
