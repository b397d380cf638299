"""Validate a run of `sod train`: attempt held-out problems with its engine, chat format, tools and judges.

Attempts, seeds and numbers are those of `sod eval`. A seed depends on the problem and the sample, not on the update, so the
attempts of two validations are paired.
"""

import functools
import logging
import math
import operator
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sod.config import EvalRolloutOptions, SamplingOptions, TrainOptions
from sod.datasets import ProblemSet
from sod.datasets.asking import unasked
from sod.datasets.overlap import ProblemIdentity
from sod.datasets.several import sets_fingerprint
from sod.engines import Engine
from sod.evaluation.intervals import Interval, mean_over_problems, mean_over_sets
from sod.evaluation.measures import Tally, mean_over, pass_at
from sod.processes.distributed import Ranks
from sod.rollout.agent import Agent
from sod.rollout.groups import attempts, group_of
from sod.rollout.harness import Harness
from sod.runs.contents import content_digests
from sod.runs.directory import Run
from sod.runs.metrics import RolloutTotals
from sod.runs.records import Record, to_record
from sod.runs.validations import Validation
from sod.scoring import check_enough
from sod.types import Group, Problem, Trajectory
from sod.validation.course import Course
from sod.validation.sets import validation_sets, warn_of_overlap

logger = logging.getLogger(__name__)

SHOWN = 8
"""Number of problems of each set with one trajectory in the run directory."""


@dataclass(frozen=True)
class HeldOut:
    """The held-out problems of a run, before a model is loaded."""

    options: TrainOptions
    sets: list[ProblemSet]
    limits: SamplingOptions
    """The limits of training, with the top_p of evaluations."""

    @classmethod
    def open(cls, options: TrainOptions, problems: Sequence[Problem], ranks: Ranks) -> "HeldOut | None":
        """Open the sets, and warn of problems that are also training problems. None without validation."""
        wanted = options.validate
        if not wanted.data:
            return None
        sets = ranks.first(lambda: validation_sets(wanted))
        for each in sets:
            for note in each.notes:
                logger.info(f"{each.name}: {note}")
            warn_of_overlap(
                each.name, list(map(ProblemIdentity.of, each.problems)), list(map(ProblemIdentity.of, problems))
            )
        kept = {name: getattr(options.rollout, name) for name in SamplingOptions.model_fields}
        return cls(options, sets, EvalRolloutOptions.model_validate(kept | {"top_p": wanted.top_p}))

    def check(self, harness: Harness) -> None:
        """Check that every problem has a judge and a prompt within the limit. Warn of prompts that do not ask for an answer."""
        for each in self.sets:
            harness.check(each.problems, self.limits)
            for line in unasked(harness.with_tools(each.problems), harness.frame):
                logger.warning(f"careful: {each.name}: {line}")

    @property
    def settings(self) -> dict[str, Any]:
        """What the numbers depend on, apart from the model and the options that a run never changes."""
        wanted = self.options.validate.model_dump(mode="json", include={"samples", "limit", "top_p", "seed", "prompts"})
        contents = content_digests(self.options, [(each.path, each.problems) for each in self.sets])
        wanted |= {"files": contents} if contents else {}
        return wanted | {"sets": [each.name for each in self.sets], "data": sets_fingerprint(self.sets)}

    def validator(self, run: Run, harness: Harness, engine: Engine, ranks: Ranks) -> "Validator":
        agent = harness.agent(engine, self.limits, logprobs=False)
        wanted = self.options.validate
        course = Course.open(
            run, wanted, SolveScale(wanted.measure, wanted.samples), self.settings, keep=self.options.keep, ranks=ranks
        )
        return Validator(self, course, agent, harness, ranks)


@dataclass
class Attempted:
    """The counts of one problem, or of the problems of a set."""

    tally: Tally
    totals: RolloutTotals = field(default_factory=RolloutTotals)
    shown: list[Record] = field(default_factory=list)


@dataclass
class Validator:
    """Validates the student as it is."""

    held_out: HeldOut
    course: Course
    agent: Agent
    harness: Harness
    ranks: Ranks

    @property
    def problems(self) -> list[tuple[ProblemSet, Problem]]:
        """The problems that this process attempts."""
        return self.ranks.share([(each, problem) for each in self.held_out.sets for problem in each.problems])

    @property
    def attempts(self) -> int:
        return len(self.problems) * self.held_out.options.validate.samples

    def sample(self, advance: Callable[[], None]) -> tuple[Coroutine[Any, Any, None], dict[str, Attempted]]:
        """Return a coroutine that attempts this process's problems, and the counts that it fills, by problem."""
        wanted = self.held_out.options.validate
        mine = {problem.id: (each, problem) for each, problem in self.problems}
        shown = {problem.id for each in self.held_out.sets for problem in each.problems[:SHOWN]}
        ended: dict[str, dict[int, Trajectory | None]] = {}
        counts: dict[str, Attempted] = {}

        def keep(problem: Problem, sample: int, attempt: Trajectory | None) -> None:
            advance()
            of = ended.setdefault(problem.id, {})
            of[sample] = attempt
            if len(of) == wanted.samples:
                each, _ = mine[problem.id]
                group = group_of(problem, ended.pop(problem.id))
                counts[problem.id] = self._count(each, group, show=problem.id in shown)

        jobs = ((problem, sample) for _, problem in mine.values() for sample in range(wanted.samples))
        return attempts(self.agent, jobs, seed=wanted.seed, on_trajectory=keep), counts

    def _count(self, each: ProblemSet, group: Group, *, show: bool) -> Attempted:
        counts = Attempted(Tally(each.votes))
        counts.tally.add(group)
        counts.totals.add(group)
        if show and len(group):
            first = to_record(group.trajectories[0], self.harness.chat.tokenizer.decode)
            counts.shown.append(first | {"benchmark": each.name} | ({"private": True} if each.private else {}))
        return counts

    def conclude(self, update: int, counts: dict[str, Attempted], started: float) -> tuple[Validation, list[Record]]:
        """Return the validation over all processes, and some of its trajectories. All processes must call this.

        Raises InfrastructureError if more attempts were lost than graded.
        """
        gathered = self.ranks.gather((counts, time.monotonic() - started))
        everyone = {id: each for others, _ in gathered for id, each in others.items()}
        self._leave_no_trace()
        by_set: dict[str, dict[str, Attempted]] = {
            each.name: {problem.id: everyone[problem.id] for problem in each.problems} for each in self.held_out.sets
        }
        totals = {name: _sum(list(of.values())) for name, of in by_set.items()}
        lost = functools.reduce(operator.add, (each.totals for each in totals.values()))
        check_enough(kept=lost.count, dropped=lost.dropped, ungraded=lost.ungraded)
        problems = {
            name: {
                id: [float(each.tally.right[0]), float(each.tally.tried[0]), each.tally.majorities[0]]
                for id, each in of.items()
                if each.tally.tried
            }
            for name, of in by_set.items()
        }
        metrics = self._metrics(totals, problems) | {"seconds/validate": max(seconds for _, seconds in gathered)}
        records = [record for of in by_set.values() for each in of.values() for record in each.shown]
        return Validation(update, self.course.settings, metrics, problems), records

    def _metrics(self, totals: dict[str, "Attempted"], problems: dict[str, dict[str, list[float]]]) -> dict[str, float]:
        """Return the numbers of `sod eval` for each set, their means, and half-widths of 95 % intervals."""
        samples = self.held_out.options.validate.samples
        measured = {name: each.tally.measured() | each.totals.metrics() for name, each in totals.items()}
        found = {f"validate/{name}/{key}": value for name, of in measured.items() for key, value in of.items()}
        found |= {f"validate/{key}": value for key, value in mean_over(list(measured.values())).items()}
        for measure in MEASURES:
            key = measure_key(measure, samples)
            if not all(key in of for of in measured.values()):
                continue
            intervals = {
                name: mean_over_problems(list(values_of(measure, of, samples).values()))
                for name, of in problems.items()
            }
            halves = {f"validate/{name}/{key}_half": interval.half for name, interval in intervals.items()}
            halves[f"validate/{key}_half"] = mean_over_sets(list(intervals.values())).half
            found |= {name: half for name, half in halves.items() if not math.isnan(half)}
        return found

    def _leave_no_trace(self) -> None:
        """Take the times and counts of the validation away from the next update's."""
        self.agent.engine.take_busy_seconds()
        self.harness.environments.take_busy_seconds()
        self.harness.sandbox.take_statistics()


MEASURES: dict[str, Callable[[float, float, float], float]] = {
    "avg": lambda right, tried, majority: right / tried,
    "pass": lambda right, tried, majority: pass_at(int(tried), int(right), int(tried)),
    "maj": lambda right, tried, majority: majority,
}
"""The value of each measure for one problem, from its right and graded samples and its majority."""


def values_of(measure: str, problems: Mapping[str, Sequence[float]], samples: int) -> dict[str, float]:
    """Return the value of a measure for each problem. pass and maj leave out problems that lost a sample, as `Tally` does."""
    value = MEASURES[measure]
    return {id: value(*of) for id, of in problems.items() if measure == "avg" or of[1] >= samples}


def measure_key(measure: str, samples: int) -> str:
    """Return the name of a measure in the metrics: pass of 4 samples is pass@4."""
    return f"pass@{samples}" if measure == "pass" else measure


@dataclass(frozen=True)
class SolveScale:
    """Compares validations by the mean of a measure over the sets."""

    measure: str
    samples: int

    def score(self, validation: Validation) -> float:
        """Return the mean of the measure over the sets. NaN for pass if every problem of a set lost an attempt."""
        return validation.metrics.get(f"validate/{measure_key(self.measure, self.samples)}", math.nan)

    def gain(self, new: Validation, old: Validation) -> Interval:
        intervals: list[Interval] = []
        for name, of in new.problems.items():
            now, before = (values_of(self.measure, each, self.samples) for each in (of, old.problems[name]))
            intervals.append(mean_over_problems([now[id] - before[id] for id in now if id in before]))
        return mean_over_sets(intervals)

    def line(self, validation: Validation) -> list[tuple[int, str]]:
        key, metrics = measure_key(self.measure, self.samples), validation.metrics
        parts: list[tuple[int, str]] = []
        for name in validation.problems:
            if (mean := metrics.get(f"validate/{name}/{key}")) is None:
                graded = validation.problems[name]
                why = f"no {key}, every problem lost a sample" if graded else "no attempt was graded"
                parts.append((8, f"{name}: {why}"))
                continue
            half = metrics.get(f"validate/{name}/{key}_half")
            parts.append((8, f"{name} {100 * mean:.1f}" + ("" if half is None else f" ± {100 * half:.1f}")))
        if len(validation.problems) > 1 and not math.isnan(score := self.score(validation)):
            parts.append((6, f"mean {100 * score:.1f}"))
        return [*parts, (3, f"{metrics['seconds/validate']:.1f} s")]


def _sum(counts: Sequence[Attempted]) -> Attempted:
    """Return the counts of several problems, in their order."""
    whole = Attempted(Tally(counts[0].tally.votes))
    for each in counts:
        whole.tally.extend(each.tally)
        whole.totals += each.totals
    return whole
