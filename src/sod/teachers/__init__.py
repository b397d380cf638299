"""The interface of a teacher, which scores the student's tokens."""

from dataclasses import replace
from typing import NamedTuple, Protocol

from torch import Tensor

from sod.batching import Batch


class Scores(NamedTuple):
    """A teacher's scores of a batch: in nats, at the rollout's temperature, 0 off the mask."""

    logprobs_BT: Tensor
    """log pi_teacher of each sampled token."""
    entropy_BT: Tensor | None
    """Entropy of the teacher's distribution at each sampled token; None if the teacher returns none."""
    candidates_BTJ: Tensor | None = None
    """log pi_teacher of each candidate, if the batch has any."""

    def put_into(self, batch: Batch) -> Batch:
        """Return the batch with these scores."""
        return replace(
            batch,
            teacher_BT=self.logprobs_BT,
            teacher_entropy_BT=self.entropy_BT,
            candidate_teacher_BTJ=self.candidates_BTJ,
        )


class Teacher(Protocol):
    async def score(self, batch: Batch) -> Scores:
        """Score a batch with `sod.concurrency.compute` or on a server. Several batches may be scored at once."""
        ...

    def take_busy_seconds(self) -> float:
        """Return the seconds of scoring since the last call."""
        ...
