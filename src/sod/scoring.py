"""What the student and the teacher think of every sampled token, group by group, while other groups still roll out."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from transformers import PreTrainedModel

from sod.batching import Batch, collate, pad
from sod.concurrency import compute
from sod.errors import InfrastructureError
from sod.model.loading import score, score_top
from sod.teachers import Teacher
from sod.types import Group


class Scorer:
    """Scores whole groups, in an order and in parts that do not depend on when they come: the numbers repeat.

    `student_from`: "recompute" reads every trajectory again with the policy; "sampler" takes the sampler's own
    log-probabilities, except for the longest trajectory of each group, which is read again and says how far off they are
    (`Batch.recomputed_B`).

    `candidates`: at each sampled token, how many of the policy's likeliest tokens the teacher is to judge as well. No
    sampler knows them, so "recompute" is needed.
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
    ):
        assert student_from == "recompute" or not candidates, "a sampler knows no candidates"
        self._student = student
        self._teacher = teacher
        self._temperature = temperature
        self._microbatch_tokens = microbatch_tokens
        self._student_from = student_from
        self._candidates = candidates
        self._busy_seconds = 0.0

    async def score(self, group: Group) -> Batch:
        batch = await compute(self._timed, collate([group]))
        if self._teacher is None:
            return batch
        return (await self._teacher.score(batch)).put_into(batch)

    def score_now(self, group: Group) -> Batch:
        """`score`, where no event loop runs."""
        return asyncio.run(self.score(group))

    def take_busy_seconds(self) -> float:
        """Seconds of scoring since this was last asked, the teacher's among them: on a server it may be busy meanwhile."""
        seconds, self._busy_seconds = self._busy_seconds, 0.0
        return seconds + (0.0 if self._teacher is None else self._teacher.take_busy_seconds())

    def _timed(self, batch: Batch) -> Batch:
        start = time.perf_counter()
        batch = self._with_student(batch)
        self._busy_seconds += time.perf_counter() - start
        return batch

    def _with_student(self, batch: Batch) -> Batch:
        if self._candidates:
            ids_BTJ, logprobs_BTJ = score_top(
                self._student, batch, self._temperature, self._microbatch_tokens, self._candidates
            )
            return replace(
                batch,
                student_BT=logprobs_BTJ[..., 0],
                candidates_BTJ=ids_BTJ[..., 1:],
                candidate_student_BTJ=logprobs_BTJ[..., 1:],
                recomputed_B=torch.ones(len(batch), dtype=torch.bool),
            )
        if self._student_from == "recompute" or not len(batch):
            student_BT, _ = score(self._student, batch, self._temperature, self._microbatch_tokens)
            return replace(batch, student_BT=student_BT, recomputed_B=torch.ones(len(batch), dtype=torch.bool))
        student_BT = pad([t.sampler_logprobs for t in batch.trajectories], torch.float32)
        longest = batch.lengths_B.argmax()[None]
        again_BT, _ = score(self._student, batch.rows(longest), self._temperature, self._microbatch_tokens)
        student_BT[longest, : again_BT.shape[1]] = again_BT
        return replace(batch, student_BT=student_BT, recomputed_B=torch.arange(len(batch)) == longest)


def check_enough(*, kept: int, dropped: int, ungraded: int) -> None:
    """Raises InfrastructureError where more attempts were lost than graded."""
    if dropped + ungraded > kept:
        raise InfrastructureError(
            f"Of {kept + dropped + ungraded} attempts, {dropped} were lost to our own machinery and {ungraded} could not be "
            "graded: too many to go on; the lines above say why. `sod train` continues with --resume, `sod eval` when it is "
            "run again."
        )


def check_groups(groups: Sequence[Group]) -> None:
    """The same, of whole groups."""
    check_enough(
        kept=sum(map(len, groups)),
        dropped=sum(group.dropped for group in groups),
        ungraded=sum(len(group.ungraded) for group in groups),
    )
