"""The policy's initial weights, which the divergence of `learn.kl` and `algorithm.kl_in_reward` is measured from."""

from dataclasses import replace
from pathlib import Path
from typing import Protocol

from torch import Tensor
from transformers import PreTrainedModel

from sod.batching import Batch
from sod.config import ScoreOptions, TrainOptions
from sod.model.lora import without_adapters
from sod.model.policy import Policy
from sod.model.scores import score
from sod.teachers import Teacher, TeacherSetup
from sod.teachers.local import LocalTeacher
from sod.teachers.privileged import PrivilegedTeacher


class Reference(Protocol):
    """A frozen model that scores the sampled tokens under the student's own prompts."""

    def logprobs(self, batch: Batch) -> Tensor:
        """Return log pi of each sampled token, in nats, at the rollout's temperature. -> (B, T), 0 off the mask"""
        ...


class FrozenBase:
    """The weights below the LoRA adapters of the policy's model, which never change. They need no memory of their own."""

    def __init__(self, model: PreTrainedModel, temperature: float, microbatch_tokens: int):
        self._model = model
        self._temperature = temperature
        self._microbatch_tokens = microbatch_tokens

    def logprobs(self, batch: Batch) -> Tensor:
        """Return log pi of each sampled token with the adapters switched off. -> (B, T), 0 off the mask"""
        with without_adapters(self._model):
            logprobs_BT, _ = score(
                self._model, replace(batch, candidates_BTJ=None), self._temperature, self._microbatch_tokens
            )
        return logprobs_BT


def open_reference(options: TrainOptions, student: Path, policy: Policy, teacher: Teacher | None) -> Reference | None:
    """Return the reference, or None if no option needs one. `student`: the folder of the initial weights.

    A frozen privileged teacher of the same type has these weights. Otherwise they are loaded, in each process.
    """
    if not options.has_reference:
        return None
    if options.learn.lora_rank:
        return FrozenBase(policy.model, options.rollout.temperature, options.learn.microbatch_tokens)
    if isinstance(teacher, PrivilegedTeacher) and options.teacher_is_reference:
        return teacher
    setup = TeacherSetup(
        folder=student,
        tokenizer=policy.tokenizer,
        network=options.network,
        score=ScoreOptions(offload_teacher=options.score.offload_teacher),
        rollout=options.rollout,
        microbatch_tokens=options.learn.microbatch_tokens,
    )
    return LocalTeacher(setup)
