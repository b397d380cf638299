"""Measure a model: many samples per problem, and how sure the numbers are.

Every attempt is a line of `trajectories/update-0000.jsonl` as soon as it ends; what is there is not sampled again. Then, problem
by problem, other judges and the teacher have their say, and the numbers are counted: memory does not grow with the samples.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import fmean
from typing import Any

from sod import metrics
from sod.concurrency import Runner, together
from sod.config import AlgorithmOptions, EvalOptions, RolloutOptions
from sod.data import fingerprint_model
from sod.datasets import ProblemSet
from sod.datasets.several import fingerprint, open_sets
from sod.engines.opening import open_engine
from sod.errors import DataError, OptionError, SodError
from sod.hub import model_folder
from sod.measures import Tally, mean_over
from sod.models import check_context, check_embeddings, load_model
from sod.plan import plan
from sod.progress import Display, say
from sod.records import Record, from_record, scored_records, to_record
from sod.results import Results, check_paper, show, to_markdown
from sod.rewards import Verdict
from sod.rewards.referee import Referee
from sod.rollout import attempts
from sod.runs import Run
from sod.samples import SampleFile
from sod.scoring import Scorer, check_enough
from sod.teachers.local import LocalTeacher
from sod.types import Group, Problem, Trajectory
from sod.world import World

PAPER = AlgorithmOptions()
"""Its epsilon and delta, by which the weights of steps are reported."""


def evaluate_and_show(options: EvalOptions) -> None:
    if options.dry_run:
        say(plan(options))
        return
    show(evaluate(options))
    say(f"results and trajectories: {options.out}")


def evaluate(options: EvalOptions) -> Results:
    """Sample whatever is missing, judge, and write results to the run directory. -> the results

    Whatever interrupts it: the samples so far are kept, and so are results of them, labelled partial.
    """
    with Runner() as loop, Evaluation.open(options, loop) as evaluation:
        try:
            evaluation.sample()
        except (SodError, KeyboardInterrupt):
            evaluation.conclude(complete=False)
            raise
        return evaluation.conclude(complete=True)


@dataclass(frozen=True)
class Evaluation:
    """Everything that an evaluation holds while it is under way."""

    options: EvalOptions
    sets: list[ProblemSet]
    world: World
    loop: Runner
    run: Run
    samples: SampleFile
    write: Callable[[RolloutOptions], Any]
    """Opens the engine."""
    scorer: Scorer | None
    """Asks the teacher, if there is one."""

    @classmethod
    @contextmanager
    def open(cls, options: EvalOptions, loop: Runner) -> "Iterator[Evaluation]":
        """Check and load everything before anything is written, then create the run or take it up again."""
        check_paper(options.paper)
        served = options.engine.name == "served"
        if served and options.teacher:
            raise OptionError(
                "--teacher needs the log-probabilities of the model's own weights; a served model has none here."
            )
        sets = open_sets(options)
        folder = model_folder(options.model, weights=not served)
        world = World.of(folder, options, [problem for each in sets for problem in each.problems])
        tokenizer = world.chat.tokenizer
        files = {
            "data": fingerprint(sets),
            "model": f"served {options.engine.served_name}" if served else fingerprint_model(folder),
        }
        if options.teacher:
            files["teacher"] = fingerprint_model(model_folder(options.teacher))
        limits = options.rollout.model_copy(update={"group": options.samples})
        run = Run(options.out)
        begun = run.begun
        if begun:
            Run.open(options, options.out, data=files, resume=True)
        with SampleFile.open(run.trajectory_file(0)) as samples:
            model = scorer = None
            if not served and (options.teacher or any(_missing(sets, options.samples, samples))):
                model = load_model(folder, options.network)
                check_embeddings(model, tokenizer, folder)
                check_context(model, limits)
            if options.teacher and model is not None:
                teacher = LocalTeacher(
                    model_folder(options.teacher),
                    tokenizer,
                    options.network,
                    options.score,
                    limits,
                    microbatch_tokens=options.microbatch_tokens,
                )
                scorer = Scorer(
                    model,
                    teacher,
                    temperature=limits.temperature,
                    microbatch_tokens=options.microbatch_tokens,
                    student_from=options.score.student,
                )
            engine = partial(open_engine, loop, options.engine, model, tokenizer=tokenizer)
            with world.sandbox.working_in(loop):
                if begun:
                    run.write_options(options)
                else:
                    Run.open(options, options.out, data=files)
                yield cls(options, sets, world, loop, run, samples, engine, scorer)

    # Sampling

    def sample(self) -> None:
        """Every attempt that is not there yet."""
        jobs = list(_missing(self.sets, self.options.samples, self.samples))
        if not jobs:
            return
        if len(self.samples):
            say(f"{len(self.samples)} samples are there already; {len(jobs)} are to come.")
        of = {problem.id: each for each in self.sets for problem in each.problems}
        decode = self.world.chat.tokenizer.decode
        limits = self.options.rollout.model_copy(update={"group": self.options.samples})

        with self.write(limits) as engine, Display("evaluate", total=1) as display, display.phase("sample", len(jobs)):

            def keep(problem: Problem, sample: int, attempt: Trajectory | None) -> None:
                display.advance()
                if attempt is not None:
                    self.samples.append(_labelled(to_record(attempt, decode), of[problem.id]))

            agent = self.world.agent(engine, limits)
            self.loop.run(attempts(agent, jobs, seed=self.options.seed, on_trajectory=keep))

    # What came of it

    def conclude(self, *, complete: bool) -> Results:
        """Judge and count what there is, put the samples in order, write the results.

        Raises InfrastructureError where more attempts were lost than graded.
        """
        counted = [Counted(each) for each in self.sets]
        rows = self._judged(counted, complete)
        if complete and len(self.samples):
            self.samples.replace(rows)
        else:
            for _ in rows:
                pass
        totals = [each.totals for each in counted]
        kept = sum(each.count for each in totals)
        lost = {"dropped": sum(each.dropped for each in totals), "ungraded": sum(each.ungraded for each in totals)}
        enough = kept >= sum(lost.values())
        results = self._results(counted, partial=not (complete and enough))
        if kept:
            self.run.write_results(results, to_markdown(results))
            times = self.world.sandbox.take_statistics().metrics()
            self.run.write_metrics([{"update": 0} | results["mean"] | times])
        if complete:
            check_enough(kept=kept, **lost)
        return results

    def _judged(self, counted: "Sequence[Counted]", complete: bool) -> Iterator[Record]:
        """Every sample's line, in order, counted on its way; those that are not asked for now are handed on as they are."""
        judges = self._judges() if complete else {}
        handed_on = set[tuple[str, int]]()
        with (
            Display("evaluate", total=1) as display,
            display.phase("judge", sum(len(each.problems) for each in self.sets)),
        ):
            for count in counted:
                for problem in count.of.problems:
                    keys = [(problem.id, sample) for sample in range(self.options.samples)]
                    keys = [key for key in keys if key in self.samples]
                    rows = self._judged_again(problem, [self.samples.read(key) for key in keys], judges)
                    group = self._group(problem, rows, complete)
                    handed_on |= set(keys)
                    yield from count.add(
                        group, rows, self.scorer if complete else None, self.world.chat.tokenizer.decode
                    )
                    display.advance()
        for key in self.samples:
            if key not in handed_on:
                yield self.samples.read(key)

    def _judges(self) -> dict[str, Referee]:
        tokens = self.options.rollout.max_tokens
        return {
            name: Referee(self.world.sandbox, self.options.reward.model_copy(update={"judge": name}), max_tokens=tokens)
            for name in self.options.judges
        }

    def _judged_again(self, problem: Problem, rows: list[Record], judges: dict[str, Referee]) -> list[Record]:
        """The lines with the verdicts of further judges, where they are not there yet."""
        for name, referee in judges.items():
            new = [row for row in rows if name not in row.get("judges", {})]
            if not new:
                continue
            try:
                referee.check([problem])
            except DataError as error:
                say(f"judge {name}: {error}")
                continue
            attempts_ = [self._trajectory(row, problem) for row in new]
            verdicts = self.loop.run(
                together(referee.judge(each, partial(self.world.chat.text, each.response)) for each in attempts_)
            )
            for row, verdict in zip(new, verdicts, strict=True):
                row["judges"] = row.get("judges", {}) | {name: _verdict(verdict)}
        return rows

    def _group(self, problem: Problem, rows: Sequence[Record], complete: bool) -> Group:
        """The problem's samples; those that are missing were lost, if all of them have been tried."""
        attempts_ = [self._trajectory(row, problem) for row in rows]
        return Group(
            problem,
            [each for each in attempts_ if each.graded],
            dropped=self.options.samples - len(rows) if complete else 0,
            ungraded=[each for each in attempts_ if not each.graded],
        )

    def _trajectory(self, row: Record, problem: Problem) -> Trajectory:
        try:
            return from_record(row, problem, self.world.chat.text)
        except (LookupError, TypeError, ValueError) as error:
            raise DataError(
                f"{self.run.trajectory_file(0)}: sample {row.get('sample')} of problem {problem.id!r} cannot be read ({error}). "
                "Remove its line, and it is sampled again."
            ) from error

    def _results(self, counted: "Sequence[Counted]", *, partial: bool) -> Results:
        options = self.options
        benchmarks = {each.of.name: each.results() for each in counted}
        return {
            "partial": partial,
            "model": str(options.model),
            "prompts": options.prompts,
            "samples": options.samples,
            "temperature": options.rollout.temperature,
            "top_p": options.rollout.top_p,
            "max_turns": options.rollout.max_turns,
            "max_tokens": options.rollout.max_tokens,
            "judge": options.reward.judge,
            "paper": options.paper,
            "benchmarks": benchmarks,
            "mean": mean_over([each["measured"] for each in benchmarks.values()]),
        }


@dataclass
class Counted:
    """The samples of one set of problems, counted problem by problem."""

    of: ProblemSet
    tally: Tally = field(init=False)
    totals: metrics.RolloutTotals = field(default_factory=metrics.RolloutTotals)
    by_judge: dict[str, Tally] = field(default_factory=dict)
    steps: list[dict[str, float]] = field(default_factory=list)
    """Divergence and weights, for each problem by itself."""

    def __post_init__(self) -> None:
        self.tally = Tally(self.of.votes)

    def add(
        self, group: Group, rows: list[Record], scorer: Scorer | None, text: Callable[[list[int]], object]
    ) -> list[Record]:
        """Count a problem's samples. -> its lines, with what the teacher says of them"""
        self.tally.add(group)
        self.totals.add(group)
        self._count_judges(group, rows)
        if scorer is None or not len(group):
            return rows
        batch = scorer.score_now(group)
        self.steps.append(metrics.of_steps(batch, PAPER))
        scored = {row["sample"]: row for row in scored_records(batch, PAPER, text, limit=len(batch))}
        return [{**row, **scored.get(row["sample"], {})} for row in rows]

    def _count_judges(self, group: Group, rows: Sequence[Record]) -> None:
        judged: dict[str, list[Trajectory]] = {}
        by_sample = {each.sample: each for each in (*group.trajectories, *group.ungraded)}
        for row in rows:
            for name, verdict in row.get("judges", {}).items():
                if verdict["graded"]:
                    again = replace(by_sample[row["sample"]], correct=verdict["correct"], answer=verdict["answer"])
                    judged.setdefault(name, []).append(again)
        for name, attempts_ in judged.items():
            self.by_judge.setdefault(name, Tally(self.of.votes)).add(Group(group.problem, attempts_))

    def results(self) -> dict[str, Any]:
        measured = self.tally.measured() | self.totals.metrics()
        if self.totals.count:
            measured["truncated"] = self.totals.stops["max_tokens"] / self.totals.count
        if self.steps:
            measured |= {key: fmean(each[key] for each in self.steps) for key in self.steps[0]}
        return {
            "measured": measured,
            "file": str(self.of.path),
            "sha256": self.of.sha256,
            "source": self.of.source,
            "notes": list(self.of.notes),
            "private": self.of.private,
            "by": self.tally.by_label(),
            "judges": {name: tally.measured() for name, tally in self.by_judge.items()},
        }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "correct": verdict.outcome == "right",
        "graded": verdict.outcome != "ungraded",
        "answer": verdict.answer,
        "reason": verdict.reason,
    }


def _labelled(row: Record, of: ProblemSet) -> Record:
    return row | {"benchmark": of.name} | ({"private": True} if of.private else {})


def _missing(sets: Sequence[ProblemSet], samples: int, there: SampleFile) -> Iterator[tuple[Problem, int]]:
    """The attempts that are not there, problem by problem."""
    for each in sets:
        for problem in each.problems:
            for sample in range(samples):
                if (problem.id, sample) not in there:
                    yield problem, sample
