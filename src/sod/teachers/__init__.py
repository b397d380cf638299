"""Who scores the student's tokens: the contract of a teacher."""

from typing import NamedTuple, Protocol

from torch import Tensor

from sod.batching import Batch


class Scores(NamedTuple):
    """What a teacher thinks of a batch; all in nats, at the rollout's temperature, 0 off the mask."""

    logprobs_BT: Tensor
    """log pi_teacher of each sampled token."""
    entropy_BT: Tensor
    """Entropy of the teacher's distribution there."""
    candidates_BTJ: Tensor | None = None
    """log pi_teacher of each candidate, if the batch has any."""


class Teacher(Protocol):
    def score(self, batch: Batch) -> Scores: ...
