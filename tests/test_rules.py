"""Weighting rules, on numbers worked by hand."""

import math

import pytest
import torch

from sod.core import RULES, StepInfo, step_ids
from sod.core.rules import NoEntropyError

# Two trajectories of three steps: of 1, 2 and 1 tokens, and of 2, 1 and 1. The second is worse than its group, the first better.
MASK_BT = torch.tensor([[0, 1, 0, 1, 1, 0, 1], [0, 1, 1, 0, 1, 0, 1]]).bool()
SIGNAL_BT = torch.tensor([[0, -0.5, 0, 1.0, -3.0, 0, 4.0], [0, 0.1, -0.1, 0, -0.2, 0, 0.0]])
ENTROPY_BT = torch.tensor([[0, 0.0, 0, 0.1, 0.3, 0, 0.4], [0, 0.2, 0.2, 0, 0.0, 0, 1.0]])
D_BK = torch.tensor([[0.5, 2.0, 4.0], [0.1, 0.2, 0.05]])
FAILED_BK = torch.tensor([[False, True, False], [False, False, False]])


def info(**changes: object) -> StepInfo:
    known: dict = {
        "ids_BT": step_ids(MASK_BT),
        "signal_BT": SIGNAL_BT,
        "teacher_entropy_BT": ENTROPY_BT,
        "failed_BK": FAILED_BK,
        "advantage_B": torch.tensor([1.0, -1.0]),
    }
    return StepInfo(**(known | changes))


SIGMOID = 1 / (1 + math.e)
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
    "per_error": [[1, 1, 0.4], [1, 1, 1]],
    "position": [[0, 0.5, 0, 1.0, 1.5, 0, 2.0], [0, 0.5, 1.0, 0, 1.5, 0, 2.0]],
    "trust_region": [[0, 1, 0, 1, 2 / 3, 0, 0.5], [0, 1, 1, 0, 1, 0, 1]],
    "sign_consistent": [[0, 0.5, 0, 1.5, 0.5, 0, 1.5], [0, 0.5, 1.5, 0, 1.5, 0, 1.0]],
    "entropy_in_trust_region": [
        [0, 1, 0, math.exp(-1), math.exp(-1) * 2 / 3, 0, math.exp(-2) / 2],
        [0, math.exp(-1), math.exp(-1), 0, 1, 0, math.exp(-5)],
    ],
}


@pytest.mark.parametrize("name", RULES)
def test_a_worked_example_of_each_rule(name: str) -> None:
    w = RULES[name](D_BK, info())
    expected = torch.tensor(EXPECTED[name], dtype=torch.float32)
    assert w.shape == expected.shape
    if w.shape == MASK_BT.shape:
        w = w.masked_fill(~MASK_BT, 0)
    torch.testing.assert_close(w, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", RULES)
def test_weights_are_finite_and_never_negative(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    for scale in (0.0, 1e-8, 1.0, 30.0):
        signal_BT = scale * torch.randn(MASK_BT.shape, generator=generator).masked_fill(~MASK_BT, 0)
        d_BK = scale * torch.rand(D_BK.shape, generator=generator)
        w = RULES[name](d_BK, info(signal_BT=signal_BT, teacher_entropy_BT=signal_BT.abs()))
        assert torch.isfinite(w).all()
        assert (w >= 0).all()


def test_the_curriculum_reaches_one_step_further_every_so_many_updates() -> None:
    reach = [int(RULES["curriculum"](D_BK, info(update=update))[0].sum()) for update in (0, 4, 5, 9, 10, 50)]
    assert reach == [1, 1, 2, 2, 3, 3]


def test_a_floor_keeps_an_easy_first_step_from_silencing_the_teacher() -> None:
    easy_BK = torch.tensor([[0.001, 0.1, 0.2]])
    first = {
        name: RULES[name](easy_BK, info(failed_BK=FAILED_BK[:1]))[0].tolist() for name in ("drift", "drift_with_floor")
    }
    assert first["drift"] == pytest.approx([1, 0.01, 0.005], rel=1e-2)
    assert first["drift_with_floor"] == pytest.approx([1, 1.0, 0.5], rel=1e-2)


def test_the_median_leaves_out_steps_after_an_error_and_steps_that_are_not_there() -> None:
    d_BK = torch.tensor([[0.2, 9.0, 9.0], [0.4, 0.0, 0.0]])
    mask_BT = torch.tensor([[0, 1, 0, 1, 0, 1], [0, 1, 0, 0, 0, 0]]).bool()
    failed_BK = torch.tensor([[True, False, False], [False, False, False]])
    blank_BT = torch.zeros(mask_BT.shape)
    seen = info(ids_BT=step_ids(mask_BT), signal_BT=blank_BT, teacher_entropy_BT=blank_BT, failed_BK=failed_BK)
    assert RULES["drift_from_median"](d_BK, seen)[0, 1].item() == pytest.approx(0.2 / 9.0, rel=1e-3)


def test_without_any_step_before_an_error_there_is_still_a_reference() -> None:
    empty = info(ids_BT=torch.zeros(MASK_BT.shape, dtype=torch.long), failed_BK=FAILED_BK[:, :0])
    assert RULES["drift_from_median"](D_BK[:, :0], empty).shape == (2, 0)


def test_the_signal_within_a_trust_region_never_exceeds_it() -> None:
    assert (RULES["trust_region"](D_BK, info()) * SIGNAL_BT).abs().max().item() == pytest.approx(2.0)


READS_ENTROPY = {"entropy", "entropy_in_trust_region"}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_that_reads_an_entropy_that_nobody_tells_fails_and_the_others_do_not_notice(name: str) -> None:
    blind = info(teacher_entropy_BT=None)
    if name in READS_ENTROPY:
        with pytest.raises(NoEntropyError, match="the teacher returns none"):
            RULES[name](D_BK, blind)
    else:
        assert torch.equal(RULES[name](D_BK, blind), RULES[name](D_BK, info()))
