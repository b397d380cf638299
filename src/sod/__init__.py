"""Step-wise on-policy distillation (SOD, arXiv 2605.07725) for small tool-using language models.

    from sod import TrainOptions, train
    run = train(TrainOptions(student="student", teacher="teacher", data="train.jsonl", out="runs/sod"))

`sod.core` is the paper as tensor functions and needs only torch. `sod --help` lists the commands. Importing `sod` loads
neither torch nor Transformers; each name below is imported when it is first used.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sod import core
    from sod.config import EvalOptions, TrainOptions
    from sod.evaluate import evaluate
    from sod.train import train

__version__ = "0.1.0"
__all__ = ["EvalOptions", "TrainOptions", "__version__", "core", "evaluate", "train"]

_MODULES = {
    "EvalOptions": "sod.config",
    "TrainOptions": "sod.config",
    "evaluate": "sod.evaluate",
    "train": "sod.train",
}
"""The module that defines each public name."""


class _Package(ModuleType):
    """This package, in which `train` is the function also after the module `sod.train` has been imported."""

    def __setattr__(self, name: str, value: object) -> None:
        if name not in _MODULES or not isinstance(value, ModuleType):
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name == "core":
            return import_module("sod.core")
        if name not in _MODULES:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_MODULES[name]), name)
        setattr(self, name, value)
        return value


sys.modules[__name__].__class__ = _Package
