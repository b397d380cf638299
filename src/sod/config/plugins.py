"""Load a user's own function or class, given in an option as FILE.py:NAME: a weighting rule, a tool, an environment."""

import importlib.util
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from sod.errors import OptionError


def load(name: str, *, option: str) -> Callable[..., Any]:
    """Load the function named by `FILE.py:FUNCTION`. Raises OptionError; its message starts with the option's name."""
    path, colon, function = name.rpartition(":")
    if not colon:
        raise OptionError(f"{option}: {name!r} must have the form FILE.py:FUNCTION.")
    found = vars(_module(Path(path).absolute(), option)).get(function)
    if not callable(found):
        raise OptionError(f"{option}: {path} defines no function or class {function!r}.")
    return found


@cache
def _module(path: Path, option: str) -> ModuleType:
    """Import the file; it runs once for each option that names it."""
    name = f"sod_own_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise OptionError(f"{option}: there is no Python file {path}.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up their module by name
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a user's file may raise anything
        raise OptionError(f"{option}: {path} cannot be imported: {type(error).__name__}: {error}") from error
    return module
