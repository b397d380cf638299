"""Draws follow the softmax exactly, whichever part of the vocabulary is read."""

import math

import pytest
import torch
from torch import Tensor

from sod.engines.drawing import BLOCK, LIKELIEST, SMALL, draw_tokens

GRID = 4_000


def shares(logits_V: Tensor, temperature: float = 1.0, top_p: float = 1.0) -> Tensor:
    """How often each token is drawn by evenly spaced uniform numbers. -> (V,)"""
    uniforms = [(i + 0.5) / GRID for i in range(GRID)]
    counts = torch.zeros(len(logits_V), dtype=torch.double)
    for start in range(0, GRID, 500):
        part = uniforms[start : start + 500]
        rows = len(part)
        tokens, _ = draw_tokens(logits_V.expand(rows, -1), [temperature] * rows, [top_p] * rows, part)
        counts += torch.bincount(torch.tensor(tokens), minlength=len(logits_V))
    return counts / GRID


def nucleus_of(probs_V: Tensor, top_p: float) -> Tensor:
    """The definition: the likeliest tokens up to a mass of top_p, with the token that crosses it. -> (V,), sums to 1"""
    ordered_V, order_V = probs_V.sort(descending=True)
    kept = int((ordered_V.cumsum(0) < top_p).sum()) + 1
    found_V = torch.zeros_like(probs_V)
    found_V[order_V[:kept]] = ordered_V[:kept]
    return found_V / found_V.sum()


@pytest.mark.parametrize("size", [1, BLOCK, SMALL, SMALL + 1, SMALL + BLOCK - 1, SMALL + BLOCK])
@pytest.mark.parametrize("spread", [0.0, 1.0, 6.0])
def test_evenly_spaced_numbers_draw_each_token_in_proportion(size: int, spread: float) -> None:
    logits_V = spread * torch.randn(size, generator=torch.Generator().manual_seed(size))
    found_V = shares(logits_V, temperature=0.7)
    expected_V = (logits_V.double() / 0.7).softmax(-1)
    assert (found_V - expected_V).abs().max() <= 1.01 / GRID + 1e-6


@pytest.mark.parametrize(("size", "spread"), [(24, 1.0), (600, 3.0), (2000, 0.3), (3000, 0.0)])
@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.9, 0.999999])
def test_a_nucleus_is_found_among_few_and_among_many_tokens(size: int, spread: float, top_p: float) -> None:
    logits_V = spread * torch.randn(size, generator=torch.Generator().manual_seed(size), dtype=torch.double)
    found_V = shares(logits_V.float(), top_p=top_p)
    expected_V = nucleus_of(logits_V.float().softmax(-1).double(), top_p)
    if spread:
        assert (found_V - expected_V).abs().max() <= 1.01 / GRID + 1e-6
    else:  # which of equal tokens are kept is not defined, their number is
        assert abs(int((found_V > 0).sum()) - int((expected_V > 0).sum())) <= 1


def test_a_nucleus_is_searched_in_each_of_the_three_parts() -> None:
    """Rows with a nucleus of 1, of hundreds, and of thousands of tokens, beside a row without one."""
    sharp, medium, flat = torch.zeros(3, 4096)
    sharp[7], medium[: LIKELIEST[1] // 2] = 20.0, 10.0
    logits_NV = torch.stack([sharp, medium, flat, flat])
    tokens, logprobs = draw_tokens(logits_NV, [1.0] * 4, [0.5, 0.9, 0.9, 1.0], [0.999] * 4)
    assert tokens[0] == 7
    assert LIKELIEST[0] < tokens[1] < LIKELIEST[1] // 2
    assert tokens[3] == int(0.999 * 4096)
    expected_N = logits_NV.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None])[:, 0]
    assert logprobs == pytest.approx(expected_N.tolist(), abs=1e-5)


@pytest.mark.parametrize("top_p", [0.95, 1.0])
@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_the_ends_of_the_interval_draw_no_token_of_probability_zero(uniform: float, top_p: float) -> None:
    possible = [3, BLOCK - 5, SMALL + 9]
    logits_V = torch.full((SMALL + 300,), -math.inf)
    logits_V[possible] = torch.tensor([0.0, -1.0, 0.5])
    rows = 50
    scaled_NV = logits_V + 0.01 * torch.arange(rows)[:, None]
    tokens, logprobs = draw_tokens(scaled_NV, [0.9] * rows, [top_p] * rows, [uniform] * rows)
    assert set(tokens) <= set(possible)
    assert min(logprobs) > -10


def test_logits_in_bfloat16_are_read_in_full_precision() -> None:
    logits_NV = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0)).bfloat16()
    tokens, logprobs = draw_tokens(logits_NV, [1.0] * 4, [1.0] * 4, [0.1, 0.4, 0.6, 0.9])
    expected_N = logits_NV.double().log_softmax(-1).gather(1, torch.tensor(tokens)[:, None])[:, 0]
    assert logprobs == pytest.approx(expected_N.tolist(), abs=1e-5)
