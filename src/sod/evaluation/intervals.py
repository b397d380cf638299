"""How sure a comparison is. NumPy alone.

Results come as `right` and `tried`, (S, P) each: of the samples at problem p by the run with seed s, how many were right, and
how many could be judged.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
NORMAL = 1.959964
"""The normal's quantile at 97.5 %."""
TOO_FEW, FEW = 3, 10
"""Problems: fewer say nothing of others; fewer are too few to be drawn from."""
DRAWS = 4000
"""Of the bootstrap; its own error of a limit is then some hundredth of the interval's width."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and where it would lie in 95 of 100 repetitions."""

    mean: float
    low: float
    high: float
    """Not numbers where the interval cannot be known."""

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0

    def in_points(self) -> str:
        """A difference of rates as percentage points, "+2.2 [-0.2, +4.8]"; the mean alone if that is all that is known."""
        mean, low, high = (100 * value for value in (self.mean, self.low, self.high))
        return f"{mean:+.1f}" + ("" if math.isnan(low) else f" [{low:+.1f}, {high:+.1f}]")


@dataclass(frozen=True, slots=True)
class Solved:
    """How often each problem was solved under each seed."""

    right_SP: Counts
    tried_SP: Counts

    def problems(self, index: NDArray[np.intp]) -> "Solved":
        return Solved(self.right_SP[:, index], self.tried_SP[:, index])


def rate(solved: Solved, *, seed: int = 0) -> Interval:
    """The mean solve rate (avg@n), each problem and each seed counting alike."""
    solved = solved.problems(np.flatnonzero(solved.tried_SP.min(0)))
    return _bootstrap([(1.0, solved)], seed)


def difference(first: Solved, second: Solved, *, seed: int = 0) -> Interval:
    """Mean solve rate of the first minus that of the second, paired by problem and by seed.

    Both must have the same seeds and problems, in the same order. Problems that one of them has no judged sample of are left
    out of both.
    """
    common = np.flatnonzero(np.minimum(first.tried_SP, second.tried_SP).min(0))
    return _bootstrap([(1.0, first.problems(common)), (-1.0, second.problems(common))], seed)


def _bootstrap(terms: list[tuple[float, Solved]], seed: int) -> Interval:
    """A sum of solve rates, over three sources of chance: which problems, which samples, which training seeds.

    Problems are drawn with replacement, the same for every term and seed. That carries the samples along: a problem's
    observed rate varies by theirs, too, and drawing them once more would count them twice. Three or five seeds are too few to
    be drawn from themselves, the intervals would be much too short. Instead the mean over seeds gets the error that
    Student's t gives it, from the spread of the seeds' own means with S - 1 degrees of freedom. With one seed there is no
    telling what another would do, and the interval speaks of this seed alone.

    Draws from few problems lie too close together, and the more so the fewer there are; they are spread by what Student's t
    with P - 1 degrees of freedom is wider than a normal, and very few are left to it altogether.

    `tests/test_statistics.py` simulates how often such intervals hold the truth.
    """
    rng = np.random.default_rng(seed)
    by_seed_SP = sum(sign * solved.right_SP / solved.tried_SP for sign, solved in terms)
    assert isinstance(by_seed_SP, np.ndarray)
    seeds, problems = by_seed_SP.shape
    mean = float(by_seed_SP.mean()) if problems else math.nan
    if problems < TOO_FEW:
        return Interval(mean, math.nan, math.nan)
    if problems < FEW:
        error = by_seed_SP.mean(0).std(ddof=1) / math.sqrt(problems)
        draws_R = mean + error * rng.standard_t(problems - 1, size=DRAWS)
    else:
        # How often each draw takes each problem: drawing with replacement, without an index of DRAWS x P numbers.
        times_RP = rng.multinomial(problems, np.full(problems, 1 / problems), size=DRAWS)
        draws_R = mean + _spread(problems) * (times_RP @ by_seed_SP.mean(0) / problems - mean)
    if seeds > 1:
        deviation = by_seed_SP.mean(1).std(ddof=1) / math.sqrt(seeds)
        draws_R = draws_R + deviation * rng.standard_t(seeds - 1, size=DRAWS)
    low, high = np.quantile(draws_R, [0.025, 0.975])
    return Interval(mean, float(low), float(high))


def _spread(problems: int) -> float:
    """How much wider than the bootstrap's the deviations of a mean are: sqrt(P / (P - 1)) t / z, at 97.5 %."""
    t = np.quantile(np.random.default_rng(0).standard_t(problems - 1, size=100_000), 0.975)
    return math.sqrt(problems / (problems - 1)) * float(t) / NORMAL
