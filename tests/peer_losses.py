"""Random tokens for policy losses, and what `sod.core` computes from them: compared with the functions of TRL and verl."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sod.core import ADVANTAGES, PolicyLoss, TokenInputs, loss_divisor, sequence_log_ratio

GOLDEN = Path(__file__).parent / "golden"
MAX_TOKENS = 9
"""Dr. GRPO's constant."""
Tensors = dict[str, Tensor]
Case = dict[str, Any]
"""A loss: the fields of `PolicyLoss`, the aggregation, and whether the advantage is one of each token."""

CLIPS: dict[str, Case] = {
    "ppo": {"clip_low": 0.2, "clip_high": 0.28},
    "gspo": {"clip_low": 0.05, "clip_high": 0.06},
    "cispo": {"clip_low": 1.0, "clip_high": 0.5},
}
"""Ranges that clip some of the random ratios and leave others."""
AGGREGATIONS = ("token_mean", "sequence_mean", "constant")
CASES: list[Case] = [
    {"form": form, "aggregation": aggregation, "per_token": per_token, "kl": kl} | CLIPS[form]
    for form in CLIPS
    for aggregation in AGGREGATIONS
    for per_token in (False, True)
    for kl in (0.0, 0.1)
]


def name_of(case: Case) -> str:
    return " ".join(f"{key}={value}" for key, value in case.items())


def drawn(seed: int) -> Tensors:
    """Three groups of two sequences of up to 7 tokens, in fp64: log-probabilities now, before and of the start; credit."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    lengths_B = torch.randint(1, 8, (6,), generator=generator)
    logprobs_BT = -normal(6, 7).abs()
    tensors = {
        "logprobs_BT": logprobs_BT,
        "old_BT": logprobs_BT + 0.4 * normal(6, 7),
        "reference_BT": logprobs_BT + normal(6, 7),
        "advantages_B": normal(6),
        "advantages_BT": normal(6, 7),
        "rewards_B": normal(6),
    }
    rounded = {name: tensor.mul(1e4).round().div(1e4) for name, tensor in tensors.items()}  # short in a file
    return rounded | {
        "mask_BT": torch.arange(7) < lengths_B[:, None],
        "groups_B": torch.tensor([0, 0, 0, 1, 1, 1]),
    }


def advantages_of(tensors: Tensors, case: Case) -> Tensor:
    """Return the advantages of all tokens. -> (B, T)"""
    return tensors["advantages_BT"] if case["per_token"] else tensors["advantages_B"][:, None].expand(6, 7)


def ours(tensors: Tensors, case: Case) -> tuple[Tensor, Tensor]:
    """Return the loss of all tokens, and its gradient with respect to the log-probabilities. -> (), (B, T)"""
    mask_BT, leaf_BT = tensors["mask_BT"], tensors["logprobs_BT"].clone().requires_grad_()
    now_M, old_M = leaf_BT[mask_BT], tensors["old_BT"][mask_BT]
    row_M = mask_BT.nonzero()[:, 0]
    divisor = loss_divisor(mask_BT.sum(1), case["aggregation"], MAX_TOKENS)
    inputs = TokenInputs(
        old_M,
        advantages_of(tensors, case)[mask_BT],
        divisor if isinstance(divisor, int) else divisor[row_M],
        log_ratio_N=sequence_log_ratio(now_M.detach(), old_M, row_M) if case["form"] == "gspo" else None,
        reference_N=tensors["reference_BT"][mask_BT],
    )
    loss = PolicyLoss(case["form"], case["clip_low"], case["clip_high"], case["kl"]).of_tokens(
        now_M, slice(None), inputs
    )
    return gradient(loss.sum(), leaf_BT)


def gradient(loss: Tensor, leaf_BT: Tensor) -> tuple[Tensor, Tensor]:
    (of_leaf_BT,) = torch.autograd.grad(loss, leaf_BT)
    return loss.detach(), of_leaf_BT


def our_advantage(tensors: Tensors, name: str) -> Tensor:
    rewards_B = tensors["rewards_B"]
    return ADVANTAGES[name](rewards_B, rewards_B > 0, tensors["groups_B"])


def write(file: str, seed: int, results: dict[str, list[Any]]) -> None:
    """Write random tensors and a peer's results for them, a line each."""
    lines = [f'"{name}": {json.dumps(tensor.tolist())}' for name, tensor in drawn(seed).items()]
    found = [f'"{name}": {json.dumps(value)}' for name, value in results.items()]
    text = "{\n" + ",\n".join(lines) + ',\n"results": {\n' + ",\n".join(found) + "\n}\n}\n"
    (GOLDEN / file).write_text(text, encoding="utf-8")


def read(file: str) -> tuple[Tensors, dict[str, list[Any]]]:
    """Return the tensors of a golden file, and a peer's results for them."""
    golden = json.loads((GOLDEN / file).read_text(encoding="utf-8"))
    results = golden.pop("results")
    plain = ("mask_BT", "groups_B")
    return {
        name: torch.tensor(value, dtype=None if name in plain else torch.float64) for name, value in golden.items()
    }, results


def listed(
    tensors: Tensors, cases: list[Case], loss: Callable[[Tensors, Case], tuple[Tensor, Tensor]]
) -> dict[str, list[Any]]:
    """Return each case's loss, followed by its gradient at the sampled tokens, as numbers of 12 digits."""
    found = {name_of(case): loss(tensors, case) for case in cases}
    return {
        name: [round(float(value), 12), *(round(x, 12) for x in of_BT[tensors["mask_BT"]].tolist())]
        for name, (value, of_BT) in found.items()
    }
