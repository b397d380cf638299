"""Alarms on histories made by hand: what must be heard, and what must not."""

from collections.abc import Sequence

import pytest

from sod.alarms import ALARMS, WINDOW, History, raised
from sod.config import TrainOptions

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
    "sampler_drift": ("sampler/gap_mean", 1e-5, 0.2),
    "lost_attempts": ("rollout/lost", 0.0, 0.3),
}


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
    metric, start, _ = GOES_WRONG[name]
    assert not raised(course(metric, start, start))


@pytest.mark.parametrize("name", ALARMS)
def test_recovery_ends_an_alarm(name: str) -> None:
    metric, start, end = GOES_WRONG[name]
    assert not raised([*course(metric, start, end), *course(metric, start, start)])


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
