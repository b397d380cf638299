"""How far a step has drifted from the teacher, and how much its signal is therefore worth (Eq. 6 and 7)."""

import torch
from torch import Tensor

from sod.core.steps import step_mean


def step_divergence(student_BT: Tensor, teacher_BT: Tensor, ids_BT: Tensor) -> Tensor:
    """d_k = mean over I_k of |log pi_student(y_t) - log pi_teacher(y_t)|, in nats (Eq. 6). -> (B, K)

    `student_BT`, `teacher_BT`: log-probabilities of the sampled tokens, at the same temperature; `ids_BT`: from
    `step_ids`. A step that a row does not have gets 0. No gradient: divergence is a measurement.
    """
    dtype = torch.promote_types(student_BT.dtype, torch.float32)
    return step_mean((student_BT.detach().to(dtype) - teacher_BT.detach()).abs(), ids_BT)


def step_weights(d_BK: Tensor, *, epsilon: float = 1e-6, delta: float = 0.2) -> Tensor:
    """w_1 = 1 and, for k > 1, w_k = min((d_1 + epsilon) / (d_k + epsilon), 1 + delta) (Eq. 7). -> (B, K)

    The paper writes a running product of ratios of neighbours, clipped once at its end. With a_u = d_u + epsilon,

        prod_{u=1}^{k-1} a_u / a_{u+1} = (a_1 / a_2) (a_2 / a_3) ... (a_{k-1} / a_k) = a_1 / a_k,

    since every factor but the first numerator and the last denominator cancels. So a weight depends on the first step
    and its own alone; and where the first step agrees almost perfectly (d_1 -> 0), all later ones are switched off.
    `epsilon` in nats; `delta` is the headroom of a step that agrees better than the first.

    Weights of steps that a row does not have mean nothing; `per_token` never reads them. No gradient.
    """
    d_BK = d_BK.detach()
    w_BK = ((d_BK[:, :1] + epsilon) / (d_BK + epsilon)).clamp(max=1 + delta)
    return torch.cat([torch.ones_like(w_BK[:, :1]), w_BK[:, 1:]], dim=1)


def steps_since_error(failed_BK: Tensor) -> Tensor:
    """k - k_err after the first failed step k_err, and 0 up to it or where none failed. -> (B, K), int64

    `failed_BK`: whether the tool call that ended the step came back with an error.
    """
    # After its first True a running count is at least 1; the sum of those is 1 at k_err itself.
    return ((failed_BK.cumsum(-1) > 0).cumsum(-1) - 1).clamp(min=0)


def decayed_weights(failed_BK: Tensor, *, decay: float = 0.9) -> Tensor:
    """decay^(k - k_err) after the first error, 1 before: the paper's ablation of a fixed schedule. -> (B, K)"""
    return decay ** steps_since_error(failed_BK).float()


def masked_weights(failed_BK: Tensor) -> Tensor:
    """0 after the first error, 1 before: the paper's ablation that trusts nothing from there on. -> (B, K)"""
    return (steps_since_error(failed_BK) == 0).float()
