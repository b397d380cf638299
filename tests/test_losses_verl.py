"""The losses, advantages and divergences of `sod.core` are those of verl's own functions.

verl has an environment of its own: `make test-verl`. `python tests/test_losses_verl.py` writes tests/golden/losses_verl.json.
"""

import warnings

import pytest

with warnings.catch_warnings(action="ignore"):  # verl's own and Ray's, when they are imported
    pytest.importorskip("verl", reason="verl has an environment of its own: make test-verl")

import numpy as np
import torch
from peer_losses import (
    CASES,
    CLIPS,
    MAX_TOKENS,
    Case,
    Tensors,
    advantages_of,
    drawn,
    gradient,
    listed,
    name_of,
    our_advantage,
    ours,
    read,
    write,
)
from torch import Tensor
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_weights
from verl.utils import torch_functional
from verl.workers.config import ActorConfig

from sod.core import Correction, Level, reference_kl, sampler_ratio, sampler_weights, token_loss

pytestmark = pytest.mark.filterwarnings("default")  # verl's own

LOSSES = {"ppo": "vanilla", "gspo": "gspo", "cispo": "cispo"}
MODES = {"token_mean": "token-mean", "sequence_mean": "seq-mean-token-mean", "constant": "seq-mean-token-sum-norm"}
SEEDS = range(5)


def verls(tensors: Tensors, case: Case) -> tuple[Tensor, Tensor]:
    """Return verl's loss of all tokens, and its gradient. -> (), (B, T)"""
    mask_BT, leaf_BT = tensors["mask_BT"], tensors["logprobs_BT"].clone().requires_grad_()
    config = ActorConfig(
        strategy="fsdp",
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        clip_ratio_low=case["clip_low"],
        clip_ratio_high=case["clip_high"],
        clip_ratio_c=1e9,  # PPO's second bound, which only verl has
    )
    mode = MODES[case["aggregation"]]
    config.global_batch_info.update(loss_scale_factor=MAX_TOKENS)
    advantages_BT = advantages_of(tensors, case)
    function = core_algos.get_policy_loss_fn(LOSSES[case["form"]])
    loss, _ = function(tensors["old_BT"], leaf_BT, advantages_BT, mask_BT.double(), mode, config)
    if case["kl"]:
        k3_BT = core_algos.kl_penalty(leaf_BT, tensors["reference_BT"], "low_var_kl")
        loss = loss + case["kl"] * core_algos.agg_loss(k3_BT, mask_BT.double(), mode, loss_scale_factor=MAX_TOKENS)
    return gradient(loss, leaf_BT)


def verls_advantage(tensors: Tensors, name: str) -> Tensor:
    mask_BT = torch.ones(6, 1, dtype=torch.float64)
    given = (tensors["rewards_B"].clone()[:, None], mask_BT, np.array(tensors["groups_B"].tolist()))
    if name == "rloo":
        return core_algos.compute_rloo_outcome_advantage(*given)[0][:, 0]
    by_std = name == "grpo"
    return core_algos.compute_grpo_outcome_advantage(*given, norm_adv_by_std_in_grpo=by_std)[0][:, 0]


def results(tensors: Tensors) -> dict[str, list[float]]:
    advantages = {f"advantage={name}": verls_advantage(tensors, name).tolist() for name in ("grpo", "dr_grpo", "rloo")}
    return listed(tensors, CASES, verls) | advantages


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_losses_and_gradients_are_verls(case: Case) -> None:
    for seed in SEEDS:
        tensors = drawn(seed)
        for found, expected in zip(ours(tensors, case), verls(tensors, case), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("form", CLIPS)
def test_the_random_ratios_are_clipped_and_not_all(form: str) -> None:
    case = {"form": form, "aggregation": "token_mean", "per_token": False, "kl": 0.0}
    open_ended = {"clip_low": 1.0, "clip_high": 1e9}
    clipped, free = (ours(drawn(0), case | clip)[1] for clip in (CLIPS[form], open_ended))
    assert not torch.allclose(clipped, free)
    assert (clipped[drawn(0)["mask_BT"]] != 0).any()


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo"])
def test_advantages_are_verls(name: str) -> None:
    for seed in SEEDS:
        tensors = drawn(seed)
        torch.testing.assert_close(our_advantage(tensors, name), verls_advantage(tensors, name), atol=1e-9, rtol=1e-6)


def test_the_divergence_from_the_start_is_verls() -> None:
    tensors = drawn(1)
    k3_BT = core_algos.kl_penalty(tensors["logprobs_BT"], tensors["reference_BT"], "low_var_kl")
    torch.testing.assert_close(reference_kl(tensors["logprobs_BT"], tensors["reference_BT"]), k3_BT)


def test_a_reward_with_the_divergence_gives_verls_advantage() -> None:
    tensors = drawn(2)
    mask_BT, groups = tensors["mask_BT"].double(), np.array(tensors["groups_B"].tolist())
    scores_BT = torch.zeros(6, 7, dtype=torch.float64)
    scores_BT[:, 0] = tensors["rewards_B"]
    rewards_BT = core_algos.compute_rewards(
        scores_BT, tensors["old_BT"] * mask_BT, tensors["reference_BT"] * mask_BT, 0.3
    )
    expected_BT = core_algos.compute_rloo_outcome_advantage(rewards_BT, mask_BT, groups)[0]
    k1_BT = (tensors["old_BT"] - tensors["reference_BT"]) * mask_BT
    changed = tensors | {"rewards_B": tensors["rewards_B"] - 0.3 * k1_BT.sum(1)}
    torch.testing.assert_close(our_advantage(changed, "rloo")[:, None] * mask_BT, expected_BT)


def test_the_entropy_and_its_gradient_are_verls() -> None:
    generator = torch.Generator().manual_seed(0)
    logits_NV = torch.randn(9, 5, dtype=torch.float64, generator=generator)
    leaves = [logits_NV.clone().requires_grad_() for _ in range(2)]
    entropy_N = torch_functional.entropy_from_logits(leaves[0])
    expected = -0.01 * core_algos.agg_loss(entropy_N[None], torch.ones(1, 9), "token-mean")
    weights_N = torch.full((9,), -0.01 / 9, dtype=torch.float64)
    loss, _, _ = token_loss(
        leaves[1],
        torch.eye(5, dtype=torch.float64),
        torch.zeros(9, dtype=torch.long),
        lambda logprobs, _: 0 * logprobs,
        entropy_weights_N=weights_N,
    )
    for total in (expected, loss):
        total.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(leaves[1].grad, leaves[0].grad)


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize(("correction", "threshold"), [("truncated", 2.0), ("icepop", "0.5_5.0")])
def test_importance_weights_are_verls(level: Level, correction: Correction, threshold: float | str) -> None:
    for seed in SEEDS:
        tensors = drawn(seed)
        old_BT, mask_BT = tensors["old_BT"], tensors["mask_BT"]
        sampler_BT = old_BT + 0.6 * torch.randn(6, 7, generator=torch.Generator().manual_seed(seed)).double()
        expected_BT, _ = compute_rollout_correction_weights(old_BT - sampler_BT, mask_BT, level, threshold)
        ratio_BT = sampler_ratio(old_BT, sampler_BT, mask_BT, level)
        found_BT = sampler_weights(ratio_BT, correction, cap=2.0 if correction == "truncated" else 5.0)
        torch.testing.assert_close(found_BT, expected_BT, atol=1e-9, rtol=1e-6)


def test_the_golden_numbers_are_what_verl_returns() -> None:
    tensors, golden = read("losses_verl.json")
    found = results(tensors)
    assert found.keys() == golden.keys()
    for name, numbers in golden.items():
        assert found[name] == pytest.approx(numbers, abs=1e-9), name


if __name__ == "__main__":
    write("losses_verl.json", 0, results(drawn(0)))
