"""A frozen teacher on this machine."""

import time
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from sod.batching import Batch
from sod.concurrency import compute
from sod.config import ModelOptions, SamplingOptions, ScoreOptions
from sod.model.loading import check_context, check_embeddings, check_same_vocabulary, load_model, load_tokenizer, score
from sod.teachers import Scores


class LocalTeacher:
    """Scores with the model in `folder`. Its vocabulary must equal the student's."""

    def __init__(
        self,
        folder: Path,
        student_tokenizer: PreTrainedTokenizerBase,
        network: ModelOptions,
        options: ScoreOptions,
        rollout: SamplingOptions,
        *,
        microbatch_tokens: int,
    ):
        tokenizer = load_tokenizer(folder)
        check_same_vocabulary(student_tokenizer, tokenizer)
        if options.teacher_dtype != "same":
            network = network.model_copy(update={"dtype": options.teacher_dtype})
        self._model = load_model(folder, network).requires_grad_(False)
        check_embeddings(self._model, tokenizer, folder)
        check_context(self._model, rollout, whose="teacher")
        self._home = torch.device("cpu") if options.offload_teacher else self._model.device
        self._device = self._model.device
        self._move(self._home)
        self._temperature = rollout.temperature
        self._microbatch_tokens = microbatch_tokens
        self._busy_seconds = 0.0

    async def score(self, batch: Batch) -> Scores:
        return await compute(self._timed, batch)

    def take_busy_seconds(self) -> float:
        """Return the seconds of computing since the last call."""
        seconds, self._busy_seconds = self._busy_seconds, 0.0
        return seconds

    def _timed(self, batch: Batch) -> Scores:
        start = time.perf_counter()
        scores = self.score_now(batch)
        self._busy_seconds += time.perf_counter() - start
        return scores

    def score_now(self, batch: Batch) -> Scores:
        """Same as `score`, in the caller's thread."""
        self._move(self._device)
        logprobs_BT, entropy_BT = score(self._model, batch, self._temperature, self._microbatch_tokens, entropy=True)
        self._move(self._home)
        assert entropy_BT is not None
        if batch.candidates_BTJ is None:
            return Scores(logprobs_BT, entropy_BT)
        return Scores(logprobs_BT[..., 0], entropy_BT, logprobs_BT[..., 1:])

    def _move(self, device: torch.device) -> None:
        self._model.to(device)  # type: ignore[arg-type]
