"""The network that learns: batches, updates, learning rates, what it refuses, what it saves."""

import copy
import json
import math
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen3ForCausalLM,
)

from sod.batching import (
    CreditedBatch,
    collate,
    collate_demonstrations,
    demonstration_row,
    join,
    microbatches,
    minibatches,
    pad,
)
from sod.config import LearnOptions, ModelOptions
from sod.errors import InfrastructureError, ModelError, TrainingError
from sod.lab.models import Size, new_model, save_new_model
from sod.model.loading import check_embeddings, check_same_vocabulary, load_model, load_tokenizer
from sod.model.policy import Policy
from sod.model.scores import score, score_top
from sod.scoring import Scorer, check_groups
from sod.types import Group, Trajectory

MakeModel = Callable[..., Qwen3ForCausalLM]
MakeGroups = Callable[..., list[Group]]

EVERYTHING = 1 << 20
"""A micro-batch that holds the whole batch."""


def options(**fields: Any) -> LearnOptions:
    return LearnOptions.model_validate({"lr": 1e-3, "minibatches": 1, "weight_decay": 0.0} | fields)


def policy(model: PreTrainedModel, total_steps: int | None = None, **fields: Any) -> Policy:
    # The tokenizer is only saved, never asked; `test_what_is_saved...` has a real one.
    tokenizer: Any = None
    return Policy(model, tokenizer, options(**fields), total_steps=total_steps)


def with_credit(
    groups: list[Group], model: PreTrainedModel, *, temperature: float = 0.7, seed: int = 0
) -> CreditedBatch:
    """The groups with the model's own log-probabilities and a random credit for every sampled token."""
    scorer = Scorer(model, None, temperature=temperature, microbatch_tokens=EVERYTHING)
    batch = join([scorer.score_now(group) for group in groups])
    credit_BT = torch.randn(batch.ids_BT.shape, generator=torch.Generator().manual_seed(seed))
    return batch.credited(credit_BT.masked_fill(~batch.mask_BT, 0))


def with_candidates(groups: list[Group], model: PreTrainedModel, teacher: PreTrainedModel, count: int) -> CreditedBatch:
    """The same with what a teacher thinks of the `count` likeliest tokens, and a random weight of that at every token."""
    batch = with_credit(groups, model)
    ids_BTJ, student_BTJ = score_top(model, batch, 0.7, EVERYTHING, count)
    batch = replace(batch, candidates_BTJ=ids_BTJ[..., 1:], candidate_student_BTJ=student_BTJ[..., 1:])
    weight_BT = torch.rand(batch.ids_BT.shape, generator=torch.Generator().manual_seed(1))
    teacher_BTJ, _ = score(teacher, batch, 0.7, EVERYTHING)
    return replace(batch, candidate_teacher_BTJ=teacher_BTJ[..., 1:], teacher_weight_BT=weight_BT)


def demonstrations(groups: list[Group], max_tokens: int = 1000) -> tuple[Tensor, Tensor, Tensor]:
    """The groups' trajectories as conversations to imitate."""
    return collate_demonstrations([demonstration_row(t.pieces, max_tokens) for group in groups for t in group])


def learn(policy: Policy, batch: CreditedBatch, temperature: float = 0.7) -> dict[str, float]:
    return policy.learn(batch, temperature, torch.Generator().manual_seed(0))


def weights(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return all(torch.equal(ours[name], theirs[name]) for name in ours | theirs)


def by_hand(model: PreTrainedModel, trajectory: Trajectory, temperature: float) -> Tensor:
    """log pi of a trajectory's sampled tokens, in the plainest way."""
    logits_TV = model(torch.tensor([trajectory.ids])).logits[0]
    logprobs_TV = (logits_TV / temperature).log_softmax(-1)
    at = [i for i, mask in enumerate(trajectory.mask) if mask]
    return torch.stack([logprobs_TV[i - 1, trajectory.ids[i]] for i in at])


# Batches


def test_rows_are_padded_at_the_right_with_0() -> None:
    assert pad([[1, 2, 3], [], [4]], torch.long).tolist() == [[1, 2, 3], [0, 0, 0], [4, 0, 0]]
    assert pad([], torch.long).shape == (0, 0)


def test_a_batch_holds_every_trajectory_group_after_group(random_groups: MakeGroups) -> None:
    groups = random_groups(3, 4)
    groups[1].trajectories.pop()
    batch = collate(groups)
    assert batch.trajectories == [t for group in groups for t in group]
    assert batch.groups_B.tolist() == [0] * 4 + [1] * 3 + [2] * 4
    for row, t in enumerate(batch.trajectories):
        n = len(t.ids)
        assert batch.ids_BT[row].tolist() == t.ids + [0] * (batch.ids_BT.shape[1] - n)
        assert batch.mask_BT[row, :n].tolist() == t.mask
        assert not batch.mask_BT[row, n:].any()
        assert int(batch.steps_BT[row].max()) == len(t.turns)
        assert (int(batch.lengths_B[row]), batch.rewards_B[row].item()) == (n, t.reward)


def test_chosen_rows_keep_their_own_and_are_cut_to_the_longest(random_groups: MakeGroups) -> None:
    batch = collate(random_groups(3, 4))
    chosen = batch.rows(torch.tensor([7, 2]))
    assert chosen.trajectories == [batch.trajectories[7], batch.trajectories[2]]
    assert chosen.ids_BT.shape == (2, int(chosen.lengths_B.max()))
    assert [row[:n].tolist() for row, n in zip(chosen.ids_BT, chosen.lengths_B, strict=True)] == [
        t.ids for t in chosen.trajectories
    ]
    assert len(batch.rows(torch.tensor([], dtype=torch.long))) == 0


@pytest.mark.parametrize("seed", range(20))
def test_micro_batches_hold_every_row_once_within_their_tokens(seed: int) -> None:
    rng = random.Random(seed)
    lengths = torch.tensor([rng.randint(1, 50) for _ in range(rng.randint(1, 40))])
    limit = rng.randint(1, 200)
    parts = list(microbatches(lengths, limit))
    assert sorted(torch.cat(parts).tolist()) == list(range(len(lengths)))
    assert all(len(part) == 1 or int(lengths[part].sum()) <= limit for part in parts)
    assert len(parts) <= 1 + 2 * int(lengths.sum()) / limit  # no two of them would fit into one


@pytest.mark.parametrize("seed", range(20))
def test_micro_batches_keep_a_group_together_where_it_fits(seed: int) -> None:
    rng = random.Random(seed)
    groups = torch.tensor(sorted(rng.randrange(6) for _ in range(rng.randint(1, 40))))
    lengths = torch.tensor([rng.randint(1, 50) for _ in groups])
    limit = rng.randint(50, 300)
    parts = list(microbatches(lengths, limit, groups))
    assert sorted(torch.cat(parts).tolist()) == list(range(len(lengths)))
    assert all(int(lengths[part].sum()) <= limit for part in parts)
    for group in groups.unique():
        homes = [part for part in parts if (groups[part] == group).any()]
        size = int(lengths[groups == group].sum())
        assert len(homes) <= max(1, 2 * size / limit + 1)
        if size <= limit:
            assert len(homes) == 1
        assert all(
            "01" not in "".join(str(int(x)) for x in groups[part] == group).strip("0") for part in homes
        )  # adjacent


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_minibatches_keep_groups_together_and_hold_every_row_once(random_groups: MakeGroups, count: int) -> None:
    batch = collate(random_groups(5, 3))
    parts = list(minibatches(batch, count, lambda n: random.Random(count).sample(range(n), n)))
    assert len(parts) == min(count, 5)
    assert sorted((t.problem.id, t.sample) for part in parts for t in part.trajectories) == [
        (f"p{group}", sample) for group in range(5) for sample in range(3)
    ]
    homes = [set(part.groups_B.tolist()) for part in parts]
    assert sum(map(len, homes)) == 5
    sizes = [len(home) for home in homes]
    assert max(sizes) - min(sizes) <= 1


def test_minibatches_of_a_group_that_lost_attempts_still_hold_every_row(random_groups: MakeGroups) -> None:
    groups = random_groups(4, 3)
    groups[0].trajectories.clear()
    groups[2].trajectories.pop()
    parts = list(minibatches(collate(groups), 2, lambda n: list(range(n))))
    assert sum(map(len, parts)) == 8
    assert all(len(part) for part in parts)


def test_demonstrations_are_cut_at_the_right(random_groups: MakeGroups) -> None:
    groups = random_groups(1, 6)
    ids_BT, mask_BT, lengths_B = demonstrations(groups, max_tokens=12)
    assert ids_BT.shape == mask_BT.shape == (6, 12)
    for row, t in enumerate(groups[0]):
        n = min(12, len(t.ids))
        assert (lengths_B[row], ids_BT[row, :n].tolist(), mask_BT[row, :n].tolist()) == (n, t.ids[:n], t.mask[:n])
        assert not ids_BT[row, n:].any()
        assert not mask_BT[row, n:].any()


# Scores


def test_a_batchs_scores_are_each_trajectorys_own(random_model: MakeModel, random_groups: MakeGroups) -> None:
    model, batch = random_model(), collate(random_groups(3, 4))
    for tokens in (1, 60, EVERYTHING):
        logprobs_BT, entropy_BT = score(model, batch, 0.7, tokens, entropy=True)
        assert entropy_BT is not None
        assert not logprobs_BT[~batch.mask_BT].any()
        assert not entropy_BT[~batch.mask_BT].any()
        for row, t in enumerate(batch.trajectories):
            expected = by_hand(model, t, 0.7).detach()
            torch.testing.assert_close(logprobs_BT[row][batch.mask_BT[row]], expected, atol=1e-5, rtol=1e-5)


def test_more_attempts_lost_than_survived_are_too_many_to_go_on(random_groups: MakeGroups) -> None:
    (group,) = random_groups(1, 2)
    check_groups([replace(group, dropped=2)])
    with pytest.raises(
        InfrastructureError, match="Of 5 attempts, 3 were lost to infrastructure failures and 0 could not be graded"
    ):
        check_groups([replace(group, dropped=3)])


def test_scores_are_those_of_the_given_temperature(random_model: MakeModel, random_groups: MakeGroups) -> None:
    model, batch = random_model(), collate(random_groups(1, 2))
    cold, warm = (score(model, batch, temperature, EVERYTHING, entropy=True) for temperature in (0.7, 1.0))
    assert (cold[0] - warm[0]).abs().max() > 0.1
    assert (cold[1][batch.mask_BT] < warm[1][batch.mask_BT]).float().mean() > 0.9  # sharper


# One update


@pytest.mark.parametrize("tokens", [1, 40, 100])
def test_micro_batching_and_padding_do_not_change_the_update(
    random_model: MakeModel, random_groups: MakeGroups, tokens: int
) -> None:
    models = [random_model(dtype=torch.float64) for _ in range(2)]
    batch = with_credit(random_groups(4, 3), models[0])
    whole = learn(policy(models[0], microbatch_tokens=EVERYTHING, minibatches=2), batch)
    parts = learn(policy(models[1], microbatch_tokens=tokens, minibatches=2), batch)
    assert parts == pytest.approx(whole, abs=1e-9)
    for name, tensor in weights(models[0]).items():
        torch.testing.assert_close(weights(models[1])[name], tensor, atol=1e-6, rtol=0)


@pytest.mark.parametrize("keep_attention", [False, True])
def test_checkpointing_layers_does_not_change_the_update(
    random_model: MakeModel, random_groups: MakeGroups, keep_attention: bool
) -> None:
    models = [random_model() for _ in range(2)]
    batch = with_credit(random_groups(4, 3), models[0])
    reads = [0, 0]
    for i, model in enumerate(models):
        model.base_model.layers[0].mlp.register_forward_pre_hook(
            lambda module, args, i=i: reads.__setitem__(i, reads[i] + 1)
        )
    kept = learn(policy(models[0]), batch)
    again = learn(policy(models[1], checkpointing=True, keep_attention=keep_attention), batch)
    assert again == pytest.approx(kept, abs=1e-6)
    assert same(weights(models[0]), weights(models[1]))
    assert reads == [1, 2]
    assert not models[1].training


@pytest.mark.parametrize("kind", ["gpt2", "phi"])
def test_dropout_stays_off_while_layers_are_checkpointed(kind: str, random_groups: MakeGroups) -> None:
    """TRL #1066, OLMo-core #828. Both kinds have dropout in their published configurations."""
    config = CONFIG_MAPPING[kind](
        **{
            "vocab_size": 24,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
        },
        **({"resid_pdrop": 0.3} if kind == "phi" else {}),
    )
    torch.manual_seed(0)
    first = AutoModelForCausalLM.from_config(config, attn_implementation="sod").eval()
    rows = demonstrations(random_groups(2, 3))
    models = [first, copy.deepcopy(first)]
    reports = [
        policy(model, checkpointing=checkpointing).imitate(*rows)
        for model, checkpointing in zip(models, (False, True), strict=True)
    ]
    assert reports[0] == pytest.approx(reports[1], rel=1e-6)
    assert same(weights(models[0]), weights(models[1]))


def test_micro_batching_does_not_change_imitation(random_model: MakeModel, random_groups: MakeGroups) -> None:
    models = [random_model(dtype=torch.float64) for _ in range(2)]
    rows = demonstrations(random_groups(1, 9))
    for model, tokens in zip(models, (EVERYTHING, 40), strict=True):
        policy(model, microbatch_tokens=tokens).imitate(*rows)
    for name, tensor in weights(models[0]).items():
        torch.testing.assert_close(weights(models[1])[name], tensor, atol=1e-6, rtol=0)


def test_at_ratio_1_the_gradient_is_that_of_minus_the_mean_of_credit_times_log_pi(
    random_model: MakeModel, random_groups: MakeGroups
) -> None:
    model = random_model(dtype=torch.float64)
    batch = with_credit(random_groups(3, 3), model)
    expected = copy.deepcopy(model)
    terms = []
    for row, t in enumerate(batch.trajectories):
        assert batch.credit_BT is not None
        terms.append(batch.credit_BT[row][batch.mask_BT[row]] * by_hand(expected, t, 0.7))
    loss = -torch.cat(terms).mean()
    loss.backward()

    seen: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda p, name=name: seen.__setitem__(name, p.grad.clone()))
    report = learn(policy(model, clip_grad=1e9), batch)
    gradients = {name: parameter.grad for name, parameter in expected.named_parameters()}
    assert seen.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert gradient is not None
        torch.testing.assert_close(seen[name], gradient, atol=1e-6, rtol=1e-4)
    assert report["grad_norm"] == pytest.approx(
        math.sqrt(sum(float(g.square().sum()) for g in gradients.values() if g is not None)), rel=1e-4
    )


def test_the_loss_is_a_mean_over_tokens_not_over_trajectories(
    random_model: MakeModel, random_groups: MakeGroups
) -> None:
    model = random_model()
    batch = with_credit(random_groups(2, 3), model)
    assert batch.credit_BT is not None
    report = learn(policy(model, microbatch_tokens=40), batch)
    assert report["loss"] == pytest.approx(-batch.credit_BT[batch.mask_BT].mean().item(), abs=1e-5)
    assert report["ratio_clipped"] == 0


def test_a_ratio_beyond_the_clip_is_counted_and_gives_no_gradient(
    random_model: MakeModel, random_groups: MakeGroups
) -> None:
    model = random_model()
    batch = with_credit(random_groups(2, 3), model)
    assert batch.student_BT is not None
    before = weights(model)
    # Every ratio is e > 1.28, and every credit positive: there is nothing more to gain anywhere.
    eager = replace(batch, student_BT=batch.student_BT - 1, credit_BT=batch.mask_BT.float())
    report = learn(policy(model), eager)
    assert (report["ratio_clipped"], report["grad_norm"]) == (1, 0)
    assert same(before, weights(model))


def test_credit_makes_a_token_likelier_and_its_negative_less_likely(
    random_model: MakeModel, random_groups: MakeGroups
) -> None:
    for sign in (1, -1):
        model = random_model()
        batch = with_credit(random_groups(2, 3), model)
        before = score(model, batch, 0.7, EVERYTHING)[0].sum()
        learn(policy(model), replace(batch, credit_BT=sign * batch.mask_BT.float()))
        assert sign * (score(model, batch, 0.7, EVERYTHING)[0].sum() - before) > 0


def test_each_minibatch_is_one_optimiser_step(random_model: MakeModel, random_groups: MakeGroups) -> None:
    model = random_model()
    one = policy(model, minibatches=4)
    batch = with_credit(random_groups(6, 2), model)
    learn(one, batch)
    assert one.steps == 4
    learn(one, batch)
    assert one.steps == 8


def test_nothing_to_learn_from_is_an_error(random_model: MakeModel) -> None:
    with pytest.raises(TrainingError, match="no trajectory"):
        learn(policy(random_model()), collate([]))
    with pytest.raises(TrainingError, match="no token to train on"):
        policy(random_model()).imitate(torch.ones(1, 3, dtype=torch.long), torch.zeros(1, 3).bool(), torch.tensor([3]))


def test_imitation_lowers_the_loss(random_model: MakeModel, random_groups: MakeGroups) -> None:
    rows = demonstrations(random_groups(1, 8))
    learner = policy(random_model(), lr=1e-2)
    losses = [learner.imitate(*rows)["loss"] for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]


def test_imitation_takes_loss_on_the_mask_alone(random_model: MakeModel) -> None:
    model = random_model()
    ids, mask = torch.tensor([[2, 3, 4, 5, 6]]), torch.tensor([[False, False, True, False, True]])
    with torch.no_grad():
        logprobs = model(ids).logits[0].log_softmax(-1)
    expected = -(logprobs[1, 4] + logprobs[3, 6]) / 2
    assert policy(model).imitate(ids, mask, torch.tensor([5]))["loss"] == pytest.approx(expected.item(), abs=1e-5)


# Candidates


@pytest.mark.parametrize("count", [5, 24])
def test_with_candidates_the_gradient_is_that_of_credit_and_weighted_reverse_kl_at_the_sampled_tokens(
    random_model: MakeModel, random_groups: MakeGroups, count: int
) -> None:
    models = [random_model(dtype=torch.float64) for _ in range(2)]
    teacher = random_model(1, dtype=torch.float64).requires_grad_(False)
    parts = [with_candidates([group], models[0], teacher, count) for group in random_groups(3, 3)]
    batch = join(parts)  # of different widths
    assert batch.credit_BT is not None
    assert batch.teacher_weight_BT is not None
    terms = []
    for row, t in enumerate(batch.trajectories):
        mask_T = batch.mask_BT[row]
        at, ids = mask_T.nonzero()[:, 0] - 1, torch.tensor([t.ids])
        student_TV, teacher_TV = ((model(ids).logits[0, at] / 0.7).log_softmax(-1) for model in (models[1], teacher))
        kl_TV = student_TV.exp() * (student_TV - teacher_TV - 1)
        kl_T = kl_TV.gather(1, student_TV.topk(count).indices).sum(1)
        credit_T, weight_T = batch.credit_BT[row, mask_T], batch.teacher_weight_BT[row, mask_T]
        terms.append(weight_T * kl_T - credit_T * by_hand(models[1], t, 0.7))
    torch.cat(terms).mean().backward()

    seen: dict[str, Tensor] = {}
    for name, parameter in models[0].named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda p, name=name: seen.__setitem__(name, p.grad.clone()))
    learn(policy(models[0], clip_grad=1e9), batch)
    for name, parameter in models[1].named_parameters():
        torch.testing.assert_close(seen[name], parameter.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("tokens", [1, 40, 100])
def test_micro_batching_does_not_change_an_update_with_candidates(
    random_model: MakeModel, random_groups: MakeGroups, tokens: int
) -> None:
    models = [random_model(dtype=torch.float64) for _ in range(2)]
    batch = with_candidates(random_groups(4, 3), models[0], random_model(1), 6)
    whole = learn(policy(models[0], microbatch_tokens=EVERYTHING, minibatches=2), batch)
    parts = learn(policy(models[1], microbatch_tokens=tokens, minibatches=2), batch)
    assert parts == pytest.approx(whole, abs=1e-9)
    for name, tensor in weights(models[0]).items():
        torch.testing.assert_close(weights(models[1])[name], tensor, atol=1e-6, rtol=0)


def test_candidates_without_weight_leave_the_update_as_it_is_without_them(
    random_model: MakeModel, random_groups: MakeGroups
) -> None:
    models = [random_model() for _ in range(3)]
    batch = with_candidates(random_groups(4, 3), models[0], random_model(1), 24)
    for model, weight_BT in zip(models, (None, torch.zeros(batch.ids_BT.shape), batch.teacher_weight_BT), strict=True):
        learn(policy(model, minibatches=2), replace(batch, teacher_weight_BT=weight_BT))
    assert same(weights(models[0]), weights(models[1]))
    assert not same(weights(models[0]), weights(models[2]))


def test_chosen_rows_keep_their_candidates(random_model: MakeModel, random_groups: MakeGroups) -> None:
    batch = with_candidates(random_groups(3, 4), random_model(), random_model(1), 6)
    chosen = batch.rows(torch.tensor([7, 2]))
    width = int(chosen.lengths_B.max())
    for name in ("candidates_BTJ", "candidate_student_BTJ", "candidate_teacher_BTJ"):
        assert torch.equal(getattr(chosen, name), getattr(batch, name)[[7, 2], :width])


# The optimiser


def test_the_learning_rate_warms_up_and_follows_a_cosine_down_to_0(random_model: MakeModel) -> None:
    rate = policy(random_model(), total_steps=20, lr=1.0, warmup=4).learning_rate
    assert [rate(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert rate(4) == 1.0
    assert rate(12) == pytest.approx(0.5)
    assert rate(16) == pytest.approx(0.5 * (1 + math.cos(0.75 * math.pi)))
    assert rate(20) == pytest.approx(0)
    assert all(rate(step) > rate(step + 1) for step in range(4, 20))


def test_without_a_total_the_learning_rate_stays_constant_after_the_warm_up(random_model: MakeModel) -> None:
    rate = policy(random_model(), lr=0.5, warmup=2).learning_rate
    assert [rate(step) for step in (0, 1, 2, 3, 1000)] == [0.25, 0.5, 0.5, 0.5, 0.5]


def test_each_step_takes_its_own_learning_rate(random_model: MakeModel, random_groups: MakeGroups) -> None:
    rows = demonstrations(random_groups(1, 2))
    learner = policy(random_model(), total_steps=6, lr=1e-3, warmup=2)
    assert [learner.imitate(*rows)["lr"] for _ in range(6)] == [learner.learning_rate(step) for step in range(6)]


def test_a_gradient_is_scaled_down_to_clip_grad(random_model: MakeModel, random_groups: MakeGroups) -> None:
    rows = demonstrations(random_groups(1, 2))
    reports, moved = [], []
    for clip_grad in (1e9, 1e-10):
        model = random_model()
        before = weights(model)
        reports.append(policy(model, clip_grad=clip_grad).imitate(*rows))
        moved.append(max(float((weights(model)[name] - tensor).abs().max()) for name, tensor in before.items()))
    assert reports[0] == reports[1]  # the norm that is reported is the one before
    assert moved[0] == pytest.approx(1e-3, rel=0.01)  # AdamW's first step is the learning rate ...
    assert moved[1] < 0.02 * moved[0]  # ... unless the gradient is as small as its epsilon


def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted(
    random_model: MakeModel, random_groups: MakeGroups
) -> None:
    model = random_model()
    batch = with_credit(random_groups(2, 2), model)
    broken = replace(batch, credit_BT=torch.where(batch.mask_BT, math.inf, 0))
    learner, before = policy(model), weights(model)
    report = learn(learner, broken)
    assert report["skipped"] == 1
    assert not math.isfinite(report["grad_norm"])
    assert same(before, weights(model))
    assert learn(learner, batch)["skipped"] == 0
    assert not same(before, weights(model))
    assert all(tensor.isfinite().all() for tensor in weights(model).values())


def test_three_such_gradients_in_a_row_stop_the_run_and_fewer_do_not(
    random_model: MakeModel, random_groups: MakeGroups
) -> None:
    model = random_model()
    batch = with_credit(random_groups(2, 2), model)
    broken = replace(batch, credit_BT=torch.where(batch.mask_BT, math.nan, 0))
    learner = policy(model)
    for part in (broken, broken, batch, broken, broken):
        learn(learner, part)
    with pytest.raises(TrainingError, match="not finite 3 times in a row"):
        learn(learner, broken)


# Moments of 8 bits


@pytest.fixture
def wide(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> Path:
    """The folder of a model most of whose tensors have 4,096 weights or more: smaller ones keep moments of 32 bits."""
    pytest.importorskip("bitsandbytes", reason='needs bitsandbytes: pip install ".[lean]"')
    save_new_model(Size(width=128, layers=2, heads=4, kv_heads=2, feed_forward=320), tokenizer, 0, tmp_path / "wide")
    return tmp_path / "wide"


def test_moments_of_8_bits_learn_as_those_of_32_bits_do(wide: Path, random_groups: MakeGroups) -> None:
    network, rows = ModelOptions(device="cpu"), demonstrations(random_groups(1, 8))
    learners = [policy(load_model(wide, network), lr=1e-3, optimizer=name) for name in ("adamw", "adamw_8bit")]
    losses = [[learner.imitate(*rows)["loss"] for _ in range(40)] for learner in learners]
    assert losses[0][-1] < 0.5 * losses[0][0]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert losses[1] != losses[0]


@pytest.mark.parametrize(("dtype", "masters"), [("float32", 0), ("bfloat16", 4)])
def test_moments_of_8_bits_take_2_bytes_a_weight_and_are_restored_bit_for_bit(
    wide: Path,
    tokenizer: PreTrainedTokenizerBase,
    random_groups: MakeGroups,
    tmp_path: Path,
    dtype: Literal["float32", "bfloat16"],
    masters: int,
) -> None:
    rows, network = demonstrations(random_groups(1, 4)), ModelOptions(device="cpu", dtype=dtype)
    straight = Policy(load_model(wide, network), tokenizer, options(optimizer="adamw_8bit"))
    for _ in range(3):
        straight.imitate(*rows)
    straight.save(tmp_path)
    bytes_a_weight = (
        sum(file.stat().st_size for file in (tmp_path / "trainer").iterdir()) / straight.model.num_parameters()
    )
    assert bytes_a_weight < 3 + masters  # 8 + masters otherwise; the checkpoint names every tensor, and these are small
    resumed = Policy(load_model(tmp_path, network), tokenizer, options(optimizer="adamw_8bit"))
    resumed.restore(tmp_path)
    for _ in range(3):
        assert straight.imitate(*rows) == resumed.imitate(*rows)
    assert same(weights(straight.model), weights(resumed.model))


def test_a_group_that_was_lost_whole_changes_nothing_that_is_learnt(
    random_model: MakeModel, random_groups: MakeGroups
) -> None:
    groups = random_groups(2, 3)
    lost = Group(groups[0].problem, [], dropped=3)
    batch, whole = (with_credit(some, random_model()) for some in (groups, [groups[0], lost, groups[1]]))
    assert whole.lengths_B.dtype == batch.lengths_B.dtype
    reports = [policy(random_model()).learn(each, 0.7, torch.Generator()) for each in (batch, whole)]
    assert reports[0] == reports[1]


# Saving


def test_what_is_saved_loads_with_transformers_and_has_equal_weights(
    untrained: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    model = load_model(untrained, ModelOptions(device="cpu"))
    Policy(model, tokenizer, options()).save(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert same(weights(model), weights(again))
    assert load_tokenizer(tmp_path).get_vocab() == tokenizer.get_vocab()
    assert load_tokenizer(tmp_path).chat_template == tokenizer.chat_template


def test_bf16_weights_learn_at_learning_rates_that_one_step_would_round_away(
    untrained: Path, random_groups: MakeGroups
) -> None:
    model = load_model(untrained, ModelOptions(device="cpu", dtype="bfloat16"))
    before = weights(model)
    learner, rows = policy(model, lr=1e-6), demonstrations(random_groups(1, 4))
    learner.imitate(*rows)
    unmoved = weights(model)
    for _ in range(400):
        learner.imitate(*rows)
    moved = {name: (tensor != before[name]).float().mean().item() for name, tensor in weights(model).items()}
    early = {name: (tensor != before[name]).float().mean().item() for name, tensor in unmoved.items()}
    assert sum(early.values()) / len(early) < 0.02
    assert sum(moved.values()) / len(moved) > 0.2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_policy_restored_goes_on_bit_for_bit(
    untrained: Path,
    tokenizer: PreTrainedTokenizerBase,
    random_groups: MakeGroups,
    tmp_path: Path,
    dtype: Literal["float32", "bfloat16"],
) -> None:
    rows = demonstrations(random_groups(1, 4))
    network = ModelOptions(device="cpu", dtype=dtype)
    straight = Policy(load_model(untrained, network), tokenizer, options(warmup=9), total_steps=20)
    for _ in range(3):
        straight.imitate(*rows)
    straight.save(tmp_path)
    resumed = Policy(load_model(tmp_path, network), tokenizer, options(warmup=9), total_steps=20)
    resumed.restore(tmp_path)
    for _ in range(3):
        assert straight.imitate(*rows) == resumed.imitate(*rows)
    assert same(weights(straight.model), weights(resumed.model))


# What is refused


def test_a_model_with_fewer_embeddings_than_its_tokenizer_has_ids_is_refused(
    untrained: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    model = load_model(untrained, ModelOptions(device="cpu"))
    check_embeddings(model, tokenizer, untrained)
    model.resize_token_embeddings(len(tokenizer) - 1)
    with pytest.raises(ModelError, match=f"{len(tokenizer) - 1} embeddings, .* ids up to {len(tokenizer) - 1}"):
        check_embeddings(model, tokenizer, tmp_path)


def test_a_folder_without_a_model_or_a_tokenizer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        load_model(tmp_path, ModelOptions())
    with pytest.raises(ModelError, match=r"tokenizer_config\.json is missing"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("damage", ["cut short", "no weights", "broken config", "unknown type", "no such device"])
def test_a_damaged_model_is_an_error_that_names_its_folder(untrained: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(untrained, folder)
    file, config = folder / "model.safetensors", folder / "config.json"
    match damage:
        case "cut short":
            file.write_bytes(file.read_bytes()[:5000])
        case "no weights":
            file.unlink()
        case "broken config":
            config.write_text("{")
        case "unknown type":
            config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "no such type"}))
    device = "cuda:77" if damage == "no such device" else "cpu"
    with pytest.raises(ModelError) as caught:
        load_model(folder, ModelOptions(device=device))
    assert device in str(caught.value) or str(folder) in str(caught.value)


def test_a_damaged_tokenizer_is_an_error_that_names_its_folder(untrained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(untrained, folder)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match=str(folder)):
        load_tokenizer(folder)


def test_different_vocabularies_are_refused_with_an_example(tokenizer: PreTrainedTokenizerBase) -> None:
    check_same_vocabulary(tokenizer, copy.deepcopy(tokenizer))
    other = copy.deepcopy(tokenizer)
    other.add_tokens(["<extra>"])
    with pytest.raises(ModelError, match=r"different vocabularies .* differ at '<extra>', id \d+"):
        check_same_vocabulary(tokenizer, other)


def test_a_new_model_is_a_function_of_its_seed_and_leaves_torchs_own_alone(tokenizer: PreTrainedTokenizerBase) -> None:
    size = Size(width=16, layers=1, heads=2, kv_heads=1, feed_forward=32, head_dim=8)
    before = torch.random.get_rng_state()
    first, again, other = (new_model(size, tokenizer, seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert same(weights(first), weights(again))
    assert not same(weights(first), weights(other))
