"""The policy losses: the numbers of verl and TRL, gradients against plain formulas, and updates of a real network."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peer_losses import AGGREGATIONS, CLIPS, Case, drawn, gradient, name_of, our_advantage, ours, read
from test_policy import EVERYTHING, by_hand, learn, options, same, weights, with_candidates, with_credit
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Qwen3ForCausalLM

from sod.batching import Batch, CreditedBatch, ScoredBatch, join, microbatches, minibatches
from sod.config import AlgorithmOptions, LearnOptions, TrainOptions
from sod.core import (
    Head,
    centred_advantage,
    clipped_policy_loss,
    group_advantage,
    leave_one_out_advantage,
    loss_divisor,
    sequence_log_ratio,
    token_logprobs,
    token_loss,
    verdict_advantage,
)
from sod.credit.algorithms import ALGORITHMS, OUTCOMES
from sod.lab import settings
from sod.model.loading import load_model
from sod.model.lora import without_adapters
from sod.model.policy import Policy
from sod.model.scores import score, selected
from sod.planning.dry_run import plan
from sod.runs.directory import Run
from sod.scoring import Scorer
from sod.teachers.local import LocalTeacher
from sod.teachers.privileged import PrivilegedTeacher
from sod.teachers.reference import FrozenBase, open_reference
from sod.training.on_policy import train
from sod.types import Group

MakeModel = Callable[..., Qwen3ForCausalLM]
MakeGroups = Callable[..., list[Group]]

MAX_TOKENS = 50
FORMS = [{"loss": form, "clip_low": clip["clip_low"], "clip_high": clip["clip_high"]} for form, clip in CLIPS.items()]
UPDATES: list[dict[str, Any]] = [
    *(form | {"aggregation": aggregation} for form in FORMS for aggregation in AGGREGATIONS),
    {"kl": 0.3},
    {"entropy": 0.2},
    *(form | {"aggregation": "sequence_mean", "kl": 0.3, "entropy": 0.2} for form in FORMS),
]


def policy(model: PreTrainedModel, **fields: Any) -> Policy:
    tokenizer: Any = None
    return Policy(model, tokenizer, options(**fields))


def shifted(batch: CreditedBatch) -> CreditedBatch:
    """The batch with other log-probabilities before the update and of the start, so that ratios differ from 1."""
    generator = torch.Generator().manual_seed(7)

    def near(scale: float) -> Tensor:
        noise_BT = scale * torch.randn(batch.student_BT.shape, generator=generator, dtype=batch.student_BT.dtype)
        return (batch.student_BT + noise_BT).masked_fill(~batch.mask_BT, 0)

    return replace(batch, student_BT=near(0.2), reference_BT=near(0.5))


def update(model: PreTrainedModel, batch: CreditedBatch, **fields: Any) -> dict[str, float]:
    """One update, with `learn.*` as given."""
    generator = torch.Generator().manual_seed(0)
    return policy(model, clip_grad=1e9, **fields).learn(batch, 0.7, generator, max_tokens=MAX_TOKENS)


# The numbers of other projects


@pytest.mark.parametrize("file", ["losses_verl.json", "losses_trl.json"])
def test_losses_and_gradients_are_the_stored_numbers_of_verl_and_trl(file: str) -> None:
    tensors, golden = read(file)
    losses = {name: numbers for name, numbers in golden.items() if name.startswith("form=")}
    assert len(losses) >= 20
    for name, numbers in losses.items():
        fields = dict(word.split("=") for word in name.split())
        case: Case = {
            "form": fields["form"],
            "aggregation": fields["aggregation"],
            "per_token": fields["per_token"] == "True",
            **{key: float(fields[key]) for key in ("kl", "clip_low", "clip_high")},
        }
        assert name_of(case) == name
        loss, of_BT = ours(tensors, case)
        assert [float(loss), *of_BT[tensors["mask_BT"]].tolist()] == pytest.approx(numbers, abs=1e-8), name
        assert not of_BT[~tensors["mask_BT"]].any()


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo"])
def test_advantages_are_the_stored_numbers_of_verl(name: str) -> None:
    tensors, golden = read("losses_verl.json")
    assert our_advantage(tensors, name).tolist() == pytest.approx(golden[f"advantage={name}"], abs=1e-6)


# Advantages


def test_the_advantages_of_a_group_by_hand() -> None:
    rewards_B, groups_B = torch.tensor([1.0, -1.0, -0.6, -1.0, 1.0, 0.5]), torch.tensor([0, 0, 0, 0, 4, 4])
    mean, other = -0.4, 0.75
    expected_B = torch.tensor([1 - mean, -1 - mean, -0.6 - mean, -1 - mean, 1 - other, 0.5 - other])
    torch.testing.assert_close(centred_advantage(rewards_B, groups_B), expected_B)
    sizes_B = torch.tensor([4, 4, 4, 4, 2, 2])
    torch.testing.assert_close(leave_one_out_advantage(rewards_B, groups_B), expected_B * sizes_B / (sizes_B - 1))
    deviation = torch.tensor([1.0, -1.0, -1.0, -1.0]).std()
    right_B = torch.tensor([True, False, False, False, True, True])
    found_B = verdict_advantage(rewards_B, right_B, groups_B)
    torch.testing.assert_close(found_B[:4], expected_B[:4] / (deviation + 1e-6))
    torch.testing.assert_close(found_B[4:], expected_B[4:])  # both are right: no division


def test_corrections_in_a_group_without_a_right_answer_are_not_enlarged_by_the_deviation_of_verdicts() -> None:
    rewards_B = torch.tensor([-1.0, -1.0, -0.9, -0.9, -0.8, -0.8, -0.7, -1.0])
    groups_B, wrong_B = torch.zeros(8, dtype=torch.long), torch.zeros(8).bool()
    assert group_advantage(rewards_B, groups_B).abs().max() > 1.5
    assert verdict_advantage(rewards_B, wrong_B, groups_B).abs().max() < 0.2


def test_with_rewards_of_the_verdicts_alone_the_advantages_are_grpos() -> None:
    right_B, groups_B = torch.rand(40, generator=torch.Generator().manual_seed(0)) < 0.4, torch.arange(40) // 5
    rewards_B = 2 * right_B.double() - 1
    assert verdict_advantage(rewards_B, right_B, groups_B).equal(group_advantage(rewards_B, groups_B))


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo", "verdict"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_group_of_one_has_no_advantage_and_types_are_at_least_float32(name: str, dtype: torch.dtype) -> None:
    tensors = {"rewards_B": torch.tensor([0.3, 1.0, -1.0], dtype=dtype), "groups_B": torch.tensor([0, 1, 1])}
    advantages_B = our_advantage(tensors, name)
    assert advantages_B[0] == 0
    assert advantages_B[1] == -advantages_B[2] > 0
    assert advantages_B.dtype == torch.promote_types(dtype, torch.float32)


def scored(groups: list[Group], model: PreTrainedModel) -> ScoredBatch:
    scorer = Scorer(model, None, temperature=0.7, microbatch_tokens=EVERYTHING)
    batch = join([scorer.score_now(group) for group in groups])
    batch = replace(batch, rewards_B=batch.rewards_B - 0.01 * batch.lengths_B)  # a correction for length
    return replace(batch, reference_BT=batch.student_BT - 0.1 * batch.mask_BT, teacher_BT=batch.student_BT + 0.2)


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo", "verdict"])
def test_a_reward_less_the_divergence_is_compared_in_its_group(
    random_model: MakeModel, random_groups: MakeGroups, name: str, outcome: str
) -> None:
    batch = scored(random_groups(4, 5), random_model())
    right_B, rewards_B, tokens_B = batch.right_B, batch.rewards_B, batch.mask_BT.sum(1)
    free_B, held_B = (
        OUTCOMES[outcome](batch, AlgorithmOptions(advantage=name, kl_in_reward=coefficient))  # type: ignore[arg-type]
        for coefficient in (0.0, 0.5)
    )
    assert not torch.allclose(free_B, held_B)
    if outcome == "shuffled":  # rewards and verdicts move together; each trajectory keeps its own divergence
        order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(int(batch.ids_BT.sum())))
        right_B, rewards_B = right_B[order], rewards_B[order]
    given = {"rewards_B": rewards_B - 0.5 * 0.1 * tokens_B, "groups_B": batch.groups_B}
    if name == "verdict":
        expected_B = verdict_advantage(given["rewards_B"], right_B, given["groups_B"])
    else:
        expected_B = our_advantage(given, name)
    torch.testing.assert_close(held_B, expected_B, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["dr_grpo", "rloo", "verdict"])
@pytest.mark.parametrize("system", [name for name, each in ALGORITHMS.items() if each.outcome is not None])
def test_every_system_with_a_reward_learns_from_the_chosen_advantage(
    random_model: MakeModel, random_groups: MakeGroups, system: str, name: str
) -> None:
    batch = scored(random_groups(3, 4), random_model())
    entropy_BT, rates_B = torch.ones(batch.mask_BT.shape), torch.full((len(batch),), 0.5)
    known = {"teacher_entropy_BT": entropy_BT, "student_entropy_BT": entropy_BT, "progress": 1.0}
    batch = replace(batch, **known, student_rates_B=rates_B, teacher_rates_B=rates_B / 2)
    usual, other = AlgorithmOptions(coef=0), AlgorithmOptions(coef=0, advantage=name)  # type: ignore[arg-type]
    assert not ALGORITHMS[system](batch, usual).equal(ALGORITHMS[system](batch, other))
    assert ALGORITHMS[system](batch, AlgorithmOptions(advantage=name)).isfinite().all()  # type: ignore[arg-type]


# Gradients


@pytest.mark.parametrize("seed", range(20))
def test_the_gradient_of_loss_and_entropy_is_autograds(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    tokens, size, vocabulary, several = 11, 5, 13, seed % 3
    hidden_ND, weight_VD, bias_V = normal(tokens, size), normal(vocabulary, size), normal(vocabulary)
    scale, cap, temperature = (1.0, 0.7)[seed % 2], (None, 2.0)[seed // 2 % 2], (1.0, 0.6)[seed // 4 % 2]
    shape = (tokens, 1 + several) if several else (tokens,)
    targets_N = torch.randint(vocabulary, shape, generator=generator)
    entropies_N, credit_N = normal(tokens), normal(*shape)
    inputs = [tensor.requires_grad_() for tensor in (hidden_ND, weight_VD, bias_V)]

    logits_NV = scale * (hidden_ND @ weight_VD.T + bias_V)
    logits_NV = (logits_NV if cap is None else cap * torch.tanh(logits_NV / cap)) / temperature
    logprobs_NV = logits_NV.log_softmax(-1)
    entropy_N = -(logprobs_NV.exp() * logprobs_NV).sum(-1)
    picked_N = logprobs_NV.gather(1, targets_N.view(tokens, -1)).view(shape)
    expected = (picked_N.square() * credit_N).sum() + (entropies_N * entropy_N).sum()

    found, logprobs_N, reported_N = token_loss(
        hidden_ND,
        Head(weight_VD, bias_V, scale, cap),
        targets_N,
        lambda logprobs, where: logprobs.square() * credit_N[where],
        temperature=temperature,
        entropy_weights_N=entropies_N,
        chunk=(3, 4, 100)[seed % 3],
    )
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(logprobs_N, picked_N)
    torch.testing.assert_close(reported_N, entropy_N)
    of_found, of_expected = (torch.autograd.grad(2 * loss, inputs) for loss in (found, expected))
    for each, autograds in zip(of_found, of_expected, strict=True):
        torch.testing.assert_close(each, autograds)


def test_entropies_without_weight_change_no_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden_ND, weight_VD = (torch.randn(20, 8, generator=generator).requires_grad_() for _ in range(2))
    targets_N = torch.randint(20, (20,), generator=generator)
    loss, _, _ = token_loss(hidden_ND, weight_VD, targets_N, lambda logprobs, _: -logprobs, entropy=True)
    weighted, _, _ = token_loss(
        hidden_ND, weight_VD, targets_N, lambda logprobs, _: -logprobs, entropy_weights_N=torch.zeros(20)
    )
    assert loss.equal(weighted)


def test_if_a_sequences_tokens_share_a_credit_gspo_has_the_gradient_of_its_sequence_objective() -> None:
    tensors = drawn(3)
    case: Case = {"form": "gspo", "aggregation": "sequence_mean", "per_token": False, "kl": 0.0} | CLIPS["gspo"]
    leaf_BT, mask_BT = tensors["logprobs_BT"].clone().requires_grad_(), tensors["mask_BT"]
    log_ratio_BT = (leaf_BT - tensors["old_BT"]).masked_fill(~mask_BT, 0)
    ratio_B, credit_B = (log_ratio_BT.sum(1) / mask_BT.sum(1)).exp(), tensors["advantages_B"]
    clipped_B = ratio_B.clamp(1 - case["clip_low"], 1 + case["clip_high"])
    loss = -torch.minimum(ratio_B * credit_B, clipped_B * credit_B).mean()  # Eq. 5
    for found, expected in zip(ours(tensors, case), gradient(loss, leaf_BT), strict=True):
        torch.testing.assert_close(found, expected)


def test_ratios_of_sequences_are_float32_for_narrower_inputs_and_empty_for_none() -> None:
    rows_N = torch.tensor([0, 0, 2])
    half = torch.tensor([-1.0, -2.0, -3.0], dtype=torch.bfloat16)
    found_N = sequence_log_ratio(half, half - 1, rows_N)
    assert found_N.dtype == torch.float32
    assert found_N.tolist() == [1.0, 1.0, 1.0]
    assert sequence_log_ratio(torch.zeros(0), torch.zeros(0), torch.zeros(0, dtype=torch.long)).shape == (0,)


def test_divisors_are_of_the_sequences_that_have_tokens() -> None:
    tokens_B = torch.tensor([3, 0, 5])
    assert loss_divisor(tokens_B, "token_mean") == 8
    assert loss_divisor(tokens_B, "constant", 100) == 200
    divisor_B = loss_divisor(tokens_B, "sequence_mean")
    assert isinstance(divisor_B, Tensor)
    assert divisor_B.tolist() == [6, 0, 10]


# Updates


def plain_loss(model: PreTrainedModel, batch: CreditedBatch, learn: LearnOptions) -> Tensor:
    """The loss of a batch, from whole logits, in the plainest way."""
    terms, counts = [], []
    for row, t in enumerate(batch.trajectories):
        mask_T = batch.mask_BT[row]
        logits_TV = model(torch.tensor([t.ids])).logits[0, mask_T[: len(t.ids)].nonzero()[:, 0] - 1] / 0.7
        now_T = by_hand(model, t, 0.7)
        old_T, credit_T, start_T = (x[row, mask_T] for x in (batch.student_BT, batch.credit_BT, batch.reference_BT))  # type: ignore[index]
        log_ratio_T = now_T - old_T
        if learn.loss == "gspo":
            log_ratio_T = log_ratio_T.mean().detach() + now_T - now_T.detach()
        ratio_T = log_ratio_T.exp()
        clipped_T = ratio_T.clamp(1 - learn.clip_low, 1 + learn.clip_high)
        loss_T = -torch.minimum(ratio_T * credit_T, clipped_T * credit_T)
        if learn.loss == "cispo":
            loss_T = -clipped_T.detach() * credit_T * now_T
        k3_T = (start_T - now_T).exp() - (start_T - now_T) - 1
        entropy_T = torch.distributions.Categorical(logits=logits_TV).entropy()
        terms.append(loss_T + learn.kl * k3_T - learn.entropy * entropy_T)
        counts.append(len(now_T))
    if learn.aggregation == "token_mean":
        return torch.cat(terms).mean()
    if learn.aggregation == "sequence_mean":
        return torch.stack([term.mean() for term in terms]).mean()
    return torch.cat(terms).sum() / (len(terms) * MAX_TOKENS)


@contextmanager
def gradients(model: PreTrainedModel) -> Iterator[dict[str, Tensor]]:
    """The gradients that the model's parameters get."""
    seen: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda p, name=name: seen.__setitem__(name, p.grad.clone()))
    yield seen


@pytest.mark.parametrize("fields", UPDATES, ids=lambda fields: " ".join(f"{k}={v}" for k, v in fields.items()))
def test_the_gradient_of_an_update_is_that_of_the_plain_formula(
    random_model: MakeModel, random_groups: MakeGroups, fields: dict[str, Any]
) -> None:
    model = random_model(dtype=torch.float64)
    batch, plain = shifted(with_credit(random_groups(3, 3), model)), copy.deepcopy(model)
    expected = plain_loss(plain, batch, options(**fields))
    expected.backward()
    before = weights(model)
    with gradients(model) as seen:
        report = update(model, batch, **fields)
    assert report["loss"] == pytest.approx(expected.item(), abs=1e-6)
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(seen[name], parameter.grad, atol=1e-6, rtol=1e-4)
    assert not same(before, weights(model))
    assert report["kl"] > 0
    assert 0 < report["ratio_clipped"] < 1


@pytest.mark.parametrize("candidates", [0, 6])
@pytest.mark.parametrize("fields", UPDATES, ids=lambda fields: " ".join(f"{k}={v}" for k, v in fields.items()))
def test_micro_batches_do_not_change_an_update_of_any_loss(
    random_model: MakeModel, random_groups: MakeGroups, fields: dict[str, Any], candidates: int
) -> None:
    models = [random_model(dtype=torch.float64) for _ in range(3)]
    groups = random_groups(4, 3)
    batch = (
        with_candidates(groups, models[0], random_model(1), candidates)
        if candidates
        else with_credit(groups, models[0])
    )
    batch = shifted(batch)
    whole, *parts = (
        update(model, batch, microbatch_tokens=tokens, minibatches=2, **fields)
        for model, tokens in zip(models, (EVERYTHING, 1, 60), strict=True)
    )
    for model, report in zip(models[1:], parts, strict=True):
        assert report == pytest.approx(whole, abs=1e-9)
        for name, tensor in weights(models[0]).items():
            torch.testing.assert_close(weights(model)[name], tensor, atol=1e-6, rtol=0)


def papers_update(model: PreTrainedModel, batch: CreditedBatch, learn: LearnOptions) -> list[dict[str, float]]:
    """An update by the paper's loss alone, written out: mean over tokens, clipped ratio of a token, nothing else."""
    learner, reports = policy(model, **learn.model_dump()), []
    shuffle = torch.Generator().manual_seed(0)
    for part in minibatches(batch, learn.minibatches, lambda n: torch.randperm(n, generator=shuffle).tolist()):
        tokens, total = int(part.mask_BT.sum()), 0.0
        for rows in microbatches(part.lengths_B, learn.microbatch_tokens, part.groups_B):
            few = part.rows(rows)
            old_M, credit_M = few.student_BT[few.mask_BT], few.credit_BT[few.mask_BT]
            chosen = selected(model, few.ids_BT, few.mask_BT, few.lengths_B)
            loss, _, _ = token_loss(
                chosen.hidden_MD,
                chosen.head,
                chosen.targets_M,
                lambda logprobs, where, old=old_M, credit=credit_M, tokens=tokens: (
                    clipped_policy_loss(logprobs, old[where], credit[where]) / tokens
                ),
                temperature=0.7,
                entropy=True,
            )
            loss.backward()
            total += loss.item()
        reports.append({"loss": total} | learner._step())
    return reports


@pytest.mark.parametrize("tokens", [80, EVERYTHING])
def test_with_default_options_an_update_is_the_papers_bit_for_bit(
    random_model: MakeModel, random_groups: MakeGroups, tokens: int
) -> None:
    models = [random_model() for _ in range(2)]
    batch = shifted(with_credit(random_groups(5, 4), models[0]))
    fields = {"microbatch_tokens": tokens, "minibatches": 2}
    expected = papers_update(models[0], batch, options(**fields))
    report = learn(policy(models[1], **fields), replace(batch, reference_BT=None))
    assert same(weights(models[0]), weights(models[1]))
    for name in ("loss", "grad_norm"):
        assert report[name] == sum(each[name] for each in expected) / 2
    assert "kl" not in report


def test_a_constant_gives_every_token_the_weight_of_a_whole_response(
    random_model: MakeModel, random_groups: MakeGroups
) -> None:
    model = random_model()
    batch = with_credit(random_groups(2, 3), model)
    report = update(model, batch, aggregation="constant")
    assert report["loss"] == pytest.approx(-float(batch.credit_BT.sum()) / (6 * MAX_TOKENS), abs=1e-5)


def test_an_entropy_bonus_raises_the_entropy_and_the_divergences_loss_brings_the_policy_back(
    random_model: MakeModel, random_groups: MakeGroups
) -> None:
    model, batch = random_model(), with_credit(random_groups(2, 4), random_model())
    silent = replace(batch, credit_BT=torch.zeros(batch.mask_BT.shape))
    first = update(model, silent, entropy=1.0)["entropy"]
    assert update(model, silent, entropy=1.0)["entropy"] > first
    start = replace(silent, reference_BT=batch.student_BT)  # the policy is now away from it
    away = update(model, start, kl=1.0)["kl"]
    assert 0 < update(model, start, kl=1.0)["kl"] < away


# The initial weights


def trained(folder: Path, **changes: Any) -> TrainOptions:
    files = {"student": folder, "data": Path("d"), "out": Path("o"), "network": {"device": "cpu"}}
    rollout = {"temperature": 0.7, "max_prompt_tokens": 50, "max_tokens": 100}
    return TrainOptions.model_validate(
        files | {"algorithm": {"name": "grpo"}, "rollout": rollout, "learn": {"kl": 0.1, "lr": 1e-2}} | changes
    )


def learner(options: TrainOptions, tokenizer: PreTrainedTokenizerBase) -> Policy:
    return Policy(load_model(options.student, options.network), tokenizer, options.learn)


def seen_by(model: PreTrainedModel, batch: Batch) -> Tensor:
    return score(model, batch, 0.7, 16_384)[0]


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("where", ["learn", "algorithm"])
def test_the_reference_is_the_initial_weights_however_far_the_policy_has_moved(
    untrained: Path, tokenizer: PreTrainedTokenizerBase, random_groups: MakeGroups, rank: int, where: str
) -> None:
    if rank:
        pytest.importorskip("peft", reason='needs PEFT: pip install ".[lean]"')
    changes: dict[str, Any] = {"learn": {"kl": 0.1, "lr": 1e-2, "lora_rank": rank}}
    if where == "algorithm":
        changes = {
            "learn": {"lr": 1e-2, "lora_rank": rank},
            "algorithm": {"name": "grpo", "kl_in_reward": 0.1},
        }
    options = trained(untrained, **changes)
    one = learner(options, tokenizer)
    reference = open_reference(options, untrained, one, None)
    assert isinstance(reference, FrozenBase if rank else LocalTeacher)
    scorer = Scorer(one.model, None, temperature=0.7, microbatch_tokens=16_384, reference=reference)
    (group,) = random_groups(1, 4)
    batch = scorer.score_now(group)
    assert batch.reference_BT is not None
    assert batch.reference_BT.equal(batch.student_BT)  # nothing has been learnt yet
    credited = batch.credited(batch.mask_BT * 1.0)
    assert learn(one, credited)["kl"] == pytest.approx(0, abs=1e-3)
    again = scorer.score_now(group)
    assert again.reference_BT is not None
    assert again.reference_BT.equal(batch.reference_BT)
    assert not again.student_BT.equal(batch.student_BT)


def test_adapters_are_switched_off_only_within_the_context(
    untrained: Path, tokenizer: PreTrainedTokenizerBase, random_groups: MakeGroups
) -> None:
    pytest.importorskip("peft", reason='needs PEFT: pip install ".[lean]"')
    one = learner(trained(untrained, learn={"kl": 0.1, "lr": 1e-2, "lora_rank": 2}), tokenizer)
    batch = with_credit(random_groups(1, 4), one.model)
    start_BT = seen_by(one.model, batch)
    learn(one, replace(batch, reference_BT=batch.student_BT))
    moved_BT, learning = seen_by(one.model, batch), [p.requires_grad for p in one.model.parameters()]
    assert not moved_BT.equal(start_BT)
    with without_adapters(one.model):
        assert seen_by(one.model, batch).equal(start_BT)
    with pytest.raises(ZeroDivisionError), without_adapters(one.model):
        _ = 1 / 0
    assert seen_by(one.model, batch).equal(moved_BT)
    assert [p.requires_grad for p in one.model.parameters()] == learning


@pytest.mark.parametrize(
    ("changes", "shared"),
    [({}, True), ({"opsd": {"decay": 0.9}}, False), ({"score": {"teacher_dtype": "bfloat16"}}, False)],
)
def test_a_privileged_teacher_that_has_the_initial_weights_is_the_reference(
    untrained: Path, tokenizer: PreTrainedTokenizerBase, chat: Any, changes: dict[str, Any], shared: bool
) -> None:
    from sod.teachers import TeacherSetup

    options = trained(untrained, algorithm={"name": "opsd_gt"}, **changes)
    setup = TeacherSetup(
        folder=untrained,
        tokenizer=tokenizer,
        network=options.network,
        score=options.score,
        rollout=options.rollout,
        microbatch_tokens=16_384,
    )
    teacher = PrivilegedTeacher(setup, chat, (), context="gt", decay=options.opsd.decay)
    reference = open_reference(options, untrained, learner(options, tokenizer), teacher)
    assert (reference is teacher) == shared
    assert isinstance(reference, LocalTeacher)
    assert next(reference._model.parameters()).dtype == torch.float32


def test_without_an_option_for_it_no_reference_is_loaded(untrained: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    options = trained(untrained, learn={"entropy": 0.1})
    assert open_reference(options, untrained, learner(options, tokenizer), None) is None


def test_a_dry_run_names_the_initial_weights_and_counts_them(untrained: Path, problem_file: Path) -> None:
    text = plan(trained(untrained, data=problem_file), width=10_000)
    assert "start    the initial student" in text
    assert "initial weights, float32" in text
    assert "initial" not in plan(trained(untrained, data=problem_file, learn={}), width=10_000)


def test_log_probabilities_with_and_without_a_gradient_are_the_same() -> None:
    """GSPO reads the ratio of a sequence from the first, and takes its loss on the second."""
    generator = torch.Generator().manual_seed(0)
    hidden_ND, weight_VD = (torch.randn(20, 8, generator=generator) for _ in range(2))
    targets_N = torch.randint(20, (20,), generator=generator)
    first, _ = token_logprobs(hidden_ND, weight_VD, targets_N, temperature=0.7)
    _, second, _ = token_loss(hidden_ND, weight_VD, targets_N, lambda logprobs, _: -logprobs, temperature=0.7)
    torch.testing.assert_close(first, second, atol=1e-6, rtol=0)


# Whole runs


RUNS: list[dict[str, Any]] = [
    {"learn": {"loss": "gspo", "clip_low": 3e-4, "clip_high": 4e-4, "aggregation": "sequence_mean"}},
    {"learn": {"loss": "cispo", "clip_low": 1.0, "clip_high": 4.0}, "algorithm": {"divergence": "exact"}},
    {"learn": {"aggregation": "constant", "entropy": 0.01}, "algorithm": {"advantage": "dr_grpo"}},
    {"learn": {"kl": 0.05}, "algorithm": {"advantage": "rloo", "kl_in_reward": 0.05, "divergence": "exact"}},
    {
        "learn": {"kl": 0.05, "aggregation": "sequence_mean"},
        "algorithm": {"name": "sham", "advantage": "verdict"},
        "teacher": None,
    },
]


RunWith = Callable[..., Run]


@pytest.fixture
def run_with(trembling: Callable[[Path, float], None], teacher: Path, problem_file: Path, tmp_path: Path) -> RunWith:
    """Train a student that errs, with changes of options."""
    trembling(tmp_path / "student", 0.1)
    recipe: dict[str, Any] = {
        "student": tmp_path / "student",
        "teacher": teacher,
        "data": problem_file,
        "rollout": settings.ROLLOUT | {"problems": 2, "group": 3, "max_tokens": 100},
        "reward": {"tool_use": "ran", "overlong": 0.3},
        "tool": settings.TOOL,
        "network": {"device": "cpu"},
        "save_every": 1,
    }
    learn = {"lr": 1e-3, "minibatches": 2, "microbatch_tokens": 300}

    def run(out: str, changes: dict[str, Any], **fields: Any) -> Run:
        merged = recipe | changes | {"learn": learn | changes["learn"], "out": tmp_path / out} | fields
        return train(TrainOptions.model_validate(merged))

    return run


@pytest.mark.parametrize("changes", RUNS, ids=str)
def test_a_run_trains_with_each_loss(run_with: RunWith, changes: dict[str, Any]) -> None:
    (report,) = run_with("run", changes, updates=1).metrics()
    assert report["learn/grad_norm"] > 0
    assert report["learn/skipped"] == 0
    assert ("learn/kl" in report) == ("kl" in changes["learn"])


def test_a_run_that_goes_on_measures_the_divergence_from_the_same_start(run_with: RunWith) -> None:
    changes = {"learn": {"kl": 0.05}, "algorithm": {"name": "grpo", "kl_in_reward": 0.05}, "teacher": None}
    straight = run_with("straight", changes, updates=2).metrics()
    run_with("stopped", changes, updates=1)
    resumed = run_with("stopped", changes, updates=2, resume=True).metrics()
    learnt, again = (
        {name: value for name, value in each[1].items() if name.startswith("learn/")} for each in (straight, resumed)
    )
    assert learnt == again
    assert all(report["learn/kl"] > 0 for report in straight)
