"""Draw tokens from logits over a large vocabulary, exactly, without a sort or a double-precision sum over all of it.

A draw is an inverse transform: the token at which the cumulative probability passes a uniform number. The whole vocabulary is
only read by the softmax. After it:

- Without a nucleus, sums of blocks of tokens are cumulated. The draw finds its block, then its token inside the block.
- A nucleus (top-p) is searched among the likeliest 64 tokens, then among 1,024, then among all.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

BLOCK = 512
"""Tokens in a block. The sums of the blocks are rounded to float32, so probabilities are off by at most 1e-6 of themselves."""
SMALL = 4 * BLOCK
"""Largest vocabulary without blocks: one sum over all tokens is faster."""
LIKELIEST = (64, 1024)
"""Numbers of likeliest tokens among which a nucleus is searched first."""


def draw_tokens(
    logits_NV: Tensor, temperatures: Sequence[float], top_ps: Sequence[float], uniforms: Sequence[float]
) -> tuple[list[int], list[float]]:
    """Draw one token per row from softmax(logits / temperature), cut to its nucleus.

    The nucleus is the likeliest tokens up to a mass of `top_p`, including the token that crosses it. `uniforms`: one number in
    [0, 1) for each row. -> tokens, and their log-probabilities before the cut, in nats
    """
    # One copy to the GPU for all numbers. A double holds every float32.
    numbers_3N = torch.tensor([temperatures, top_ps, uniforms], dtype=torch.double, device=logits_NV.device)
    temperatures_N1, top_ps_N1, uniforms_N1 = numbers_3N[..., None]
    if any(temperature != 1 for temperature in temperatures):
        logits_NV = logits_NV.float() / temperatures_N1.float()
    probs_NV = logits_NV.softmax(-1, dtype=torch.float)
    tokens_N1 = torch.empty(len(uniforms), 1, dtype=torch.long, device=logits_NV.device)
    is_cut = [top_p < 1 for top_p in top_ps]
    if not all(is_cut):
        rows = _where(is_cut, False, logits_NV.device)
        tokens_N1[rows] = _from_all(probs_NV[rows], uniforms_N1[rows])
    if any(is_cut):
        rows = _where(is_cut, True, logits_NV.device)
        tokens_N1[rows] = _from_nucleus(probs_NV[rows], top_ps_N1[rows], uniforms_N1[rows])
    logprobs_N1 = probs_NV.gather(1, tokens_N1).log()
    drawn, logprobs = torch.cat([tokens_N1.double(), logprobs_N1.double()], 1).T.tolist()  # one wait for the GPU
    return list(map(int, drawn)), logprobs


def _where(flags: list[bool], value: bool, device: torch.device) -> Tensor | slice:
    """Return the index of the rows with this flag: a slice if all have it, which copies nothing."""
    rows = [row for row, flag in enumerate(flags) if flag == value]
    return slice(None) if len(rows) == len(flags) else torch.tensor(rows, device=device)


def _from_all(probs_NV: Tensor, uniforms_N1: Tensor) -> Tensor:
    """Draw from the whole distribution. -> (N, 1)"""
    if probs_NV.shape[1] <= SMALL:
        cumulative_NV = probs_NV.double().cumsum(-1)
        return _search(cumulative_NV, uniforms_N1 * cumulative_NV[:, -1:])
    whole = probs_NV.shape[1] // BLOCK * BLOCK
    sums_NB = probs_NV[:, :whole].unflatten(1, (-1, BLOCK)).sum(-1)
    rest_N1 = probs_NV[:, whole:].sum(-1, keepdim=True)
    cumulative_NB = torch.cat([sums_NB, rest_N1], 1).double().cumsum(-1)
    sought_N1 = uniforms_N1 * cumulative_NB[:, -1:]
    block_N1 = _search(cumulative_NB, sought_N1)
    before_N1 = torch.where(block_N1 > 0, cumulative_NB.gather(1, (block_N1 - 1).clamp(min=0)), 0)
    sum_N1 = cumulative_NB.gather(1, block_N1) - before_N1
    tokens_NB = block_N1 * BLOCK + torch.arange(BLOCK, device=probs_NV.device)
    inside_NB = probs_NV.gather(1, tokens_NB.clamp(max=probs_NV.shape[1] - 1)).double()
    inside_NB[tokens_NB >= probs_NV.shape[1]] = 0
    inside_NB = inside_NB.cumsum(-1)
    return block_N1 * BLOCK + _search(inside_NB, (sought_N1 - before_N1) / sum_N1 * inside_NB[:, -1:])


def _from_nucleus(probs_NV: Tensor, top_ps_N1: Tensor, uniforms_N1: Tensor) -> Tensor:
    """Draw from the nucleus. -> (N, 1)"""
    tokens_N1 = torch.empty(len(probs_NV), 1, dtype=torch.long, device=probs_NV.device)
    left_N = torch.arange(len(probs_NV), device=probs_NV.device)
    for count in (*LIKELIEST, probs_NV.shape[1]):
        likely_NC, ids_NC = probs_NV[left_N].topk(min(count, probs_NV.shape[1]))
        cumulative_NC = likely_NC.double().cumsum(-1)
        limit_N1 = top_ps_N1[left_N]
        found_N = (cumulative_NC[:, -1:] >= limit_N1)[:, 0] | (count >= probs_NV.shape[1])
        last_N1 = torch.searchsorted(cumulative_NC, limit_N1).clamp(max=cumulative_NC.shape[1] - 1)
        nucleus_N1 = cumulative_NC.gather(1, last_N1)
        place_N1 = _search(cumulative_NC.minimum(nucleus_N1), uniforms_N1[left_N] * nucleus_N1)
        tokens_N1[left_N[found_N]] = ids_NC.gather(1, place_N1)[found_N]
        left_N = left_N[~found_N]
        if not len(left_N):
            break
    return tokens_N1


def _search(cumulative_NC: Tensor, sought_N1: Tensor) -> Tensor:
    """Return the first place whose cumulative sum is larger than the sought number. It has a positive probability. -> (N, 1)"""
    below_all_N1 = cumulative_NC[:, -1:] * (
        1 - 1e-15
    )  # a number just below 1, times the sum, may be rounded to the sum
    return torch.searchsorted(cumulative_NC, torch.minimum(sought_N1, below_all_N1), right=True)
