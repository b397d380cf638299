"""Rules from other papers that compute the whole credit of a token, in place of outcome + coef * w * signal.

delta_t is the signal log pi_teacher - log pi_student of a token, A the GRPO advantage of its trajectory, s the sign, c the option
algorithm.coef.
"""

import torch
from torch import Tensor

from sod.core.advantages import group_advantage
from sod.core.rules.common import label_mean, row_mean
from sod.core.rules.inputs import StepInfo
from sod.core.steps import per_token, step_mean


def rlsd(info: StepInfo, *, mix: float = 0.5, bound: float = 0.2) -> Tensor:
    """Return the advantage, larger on tokens whose signal has its sign; the signal never changes its sign.

    Paper: RLSD, arXiv 2604.03128.
    Formula: A ((1 - m) + m clip(exp(s(A) delta_t), 0.8, 1.2)), m = 0.5 c.
    Left out: the teacher that is the student with the answer, and the schedule of m. The form is that of ms-swift.
    """
    factor_BT = _towards(info).clamp(-1, 1).exp().clamp(1 - bound, 1 + bound)
    return info.advantage_BT * (1 + mix * info.coef * (factor_BT - 1))


def step_opsd(info: StepInfo, *, mix: float = 0.5, bound: float = 0.2) -> Tensor:
    """Return the advantage, divided differently among the tokens of a step; the mean over each step remains.

    Paper: StepOPSD, arXiv 2605.27140.
    Formula: A ((1 - m) + m f_t / mean over the step of f), f_t = clip(2 sigmoid(s(A) delta_t), 0.8, 1.2), m = 0.5 c.
    Left out: the teacher that has seen the end of the trajectory. The mean of a step is the survey's "equal step mean".
    """
    factor_BT = (2 * torch.sigmoid(_towards(info))).clamp(1 - bound, 1 + bound)
    mean_BT = per_token(step_mean(factor_BT, info.ids_BT), info.ids_BT)
    return info.advantage_BT * (1 + mix * info.coef * (factor_BT / mean_BT.clamp(min=1e-12) - 1))


def _towards(info: StepInfo) -> Tensor:
    """Return s(A) delta_t. -> (B, T)"""
    return info.advantage_B.sign()[:, None] * info.signal_BT


def sdar(info: StepInfo, *, beta: float = 5.0, share: float = 0.1) -> Tensor:
    """Return the advantage and, on each token that the teacher finds likelier, a pull towards it.

    Paper: SDAR, arXiv 2605.15155.
    Formula: A + 0.1 c sigmoid(5 delta_t). The published loss is sigmoid(5 delta_t) delta_t with a fixed gate; its gradient with
    respect to log p_S is minus the gate.
    Left out: the teacher with a retrieved skill in its prompt. The factor 0.1 is this project's choice.
    """
    gate_BT = torch.sigmoid(beta * info.signal_BT).masked_fill(~info.mask_BT, 0)
    return info.advantage_BT + info.coef * share * gate_BT


def agent_opsd(info: StepInfo, *, bound: float = 0.2) -> Tensor:
    """Return the advantage, larger on steps that change the teacher's estimate of success in its direction.

    Paper: AgentOPSD, arXiv 2608.05987.
    Formula: A clip(1 + b s(A) z_k, 1 - b, 1 + b), b = 0.2 c. z_k is V_k - V_(k-1), standardised over the steps of the trajectory.
    logit V_k = logit V_0 + sum over j <= k of the mean of delta over step j. V_0 is the group's share of right attempts.
    Left out: as described in a survey. The mean over a step, the standardisation and b are this project's choice.
    """
    start_B = label_mean(info.need("right").to(info.signal_BT.dtype), info.need("group")).clamp(0.05, 0.95)
    evidence_BK = step_mean(info.signal_BT, info.ids_BT).cumsum(-1)
    value_BK = torch.sigmoid(start_B.logit()[:, None] + evidence_BK)
    change_BK = torch.diff(value_BK, prepend=start_B[:, None], dim=1)
    exists_BK = info.exists_BK
    change_BK = change_BK - row_mean(change_BK, exists_BK)
    deviation_B1 = row_mean(change_BK.square(), exists_BK).sqrt()
    z_BK = torch.where(deviation_B1 > 1e-6, change_BK / deviation_B1.clamp(min=1e-6), 0.0)
    bound *= info.coef
    factor_BK = (1 + bound * info.advantage_B.sign()[:, None] * z_BK).clamp(1 - bound, 1 + bound)
    return info.advantage_BT * per_token(factor_BK, info.ids_BT)


def future_credit(info: StepInfo, *, discount: float = 0.9) -> Tensor:
    """Return the advantage and the discounted sum of the signal from the token to the end of the trajectory.

    Paper: arXiv 2609.16937.
    Formula: A + c sum over j >= t of 0.9^(j - t) delta_j. Observations are skipped and not counted.
    Left out: as described in a survey. The discount is this project's choice.
    """
    future_BT, later_B = torch.zeros_like(info.signal_BT), torch.zeros_like(info.signal_BT[:, 0])
    for t, inside_B in reversed(list(enumerate(info.mask_BT.unbind(1)))):
        later_B = torch.where(inside_B, info.signal_BT[:, t] + discount * later_B, later_B)
        future_BT[:, t] = later_B
    return info.advantage_BT + info.coef * future_BT.masked_fill(~info.mask_BT, 0)


def aopd(info: StepInfo) -> Tensor:
    """Return the advantage and the signal; where the signal is negative, a forward divergence replaces it.

    Paper: AOPD, arXiv 2605.06387.
    Formula: A + c delta_t where delta_t > 0, A + c (exp(delta_t) - 1) elsewhere. exp(delta_t) - 1 is the credit of minus
    KL(teacher || student) for one sample, with the baseline 1.
    Left out: the sum over the teacher's likeliest tokens; one sample estimates it.
    """
    signal_BT = info.signal_BT
    return info.advantage_BT + info.coef * torch.where(signal_BT > 0, signal_BT, signal_BT.clamp(max=0).expm1())


def eopd(info: StepInfo, *, nats: float = 0.8, bound: float = 5.0) -> Tensor:
    """Return the advantage and the signal; where the teacher is uncertain, also a forward divergence.

    Paper: EOPD, arXiv 2603.07079.
    Formula: A + c (delta_t + 1[H_T > 0.8 nats] min(exp(delta_t) - 1, 5)).
    Left out: the sum over the teacher's likeliest tokens; one sample estimates it (see `aopd`). Both limits are this project's.
    """
    forward_BT = info.signal_BT.clamp(max=10).expm1().clamp(max=bound)
    return info.advantage_BT + info.coef * (info.signal_BT + forward_BT * (info.need("teacher_entropy") > nats))


def gigpo(info: StepInfo, *, omega: float = 1.0, discount: float = 0.95) -> Tensor:
    """Return the advantage of the trajectory and that of the step among all steps of the group with the same observation.

    Paper: GiGPO, arXiv 2505.10978.
    Formula: A + A_k, A_k = (R_k - mean) / (deviation + 1e-6) over the steps of the group that follow an equal observation,
    R_k = 0.95^(K - k) reward. No teacher.
    Left out: rewards of single steps, and states that are similar but not equal.
    """
    exists_BK, anchors_BK = info.exists_BK, info.need("anchors")
    step_K = torch.arange(1, exists_BK.shape[1] + 1)
    return_BK = info.need("reward")[:, None] * discount ** (exists_BK.sum(1, keepdim=True) - step_K)
    keys_N2 = torch.stack([info.need("group")[:, None].expand_as(anchors_BK)[exists_BK], anchors_BK[exists_BK]], 1)
    _, labels_N = keys_N2.unique(dim=0, return_inverse=True)
    advantage_BK = torch.zeros_like(return_BK)
    advantage_BK[exists_BK] = group_advantage(return_BK[exists_BK], labels_N)
    return info.advantage_BT + omega * per_token(advantage_BK, info.ids_BT)


def scope(info: StepInfo) -> Tensor:
    """Return a positive credit for right trajectories, more for unlikely ones; for wrong ones the signal, more for likely ones.

    Paper: SCOPE, arXiv 2604.10688.
    Formula: u where right, c u delta_t where wrong. u is proportional to the student's perplexity where right, and to 1 / the
    teacher's perplexity where wrong, with mean 1 over the right, and over the wrong, attempts of the group. No A.
    Left out: the temperature of the weights.
    """
    right_B, group_B, mask_BT = info.need("right").bool(), info.need("group"), info.mask_BT
    logit_B = torch.where(
        right_B, -row_mean(info.need("student"), mask_BT)[:, 0], row_mean(info.need("teacher"), mask_BT)[:, 0]
    )
    path_B = 2 * group_B + right_B
    size_B = (logit_B - logit_B.max()).exp() if len(logit_B) else logit_B
    weight_B = size_B / label_mean(size_B, path_B).clamp(min=1e-30)
    credit_BT = torch.where(right_B[:, None], 1.0, info.coef * info.signal_BT)
    return (weight_B[:, None] * credit_BT).masked_fill(~mask_BT, 0)


def gc_opd(info: StepInfo, *, beta: float = 0.1) -> Tensor:
    """Return the advantage and the signal, corrected by the difference between verdict and teacher within the group.

    Paper: GC-OPD, arXiv 2608.19181.
    Formula: A + c (delta_t + 0.1 (z(right) - z(mean of delta over the trajectory))), z standardised over the group.
    Left out: as described in a survey: a "group-normalised (verdict - teacher) residual, beta = 0.1".
    """
    group_B, mask_BT = info.need("group"), info.mask_BT
    teacher_B = row_mean(info.signal_BT, mask_BT)[:, 0]
    right_B = info.need("right").to(teacher_B.dtype)
    residual_B = group_advantage(right_B, group_B) - group_advantage(teacher_B, group_B)
    corrected_BT = (info.signal_BT + beta * residual_B[:, None]).masked_fill(~mask_BT, 0)
    return info.advantage_BT + info.coef * corrected_BT
