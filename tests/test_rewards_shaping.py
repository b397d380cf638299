"""Verdict to reward: the paper's figures, and what its code makes of them."""

from collections.abc import Callable

import pytest

from sod.config import RewardOptions
from sod.rewards.shaping import overlong, reward
from sod.types import Trajectory

PLAIN = RewardOptions(overlong=0)


def after(calls: int, *, correct: bool, trajectory: Callable[..., Trajectory]) -> Trajectory:
    turns = [piece for _ in range(calls) for piece in (("student", [1]), ("tool", [2]))]
    return trajectory(("prompt", [0]), *turns, ("student", [1]), correct=correct)


@pytest.mark.parametrize(
    ("calls", "worth"), [(0, -1.0), (1, -0.9), (2, -0.8), (3, -0.7), (4, -0.6), (5, -0.6), (16, -0.6)]
)
def test_a_wrong_answer_is_less_bad_after_more_tool_turns(
    calls: int, worth: float, trajectory: Callable[..., Trajectory]
) -> None:
    assert reward(after(calls, correct=False, trajectory=trajectory), PLAIN, max_tokens=99) == pytest.approx(worth)


@pytest.mark.parametrize("rule", ["paper", "reference", "off"])
def test_a_right_answer_is_worth_1_however_many_calls_it_took(rule: str, trajectory: Callable[..., Trajectory]) -> None:
    options = RewardOptions.model_validate({"tool_use": rule, "overlong": 0})
    assert {reward(after(n, correct=True, trajectory=trajectory), options, max_tokens=99) for n in range(6)} == {1.0}


@pytest.mark.parametrize(("rule", "worth"), [("reference", -1.1), ("off", -1.0)])
def test_the_papers_code_never_sees_the_calls(rule: str, worth: float, trajectory: Callable[..., Trajectory]) -> None:
    options = RewardOptions.model_validate({"tool_use": rule, "overlong": 0})
    found = [reward(after(n, correct=False, trajectory=trajectory), options, max_tokens=99) for n in range(6)]
    assert found == pytest.approx([worth] * 6)


@pytest.mark.parametrize(("tokens", "penalty"), [(100, 0), (19_456, 0), (19_968, 0.5), (20_480, 1)])
def test_the_last_1024_tokens_cost_a_point(tokens: int, penalty: float) -> None:
    assert overlong(tokens, 20_480, 1024) == penalty


def test_the_default_is_the_papers_buffer(trajectory: Callable[..., Trajectory]) -> None:
    whole = trajectory(("prompt", [0] * 50), ("student", [1] * 20_000), ("tool", [2] * 224), correct=True)
    assert reward(whole, RewardOptions(), max_tokens=20_480) == pytest.approx(1 - 768 / 1024)


def test_without_a_buffer_length_costs_nothing() -> None:
    assert overlong(20_480, 20_480, 0) == 0
