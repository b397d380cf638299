"""Tests of many differences: p-values, Holm's correction, and the smallest difference that a plan can see. NumPy only."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from sod.evaluation.intervals import Solved, draws_of_difference

REPEATS = 5
"""A p-value uses this many times the draws of an interval, 20,000. The smallest is then 0.0001."""
LEVEL = 0.05
POWER = 0.8


def p_value(first: Solved, second: Solved, *, seed: int = 0) -> float:
    """Return the two-sided p-value of a difference of solve rates, paired by problem and by run. NaN with too few problems.

    It is the level at which the interval of `sod.evaluation.intervals.difference` would end at 0. A permutation of ten runs
    has no p-value below 0.002, so no difference could remain after a correction for forty comparisons.
    """
    draws_R = draws_of_difference(first, second, seed=seed, repeats=REPEATS)
    if draws_R is None:
        return math.nan
    least = min(int((draws_R <= 0).sum()), int((draws_R >= 0).sum()))
    return min(1.0, 2 * (least + 1) / (len(draws_R) + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values, corrected by Holm's method for their number. NaN remains NaN, and counts as a comparison."""
    order = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    corrected = [math.nan] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p))
        corrected[i] = largest
    return corrected


@dataclass(frozen=True, slots=True)
class Noise:
    """Standard deviations of the true difference of two solve rates, without the chance in the samples."""

    seeds: float
    """Between training seeds."""
    problems: float
    """Between problems."""


def noise_of(first: Solved, second: Solved) -> Noise:
    """Estimate the noise of a difference from two systems with the same runs and problems, and at least two runs.

    With a single sample of each problem, the noise includes the chance in the samples.
    """
    common = np.flatnonzero(np.minimum(first.tried_SP, second.tried_SP).min(0))
    first, second = first.problems(common), second.problems(common)
    rates = [each.right_SP / each.tried_SP for each in (first, second)]
    difference_SP = rates[0] - rates[1]
    runs, problems = difference_SP.shape
    sampling_SP = sum(
        rate * (1 - rate) / np.maximum(each.tried_SP - 1, 1) for rate, each in zip(rates, (first, second), strict=True)
    )
    sampling = float(np.mean(sampling_SP))
    between_seeds = max(0.0, float(difference_SP.mean(1).var(ddof=1)) - sampling / problems)
    between_problems = max(0.0, float(difference_SP.mean(0).var(ddof=1)) - sampling / runs)
    return Noise(math.sqrt(between_seeds), math.sqrt(between_problems))


def smallest_difference(problems: int, samples: int, runs: int, comparisons: int, noise: Noise) -> float:
    """Return the smallest true difference of solve rates that is found with a power of 80 %.

    Found: its p-value is below 0.05 / `comparisons`, the first step of Holm's method. `runs`: pairs of a cold start and a
    seed, at least 2. Half of the attempts are assumed right, where the chance in the samples is largest.
    """
    sampling = 2 * 0.25 / samples
    by_problem = (noise.problems**2 + sampling / runs) / problems
    by_run = (noise.seeds**2 + sampling / problems) / runs
    rng = np.random.default_rng(0)
    null_R = math.sqrt(by_problem) * rng.standard_normal(1_000_000)
    null_R += math.sqrt(by_run) * rng.standard_t(runs - 1, size=1_000_000)
    limit = float(np.quantile(np.abs(null_R), 1 - LEVEL / comparisons))
    error = math.sqrt(noise.problems**2 / problems + sampling / (runs * problems) + noise.seeds**2 / runs)
    return limit + NormalDist().inv_cdf(POWER) * error
