"""The paper's functions: worked examples, invariants, and step weights that the reference's own function gave."""

import itertools
import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import shared
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sod.core import (
    Head,
    candidate_credit,
    clipped_policy_loss,
    decayed_weights,
    group_advantage,
    masked_mean,
    per_token,
    step_divergence,
    step_ids,
    step_mean,
    step_weights,
    teacher_advantage,
    token_logprobs,
    token_loss,
    top_logprobs,
)

Case = dict[str, Any]
GOLDEN: list[Case] = json.loads((Path(__file__).parent / "golden" / "step_weights.json").read_text())
FLOATS = [torch.bfloat16, torch.float32, torch.float64]
JUNK = [float("nan"), float("inf"), float("-inf")]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_mask(seed: int, shape: tuple[int, int] = (5, 30)) -> Tensor:
    """Runs of both kinds; some rows start with an observation, and the last has no step."""
    mask_BT = torch.rand(shape, generator=generator(seed)) < 0.6
    mask_BT[0, 0], mask_BT[1, 0], mask_BT[-1] = True, False, False
    return mask_BT


def random_logprobs(seed: int, shape: tuple[int, int] = (5, 30)) -> Tensor:
    return -torch.rand(shape, generator=generator(seed), dtype=torch.float64).mul(3).exp()


# The reference's numbers


def check_case(case: Case) -> None:
    student_BT, teacher_BT = torch.tensor(case["student_logps"]), torch.tensor(case["teacher_logps"])
    ids_BT = step_ids(torch.tensor(case["response_mask"]))
    d_BK = step_divergence(student_BT, teacher_BT, ids_BT)
    w_BK = step_weights(d_BK, epsilon=case["epsilon"], delta=case["delta"])
    torch.testing.assert_close(per_token(w_BK, ids_BT), torch.tensor(case["weights"]), rtol=0, atol=1e-5)
    for row, steps in enumerate(case["steps"]):
        count = len(steps["d"])
        assert ids_BT[row].max() == count
        assert ids_BT[row].bincount(minlength=count + 1)[1:].tolist() == steps["n"]
        for k, (start, end) in enumerate(steps["spans"], 1):
            assert (ids_BT[row, start:end] == k).all()
        torch.testing.assert_close(d_BK[row, :count], torch.tensor(steps["d"]), rtol=0, atol=1e-5)
        torch.testing.assert_close(w_BK[row, :count], torch.tensor(steps["w"]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"seed{case['seed']}")
def test_divergences_and_weights_are_those_of_the_reference(case: Case) -> None:
    check_case(case)


def test_divergences_and_weights_are_those_of_the_reference_in_all_24_cases() -> None:
    cases = json.loads(shared("golden/step_weights.json").read_text())
    assert len(cases) == 24
    for case in cases:
        check_case(case)


# Steps


@pytest.mark.parametrize(
    ("mask", "ids"),
    [
        ([[1, 1, 0, 1, 0, 0, 1]], [[1, 1, 0, 2, 0, 0, 3]]),
        ([[1, 1, 1]], [[1, 1, 1]]),
        ([[0, 0, 0]], [[0, 0, 0]]),
        ([[0, 1, 1, 0, 1]], [[0, 1, 1, 0, 2]]),
        ([[0, 0], [1, 0], [0, 1], [1, 1]], [[0, 0], [1, 0], [0, 1], [1, 1]]),
    ],
)
def test_each_run_of_sampled_tokens_is_one_step(mask: list[list[int]], ids: list[list[int]]) -> None:
    assert step_ids(torch.tensor(mask)).tolist() == ids


def test_steps_are_counted_row_by_row_as_a_loop_counts_them() -> None:
    mask_BT = random_mask(0)
    for row, ids in zip(mask_BT.tolist(), step_ids(mask_BT).tolist(), strict=True):
        k = 0
        for t, sampled in enumerate(row):
            k += sampled and (t == 0 or not row[t - 1])
            assert ids[t] == (k if sampled else 0)


def test_numbering_steps_leaves_the_mask_as_it_was() -> None:
    mask_BT = random_mask(1)
    before = mask_BT.clone()
    step_ids(mask_BT)
    assert mask_BT.equal(before)


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (3, 0), (3, 5)], ids=str)
def test_a_batch_without_any_step_has_no_weights(shape: tuple[int, int]) -> None:
    ids_BT = step_ids(torch.zeros(shape, dtype=torch.bool))
    assert ids_BT.shape == shape
    assert ids_BT.dtype == torch.int64
    d_BK = step_divergence(torch.zeros(shape), torch.ones(shape), ids_BT)
    w_BK = step_weights(d_BK)
    assert d_BK.shape == w_BK.shape == (shape[0], 0)
    assert per_token(w_BK, ids_BT).equal(torch.zeros(shape))


def test_a_step_mean_is_the_mean_of_its_tokens_and_0_where_a_row_has_no_such_step() -> None:
    ids_BT = step_ids(torch.tensor([[1, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]]))
    values_BT = torch.tensor([[1.0, 3.0, 9.0, 5.0], [9.0, 9.0, 7.0, 9.0], [9.0, 9.0, 9.0, 9.0]])
    assert step_mean(values_BT, ids_BT).tolist() == [[2.0, 5.0], [7.0, 0.0], [0.0, 0.0]]


def test_a_steps_value_is_spread_over_its_tokens_and_nowhere_else() -> None:
    ids_BT = torch.tensor([[1, 1, 0, 2], [0, 0, 1, 0]])
    assert per_token(torch.tensor([[5.0, 6.0], [7.0, 8.0]]), ids_BT).tolist() == [[5, 5, 0, 6], [0, 0, 7, 0]]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_long_steps_are_summed_in_at_least_single_precision(dtype: torch.dtype) -> None:
    ids_BT = torch.ones(1, 5000, dtype=torch.long)  # a bfloat16 sum of ones would stop at 256
    mean_BK = step_mean(torch.ones(1, 5000, dtype=dtype), ids_BT)
    assert mean_BK.tolist() == [[1.0]]
    assert mean_BK.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


# Divergence and weights


def test_the_divergence_of_a_step_is_the_mean_distance_of_its_log_probabilities() -> None:
    student_BT, teacher_BT = torch.tensor([[-1.0, -2.0, 0.0, -1.0]]), torch.tensor([[-2.0, -1.5, 0.0, -4.0]])
    assert step_divergence(student_BT, teacher_BT, torch.tensor([[1, 1, 0, 2]])).tolist() == [[0.75, 3.0]]


@pytest.mark.parametrize(
    ("d", "w"),
    [
        ([0.2], [1.0]),
        ([0.2, 0.2, 0.2], [1.0, 1.0, 1.0]),
        ([0.1, 0.6], [1.0, 1 / 6]),  # the paper's erroneous pattern: divergence rises sixfold
        ([0.4, 0.1, 0.39], [1.0, 1.2, 0.4 / 0.39]),  # a step that agrees better is held at 1 + delta, the next is not
        ([0.1, 10.0, 0.1], [1.0, 0.01, 1.0]),  # a recovered step has its weight back
        ([0.0, 0.5, 0.0], [1.0, 2e-6, 1.0]),  # a first step without divergence switches off whatever diverges
        ([0.0, 0.0], [1.0, 1.0]),
    ],
)
def test_a_step_weighs_the_first_divergence_over_its_own(d: list[float], w: list[float]) -> None:
    torch.testing.assert_close(step_weights(torch.tensor([d])), torch.tensor([w]), rtol=2e-5, atol=1e-9)


@pytest.mark.parametrize("delta", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("epsilon", [1e-6, 1e-3])
def test_the_closed_form_is_the_papers_running_product_clipped_at_its_end(epsilon: float, delta: float) -> None:
    d_BK = torch.rand(200, 12, generator=generator(2), dtype=torch.float64).mul(9).sub(7).exp()
    d_BK[:20, ::3] = 0.0
    weights = []
    for row in d_BK.tolist():
        product, w = 1.0, [1.0]
        for this, following in itertools.pairwise(row):
            product *= (this + epsilon) / (following + epsilon)
            w.append(min(product, 1 + delta))
        weights.append(w)
    expected_BK = torch.tensor(weights, dtype=torch.float64)
    torch.testing.assert_close(step_weights(d_BK, epsilon=epsilon, delta=delta), expected_BK, rtol=1e-11, atol=0)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_any_float_type_gives_the_weights_of_its_own_rounded_numbers(dtype: torch.dtype) -> None:
    student_BT, teacher_BT = random_logprobs(3).to(dtype), random_logprobs(4).to(dtype)
    ids_BT = step_ids(random_mask(5))
    weights_BT = per_token(step_weights(step_divergence(student_BT, teacher_BT, ids_BT)), ids_BT)
    exact_BT = per_token(step_weights(step_divergence(student_BT.double(), teacher_BT.double(), ids_BT)), ids_BT)
    assert weights_BT.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    tolerance = {torch.bfloat16: 1e-2, torch.float32: 1e-5, torch.float64: 0.0}[dtype]
    torch.testing.assert_close(weights_BT.double(), exact_BT, rtol=tolerance, atol=0)


def test_padding_and_longer_neighbours_change_no_weight() -> None:
    student_BT, teacher_BT, mask_BT = random_logprobs(6), random_logprobs(7), random_mask(8)

    def weights(*tensors: Tensor) -> Tensor:
        student, teacher, mask = tensors
        return per_token(step_weights(step_divergence(student, teacher, step_ids(mask))), step_ids(mask))

    together_BT = weights(student_BT, teacher_BT, mask_BT)
    padded_BT = weights(*(torch.nn.functional.pad(tensor, (0, 9)) for tensor in (student_BT, teacher_BT, mask_BT)))
    assert padded_BT.equal(torch.nn.functional.pad(together_BT, (0, 9)))
    for row in range(len(mask_BT)):
        alone_T = weights(student_BT[row : row + 1], teacher_BT[row : row + 1], mask_BT[row : row + 1])[0]
        assert alone_T.equal(together_BT[row])


def test_no_gradient_passes_through_a_measurement() -> None:
    student_BT, teacher_BT = random_logprobs(9).requires_grad_(), random_logprobs(10).requires_grad_()
    mask_BT = random_mask(11)
    d_BK = step_divergence(student_BT, teacher_BT, step_ids(mask_BT))
    assert not d_BK.requires_grad
    assert not step_weights(d_BK.requires_grad_()).requires_grad
    assert not teacher_advantage(student_BT, teacher_BT, mask_BT).requires_grad


# Outside the mask anything may stand


@pytest.mark.parametrize("where", ["student", "teacher", "both"])
@pytest.mark.parametrize("junk", JUNK, ids=str)
def test_what_stands_outside_the_mask_changes_no_divergence_weight_or_advantage(junk: float, where: str) -> None:
    mask_BT = random_mask(12)
    ids_BT = step_ids(mask_BT)
    clean = random_logprobs(13), random_logprobs(14)
    dirty = (
        clean[0].masked_fill(~mask_BT, junk) if where != "teacher" else clean[0],
        clean[1].masked_fill(~mask_BT, junk) if where != "student" else clean[1],
    )
    d_BK = step_divergence(*dirty, ids_BT)
    assert d_BK.equal(step_divergence(*clean, ids_BT))
    assert per_token(step_weights(d_BK), ids_BT).isfinite().all()
    assert teacher_advantage(*dirty, mask_BT).equal(teacher_advantage(*clean, mask_BT))
    assert (teacher_advantage(*dirty, mask_BT)[~mask_BT] == 0).all()


@pytest.mark.parametrize("junk", JUNK, ids=str)
def test_what_stands_outside_the_mask_changes_neither_a_masked_mean_nor_its_gradient(junk: float) -> None:
    mask_BT = random_mask(15)
    clean_BT = random_logprobs(16).requires_grad_()
    dirty_BT = clean_BT.detach().masked_fill(~mask_BT, junk).requires_grad_()
    clean, dirty = masked_mean(clean_BT, mask_BT), masked_mean(dirty_BT, mask_BT)
    clean.backward()
    dirty.backward()
    assert dirty == clean
    assert clean_BT.grad is not None
    assert dirty_BT.grad is not None
    assert dirty_BT.grad.equal(clean_BT.grad)


@pytest.mark.parametrize("junk", JUNK, ids=str)
def test_what_stands_outside_the_mask_changes_neither_the_policy_loss_nor_its_gradient(junk: float) -> None:
    """Selected before the loss, as its docstring asks; the value needs no selecting."""
    mask_BT = random_mask(17)
    old_BT, credit_BT = random_logprobs(18), random_logprobs(19) + 3

    def loss_and_gradient(fill: float) -> tuple[Tensor, Tensor, Tensor]:
        logprobs_BT = (random_logprobs(18) + 0.1 * random_logprobs(20)).masked_fill(~mask_BT, fill).requires_grad_()
        old, credit = (tensor.masked_fill(~mask_BT, fill) for tensor in (old_BT, credit_BT))
        selected = clipped_policy_loss(logprobs_BT[mask_BT], old[mask_BT], credit[mask_BT]).mean()
        (gradient_BT,) = torch.autograd.grad(selected, logprobs_BT)
        return selected.detach(), gradient_BT, masked_mean(clipped_policy_loss(logprobs_BT, old, credit), mask_BT)

    clean, dirty = loss_and_gradient(0.0), loss_and_gradient(junk)
    assert all(map(torch.equal, clean, dirty))
    torch.testing.assert_close(clean[0], clean[2])


# Losses


def test_the_masked_mean_of_an_empty_mask_is_0_with_a_gradient_of_0() -> None:
    values_BT = torch.tensor([[1.0, float("nan")]], requires_grad=True)
    mean = masked_mean(values_BT, torch.zeros(1, 2))
    mean.backward()
    assert mean == 0
    assert values_BT.grad is not None
    assert values_BT.grad.tolist() == [[0.0, 0.0]]


def test_a_masked_mean_weighs_every_token_of_the_batch_alike() -> None:
    mask_BT = torch.tensor([[1, 1, 1], [1, 0, 0]])
    assert masked_mean(torch.tensor([[1.0, 2.0, 3.0], [6.0, 9.0, 9.0]]), mask_BT) == 3.0


@pytest.mark.parametrize(
    ("ratio", "credit", "loss", "gradient"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.0, -2.0, 2.0, 2.0),
        (0.5, 1.0, -0.5, -0.5),  # worth more than it was: never held back
        (1.25, 1.0, -1.25, -1.25),  # the upper clip is at 1.28, further from 1 than the lower
        (1.5, 1.0, -1.28, 0.0),
        (1.5, -1.0, 1.5, 1.5),
        (0.85, -1.0, 0.85, 0.85),
        (0.75, -1.0, 0.8, 0.0),
        (0.75, 0.0, 0.0, 0.0),
    ],
)
def test_the_policy_ratio_counts_up_to_the_clip_and_no_gradient_passes_beyond(
    ratio: float, credit: float, loss: float, gradient: float
) -> None:
    logprobs = torch.tensor([ratio]).log().sub(1.0).requires_grad_()
    found = clipped_policy_loss(logprobs, torch.tensor([-1.0]), torch.tensor([credit]))
    found.sum().backward()
    assert logprobs.grad is not None
    assert found.item() == pytest.approx(loss, abs=1e-6)
    assert logprobs.grad.item() == pytest.approx(gradient, abs=1e-6)


def test_the_policy_loss_sends_no_gradient_to_old_log_probabilities_or_credit() -> None:
    new, old, credit = (torch.tensor([-0.5], requires_grad=True) for _ in range(3))
    clipped_policy_loss(new, old, credit).sum().backward()
    assert new.grad is not None
    assert old.grad is credit.grad is None


# Advantages


def naive_group_advantage(rewards: list[float], groups: list[int]) -> list[float]:
    advantages = []
    for reward, label in zip(rewards, groups, strict=True):
        mates = [r for r, g in zip(rewards, groups, strict=True) if g == label]
        mean = sum(mates) / len(mates)
        deviation = (sum((r - mean) ** 2 for r in mates) / max(1, len(mates) - 1)) ** 0.5
        advantages.append((reward - mean) / (deviation + 1e-6))
    return advantages


@pytest.mark.parametrize(
    "groups",
    [[0, 0, 0, 1, 1, 1], [7, -3, 7, 100, -3, 7], [5, 5, 5, 5, 5, 5], [0, 1, 2, 3, 4, 5], [2, 2, 2, 2, 2, 9]],
    ids=str,
)
def test_an_advantage_is_measured_against_the_own_group(groups: list[int]) -> None:
    rewards = [1.0, -1.0, 0.25, -0.6, 1.0, 0.3]
    found_B = group_advantage(torch.tensor(rewards, dtype=torch.float64), torch.tensor(groups))
    expected_B = torch.tensor(naive_group_advantage(rewards, groups), dtype=torch.float64)
    torch.testing.assert_close(found_B, expected_B, rtol=1e-12, atol=1e-12)


def test_one_right_answer_among_four_is_worth_three_wrong_ones() -> None:
    advantages_B = group_advantage(torch.tensor([1.0, -1.0, -1.0, -1.0]), torch.zeros(4, dtype=torch.long))
    torch.testing.assert_close(advantages_B, torch.tensor([1.5, -0.5, -0.5, -0.5]), rtol=1e-5, atol=0)


@pytest.mark.parametrize("size", [1, 3, 7, 16])
@pytest.mark.parametrize("reward", [1.0, -1.0])
def test_a_group_of_one_or_of_equal_rewards_has_no_advantage(reward: float, size: int) -> None:
    assert group_advantage(torch.full((size,), reward), torch.zeros(size, dtype=torch.long)).tolist() == [0.0] * size


@pytest.mark.parametrize(("reward", "size"), [(0.7, 7), (0.7, 16), (0.3, 7), (1000.1, 7)])
def test_a_group_of_equal_rewards_has_no_advantage_whatever_they_are(reward: float, size: int) -> None:
    assert group_advantage(torch.full((size,), reward), torch.zeros(size, dtype=torch.long)).tolist() == [0.0] * size


def test_no_trajectory_has_no_advantage() -> None:
    assert group_advantage(torch.zeros(0), torch.zeros(0, dtype=torch.long)).shape == (0,)


def test_the_teachers_advantage_is_positive_where_the_teacher_likes_a_token_better() -> None:
    student_BT, teacher_BT = torch.tensor([[-2.0, -1.0, -1.0]]), torch.tensor([[-1.0, -1.5, -9.0]])
    assert teacher_advantage(student_BT, teacher_BT, torch.tensor([[1, 1, 0]])).tolist() == [[1.0, -0.5, 0.0]]


# Log-probabilities in chunks


def model_output(tokens: int = 13, *, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    hidden_ND = torch.randn(tokens, 5, generator=generator(21), dtype=dtype).requires_grad_()
    head_VD = torch.randn(11, 5, generator=generator(22), dtype=dtype).requires_grad_()
    return hidden_ND, head_VD, torch.randint(11, (tokens,), generator=generator(23))


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.0])
@pytest.mark.parametrize("chunk", [1, 4, 13, 1024])
def test_chunked_log_probabilities_and_gradients_are_those_of_the_whole(chunk: int, temperature: float) -> None:
    hidden_ND, head_VD, targets_N = model_output()
    weights_N = torch.randn(13, generator=generator(24), dtype=torch.float64)
    whole_NV = (hidden_ND @ head_VD.T / temperature).log_softmax(-1)
    whole_N = whole_NV.gather(1, targets_N[:, None])[:, 0]
    expected = torch.autograd.grad((weights_N * whole_N).sum(), (hidden_ND, head_VD))

    logprobs_N, entropy_N = token_logprobs(
        hidden_ND, head_VD, targets_N, temperature=temperature, entropy=True, chunk=chunk
    )
    found = torch.autograd.grad((weights_N * logprobs_N).sum(), (hidden_ND, head_VD))

    torch.testing.assert_close(logprobs_N, whole_N, rtol=0, atol=1e-9)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    entropy = torch.distributions.Categorical(logits=whole_NV.detach()).entropy()
    torch.testing.assert_close(entropy_N, entropy, rtol=0, atol=1e-9)
    assert not entropy_N.requires_grad


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.0])
@pytest.mark.parametrize("chunk", [1, 4, 13, 1024, None])
def test_a_loss_computed_in_chunks_and_its_gradients_are_those_of_the_whole(
    chunk: int | None, temperature: float
) -> None:
    """The clipped policy loss with a credit for each token, some ratios within the clip and some beyond it."""
    hidden_ND, head_VD, targets_N = model_output()
    credit_N, moved_N = torch.randn(2, 13, generator=generator(24), dtype=torch.float64)
    whole_NV = (hidden_ND @ head_VD.T / temperature).log_softmax(-1)
    whole_N = whole_NV.gather(1, targets_N[:, None])[:, 0]
    old_N = (whole_N + 0.3 * moved_N).detach()
    total = 3 * clipped_policy_loss(whole_N, old_N, credit_N).sum()
    expected = torch.autograd.grad(total, (hidden_ND, head_VD))

    loss, logprobs_N, entropy_N = token_loss(
        hidden_ND,
        head_VD,
        targets_N,
        lambda logprobs_N, where: clipped_policy_loss(logprobs_N, old_N[where], credit_N[where]),
        temperature=temperature,
        entropy=True,
        chunk=chunk,
    )
    found = torch.autograd.grad(3 * loss, (hidden_ND, head_VD))

    assert 3 * loss.item() == pytest.approx(total.item(), abs=1e-9)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(logprobs_N, whole_N, rtol=0, atol=1e-9)
    entropy = torch.distributions.Categorical(logits=whole_NV.detach()).entropy()
    torch.testing.assert_close(entropy_N, entropy, rtol=0, atol=1e-9)
    assert entropy_N is not None
    assert not logprobs_N.requires_grad
    assert not entropy_N.requires_grad


def test_a_loss_of_a_frozen_head_reaches_the_hidden_states_alone() -> None:
    hidden_ND, head_VD, targets_N = model_output()
    loss, _, entropy_N = token_loss(hidden_ND, head_VD.detach(), targets_N, lambda logprobs_N, _: -logprobs_N)
    assert entropy_N is None
    loss.backward()
    whole = torch.nn.functional.cross_entropy(hidden_ND @ head_VD.T, targets_N, reduction="sum")
    torch.testing.assert_close(hidden_ND.grad, torch.autograd.grad(whole, hidden_ND)[0], rtol=0, atol=1e-9)


def test_no_token_has_no_log_probability_and_a_gradient_of_0() -> None:
    hidden_ND, head_VD, targets_N = model_output(0)
    logprobs_N, entropy_N = token_logprobs(hidden_ND, head_VD, targets_N, entropy=True)
    assert entropy_N is not None
    assert logprobs_N.shape == entropy_N.shape == (0,)
    loss, _, _ = token_loss(hidden_ND, head_VD, targets_N, lambda logprobs_N, _: -logprobs_N)
    for value in (logprobs_N.sum(), loss):
        head_VD.grad = None
        value.backward()
        assert value.item() == 0
        assert head_VD.grad is not None
        assert not head_VD.grad.any()


def test_log_probabilities_of_a_bfloat16_model_are_in_single_precision() -> None:
    logprobs_N, entropy_N = token_logprobs(*model_output(dtype=torch.bfloat16), entropy=True)
    assert entropy_N is not None
    assert logprobs_N.dtype == entropy_N.dtype == torch.float32


def test_gradients_of_a_bfloat16_model_are_summed_over_chunks_in_single_precision() -> None:
    """One product per token, summed in bfloat16, would lose most of them."""
    hidden_ND = torch.full((1000, 1), 1.0, dtype=torch.bfloat16, requires_grad=True)
    head_VD = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    loss, _, _ = token_loss(
        hidden_ND, head_VD, torch.zeros(1000, dtype=torch.long), lambda logprobs_N, _: -logprobs_N, chunk=1
    )
    loss.backward()
    assert head_VD.grad is not None
    assert head_VD.grad[:, 0].tolist() == [-500, 500]


# Heads that scale, cap or shift their logits

FORMS = [(None, 0.25, None), (None, 1.0, 3.0), (0.5, 1.0, None), (0.5, 1.7, 2.0)]
"""Spread of the bias, scale and cap."""


def head_and_logits(form: tuple[float | None, float, float | None]) -> tuple[Head, Tensor, Tensor, tuple[Tensor, ...]]:
    """Return a head, hidden states, their logits as autograd computes them, and the inputs with a gradient."""
    spread, scale, cap = form
    hidden_ND, head_VD, _ = model_output()
    bias_V = (
        torch.randn(11, generator=generator(25), dtype=torch.float64).mul(spread).requires_grad_() if spread else None
    )
    logits_NV = hidden_ND @ head_VD.T * scale if bias_V is None else (hidden_ND @ head_VD.T + bias_V) * scale
    logits_NV = logits_NV if cap is None else cap * (logits_NV / cap).tanh()
    learnt = (hidden_ND, head_VD) if bias_V is None else (hidden_ND, head_VD, bias_V)
    return Head(head_VD, bias_V, scale, cap), hidden_ND, logits_NV, learnt


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("temperature", [0.6, 1.0])
@pytest.mark.parametrize("chunk", [1, 4, None])
def test_any_heads_log_probabilities_and_gradients_are_those_of_full_logits(
    chunk: int | None, temperature: float, form: tuple[float | None, float, float | None]
) -> None:
    head, hidden_ND, logits_NV, learnt = head_and_logits(form)
    targets_NJ = torch.randint(11, (13, 2), generator=generator(26))
    weights_NJ = torch.randn(13, 2, generator=generator(24), dtype=torch.float64)
    whole_NV = (logits_NV / temperature).log_softmax(-1)
    whole_NJ = whole_NV.gather(1, targets_NJ)
    expected = torch.autograd.grad((weights_NJ * whole_NJ).sum(), learnt)

    logprobs_NJ, entropy_N = token_logprobs(
        hidden_ND, head, targets_NJ, temperature=temperature, entropy=True, chunk=chunk
    )
    loss, again_NJ, _ = token_loss(
        hidden_ND,
        head,
        targets_NJ,
        lambda logprobs_NJ, where: weights_NJ[where] * logprobs_NJ,
        temperature=temperature,
        chunk=chunk,
    )

    torch.testing.assert_close(logprobs_NJ, whole_NJ, rtol=0, atol=1e-9)
    torch.testing.assert_close(again_NJ, whole_NJ, rtol=0, atol=1e-9)
    entropy = torch.distributions.Categorical(logits=whole_NV.detach()).entropy()
    torch.testing.assert_close(entropy_N, entropy, rtol=0, atol=1e-9)
    for value in ((weights_NJ * logprobs_NJ).sum(), loss):
        torch.testing.assert_close(torch.autograd.grad(value, learnt), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_any_heads_likeliest_tokens_and_logits_are_those_of_full_logits(
    form: tuple[float | None, float, float | None],
) -> None:
    head, hidden_ND, logits_NV, _ = head_and_logits(form)
    targets_N = torch.zeros(13, dtype=torch.long)
    ids_NJ, logprobs_NJ = top_logprobs(hidden_ND, head, targets_N, 3, chunk=5)
    assert ids_NJ[:, 1:].equal(logits_NV.topk(3).indices)
    torch.testing.assert_close(logprobs_NJ, logits_NV.log_softmax(-1).gather(1, ids_NJ), rtol=0, atol=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(head.logits(hidden_ND), logits_NV, rtol=0, atol=1e-9)


# Candidates: tokens that might have been sampled


@pytest.mark.parametrize("count", [1, 4, 11])
@pytest.mark.parametrize("chunk", [1, 4, None])
def test_candidates_are_the_likeliest_tokens_and_their_log_probabilities_the_whole_softmaxs(
    chunk: int | None, count: int
) -> None:
    hidden_ND, head_VD, targets_N = model_output()
    whole_NV = (hidden_ND @ head_VD.T / 0.6).log_softmax(-1).detach()
    ids_NJ, logprobs_NJ = top_logprobs(hidden_ND, head_VD, targets_N, count, temperature=0.6, chunk=chunk)
    assert ids_NJ.equal(torch.cat([targets_N[:, None], whole_NV.topk(count).indices], 1))
    torch.testing.assert_close(logprobs_NJ, whole_NV.gather(1, ids_NJ), rtol=0, atol=1e-9)
    again_NJ, _ = token_logprobs(hidden_ND, head_VD, ids_NJ, temperature=0.6, chunk=chunk)
    assert again_NJ.equal(logprobs_NJ)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.0])
@pytest.mark.parametrize("count", [4, 11])
@pytest.mark.parametrize("chunk", [1, 4, None])
def test_the_gradient_of_a_loss_over_candidates_is_that_of_its_formula_on_full_logits(
    chunk: int | None, count: int, temperature: float
) -> None:
    """The sampled token by the outcome and every candidate by the teacher, some ratios within the clip and some beyond."""
    hidden_ND, head_VD, targets_N = model_output()
    whole_NV = (hidden_ND @ head_VD.T / temperature).log_softmax(-1)
    moved_NV, teacher_NV = torch.randn(2, *whole_NV.shape, generator=generator(25), dtype=torch.float64)
    old_NV, teacher_NV = (whole_NV.detach() + 0.3 * moved_NV).log_softmax(-1), teacher_NV.log_softmax(-1)
    credit_N, weight_N = torch.randn(2, 13, generator=generator(26), dtype=torch.float64)
    weight_N = weight_N.abs()

    ratio_NV = (whole_NV - old_NV).exp()
    clipped_NV = ratio_NV.clamp(0.8, 1.28)
    assert 0.2 < (ratio_NV == clipped_NV).double().mean() < 0.8
    expected = torch.zeros((), dtype=torch.float64)
    for n, target in enumerate(targets_N.tolist()):
        expected -= torch.minimum(ratio_NV[n, target] * credit_N[n], clipped_NV[n, target] * credit_N[n])
        for v in old_NV[n].topk(count).indices.tolist():
            advantage = weight_N[n] * (teacher_NV[n, v] - old_NV[n, v])
            expected -= old_NV[n, v].exp() * torch.minimum(ratio_NV[n, v] * advantage, clipped_NV[n, v] * advantage)

    candidates_NJ = old_NV.topk(count).indices
    ids_NJ = torch.cat([targets_N[:, None], candidates_NJ], 1)
    old_NJ, teacher_NJ = (tensor_NV.gather(1, candidates_NJ) for tensor_NV in (old_NV, teacher_NV))
    credit_NJ = torch.cat([credit_N[:, None], candidate_credit(old_NJ, teacher_NJ, weight_N)], 1)
    old_NJ = old_NV.gather(1, ids_NJ)
    loss, logprobs_NJ, _ = token_loss(
        hidden_ND,
        head_VD,
        ids_NJ,
        lambda logprobs_NJ, where: clipped_policy_loss(logprobs_NJ, old_NJ[where], credit_NJ[where]),
        temperature=temperature,
        chunk=chunk,
    )
    assert loss.item() == pytest.approx(expected.item(), abs=1e-9)
    torch.testing.assert_close(logprobs_NJ, whole_NV.gather(1, ids_NJ).detach(), rtol=0, atol=1e-9)
    inputs = hidden_ND, head_VD
    torch.testing.assert_close(
        torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs), rtol=0, atol=1e-9
    )


def at_ratio_1(
    hidden_ND: Tensor, head_VD: Tensor, ids_NJ: Tensor, logprobs_NJ: Tensor, credit_NJ: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of the policy loss where the policy is still the old one."""
    loss, _, _ = token_loss(
        hidden_ND, head_VD, ids_NJ, lambda new_NJ, at: clipped_policy_loss(new_NJ, logprobs_NJ[at], credit_NJ[at])
    )
    return torch.autograd.grad(loss, (hidden_ND, head_VD))


@pytest.mark.parametrize("count", [4, 11])
def test_at_ratio_1_the_gradient_of_the_candidates_is_that_of_the_weighted_reverse_kl(count: int) -> None:
    hidden_ND, head_VD, targets_N = model_output()
    teacher_NV = torch.randn(13, 11, generator=generator(27), dtype=torch.float64).log_softmax(-1)
    weight_N = torch.rand(13, generator=generator(28), dtype=torch.float64)
    ids_NJ, logprobs_NJ = (each[:, 1:] for each in top_logprobs(hidden_ND, head_VD, targets_N, count))
    credit_NJ = candidate_credit(logprobs_NJ, teacher_NV.gather(1, ids_NJ), weight_N)
    found = at_ratio_1(hidden_ND, head_VD, ids_NJ, logprobs_NJ, credit_NJ)

    whole_NV = (hidden_ND @ head_VD.T).log_softmax(-1)
    if count == 11:
        kl_N = torch.nn.functional.kl_div(teacher_NV, whole_NV, reduction="none", log_target=True).sum(1)
    else:
        term_NV = whole_NV.exp() * (whole_NV - teacher_NV - 1)
        kl_N = term_NV.gather(1, ids_NJ).sum(1)
    expected = torch.autograd.grad((weight_N * kl_N).sum(), (hidden_ND, head_VD))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("count", [3, 11])
def test_candidates_give_the_mean_of_what_sampled_tokens_give_and_vary_less(count: int) -> None:
    """Many draws from one distribution. A sampled token that is no candidate counts by itself, so no token is left out."""
    draws, weight = 20_000, 0.7
    hidden_ND, head_VD, _ = (tensor.detach() for tensor in model_output(1))
    whole_V = (hidden_ND @ head_VD.T).log_softmax(-1)[0]
    teacher_V = torch.randn(11, generator=generator(29), dtype=torch.float64).log_softmax(-1)
    targets_N = whole_V.exp().multinomial(draws, replacement=True, generator=generator(30))
    hidden_ND = hidden_ND.expand(draws, -1).clone().requires_grad_()
    signal_N = weight * (teacher_V - whole_V)[targets_N]
    head_VD.requires_grad_()
    sampled_ND, _ = at_ratio_1(hidden_ND, head_VD, targets_N, whole_V[targets_N], signal_N)

    ids_NJ, logprobs_NJ = top_logprobs(hidden_ND, head_VD, targets_N, count)
    credit_NJ = candidate_credit(logprobs_NJ, teacher_V[ids_NJ], torch.full((draws,), weight, dtype=torch.float64))
    credit_NJ[:, 0] = signal_N.masked_fill((ids_NJ[:, 1:] == ids_NJ[:, :1]).any(1), 0)
    found_ND, _ = at_ratio_1(hidden_ND, head_VD, ids_NJ, logprobs_NJ, credit_NJ)

    kl = torch.nn.functional.kl_div
    one_1D = hidden_ND[:1].detach().requires_grad_()
    divergence = kl(teacher_V, (one_1D @ head_VD.T).log_softmax(-1)[0], reduction="sum", log_target=True)
    (exact_1D,) = torch.autograd.grad(weight * divergence, one_1D)
    for drawn_ND in (sampled_ND, found_ND):
        error_D = drawn_ND.std(0) / draws**0.5
        assert ((drawn_ND.mean(0) - exact_1D[0]).abs() <= 4 * error_D + 1e-12).all()
    assert (found_ND.var(0) < sampled_ND.var(0)).all()
    if count == 11:  # nothing is left to chance
        assert found_ND.var(0).max() < 1e-20


class LargestTensor(TorchDispatchMode):
    """Sees every tensor that an operation makes."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def from_log_probabilities(hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor) -> Tensor:
    return -token_logprobs(hidden_ND, head_VD, targets_N, entropy=True, chunk=8)[0].sum()


def from_a_loss(hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor) -> Tensor:
    return token_loss(hidden_ND, head_VD, targets_N, lambda logprobs_N, _: -logprobs_N, entropy=True, chunk=8)[0]


def from_candidates(hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor) -> Tensor:
    ids_NJ, _ = top_logprobs(hidden_ND, head_VD, targets_N, 4, chunk=8)
    return token_loss(hidden_ND, head_VD, ids_NJ, lambda logprobs_NJ, _: -logprobs_NJ, entropy=True, chunk=8)[0]


@pytest.mark.parametrize("loss", [from_log_probabilities, from_a_loss, from_candidates])
def test_neither_forward_nor_backward_ever_holds_all_logits(loss: Callable[..., Tensor]) -> None:
    hidden_ND = torch.randn(64, 3, requires_grad=True)
    head_VD = torch.randn(50, 3, requires_grad=True)
    kept: list[int] = []
    keep = torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda x: x)
    with LargestTensor() as largest:
        with keep:
            total = loss(hidden_ND, head_VD, torch.zeros(64, dtype=torch.long))
        total.backward()
    assert largest.elements == 8 * 50
    assert max(kept, default=0) < 8 * 50  # not even a chunk's wait for the backward pass


def test_the_decay_after_an_error_is_nine_tenths_by_default() -> None:
    failed_BK = torch.tensor([[False, True, False, False]])
    torch.testing.assert_close(decayed_weights(failed_BK), torch.tensor([[1.0, 1.0, 0.9, 0.81]]))


# The package


def test_the_core_needs_torch_and_nothing_else() -> None:
    program = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in NAMES:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

NAMES = {"numpy", "pyarrow", "pydantic", "rich", "safetensors", "tokenizers", "transformers", "tyro"}
sys.meta_path.insert(0, Blocked())

from sod.core import step_divergence, step_ids, step_weights

print(*sorted(name for name in sys.modules if name.startswith("sod.") and not name.startswith(("sod.core", "sod.moved"))))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


@pytest.mark.parametrize("example", sorted(Path(__file__).parents[1].glob("examples/weights_*.py")), ids=str)
def test_an_example_of_the_core_runs(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(example))
    assert "erroneous" in capsys.readouterr().out
