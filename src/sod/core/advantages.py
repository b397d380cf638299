"""Advantages: a trajectory's reward relative to its group, and the teacher's signal on each token."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


def group_advantage(rewards_B: Tensor, groups_B: Tensor, *, epsilon: float = 1e-6) -> Tensor:
    """Return (r - group mean) / (group standard deviation + epsilon), as in GRPO. -> (B,)

    `groups_B` holds one integer label per trajectory; any labels work. The standard deviation is the sample's (n - 1), as
    in the reference code. A group of one trajectory, or of equal rewards, gets 0.
    """
    group = _Centred.of(rewards_B, groups_B)
    return group.rewards_B / (group.deviation_B + epsilon)


def centred_advantage(rewards_B: Tensor, groups_B: Tensor) -> Tensor:
    """Return r - group mean, without a division: Dr. GRPO, arXiv 2503.20783, section 3.2. -> (B,)"""
    return _Centred.of(rewards_B, groups_B).rewards_B


def leave_one_out_advantage(rewards_B: Tensor, groups_B: Tensor) -> Tensor:
    """Return r - mean of the other rewards of the group: RLOO, arXiv 2402.14740, Eq. 8. -> (B,)

    It equals `centred_advantage` times n / (n - 1). A group of one trajectory gets 0.
    """
    group = _Centred.of(rewards_B, groups_B)
    return group.rewards_B * (group.counts_B / (group.counts_B - 1).clamp(min=1))


def verdict_advantage(rewards_B: Tensor, right_B: Tensor, groups_B: Tensor, *, epsilon: float = 1e-6) -> Tensor:
    """Return (r - group mean) / (standard deviation of the group's verdicts + epsilon), with verdicts +1 and -1. -> (B,)

    `right_B`: True where the answer is right. Corrections of the reward count in units of the distance between right and
    wrong. In a group with equal verdicts the deviation is 0: there the result is r - group mean, without a division
    (docs/rewards.md). With rewards of +1 and -1 the result equals `group_advantage`.
    """
    group = _Centred.of(rewards_B, groups_B)
    verdicts_B = 2 * right_B.to(group.rewards_B) - 1
    deviation_B = _Centred.of(verdicts_B, groups_B).deviation_B
    return group.rewards_B / torch.where(deviation_B > 0, deviation_B + epsilon, 1)


ADVANTAGES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "grpo": lambda rewards_B, right_B, groups_B: group_advantage(rewards_B, groups_B),
    "dr_grpo": lambda rewards_B, right_B, groups_B: centred_advantage(rewards_B, groups_B),
    "rloo": lambda rewards_B, right_B, groups_B: leave_one_out_advantage(rewards_B, groups_B),
    "verdict": verdict_advantage,
}
"""Advantages of (rewards_B, right_B, groups_B) by the value of `algorithm.advantage`."""


class _Centred(NamedTuple):
    """Rewards minus their group's mean, with the group's size and standard deviation at each row, (B,)."""

    rewards_B: Tensor
    counts_B: Tensor
    deviation_B: Tensor

    @classmethod
    def of(cls, rewards_B: Tensor, groups_B: Tensor) -> "_Centred":
        rewards_B = rewards_B.to(torch.promote_types(rewards_B.dtype, torch.float32))
        _, index_B = groups_B.unique(return_inverse=True)
        counts = torch.zeros(
            int(index_B.max()) + 1 if index_B.numel() else 0, dtype=rewards_B.dtype, device=rewards_B.device
        )
        # Subtract the group's maximum first: the fp32 mean of large equal rewards is not exactly their value.
        highest = counts.clone().scatter_reduce_(0, index_B, rewards_B, "amax", include_self=False)
        rewards_B = rewards_B - highest[index_B]
        sums = counts.clone().index_add_(0, index_B, rewards_B)
        counts = counts.index_add_(0, index_B, torch.ones_like(rewards_B))
        centred_B = rewards_B - (sums / counts)[index_B]
        squares = torch.zeros_like(counts).index_add_(0, index_B, centred_B.square())
        deviation = (squares / (counts - 1).clamp(min=1)).sqrt()
        return cls(centred_B, counts[index_B], deviation[index_B])


def teacher_advantage(student_BT: Tensor, teacher_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Return log pi_teacher(y_t) - log pi_student(y_t) on the mask, 0 elsewhere: minus Eq. 8, in nats. -> (B, T)

    No gradient flows: `student_BT` holds the log-probabilities before the update.
    """
    return (teacher_BT.detach() - student_BT.detach()).masked_fill(~mask_BT.bool(), 0)
