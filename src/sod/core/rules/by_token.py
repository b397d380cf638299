"""Weighting rules from other papers that choose between tokens.

delta_t is the signal log pi_teacher - log pi_student of the t-th of T sampled tokens. H is the entropy of the student (S) or
teacher (T).
"""

import math

import torch
from torch import Tensor

from sod.core.rules.common import min_max, row_share, token_order, top_share
from sod.core.rules.inputs import StepInfo
from sod.core.steps import per_token, step_mean


def position(d_BK: Tensor, info: StepInfo) -> Tensor:
    """Return higher weights for later tokens.

    Paper: PW-OPSD, arXiv 2605.21606.
    Formula: w_t = 2 t / T.
    Left out: the paper only states that weights increase along the response. The line with mean 1 is this project's choice.
    """
    del d_BK
    order_BT = (info.ids_BT > 0).cumsum(-1)
    return 2 * order_BT / order_BT[:, -1:].clamp(min=1)


def iw_opd(d_BK: Tensor, info: StepInfo, *, gamma: float = 0.5) -> Tensor:
    """Return weights that fall with the disagreement that a trajectory has accumulated before the token.

    Paper: IW-OPD, arXiv 2606.22600.
    Formula: w_t = 1 + 0.5 (1 - sum over j < t of |delta_j| / sum over all j of |delta_j|).
    Left out: training on the teacher's or given samples. The form is that of TRL's experimental trainer.
    """
    del d_BK
    size_BT = info.signal_BT.abs()
    before_BT = size_BT.cumsum(-1) - size_BT
    return 1 + gamma * (1 - before_BT / size_BT.sum(-1, keepdim=True).clamp(min=1e-8))


def prefix(d_BK: Tensor, info: StepInfo, *, share: float = 0.1) -> Tensor:
    """Return 1 on the first tokens of a trajectory, 0 after them.

    Paper: arXiv 2605.27028; TOPD, arXiv 2605.31490.
    Formula: w_t = 1[t <= ceil(0.1 T)].
    Left out: rollouts are not cut there, because GRPO needs their outcome. The papers count tokens; the share is TOPD's.
    """
    del d_BK
    return _up_to(info, share)


def progressive_prefix(d_BK: Tensor, info: StepInfo, *, first: float = 0.1) -> Tensor:
    """Return 1 on the first tokens of a trajectory, more of them as the run progresses; 0 after them.

    Paper: POPD, arXiv 2605.31490.
    Formula: w_t = 1[t <= ceil((0.1 + 0.9 p) T)], p the share of the updates that are done.
    Left out: rollouts are not cut there, because GRPO needs their outcome. The line over the whole run is this project's choice.
    """
    del d_BK
    return _up_to(info, first + (1 - first) * float(info.need("progress")))


def _up_to(info: StepInfo, share: float) -> Tensor:
    order_BT, count_B1 = token_order(info.ids_BT)
    return (order_BT <= (share * count_B1 - 1e-4).ceil()).float()


def prefix_teach(d_BK: Tensor, info: StepInfo, *, nats: float = 0.1) -> Tensor:
    """Return 1 up to the token after which the teacher's mean signal falls the most, 0 after it.

    Paper: arXiv 2605.13643.
    Formula: w_t = 1[t <= c], where c maximises sum over j <= c of (delta_j - mean delta), the change-point of the mean. 1
    everywhere if the mean falls there by less than 0.1 nats.
    Left out: as described in a survey, which does not define the margin and the test. Margin and change-point are this project's.
    """
    del d_BK
    mask_BT = info.mask_BT
    order_BT, count_B1 = token_order(info.ids_BT)
    count_B1 = count_B1.clamp(min=1)
    mean_B1 = info.signal_BT.sum(1, keepdim=True) / count_B1
    above_BT = (info.signal_BT - mean_B1).masked_fill(~mask_BT, 0).cumsum(-1).masked_fill(~mask_BT, -math.inf)
    peak_B1, at_B1 = above_BT.max(1, keepdim=True)
    before_B1 = order_BT.gather(1, at_B1).clamp(min=1)
    fall_B1 = peak_B1 * count_B1 / (before_B1 * (count_B1 - before_B1)).clamp(min=1)
    return ((order_BT <= before_B1) | (fall_B1 < nats)).float()


def trust_region(d_BK: Tensor, info: StepInfo, *, nats: float = 2.0) -> Tensor:
    """Return weights that bound the signal of a token.

    Paper: TrOPD, arXiv 2606.01249.
    Formula: w_t = min(1, 2 nats / |delta_t|).
    Left out: the region from both models' decoding, and the guidance by the teacher's prefixes.
    """
    del d_BK
    return (nats / info.signal_BT.abs().clamp(min=1e-9)).clamp(max=1)


def tv_opd(d_BK: Tensor, info: StepInfo) -> Tensor:
    """Return weights that replace the size of the signal by the total variation of the step; its sign remains.

    Paper: TV-OPD, arXiv 2609.08341.
    Formula: w_t = TV_k / |delta_t|, TV_k = min(1, mean over the step of |exp(delta) - 1| / 2).
    Left out: as described in a survey, which gives sign(delta) times a scale of total variation. The estimate is this project's.
    """
    del d_BK
    variation_BT = info.signal_BT.clamp(max=5).expm1().abs() / 2
    variation_BK = step_mean(variation_BT, info.ids_BT).clamp(max=1)
    return per_token(variation_BK, info.ids_BT) / info.signal_BT.abs().clamp(min=1e-6)


def surprise(d_BK: Tensor, info: StepInfo) -> Tensor:
    """Return higher weights for tokens on which the models disagree more.

    Paper: arXiv 2608.25643.
    Formula: w_t = |delta_t| / mean over the trajectory of |delta|.
    Left out: unknown. A survey only reports a weight by the size of delta, from hearsay. The form is this project's.
    """
    del d_BK
    return row_share(info.signal_BT.abs(), info.mask_BT)


def power_opd(d_BK: Tensor, info: StepInfo, *, alpha: float = 5.0) -> Tensor:
    """Return weights that replace the signal by a bounded difference of powers of the probabilities.

    Paper: PowerOPD, arXiv 2606.17199.
    Formula: w_t = (p_T^5 - p_S^5) / delta_t, with the probabilities p of the sampled token.
    Left out: other powers, and the factor 1 / alpha of the Box-Cox transformation, as in the survey's form.
    """
    del d_BK
    higher_BT = torch.maximum(info.need("student"), info.need("teacher")).clamp(max=0)
    size_BT = info.signal_BT.abs()
    power_BT = (alpha * higher_BT).exp() * -(-alpha * size_BT).expm1()
    return torch.where(size_BT > 0, power_BT / size_BT.clamp(min=1e-12), 0.0)


def tip(d_BK: Tensor, info: StepInfo, *, share: float = 0.5) -> Tensor:
    """Return 1 on the tokens where the student is uncertain or disagrees with the teacher, 0 on the others.

    Paper: TIP, arXiv 2604.14084.
    Formula: w_t = 1 on the half of a trajectory's tokens with the largest h + e - h e, with h = H_S and e = |delta|, each scaled
    to the range from 0 to 1 within the trajectory.
    Left out: the divergence over the whole vocabulary; |delta| of the sampled token stands for it.
    """
    del d_BK
    uncertain_BT = min_max(info.need("student_entropy"), info.mask_BT)
    apart_BT = min_max(info.signal_BT.abs(), info.mask_BT)
    return top_share(uncertain_BT + apart_BT - uncertain_BT * apart_BT, info.mask_BT, share).float()


def ida_opd(d_BK: Tensor, info: StepInfo, *, kept: float = 0.5) -> Tensor:
    """Return less than 1 on tokens whose signal would lower the student's entropy.

    Paper: IDA-OPD, arXiv 2608.29846.
    Formula: w_t = 0.5 where delta_t (log p_S + H_S) > 0, else 1. To first order, the entropy then falls.
    Left out: as described in a survey: "shrink entropy-contracting delta". The test and the factor are this project's.
    """
    del d_BK
    contracts_BT = info.signal_BT * (info.need("student") + info.need("student_entropy")) > 0
    return 1 - (1 - kept) * contracts_BT.float()


def ier_opd(d_BK: Tensor, info: StepInfo, *, share: float = 0.01) -> Tensor:
    """Return 1 on the few tokens of a group with the clearest signal, 0 on the others.

    Paper: IER-OPD, arXiv 2609.24432.
    Formula: w_t = 1 on the 1 % of the group's tokens with the largest |delta_t| / (H_S + 0.01 nats).
    Left out: as described in a survey: a choice of 1 % of the tokens by signal-to-noise ratio. The ratio is this project's.
    """
    del d_BK
    ratio_BT = info.signal_BT.abs() / (info.need("student_entropy") + 0.01)
    return top_share(ratio_BT, info.mask_BT, share, info.need("group")).float()
