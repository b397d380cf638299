"""Several teachers in one run: each problem has one of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sod.batching import Batch, ScoredBatch
from sod.config import AlgorithmOptions
from sod.config.teachers import REST, Route, route_for
from sod.errors import DataError
from sod.runs.by_teacher import metrics_of_teacher
from sod.runs.metrics import of_steps
from sod.teachers import Scores, Teacher
from sod.types import Problem

SHOWN_KEYS = 12
"""Kinds and labels of the data that a message shows."""
FOLDER = "teachers"
"""Folder of a checkpoint with a folder for each teacher that has something to save."""


class SeveralTeachers(Teacher):
    """Scores each group with the teacher of its problem. `teachers`: by the key of a route; two routes may share one."""

    def __init__(self, routes: Sequence[Route], teachers: Mapping[str, Teacher]):
        self._routes, self._by_key = list(routes), dict(teachers)
        self._teachers = list(dict.fromkeys(teachers.values()))
        self.has_spans = any(teacher.has_spans for teacher in self._teachers)
        self.has_bounds = any(teacher.has_bounds for teacher in self._teachers)
        self.scores_candidates = all(teacher.scores_candidates for teacher in self._teachers)
        self.scores_tokens = all(teacher.scores_tokens for teacher in self._teachers)

    def route(self, problem: Problem) -> Route:
        """Return the route of a problem: the first that takes it. Raise DataError if there is none."""
        if route := route_for(self._routes, problem):
            return route
        raise DataError(
            f"Problem {problem.id!r} has no teacher: its kind is {problem.kind}, and its labels are {dict(problem.labels)}. "
            f"Add {problem.kind}=MODEL or {REST}=MODEL to --teachers."
        )

    def parts(self) -> list[tuple[Route, Teacher]]:
        """Return each route with its teacher."""
        return [(route, self._by_key[route.key]) for route in self._routes]

    def _of(self, batch: Batch) -> Teacher:
        """Return the teacher of a group. An empty group has any."""
        route = self.route(batch.trajectories[0].problem) if len(batch) else self._routes[0]
        return self._by_key[route.key]

    async def score(self, batch: Batch) -> Scores:
        return await self._of(batch).score(batch)

    async def scored(self, batch: ScoredBatch) -> ScoredBatch:
        return self._joinable(await self._of(batch).scored(batch))

    def _joinable(self, batch: ScoredBatch) -> ScoredBatch:
        """Add what only other teachers have, because batches that are joined lose what one of them lacks.

        One token is one span, and no log-probability is a bound.
        """
        if self.has_spans and batch.span_share_BT is None:
            batch = replace(batch, span_share_BT=batch.mask_BT.float())
        if self.has_bounds and batch.outside_BT is None:
            batch = replace(batch, outside_BT=torch.zeros_like(batch.student_BT))
        return batch

    def finish(self, batches: Sequence[ScoredBatch]) -> list[ScoredBatch]:
        """Let each teacher finish its batches, one teacher after the other, in the same order in every process."""
        finished = list(batches)
        for teacher in self._teachers:
            places = [at for at, batch in enumerate(batches) if self._of(batch) is teacher]
            for at, batch in zip(places, teacher.finish([batches[at] for at in places]), strict=True):
                finished[at] = self._joinable(batch)
        return finished

    def take_busy_seconds(self) -> float:
        return sum(teacher.take_busy_seconds() for teacher in self._teachers)

    def take_costs(self) -> dict[str, float]:
        costs = Counter[str]()
        for teacher in self._teachers:
            costs.update(teacher.take_costs())
        return dict(costs)

    async def confirm(self) -> None:
        for teacher in self._teachers:
            await teacher.confirm()

    def check(self, problems: Sequence[Problem]) -> None:
        """Raise DataError if a problem has no teacher or lacks something that its teacher requires, or if a key fits none."""
        of = [(problem, self.route(problem).key) for problem in problems]
        used = {key for _, key in of} | {route.key for route in self._routes if route.is_rest}
        if unused := next((route.key for route in self._routes if route.key not in used), None):
            found = {problem.kind for problem in problems}
            found |= {f"{column}:{value}" for problem in problems for column, value in problem.labels.items()}
            shown = ", ".join(sorted(found)[:SHOWN_KEYS]) + (" ..." if len(found) > SHOWN_KEYS else "")
            raise DataError(
                f"teachers: {unused!r} is the key of no problem that has no earlier one. The data has {shown}. Correct it, or "
                "leave this teacher out."
            )
        for teacher in self._teachers:
            teacher.check([problem for problem, key in of if self._by_key[key] is teacher])

    def metrics(self, batch: ScoredBatch, options: AlgorithmOptions) -> dict[str, float]:
        """Return the share of the trajectories, the divergence and the weights of each teacher."""
        found: dict[str, float] = {}
        names = [self.route(trajectory.problem).name for trajectory in batch.trajectories]
        for route in self._routes:
            rows: Tensor = torch.tensor([at for at, name in enumerate(names) if name == route.name], dtype=torch.long)
            found[f"teacher/{route.name}/share"] = len(rows) / max(1, len(batch))
            if len(rows):
                found |= metrics_of_teacher(route.name, of_steps(batch.rows(rows), options))
        return found

    def follow(self, student: PreTrainedModel) -> None:
        for teacher in self._teachers:
            teacher.follow(student)

    def save(self, folder: Path) -> None:
        for route, teacher in self.parts():
            teacher.save(folder / FOLDER / route.name)

    def restore(self, folder: Path) -> None:
        for route, teacher in self.parts():
            teacher.restore(folder / FOLDER / route.name)
