"""Weighting rules of the SOD paper, arXiv 2605.07725: the method and its ablations."""

import math

import torch
from torch import Tensor

from sod.core.rules.inputs import StepInfo
from sod.core.weights import decayed_weights, masked_weights, step_weights


def uniform(d_BK: Tensor, info: StepInfo) -> Tensor:
    """Return 1 for every step: plain on-policy distillation.

    Paper: SOD, arXiv 2605.07725, Eq. 8.
    Formula: w = 1.
    Left out: nothing.
    """
    del info
    return torch.ones_like(d_BK)


def drift(d_BK: Tensor, info: StepInfo) -> Tensor:
    """Return SOD's weights: a step that disagrees more than the first weighs less.

    Paper: SOD, arXiv 2605.07725, Eq. 7.
    Formula: w_k = min((d_1 + epsilon) / (d_k + epsilon), 1 + delta).
    Left out: nothing.
    """
    return step_weights(d_BK, epsilon=info.epsilon, delta=info.delta)


def drift_unclipped(d_BK: Tensor, info: StepInfo) -> Tensor:
    """Return SOD's weights without the upper bound.

    Paper: SOD, arXiv 2605.07725, an ablation.
    Formula: w_k = (d_1 + epsilon) / (d_k + epsilon).
    Left out: nothing.
    """
    return step_weights(d_BK, epsilon=info.epsilon, delta=math.inf)


def decayed(d_BK: Tensor, info: StepInfo) -> Tensor:
    """Return weights that decay after the first tool error; the divergence is not used.

    Paper: SOD, arXiv 2605.07725, an ablation.
    Formula: w_k = decay^(k - k_err) after the first failed step k_err, 1 up to it.
    Left out: nothing.
    """
    del d_BK
    return decayed_weights(info.failed_BK, decay=info.decay)


def masked(d_BK: Tensor, info: StepInfo) -> Tensor:
    """Return 1 up to the first tool error, 0 after it.

    Paper: SOD, arXiv 2605.07725, an ablation.
    Formula: w_k = 1[k <= k_err].
    Left out: nothing.
    """
    del d_BK
    return masked_weights(info.failed_BK)
