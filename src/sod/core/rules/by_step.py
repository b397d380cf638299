"""Weighting rules from other papers that choose between the steps of a trajectory.

delta_t is the signal log pi_teacher - log pi_student of a token. A wave (~) marks values that are scaled to the range from 0 to 1
within each trajectory.
"""

import torch
from torch import Tensor

from sod.core.rules.inputs import StepInfo


def turn_opd(d_BK: Tensor, info: StepInfo) -> Tensor:
    """Return weights that go from equal tokens to equal steps while the run progresses.

    Paper: TurnOPD, arXiv 2607.05804.
    Formula: share of step k = (1 - a) n_k / n + a / K, with n_k of n tokens, K steps and a the share of the updates that are
    done. The weight of a token is this share times n / n_k, so the mean over tokens is 1.
    Left out: the cap of the depth, max(H_eff, Q80). As described in a survey; the paper's text was not at hand.
    """
    progress = info.need("progress").to(d_BK.dtype)
    exists_BK = info.exists_BK
    tokens_BK = _tokens(info)
    equal_BK = tokens_BK.sum(1, keepdim=True) / (exists_BK.sum(1, keepdim=True) * tokens_BK).clamp(min=1)
    return (1 - progress) + progress * equal_BK


def middle_dropped(d_BK: Tensor, info: StepInfo, *, share: float = 0.2) -> Tensor:
    """Return 0 for the steps in the middle of a trajectory, 1 for the others.

    Paper: arXiv 2609.07103.
    Formula: w_k = 0 where |(k - 1/2) / K - 1/2| < 0.2 / 2, with K the number of steps.
    Left out: nothing known. As described in a survey; the paper's text was not at hand.
    """
    step_K = torch.arange(1, d_BK.shape[1] + 1, device=d_BK.device)
    place_BK = (step_K - 0.5) / info.exists_BK.sum(1, keepdim=True).clamp(min=1)
    return ((place_BK - 0.5).abs() >= share / 2).to(d_BK.dtype)


def _tokens(info: StepInfo) -> Tensor:
    """Return the number of tokens of each step. -> (B, K)"""
    counts_BK = torch.zeros(len(info.ids_BT), info.exists_BK.shape[1] + 1)
    counts_BK.scatter_add_(1, info.ids_BT, torch.ones(info.ids_BT.shape))
    return counts_BK[:, 1:]
