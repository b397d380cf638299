"""Batch to credit: what every sampled token is worth. The trainer never learns an algorithm's name.

Each function returns a (B, T) tensor, 0 off the mask. Adding an algorithm is one function and one line in `ALGORITHMS`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from sod.batching import Batch
from sod.config import AlgorithmOptions
from sod.core import group_advantage, per_token, step_divergence, step_weights, teacher_advantage


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
    student_BT, teacher_BT = _logprobs(batch)
    d_BK = step_divergence(student_BT, teacher_BT, batch.steps_BT)
    w_BT = per_token(step_weights(d_BK, epsilon=options.epsilon, delta=options.delta), batch.steps_BT)
    return grpo(batch, options) + options.coef * w_BT * teacher_advantage(student_BT, teacher_BT, batch.mask_BT)


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
    "sham": sham,
}
WITHOUT_TEACHER = {"grpo", "sham"}
