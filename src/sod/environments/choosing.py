"""Find the environment of a name: one that is shipped, or a user's own class."""

from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from importlib import import_module

from sod.config.plugins import load
from sod.environments import Environment
from sod.errors import OptionError

DEFAULT = "tools"
"""The environment of problems without another one: `sod.environments.tools`."""
ENVIRONMENTS: dict[str, str] = {
    "scienceworld": "sod.environments.scienceworld:ScienceWorld",
    "textworld": "sod.environments.textworld:TextWorld",
    "textarena": "sod.environments.textarena:TextArena",
    "gymnasium": "sod.environments.gymnasium:Gymnasium",
    "bfcl": "sod.environments.bfcl:Bfcl",
    "openenv": "sod.environments.openenv:OpenEnv",
    "verifiers": "sod.environments.verifiers:Verifiers",
    "served": "sod.environments.served:ServedAgent",
    "household": "sod.environments.worlds.household:Household",
    "shop": "sod.environments.worlds.shop:Shop",
    "maze": "sod.environments.worlds.maze:Maze",
    "database": "sod.environments.worlds.database:Database",
}
"""Name of each shipped environment except the default -> MODULE:CLASS."""
METHODS = ("open", "step", "verdict", "close")
Maker = Callable[..., Environment]


def environment_maker(name: str) -> Maker:
    """Return a function that creates the environment of an attempt.

    `name`: a shipped environment, NAME or NAME:ARGUMENT, or a user's own, FILE.py:CLASS. Raises OptionError for any other name,
    and for a class without the methods of `sod.environments.Environment`.
    """
    shipped, _, argument = name.partition(":")
    if shipped not in ENVIRONMENTS and ".py:" in name:
        return _checked(load(name, option="environment"), name)
    if shipped not in ENVIRONMENTS:
        near = get_close_matches(shipped, [DEFAULT, *ENVIRONMENTS], n=1)
        hint = (
            f"did you mean {near[0]!r}?" if near else f"choose {', '.join([DEFAULT, *ENVIRONMENTS])}, or FILE.py:CLASS."
        )
        raise OptionError(f"environment: there is no environment {name!r}; {hint}")
    module, _, attribute = ENVIRONMENTS[shipped].partition(":")
    found = _checked(getattr(import_module(module), attribute), name)
    return partial(found, argument) if argument else found


def class_of(maker: Maker) -> type[Environment] | None:
    """Return the class that a maker calls; None for a function."""
    made = maker.func if isinstance(maker, partial) else maker
    return made if isinstance(made, type) else None


def _checked(found: Maker, name: str) -> Maker:
    missing = [method for method in METHODS if not hasattr(found, method)] if isinstance(found, type) else []
    if missing:
        raise OptionError(
            f"environment: the class of {name} has no method {', '.join(missing)}. Derive it from sod.environments.Environment, "
            "which has `verdict` and `close`, and write `open` and `step`."
        )
    return found
