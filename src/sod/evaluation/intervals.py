"""Confidence intervals of solve rates and of their differences. Uses NumPy only.

Inputs are counts of shape (S, P): for the run with seed s, the right and the graded samples of problem p.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
NORMAL = 1.959964
"""97.5 % quantile of the normal distribution."""
TOO_FEW, FEW = 3, 10
"""With fewer problems than the first number there is no interval; with fewer than the second there is no bootstrap."""
DRAWS = 4000
"""Number of bootstrap draws. The error of a limit is then about a hundredth of the interval's width."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95 % confidence interval."""

    mean: float
    low: float
    high: float
    """`low` and `high` are NaN if the interval is unknown."""

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0

    @property
    def half(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2

    def in_points(self) -> str:
        """Return a difference of rates in percentage points: "+2.2 [-0.2, +4.8]", or "+2.2" without an interval."""
        mean, low, high = (100 * value for value in (self.mean, self.low, self.high))
        return f"{mean:+.1f}" + ("" if math.isnan(low) else f" [{low:+.1f}, {high:+.1f}]")


@dataclass(frozen=True, slots=True)
class Solved:
    """Counts of right and of graded samples, per seed and problem."""

    right_SP: Counts
    tried_SP: Counts

    def problems(self, index: NDArray[np.intp]) -> "Solved":
        return Solved(self.right_SP[:, index], self.tried_SP[:, index])


def rate(solved: Solved, *, seed: int = 0) -> Interval:
    """Return the mean solve rate (avg@n). Problems and seeds have equal weights."""
    solved = solved.problems(np.flatnonzero(solved.tried_SP.min(0)))
    return _interval(solved.right_SP / solved.tried_SP, seed)


def difference(first: Solved, second: Solved, *, seed: int = 0) -> Interval:
    """Return the mean solve rate of the first minus that of the second, paired by problem and by seed.

    Both must have the same seeds and problems, in the same order. Problems without a graded sample in one of them are left
    out.
    """
    return _interval(_differences(first, second), seed)


def draws_of_difference(first: Solved, second: Solved, *, seed: int, repeats: int) -> NDArray[np.float64] | None:
    """Return `repeats` times as many draws as `difference` uses. None with too few problems.

    Every draw of problems is used `repeats` times, each with an error of its own for the seeds.
    """
    return _draws(_differences(first, second), seed, repeats)


def _differences(first: Solved, second: Solved) -> NDArray[np.float64]:
    """Return the difference of the solve rates of each seed and problem that both have."""
    common = np.flatnonzero(np.minimum(first.tried_SP, second.tried_SP).min(0))
    one, other = first.problems(common), second.problems(common)
    return one.right_SP / one.tried_SP - other.right_SP / other.tried_SP


def mean_over_problems(values_P: Sequence[float], *, seed: int = 0) -> Interval:
    """Return the mean of one value per problem, such as a paired difference, for new problems of the same kind."""
    return _interval(np.array([values_P], dtype=float), seed)


def bounded(interval: Interval, problems: int, lowest: float) -> Interval:
    """Limit an interval to [lowest, 1], and widen one without width.

    A bootstrap gives no width where all problems have the same value, which is no certainty. Half of the width then becomes
    the Clopper-Pearson limit of 0 in `problems` trials, 1 - 0.025^(1 / problems).
    """
    if math.isnan(interval.low):
        return interval
    half = 0.0 if interval.high > interval.low else 1 - 0.025 ** (1 / problems)
    return Interval(interval.mean, max(lowest, interval.low - half), min(1.0, interval.high + half))


def mean_over_sets(intervals: Sequence[Interval]) -> Interval:
    """Return the mean of independent means, with equal weights: each side is the root of the sum of the sides' squares / n."""
    count = len(intervals)
    mean = math.fsum(each.mean for each in intervals) / count
    below = math.sqrt(math.fsum((each.mean - each.low) ** 2 for each in intervals)) / count
    above = math.sqrt(math.fsum((each.high - each.mean) ** 2 for each in intervals)) / count
    return Interval(mean, mean - below, mean + above)


def _interval(by_seed_SP: NDArray[np.float64], seed: int) -> Interval:
    """Return the mean over seeds and problems with an interval over three sources of chance: problems, samples, seeds.

    Problems are drawn with replacement, the same ones for every term and seed. This includes the chance in the samples,
    because the observed rate of a problem varies with its samples. Drawing samples as well would count it twice. A bootstrap
    over three or five seeds gives intervals that are much too short. The mean over seeds therefore gets an error from
    Student's t with S - 1 degrees of freedom, from the spread of the seeds' means. With one seed, the interval does not
    include variation between seeds.

    A bootstrap over few problems gives intervals that are too short. Its draws are therefore spread by the ratio of Student's
    t with P - 1 degrees of freedom to the normal. Fewer than `FEW` problems use Student's t only.

    `tests/test_statistics.py` simulates how often such intervals contain the true value.
    """
    mean = float(by_seed_SP.mean()) if by_seed_SP.size else math.nan
    draws_R = _draws(by_seed_SP, seed)
    if draws_R is None:
        return Interval(mean, math.nan, math.nan)
    low, high = np.quantile(draws_R, [0.025, 0.975])
    return Interval(mean, float(low), float(high))


def _draws(by_seed_SP: NDArray[np.float64], seed: int, repeats: int = 1) -> NDArray[np.float64] | None:
    """Return draws of the mean over seeds and problems, as `_interval` explains. None with too few problems."""
    rng = np.random.default_rng(seed)
    seeds, problems = by_seed_SP.shape
    if problems < TOO_FEW:
        return None
    mean = float(by_seed_SP.mean())
    if problems < FEW:
        error = by_seed_SP.mean(0).std(ddof=1) / math.sqrt(problems)
        draws_R = mean + error * rng.standard_t(problems - 1, size=DRAWS)
    else:
        # The number of times that each draw takes each problem. This avoids an index of DRAWS x P numbers.
        times_RP = rng.multinomial(problems, np.full(problems, 1 / problems), size=DRAWS)
        draws_R = mean + _spread(problems) * (times_RP @ by_seed_SP.mean(0) / problems - mean)
    draws_R = np.repeat(draws_R, repeats)
    if seeds > 1:
        deviation = by_seed_SP.mean(1).std(ddof=1) / math.sqrt(seeds)
        draws_R = draws_R + deviation * rng.standard_t(seeds - 1, size=len(draws_R))
    return draws_R


@cache
def _spread(problems: int) -> float:
    """Return the factor for the bootstrap's deviations from the mean: sqrt(P / (P - 1)) t / z, at 97.5 %."""
    t = np.quantile(np.random.default_rng(0).standard_t(problems - 1, size=100_000), 0.975)
    return math.sqrt(problems / (problems - 1)) * float(t) / NORMAL
