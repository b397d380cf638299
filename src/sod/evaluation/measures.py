"""Scores from several samples per problem: avg@n with two standard errors, pass@k, maj@n."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

from sod.rewards.kinds import is_silent
from sod.types import Group, Trajectory


def question_error(solved: Sequence[float]) -> float | None:
    """Return the standard error of the mean over problems that are drawn from a large population: sd / sqrt(P).

    It includes the sampling error of the same problems. None for fewer than two problems.
    """
    return stdev(solved) / math.sqrt(len(solved)) if len(solved) > 1 else None


def sampling_error(right: Sequence[int], tried: Sequence[int]) -> float | None:
    """Return the standard error of the mean when the same problems are sampled again: sqrt(sum of p (1 - p) / (n - 1)) / P.

    A problem with a single sample gets the mean variance of the others. None if every problem has a single sample.
    """
    known = [(c / n) * (1 - c / n) / (n - 1) for c, n in zip(right, tried, strict=True) if n > 1]
    return math.sqrt(fmean(known) / len(right)) if known else None


def pass_at(k: int, right: int, tried: int) -> float:
    """Return the probability that one of k samples is right, drawn without replacement: 1 - C(n - c, k) / C(n, k).

    Unbiased for k independent samples (Chen et al. 2021, arXiv 2107.03374, Eq. 1). Raise ValueError if k exceeds `tried`: fewer
    samples do not determine it.
    """
    if k > tried:
        raise ValueError(f"pass@{k} is not defined by {tried} samples")
    return 1 - math.comb(tried - right, k) / math.comb(tried, k)


def majority(group: Sequence[Trajectory]) -> float:
    """Return 1 if the most frequent answer is right and 0 if not; after a tie, 1 over the number of tied answers if one is right.

    All right answers count as the same answer, however they are written. A wrong sample without an answer has no vote.
    """
    verdicts = [t.judged for t in group]
    votes = Counter(None if v.is_right else v.answer for v in verdicts if v.is_right or v.answer is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    return (votes[None] == most) / sum(count == most for count in votes.values())


@dataclass
class Tally:
    """Counts the samples of many problems, one problem after another."""

    votes: bool = True
    """Whether answers can be compared for a majority; programs cannot."""
    samples: int = 0
    """Largest number of attempts at a problem, lost ones included: the n of avg@n."""
    problems_lost: int = 0
    """Number of problems without a graded sample. They are left out."""
    right: list[int] = field(default_factory=list)
    tried: list[int] = field(default_factory=list)
    majorities: list[float] = field(default_factory=list)
    """Right samples, graded samples and `majority` of each problem."""
    _none: int = 0
    _bounds: list[tuple[float, float]] = field(default_factory=list)
    """Solve rate of each problem if its lost attempts were wrong, and if they were right."""
    _by: dict[str, dict[str, "Tally"]] = field(default_factory=lambda: defaultdict(dict))

    def add(self, group: Group) -> None:
        """Count the graded samples of one problem."""
        self._count(group)
        for name, value in group.problem.labels.items():
            self._by[name].setdefault(value, Tally(self.votes))._count(group)

    def _count(self, group: Group) -> None:
        trajectories, lost = group.trajectories, group.dropped + len(group.ungraded)
        right, attempts = sum(t.judged.is_right for t in trajectories), len(trajectories) + lost
        self.samples = max(self.samples, attempts)
        if attempts:
            self._bounds.append((right / attempts, (right + lost) / attempts))
        if not trajectories:
            self.problems_lost += 1
            return
        self.right.append(right)
        self.tried.append(len(trajectories))
        self.majorities.append(majority(trajectories))
        self._none += sum(map(is_silent, trajectories))

    def extend(self, other: "Tally") -> None:
        """Count the problems of another tally after those of this one."""
        self.samples = max(self.samples, other.samples)
        self.problems_lost += other.problems_lost
        self.right += other.right
        self.tried += other.tried
        self.majorities += other.majorities
        self._none += other._none
        self._bounds += other._bounds
        for name, values in other._by.items():
            for value, tally in values.items():
                self._by[name].setdefault(value, Tally(self.votes)).extend(tally)

    @property
    def solved(self) -> list[float]:
        """Solve rate of each problem."""
        return [right / tried for right, tried in zip(self.right, self.tried, strict=True)]

    def measured(self) -> dict[str, float]:
        """Return avg@n, its standard errors, pass@k for powers of two, and maj@n; none of these without a graded sample.

        All problems have equal weight. avg is over all of them, also those that lost attempts; `avg_low` and `avg_high` bound it
        by counting lost attempts as wrong and as right. pass@k and maj@n are over the problems with at least k and n graded
        samples, and left out if there are none. `problems@k` is their number where it is smaller than `problems`.
        """
        solved = self.solved
        found: dict[str, float] = {
            "problems": len(solved),
            "problems_lost": self.problems_lost,
            "samples": self.samples,
        }
        if not solved:
            return found
        found["avg"] = fmean(solved)
        errors = {"avg_se": question_error(solved), "avg_sampling_se": sampling_error(self.right, self.tried)}
        found |= {name: error for name, error in errors.items() if error is not None}
        low, high = (fmean(bounds) for bounds in zip(*self._bounds, strict=True))
        found |= {} if low == high else {"avg_low": low, "avg_high": high}
        for k in powers_of_two(self.samples):
            enough = [(right, tried) for right, tried in zip(self.right, self.tried, strict=True) if tried >= k]
            if enough:
                found[f"pass@{k}"] = fmean(pass_at(k, *counts) for counts in enough)
            if len(enough) < len(solved):
                found[f"{COUNTED}{k}"] = len(enough)
        votes = [vote for vote, tried in zip(self.majorities, self.tried, strict=True) if tried >= self.samples]
        if self.votes and votes:
            found["maj"] = fmean(votes)
        return found | {"no_answer": self._none / sum(self.tried)}

    def by_label(self) -> dict[str, dict[str, dict[str, float]]]:
        """Return `measured` for each value of each label: difficulty -> hard -> avg -> 0.25."""
        return {name: {value: tally.measured() for value, tally in sorted(of.items())} for name, of in self._by.items()}


def powers_of_two(samples: int) -> Iterator[int]:
    """Yield 1, 2, 4, ... below `samples`, then `samples`."""
    k = 1
    while k < samples:
        yield k
        k *= 2
    if samples:
        yield samples


def mean_over(benchmarks: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the means of the numbers that all benchmarks have, with equal weights, as in the paper's last column.

    Standard errors are combined: the root of the sum of their squares, divided by the number of benchmarks. The numbers in
    `ADDED` are summed.
    """
    if not benchmarks:
        return {}
    common = [key for key in benchmarks[0] if all(key in other for other in benchmarks)]
    found: dict[str, float] = {}
    for key in common:
        values = [benchmark[key] for benchmark in benchmarks]
        if key.endswith("_se"):
            found[key] = math.sqrt(sum(value**2 for value in values)) / len(values)
        elif key in ADDED or key.startswith(COUNTED):
            found[key] = sum(values)
        else:
            found[key] = fmean(values)
    return found


COUNTED = "problems@"
"""Start of the name of a number of problems: those with at least this many graded samples."""
ADDED = {"problems", "problems_lost", "rollout/dropped", "rollout/ungraded", "rollout/tokens_sampled"}
