"""What a validation costs beside its own samples: counting, intervals, files. In the lab, with the trained teacher as student.

    python benchmarks/validation.py

Fifty held-out problems with four samples each, before and after every update of 64 trajectories. The time of a validation
without its sampling, and without the checkpoint that the best one saves, is compared with the time of the update after it.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

from measure import pairwise_ratios, parse, parser, report, row, show

from sod.config import LabOptions, TrainOptions
from sod.lab import settings
from sod.lab.make import make
from sod.training.on_policy import TrainingSession, train

PROBLEMS, SAMPLES = 50, 4
GROUP = 8
"""Problems of an update, and attempts at each."""


@contextmanager
def timed(**methods: list[float]) -> Iterator[None]:
    """Append the seconds of every call of these methods of a TrainingSession."""

    def wrapped(method: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
        @wraps(method)
        def call(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return method(*arguments, **options)
            finally:
                seconds.append(time.perf_counter() - start)

        return call

    with ExitStack() as stack:
        for name, seconds in methods.items():
            method = wrapped(getattr(TrainingSession, name), seconds)
            stack.enter_context(patch.object(TrainingSession, name, method))
        yield


def measured(updates: int, problems: int, group: int) -> tuple[list[float], list[float], list[float]]:
    """Seconds of each validation before an update, without and with its sampling, and of the update."""
    validations: list[float] = []
    sampled: list[float] = []
    saved: list[float] = []
    beside: list[float] = []

    class Session(TrainingSession):
        """Only its method `validate` is used."""

        def validate(self, update: int, display: Any) -> bool:
            before = len(sampled), len(saved)
            start = time.perf_counter()
            ends = original(self, update, display)
            whole = time.perf_counter() - start
            validations.append(whole)
            beside.append(whole - sum(sampled[before[0] :]) - sum(saved[before[1] :]))
            return ends

    original = TrainingSession.validate
    with tempfile.TemporaryDirectory() as folder:
        lab = make(LabOptions(out=Path(folder), demonstrations=1, train_problems=64, eval_problems=problems))
        files = {
            "student": lab / "teacher",
            "teacher": lab / "teacher",
            "data": lab / "train.jsonl",
            "out": lab / "run",
        }
        recipe = settings.TRAIN | files | {"sandbox": {"workers": 4}, "updates": updates, "save_every": updates}
        recipe |= {"validate": {"data": lab / "eval.jsonl", "every": 1, "samples": SAMPLES}}
        recipe |= {"rollout": settings.ROLLOUT | {"problems": group, "group": group}}
        with timed(_unless_ended=sampled, save=saved), patch.object(TrainingSession, "validate", Session.validate):
            rows = train(TrainOptions.model_validate(recipe)).metrics()
    return beside[:updates], validations[:updates], [each["seconds/update"] for each in rows]


def main() -> None:
    options = parse(parser(__doc__))
    sizes = (2, 2, 2) if options.quick else (1 + options.rounds, PROBLEMS, GROUP)
    beside, whole, updates = measured(*sizes)
    beside, whole, updates = beside[1:], whole[1:], updates[1:]  # the first of each warms caches
    what = f"validation of {PROBLEMS} x {SAMPLES} samples"
    rows = [
        row(
            f"{what}, beside its samples", show(beside), f"an update, {show(updates)}", pairwise_ratios(beside, updates),
            "<= 0.02",
        ),
        row(f"{what}, as a whole", show(whole), f"an update, {show(updates)}", pairwise_ratios(whole, updates)),
    ]  # fmt: skip
    report(options, rows)


if __name__ == "__main__":
    main()
