"""Batch to credit, on batches made by hand."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sod.batching import Batch, ScoredBatch, collate
from sod.config import AlgorithmOptions
from sod.core import INPUTS, group_advantage
from sod.credit.algorithms import ALGORITHMS, System, find, give_credit, inputs_of, inputs_read
from sod.credit.systems import SYSTEMS
from sod.errors import OptionError
from sod.types import Group, Outcome, Piece, Problem, Trajectory, Verdict

OPTIONS = AlgorithmOptions()
grpo, opd, opd_without_grpo, sham, sod = (
    ALGORITHMS[name] for name in ("grpo", "opd", "opd_without_grpo", "sham", "sod")
)
WITHOUT_TEACHER = {
    name for name, system in ALGORITHMS.items() if system.rule is None and not (system.whole and system.reads_signal)
}
WEIGHTED = [name for name, system in ALGORITHMS.items() if system.rule is not None]
SEES_THE_BATCH = {"sham", "drift_from_median", "gats", "tide", "random_weights", "random_mask", "random_steps"}
"""Whose credit of a group depends on the others."""
PROBLEMS = [Problem(id=f"p{i}", messages=({"role": "user", "content": "?"},), answer="1") for i in range(3)]


def trajectory(problem: Problem, sample: int, reward: float, turns: Sequence[int]) -> Trajectory:
    """A prompt of two tokens, then turns of the given lengths with two tokens of observation between them."""
    pieces = [Piece("prompt", (1, 2))]
    for i, length in enumerate(turns):
        if i:
            pieces.append(Piece("tool", (3, 4)))
        pieces.append(Piece("student", tuple(range(10 + sample, 10 + sample + length))))
    verdict = Verdict(outcome="right" if reward > 0 else "wrong")
    return Trajectory(problem, sample, tuple(pieces), "answered", "", verdict, reward)


def make_batch(groups: Sequence[Sequence[tuple[float, Sequence[int]]]], seed: int = 0) -> ScoredBatch:
    """(reward, lengths of the turns) of each attempt, problem after problem; log-probabilities at random."""
    batch = collate(
        [
            Group(problem, [trajectory(problem, i, *attempt) for i, attempt in enumerate(attempts)])
            for problem, attempts in zip(PROBLEMS, groups, strict=False)
        ]
    )
    generator = torch.Generator().manual_seed(seed)
    student_BT, teacher_BT = (-torch.rand(batch.ids_BT.shape, generator=generator).mul(3) for _ in range(2))
    entropy_BT = torch.rand(batch.ids_BT.shape, generator=generator).masked_fill(~batch.mask_BT, 0)
    return replace(
        batch.scored(student_BT),
        teacher_BT=teacher_BT,
        teacher_entropy_BT=entropy_BT,
        student_entropy_BT=torch.rand(batch.ids_BT.shape, generator=generator).masked_fill(~batch.mask_BT, 0),
        teacher_rates_B=torch.tensor([0.7, 0.4, 0.9])[batch.groups_B],
        progress=0.6,
    )


def several_steps() -> ScoredBatch:
    return make_batch(
        [
            [(1.0, [3, 2, 4]), (-1.0, [2, 1]), (-1.0, [5])],
            [(1.0, [1, 1, 1, 1]), (-1.0, [4, 2, 2])],
            [(1.0, [2, 3])],
        ]
    )


def one_step() -> ScoredBatch:
    return make_batch([[(1.0, [3]), (-1.0, [7])], [(1.0, [2]), (1.0, [1]), (-1.0, [4])]])


def step_weight_of_every_token(batch: Batch, epsilon: float, delta: float) -> Tensor:
    """Eq. 6 and 7 as a loop over tokens."""
    weights_BT = torch.zeros(batch.ids_BT.shape)
    student_BT, teacher_BT = batch.pair_BT
    for row in range(len(batch)):
        places = [i for i, t in enumerate(batch.mask_BT[row].tolist()) if t]
        steps = [[places[0]]]
        for t in places[1:]:
            if t == steps[-1][-1] + 1:
                steps[-1].append(t)
            else:
                steps.append([t])
        d = [sum(abs(float(student_BT[row, t] - teacher_BT[row, t])) for t in step) / len(step) for step in steps]
        for k, step in enumerate(steps):
            weights_BT[row, step] = 1.0 if k == 0 else min((d[0] + epsilon) / (d[k] + epsilon), 1 + delta)
    return weights_BT


def test_a_worked_example_of_sods_credit() -> None:
    batch = make_batch([[(1.0, [2, 1]), (-1.0, [1])]])
    student_BT = torch.tensor([[0, 0, -1.0, -2.0, 0, 0, -3.0], [0, 0, -1.0, 0, 0, 0, 0]])
    teacher_BT = torch.tensor([[0, 0, -1.5, -1.5, 0, 0, -1.0], [0, 0, -3.0, 0, 0, 0, 0]])
    credit_BT = sod(replace(batch, student_BT=student_BT, teacher_BT=teacher_BT), OPTIONS)
    a = 2**-0.5  # rewards +1 and -1: a deviation of sqrt(2)
    # d = 0.5 and 2, so the second step's +2 counts a quarter.
    expected_BT = torch.tensor([[0, 0, a - 0.5, a + 0.5, 0, 0, a + 0.5], [0, 0, -a - 2.0, 0, 0, 0, 0]])
    torch.testing.assert_close(credit_BT, expected_BT, rtol=0, atol=1e-5)


def test_grpo_gives_each_sampled_token_its_trajectorys_advantage() -> None:
    batch = several_steps()
    credit_BT = grpo(batch, OPTIONS)
    for row, advantage in enumerate(group_advantage(batch.rewards_B, batch.groups_B).tolist()):
        assert set(credit_BT[row][batch.mask_BT[row]].tolist()) == {advantage}


@pytest.mark.parametrize(("coef", "epsilon", "delta"), [(1.0, 1e-6, 0.2), (0.5, 1e-3, 0.0), (2.0, 1e-6, 0.5)])
def test_sod_is_grpo_plus_the_weighted_teacher(coef: float, epsilon: float, delta: float) -> None:
    batch = several_steps()
    student_BT, teacher_BT = batch.pair_BT
    options = AlgorithmOptions(coef=coef, epsilon=epsilon, delta=delta)
    weights_BT = step_weight_of_every_token(batch, epsilon, delta)
    expected_BT = grpo(batch, options) + coef * weights_BT * (teacher_BT - student_BT)
    torch.testing.assert_close(sod(batch, options), expected_BT.masked_fill(~batch.mask_BT, 0), rtol=1e-5, atol=1e-6)


def test_sod_is_plain_distillation_where_every_trajectory_has_one_step() -> None:
    assert sod(one_step(), OPTIONS).equal(opd(one_step(), OPTIONS))
    assert not sod(several_steps(), OPTIONS).equal(opd(several_steps(), OPTIONS))


def test_distillation_beside_grpo_is_the_sum_of_both() -> None:
    batch = several_steps()
    assert opd(batch, OPTIONS).equal(grpo(batch, OPTIONS) + opd_without_grpo(batch, OPTIONS))


@pytest.mark.parametrize("algorithm", [sod, opd])
def test_a_coefficient_of_0_leaves_grpo(algorithm: System) -> None:
    assert algorithm(several_steps(), AlgorithmOptions(coef=0)).equal(grpo(several_steps(), OPTIONS))


def test_a_teacher_who_agrees_leaves_grpo() -> None:
    batch = several_steps()
    batch = replace(batch, teacher_BT=batch.student_BT)
    assert sod(batch, OPTIONS).equal(grpo(batch, OPTIONS))


@pytest.mark.parametrize("junk", [float("nan"), float("inf"), float("-inf")], ids=str)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_credit_is_0_off_the_mask_and_does_not_depend_on_what_stands_there(name: str, junk: float) -> None:
    batch = several_steps()
    student_BT, teacher_BT = (tensor.masked_fill(~batch.mask_BT, junk) for tensor in batch.pair_BT)
    credit_BT = ALGORITHMS[name](batch, OPTIONS)
    assert credit_BT.shape == batch.ids_BT.shape
    assert (credit_BT[~batch.mask_BT] == 0).all()
    assert ALGORITHMS[name](replace(batch, student_BT=student_BT, teacher_BT=teacher_BT), OPTIONS).equal(credit_BT)


@pytest.mark.parametrize("name", sorted(set(ALGORITHMS) - SEES_THE_BATCH))
def test_a_groups_credit_does_not_depend_on_the_rest_of_the_batch(name: str) -> None:
    batch = several_steps()
    whole_BT = ALGORITHMS[name](batch, OPTIONS)
    for group in batch.groups_B.unique():
        rows = (batch.groups_B == group).nonzero()[:, 0]
        part_BT = ALGORITHMS[name](batch.rows(rows), OPTIONS)
        torch.testing.assert_close(part_BT, whole_BT[rows, : part_BT.shape[1]])


@pytest.mark.parametrize("name", ALGORITHMS)
def test_credit_carries_no_gradient(name: str) -> None:
    batch = several_steps()
    for tensor in batch.pair_BT:
        tensor.requires_grad_()
    assert not ALGORITHMS[name](batch, OPTIONS).requires_grad


@pytest.mark.parametrize("name", sorted(WITHOUT_TEACHER))
def test_what_needs_no_teacher_does_without(name: str) -> None:
    batch = several_steps()
    alone = replace(batch, teacher_BT=None)
    assert ALGORITHMS[name](alone, OPTIONS).equal(ALGORITHMS[name](batch, OPTIONS))


# The paper's ablations


def batch_with(outcomes: Sequence[Outcome]) -> ScoredBatch:
    """One trajectory of four steps of one token, the calls between them ending as given; the teacher's term is -1, -2, ..."""
    pieces = [Piece("prompt", (1,)), Piece("student", (10,))]
    for outcome in outcomes:
        pieces += [Piece("tool", (3,), outcomes=(outcome,)), Piece("student", (10,))]
    batch = collate([Group(PROBLEMS[0], [Trajectory(PROBLEMS[0], 0, tuple(pieces), "answered", "", reward=1.0)])])
    return replace(batch.scored(torch.zeros(batch.ids_BT.shape)), teacher_BT=-batch.steps_BT.float())


@pytest.mark.parametrize(
    ("name", "outcomes", "weights"),
    [
        ("sod_decay", ("ok", "error", "ok"), [1, 1, 0.9, 0.81]),
        ("sod_decay", ("ok", "ok", "ok"), [1, 1, 1, 1]),
        ("sod_decay", ("timeout", "ok", "error"), [1, 0.9, 0.81, 0.729]),
        ("sod_mask_after_error", ("ok", "error", "ok"), [1, 1, 0, 0]),
        ("sod_mask_after_error", ("ok", "ok", "ok"), [1, 1, 1, 1]),
        ("sod_mask_after_error", ("malformed", "ok", "ok"), [1, 0, 0, 0]),
        ("sod_uniform", ("error", "error", "error"), [1, 1, 1, 1]),
        ("sod_unclipped", ("ok", "ok", "ok"), [1, 1 / 2, 1 / 3, 1 / 4]),
        ("sod_without_grpo", ("ok", "ok", "ok"), [1, 1 / 2, 1 / 3, 1 / 4]),
    ],
)
def test_a_worked_example_of_each_ablation(name: str, outcomes: Sequence[Outcome], weights: list[float]) -> None:
    batch = batch_with(outcomes)  # alone in its group, so that GRPO says nothing
    credit_T = ALGORITHMS[name](batch, OPTIONS)[0][batch.mask_BT[0]]
    expected_T = torch.tensor([-float(w) * (k + 1) for k, w in enumerate(weights)])
    torch.testing.assert_close(credit_T, expected_T, rtol=1e-5, atol=1e-5)


def test_without_the_clip_a_step_that_agrees_better_than_the_first_counts_for_more() -> None:
    batch = batch_with(("ok", "ok", "ok"))
    batch = replace(batch, teacher_BT=torch.where(batch.steps_BT == 1, -6.0, batch.teacher_BT))
    clipped_T, free_T = (ALGORITHMS[name](batch, OPTIONS)[0][batch.mask_BT[0]] for name in ("sod", "sod_unclipped"))
    torch.testing.assert_close(clipped_T, torch.tensor([-6.0, -2.4, -3.6, -4.8]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(free_T, torch.tensor([-6.0, -6.0, -6.0, -6.0]), rtol=1e-5, atol=1e-5)


def test_the_ablations_keep_grpo_beside_the_teacher() -> None:
    batch = several_steps()
    for name in ("sod", "sod_unclipped", "sod_decay", "sod_mask_after_error", "sod_uniform"):
        assert ALGORITHMS[name](batch, AlgorithmOptions(coef=0)).equal(grpo(batch, OPTIONS)), name
    alone_BT = ALGORITHMS["sod_without_grpo"](batch, OPTIONS)
    torch.testing.assert_close(grpo(batch, OPTIONS) + alone_BT, sod(batch, OPTIONS))


def test_shams_advantages_are_those_of_the_same_rewards_in_another_order() -> None:
    batch = several_steps()
    credit_BT = sham(batch, OPTIONS)
    advantages_B = torch.stack([credit_BT[row][batch.mask_BT[row]].unique() for row in range(len(batch))])[:, 0]
    orders = (torch.tensor(order) for order in itertools.permutations(range(len(batch))))
    assert any(advantages_B.equal(group_advantage(batch.rewards_B[order], batch.groups_B)) for order in orders)


def test_sham_shuffles_over_the_whole_batch_and_the_same_batch_alike() -> None:
    differ = []
    for seed in range(20):
        batch = several_steps()
        batch = replace(batch, ids_BT=batch.ids_BT + seed)
        assert sham(batch, OPTIONS).equal(sham(batch, OPTIONS))
        differ.append(not sham(batch, OPTIONS).equal(grpo(batch, OPTIONS)))
    assert sum(differ) >= 15


def test_a_system_declares_what_its_rule_reads() -> None:
    for name, system in ALGORITHMS.items():
        assert SYSTEMS[name].reads == inputs_read(system), name
        assert SYSTEMS[name].reads <= INPUTS.keys()
        assert (SYSTEMS[name].whole, SYSTEMS[name].signal) == (system.whole is not None, system.reads_signal)


def test_every_algorithm_is_named_in_the_help() -> None:
    text = AlgorithmOptions.model_fields["name"].description
    assert text is not None
    for name in ALGORITHMS:
        assert name in text.replace(",", " ").replace(";", " ").replace(":", " ").replace(".", " ").split(), name


# Rules as systems


@pytest.mark.parametrize("name", WEIGHTED)
def test_credit_is_the_weighted_outcome_and_the_weighted_signal(name: str) -> None:
    batch, system = several_steps(), ALGORITHMS[name]
    options = AlgorithmOptions(coef=0.5)
    weight_BT = system.teacher_weight(batch, options)
    assert weight_BT is not None
    student_BT, teacher_BT = batch.pair_BT
    expected_BT = system.outcome_credit(batch, options)
    if name in OF_OUTCOME:
        parts = system.parts(batch, options)
        assert parts is not None
        assert not (parts.outcome_BT[batch.mask_BT] == 1).all()
        expected_BT = parts.outcome_BT * expected_BT
    expected_BT = expected_BT + weight_BT * (teacher_BT - student_BT).masked_fill(~batch.mask_BT, 0)
    torch.testing.assert_close(system(batch, options), expected_BT)


OF_OUTCOME = {"per_prompt", "tide"}
"""Rules whose weight of the outcome is not 1 in this batch."""


@pytest.mark.parametrize("name", [name for name, system in ALGORITHMS.items() if system.whole is not None])
def test_without_a_coefficient_a_whole_credit_is_the_advantage(name: str) -> None:
    batch, none = several_steps(), AlgorithmOptions(coef=0)
    credit_BT = ALGORITHMS[name](batch, none)
    assert not credit_BT[~batch.mask_BT].any()
    if name == "gigpo":  # its second part is from the rewards, too
        assert credit_BT.equal(ALGORITHMS[name](batch, OPTIONS))
    elif name == "scope":  # right attempts only
        assert credit_BT[~batch.right_B].abs().sum() == 0
        assert (credit_BT[batch.right_B][batch.mask_BT[batch.right_B]] > 0).all()
    else:
        torch.testing.assert_close(credit_BT, grpo(batch, none))
        assert not credit_BT.equal(ALGORITHMS[name](batch, OPTIONS))


@pytest.mark.parametrize("name", [name for name, each in ALGORITHMS.items() if each.whole and each.reads_signal])
def test_a_token_that_the_teacher_has_not_scored_has_the_outcomes_credit_alone(name: str) -> None:
    batch = several_steps()
    share_BT = batch.mask_BT.float()
    first_B = batch.mask_BT.float().argmax(1)
    share_BT[torch.arange(len(batch)), first_B] = 0
    options = AlgorithmOptions()
    credit_BT = ALGORITHMS[name](replace(batch, span_share_BT=share_BT), options)
    rows = torch.arange(len(batch))
    outcome_BT = ALGORITHMS[name].outcome_credit(batch, options)
    assert credit_BT[rows, first_B].equal(outcome_BT[rows, first_B])
    assert not credit_BT.equal(outcome_BT)


def test_steps_after_equal_observations_have_equal_numbers() -> None:
    pieces = [Piece("prompt", (1,)), Piece("student", (5,))]
    rows = [
        [*pieces, Piece("tool", (3, 4)), Piece("student", (6,)), Piece("tool", (3,)), Piece("student", (6,))],
        [*pieces, Piece("tool", (3,)), Piece("student", (7,))],
    ]
    attempts = [Trajectory(PROBLEMS[0], i, tuple(row), "answered", "") for i, row in enumerate(rows)]
    first, second = collate([Group(PROBLEMS[0], attempts)]).anchors_BK.tolist()
    assert first[0] == second[0] == second[2] == 0
    assert first[2] == second[1] != 0
    assert first[1] not in (0, first[2])


def test_giving_credit_keeps_the_weights_for_the_record() -> None:
    batch = several_steps()
    for name, system in ALGORITHMS.items():
        given = give_credit(batch, AlgorithmOptions(name=name))
        assert given.credit_BT is not None
        assert given.credit_BT.equal(system(batch, OPTIONS))
        assert (given.teacher_weight_BT is None) == (name not in WEIGHTED)


def test_what_a_candidate_is_judged_for_is_not_counted_again() -> None:
    """Where the sampled token is among the candidates, its own credit is the outcome's; elsewhere the teacher speaks as ever."""
    batch = several_steps()
    among_BT = torch.rand(batch.ids_BT.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    candidates_BTJ = torch.where(among_BT, batch.ids_BT, -1)[..., None].int()
    given = give_credit(replace(batch, candidates_BTJ=candidates_BTJ), OPTIONS)
    assert given.credit_BT is not None
    assert given.credit_BT[among_BT].equal(ALGORITHMS["grpo"](batch, OPTIONS)[among_BT])
    assert given.credit_BT[~among_BT].equal(sod(batch, OPTIONS)[~among_BT])


def test_a_rule_of_ones_own_is_found_by_file_and_function() -> None:
    example = Path(__file__).parent.parent / "examples" / "your_rule.py"
    system = find(f"{example}:impatient")
    batch = batch_with(("ok", "error", "ok"))
    batch = replace(batch, teacher_entropy_BT=torch.where(batch.steps_BT == 2, 0.5, 0.1))
    weight_BT = system.teacher_weight(batch, OPTIONS)
    assert weight_BT is not None
    assert weight_BT[0][batch.mask_BT[0]].tolist() == [1.0, 0.0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        ("x = 1", "f", "defines no function or class 'f'"),
        ("f = 1", "f", "defines no function or class 'f'"),
        ("import nothing_like_this", "f", "cannot be imported: ModuleNotFoundError"),
        ("def f(:", "f", "cannot be imported: SyntaxError"),
    ],
)
def test_a_file_without_a_rule_is_an_error(content: str, name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(content)
    with pytest.raises(OptionError, match=words):
        find(f"{tmp_path}/mine.py:{name}")


def test_a_rule_that_gives_another_shape_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def f(d_BK, info):\n    return d_BK[0]\n")
    with pytest.raises(OptionError, match=r"returned a tensor of shape"):
        find(f"{tmp_path}/mine.py:f")(several_steps(), OPTIONS)


WHOLE = """
from sod.core import Weights

def all_of_it(info, strength=2.0):
    return strength * info.signal_BT

def half_outcome(d_BK, info):
    return Weights(0 * d_BK, outcome=0.5, state={"calls": info.state.get("calls", 0) + 1})

def too_short(info):
    return info.signal_BT[0]

def endless(d_BK, info):
    return Weights(d_BK, state={"x": float("inf")})

def by_rates(d_BK, info):
    return d_BK * info.need("student_rates")[:, None]
"""


def test_a_function_of_ones_own_with_one_argument_computes_the_whole_credit(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(WHOLE)
    batch = several_steps()
    credited = give_credit(batch, AlgorithmOptions(name=f"{tmp_path}/mine.py:all_of_it"))
    student_BT, teacher_BT = batch.pair_BT
    assert credited.credit_BT.equal((2 * (teacher_BT - student_BT)).masked_fill(~batch.mask_BT, 0))
    assert credited.teacher_weight_BT is None
    with pytest.raises(OptionError, match=r"computes the whole credit. It returned \(\d+,\)"):
        give_credit(batch, AlgorithmOptions(name=f"{tmp_path}/mine.py:too_short"))


def test_a_rule_of_ones_own_may_weigh_the_outcome_and_keep_numbers(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(WHOLE)
    batch, options = several_steps(), AlgorithmOptions(name=f"{tmp_path}/mine.py:half_outcome")
    first = give_credit(batch, options)
    assert first.credit_BT.equal(grpo(batch, OPTIONS) / 2)
    assert first.state == {"calls": 1}
    assert give_credit(replace(batch, state=first.state), options).state == {"calls": 2}
    with pytest.raises(OptionError, match="a number that is not finite"):
        give_credit(batch, AlgorithmOptions(name=f"{tmp_path}/mine.py:endless"))
    assert inputs_of(f"{tmp_path}/mine.py:by_rates") == {"student_rates"}


# A teacher on a server

MINE = """
import torch

def by_mean(d_BK, info):
    return info.entropy_BK

def by_token(d_BK, info):
    return torch.exp(-info.teacher_entropy_BT)

def if_there(d_BK, info):
    return d_BK if info.teacher_entropy_BT is None else info.entropy_BK

def late(d_BK, info):
    return d_BK if info.update < 5 else info.entropy_BK

def broken(d_BK, info):
    return d_BK.no_such_thing
"""


@pytest.mark.parametrize(
    ("name", "needs"),
    [("by_mean", True), ("by_token", True), ("if_there", False), ("late", False), ("broken", False)],
)
def test_whether_a_rule_of_ones_own_needs_the_teachers_entropy_is_found_out_by_trying(
    name: str, needs: bool, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    assert inputs_of(f"{tmp_path}/mine.py:{name}") == ({"teacher_entropy"} if needs else set())


def test_entropies_that_are_missed_only_later_are_an_error_and_no_zeros(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    late, batch = find(f"{tmp_path}/mine.py:late"), replace(several_steps(), teacher_entropy_BT=None)
    assert late.teacher_weight(batch, OPTIONS) is not None
    with pytest.raises(OptionError, match="reads the teacher's entropy, but the teacher returns none"):
        late.teacher_weight(replace(batch, update=5), OPTIONS)
