"""Weighting rules from other papers that compare the teacher's signal with the outcome of the trajectory.

delta_t is the signal log pi_teacher - log pi_student of a token, A the GRPO advantage, s the sign.
"""

import torch
from torch import Tensor

from sod.core.rules.common import row_share
from sod.core.rules.inputs import StepInfo, Weights


def gated(d_BK: Tensor, info: StepInfo, *, lowest: float = 0.0, highest: float = 1.0, steepness: float = 1.0) -> Tensor:
    """Return lower weights for trajectories with a higher advantage.

    Paper: the code published with SOD, where this function is unused.
    Formula: w = sigmoid(-A).
    Left out: nothing. The paper gives no values for the constants.
    """
    gate_B = lowest + (highest - lowest) * torch.sigmoid(-steepness * info.advantage_B)
    return gate_B[:, None].expand_as(d_BK)


def sign_consistent(d_BK: Tensor, info: StepInfo, *, agrees: float = 1.5, contradicts: float = 0.5) -> Tensor:
    """Return more than 1 where the signal and the outcome have the same sign, less than 1 where they differ.

    Paper: SG-OPD, arXiv 2606.09304.
    Formula: w_t = 1.5 where s(delta_t) = s(A), 0.5 where they differ, 1 where one of them is 0.
    Left out: the teacher's rollouts of the cold start. The two factors are this project's choice.
    """
    del d_BK
    product_BT = info.signal_BT.sign() * info.advantage_B.sign()[:, None]
    return torch.where(product_BT > 0, agrees, torch.where(product_BT < 0, contradicts, 1.0))


def opdvr(d_BK: Tensor, info: StepInfo) -> Tensor:
    """Return 1 where the signal and the outcome have the same sign, 0 elsewhere.

    Paper: OPDVR, also GRPD, arXiv 2608.24696.
    Formula: w_t = 1[s(delta_t) = s(A)]. In a group with equal rewards A is 0, and the teacher has no weight.
    Left out: nothing known. As described in a survey; the paper's text was not at hand.
    """
    del d_BK
    return (info.signal_BT.sign() * info.advantage_B.sign()[:, None] > 0).float()


def ra_opd(d_BK: Tensor, info: StepInfo) -> Tensor:
    """Return 1 for trajectories whose whole signal has the sign of the outcome, 0 for the others.

    Paper: RA-OPD, arXiv 2608.27960.
    Formula: w = 1[s(sum over t of delta_t) = s(A)].
    Left out: nothing known. As described in a survey; A stands for the outcome.
    """
    agrees_B = info.signal_BT.sum(1).sign() * info.advantage_B.sign() > 0
    return agrees_B[:, None].expand_as(d_BK).to(d_BK.dtype)


def fire_opd(d_BK: Tensor, info: StepInfo) -> Tensor:
    """Return 0 for trajectories below the mean of their group; in the others, more for certain teachers and uncertain students.

    Paper: FiRe-OPD, arXiv 2606.02684.
    Formula: w_t = 1[A >= 0] c_t / mean over the trajectory of c, with c_t = exp(-H_T) H_S.
    Left out: as described in a survey: a filter by reward, then confidence times uncertainty. Both forms are this project's.
    """
    del d_BK
    clear_BT = (-info.need("teacher_entropy")).exp() * info.need("student_entropy")
    return row_share(clear_BT, info.mask_BT) * (info.advantage_B >= 0)[:, None]


def per_prompt(d_BK: Tensor, info: StepInfo, *, rate: float = 0.5) -> Weights:
    """Return weights that choose between teacher and outcome for each problem, by the teacher's solve rate.

    Paper: arXiv 2609.02998.
    Formula: w = 1 and v = 0 where the teacher solves at least half of its attempts, w = 0 and v = 1 elsewhere, with v the weight
    of the outcome. A problem without a known rate has v = 1.
    Left out: as described in a survey. The limit of one half is this project's choice.
    """
    solves_BK = (info.need("teacher_rates") >= rate)[:, None].expand_as(d_BK).to(d_BK.dtype)
    return Weights(solves_BK, 1 - solves_BK)
