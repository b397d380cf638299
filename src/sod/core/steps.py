"""Steps: runs of sampled tokens between two observations (the paper's I_k)."""

import torch
from torch import Tensor


def step_ids(mask_BT: Tensor) -> Tensor:
    """Number each row's runs of True from 1 to K; every other token gets 0. -> (B, T) int64

    The mask is True on the tokens that the model sampled, so each run is one step y_k. Two steps must be separated by at
    least one observation token; otherwise they count as one.
    """
    mask_BT = mask_BT.bool()
    starts_BT = mask_BT.clone()
    starts_BT[:, 1:] &= ~mask_BT[:, :-1]
    return starts_BT.cumsum(-1, dtype=torch.int32).mul_(mask_BT).long()  # an int32 sum of bools is 10 times faster


def step_mean(values_BT: Tensor, ids_BT: Tensor) -> Tensor:
    """Return the mean of `values_BT` over each step; 0 for a step that a row does not have. -> (B, K), fp32 or fp64

    `ids_BT`: from `step_ids`, so each step is one run. K is the largest step number in the batch, 0 if there are no steps.
    Values outside the steps have no effect, NaN included.
    """
    rows, width = ids_BT.shape
    dtype = torch.promote_types(values_BT.dtype, torch.float32)
    steps = int(ids_BT.max()) if ids_BT.numel() else 0
    means_BK = torch.zeros(rows, steps, dtype=dtype, device=values_BT.device)
    if steps == 0:
        return means_BK
    # Each run of equal ids, observations and padding included, is summed separately, in one pass.
    flat = ids_BT.reshape(-1)
    is_start = torch.ones_like(flat, dtype=torch.bool)
    torch.ne(flat[1:], flat[:-1], out=is_start[1:])
    is_start[::width] = True
    starts = is_start.nonzero()[:, 0]
    lengths = torch.diff(starts, append=starts.new_tensor([flat.numel()]))
    sums = torch.segment_reduce(values_BT.to(dtype).reshape(-1), "sum", lengths=lengths, unsafe=True)
    step = flat[starts]
    inside = step > 0
    means_BK[starts[inside] // width, step[inside] - 1] = sums[inside] / lengths[inside]
    return means_BK


def per_token(values_BK: Tensor, ids_BT: Tensor) -> Tensor:
    """Return each step's value at each of its tokens, 0 outside the steps. -> (B, T)"""
    padded_BK = torch.nn.functional.pad(values_BK, (1, 0))
    return padded_BK.gather(1, ids_BT)
