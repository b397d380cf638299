"""The clipped policy loss, the credit of candidate tokens, and the masked mean."""

import torch
from torch import Tensor


def masked_mean(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Return the mean over the mask; 0, with a gradient of 0, for an empty mask. -> ()"""
    mask_BT = mask_BT.bool()
    return values_BT.masked_fill(~mask_BT, 0).sum() / mask_BT.sum().clamp(min=1)


def clipped_policy_loss(
    logprobs_BT: Tensor,
    old_logprobs_BT: Tensor,
    credit_BT: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> Tensor:
    """Return -min(ratio * credit, clip(ratio, 1 - clip_low, 1 + clip_high) * credit) of every token. -> (B, T)

    ratio = exp(log pi - log pi_old); the gradient flows through log pi only. The caller takes the mean over the mask
    (`masked_mean`). If log-probabilities outside the mask are not finite, select the tokens before calling.
    The result has the shape of the inputs.
    """
    ratio_BT = (logprobs_BT - old_logprobs_BT.detach()).exp()
    credit_BT = credit_BT.detach()
    clipped_BT = ratio_BT.clamp(1 - clip_low, 1 + clip_high)
    return -torch.minimum(ratio_BT * credit_BT, clipped_BT * credit_BT)


def candidate_credit(student_NJ: Tensor, teacher_NJ: Tensor, weight_N: Tensor) -> Tensor:
    """Return weight * pi(v) * (log pi_teacher(v) - log pi(v)) of each candidate v. -> (N, J)

    pi is the student before the update. The credit is the `teacher_advantage` that v would get if sampled, times the
    probability of sampling v. It does not depend on the token that was sampled. Summed over v, `clipped_policy_loss` is
    then the expectation of that loss over the student's own choices (a factor pi(v) >= 0 passes through its minimum).
    Its gradient at ratio 1 is

        -weight sum_v pi(v) (log pi_teacher(v) - log pi(v)) grad log pi(v)  =  weight grad KL(pi || pi_teacher)

    over the whole vocabulary, where sum_v grad pi(v) = 0. Over a part of the vocabulary, it is the gradient of weight
    times sum_v pi(v) (log pi(v) - log pi_teacher(v) - 1); tokens outside that part are not scored.

    `student_NJ`, `teacher_NJ`: log-probabilities of the candidates under the whole softmax, in nats. No gradient.
    """
    student_NJ = student_NJ.detach()
    return weight_N.detach()[:, None] * student_NJ.exp() * (teacher_NJ.detach() - student_NJ)
