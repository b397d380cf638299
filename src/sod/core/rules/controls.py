"""Controls: rules that change as much as a method does, without its information. They are deterministic for a batch."""

import torch
from torch import Tensor

from sod.core.rules.by_outcome import opdvr
from sod.core.rules.common import top_share
from sod.core.rules.inputs import StepInfo, Weights
from sod.core.rules.paper import drift


def random_weights(d_BK: Tensor, info: StepInfo) -> Tensor:
    """Return SOD's weights in random order: each step after a first one gets the weight of any such step of the batch.

    Paper: a control of the same coverage, as in arXiv 2609.22254 and 2609.15404.
    Formula: w_k of SOD, shuffled over all steps k > 1 of the batch.
    Left out: nothing.
    """
    weight_BK, later_BK = drift(d_BK, info).clone(), info.exists_BK
    later_BK[:, :1] = False
    values_N = weight_BK[later_BK]
    weight_BK[later_BK] = values_N[torch.randperm(len(values_N), generator=info.generator())]
    return weight_BK


def random_mask(d_BK: Tensor, info: StepInfo) -> Tensor:
    """Return 1 on random tokens, as many in each trajectory as OPDVR keeps; 0 on the others.

    Paper: a control of the same coverage, as in arXiv 2609.22254 and 2609.15404.
    Formula: w_t = 1 on n random tokens, n the number of tokens with s(delta_t) = s(A).
    Left out: nothing.
    """
    kept_B1 = (opdvr(d_BK, info).bool() & info.mask_BT).sum(1, keepdim=True)
    order_BT = torch.rand(info.ids_BT.shape, generator=info.generator()).masked_fill(~info.mask_BT, 2)
    return (order_BT.argsort(1).argsort(1) < kept_B1).float()


def random_steps(d_BK: Tensor, info: StepInfo, *, share: float = 0.25, weight: float = 2.0) -> Tensor:
    """Return 2 for random steps, 1 for the others.

    Paper: the control of OG-OPD, as described in a survey.
    Formula: w_k = 2 for a quarter of the batch's steps, 1 for the others.
    Left out: the share of the paper is not known; a quarter is this project's choice.
    """
    exists_BK = info.exists_BK
    draw_BK = torch.rand(d_BK.shape, generator=info.generator())
    raised_BK = top_share(draw_BK, exists_BK, share, torch.zeros(len(d_BK), dtype=torch.long))
    return torch.where(raised_BK, weight, 1.0)


def opd_then_grpo(d_BK: Tensor, info: StepInfo, *, share: float = 0.5) -> Weights:
    """Return the teacher alone in the first half of the updates, the outcome alone in the second.

    Paper: arXiv 2609.04108, as described in a survey.
    Formula: w = 1 and v = 0 for the first half of the updates, w = 0 and v = 1 after it, with v the weight of the outcome.
    Left out: the point of the change is this project's choice.
    """
    first = float(float(info.need("progress")) < share)
    return Weights(torch.full_like(d_BK, first), 1 - first)


def suppress_unlikely(info: StepInfo, *, share: float = 0.2) -> Tensor:
    """Return the advantage, and less for the student's least likely tokens; no teacher.

    Paper: the control of arXiv 2608.31046, as described in a survey.
    Formula: A - c on the 20 % of a trajectory's tokens with the lowest p_S, A on the others.
    Left out: the size of the paper's penalty is not known; c nats is this project's choice.
    """
    unlikely_BT = top_share(-info.need("student"), info.mask_BT, share)
    return info.advantage_BT - info.coef * unlikely_BT.float()
