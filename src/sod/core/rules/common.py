"""Parts that several rules share."""

import math

import torch
from torch import Tensor


def min_max(values_BX: Tensor, exists_BX: Tensor) -> Tensor:
    """Scale the existing values of each row to the range from 0 to 1; 1 where all of them are equal. -> (B, X)"""
    if not values_BX.numel():
        return values_BX
    low_B1 = values_BX.masked_fill(~exists_BX, math.inf).amin(1, keepdim=True)
    high_B1 = values_BX.masked_fill(~exists_BX, -math.inf).amax(1, keepdim=True)
    span_B1 = high_B1 - low_B1
    return torch.where(span_B1 > 0, (values_BX - low_B1) / span_B1.clamp(min=1e-12), 1.0)


def row_mean(values_BX: Tensor, exists_BX: Tensor) -> Tensor:
    """Return the mean of each row's existing values; 0 for a row without any. -> (B, 1)"""
    return values_BX.masked_fill(~exists_BX, 0).sum(1, keepdim=True) / exists_BX.sum(1, keepdim=True).clamp(min=1)


def row_share(values_BX: Tensor, exists_BX: Tensor) -> Tensor:
    """Divide values that are not negative by the mean of their row; 1 where all are 0. -> (B, X)"""
    mean_B1 = row_mean(values_BX, exists_BX)
    return torch.where(mean_B1 > 0, values_BX / mean_B1.clamp(min=1e-12), 1.0)


def label_mean(values_B: Tensor, labels_B: Tensor) -> Tensor:
    """Return the mean of the values with the same label, at each row. -> (B,)"""
    _, index_B = labels_B.unique(return_inverse=True)
    sums = values_B.new_zeros(int(index_B.max()) + 1 if index_B.numel() else 0)
    counts = torch.zeros_like(sums).index_add_(0, index_B, torch.ones_like(values_B))
    return (sums.index_add(0, index_B, values_B) / counts)[index_B]


def top_share(values_BT: Tensor, mask_BT: Tensor, share: float, labels_B: Tensor | None = None) -> Tensor:
    """Return True on this share of each row's tokens, rounded up: those with the largest values. -> (B, T), bool

    With labels, on this share of the tokens of all rows with the same label. Among equal values the first tokens count.
    """
    labels_B = torch.arange(len(values_BT)) if labels_B is None else labels_B
    chosen_BT = torch.zeros_like(mask_BT)
    for label in labels_B.unique():
        inside_BT = mask_BT & (labels_B == label)[:, None]
        order_N = values_BT[inside_BT].argsort(descending=True, stable=True)
        flags_N = torch.zeros(len(order_N), dtype=torch.bool)
        flags_N[order_N[: math.ceil(share * len(order_N) - 1e-9)]] = True
        chosen_BT[inside_BT] = flags_N
    return chosen_BT


def token_order(ids_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Return the number of each sampled token in its row, from 1, and the number of sampled tokens. -> (B, T), (B, 1)"""
    order_BT = (ids_BT > 0).cumsum(-1)
    return order_BT, order_BT[:, -1:]
