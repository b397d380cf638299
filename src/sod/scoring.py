"""Score the sampled tokens with student and teacher, group by group, while other groups are still sampling."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from transformers import PreTrainedModel

from sod.batching import Batch, ScoredBatch, collate, pad
from sod.errors import InfrastructureError
from sod.model.scores import score, score_top
from sod.processes.concurrency import compute
from sod.teachers import Teacher
from sod.teachers.reference import Reference
from sod.types import Group


class Scorer:
    """Scores whole groups. Order and microbatches do not depend on timing, so results are reproducible.

    `student_from`: "recompute" runs a forward pass of the policy over every trajectory. "sampler" uses the sampler's own
    log-probabilities, except for the longest trajectory of each group, which is recomputed to measure the difference
    (`Batch.recomputed_B`).

    `candidates`: number of the policy's likeliest tokens that the teacher scores as well, at each sampled token. Requires
    "recompute", because a sampler does not return them.

    `student_entropy`: compute the policy's entropies as well. Requires "recompute" and no candidates.

    `reference`: the policy's initial weights, which score the sampled tokens as well.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: Teacher | None,
        *,
        temperature: float,
        microbatch_tokens: int,
        student_from: Literal["recompute", "sampler"] = "recompute",
        candidates: int = 0,
        student_entropy: bool = False,
        reference: Reference | None = None,
    ):
        assert student_from == "recompute" or not candidates, "a sampler returns no candidates"
        self._student = student
        self._teacher = teacher
        self._temperature = temperature
        self._microbatch_tokens = microbatch_tokens
        self._student_from = student_from
        self._candidates = candidates
        self._student_entropy = student_entropy
        self._reference = reference
        self._busy_seconds = 0.0

    async def score(self, group: Group) -> ScoredBatch:
        batch = await compute(self._timed, collate([group]))
        return batch if self._teacher is None else await self._teacher.scored(batch)

    async def confirm(self) -> None:
        """Raise ModelError if the teacher on a server is no longer the same model."""
        if self._teacher is not None:
            await self._teacher.confirm()

    def score_now(self, group: Group) -> ScoredBatch:
        """Same as `score`, for callers without a running event loop."""
        return asyncio.run(self.score(group))

    def take_busy_seconds(self) -> float:
        """Return the seconds of scoring since the last call, including the teacher's, which may overlap on a server."""
        seconds, self._busy_seconds = self._busy_seconds, 0.0
        return seconds + (0.0 if self._teacher is None else self._teacher.take_busy_seconds())

    def _timed(self, batch: Batch) -> ScoredBatch:
        start = time.perf_counter()
        scored = self._with_student(batch)
        if self._reference is not None:
            scored = replace(scored, reference_BT=self._reference.logprobs(batch))
        self._busy_seconds += time.perf_counter() - start
        return scored

    def _with_student(self, batch: Batch) -> ScoredBatch:
        if self._candidates:
            ids_BTJ, logprobs_BTJ = score_top(
                self._student, batch, self._temperature, self._microbatch_tokens, self._candidates
            )
            batch = replace(batch, candidates_BTJ=ids_BTJ[..., 1:])
            return batch.scored(logprobs_BTJ[..., 0], candidate_student_BTJ=logprobs_BTJ[..., 1:])
        if self._student_from == "recompute" or not len(batch):
            if self._student_entropy:
                student_BT, entropy_BT = score(
                    self._student, batch, self._temperature, self._microbatch_tokens, entropy=True
                )
                return replace(batch.scored(student_BT), student_entropy_BT=entropy_BT)
            student_BT, _ = score(self._student, batch, self._temperature, self._microbatch_tokens)
            return batch.scored(student_BT)
        student_BT = pad([t.sampler_logprobs for t in batch.trajectories], torch.float32)
        longest = batch.lengths_B.argmax()[None]
        again_BT, _ = score(self._student, batch.rows(longest), self._temperature, self._microbatch_tokens)
        student_BT[longest, : again_BT.shape[1]] = again_BT
        return batch.scored(student_BT, torch.arange(len(batch)) == longest)


def check_enough(*, kept: int, dropped: int, ungraded: int) -> None:
    """Raises InfrastructureError if more attempts were lost or ungraded than graded."""
    if dropped + ungraded > kept:
        raise InfrastructureError(
            f"Of {kept + dropped + ungraded} attempts, {dropped} were lost to infrastructure failures and {ungraded} could not "
            "be graded. These are too many to continue; the lines above give the reasons. Continue `sod train` with --resume, "
            "`sod eval` by running the same command."
        )


def check_groups(groups: Sequence[Group]) -> None:
    """Raises InfrastructureError if the groups lost too many attempts, as `check_enough`."""
    check_enough(
        kept=sum(map(len, groups)),
        dropped=sum(group.dropped for group in groups),
        ungraded=sum(len(group.ungraded) for group in groups),
    )
