"""Forecast how long a training stage takes, from the pace of its updates so far."""

import time
from dataclasses import dataclass
from statistics import median
from typing import Self

from sod.console.progress import clock
from sod.pipeline.stages import ExperimentStage
from sod.runs.directory import Run

ENOUGH = 3
"""Smallest number of updates whose pace is used. The first ones also load and compile."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """The updates that a stage has left, and their pace."""

    left: int
    pace: float
    """Median seconds of an update so far."""

    @classmethod
    def of(cls, stage: ExperimentStage) -> Self | None:
        """Return the forecast of a stage. None before `ENOUGH` updates, and for a stage that does not train."""
        run = Run(stage.out)
        if not stage.trains or not run.begun or (updates := run.updates) is None:
            return None
        rows = run.metrics()
        seconds = [row["seconds/update"] for row in rows if "seconds/update" in row]
        if len(seconds) < ENOUGH:
            return None
        return cls(max(0, updates - int(rows[-1]["update"])), median(seconds))

    @property
    def seconds(self) -> float:
        """The seconds that the updates left take."""
        return self.left * self.pace

    def text(self) -> str:
        """Return the forecast in words."""
        return f"{self.left} updates are left and take about {clock(self.seconds)}, at {self.pace:.3g} s each"

    def against(self, end: float) -> str:
        """Return what fits until `end`, a time of time.monotonic(). Empty if all updates fit."""
        room = max(0.0, end - time.monotonic())
        if self.seconds <= room:
            return ""
        return (
            f"{self.text()}, but {clock(room)} of the budget are left: about {int(room / self.pace)} fit. The stage will save "
            "its work at the end of the budget, and the same command continues it. To finish in time, lower its updates."
        )
