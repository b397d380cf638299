"""Batch to credit: what every sampled token is worth. The trainer never learns an algorithm's name.

Each function returns a (B, T) tensor, 0 off the mask. Adding an algorithm is one function and one line in `ALGORITHMS`.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sod.batching import Batch
from sod.config import AlgorithmOptions
from sod.core import (
    decayed_weights,
    group_advantage,
    masked_weights,
    per_token,
    step_divergence,
    step_weights,
    teacher_advantage,
)


def grpo(batch: Batch, options: AlgorithmOptions) -> Tensor:
    """The trajectory's reward against its group's, on each of its tokens."""
    del options
    advantage_B = group_advantage(batch.rewards_B, batch.groups_B)
    return advantage_B[:, None].expand(batch.mask_BT.shape).masked_fill(~batch.mask_BT, 0)


def opd_without_grpo(batch: Batch, options: AlgorithmOptions) -> Tensor:
    """coef * (log pi_teacher - log pi_student): on-policy distillation alone."""
    return options.coef * teacher_advantage(*_logprobs(batch), batch.mask_BT)


def opd(batch: Batch, options: AlgorithmOptions) -> Tensor:
    """On-policy distillation beside GRPO, every token at full strength."""
    return grpo(batch, options) + opd_without_grpo(batch, options)


def sod(batch: Batch, options: AlgorithmOptions) -> Tensor:
    """GRPO + coef * w_k * (log pi_teacher - log pi_student): the paper's Eq. 10 as an advantage."""
    return grpo(batch, options) + sod_without_grpo(batch, options)


def sod_without_grpo(batch: Batch, options: AlgorithmOptions) -> Tensor:
    """The step-weighted teacher alone."""
    return _weighted(batch, options, step_weights(_divergence(batch), epsilon=options.epsilon, delta=options.delta))


def sod_unclipped(batch: Batch, options: AlgorithmOptions) -> Tensor:
    """SOD without the headroom 1 + delta: a step that agrees better than the first counts for as much more."""
    w_BK = step_weights(_divergence(batch), epsilon=options.epsilon, delta=math.inf)
    return grpo(batch, options) + _weighted(batch, options, w_BK)


def sod_decay(batch: Batch, options: AlgorithmOptions) -> Tensor:
    """GRPO and the teacher at decay^(k - k_err) after the first tool error, whatever the divergence."""
    return grpo(batch, options) + _weighted(batch, options, decayed_weights(batch.failed_BK, decay=options.decay))


def sod_mask_after_error(batch: Batch, options: AlgorithmOptions) -> Tensor:
    """GRPO and the teacher up to the first tool error, GRPO alone after it."""
    return grpo(batch, options) + _weighted(batch, options, masked_weights(batch.failed_BK))


def _divergence(batch: Batch) -> Tensor:
    return step_divergence(*_logprobs(batch), batch.steps_BT)


def _weighted(batch: Batch, options: AlgorithmOptions, w_BK: Tensor) -> Tensor:
    """The teacher's term, each step at its weight."""
    return per_token(w_BK, batch.steps_BT) * opd_without_grpo(batch, options)


def sham(batch: Batch, options: AlgorithmOptions) -> Tensor:
    """GRPO on rewards shuffled over the whole batch: as many updates of the same size, with nothing to learn from.

    What a curve does under it is not the method's doing.
    """
    shuffle = torch.randperm(len(batch), generator=torch.Generator().manual_seed(int(batch.ids_BT.sum())))
    advantage_B = group_advantage(batch.rewards_B[shuffle], batch.groups_B)
    del options
    return advantage_B[:, None].expand(batch.mask_BT.shape).masked_fill(~batch.mask_BT, 0)


def _logprobs(batch: Batch) -> tuple[Tensor, Tensor]:
    assert batch.student_BT is not None
    assert batch.teacher_BT is not None
    return batch.student_BT, batch.teacher_BT


Algorithm = Callable[[Batch, AlgorithmOptions], Tensor]

ALGORITHMS: dict[str, Algorithm] = {
    "grpo": grpo,
    "opd": opd,
    "opd_without_grpo": opd_without_grpo,
    "sod": sod,
    "sod_uniform": opd,
    "sod_decay": sod_decay,
    "sod_mask_after_error": sod_mask_after_error,
    "sod_unclipped": sod_unclipped,
    "sod_without_grpo": sod_without_grpo,
    "sham": sham,
}
WITHOUT_TEACHER = {"grpo", "sham"}
