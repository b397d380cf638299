"""A frozen teacher sharded over all processes, for models that do not fit in one."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from sod.batching import Batch, microbatches
from sod.config import ModelOptions, SamplingOptions, ScoreOptions
from sod.distributed import Ranks
from sod.model.fsdp import divide
from sod.model.loading import hidden_states
from sod.teachers.local import LocalTeacher


class DividedTeacher(LocalTeacher):
    """Scores together with all other processes, layer by layer.

    All processes call `score_all` once, after all have finished sampling.
    """

    def __init__(
        self,
        folder: Path,
        student_tokenizer: PreTrainedTokenizerBase,
        network: ModelOptions,
        options: ScoreOptions,
        rollout: SamplingOptions,
        *,
        microbatch_tokens: int,
        ranks: Ranks,
    ):
        whole = network.model_copy(update={"device": "cpu"})
        super().__init__(folder, student_tokenizer, whole, options, rollout, microbatch_tokens=microbatch_tokens)
        divide(self._model, ranks, self._model.dtype)
        self._home = self._device = self._model.device
        self._ranks = ranks

    def score_all(self, batches: Sequence[Batch]) -> list[Batch]:
        """Return this process's batches with the teacher's scores. All processes must call it.

        Processes with fewer passes run idle passes, so that all take part in every pass.
        """
        passes = sum(1 for batch in batches for _ in microbatches(batch.lengths_B, self._microbatch_tokens))
        most = max(self._ranks.gather(passes))  # before the first pass, because every pass waits for all processes
        scored = [self._timed(batch).put_into(batch) for batch in batches]
        for _ in range(most - passes):
            self._idle()
        return scored

    @torch.no_grad()
    def _idle(self) -> None:
        """Run a pass over one token, which the other processes need for their own passes."""
        hidden_states(self._model, torch.zeros(1, 1, dtype=torch.long, device=self._device), torch.ones(1).long())
