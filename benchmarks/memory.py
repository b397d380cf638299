"""Memory of one learning step against trajectory length and vocabulary: in chunks, and with full logits where they fit.

    python benchmarks/memory.py

One trajectory through one layer and the head, loss and gradient; each figure is the most that a fresh process needed beyond
the weights. Full logits are not tried where they would need more than --limit MiB.
"""

from collections.abc import Callable

import torch
from learning import network
from measure import parse, parser, peak_mb, report, row

from sod.attention import Packed
from sod.core import clipped_policy_loss, token_loss
from sod.models import head

WIDTH = 256


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
    report(options, rows, peak_mb=peaks)


if __name__ == "__main__":
    main()
