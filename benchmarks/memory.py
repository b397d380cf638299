"""Memory of one learning step against trajectory length and vocabulary: in chunks, and with full logits where they fit; and
what learning needs beside the weights, by low-rank differences and moments of 8 bits.

    python benchmarks/memory.py

One trajectory through one layer and the head, loss and gradient; then whole optimiser steps of a model of 51M parameters on
256 tokens. Each figure in MiB is the most that a fresh process needed beyond the weights. Full logits are not tried where they
would need more than --limit MiB.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from learning import network
from measure import Row, in_turn, pairwise_ratios, parse, parser, peak_mb, report, row, show

from sod.config import LearnOptions
from sod.core import clipped_policy_loss, token_loss
from sod.model.attention import Packed
from sod.model.forward import head
from sod.model.policy import Policy

WIDTH = 256
LEAN: dict[str, dict[str, Any]] = {
    "AdamW": {},
    "AdamW of 8 bits": {"optimizer": "adamw_8bit"},
    "LoRA of rank 16": {"lora_rank": 16},
    "LoRA of rank 16, 8 bits": {"lora_rank": 16, "optimizer": "adamw_8bit"},
}
"""Ways to learn, as options; the others are compared with the first."""
TOKENIZER: Any = None
"""It is only saved, never asked."""


def work(in_chunks: bool, tokens: int, vocabulary: int) -> Callable[[], object]:
    model = network(WIDTH, 1, vocabulary)
    ids_N = torch.randint(1, vocabulary, (tokens,), generator=torch.Generator().manual_seed(0))
    old_N, credit_N = torch.full((tokens - 1,), -11.0), torch.ones(tokens - 1)
    layout = Packed([tokens])

    def step() -> None:
        hidden_ND = model.base_model(
            input_ids=ids_N[None], position_ids=layout.positions(ids_N.device), use_cache=False, layout=layout
        ).last_hidden_state[0, :-1]
        if in_chunks:
            loss, _, _ = token_loss(
                hidden_ND,
                head(model),
                ids_N[1:],
                lambda logprobs_N, where: clipped_policy_loss(logprobs_N, old_N[where], credit_N[where]),
                entropy=True,
            )
        else:
            logprobs_NV = (hidden_ND @ head(model).T).log_softmax(-1)
            logprobs_N = logprobs_NV.gather(1, ids_N[1:, None])[:, 0]
            loss = clipped_policy_loss(logprobs_N, old_N, credit_N).sum()
        loss.backward()

    return step


def steps(name: str, dtype: torch.dtype, quick: bool) -> Callable[[], object]:
    """Two optimiser steps: only in the second do gradients and moments stand side by side."""
    learning(name, dtype, 64, 1, 1024, 64)()  # what is loaded for the first is nobody's memory
    return learning(name, dtype, 128, 1, 1024, 64) if quick else learning(name, dtype, 512, 11, 16_384, 256)


def learning(
    name: str, dtype: torch.dtype, width: int, layers: int, vocabulary: int, tokens: int
) -> Callable[[], object]:
    model = network(width, layers, vocabulary).to(dtype)  # type: ignore[arg-type]
    ids_BT = torch.randint(1, vocabulary, (4, tokens // 4), generator=torch.Generator().manual_seed(0))
    mask_BT = torch.ones_like(ids_BT, dtype=torch.bool)
    mask_BT[:, 0] = False
    learner: list[Policy] = []

    def work() -> None:
        if not learner:
            learner.append(Policy(model, TOKENIZER, LearnOptions.model_validate({"lr": 1e-4} | LEAN[name])))
        for _ in range(2):
            learner[0].imitate(ids_BT, mask_BT, torch.full((4,), tokens // 4))

    return work


def lean(options: argparse.Namespace) -> tuple[list[Row], dict[str, float]]:
    """Peak memory of each way to learn, in float32 and bfloat16, and its time in float32."""
    rows, peaks = [], {}
    first, *others = LEAN
    for dtype in (torch.float32,) if options.quick else (torch.float32, torch.bfloat16):
        kind = str(dtype).removeprefix("torch.")
        of = {name: peak_mb(steps, name, dtype, options.quick) for name in LEAN}
        peaks |= {f"{name}, {kind}": peak for name, peak in of.items()}
        for name in others:
            what, against = f"{name}, {kind}: peak memory beyond the weights", f"{first}: {of[first]:,.0f} MiB"
            rows.append(row(what, f"{of[name]:,.0f} MiB", against, [of[name] / of[first]]))
    seconds = in_turn({name: steps(name, torch.float32, options.quick) for name in LEAN}, options.rounds)
    for name in others:
        ratios = pairwise_ratios(seconds[name], seconds[first])
        rows.append(row(f"{name}, float32: two steps", show(seconds[name]), f"{first}: {show(seconds[first])}", ratios))
    return rows, peaks


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--limit", type=int, default=16_000, help="MiB that full logits may need here")
    options = parse(made)
    lengths, vocabularies = (1280, 2560, 5120, 10_240, 20_480), (32_768, 151_936)
    if options.quick:
        lengths, vocabularies = (64, 128), (1024,)
    rows, peaks = [], {}
    for vocabulary in vocabularies:
        for tokens in lengths:
            ours = peaks[f"chunks {tokens} x {vocabulary}"] = peak_mb(work, True, tokens, vocabulary)
            expected = 3 * 4 * tokens * vocabulary / 2**20  # logits, log-probabilities, a gradient
            what = f"one trajectory of {tokens:,} tokens x {vocabulary:,}: peak memory"
            if expected < options.limit:
                full = peaks[f"full {tokens} x {vocabulary}"] = peak_mb(work, False, tokens, vocabulary)
                rows.append(row(what, f"{ours:,.0f} MiB", f"full logits: {full:,.0f} MiB", [ours / full]))
            else:
                words = f"full logits: {expected:,.0f} MiB for three matrices of them; not tried"
                rows.append(row(what, f"{ours:,.0f} MiB", words, [ours / expected]))
    lean_rows, lean_peaks = lean(options)
    report(options, rows + lean_rows, peak_mb=peaks | lean_peaks)


if __name__ == "__main__":
    main()
