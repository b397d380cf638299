"""Choose and order the problems of a training run, optionally by the solve rates that `sod eval` measured."""

import logging
from collections.abc import Sequence
from pathlib import Path

from sod.config import TrainOptions
from sod.datasets.order import ProblemOrder
from sod.errors import DataError, OptionError
from sod.evaluation.results import read_evaluation
from sod.runs.files import sha256_of_file
from sod.types import Problem

logger = logging.getLogger(__name__)


def problem_order(options: TrainOptions, problems: Sequence[Problem]) -> ProblemOrder:
    """Return the order of the problems, at its beginning.

    Raise OptionError if fewer problems than one update needs are left, and DataError if a solve rate is missing.
    """
    chosen = options.problems
    if chosen.rates is None:
        order = ProblemOrder(problems, options.seed, chosen.order)
    else:
        rate_of = solve_rates(chosen.rates, options.data)
        if missing := [problem.id for problem in problems if problem.id not in rate_of]:
            raise DataError(
                f"{chosen.rates} has no solve rate of {len(missing)} problems in {options.data}, such as {missing[0]!r}. "
                "Evaluate this file alone and as a whole: run `sod eval` without --limit and without other files. If attempts "
                "were lost or not graded, run the same `sod eval` again."
            )
        kept = [problem for problem in problems if chosen.lowest <= rate_of[problem.id] <= chosen.highest]
        logger.info(
            f"{options.data}: {len(kept)} of {len(problems)} problems have a solve rate from {chosen.lowest:g} to "
            f"{chosen.highest:g}; the others are left out"
        )
        rates = tuple(rate_of[problem.id] for problem in kept)
        order = ProblemOrder(kept, options.seed, chosen.order, rates)
    if options.rollout.problems > len(order.problems):
        raise OptionError(
            f"rollout.problems is {options.rollout.problems}, but {options.data} holds {len(order.problems)} problems"
            f"{'' if chosen.rates is None else ' with such a solve rate'}; lower it."
        )
    return order


def teacher_rates(options: TrainOptions) -> dict[str, float] | None:
    """Return the teacher's solve rate of each problem by its id, for the rules that read it; None if none are given."""
    rates = options.algorithm.teacher_rates
    return None if rates is None else solve_rates(rates, options.data, option="algorithm.teacher_rates")


def solve_rates(evaluation: Path, data: Path, *, option: str = "problems.rates") -> dict[str, float]:
    """Return the share of right attempts at each problem of a file, by its id, from a finished evaluation of that file.

    `option`: the option that names the evaluation. Raise DataError for an evaluation that is unfinished, damaged or of
    another file.
    """
    evaluated = read_evaluation(evaluation)
    sha256 = sha256_of_file(data)
    name = next((name for name, each in evaluated.results.benchmarks.items() if each.sha256 == sha256), None)
    if name is None:
        raise DataError(
            f"{evaluation} is not an evaluation of {data}, as it is now. Run sod eval --data {data}, and give its --out as "
            f"{option}."
        )
    return {
        problem: sum(verdicts.values()) / len(verdicts)
        for problem, verdicts in evaluated.verdicts.items()
        if verdicts and evaluated.benchmark[problem] == name
    }
