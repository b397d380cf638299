"""Alarms on histories made by hand: what must be heard, and what must not."""

from collections.abc import Mapping, Sequence

import pytest

from sod.config import TrainOptions
from sod.runs.alarms import ALARMS, WINDOW, History, cold_start, raised

UPDATES = 20


def course(name: str, start: float, end: float, updates: int = UPDATES) -> list[dict[str, float]]:
    """A metric that goes evenly from one value to another."""
    return [{name: start + (end - start) * i / (updates - 1)} for i in range(updates)]


def joined(*courses: Sequence[dict[str, float]]) -> History:
    return [
        {name: value for metrics in update for name, value in metrics.items()} for update in zip(*courses, strict=True)
    ]


GOES_WRONG = {
    "tool_calls": ("tools/calls", 3.7, 0.5),
    "malformed_calls": ("tools/malformed", 0.02, 0.4),
    "truncated": ("stop/max_tokens", 0.05, 0.6),
    "entropy_collapse": ("learn/entropy", 0.6, 0.02),
    "entropy_explosion": ("learn/entropy", 0.6, 4.0),
    "divergence": ("steps/d", 0.4, 2.5),
    "silent_teacher": ("steps/first_step_agrees", 0.1, 0.7),
    "saturated_weights": ("steps/w_capped", 0.3, 1.0),
    "outlier_tokens": ("steps/signal_in_top_5_percent_of_tokens", 0.8, 1.0),
    "no_contrast": ("rollout/groups_alike", 0.3, 1.0),
    "cold_start": ("rollout/solved", 0.0, 0.0),
    "unsolved": ("rollout/groups_solved", 0.8, 0.02),
    "shaped_reward": ("rollout/advantage_shaped", 0.1, 0.9),
    "sampler_drift": ("sampler/gap_mean", 1e-5, 0.2),
    "misaligned_teacher": ("teacher/aligned_share", 1.0, 0.8),
    "sampler_weights": ("sampler/weight_cut", 0.001, 0.2),
    "lost_attempts": ("rollout/lost", 0.0, 0.3),
}
FINE = {name: start for name, (_, start, _) in GOES_WRONG.items()} | {"cold_start": 0.4}
"""A value of each metric that gives no cause for alarm."""


def test_there_is_a_history_for_every_alarm() -> None:
    assert set(GOES_WRONG) == set(ALARMS)


@pytest.mark.parametrize("name", ALARMS)
def test_an_alarm_is_raised_by_what_it_watches_for_and_alone(name: str) -> None:
    assert set(raised(course(*GOES_WRONG[name]))) == {name}


@pytest.mark.parametrize("name", ALARMS)
def test_an_alarm_says_what_it_saw_why_it_matters_and_what_to_try_in_one_line(name: str) -> None:
    (words,) = raised(course(*GOES_WRONG[name])).values()
    assert ALARMS[name].why in words
    assert ALARMS[name].remedy in words
    assert "\n" not in words
    assert any(character.isdigit() for character in words.partition(":")[0])


@pytest.mark.parametrize("name", ALARMS)
def test_what_stays_as_it_was_raises_nothing(name: str) -> None:
    assert not raised(course(GOES_WRONG[name][0], FINE[name], FINE[name]))


@pytest.mark.parametrize("name", ALARMS)
def test_recovery_ends_an_alarm(name: str) -> None:
    metric, start, end = GOES_WRONG[name]
    assert not raised([*course(metric, start, end), *course(metric, FINE[name], FINE[name])])


def test_every_alarm_stands_in_the_options_help() -> None:
    help = TrainOptions.model_fields["stop_on"].description or ""
    assert all(name in help for name in ALARMS)


def test_a_healthy_run_is_quiet() -> None:
    healthy = joined(
        course("tools/calls", 3.7, 3.2),
        course("tools/malformed", 0.05, 0.01),
        course("stop/max_tokens", 0.05, 0.08),
        course("learn/entropy", 0.6, 0.3),
        course("steps/d", 0.5, 0.1),
        course("steps/first_step_agrees", 0.0, 0.1),
        course("steps/w_capped", 0.3, 0.5),
        course("steps/signal_in_top_5_percent_of_tokens", 0.6, 0.9),
        course("rollout/groups_alike", 0.2, 0.5),
        course("rollout/solved", 0.02, 0.5),
        course("rollout/groups_solved", 0.15, 0.9),
        course("rollout/advantage_shaped", 0.45, 0.1),
        course("rollout/lost", 0.0, 0.01),
    )
    assert not any(raised(healthy[:n]) for n in range(len(healthy) + 1))


def test_nothing_is_said_before_there_is_something_to_compare() -> None:
    for name in ALARMS:
        early = course(*GOES_WRONG[name], updates=WINDOW - 1)
        assert not raised(early)
    assert not raised([])


def test_a_missing_metric_is_no_alarm() -> None:
    assert not raised([{"rollout/reward": 0.0}] * UPDATES)


# What is bad from the beginning: no first update to compare with

LAPTOP = {
    "rollout/solved": (0.0, 0.12, 0.0),
    "tools/malformed": (0.57, 0.67, 1.0),
    "rollout/advantage_shaped": (1.0, 0.5, 1.0),
    "rollout/groups_solved": (0.0, 0.5, 0.0),
}
"""GRPO on a 135M model after a weak cold start: two groups of four attempts an update."""


def updates(metrics: Mapping[str, Sequence[float]]) -> History:
    return [dict(zip(metrics, values, strict=True)) for values in zip(*metrics.values(), strict=True)]


def test_a_student_that_learns_to_break_its_calls_is_seen_in_the_third_update() -> None:
    assert {"malformed_calls", "shaped_reward"} <= raised(updates(LAPTOP)).keys()


@pytest.mark.parametrize(
    ("name", "metric", "share"),
    [
        ("malformed_calls", "tools/malformed", 0.57),
        ("malformed_calls", "tools/malformed", 1.0),
        ("truncated", "stop/max_tokens", 0.55),
        ("truncated", "stop/max_tokens", 0.94),
    ],
)
def test_a_share_that_cannot_double_is_seen_as_it_stands(name: str, metric: str, share: float) -> None:
    assert set(raised(course(metric, share, share))) == {name}


def test_a_run_that_solves_nothing_is_told_so_after_the_first_update_that_has_attempts_enough() -> None:
    small, large = ({"rollout/solved": 0.0, "rollout/attempts": count} for count in (8.0, 64.0))
    assert set(raised([large])) == {"cold_start"}
    assert not raised([small, small])
    assert set(raised([small] * WINDOW)) == {"cold_start"}
    assert not raised([large, {"rollout/solved": 0.02, "rollout/attempts": 64.0}])


def test_a_run_that_solves_nothing_has_one_alarm_for_it() -> None:
    names = ("rollout/solved", "rollout/groups_solved")
    nothing = joined(*(course(name, 0, 0) for name in names), course("rollout/groups_alike", 1, 1))
    assert set(raised(nothing)) == {"cold_start"}


def test_a_share_of_hardly_any_calls_is_no_alarm() -> None:
    for calls, names in ((0.01, set[str]()), (0.5, {"malformed_calls"})):
        history = joined(course("tools/calls", calls, calls), course("tools/malformed", 0.1, 1.0))
        assert set(raised(history)) == names


@pytest.mark.parametrize(
    ("solved", "hopeless"), [(0.0, True), (0.002, True), (0.0099, True), (0.01, False), (0.4, False)]
)
def test_a_start_that_solves_next_to_nothing_is_called_hopeless(solved: float, hopeless: bool) -> None:
    words = cold_start(solved)
    assert bool(words) == hopeless
    assert not hopeless or f"{solved:.1%}" in words
