"""A frozen teacher on this machine."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sod.batching import Batch
from sod.chat.format import ChatFormat
from sod.concurrency import compute
from sod.model.loading import check_context, check_embeddings, check_same_vocabulary, load_model, load_tokenizer, score
from sod.teachers import Scores, Teacher, TeacherSetup


class LocalTeacher(Teacher):
    """Scores with the model in `setup.folder`. Its vocabulary must equal the student's."""

    chat: ChatFormat | None = None
    """The teacher's own chat format; None if it reads the student's."""

    def __init__(self, setup: TeacherSetup):
        tokenizer = load_tokenizer(setup.folder)
        self._check_tokenizer(setup.tokenizer, tokenizer)
        self._model = load_model(setup.folder, setup.network.for_teacher(setup.score)).requires_grad_(False)
        check_embeddings(self._model, tokenizer, setup.folder)
        check_context(self._model, setup.rollout, whose="teacher")
        self._home = torch.device("cpu") if setup.score.offload_teacher else self._model.device
        self._device = self._model.device
        self._move(self._home)
        self._temperature = setup.rollout.temperature
        self._microbatch_tokens = setup.microbatch_tokens
        self._busy_seconds = 0.0

    def _check_tokenizer(self, student: PreTrainedTokenizerBase, own: PreTrainedTokenizerBase) -> None:
        check_same_vocabulary(student, own)

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
        if batch.candidates_BTJ is None:
            return Scores(logprobs_BT, entropy_BT)
        return Scores(logprobs_BT[..., 0], entropy_BT, logprobs_BT[..., 1:])

    def logprobs(self, batch: Batch) -> Tensor:
        """Return log pi of each sampled token under the batch's own prompts. -> (B, T), 0 off the mask"""
        self._move(self._device)
        logprobs_BT, _ = score(
            self._model, replace(batch, candidates_BTJ=None), self._temperature, self._microbatch_tokens
        )
        self._move(self._home)
        return logprobs_BT

    @contextmanager
    def lent(self) -> Iterator[PreTrainedModel]:
        """Lend the model, on its device, to an engine that samples it."""
        self._move(self._device)
        yield self._model
        self._move(self._home)

    def _move(self, device: torch.device) -> None:
        self._model.to(device)  # type: ignore[arg-type]
