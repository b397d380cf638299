"""Who scores the student's tokens: the contract of a teacher."""

from dataclasses import replace
from typing import NamedTuple, Protocol

from torch import Tensor

from sod.batching import Batch


class Scores(NamedTuple):
    """What a teacher thinks of a batch; all in nats, at the rollout's temperature, 0 off the mask."""

    logprobs_BT: Tensor
    """log pi_teacher of each sampled token."""
    entropy_BT: Tensor | None
    """Entropy of the teacher's distribution there; None where it tells none."""
    candidates_BTJ: Tensor | None = None
    """log pi_teacher of each candidate, if the batch has any."""

    def put_into(self, batch: Batch) -> Batch:
        """The batch with these scores."""
        return replace(
            batch,
            teacher_BT=self.logprobs_BT,
            teacher_entropy_BT=self.entropy_BT,
            candidate_teacher_BTJ=self.candidates_BTJ,
        )


class Teacher(Protocol):
    async def score(self, batch: Batch) -> Scores:
        """Computes with `sod.concurrency.compute`, or waits for somebody else. Several batches may be under way at once."""
        ...

    def take_busy_seconds(self) -> float:
        """Seconds of scoring since this was last asked."""
        ...
