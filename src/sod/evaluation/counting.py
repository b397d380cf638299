"""Count the samples of an evaluation, problem by problem: verdicts, errors, steps, and what additional judges say."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from sod.batching import ScoredBatch
from sod.config import AlgorithmOptions
from sod.config.teachers import Route, route_for
from sod.datasets import ProblemSet
from sod.datasets.asking import silence, why_silent
from sod.evaluation.measures import Tally
from sod.runs import metrics
from sod.runs.by_teacher import metrics_of_teacher
from sod.runs.records import (
    Record,
    scored_records,
    verdict_of,
)
from sod.runs.results import BenchmarkResults
from sod.types import Group, Trajectory

PAPER = AlgorithmOptions()
"""The paper's epsilon and delta. Weights of steps are reported with them."""


@dataclass
class Counted:
    """Counts the samples of one set of problems, problem by problem."""

    of: ProblemSet
    routes: Sequence[Route] = ()
    """The teachers, if there are several."""
    tally: Tally = field(init=False)
    totals: metrics.RolloutTotals = field(default_factory=metrics.RolloutTotals)
    steps: metrics.StepTotals = field(default_factory=lambda: metrics.StepTotals(PAPER))
    by_teacher: dict[str, metrics.StepTotals] = field(default_factory=dict)
    by_judge: dict[str, Tally] = field(default_factory=dict)
    silent: Counter[str] = field(default_factory=Counter)
    """Number of samples without an answer, by cause."""

    def __post_init__(self) -> None:
        self.tally = Tally(self.of.votes)

    def add(
        self, group: Group, rows: list[Record], batch: ScoredBatch | None, text: Callable[[list[int]], object]
    ) -> list[Record]:
        """Count a problem's samples, and their `batch` if they were scored. -> their lines, with the teacher's scores"""
        self.tally.add(group)
        self.totals.add(group)
        self.silent += silence(group.trajectories)
        self._count_judges(group, rows)
        if batch is None:
            return rows
        self.steps.add(batch)
        if route := route_for(self.routes, group.problem):
            self.by_teacher.setdefault(route.name, metrics.StepTotals(PAPER)).add(batch)
        scored = {row["sample"]: row for row in scored_records(batch, PAPER, text, len(batch), self.routes)}
        return [{**row, **scored.get(row["sample"], {})} for row in rows]

    def _count_judges(self, group: Group, rows: Sequence[Record]) -> None:
        judged: dict[str, list[Trajectory]] = {}
        by_sample = {each.sample: each for each in (*group.trajectories, *group.ungraded)}
        for row in rows:
            for name, verdict in row.get("judges", {}).items():
                judged.setdefault(name, []).append(replace(by_sample[row["sample"]], verdict=verdict_of(verdict)))
        for name, trajectories in judged.items():
            again = Group.of(group.problem, trajectories, dropped=group.dropped)
            self.by_judge.setdefault(name, Tally(self.of.votes)).add(again)

    def results(self) -> BenchmarkResults:
        measured = self.tally.measured() | self.totals.metrics() | self.steps.metrics()
        for name, steps in self.by_teacher.items():
            measured |= metrics_of_teacher(name, steps.metrics())
        if self.totals.count:
            measured["truncated"] = self.totals.stops["max_tokens"] / self.totals.count
        return BenchmarkResults(
            measured=measured,
            file=str(self.of.path),
            sha256=self.of.sha256,
            source=self.of.source,
            notes=[*self.of.notes, *why_silent(self.silent, self.totals.count, self.of.problems)],
            private=self.of.private,
            by=self.tally.by_label(),
            judges={name: tally.measured() for name, tally in self.by_judge.items()},
            ids=[problem.id for problem in self.of.problems],
        )
