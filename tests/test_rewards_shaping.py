"""Verdict to reward: the paper's figures, and what its code makes of them."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import get_args

import pytest
from judging import Nowhere

from sod.config import RewardOptions, ToolOptions, ToolUse
from sod.rewards.shaping import overlong, reward, turns_that_ran
from sod.tools import Toolbox
from sod.tools.python import PythonTool
from sod.types import NO_CALL, Outcome, Piece, ToolCall, Trajectory

PLAIN = RewardOptions(overlong=0)


def after(
    calls: int, *, correct: bool, trajectory: Callable[..., Trajectory], outcomes: Sequence[Outcome] = ("ok",)
) -> Trajectory:
    """An answer after so many tool turns, each with calls of these outcomes."""
    turns = [
        piece for _ in range(calls) for piece in (Piece("student", (1,)), Piece("tool", (2,), outcomes=tuple(outcomes)))
    ]
    made = trajectory(correct=correct)
    return replace(made, pieces=(Piece("prompt", (0,)), *turns, Piece("student", (1,))))


@pytest.mark.parametrize(
    ("calls", "worth"), [(0, -1.0), (1, -0.9), (2, -0.8), (3, -0.7), (4, -0.6), (5, -0.6), (16, -0.6)]
)
def test_a_wrong_answer_is_less_bad_after_more_tool_turns(
    calls: int, worth: float, trajectory: Callable[..., Trajectory]
) -> None:
    assert reward(after(calls, correct=False, trajectory=trajectory), PLAIN, max_tokens=99) == pytest.approx(worth)


@pytest.mark.parametrize("rule", get_args(ToolUse))
def test_a_right_answer_is_worth_1_however_many_calls_it_took(rule: str, trajectory: Callable[..., Trajectory]) -> None:
    options = RewardOptions.model_validate({"tool_use": rule, "overlong": 0})
    assert {reward(after(n, correct=True, trajectory=trajectory), options, max_tokens=99) for n in range(6)} == {1.0}


BROKEN = sorted(NO_CALL)
RAN = sorted(set(get_args(Outcome)) - NO_CALL)


@pytest.mark.parametrize(
    ("outcomes", "ran"),
    [([outcome], False) for outcome in BROKEN]
    + [([outcome], True) for outcome in RAN]
    + [(BROKEN, False), (["malformed", "ok"], True), (["ok", "ok"], True)],
)
@pytest.mark.parametrize(("rule", "pays_broken"), [("ran", False), ("paper", True)])
def test_a_turn_earns_once_if_a_call_ran_and_a_broken_one_earns_under_the_papers_rule_alone(
    outcomes: list[Outcome], ran: bool, rule: str, pays_broken: bool, trajectory: Callable[..., Trajectory]
) -> None:
    options = RewardOptions.model_validate({"tool_use": rule, "overlong": 0})
    tried = after(4, correct=False, trajectory=trajectory, outcomes=outcomes)
    assert reward(tried, options, max_tokens=99) == pytest.approx(-0.6 if ran or pays_broken else -1.0)


def test_broken_calls_are_worth_no_more_than_an_honest_wrong_answer(trajectory: Callable[..., Trajectory]) -> None:
    honest, *broken = (
        reward(after(n, correct=False, trajectory=trajectory, outcomes=["malformed"]), PLAIN, max_tokens=99)
        for n in range(17)
    )
    assert set(broken) == {honest} == {-1.0}


def test_a_call_that_ran_is_recognised_by_the_text_of_its_result() -> None:
    """Where only text is known: the complaints are those that the toolbox writes."""
    toolbox = Toolbox([PythonTool(Nowhere(), ToolOptions())])
    calls = [ToolCall(name="nothing", arguments={}), ToolCall(name="code_interpreter", arguments={"print": "1"})]
    told_by_us = asyncio.run(toolbox.answer(calls))
    assert [observation.outcome for observation in told_by_us] == ["unknown_tool", "wrong_arguments"]
    broken = [*(observation.text for observation in told_by_us), "Error when executing tool: 'x'"]
    told = "".join(f"call{i}<tool_response>\n{text}\n</tool_response>\n" for i, text in enumerate(broken))
    result = "<tool_response>\n42\n</tool_response>\n"
    assert turns_that_ran(told) == 0
    assert turns_that_ran(f"{told}again{result}") == 1
    assert turns_that_ran(f"a{result}b{result}c{result}{result}") == 3
    assert turns_that_ran("no tool here") == 0


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
