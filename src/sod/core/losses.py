"""The clipped policy loss, and the one masked mean."""

import torch
from torch import Tensor


def masked_mean(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean over the mask; 0 (with a gradient of 0) for an empty mask. -> ()"""
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
    """-min(ratio * credit, clip(ratio, 1 - clip_low, 1 + clip_high) * credit) of every token. -> (B, T)

    ratio = exp(log pi - log pi_old), with gradient through log pi only. The caller takes the mean over the tokens that
    count (`masked_mean`); select before calling where log-probabilities outside the mask are not finite.
    """
    ratio_BT = (logprobs_BT - old_logprobs_BT.detach()).exp()
    credit_BT = credit_BT.detach()
    clipped_BT = ratio_BT.clamp(1 - clip_low, 1 + clip_high)
    return -torch.minimum(ratio_BT * credit_BT, clipped_BT * credit_BT)
