"""The teacher as the author of some turns of the student's trajectories: `rollout.guided` (Guided-OPD, arXiv 2606.15912)."""

import random
from dataclasses import dataclass, replace

from sod.engines import Engine, Reply, Request

TEACHER_SEEDS = 1 << 15
"""Distance between the seeds of the teacher's and the student's turns. With equal seeds, a discarded turn would say something
about the student's turn in its place, which would then not be a sample of the policy."""


@dataclass(frozen=True, slots=True)
class Guide:
    """The teacher, which writes each turn with some probability."""

    engine: Engine
    """Samples the teacher."""
    probability: float

    async def write(self, request: Request) -> Reply | None:
        """Return the teacher's turn, or None if the student writes this one. The request's seed decides."""
        if random.Random(f"guided/{request.seed}").random() >= self.probability:
            return None
        return await self.engine.sample(replace(request, seed=request.seed + TEACHER_SEEDS, logprobs=False))
