"""Weighting rules of this project, based on measurements in its lab.

Divergence shows that two models disagree. The teacher's entropy shows whether the teacher is certain.
"""

import torch
from torch import Tensor

from sod.core.rules.by_token import trust_region
from sod.core.rules.inputs import StepInfo
from sod.core.rules.paper import drift
from sod.core.steps import per_token
from sod.core.weights import steps_since_error


def entropy(d_BK: Tensor, info: StepInfo, *, nats: float = 0.2) -> Tensor:
    """Return higher weights for steps in which the teacher is certain.

    Paper: none; this project.
    Formula: w_k = exp(-H_k / 0.2 nats), H_k the teacher's mean entropy over the step.
    Left out: nothing.
    """
    del d_BK
    return torch.exp(-info.entropy_BK / nats)


def drift_from_median(d_BK: Tensor, info: StepInfo) -> Tensor:
    """Return SOD's weights with the batch's median divergence of error-free steps in place of d_1.

    Error-free steps are those up to the first tool error. An easy first step then no longer removes the teacher's signal
    from the rest of its trajectory.

    Paper: none; this project.
    Formula: w_k = min((m + epsilon) / (d_k + epsilon), 1 + delta), m the median of d up to the first error.
    Left out: nothing.
    """
    clean_BK = info.exists_BK & (steps_since_error(info.failed_BK) == 0)
    reference = d_BK[clean_BK].median() if clean_BK.any() else d_BK.new_tensor(1.0)
    return ((reference + info.epsilon) / (d_BK + info.epsilon)).clamp(max=1 + info.delta)


def drift_with_floor(d_BK: Tensor, info: StepInfo, *, nats: float = 0.1) -> Tensor:
    """Return SOD's weights with a lower bound of d_1, so that an easy first step does not suppress all later ones.

    Paper: none; this project.
    Formula: as SOD, with max(d_1, 0.1 nats) in place of d_1.
    Left out: nothing.
    """
    return drift(torch.cat([d_BK[:, :1].clamp(min=nats), d_BK[:, 1:]], dim=1), info)


def drift_before(d_BK: Tensor, info: StepInfo) -> Tensor:
    """Return SOD's weights with the mean divergence of the earlier steps in place of d_k.

    An erroneous action raises the divergence of its own step. SOD therefore weighs the step least in which the teacher corrects
    the error. This rule weighs a step by how the trajectory came to it, not by the action in it.

    Paper: none; this project.
    Formula: w_k = min((d_1 + epsilon) / (m_k + epsilon), 1 + delta), m_k the mean of d_1 ... d_(k-1); w_1 = 1.
    Left out: nothing.
    """
    earlier_BK = d_BK[:, :-1].cumsum(-1) / torch.arange(1, d_BK.shape[1], device=d_BK.device)
    return drift(torch.cat([d_BK[:, :1], earlier_BK], dim=1), info)


def per_error(d_BK: Tensor, info: StepInfo, *, kept: float = 0.4) -> Tensor:
    """Return weights that fall with each earlier step that had a failed tool call.

    In the lab, each error lowers the rate at which the teacher itself solves the problem from there by about 60 %
    (`sod calibrate`).

    Paper: none; this project.
    Formula: w_k = 0.4^(number of earlier steps with a failed call).
    Left out: nothing.
    """
    failed_BK = info.failed_BK.to(d_BK.dtype)
    return kept ** (failed_BK.cumsum(-1) - failed_BK)


def entropy_in_trust_region(d_BK: Tensor, info: StepInfo) -> Tensor:
    """Return the product of the step weights of `entropy` and the token weights of `trust_region`.

    Paper: none; this project.
    Formula: w_t = exp(-H_k / 0.2 nats) min(1, 2 nats / |delta_t|).
    Left out: nothing.
    """
    return per_token(entropy(d_BK, info), info.ids_BT) * trust_region(d_BK, info)
