"""`sod eval --compare`: how two evaluations differ, paired by problem, with how sure that is."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from sod.config import CompareEvaluationsOptions
from sod.console.progress import say
from sod.datasets.writing import replace
from sod.errors import DataError
from sod.evaluation.intervals import Interval, difference
from sod.evaluation.results import Evaluated, Sheet, read_evaluation, show_sheets
from sod.runs.files import to_json


@dataclass(frozen=True)
class Difference:
    """B minus A on one benchmark, over the problems that both have."""

    benchmark: str
    problems: int
    first: float
    second: float
    new_problems: Interval
    """Had both been measured on other problems of this kind: bootstrap over problems, paired by problem."""
    same_problems: Interval | None
    """On these very problems, with other samples, paired by problem and sample; None where a problem has a single one."""

    @property
    def verdict(self) -> str:
        if not self.new_problems.excludes_zero:
            return "not told apart"
        return "B is better" if self.new_problems.low > 0 else "B is worse"


def compare_evaluations(options: CompareEvaluationsOptions) -> list[Difference]:
    """Show how two evaluations differ, benchmark by benchmark, and write it down if asked to."""
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
    say(f"A is {options.first}, B is {options.second}. Intervals: 95 %, paired by problem, in points.")
    say("problems: had others of their kind been asked. samples: had these very problems been sampled anew.")
    for line in _unlike(first, second):
        say(f"careful: {line}")
    if options.out is not None:
        content = [asdict(each) | {"verdict": each.verdict} for each in found]
        replace(options.out, (to_json(content, indent=2, ascii=True) + "\n").encode())
        say(f"written to {options.out}")
    return found


def differences(first: Evaluated, second: Evaluated) -> list[Difference]:
    """For each benchmark that both have. Raises DataError where they have no problem in common."""
    common = [p for p in first.verdicts if first.verdicts[p] and second.verdicts.get(p)]
    names = dict.fromkeys(first.benchmark[problem] for problem in common)
    if not names:
        raise DataError(f"{first.folder} and {second.folder} have no problem in common.")
    return [_difference(first, second, name, [p for p in common if first.benchmark[p] == name]) for name in names]


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
"""Whether each sample of a problem was right, by its number."""


def _sampling_error(pairs: Sequence[tuple[Verdicts, Verdicts]], *, paired: bool) -> float | None:
    """Standard error of the mean difference over these very problems; None where a problem has too few samples.

    `paired`: two models that draw with the same seed are right and wrong together more often than by chance, and then their
    difference, sample by sample, is surer than its parts. Otherwise the variances of both add up.
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
    """Why the two may not be comparable."""
    one, other = first.results, second.results
    n, m = one.samples, other.samples
    if n != m:
        yield f"A has {n} samples of each problem, B {m}; a rate does not depend on that, pass@k and maj@n do."
    for name, value in one.settings.items():
        if value != other.settings[name]:
            yield f"{name} is {value} in A and {other.settings[name]} in B."
    for name in one.benchmarks.keys() & other.benchmarks.keys():
        if one.benchmarks[name].sha256 != other.benchmarks[name].sha256:
            yield f"{name} was read from different files; problems are paired by their ids."
    alone = first.verdicts.keys() ^ second.verdicts.keys()
    if alone:
        yield f"{len(alone)} problems are in one of the two only, and left out."
