"""Step divergence from the teacher, and the step weights computed from it (Eq. 6 and 7)."""

import torch
from torch import Tensor

from sod.core.steps import step_mean


def step_divergence(
    student_BT: Tensor, teacher_BT: Tensor, ids_BT: Tensor, span_share_BT: Tensor | None = None
) -> Tensor:
    """Return d_k, the mean over I_k of |log pi_student(y_t) - log pi_teacher(y_t)|, in nats (Eq. 6). -> (B, K)

    `student_BT`, `teacher_BT`: log-probabilities of the sampled tokens, at the same temperature. `ids_BT`: from
    `step_ids`. A step that a row does not have gets 0. No gradient.

    `span_share_BT`: for a teacher with another tokenizer, the part of a span that each token is; the parts of a span add up
    to 1. d_k is then the mean over the spans of the step. With one token per span it is the mean over I_k. A step without a
    span gets the value of the last step before it, or else of the first step after it.
    """
    dtype = torch.promote_types(student_BT.dtype, torch.float32)
    gap_BT = (student_BT.detach().to(dtype) - teacher_BT.detach()).abs()
    if span_share_BT is None:
        return step_mean(gap_BT, ids_BT)
    spans_BK = step_mean(span_share_BT.to(dtype), ids_BT)
    counted_BK = spans_BK > 0
    d_BK = step_mean(gap_BT.masked_fill(span_share_BT == 0, 0), ids_BT) / spans_BK.where(counted_BK, torch.ones(()))
    return _filled(d_BK, counted_BK, step_mean(torch.ones_like(gap_BT), ids_BT) > 0)


def _filled(values_BK: Tensor, known_BK: Tensor, exists_BK: Tensor) -> Tensor:
    """Replace each unknown value by the last known one before it, or else by the first known one. 0 beside the steps."""
    steps_K = torch.arange(values_BK.shape[1], device=values_BK.device)
    before_BK = torch.where(known_BK, steps_K, -1).cummax(1).values if values_BK.shape[1] else steps_K[None]
    first_B1 = known_BK.int().argmax(1, keepdim=True) if values_BK.shape[1] else steps_K[None]
    return values_BK.gather(1, torch.where(before_BK >= 0, before_BK, first_B1)).masked_fill(~exists_BK, 0)


def step_weights(d_BK: Tensor, *, epsilon: float = 1e-6, delta: float = 0.2) -> Tensor:
    """Return w_1 = 1 and, for k > 1, w_k = min((d_1 + epsilon) / (d_k + epsilon), 1 + delta) (Eq. 7). -> (B, K)

    The paper writes a running product of ratios of neighbouring steps, clipped once at its end. With a_u = d_u + epsilon,

        prod_{u=1}^{k-1} a_u / a_{u+1} = (a_1 / a_2) (a_2 / a_3) ... (a_{k-1} / a_k) = a_1 / a_k,

    since every factor except the first numerator and the last denominator cancels. A weight therefore depends only on the
    first step and its own. If the first step agrees almost perfectly (d_1 -> 0), all later weights go to 0.
    `epsilon` is in nats; `delta` is the headroom of a step that agrees better than the first.

    Weights of steps that a row does not have are meaningless; `per_token` never reads them. No gradient.
    """
    d_BK = d_BK.detach()
    w_BK = ((d_BK[:, :1] + epsilon) / (d_BK + epsilon)).clamp(max=1 + delta)
    return torch.cat([torch.ones_like(w_BK[:, :1]), w_BK[:, 1:]], dim=1)


def steps_since_error(failed_BK: Tensor) -> Tensor:
    """Return k - k_err after the first failed step k_err; 0 up to it, or if no step failed. -> (B, K), int64

    `failed_BK`: True where the tool call that ended the step returned an error.
    """
    # From the first True on, the running count is at least 1; the running sum of this condition is 1 at k_err itself.
    return ((failed_BK.cumsum(-1) > 0).cumsum(-1) - 1).clamp(min=0)


def decayed_weights(failed_BK: Tensor, *, decay: float = 0.9) -> Tensor:
    """Return decay^(k - k_err) after the first error, 1 before: the paper's fixed-schedule ablation. -> (B, K)"""
    return decay ** steps_since_error(failed_BK).float()


def masked_weights(failed_BK: Tensor) -> Tensor:
    """Return 0 after the first error, 1 before: the paper's masking ablation. -> (B, K)"""
    return (steps_since_error(failed_BK) == 0).float()
