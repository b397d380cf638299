"""The head of a network and the loss on it, in chunks, against the whole matrix of logits.

    python benchmarks/logprobs.py [--tokens 2048] [--width 1024] [--vocabulary 151936]

Hidden states and head of Qwen3-0.6B's sizes; the policy loss with a credit for each token, forward and backward. Time is
measured at --tokens, where full logits still fit into memory; memory at --long tokens for ours. Each memory figure is the
most that a fresh process needed beyond hidden states and head.
"""

from collections.abc import Callable

import torch
from measure import in_turn, pairwise_ratios, parse, parser, peak_mb, report, row, show
from torch import Tensor

from sod.core import clipped_policy_loss, token_logprobs, token_loss

Work = Callable[[], object]


def make(tokens: int, width: int, vocabulary: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(tokens, width, generator=generator).requires_grad_()
    head_VD = (torch.randn(vocabulary, width, generator=generator) / width**0.5).requires_grad_()
    targets_N = torch.randint(vocabulary, (tokens,), generator=generator)
    credit_N = torch.randn(tokens, generator=generator)
    return hidden_ND, head_VD, targets_N, credit_N


def in_chunks(hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, credit_N: Tensor) -> None:
    old_N = torch.full_like(credit_N, -12.0)
    loss, _, _ = token_loss(
        hidden_ND,
        head_VD,
        targets_N,
        lambda logprobs_N, where: clipped_policy_loss(logprobs_N, old_N[where], credit_N[where]),
    )
    loss.backward()
    hidden_ND.grad = head_VD.grad = None


def at_once(hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, credit_N: Tensor) -> None:
    """As it is usually written."""
    old_N = torch.full_like(credit_N, -12.0)
    logprobs_NV = (hidden_ND @ head_VD.T).log_softmax(-1)
    logprobs_N = logprobs_NV.gather(1, targets_N[:, None])[:, 0]
    clipped_policy_loss(logprobs_N, old_N, credit_N).sum().backward()
    hidden_ND.grad = head_VD.grad = None


def scored_in_chunks(hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, _: Tensor) -> None:
    with torch.no_grad():
        token_logprobs(hidden_ND, head_VD, targets_N)


def scored_at_once(hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, _: Tensor) -> None:
    with torch.no_grad():
        (hidden_ND @ head_VD.T).log_softmax(-1).gather(1, targets_N[:, None])


def work(function: Callable[..., None], tokens: int, width: int, vocabulary: int) -> Work:
    """For a fresh process: everything made, nothing yet done."""
    inputs = make(tokens, width, vocabulary)
    return lambda: function(*inputs)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--tokens", type=int, default=2048)
    made.add_argument("--long", type=int, default=20_480)
    made.add_argument("--width", type=int, default=1024)
    made.add_argument("--vocabulary", type=int, default=151_936)
    options = parse(made)
    if options.quick:
        options.tokens, options.long, options.width, options.vocabulary = 64, 128, 16, 1000
    size = options.width, options.vocabulary
    inputs = make(options.tokens, *size)
    seconds = in_turn(
        {f.__name__: lambda f=f: f(*inputs) for f in (in_chunks, at_once, scored_in_chunks, scored_at_once)},
        options.rounds,
    )
    ours, full = (peak_mb(work, f, options.tokens, *size) for f in (in_chunks, at_once))
    long = peak_mb(work, in_chunks, options.long, *size)
    full_long = full * options.long / options.tokens  # every tensor of it has a row for each token
    report(
        options,
        [
            row(
                f"loss and gradient through the head, {options.tokens:,} tokens x {options.vocabulary:,}: time",
                show(seconds["in_chunks"]),
                f"full logits: {show(seconds['at_once'])}",
                pairwise_ratios(seconds["in_chunks"], seconds["at_once"]),
                "<= 1.3",
            ),
            row(
                f"the same, {options.long:,} tokens: peak memory",
                f"{long:,.0f} MiB",
                f"full logits: {full_long:,.0f} MiB ({full:,.0f} measured at {options.tokens:,} tokens, times their number)",
                [long / full_long],
                "<= 0.125",
            ),
            row(
                f"log-probabilities alone, {options.tokens:,} tokens: time",
                show(seconds["scored_in_chunks"]),
                f"full logits: {show(seconds['scored_at_once'])}",
                pairwise_ratios(seconds["scored_in_chunks"], seconds["scored_at_once"]),
            ),
        ],
        peak_mb={"in_chunks": ours, "at_once": full, "in_chunks_long": long},
    )


if __name__ == "__main__":
    main()
