"""Who scores the student's tokens: the contract of a teacher."""

from typing import Protocol

from torch import Tensor

from sod.batching import Batch


class Teacher(Protocol):
    def score(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """log pi_teacher of each sampled token at the rollout's temperature, and the teacher's entropy there, in nats.

        -> (B, T), (B, T), 0 off the mask
        """
        ...
