"""Step weights at 64 x 20,480 tokens, against a per-token Python loop and against one pass over memory.

    python benchmarks/weights.py [--rows 64] [--tokens 20480]

All three are timed in turn, round after round, in one process; the ratios are of medians.
"""

import argparse
import json
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from sod.core import per_token, step_divergence, step_ids, step_weights


def naive(student_BT: Tensor, teacher_BT: Tensor, mask_BT: Tensor, epsilon: float = 1e-6, delta: float = 0.2) -> Tensor:
    """The paper read aloud: walk the tokens, keep a running product."""
    weights_BT = torch.zeros_like(student_BT)
    for b in range(mask_BT.shape[0]):
        spans, start = [], None
        for t in range(mask_BT.shape[1]):
            inside = mask_BT[b, t].item()
            if inside and start is None:
                start = t
            if not inside and start is not None:
                spans.append((start, t))
                start = None
        if start is not None:
            spans.append((start, mask_BT.shape[1]))
        product, before = 1.0, None
        for start, end in spans:
            d = sum(abs(student_BT[b, t].item() - teacher_BT[b, t].item()) for t in range(start, end)) / (end - start)
            if before is not None:
                product *= (before + epsilon) / (d + epsilon)
            weights_BT[b, start:end] = min(product, 1 + delta) if before is not None else 1.0
            before = d
    return weights_BT


def ours(student_BT: Tensor, teacher_BT: Tensor, mask_BT: Tensor) -> Tensor:
    ids_BT = step_ids(mask_BT)
    return per_token(step_weights(step_divergence(student_BT, teacher_BT, ids_BT)), ids_BT)


def one_pass(student_BT: Tensor, teacher_BT: Tensor, mask_BT: Tensor) -> Tensor:
    del mask_BT
    return (student_BT - teacher_BT).abs().sum()


def make(rows: int, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities, and steps of 200 to 1,500 tokens with observations of 20 to 300 between them."""
    generator = torch.Generator().manual_seed(0)
    mask_BT = torch.zeros(rows, tokens, dtype=torch.bool)
    for row in mask_BT:
        at = 0
        while at < tokens:
            length, gap = (int(torch.randint(*span, (), generator=generator)) for span in ((200, 1500), (20, 300)))
            row[at : at + length] = True
            at += length + gap
    student_BT, teacher_BT = (-3 * torch.rand(rows, tokens, generator=generator) for _ in range(2))
    return student_BT, teacher_BT, mask_BT


def seconds(function: Callable[..., Tensor], arguments: tuple[Tensor, ...]) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=20_480)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    batch = make(options.rows, options.tokens)
    few = (batch[0][:2], batch[1][:2], batch[2][:2])
    assert torch.allclose(ours(*few), naive(*few), atol=1e-5)
    ours(*batch)  # warm

    loop = median(seconds(naive, few) for _ in range(3)) * options.rows / 2  # the loop is linear in its rows
    fast, limit = [], []
    for _ in range(options.rounds):
        fast.append(seconds(ours, batch))
        limit.append(seconds(one_pass, batch))
    result = {
        "rows": options.rows,
        "tokens": options.tokens,
        "naive_loop_ms": 1e3 * loop,
        "ours_ms": 1e3 * median(fast),
        "ours_ms_spread": [1e3 * min(fast), 1e3 * max(fast)],
        "one_pass_ms": 1e3 * median(limit),
        "times_faster_than_the_loop": loop / median(fast),
        "times_one_pass_over_memory": median(fast) / median(limit),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
