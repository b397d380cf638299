"""Advantages: a trajectory's reward relative to its group, and the teacher's signal on each token."""

import torch
from torch import Tensor


def group_advantage(rewards_B: Tensor, groups_B: Tensor, *, epsilon: float = 1e-6) -> Tensor:
    """Return (r - group mean) / (group standard deviation + epsilon), as in GRPO. -> (B,)

    `groups_B` holds one integer label per trajectory; any labels work. The standard deviation is the sample's (n - 1), as
    in the reference code. A group of one trajectory, or of equal rewards, gets 0.
    """
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
    return centred_B / (deviation[index_B] + epsilon)


def teacher_advantage(student_BT: Tensor, teacher_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Return log pi_teacher(y_t) - log pi_student(y_t) on the mask, 0 elsewhere: minus Eq. 8, in nats. -> (B, T)

    No gradient flows: `student_BT` holds the log-probabilities before the update.
    """
    return (teacher_BT.detach() - student_BT.detach()).masked_fill(~mask_BT.bool(), 0)
