"""The losses of `sod.core` are those of TRL's GRPOTrainer, whose own method computes them here.

TRL has an environment of its own: `make test-trl`. `python tests/test_losses_trl.py` writes tests/golden/losses_trl.json.
"""

# pyright: reportMissingImports=false

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("trl", reason="TRL has an environment of its own: make test-trl")

import torch
from peer_losses import CASES, CLIPS, MAX_TOKENS, Case, Tensors, drawn, gradient, listed, name_of, ours, read, write
from torch import Tensor
from trl import GRPOTrainer

from sod.core import Correction, sampler_ratio, sampler_weights

NAMES = {"token_mean": "bnpo", "sequence_mean": "grpo", "constant": "dr_grpo"}
"""Values of loss_type. TRL's bnpo is a mean over the tokens of one micro-batch; here there is only one."""
SHARED = [case for case in CASES if case["form"] != "cispo" or case["aggregation"] == "token_mean"]
"""TRL's cispo has one aggregation, a mean over tokens."""
SHARED = [case for case in SHARED if case["form"] != "gspo" or not case["per_token"]]
"""TRL multiplies the gradient of the sequence's ratio by the mean credit of its tokens; GSPO-token keeps their own."""


def trls(tensors: Tensors, case: Case, weights_BT: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the loss of GRPOTrainer for all tokens, and its gradient. -> (), (B, T)

    `weights_BT`: TRL's importance_sampling_ratio.
    """
    leaf_BT = tensors["logprobs_BT"].clone().requires_grad_()
    by_ratio = case["form"] == "cispo"
    alone: Any = SimpleNamespace(
        num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x, gather_for_metrics=lambda x: x
    )
    trainer: Any = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (leaf_BT, torch.zeros_like(leaf_BT), None),
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
        model=SimpleNamespace(training=True),
        accelerator=alone,
        loss_type="cispo" if by_ratio else NAMES[case["aggregation"]],
        importance_sampling_level="sequence" if case["form"] == "gspo" else "token",
        beta=case["kl"],
        epsilon_low=case["clip_low"],
        epsilon_high=case["clip_high"] + by_ratio,  # of the ratio itself
        max_completion_length=MAX_TOKENS,
        current_gradient_accumulation_steps=1,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        aux_loss_enabled=False,
        use_vllm=weights_BT is not None,
        vllm_importance_sampling_correction=weights_BT is not None,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
    )
    empty = torch.zeros(6, 0, dtype=torch.long)
    inputs = {
        "prompt_ids": empty,
        "prompt_mask": empty,
        "completion_ids": torch.zeros(6, 7, dtype=torch.long),
        "completion_mask": tensors["mask_BT"].double(),
        "advantages": tensors["advantages_BT"] if case["per_token"] else tensors["advantages_B"],
        "old_per_token_logps": tensors["old_BT"],
        "ref_per_token_logps": tensors["reference_BT"],
        "num_items_in_batch": tensors["mask_BT"].sum(),
        "importance_sampling_ratio": weights_BT,
    }
    return gradient(GRPOTrainer._compute_loss(trainer, None, inputs), leaf_BT)


@pytest.mark.parametrize("case", SHARED, ids=name_of)
def test_losses_and_gradients_are_trls(case: Case) -> None:
    for seed in range(5):
        tensors = drawn(seed)
        for found, expected in zip(ours(tensors, case), trls(tensors, case), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("correction", ["truncated", "masked", "icepop"])
def test_a_weighted_credit_is_trls_weighted_loss(correction: Correction) -> None:
    case: Case = {"form": "ppo", "aggregation": "token_mean", "per_token": True, "kl": 0.1} | CLIPS["ppo"]
    for seed in range(5):
        tensors = drawn(seed)
        sampler_BT = tensors["old_BT"] + 0.6 * torch.randn(6, 7, generator=torch.Generator().manual_seed(seed)).double()
        ratio_BT = sampler_ratio(tensors["old_BT"], sampler_BT, tensors["mask_BT"], "token")
        weights_BT = sampler_weights(ratio_BT, correction)
        weighted = tensors | {"advantages_BT": tensors["advantages_BT"] * weights_BT}
        for found, expected in zip(ours(weighted, case), trls(tensors, case, weights_BT), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-6)


def test_the_golden_numbers_are_what_trl_returns() -> None:
    tensors, golden = read("losses_trl.json")
    found = listed(tensors, SHARED, trls)
    assert found.keys() == golden.keys()
    for name, numbers in golden.items():
        assert found[name] == pytest.approx(numbers, abs=1e-9), name


if __name__ == "__main__":
    write("losses_trl.json", 0, listed(drawn(0), SHARED, trls))
