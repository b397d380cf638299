"""Evaluate a model: many samples per problem, and scores with standard errors.

Every attempt is written to `trajectories/update-0000.jsonl` when it ends, and is not sampled again. Then each problem is judged
by additional judges, scored by the teacher and counted. Memory does not grow with the number of samples.
"""

import functools
import logging
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from transformers import PreTrainedModel

from sod.chat.format import ChatFormat
from sod.config import EvalOptions, ServeOptions
from sod.config.teachers import routes_of
from sod.console.progress import Display, echo
from sod.datasets import ProblemSet
from sod.datasets.asking import unasked
from sod.datasets.several import open_sets
from sod.datasets.writing import keep_out_of_git
from sod.engines import ENGINES, Engine
from sod.engines.choice import with_engine
from sod.engines.opening import open_engine
from sod.errors import DataError, SodError
from sod.evaluation.counting import Counted
from sod.evaluation.measures import mean_over
from sod.evaluation.results import results_markdown, show_results
from sod.model.devices import SAMPLING, device_errors
from sod.model.dtypes import with_dtype
from sod.model.hub import model_folder
from sod.model.lengths import with_lengths
from sod.model.loading import check_context, check_embeddings, load_model
from sod.planning.changes import fingerprints_of
from sod.planning.checks import check, of_evaluation
from sod.planning.dry_run import show_dry_run
from sod.processes.concurrency import Runner, run_concurrently
from sod.processes.distributed import ALONE
from sod.rewards.referee import Referee
from sod.rollout.groups import attempts
from sod.rollout.harness import Harness
from sod.runs.contents import content_digests
from sod.runs.directory import Run
from sod.runs.records import (
    Record,
    from_record,
    reward_record,
    to_record,
    verdict_record,
    written_messages,
)
from sod.runs.results import Results
from sod.runs.samples import SampleFile
from sod.scoring import Scorer, check_enough
from sod.teachers import TeacherSetup
from sod.teachers.opening import open_teacher, open_teachers, teacher_folder
from sod.types import Group, Problem, Trajectory, Verdict

logger = logging.getLogger(__name__)
SomeEvaluation = TypeVar("SomeEvaluation", bound=EvalOptions | ServeOptions)


def evaluate_and_show(options: EvalOptions) -> None:
    """Evaluate, and print the results."""
    options = with_engine(with_dtype(options))
    if options.dry_run:
        show_dry_run(options)
        return
    show_results(evaluate(options))
    echo(f"results and trajectories: {options.out}")


def with_chosen(options: SomeEvaluation) -> SomeEvaluation:
    """Return the options with a data type and an engine instead of auto, and with default lengths that fit the models.

    The folder of a remote model's tokenizer does not hold its positions, so its lengths are not changed.
    """
    options = with_engine(with_dtype(options))
    return with_lengths(options) if ENGINES[options.engine.name].loads_model else options


def evaluate(options: EvalOptions) -> Results:
    """Sample the missing attempts, judge, and write the results to the run directory. -> the results

    After an interruption, the samples so far are kept, with partial results.
    """
    options = with_chosen(options)
    with Run(options.out).held(), Runner() as loop, EvaluationSession.open(options, loop) as session:
        try:
            with device_errors("sampling and scoring", SAMPLING):
                session.sample()
        except (SodError, KeyboardInterrupt):
            with suppress(SodError):  # the disk may be full
                session.conclude(complete=False)
                if session.run.begun:
                    logger.info(f"partial results: {options.out / 'results.md'}")
            raise
        return session.conclude(complete=True)


@dataclass(frozen=True)
class EvaluationSession:
    """The state of a running evaluation."""

    options: EvalOptions
    sets: list[ProblemSet]
    harness: Harness
    judges: dict[str, Referee]
    """Additional judges."""
    folder: Path
    """Directory of the model, or of its tokenizer if the model is remote."""
    model: PreTrainedModel | None
    """None if the model is remote or not needed."""
    scorer: Scorer | None
    """Scores with the teacher. None without a teacher."""
    loop: Runner
    run: Run
    files: dict[str, str]
    """Fingerprints of the inputs."""
    contents: dict[str, str]
    """Digests of the other files."""
    samples: SampleFile

    @classmethod
    @contextmanager
    def open(cls, options: EvalOptions, loop: Runner) -> "Iterator[EvaluationSession]":
        """Check and load everything. Nothing is written yet."""
        run = Run(options.out)
        if run.begun:
            run.check(options, resume=True)
        check(of_evaluation(options))
        served = not ENGINES[options.engine.name].loads_model
        sets = open_sets(options)
        problems = [problem for each in sets for problem in each.problems]
        folder = model_folder(options.model, weights=not served)
        harness = Harness.of(folder, options, problems)
        for each in sets:
            for line in unasked(harness.with_tools(each.problems), harness.frame):
                logger.warning(f"careful: {each.name}: {line}")
        judges = {name: harness.referee.as_judge(name) for name in options.judges}
        for judge in judges.values():
            judge.check(problems)
        files = fingerprints_of(options if served else options.model_copy(update={"model": folder}), sets)
        contents = content_digests(options, [(each.path, each.problems) for each in sets])
        if run.begun:
            Run.open(options, options.out, data=files, files=contents, resume=True)
        with SampleFile.open(run.trajectory_file(0)) as samples:
            needed = (
                options.teacher is not None or bool(options.teachers) or any(_missing(sets, options.samples, samples))
            )
            model = load_sampled(options, folder, harness.chat) if needed and not served else None
            with _scorer(options, model, harness, loop, problems) as scorer, harness.working_in(loop):
                yield cls(options, sets, harness, judges, folder, model, scorer, loop, run, files, contents, samples)

    def engine(self) -> AbstractContextManager[Engine]:
        """Open the engine that samples."""
        tokenizer = self.harness.chat.tokenizer
        return open_engine(self.loop, self.options.engine, self.model, self.options.rollout, tokenizer)

    # Sampling

    def sample(self) -> None:
        """Sample the missing attempts."""
        count = sum(1 for _ in _missing(self.sets, self.options.samples, self.samples))
        if not count:
            self._begin()
            return
        if len(self.samples):
            logger.info(f"{len(self.samples)} samples exist already; {count} are missing.")
        jobs = _missing(self.sets, self.options.samples, self.samples)
        of = {problem.id: each for each in self.sets for problem in each.problems}
        decode = self.harness.chat.tokenizer.decode
        with self.engine() as engine, Display("evaluate", total=1) as display, display.phase("sample", count):
            self._begin()

            def keep(problem: Problem, sample: int, attempt: Trajectory | None) -> None:
                display.advance()
                if attempt is not None:
                    self.samples.append(labelled(to_record(attempt, decode), of[problem.id]))

            agent = self.harness.agent(engine, self.options.rollout)
            self.loop.run(attempts(agent, jobs, seed=self.options.seed, on_trajectory=keep))

    def _begin(self) -> None:
        """Create the run, or continue it."""
        Run.open(self.options, self.options.out, data=self.files, files=self.contents, resume=self.run.begun)
        self.samples.hold()
        self.run.write_options(self.options)
        if any(each.private for each in self.sets):
            keep_out_of_git(self.run.trajectory_file(0))

    # Results

    def conclude(self, *, complete: bool) -> Results:
        """Judge and count the existing samples, put their lines in order, and write the results.

        Raises InfrastructureError if more attempts were lost than graded.
        """
        counted = [Counted(each, routes_of(self.options.teachers)) for each in self.sets]
        lines = self._count_problems(counted, complete)
        if complete and len(self.samples):
            self.samples.replace(chain(chain.from_iterable(lines), self._not_asked_for()))
        else:
            for _ in lines:  # counts them; the file stays as it is
                pass
        totals = [each.totals for each in counted]
        kept = sum(each.count for each in totals)
        lost = {"dropped": sum(each.dropped for each in totals), "ungraded": sum(each.ungraded for each in totals)}
        enough = kept >= sum(lost.values())
        results = self._results(counted, partial=not (complete and enough))
        if kept:
            self.run.write_results(results, results_markdown(results))
            times = self.harness.sandbox.take_statistics().metrics()
            self.run.write_metrics([{"update": 0} | results.mean | times])
        if complete:
            check_enough(kept=kept, **lost)
        return results

    def _count_problems(self, counted: Sequence[Counted], complete: bool) -> Iterator[list[Record]]:
        """Judge, score and count one problem after another. Yields the lines of its samples, in order."""
        scorer = self.scorer if complete else None
        phase, parts = "judge" if scorer is None else "score", sum(len(each.problems) for each in self.sets)
        with Display("evaluate", total=1) as display, display.phase(phase, parts):
            for count in counted:
                for problem in count.of.problems:
                    keys = [(problem.id, sample) for sample in range(self.options.samples)]
                    keys = [key for key in keys if key in self.samples]
                    rows = [self.samples.read(key) for key in keys]
                    if complete:
                        self._judge_again(problem, rows)
                    group = self._group(problem, rows, complete)
                    batch = self.loop.run(scorer.score(group)) if scorer is not None and len(group) else None
                    yield count.add(group, rows, batch, self.harness.chat.tokenizer.decode)
                    display.advance()
            if scorer is not None:
                self.loop.run(scorer.confirm())

    def _not_asked_for(self) -> Iterator[Record]:
        """Yield the lines of samples that an earlier call asked for, and this one does not."""
        asked_for = {problem.id for each in self.sets for problem in each.problems}
        for problem_id, sample in self.samples:
            if problem_id not in asked_for or sample >= self.options.samples:
                yield self.samples.read((problem_id, sample))

    def _judge_again(self, problem: Problem, rows: list[Record]) -> None:
        """Judge undecided samples again, and add the missing verdicts of additional judges.

        The own verdict of an environment depends on its state, and stays. Rewards of the user's own are computed again.
        """
        by_referee = [row for row in rows if self._is_for_referee(problem, row)]
        undecided = [row for row in by_referee if not row["graded"]]
        again = self._verdicts(self.harness.referee, problem, undecided)
        again += [
            (row, own) for row in rows if not row["graded"] and (own := self._own_verdict(problem, row)).is_graded
        ]
        for row, verdict in again:
            attempt = replace(self._trajectory(row, problem), verdict=verdict)
            rewarded = self.loop.run(self.harness.referee.rewarded(attempt, functools.partial(written_messages, row)))
            row |= verdict_record(rewarded.judged) | reward_record(rewarded)
        for name, referee in self.judges.items():
            new = [row for row in by_referee if name not in row.get("judges", {})]
            for row, verdict in self._verdicts(referee, problem, new):
                row["judges"] = row.get("judges", {}) | {name: verdict_record(verdict)}

    def _is_for_referee(self, problem: Problem, row: Record) -> bool:
        """Return whether the judge of the problem's kind decides. Rows of older versions do not have an environment's verdict."""
        return bool(self.harness.with_tools([problem])) or row.get("environment_verdict", row) is None

    def _own_verdict(self, problem: Problem, row: Record) -> Verdict:
        """Return the environment's own verdict on an attempt; ungraded if it gave none."""
        own = self._trajectory(row, problem).environment_verdict
        return own or Verdict(outcome="ungraded")

    def _verdicts(self, referee: Referee, problem: Problem, rows: list[Record]) -> list[tuple[Record, Verdict]]:
        def judge(each: Trajectory) -> Coroutine[Any, Any, Verdict]:
            return referee.judge(each, functools.partial(self.harness.chat.response, each.response))

        trajectories = [self._trajectory(row, problem) for row in rows]
        return list(zip(rows, self.loop.run(run_concurrently(map(judge, trajectories))), strict=True)) if rows else []

    def _group(self, problem: Problem, rows: Sequence[Record], complete: bool) -> Group:
        """Return the problem's samples. Missing ones count as lost if the sampling is complete."""
        trajectories = [self._trajectory(row, problem) for row in rows]
        return Group.of(problem, trajectories, dropped=self.options.samples - len(rows) if complete else 0)

    def _trajectory(self, row: Record, problem: Problem) -> Trajectory:
        try:
            return from_record(row, problem, self.harness.chat.final_text)
        except (LookupError, TypeError, ValueError) as error:
            raise DataError(
                f"{self.run.trajectory_file(0)}: sample {row.get('sample')} of problem {problem.id!r} cannot be read ({error}). "
                "Remove its line, then run the same command to sample it again."
            ) from error

    def _results(self, counted: Sequence[Counted], *, partial: bool) -> Results:
        options = self.options
        benchmarks = {each.of.name: each.results() for each in counted}
        return Results(
            partial=partial,
            model=str(options.model),
            folder=str(self.folder),
            prompts=options.prompts,
            samples=options.samples,
            seed=options.seed,
            temperature=options.rollout.temperature,
            top_p=options.rollout.top_p,
            max_turns=options.rollout.max_turns,
            max_tokens=options.rollout.max_tokens,
            judge=options.reward.judge,
            faults=options.tool.faults,
            paper=options.paper,
            benchmarks=benchmarks,
            mean=mean_over([each.measured for each in benchmarks.values()]),
        )


def load_sampled(options: EvalOptions | ServeOptions, folder: Path, chat: ChatFormat) -> PreTrainedModel:
    """Load the model to sample. Raises ModelError if it does not fit the tokenizer or the lengths."""
    model = load_model(folder, options.network)
    check_embeddings(model, chat.tokenizer, folder)
    check_context(model, options.rollout)
    return model


@contextmanager
def _scorer(
    options: EvalOptions,
    model: PreTrainedModel | None,
    harness: Harness,
    loop: Runner,
    problems: Sequence[Problem],
) -> Iterator[Scorer | None]:
    routes = routes_of(options.teachers)
    if (options.teacher is None and not routes) or model is None:
        yield None
        return
    folder = teacher_folder(options.teacher, options.score) if options.teacher else routes[0].model
    setup = TeacherSetup.of(folder, options, harness.chat, harness.tools.schemas)
    with open_teachers(loop, setup, routes, ALONE) if routes else open_teacher(loop, setup, ALONE) as teacher:
        teacher.check(problems)
        yield Scorer(
            model,
            teacher,
            temperature=options.rollout.temperature,
            microbatch_tokens=options.microbatch_tokens,
            student_from=options.score.student,
        )


def labelled(row: Record, of: ProblemSet) -> Record:
    """Return a row of a trajectory with the name of its set."""
    return row | {"benchmark": of.name} | ({"private": True} if of.private else {})


def _missing(sets: Sequence[ProblemSet], samples: int, there: SampleFile) -> Iterator[tuple[Problem, int]]:
    """Yield the missing attempts, problem by problem."""
    for each in sets:
        for problem in each.problems:
            for sample in range(samples):
                if (problem.id, sample) not in there:
                    yield problem, sample
