"""A frozen teacher sharded over all processes, for models that do not fit in one."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from sod.batching import ScoredBatch, microbatches
from sod.model.forward import hidden_states
from sod.model.fsdp import load_sharded
from sod.processes.distributed import Ranks
from sod.teachers import TeacherSetup
from sod.teachers.local import LocalTeacher


class ShardedTeacher(LocalTeacher):
    """Scores together with all other processes, layer by layer, after all have finished sampling."""

    writes_turns = False

    def __init__(self, setup: TeacherSetup, ranks: Ranks):
        self._ranks = ranks
        on_the_cpu = setup.network.model_copy(update={"device": "cpu"})
        super().__init__(
            replace(setup, network=on_the_cpu, score=setup.score.model_copy(update={"offload_teacher": False}))
        )

    def _load(self, setup: TeacherSetup) -> PreTrainedModel:
        return load_sharded(lambda: super(ShardedTeacher, self)._load(setup), self._ranks)

    async def scored(self, batch: ScoredBatch) -> ScoredBatch:
        """Return the batch unchanged; `finish` adds the scores."""
        return batch

    def finish(self, batches: Sequence[ScoredBatch]) -> list[ScoredBatch]:
        """Return this process's batches with the teacher's scores. All processes must call it.

        Processes with fewer passes run idle passes, so that all take part in every pass.
        """
        passes = sum(1 for batch in batches for _ in microbatches(batch.lengths_B, self._microbatch_tokens))
        most = max(self._ranks.gather(passes))  # before the first pass, because every pass waits for all processes
        scored = [self._timed(batch).add_to(batch) for batch in batches]
        for _ in range(most - passes):
            self._idle()
        # The first pass gathers embedding and head, and the later ones keep them. All processes must give them back together.
        cast(FSDPModule, self._model).reshard()
        return scored

    @torch.no_grad()
    def _idle(self) -> None:
        """Run a pass over one token, which the other processes need for their own passes."""
        hidden_states(self._model, torch.zeros(1, 1, dtype=torch.long, device=self._device), torch.ones(1).long())

    def _enter(self) -> None:
        """Do nothing: the parts of the weights stay on their devices."""

    def _leave(self) -> None:
        """Do nothing: `finish` gives the gathered weights back, after as many passes in every process."""
