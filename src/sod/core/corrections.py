"""Importance weights of tokens that were sampled with slightly other probabilities than the policy's."""

from typing import Literal

import torch
from torch import Tensor

Correction = Literal["none", "truncated", "masked", "icepop"]
Level = Literal["token", "sequence"]

LARGEST_LOG_RATIO = 20.0
"""Bound of the log of a ratio, in nats, so that its exponential is finite. verl has the same bound."""


def sampler_ratio(old_BT: Tensor, sampler_BT: Tensor, mask_BT: Tensor, level: Level) -> Tensor:
    """Return pi_old / pi_sampler at every sampled token, 0 elsewhere. -> (B, T)

    `old_BT`, `sampler_BT`: log-probabilities of the sampled tokens under the policy and under the sampler, in nats. With the
    level `sequence`, each token has the product over its sequence. A value that is not a number counts as no difference.
    """
    mask_BT = mask_BT.bool()
    log_ratio_BT = (old_BT - sampler_BT).nan_to_num(nan=0.0).masked_fill(~mask_BT, 0)
    if level == "sequence":
        log_ratio_BT = log_ratio_BT.sum(1, keepdim=True).expand_as(old_BT)
    return log_ratio_BT.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp().masked_fill(~mask_BT, 0)


def sampler_weights(ratio_BT: Tensor, correction: Correction, *, cap: float = 2.0, floor: float = 0.5) -> Tensor:
    """Return the weight of every token's loss from its ratio. -> (B, T), without gradient

    - none: 1.
    - truncated: min(ratio, cap). Truncated importance sampling (Ionides 2008; for samplers of language models: Yao et al., "Your
      efficient RL framework secretly brings you off-policy RL training", 2025).
    - masked: the ratio, 0 above the cap. Liu et al., "When speed kills stability", 2025.
    - icepop: the ratio, 0 above the cap and below the floor. IcePop (Ling team, arXiv 2510.18855).
    """
    ratio_BT = ratio_BT.detach()
    match correction:
        case "none":
            return torch.ones_like(ratio_BT)
        case "truncated":
            return ratio_BT.clamp(max=cap)
        case "masked":
            return ratio_BT.masked_fill(ratio_BT > cap, 0)
        case "icepop":
            return ratio_BT.masked_fill((ratio_BT > cap) | (ratio_BT < floor), 0)
