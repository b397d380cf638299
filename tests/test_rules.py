"""Rules, on numbers worked by hand."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from sod.core import CREDITS, INPUTS, RULES, MissingInputError, StepInfo, Weights, step_ids
from sod.credit.systems import SYSTEMS, SystemTraits

# Two trajectories of three steps: of 1, 2 and 1 tokens, and of 2, 1 and 1. The second is worse than its group, the first better.
MASK_BT = torch.tensor([[0, 1, 0, 1, 1, 0, 1], [0, 1, 1, 0, 1, 0, 1]]).bool()
SIGNAL_BT = torch.tensor([[0, -0.5, 0, 1.0, -3.0, 0, 4.0], [0, 0.1, -0.1, 0, -0.2, 0, 0.0]])
ENTROPY_BT = torch.tensor([[0, 0.0, 0, 0.1, 0.3, 0, 0.4], [0, 0.2, 0.2, 0, 0.0, 0, 1.0]])
STUDENT_BT = torch.tensor([[0, -1.0, 0, -2.0, -0.5, 0, -5.0], [0, -0.5, -0.4, 0, -1.0, 0, -2.0]])
STUDENT_ENTROPY_BT = torch.tensor([[0, 0.5, 0, 1.0, 0.2, 0, 2.0], [0, 0.1, 0.3, 0, 0.6, 0, 0.4]])
D_BK = torch.tensor([[0.5, 2.0, 4.0], [0.1, 0.2, 0.05]])
FAILED_BK = torch.tensor([[False, True, False], [False, False, False]])


def info(**changes: Any) -> StepInfo:
    known: dict[str, Any] = {
        "ids_BT": step_ids(MASK_BT),
        "signal_BT": SIGNAL_BT,
        "teacher_entropy_BT": ENTROPY_BT,
        "failed_BK": FAILED_BK,
        "advantage_B": torch.tensor([1.0, -1.0]),
        "student_BT": STUDENT_BT,
        "teacher_BT": STUDENT_BT + SIGNAL_BT,
        "student_entropy_BT": STUDENT_ENTROPY_BT,
        "right_B": torch.tensor([True, False]),
        "reward_B": torch.tensor([1.0, -1.0]),
        "group_B": torch.tensor([3, 3]),
        "student_rate_B": torch.tensor([0.25, 0.25]),
        "teacher_rate_B": torch.tensor([0.8, 0.4]),
        "progress": 0.25,
        "anchors_BK": torch.tensor([[0, 7, 7], [0, 7, 9]]),
    }
    return StepInfo(**(known | changes))


def weight(name: str, d_BK: Tensor, given: StepInfo) -> Tensor:
    """Return the teacher's weights by a rule."""
    return Weights.of(RULES[name](d_BK, given)).teacher


SIGMOID = 1 / (1 + math.e)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


EXPECTED: dict[str, list[list[float]]] = {
    "uniform": [[1, 1, 1], [1, 1, 1]],
    "drift": [[1, 0.25, 0.125], [1, 0.5, 1.2]],
    "drift_unclipped": [[1, 0.25, 0.125], [1, 0.5, 2.0]],
    "decayed": [[1, 1, 0.9], [1, 1, 1]],
    "masked": [[1, 1, 0], [1, 1, 1]],
    "gated": [[SIGMOID] * 3, [1 - SIGMOID] * 3],
    "curriculum": [[1, 0, 0], [1, 0, 0]],
    "entropy": [[1, math.exp(-1), math.exp(-2)], [math.exp(-1), 1, math.exp(-5)]],
    # steps before any error have 0.5, 2.0, 0.1, 0.2, 0.05: the median is 0.2
    "drift_from_median": [[0.4, 0.1, 0.05], [1.2, 1.0, 1.2]],
    "drift_with_floor": [[1, 0.25, 0.125], [1, 0.5, 1.2]],
    "drift_before": [[1, 1, 0.4], [1, 1, 2 / 3]],  # means of the earlier steps: 0.5, 1.25 and 0.1, 0.15
    "per_error": [[1, 1, 0.4], [1, 1, 1]],
    "position": [[0, 0.5, 0, 1.0, 1.5, 0, 2.0], [0, 0.5, 1.0, 0, 1.5, 0, 2.0]],
    "trust_region": [[0, 1, 0, 1, 2 / 3, 0, 0.5], [0, 1, 1, 0, 1, 0, 1]],
    "sign_consistent": [[0, 0.5, 0, 1.5, 0.5, 0, 1.5], [0, 0.5, 1.5, 0, 1.5, 0, 1.0]],
    "entropy_in_trust_region": [
        [0, 1, 0, math.exp(-1), math.exp(-1) * 2 / 3, 0, math.exp(-2) / 2],
        [0, math.exp(-1), math.exp(-1), 0, 1, 0, math.exp(-5)],
    ],
    # equal steps: 4 tokens / (3 steps * n_k tokens) = 4/3 or 2/3; a quarter of the way from 1
    "turn_opd": [[13 / 12, 11 / 12, 13 / 12], [11 / 12, 13 / 12, 13 / 12]],
    "middle_dropped": [[1, 0, 1], [1, 0, 1]],
    # before the tokens: 0, 0.5, 1.5, 4.5 of 8.5 nats; 0, 0.1, 0.2, 0.4 of 0.4
    "iw_opd": [[0, 1.5, 0, 1.5 - 0.25 / 8.5, 1.5 - 0.75 / 8.5, 0, 1.5 - 2.25 / 8.5], [0, 1.5, 1.375, 0, 1.25, 0, 1.0]],
    "prefix": [[0, 1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0]],
    "progressive_prefix": [[0, 1, 0, 1, 0, 0, 0], [0, 1, 1, 0, 0, 0, 0]],  # ceil(0.325 * 4) = 2 tokens
    # the sums of signal - mean are -0.875, -0.25, -3.625, 0: no fall; and 0.15, 0.10, -0.05, 0: a fall of 0.2 after the first
    "prefix_teach": [[0, 1, 0, 1, 1, 0, 1], [0, 1, 0, 0, 0, 0, 0]],
    # half of |exp(delta) - 1| is 0.19673; 0.85914 and 0.47511, with mean 0.66712; 26.8, so 1
    "tv_opd": [[0, 0.393469, 0, 0.667124, 0.222375, 0, 0.25], [0, 0.500834, 0.500834, 0, 0.453173, 0, 0]],
    "surprise": [[0, 4 / 17, 0, 8 / 17, 24 / 17, 0, 32 / 17], [0, 1, 1, 0, 2, 0, 0]],
    "power_opd": [
        [
            *(0, (math.exp(-7.5) - math.exp(-5)) / -0.5, 0, math.exp(-5) - math.exp(-10)),
            *((math.exp(-17.5) - math.exp(-2.5)) / -3, 0, (math.exp(-5) - math.exp(-25)) / 4),
        ],
        [
            *(0, (math.exp(-2) - math.exp(-2.5)) / 0.1, (math.exp(-2.5) - math.exp(-2)) / -0.1, 0),
            *((math.exp(-6) - math.exp(-5)) / -0.2, 0, 0),
        ],
    ],
    # scores: 0.17, 0.52, 0.71, 1; and 0.5, 0.7, 1, 0.6
    "tip": [[0, 0, 0, 0, 1, 0, 1], [0, 0, 1, 0, 1, 0, 0]],
    # delta (log p + H): 0.25, -1, 0.9, -12; and -0.04, 0.01, 0.08, 0
    "ida_opd": [[0, 0.5, 0, 1, 0.5, 0, 1], [0, 1, 0.5, 0, 0.5, 0, 1]],
    "ier_opd": [[0, 0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0, 0]],  # 1 token of 8; 3 / 0.21 is the largest
    "opdvr": [[0, 0, 0, 1, 0, 0, 1], [0, 0, 1, 0, 1, 0, 0]],
    "ra_opd": [[1, 1, 1], [1, 1, 1]],  # sums of 1.5 and -0.2
    # 0.5, exp(-0.1), 0.2 exp(-0.3), 2 exp(-0.4), with mean 0.72341
    "fire_opd": [[0, 0.691171, 0, 1.250794, 0.204813, 0, 1.853222], [0] * 7],
    "per_prompt": [[1, 1, 1], [0, 0, 0]],
    # d~ = 0, 3/7, 1 and 1/3, 1, 0; h = 1, 1.25, 5 and 0.45, 1, 2, so h~ = 0, 1/16, 1 and 0, 11/31, 1; kappa = 0.55
    "atod": [[0, 0.55 * (1 - 4 / 7 * 15 / 16), 0.55], [0.55 / 3, 0.55, 0.55]],
    "gats": [[1 / 6] * 3, [1 / 6] * 3],  # 1 - 0.5 / 0.6
    # g = 6.85 / 6 / 4; Q~ of the entropies 0, 0.2, 0.4 and 0.2, 0, 1
    "tide": [
        [0, 6.85 / 24 * (math.exp(-0.2) - math.exp(-0.4)) / (1 - math.exp(-0.4)) * 3 / 7, 0],
        [6.85 / 24 * (math.exp(-0.2) - math.exp(-1)) / (1 - math.exp(-1)) / 3, 6.85 / 24, 0],
    ],
    "opd_then_grpo": [[1, 1, 1], [1, 1, 1]],
}
CHANGES: dict[str, dict[str, Any]] = {
    "atod": {"update": 40},
    "tide": {"state": {"first_d": 4.0}},
    "eopd": {"teacher_entropy_BT": ENTROPY_BT + 0.65},
    "gc_opd": {"right_B": torch.tensor([False, True])},
}
"""What differs from `info()` in the example of a rule."""
OUTCOMES: dict[str, list[list[float]] | float] = {
    "per_prompt": [[0, 0, 0], [1, 1, 1]],
    "atod": 1.5,
    "tide": [[0, 3 / 7, 1], [1 / 3, 1, 0]],
    "opd_then_grpo": 0.0,
}
"""Weights of the outcome, where they are not 1."""
CREDIT: dict[str, list[list[float]]] = {
    # the factors are clipped to 0.8 and 1.2, except exp(-0.1) and exp(0.1)
    "rlsd": [
        [0, 0.9, 0, 1.1, 0.9, 0, 1.1],
        [0, -(1 + math.exp(-0.1)) / 2, -(1 + math.exp(0.1)) / 2, 0, -1.1, 0, -1],
    ],
    # factors 0.8; 1.2 and 0.8; 1.2, divided by their step's mean
    "step_opsd": [
        [0, 1, 0, 1.1, 0.9, 0, 1],
        [0, -(0.5 + sigmoid(-0.1)), -(0.5 + sigmoid(0.1)), 0, -1, 0, -1],
    ],
    "sdar": [
        [0, 1 + 0.1 * sigmoid(-2.5), 0, 1 + 0.1 * sigmoid(5), 1 + 0.1 * sigmoid(-15), 0, 1 + 0.1 * sigmoid(20)],
        [0, -1 + 0.1 * sigmoid(0.5), -1 + 0.1 * sigmoid(-0.5), 0, -1 + 0.1 * sigmoid(-1), 0, -0.95],
    ],
    # V = 0.5 -> 0.378 -> 0.182 -> 0.924: z = -0.620, -0.791, 1.411; and 0.5 -> 0.5 -> 0.450 -> 0.450: z = 1, -2, 1 over sqrt(2)
    "agent_opsd": [
        [0, 0.875996, 0, 0.841848, 0.841848, 0, 1.2],
        [0, -1 + 0.2 / 2**0.5, -1 + 0.2 / 2**0.5, 0, -1.2, 0, -1 + 0.2 / 2**0.5],
    ],
    "future_credit": [[0, 1.886, 0, 2.54, 1.6, 0, 5], [0, -1.152, -1.28, 0, -1.2, 0, -1]],
    "aopd": [
        [0, math.exp(-0.5), 0, 2, math.exp(-3), 0, 5],
        [0, -0.9, math.exp(-0.1) - 2, 0, math.exp(-0.2) - 2, 0, -1],
    ],
    # the teacher's entropy is above 0.8 nats on the last two tokens, and on all but the third
    "eopd": [
        [0, 0.5, 0, 2, math.exp(-3) - 3, 0, 10],
        [0, math.exp(0.1) - 1.9, math.exp(-0.1) - 2.1, 0, -1.2, 0, -1],
    ],
    # returns 0.9025, 0.95, 1 and minus these. The first steps are compared, then 0.95, 1, -0.95; the last step is alone
    "gigpo": [
        [0, 1 + 2**-0.5, 0, 1.554716, 1.554716, 0, 1.599693],
        [0, -1 - 2**-0.5, -1 - 2**-0.5, 0, -2.154409, 0, -1],
    ],
    "scope": [[0, 1, 0, 1, 1, 0, 1], [0, 0.1, -0.1, 0, -0.2, 0, 0]],
    # verdicts and teacher disagree: z = -+0.707 and +-0.707, so the residual is -+1.414
    "gc_opd": [
        [0, 0.5 - 0.02**0.5, 0, 2 - 0.02**0.5, -2 - 0.02**0.5, 0, 5 - 0.02**0.5],
        [0, -0.9 + 0.02**0.5, -1.1 + 0.02**0.5, 0, -1.2 + 0.02**0.5, 0, -1 + 0.02**0.5],
    ],
    "suppress_unlikely": [[0, 1, 0, 1, 1, 0, 0], [0, -1, -1, 0, -1, 0, -2]],
}
RANDOM = {"random_weights", "random_mask", "random_steps"}


@pytest.mark.parametrize("name", sorted(RULES.keys() - RANDOM))
def test_a_worked_example_of_each_rule(name: str) -> None:
    weights = Weights.of(RULES[name](D_BK, info(**CHANGES.get(name, {}))))
    _same(weights.teacher, EXPECTED[name])
    expected = OUTCOMES.get(name, 1.0)
    if isinstance(expected, list):
        assert isinstance(weights.outcome, Tensor)
        _same(weights.outcome, expected)
    else:
        assert weights.outcome == expected


@pytest.mark.parametrize("name", CREDITS)
def test_a_worked_example_of_each_rule_for_the_whole_credit(name: str) -> None:
    credit_BT = CREDITS[name](info(**CHANGES.get(name, {})))
    assert credit_BT.shape == MASK_BT.shape
    _same(credit_BT, CREDIT[name])


def _same(found: Tensor, expected: list[list[float]]) -> None:
    table = torch.tensor(expected, dtype=torch.float32)
    assert found.shape == table.shape
    if found.shape == MASK_BT.shape:
        found = found.masked_fill(~MASK_BT, 0)
    torch.testing.assert_close(found, table, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*RULES, *CREDITS])
def test_results_are_finite_and_weights_are_never_negative(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    for scale in (0.0, 1e-8, 1.0, 30.0):
        signal_BT = scale * torch.randn(MASK_BT.shape, generator=generator).masked_fill(~MASK_BT, 0)
        student_BT = -scale * torch.rand(MASK_BT.shape, generator=generator)
        given = info(
            signal_BT=signal_BT,
            teacher_entropy_BT=signal_BT.abs(),
            student_entropy_BT=signal_BT.abs(),
            student_BT=student_BT,
            teacher_BT=student_BT + signal_BT,
        )
        if name in CREDITS:
            assert torch.isfinite(CREDITS[name](given)).all()
            continue
        weights = Weights.of(RULES[name](scale * torch.rand(D_BK.shape, generator=generator), given))
        for weight in (weights.teacher, torch.as_tensor(weights.outcome)):
            assert torch.isfinite(weight).all()
            assert (weight >= 0).all()


def test_the_curriculum_reaches_one_step_further_every_so_many_updates() -> None:
    reach = [int(weight("curriculum", D_BK, info(update=update))[0].sum()) for update in (0, 4, 5, 9, 10, 50)]
    assert reach == [1, 1, 2, 2, 3, 3]


def test_a_floor_keeps_an_easy_first_step_from_silencing_the_teacher() -> None:
    easy_BK = torch.tensor([[0.001, 0.1, 0.2]])
    first = {
        name: weight(name, easy_BK, info(failed_BK=FAILED_BK[:1]))[0].tolist() for name in ("drift", "drift_with_floor")
    }
    assert first["drift"] == pytest.approx([1, 0.01, 0.005], rel=1e-2)
    assert first["drift_with_floor"] == pytest.approx([1, 1.0, 0.5], rel=1e-2)


def test_the_median_leaves_out_steps_after_an_error_and_steps_that_are_not_there() -> None:
    d_BK = torch.tensor([[0.2, 9.0, 9.0], [0.4, 0.0, 0.0]])
    mask_BT = torch.tensor([[0, 1, 0, 1, 0, 1], [0, 1, 0, 0, 0, 0]]).bool()
    failed_BK = torch.tensor([[True, False, False], [False, False, False]])
    blank_BT = torch.zeros(mask_BT.shape)
    seen = info(ids_BT=step_ids(mask_BT), signal_BT=blank_BT, teacher_entropy_BT=blank_BT, failed_BK=failed_BK)
    assert weight("drift_from_median", d_BK, seen)[0, 1].item() == pytest.approx(0.2 / 9.0, rel=1e-3)


def test_without_any_step_before_an_error_there_is_still_a_reference() -> None:
    empty = info(ids_BT=torch.zeros(MASK_BT.shape, dtype=torch.long), failed_BK=FAILED_BK[:, :0])
    assert weight("drift_from_median", D_BK[:, :0], empty).shape == (2, 0)


def test_the_signal_within_a_trust_region_never_exceeds_it() -> None:
    assert (weight("trust_region", D_BK, info()) * SIGNAL_BT).abs().max().item() == pytest.approx(2.0)


# Rules of several updates


def test_a_teacher_that_was_withdrawn_does_not_return() -> None:
    def course(rights: Sequence[bool]) -> list[float]:
        state: Mapping[str, float] = {}
        found = []
        for right in rights:
            each = Weights.of(RULES["gats"](D_BK, info(right_B=torch.tensor([right, right]), state=state)))
            state = each.state or {}
            found.append(each.teacher[0, 0].item())
        return found

    weak, strong = [False] * 8, [True] * 8
    assert course(weak) == [1.0] * 8
    # One lucky update: the teacher solves 0.6, the student everything at first, then nothing.
    lucky = course([True, False, False])
    assert lucky == pytest.approx([0.0, 1 - 0.9 / (0.6 * 1.9), 1 - 0.81 / (0.6 * 2.71)])
    assert course(strong[:2] + weak)[-1] > 0  # not yet withdrawn
    assert course(strong[:5] + weak)[-8:] == [0.0] * 8


def test_problems_that_the_teacher_never_solves_or_never_tried_do_not_withdraw_it() -> None:
    unsolved = Weights.of(RULES["gats"](D_BK, info(teacher_rate_B=torch.zeros(2))))
    assert unsolved.teacher[0, 0].item() == 0.0
    assert (unsolved.state or {})["withdrawn"] == 0.0
    # the second problem, solved by the student, has no rate: 0 of 1 attempts at the first count
    part = info(right_B=torch.tensor([False, True]), teacher_rate_B=torch.tensor([0.5, float("nan")]))
    assert Weights.of(RULES["gats"](D_BK, part)).teacher[0, 0].item() == 1.0


def test_the_hand_off_is_measured_from_the_first_update() -> None:
    first = Weights.of(RULES["tide"](D_BK, info()))
    assert first.state == {"first_d": pytest.approx(6.85 / 6)}
    half = Weights.of(RULES["tide"](D_BK / 2, info(state=first.state)))
    torch.testing.assert_close(half.teacher, first.teacher / 2)
    assert half.state == first.state


def test_the_teacher_comes_first_and_the_outcome_after_it() -> None:
    early, late = (Weights.of(RULES["opd_then_grpo"](D_BK, info(progress=share))) for share in (0.49, 0.5))
    assert (early.teacher.unique().tolist(), early.outcome) == ([1.0], 0.0)
    assert (late.teacher.unique().tolist(), late.outcome) == ([0.0], 1.0)


# Rules that compare attempts


def test_a_trajectory_that_the_teacher_judges_unlike_the_outcome_is_left_out() -> None:
    w_BK = RULES["ra_opd"](D_BK, info(advantage_B=torch.tensor([-1.0, -1.0])))
    assert isinstance(w_BK, Tensor)
    assert w_BK.tolist() == [[0, 0, 0], [1, 1, 1]]


def test_likely_attempts_count_less_if_right_and_more_if_wrong() -> None:
    mask_BT = torch.ones(4, 2).bool()
    student_BT = torch.tensor([[-1.0, -1.0], [-3.0, -3.0], [-2.0, -2.0], [-2.0, -2.0]])
    teacher_BT = torch.tensor([[-1.0, -1.0], [-1.0, -1.0], [-1.0, -1.0], [-2.0, -2.0]])
    four = StepInfo(
        ids_BT=step_ids(mask_BT),
        signal_BT=teacher_BT - student_BT,
        teacher_entropy_BT=None,
        failed_BK=torch.zeros(4, 1).bool(),
        advantage_B=torch.zeros(4),
        student_BT=student_BT,
        teacher_BT=teacher_BT,
        right_B=torch.tensor([True, True, False, False]),
        group_B=torch.zeros(4).long(),
    )
    # Perplexities of the right attempts are e and e^3, of the teacher on the wrong ones e and e^2; the mean of each pair is 1.
    credit_B = CREDITS["scope"](four)[:, 0].tolist()
    low, high = 2 / (1 + math.exp(2)), 2 / (1 + math.exp(-2))
    assert credit_B == pytest.approx([low, high, 2 / (1 + math.exp(-1)), 0.0], rel=1e-5)


# Controls


def test_random_weights_are_sods_in_another_order_and_first_steps_keep_1() -> None:
    orders = set()
    for seed in range(20):
        w_BK = RULES["random_weights"](D_BK, info(seed=seed))
        assert isinstance(w_BK, Tensor)
        torch.testing.assert_close(w_BK, RULES["random_weights"](D_BK, info(seed=seed)))
        assert w_BK[:, 0].tolist() == [1, 1]
        assert sorted(w_BK[:, 1:].flatten().tolist()) == pytest.approx([0.125, 0.25, 0.5, 1.2], rel=1e-4)
        orders.add(tuple(w_BK.flatten().tolist()))
    assert len(orders) > 5


def test_a_random_mask_keeps_as_many_tokens_of_each_trajectory_as_the_rule_it_is_compared_with() -> None:
    masks = set()
    for seed in range(20):
        w_BT = RULES["random_mask"](D_BK, info(seed=seed))
        assert isinstance(w_BT, Tensor)
        assert not w_BT[~MASK_BT].any()
        assert w_BT.sum(1).tolist() == [2, 2]
        masks.add(tuple(w_BT.flatten().tolist()))
    assert len(masks) > 5


def test_a_quarter_of_the_steps_is_raised_at_random() -> None:
    for seed in range(5):
        w_BK = RULES["random_steps"](D_BK, info(seed=seed))
        assert isinstance(w_BK, Tensor)
        assert sorted(w_BK.flatten().tolist()) == [1, 1, 1, 1, 2, 2]  # ceil(6 / 4)


# Declarations


def traits_of_rule(name: str) -> SystemTraits:
    return next(traits for traits in SYSTEMS.values() if traits.rule == name)


def function_of(name: str) -> Callable[[StepInfo], Any]:
    return CREDITS[name] if name in CREDITS else lambda given: RULES[name](D_BK, given)


@pytest.mark.parametrize("name", [*RULES, *CREDITS])
@pytest.mark.parametrize("missing", INPUTS)
def test_a_rule_fails_without_an_input_that_it_declares_and_ignores_the_others(name: str, missing: str) -> None:
    function = function_of(name)
    blind = info(**{INPUTS[missing].field: None})
    if missing in traits_of_rule(name).reads:
        with pytest.raises(MissingInputError, match=f"this rule reads {INPUTS[missing].what}, but") as error:
            function(blind)
        assert error.value.name == missing
        return
    found, whole = function(blind), function(info())
    for one, other in zip(_parts(found), _parts(whole), strict=True):
        assert torch.equal(one, other)


def _parts(result: Tensor | Weights) -> tuple[Tensor, Tensor]:
    weights = Weights.of(result)
    return weights.teacher, torch.as_tensor(weights.outcome)


@pytest.mark.parametrize("name", CREDITS)
def test_a_rule_declares_whether_it_reads_the_teachers_signal(name: str) -> None:
    one_BT, other_BT = (CREDITS[name](info(signal_BT=factor * SIGNAL_BT)) for factor in (1, -2))
    assert traits_of_rule(name).signal != torch.equal(one_BT, other_BT)


def test_every_rule_belongs_to_a_system_and_has_one_name() -> None:
    assert {traits.rule for traits in SYSTEMS.values()} - {None} == {*RULES, *CREDITS}
    assert not RULES.keys() & CREDITS.keys()
    for name in CREDITS:
        assert traits_of_rule(name).whole
        assert len(inspect.signature(CREDITS[name]).parameters) >= 1
