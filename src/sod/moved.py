"""Import modules by the names that they had before the packages: `sod.model.loading` is `sod.model.loading`, with a warning."""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType

MOVED = {
    "sod.rollout.agent": "sod.rollout.agent",
    "sod.runs.alarms": "sod.runs.alarms",
    "sod.model.attention": "sod.model.attention",
    "sod.chat.calls": "sod.chat.calls",
    "sod.datasets.rows": "sod.datasets.rows",
    "sod.evaluation.measures": "sod.evaluation.measures",
    "sod.runs.metrics": "sod.runs.metrics",
    "sod.model.loading": "sod.model.loading",
    "sod.model.policy": "sod.model.policy",
    "sod.console.progress": "sod.console.progress",
    "sod.distributed": "sod.distributed",
    "sod.runs.records": "sod.runs.records",
    "sod.rollout.harness": "sod.rollout.harness",
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


def install() -> None:
    sys.meta_path.append(_Old())
