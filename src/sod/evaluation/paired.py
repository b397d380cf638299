"""`sod eval --compare`: the difference of two evaluations, paired by problem, with confidence intervals."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from sod.config import CompareEvaluationsOptions
from sod.console.progress import echo
from sod.datasets.writing import replace
from sod.errors import DataError
from sod.evaluation.intervals import Interval, difference
from sod.evaluation.results import Evaluated, read_evaluation
from sod.evaluation.sheets import Sheet, show_sheets
from sod.runs.files import to_json


@dataclass(frozen=True)
class Difference:
    """The difference B - A on one benchmark, over the problems that both have."""

    benchmark: str
    problems: int
    first: float
    second: float
    new_problems: Interval
    """Interval for new problems of the same kind: bootstrap over problems, paired by problem."""
    same_problems: Interval | None
    """Interval for new samples of the same problems, paired by problem and sample. None if a problem has a single sample."""

    @property
    def verdict(self) -> str:
        if not self.new_problems.excludes_zero:
            return "not told apart"
        return "B is better" if self.new_problems.low > 0 else "B is worse"


def compare_evaluations(options: CompareEvaluationsOptions) -> list[Difference]:
    """Print the difference of two evaluations per benchmark, and write it to `options.out` if given."""
    first, second = read_evaluation(options.first), read_evaluation(options.second)
    found = differences(first, second)
    n, m = (each.results.samples for each in (first, second))
    head = ["", "problems", f"A: avg@{n}, %", f"B: avg@{m}, %", "B - A, problems", "B - A, samples", "verdict"]
    rows = [
        [
            each.benchmark,
            str(each.problems),
            f"{100 * each.first:.1f}",
            f"{100 * each.second:.1f}",
            each.new_problems.in_points(),
            each.same_problems.in_points() if each.same_problems else "",
            each.verdict,
        ]
        for each in found
    ]
    show_sheets([Sheet("", head, rows)])
    echo(f"A is {options.first}, B is {options.second}. Intervals: 95 %, paired by problem, in percentage points.")
    echo("problems: for new problems of the same kind. samples: for new samples of the same problems.")
    for line in _unlike(first, second):
        echo(f"careful: {line}")
    if options.out is not None:
        content = [asdict(each) | {"verdict": each.verdict} for each in found]
        replace(options.out, (to_json(content, indent=2, ascii=True) + "\n").encode())
        echo(f"written to {options.out}")
    return found


def differences(first: Evaluated, second: Evaluated) -> list[Difference]:
    """Return the difference on each common benchmark. Raises DataError if the evaluations have no problem in common."""
    common = [
        p for p in first.verdicts if first.verdicts[p] and second.verdicts.get(p) and _is_of_one_set(first, second, p)
    ]
    names = dict.fromkeys(first.benchmark[problem] for problem in common)
    if not names:
        raise DataError(
            f"{first.folder} and {second.folder} have no problem in common. Pass evaluations of the same data."
        )
    return [_difference(first, second, name, [p for p in common if first.benchmark[p] == name]) for name in names]


def _is_of_one_set(first: Evaluated, second: Evaluated, problem: str) -> bool:
    """Return whether both read the problem from a set of one name, or from equal files. Ids may be numbers of rows."""
    one, other = first.benchmark[problem], second.benchmark[problem]
    return one == other or first.results.benchmarks[one].sha256 == second.results.benchmarks[other].sha256


def _difference(first: Evaluated, second: Evaluated, name: str, problems: Sequence[str]) -> Difference:
    a, b = first.solved(problems), second.solved(problems)
    rate_a, rate_b = (float((each.right_SP / each.tried_SP).mean()) for each in (a, b))
    mean = rate_b - rate_a
    one, other = first.results, second.results
    paired = (one.seed, one.samples) == (other.seed, other.samples)
    error = _sampling_error([(first.verdicts[p], second.verdicts[p]) for p in problems], paired=paired)
    same = None if error is None else Interval(mean, mean - 1.96 * error, mean + 1.96 * error)
    return Difference(name, len(problems), rate_a, rate_b, difference(b, a), same)


Verdicts = dict[int, bool]
"""Whether each sample of a problem is right, by its number."""


def _sampling_error(pairs: Sequence[tuple[Verdicts, Verdicts]], *, paired: bool) -> float | None:
    """Return the standard error of the mean difference over the same problems. None if a problem has too few samples.

    `paired`: both evaluations used the same seed, so their samples are correlated. The variance of the difference per sample
    is then smaller than the sum of both variances, which is used otherwise.
    """
    variance = 0.0
    for one, other in pairs:
        both = [[float(other[sample]) - one[sample] for sample in one if sample in other]]
        for values in both if paired else [list(one.values()), list(other.values())]:
            if len(values) < 2:
                return None
            variance += float(np.var(np.array(values, dtype=float), ddof=1)) / len(values)
    return math.sqrt(variance) / len(pairs)


def _unlike(first: Evaluated, second: Evaluated) -> Iterable[str]:
    """Yield the reasons why the two may not be comparable."""
    one, other = first.results, second.results
    n, m = one.samples, other.samples
    if n != m:
        yield f"A has {n} samples of each problem, B {m}. pass@k and maj@n depend on this number, avg@n does not."
    for name, value in one.settings.items():
        if value != other.settings[name]:
            yield f"{name} is {value} in A and {other.settings[name]} in B."
    for name in one.benchmarks.keys() & other.benchmarks.keys():
        if one.benchmarks[name].sha256 != other.benchmarks[name].sha256:
            yield f"{name} was read from different files. Problems are paired by their ids."
    alone = first.verdicts.keys() ^ second.verdicts.keys()
    if alone:
        yield f"{len(alone)} problems are in only one of the two, and are left out."
