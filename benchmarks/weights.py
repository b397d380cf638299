"""Step weights, against a per-token Python loop and against one pass over memory.

    python benchmarks/weights.py [--rows 64 1024] [--tokens 20480]

The loop is timed on two rows: its time is in proportion to their number.
"""

from statistics import median

import torch
from measure import in_turn, pairwise_ratios, parse, parser, report, row, show
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
    for line in mask_BT:
        at = 0
        while at < tokens:
            length, gap = (int(torch.randint(*span, (), generator=generator)) for span in ((200, 1500), (20, 300)))
            line[at : at + length] = True
            at += length + gap
    student_BT, teacher_BT = (-3 * torch.rand(rows, tokens, generator=generator) for _ in range(2))
    return student_BT, teacher_BT, mask_BT


def main() -> None:
    made = parser(__doc__, rounds=15)
    made.add_argument("--rows", type=int, nargs="+", default=[64, 1024])
    made.add_argument("--tokens", type=int, default=20_480)
    options = parse(made)
    if options.quick:
        options.rows, options.tokens = [4], 512
    rows = []
    for count in options.rows:
        batch = make(count, options.tokens)
        few = (batch[0][:2], batch[1][:2], batch[2][:2])
        assert torch.allclose(ours(*few), naive(*few), atol=1e-5)
        loop = [second * count / 2 for second in in_turn({"loop": lambda few=few: naive(*few)}, 3, warm=False)["loop"]]
        seconds = in_turn(
            {"ours": lambda batch=batch: ours(*batch), "one_pass": lambda batch=batch: one_pass(*batch)}, options.rounds
        )
        what = f"step weights, {count} x {options.tokens:,} tokens"
        against = f"per-token loop in Python: {show(loop)} (two rows, times their number)"
        fastest = median(loop) / torch.tensor(seconds["ours"])
        rows.append(row(what, show(seconds["ours"]), against, fastest.tolist(), ">= 200"))
        passes = pairwise_ratios(seconds["ours"], seconds["one_pass"])
        against = f"one pass of (a - b).abs().sum(): {show(seconds['one_pass'])}"
        rows.append(row(what, show(seconds["ours"]), against, passes, "<= 5"))
    report(options, rows)


if __name__ == "__main__":
    main()
