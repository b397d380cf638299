"""Validate a run of `sod sft`: the loss per token on held-out demonstrations."""

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sod.batching import DemonstrationRow, collate_demonstrations
from sod.config import SftOptions
from sod.console.progress import Display, echo, fitted
from sod.evaluation.intervals import Interval, mean_over_problems, mean_over_sets
from sod.model.policy import Policy
from sod.processes.distributed import Ranks
from sod.runs.directory import Run
from sod.runs.files import sha256_of_file
from sod.runs.validations import Validation
from sod.validation.cold_start import SolveRates
from sod.validation.course import Course

TOGETHER = 256
"""Conversations that are padded to one table."""


@dataclass
class LossValidator:
    """Measures the loss of a policy on held-out conversations."""

    course: Course
    rows: dict[str, list[DemonstrationRow]]
    """Conversations by set."""
    policy: Policy
    solver: SolveRates | None = None
    """Measures solve rates as well."""

    @classmethod
    def open(
        cls,
        options: SftOptions,
        run: Run,
        rows: dict[str, list[DemonstrationRow]],
        policy: Policy,
        ranks: Ranks,
        solver: SolveRates | None = None,
    ) -> "LossValidator | None":
        """Return None without validation."""
        if not rows:
            return None
        wanted = options.validate
        hashes = ranks.first(lambda: [sha256_of_file(Path(name)) for name in wanted.data])
        settings = {"sets": list(rows), "data": hashlib.sha256("\n".join(hashes).encode()).hexdigest()}
        settings |= {"limit": wanted.limit}
        settings |= {"solve": solver.settings} if solver else {}
        return cls(
            Course.open(run, wanted, LossScale(), settings, keep=options.keep, ranks=ranks), rows, policy, solver
        )

    def validate(self, step: int, steps: int, save: Callable[[int], None], display: Display) -> bool:
        """Validate after `step` of `steps` optimiser steps if that is due. -> whether the run ends

        `save`: saves a checkpoint after so many steps, unless there is one.
        """
        if self.course.is_due(step, steps):
            validation = self._measured(step, display)
            self.course.add(validation, save)
            echo(fitted(self.course.line(validation), display.room))
        return self.course.ends(step, steps, save)

    def _measured(self, step: int, display: Display) -> Validation:
        started, found = time.monotonic(), dict[str, dict[str, list[float]]]()
        solved: dict[str, float] = {}
        if self.solver:
            with display.phase("solve", self.solver.attempts):
                solved = self.solver.measure(self.policy.model, display)
        with display.phase("validate", sum(map(len, self.rows.values()))):
            for name, rows in self.rows.items():
                found[name] = {}
                for start in range(0, len(rows), TOGETHER):
                    some = rows[start : start + TOGETHER]
                    losses = self.policy.losses(*collate_demonstrations(some)).tolist()
                    for number, (loss, (_, mask)) in enumerate(zip(losses, some, strict=True), start + 1):
                        found[name][str(number)] = [loss, float(mask.sum())]
                        display.advance()
        seconds = self.course.ranks.first(lambda: time.monotonic() - started)
        return Validation(step, self.course.settings, _metrics(found) | solved | {"seconds/validate": seconds}, found)


@dataclass(frozen=True)
class LossScale:
    """Compares validations by their loss per token, a mean over the sets. A lower loss is better."""

    def score(self, validation: Validation) -> float:
        return -validation.metrics.get("validate/loss", math.nan)

    def gain(self, new: Validation, old: Validation) -> Interval:
        return mean_over_sets(
            [
                loss_per_token([(old.problems[name][row][0] - loss, tokens) for row, (loss, tokens) in of.items()])
                for name, of in new.problems.items()
            ]
        )

    def line(self, validation: Validation) -> list[tuple[int, str]]:
        metrics, parts = validation.metrics, list[tuple[int, str]]()
        for name in validation.problems:
            loss, half = (metrics.get(f"validate/{name}/{key}", math.nan) for key in ("loss", "loss_half"))
            noise = "" if math.isnan(half) else f" ± {half:.3f}"
            parts.append((8, f"{name} loss {loss:.3f}{noise}"))
        if len(parts) > 1:
            parts.append((6, f"mean {metrics.get('validate/loss', math.nan):.3f}"))
        for name in [key.split("/")[1] for key in metrics if key.endswith("/avg")]:
            half = metrics.get(f"validate/{name}/avg_half")
            noise = "" if half is None else f" ± {100 * half:.1f}"
            parts.append((7, f"{name} solved {100 * metrics[f'validate/{name}/avg']:.1f}{noise} %"))
        return [*parts, (3, f"{metrics['seconds/validate']:.1f} s")]


def loss_per_token(pairs: Sequence[tuple[float, float]]) -> Interval:
    """Return the sum of the first numbers over that of the second, tokens, with an interval over conversations.

    The interval is that of a ratio's linear part: R + (x - R t) / mean(t) for each conversation.
    """
    tokens = math.fsum(count for _, count in pairs)
    ratio, mean = math.fsum(value for value, _ in pairs) / tokens, tokens / len(pairs)
    interval = mean_over_problems([ratio + (value - ratio * count) / mean for value, count in pairs])
    return Interval(ratio, interval.low, interval.high)


def _metrics(found: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, float]:
    intervals = {name: loss_per_token([(loss, tokens) for loss, tokens in of.values()]) for name, of in found.items()}
    metrics: dict[str, float] = {}
    for name, interval in intervals.items():
        metrics |= {f"validate/{name}/loss": interval.mean, f"validate/{name}/loss_half": interval.half}
        metrics |= {f"validate/{name}/conversations": len(found[name])}
        metrics |= {f"validate/{name}/tokens": sum(tokens for _, tokens in found[name].values())}
    mean = mean_over_sets(list(intervals.values()))
    metrics |= {"validate/loss": mean.mean, "validate/loss_half": mean.half}
    return {name: value for name, value in metrics.items() if not math.isnan(value)}
