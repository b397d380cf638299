"""Steps: the runs of the model's own tokens between two observations (the paper's I_k)."""

import torch
from torch import Tensor


def step_ids(mask_BT: Tensor) -> Tensor:
    """Number each row's runs of True from 1 to K; every other token is 0. -> (B, T) int64

    A mask is true on the tokens that the model sampled, so each run is one step y_k. Two runs are two steps only if at
    least one token, an observation's, lies between them.
    """
    mask_BT = mask_BT.bool()
    starts_BT = mask_BT.clone()
    starts_BT[:, 1:] &= ~mask_BT[:, :-1]
    return starts_BT.cumsum(-1).mul_(mask_BT)


def step_mean(values_BT: Tensor, ids_BT: Tensor) -> Tensor:
    """Mean of `values_BT` over each step; 0 for a step that a row does not have. -> (B, K), fp32 or fp64

    K is the largest step number in the batch, 0 if there are no steps at all. Values outside the steps are never read.
    """
    dtype = torch.promote_types(values_BT.dtype, torch.float32)
    steps = int(ids_BT.max()) if ids_BT.numel() else 0
    values_BT = values_BT.to(dtype).masked_fill(ids_BT == 0, 0)
    shape = (ids_BT.shape[0], steps + 1)
    sums_BK = values_BT.new_zeros(shape).scatter_add_(1, ids_BT, values_BT)
    counts_BK = values_BT.new_zeros(shape).scatter_add_(1, ids_BT, torch.ones_like(values_BT))
    return (sums_BK / counts_BK.clamp(min=1))[:, 1:]


def per_token(values_BK: Tensor, ids_BT: Tensor) -> Tensor:
    """Each step's value at each of its tokens, 0 outside the steps. -> (B, T)"""
    padded_BK = torch.nn.functional.pad(values_BK, (1, 0))
    return padded_BK.gather(1, ids_BT)
