"""A frozen model that no single process could hold, divided among all."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from sod.batching import Batch, microbatches
from sod.config import ModelOptions, SamplingOptions, ScoreOptions
from sod.models import hidden_states
from sod.ranks import Ranks
from sod.sharding import divide
from sod.teachers.local import LocalTeacher


class DividedTeacher(LocalTeacher):
    """Scores in step with all other processes, layer by layer; so all ask once, when all have sampled: `score_all`."""

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
        """This process's batches with the teacher's scores. All processes must ask; those with less to score wait in step."""
        passes = sum(1 for batch in batches for _ in microbatches(batch.lengths_B, self._microbatch_tokens))
        most = max(self._ranks.gather(passes))  # before the first pass, in which each waits for all
        scored = [self._timed(batch).put_into(batch) for batch in batches]
        for _ in range(most - passes):
            self._idle()
        return scored

    @torch.no_grad()
    def _idle(self) -> None:
        """A pass over one token, for the others' sake."""
        hidden_states(self._model, torch.zeros(1, 1, dtype=torch.long, device=self._device), torch.ones(1).long())
