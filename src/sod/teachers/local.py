"""A frozen model on this machine."""

from pathlib import Path

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sod.batching import Batch
from sod.config import ModelOptions, RolloutOptions
from sod.models import check_context, check_embeddings, check_same_vocabulary, load_model, load_tokenizer, score


class LocalTeacher:
    """Scores with the model in `folder`, whose vocabulary must be the student's."""

    def __init__(
        self,
        folder: Path,
        student_tokenizer: PreTrainedTokenizerBase,
        options: ModelOptions,
        rollout: RolloutOptions,
        *,
        microbatch_tokens: int,
    ):
        tokenizer = load_tokenizer(folder)
        check_same_vocabulary(student_tokenizer, tokenizer)
        self._model = load_model(folder, options).requires_grad_(False)
        check_embeddings(self._model, tokenizer, folder)
        check_context(self._model, rollout, whose="teacher")
        self._temperature = rollout.temperature
        self._microbatch_tokens = microbatch_tokens

    def score(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return score(self._model, batch, self._temperature, self._microbatch_tokens)
