"""Import modules and functions by their earlier names: `sod.models` is `sod.model.loading`, with a warning."""

import sys
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any

MOVED = {
    "sod.agent": "sod.rollout.agent",
    "sod.alarms": "sod.runs.alarms",
    "sod.algorithms": "sod.credit.algorithms",
    "sod.attention": "sod.model.attention",
    "sod.calls": "sod.chat.calls",
    "sod.checks": "sod.planning.checks",
    "sod.concurrency": "sod.processes.concurrency",
    "sod.correction": "sod.credit.correction",
    "sod.data": "sod.datasets.rows",
    "sod.distributed": "sod.processes.distributed",
    "sod.doctor": "sod.planning.doctor",
    "sod.gguf": "sod.export.gguf",
    "sod.history": "sod.credit.history",
    "sod.hub": "sod.model.hub",
    "sod.interrupts": "sod.processes.interrupts",
    "sod.lab.worlds.base": "sod.environments.worlds.base",
    "sod.lab.worlds.database": "sod.environments.worlds.database",
    "sod.lab.worlds.household": "sod.environments.worlds.household",
    "sod.lab.worlds.maze": "sod.environments.worlds.maze",
    "sod.lab.worlds.shop": "sod.environments.worlds.shop",
    "sod.measures": "sod.evaluation.measures",
    "sod.metrics": "sod.runs.metrics",
    "sod.models": "sod.model.loading",
    "sod.paper": "sod.report.paper",
    "sod.plugins": "sod.config.plugins",
    "sod.policy": "sod.model.policy",
    "sod.problems": "sod.training.problems",
    "sod.progress": "sod.console.progress",
    "sod.ranks": "sod.processes.distributed",
    "sod.recipes": "sod.config.recipes",
    "sod.records": "sod.runs.records",
    "sod.sandbox.guarded": "sod.sandbox.retries",
    "sod.sft": "sod.training.sft",
    "sod.systems": "sod.credit.systems",
    "sod.world": "sod.rollout.harness",
}


class _Old(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return spec_from_loader(fullname, self) if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        old, new = module.__name__, MOVED[module.__name__]
        warnings.warn(f"{old} is {new} now; the old name will go", DeprecationWarning, stacklevel=2)
        sys.modules[old] = import_module(new)


def redirect_old_names() -> None:
    sys.meta_path.append(_Old())


def keep_old_names(module: str, **names: str) -> None:
    """Let a module's contents also be imported by earlier names, each given as `old="new"`, with a warning."""

    def look_up(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        new = names[name]
        warnings.warn(f"{module}.{name} is {new} now; the old name will go", DeprecationWarning, stacklevel=2)
        return getattr(sys.modules[module], new)

    vars(sys.modules[module])["__getattr__"] = look_up


def keep_old_field(
    kind: type, old: str, new: str, *, as_new: Callable[[Any], Any], as_old: Callable[[Any], Any]
) -> None:
    """Let a dataclass take and return a field by an earlier name as well, with a warning. The functions convert the value."""
    initialise = kind.__init__

    def warn() -> None:
        name = kind.__name__
        warnings.warn(f"{name}.{old} is {name}.{new} now; the old name will go", DeprecationWarning, stacklevel=3)

    def __init__(self: Any, *arguments: Any, **fields: Any) -> None:
        if old in fields and new not in fields:
            warn()
            fields[new] = as_new(fields.pop(old))
        initialise(self, *arguments, **fields)

    def look_up(self: Any) -> Any:
        warn()
        return as_old(getattr(self, new))

    for name, changed in (("__init__", wraps(initialise)(__init__)), (old, property(look_up))):
        setattr(kind, name, changed)
