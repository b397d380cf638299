"""A frozen model on this machine."""

from pathlib import Path

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sod.batching import Batch
from sod.config import ModelOptions
from sod.models import check_same_vocabulary, load_model, load_tokenizer, score


class LocalTeacher:
    """Scores with the model in `folder`, whose vocabulary must be the student's."""

    def __init__(
        self,
        folder: Path,
        student_tokenizer: PreTrainedTokenizerBase,
        options: ModelOptions,
        *,
        temperature: float,
        microbatch_tokens: int,
    ):
        check_same_vocabulary(student_tokenizer, load_tokenizer(folder))
        self._model = load_model(folder, options).requires_grad_(False)
        self._temperature = temperature
        self._microbatch_tokens = microbatch_tokens

    def score(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return score(self._model, batch, self._temperature, self._microbatch_tokens)
