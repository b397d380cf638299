"""Step-wise on-policy distillation (SOD, arXiv 2605.07725) for small tool-using language models.

    from sod import TrainOptions, train
    run = train(TrainOptions(student="student", teacher="teacher", data="train.jsonl", out="runs/sod"))

`sod.core` is the paper as tensor functions and needs only torch. `sod --help` lists the commands. Importing `sod` loads
neither torch nor Transformers; each name below is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sod.moved import redirect_old_names

if TYPE_CHECKING:
    from sod import core
    from sod.config import EvalOptions, TrainOptions
    from sod.evaluation.evaluate import evaluate
    from sod.training.on_policy import train

__version__ = "0.1.0"
__all__ = ["EvalOptions", "TrainOptions", "__version__", "core", "evaluate", "train"]

_MODULES = {
    "EvalOptions": "sod.config",
    "TrainOptions": "sod.config",
    "evaluate": "sod.evaluation.evaluate",
    "train": "sod.training.on_policy",
}
"""The module that defines each public name."""


def __getattr__(name: str) -> Any:
    if name == "core":
        return import_module("sod.core")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


redirect_old_names()
