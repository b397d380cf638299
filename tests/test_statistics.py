"""Intervals: what they are made of, and how often they hold the truth."""

import math

import numpy as np
import pytest

from sod.evaluation.intervals import Interval, Solved, difference, rate


def solved(right: list[list[int]], tried: int = 4) -> Solved:
    counts = np.array(right)
    return Solved(counts, np.full_like(counts, tried))


def test_a_rate_is_the_mean_over_problems_and_seeds() -> None:
    assert rate(solved([[4, 0], [2, 2]])).mean == pytest.approx(0.5)


def test_a_difference_is_paired_by_problem() -> None:
    hard_and_easy = [[0] * 50 + [3] * 50]
    a_bit_better = [[1] * 50 + [4] * 50]
    interval = difference(solved(a_bit_better), solved(hard_and_easy))
    assert (interval.mean, interval.low, interval.high) == pytest.approx((0.25, 0.25, 0.25))
    assert rate(solved(a_bit_better)).high - rate(solved(a_bit_better)).low > 0.1  # unpaired, they would overlap


def test_equal_results_are_not_told_apart() -> None:
    same = solved([[1, 2, 3, 4]])
    assert difference(same, same) == Interval(0.0, 0.0, 0.0)
    assert not difference(same, same).excludes_zero


def test_a_problem_without_a_judged_sample_is_left_out_of_both() -> None:
    first = Solved(np.array([[4, 0]]), np.array([[4, 4]]))
    second = Solved(np.array([[2, 0]]), np.array([[4, 0]]))
    assert difference(first, second).mean == pytest.approx(0.5)


def test_nothing_at_all_has_no_mean() -> None:
    assert math.isnan(rate(Solved(np.zeros((1, 2), int), np.zeros((1, 2), int))).mean)


def test_seeds_that_disagree_widen_the_interval() -> None:
    right = np.random.default_rng(0).integers(0, 3, 100).tolist()
    apart = solved([right, [r + 2 for r in right]])
    alike = solved([[r + 1 for r in right]] * 2)
    assert rate(apart).high - rate(apart).low > 5 * (rate(alike).high - rate(alike).low)


def test_the_same_numbers_give_the_same_interval() -> None:
    some = solved([[1, 2, 3, 0, 4, 1, 2, 0]])
    assert rate(some) == rate(some)


@pytest.mark.parametrize("between_seeds", [0.0, 0.15, 0.4])
def test_intervals_over_three_seeds_hold_the_truth_at_least_as_often_as_they_say(between_seeds: float) -> None:
    """Two methods of equal worth, 100 problems, 4 samples; log-odds differ by problem, seed and both."""
    rng = np.random.default_rng(1)
    problems_P = rng.normal(0.3, 1.5, 100)
    held, trials = 0, 100
    for _ in range(trials):
        methods = []
        for _ in range(2):
            odds = problems_P + rng.normal(0, 0.3, 100) + rng.normal(0, 0.3, (3, 100))
            rates = 1 / (1 + np.exp(-odds - rng.normal(0, between_seeds, (3, 1))))
            methods.append(Solved(rng.binomial(4, rates), np.full((3, 100), 4)))
        interval = difference(*methods)
        held += interval.low <= 0 <= interval.high
    assert held >= 0.9 * trials  # 95 are meant; with 100 trials, fewer than 90 would be no chance


@pytest.mark.parametrize("problems", [3, 5, 10, 30])
def test_equal_models_are_seldom_told_apart_however_few_the_problems(problems: int) -> None:
    rng = np.random.default_rng(problems)
    apart, trials = 0, 200
    for _ in range(trials):
        rates_P = rng.beta(1, 1, problems)
        first, second = (Solved(rng.binomial(8, rates_P)[None], np.full((1, problems), 8)) for _ in range(2))
        apart += difference(first, second).excludes_zero
    assert apart <= 0.1 * trials


@pytest.mark.parametrize("problems", [1, 2])
def test_of_one_or_two_problems_nothing_is_said_about_others(problems: int) -> None:
    interval = difference(solved([[4] * problems]), solved([[0] * problems]))
    assert interval.mean == 1.0
    assert math.isnan(interval.low)
    assert not interval.excludes_zero
