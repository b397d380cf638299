"""A frozen teacher on this machine."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sod.batching import Batch
from sod.config import EngineOptions, SamplingOptions
from sod.engines import Engine
from sod.engines.opening import open_engine
from sod.model.loading import check_context, check_embeddings, check_same_vocabulary, load_model, load_tokenizer
from sod.model.scores import score
from sod.processes.concurrency import Runner, compute
from sod.teachers import Scores, Teacher, TeacherSetup


class LocalTeacher(Teacher):
    """Scores with the model in `setup.folder`. Its vocabulary must equal the student's."""

    writes_turns = True

    def __init__(self, setup: TeacherSetup):
        tokenizer = load_tokenizer(setup.folder)
        self._check_tokenizer(setup.tokenizer, tokenizer)
        self._model = self._load(setup)
        check_embeddings(self._model, tokenizer, setup.folder)
        check_context(self._model, setup.rollout, whose="teacher")
        self._device = self._model.device
        self._home = _in_cpu_memory(self._model) if setup.score.offload_teacher and self._device.type != "cpu" else None
        """The weights in CPU memory; None if they stay on the device."""
        self._leave()
        self._temperature = setup.rollout.temperature
        self._microbatch_tokens = setup.microbatch_tokens
        self._busy_seconds = 0.0

    def _load(self, setup: TeacherSetup) -> PreTrainedModel:
        return load_model(setup.folder, setup.network.for_teacher(setup.score)).requires_grad_(False)

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
        self._enter()
        logprobs_BT, entropy_BT = score(self._model, batch, self._temperature, self._microbatch_tokens, entropy=True)
        self._leave()
        if batch.candidates_BTJ is None:
            return Scores(logprobs_BT, entropy_BT)
        return Scores(logprobs_BT[..., 0], entropy_BT, logprobs_BT[..., 1:])

    def logprobs(self, batch: Batch) -> Tensor:
        """Return log pi of each sampled token under the batch's own prompts. -> (B, T), 0 off the mask"""
        self._enter()
        logprobs_BT, _ = score(
            self._model, replace(batch, candidates_BTJ=None), self._temperature, self._microbatch_tokens
        )
        self._leave()
        return logprobs_BT

    @contextmanager
    def sampled(self, loop: Runner, rollout: SamplingOptions, options: EngineOptions | None = None) -> Iterator[Engine]:
        """Open an engine that samples the model, on its device."""
        self._enter()
        try:
            with open_engine(loop, options or EngineOptions(), self._model, rollout) as engine:
                yield engine
        finally:
            self._leave()

    def _enter(self) -> None:
        self._model.to(self._device)  # type: ignore[arg-type]

    def _leave(self) -> None:
        """Use the weights in CPU memory again. They have not changed, so nothing is copied back."""
        if self._home is not None:
            self._model.load_state_dict(self._home, assign=True)
            self._model.requires_grad_(False).tie_weights()


def _in_cpu_memory(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the weights in pinned CPU memory, from which copies to a GPU are fastest. Tied weights share their memory."""
    copies: dict[int, Tensor] = {}
    weights = model.state_dict(keep_vars=True)
    for weight in weights.values():
        copies.setdefault(id(weight), weight.detach().cpu().pin_memory())
    return {name: copies[id(weight)] for name, weight in weights.items()}
