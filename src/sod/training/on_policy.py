"""Train a student on its own samples: sample, score, give credit, learn."""

import functools
import logging
import operator
import shlex
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

import torch

from sod.batching import CreditedBatch, ScoredBatch, join
from sod.config import TrainOptions
from sod.config.teachers import routes_of
from sod.console.progress import Display, console, echo, fitted
from sod.credit.algorithms import give_credit
from sod.credit.correction import with_correction
from sod.credit.history import RuleHistory
from sod.datasets.asking import load_asked, unasked
from sod.datasets.order import ProblemOrder
from sod.engines import SleepingEngine
from sod.engines.choice import with_engine
from sod.engines.opening import open_engine
from sod.errors import AlarmError, InfrastructureError, TrainingError, UsageError
from sod.model.devices import LEARNING, SAMPLING, device_errors
from sod.model.dtypes import with_dtype
from sod.model.hub import model_folder
from sod.model.lengths import with_lengths
from sod.model.loading import check_context, check_embeddings, load_model
from sod.model.policy import Policy, load_learner, origin
from sod.planning.changes import fingerprints_of
from sod.planning.checks import check, of_training
from sod.planning.dry_run import show_dry_run
from sod.planning.estimates import estimate
from sod.planning.timing import compared
from sod.processes.concurrency import Runner
from sod.processes.distributed import Ranks, joined
from sod.processes.interrupts import Terminated, held_back, let_through
from sod.rollout.agent import Agent
from sod.rollout.contrast import chosen, wanted
from sod.rollout.groups import attempt_seed, rollout
from sod.rollout.harness import Harness
from sod.runs import metrics
from sod.runs.alarms import raised
from sod.runs.contents import content_digests
from sod.runs.directory import Run
from sod.runs.records import scored_records, to_record
from sod.scoring import Scorer, check_groups
from sod.teachers import Teacher
from sod.teachers.reference import open_reference
from sod.trackers.sending import Tracking, tracked
from sod.training.ahead import Ahead
from sod.training.guidance import Guidance
from sod.training.opening import begin, opened_teacher, own_engine, scorer_of
from sod.training.problems import problem_order, teacher_rates
from sod.training.reporting import EXPLAINED, Clock, line_of
from sod.types import Group, Problem
from sod.validation.solving import HeldOut, Validator
from sod.validation.teacher import TeacherProbe

logger = logging.getLogger(__name__)

T = TypeVar("T")
MAX_SAMPLER_GAP = 0.5
"""Largest mean difference per sampled token, in nats. Rounding causes 1e-6 in fp32 and about 1e-2 in bf16; more means that
the sampler is broken."""
SAMPLES = "sampling and scoring"


def train(options: TrainOptions) -> Run:
    """Train a student. -> the run, whose newest checkpoint holds the student

    Raises SodError for bad input, and Terminated after a signal. In both cases a run that has begun can be resumed.
    """
    options = with_engine(with_dtype(options))
    if options.dry_run:
        show_dry_run(options)
        return Run(options.out)
    options = with_lengths(options)
    with (
        joined(options.processes, options.network.device) as ranks,
        TrainingSession.open(options, ranks) as session,
        tracked(session.run, options, ranks) as tracking,
        Display(options.algorithm.name, options.updates, session.done) as display,
        held_back(),
    ):
        echo(EXPLAINED)
        if session.validator:
            session.validator.course.on_validation = tracking.log_validation
        if estimated := estimate(options, ranks.count):
            display.expect(sum(estimated.values()))
        if console.is_terminal:
            echo(f"in another terminal: sod watch {shlex.quote(str(options.out))}")
        for update in range(session.done, options.updates):
            clock = Clock()
            with session.kept(update):
                if session.validate(update, display):
                    break
                with clock.time("sample"), display.phase("sample", session.attempts), device_errors(SAMPLES, SAMPLING):
                    groups, batch = session.sample(update, display)
            with clock.time("sync"):
                session.prepare_learning(update)
            credited = give_credit(session.rules.add_to(batch, update, options.updates), options.algorithm)
            session.rules.learn(credited, groups)
            corrected, weights = with_correction(credited, options.learn, options.engine)

            with clock.time("learn"), display.phase("learn", 1), device_errors("learning", LEARNING):
                learnt = session.learn(update, corrected) | weights
            with clock.time("sync"):
                session.refresh(update + 1)

            report = session.record(update, groups, credited, learnt, clock)
            tracking.log(update + 1, report)
            display.done(line_of(update + 1, options.updates, report, display.room))
            # The second update is compared, because the first one also warms up.
            if update == session.done + 1:
                echo(compared(estimated, report, options.updates - update - 1))
            stopping = session.report_alarms(update + 1, tracking)
            if (update + 1) % options.save_every == 0 or update + 1 == options.updates or stopping:
                session.save(update + 1)
            if stopping:
                words = f"Stopped after update {update + 1} by the alarm {stopping}; {session.run.conclusion()}."
                raise AlarmError(words, stopping)
        else:
            session.validate(options.updates, display)
    echo(session.run.conclusion())
    return session.run


@dataclass
class TrainingSession:
    """The state of a training run. Create it with `open`."""

    options: TrainOptions
    ranks: Ranks
    run: Run
    order: ProblemOrder
    """Position in the order of all problems, after the updates so far."""
    policy: Policy
    teacher: Teacher | None
    rules: RuleHistory
    """Facts from the updates so far that a rule can read."""
    scorer: Scorer
    agent: Agent
    guidance: Guidance | None
    """None if the teacher writes no turns."""
    harness: Harness
    loop: Runner
    validator: Validator | None
    """None without validation."""
    done: int
    """Number of updates that were complete when the run was opened."""
    history: list[dict[str, float]]
    """Metrics of all updates so far."""
    alarms: dict[str, str] = field(default_factory=dict)
    """Alarms of the latest update: name to message."""
    alarmed: set[str] = field(default_factory=set)
    """Names of the alarms that have been reported."""
    saved: int = -1
    """Number of updates in the newest checkpoint; -1 without one."""
    synced: int = 0
    """Number of updates of the engine's weights."""
    ahead: Ahead | None = None
    """The next update's batch, while it is sampled ahead."""
    age: int = 0
    """Number of updates by which the weights that sampled the latest batch were behind."""
    probe: dict[str, float] = field(default_factory=dict)
    """How many problems teacher and student solved before training (`score.probe_problems`)."""

    @classmethod
    @contextmanager
    def open(cls, options: TrainOptions, ranks: Ranks) -> "Iterator[TrainingSession]":
        """Check and load everything before anything is written, then create or resume the run."""
        check(of_training(options, ranks.count))
        run = Run(options.out)
        engine_options = own_engine(options.engine, ranks)
        with run.held(ranks), Runner() as loop:
            ranks.first(lambda: run.check(options, resume=options.resume))
            problems, notes = load_asked(options.data)
            for note in notes:
                logger.info(f"{options.data}: {note}")
            order = ranks.first(lambda: problem_order(options, problems))
            rules = RuleHistory(ranks.first(lambda: teacher_rates(options)))
            held_out = HeldOut.open(options, problems, ranks)
            student = model_folder(options.student)
            files = ranks.first(lambda: fingerprints_of(options.model_copy(update={"student": student})))
            contents = ranks.first(lambda: content_digests(options, [(options.data, problems)]))
            harness = Harness.of(student, options, problems)
            for line in unasked(harness.with_tools(problems), harness.frame):
                logger.warning(f"careful: {line}")
            if held_out:
                held_out.check(harness)
            done, folder = ranks.first(run.take_up) if options.resume else (0, None)
            start = origin(student, folder, options.learn)
            model = load_model(start, options.network)
            check_embeddings(model, harness.chat.tokenizer, student)
            check_context(model, options.rollout, whose="student")
            with harness.working_in(loop), opened_teacher(options, student, harness, loop, ranks) as teacher:
                if teacher:
                    teacher.check(problems)
                learner = None if ranks.alone else load_learner(start, options.network, ranks)
                policy = Policy(model, harness.chat.tokenizer, options.learn, learner=learner, ranks=ranks)
                if folder:
                    policy.restore(folder)
                    order = order.restored(folder, size=options.rollout.problems)
                    rules.restore(folder)
                    if teacher:
                        teacher.restore(folder)
                scorer = scorer_of(options, policy, teacher, open_reference(options, student, policy, teacher))
                with (
                    open_engine(loop, engine_options, policy.model, options.rollout) as engine,
                    Guidance.open(loop, options, teacher) as guidance,
                ):
                    history = ranks.first(lambda: begin(options, run, files, contents, done))
                    agent = harness.agent(engine, options.rollout)
                    validator = held_out.validator(run, harness, engine, ranks) if held_out else None
                    probe = TeacherProbe(options, harness, loop, ranks).metrics(
                        run, files | contents, agent, teacher, problems
                    )
                    session = cls(
                        options=options,
                        ranks=ranks,
                        run=run,
                        order=order,
                        policy=policy,
                        teacher=teacher,
                        rules=rules,
                        scorer=scorer,
                        agent=agent,
                        guidance=guidance,
                        harness=harness,
                        loop=loop,
                        validator=validator,
                        done=done,
                        history=history,
                        saved=done if folder else -1,
                        synced=done,
                        probe=probe,
                    )
                    try:
                        yield session
                    finally:
                        if session.ahead:
                            loop.run(session.ahead.stop())

    @property
    def attempts(self) -> int:
        """Number of attempts by this process in one update."""
        return len(self.ranks.share(range(self.options.rollout.problems))) * self.options.rollout.group

    def sample(self, update: int, display: Display) -> tuple[list[Group], ScoredBatch]:
        """Sample an update's trajectories, and score each group as soon as it is complete. Takes the batch sampled ahead.

        Each process samples its share of the problems. Every process returns the same: all groups, and the batch of those to
        learn from (`sod.rollout.contrast`).
        """
        options = self.options.rollout
        mine: dict[str, Group] = {}
        scored: dict[str, ScoredBatch] = {}
        alike: dict[str, bool] = {}
        began = time.monotonic()
        problems, order = self.order.batch(options.problems)
        ahead, self.age = self.ahead, 0 if self.ahead is None else update - self.ahead.weights
        while problems:
            share = self.ranks.share(problems)
            groups = self._unless_ended(update, self._rollout(update, began, share, scored, display, ahead))
            ahead = self.ahead = None
            mine |= {group.problem.id: group for group in groups}
            flags = self.ranks.union({group.problem.id: group.is_alike for group in groups})
            alike |= {problem.id: flags[problem.id] for problem in problems}
            problems, order = order.further(wanted(alike, options), without=alike)
            display.extend(len(self.ranks.share(problems)) * options.group)
        ids = chosen(alike, options)
        my_ids = [id for id in ids if id in mine]
        self._unless_ended(update, self._complete([mine[id] for id in my_ids if id not in scored], scored))
        batches = [scored[id] for id in my_ids]
        if self.teacher:
            batches = self.teacher.finish(batches)
        everyone = self.ranks.union(mine)
        batch_of = self.ranks.union(dict(zip(my_ids, batches, strict=True)))
        groups = [everyone[id] for id in alike]
        check_groups(groups)
        batch = join([batch_of[id] for id in ids])
        self.order = order
        gap = metrics.of_sampler(batch).get("sampler/gap_mean", 0.0)
        if gap > MAX_SAMPLER_GAP and self.age:
            raise TrainingError(
                f"The update changed the log-probabilities of the batch sampled ahead by {gap:.2f} nats per token, too much to "
                "correct. Lower learn.lr, or start a new run with rollout.ahead = 0."
            )
        if gap > MAX_SAMPLER_GAP:
            raise TrainingError(
                f"The sampler's log-probabilities differ from a full forward pass of the same weights by {gap:.2f} nats per "
                "token, so the samples are not the policy's."
            )
        return groups, batch

    def learn(self, update: int, batch: CreditedBatch) -> dict[str, float]:
        shuffle = torch.Generator().manual_seed(attempt_seed(self.options.seed, update, "minibatches", 0))
        rollout = self.options.rollout
        learnt = self.policy.learn(batch, rollout.temperature, shuffle, max_tokens=rollout.max_tokens)
        if self.teacher:
            self.teacher.follow(self.policy.model)
        return learnt

    def _rollout(
        self,
        update: int,
        began: float,
        problems: Sequence[Problem],
        scored: dict[str, ScoredBatch],
        display: Display,
        ahead: Ahead | None,
    ) -> Coroutine[Any, Any, list[Group]]:
        """Return the attempts at these problems, still to be awaited. Adds scores to `scored`, unless a group may be replaced."""

        async def score(group: Group) -> None:
            if self.options.rollout.resample == 1 or not group.is_alike:
                await self._score([group], scored)

        if ahead is not None:
            return ahead.finish(lambda _: display.advance(), score)
        return rollout(
            self.agent if self.guidance is None else self.guidance.guided(self.agent, update),
            problems,
            seed=self.options.seed,
            update=update,
            began=began,
            on_trajectory=lambda _: display.advance(),
            on_group=score,
        )

    async def _score(self, groups: Sequence[Group], scored: dict[str, ScoredBatch]) -> None:
        for group in groups:
            scored[group.problem.id] = await self.scorer.score(group)

    async def _complete(self, groups: Sequence[Group], scored: dict[str, ScoredBatch]) -> None:
        """Score the last groups, and check that the teacher is still the same."""
        await self._score(groups, scored)
        await self.scorer.confirm()

    def _unless_ended(self, update: int, work: Coroutine[Any, Any, T]) -> T:
        """Run the work. If a signal ends any process, or the work of one fails, all save the `update` updates so far and end.

        A process whose own work succeeded waits for the error of the other, which ends it.
        """
        done: list[T] = []
        ended, failure = 0, None
        try:
            with let_through():
                done.append(self.loop.run(work))
        except Terminated as error:
            work.close()
            ended = error.number
        except (UsageError, InfrastructureError) as error:
            failure = error
        states = self.ranks.gather((ended, failure is not None))
        ended = max(number for number, _ in states)
        has_failed = any(failed for _, failed in states)
        if update and (ended or has_failed):
            self.ensure_saved(update)
        if failure is not None:
            raise failure
        if ended:
            raise Terminated(ended, agreed=True)
        if has_failed:
            self.ranks.meet()
        return done[0]

    def validate(self, update: int, display: Display) -> bool:
        """Validate after `update` updates if that is due. -> whether the run ends, because it no longer improves"""
        validator = self.validator
        if validator is None:
            return False
        course = validator.course
        if course.is_due(update, self.options.updates):
            started = time.monotonic()
            if self.ahead is not None:
                self._unless_ended(update, self.ahead.wait())
                self.refresh(update)
            with display.phase("validate", validator.attempts):
                work, counts = validator.sample(display.advance)
                self._unless_ended(update, work)
            validation, shown = validator.conclude(update, counts, started)
            course.add(validation, self.ensure_saved, shown)
            echo(fitted(course.line(validation), display.room))
        return course.ends(update, self.options.updates, self.ensure_saved)

    @contextmanager
    def kept(self, update: int) -> Iterator[None]:
        """Save the `update` updates so far if an error ends a run in one process before it learns.

        Of several processes only one may have failed, and a checkpoint needs all: `_unless_ended` asks the others first.
        """
        try:
            yield
        except (UsageError, InfrastructureError):
            if update and self.ranks.alone:
                self.ensure_saved(update)
            raise

    def ensure_saved(self, update: int) -> None:
        """Save a checkpoint after `update` updates, unless there is one."""
        if update > self.saved:
            self.save(update)

    def save(self, update: int) -> None:
        """Save a checkpoint after `update` updates."""
        self.run.save(update, self._save, keep=self.options.keep, ranks=self.ranks)
        self.saved = update

    def _save(self, folder: Path) -> None:
        """Write the weights and all other state that a resumed run loads."""
        self.policy.save(folder)
        if self.ranks.is_first:
            self.order.save(folder)
            self.rules.save(folder)
            if self.teacher:
                self.teacher.save(folder)

    def refresh(self, update: int) -> None:
        """Send the engine the weights after `update` updates, unless it has them or samples ahead with earlier ones."""
        if update > self.synced and not (self.ahead is not None and self.ahead.is_running):
            self.loop.run(self.agent.engine.refresh())
            if self.guidance is not None:
                self.guidance.refresh(self.loop)
            self.synced = update

    def prepare_learning(self, update: int) -> None:
        """Let the engine sleep, or begin to sample the next batch with the weights that are about to learn.

        The position in the order of problems stays behind this batch, so a checkpoint describes what has been learnt.
        """
        options, engine = self.options.rollout, self.agent.engine
        if self.options.engine.sleep:
            assert isinstance(engine, SleepingEngine), f"{self.options.engine.name} does not sleep"
            self.loop.run(engine.sleep())
        if options.ahead == 0 or update + 1 == self.options.updates:
            return
        self.refresh(update)
        problems, _ = self.order.batch(options.problems)
        start = Ahead.start(
            self.agent,
            self.ranks.share(problems),
            seed=self.options.seed,
            update=update + 1,
            weights=self.synced,
        )
        self.ahead = self.loop.run(start)

    def record(
        self, update: int, groups: Sequence[Group], batch: CreditedBatch, learnt: dict[str, float], clock: Clock
    ) -> dict[str, float]:
        """Write the update's metrics and trajectories. -> the metrics, over all processes; the same in each"""
        report = {} if self.guidance is None else self.guidance.metrics(update)
        report |= self._of_rollout(groups, batch) | metrics.of_steps(batch, self.options.algorithm)
        if self.teacher:
            report |= self.teacher.metrics(batch, self.options.algorithm) | self.probe
        report |= metrics.of_sampler(batch)
        report |= {name if "/" in name else f"learn/{name}": value for name, value in learnt.items()}
        busy = {
            "generate": self._take_sampling_seconds(),
            "score": self.scorer.take_busy_seconds(),
            "tools": self.harness.environments.take_busy_seconds(),
        }
        costs = metrics.SumsByName(self.teacher.take_costs() if self.teacher else {})
        everyone = self.ranks.gather((clock, busy, self.harness.sandbox.take_statistics(), costs))
        clocks, busies, programs, costs = zip(*everyone, strict=True)
        report |= functools.reduce(operator.add, programs).metrics() | functools.reduce(operator.add, costs)
        mean = {name: fmean(each[name] for each in busies) for name in busy}
        report |= metrics.of_time(batch, clocks[0].seconds, sampled=report.get("rollout/tokens_sampled", 0.0), **mean)
        for name in clock.peak_mb:
            report[f"memory/{name}_peak_mb"] = max(each.peak_mb[name] for each in clocks)
        self.history.append(report)
        self.alarms = raised(self.history)
        report |= {f"alarm/{name}": 1.0 for name in self.alarms}
        if not self.ranks.is_first:
            return report
        decode, keep = self.harness.chat.tokenizer.decode, self.options.save_trajectories
        rows = scored_records(batch, self.options.algorithm, decode, keep, routes_of(self.options.teachers))
        rows += [to_record(trajectory, decode) for group in groups for trajectory in group.ungraded]
        self.run.record(update + 1, report, rows)
        return report

    def _take_sampling_seconds(self) -> float:
        seconds = self.agent.engine.take_busy_seconds()
        return seconds if self.guidance is None else seconds + self.guidance.engine.take_busy_seconds()

    def _of_rollout(self, groups: Sequence[Group], batch: CreditedBatch) -> dict[str, float]:
        epochs = {"rollout/epochs": self.order.epochs}
        if self.options.rollout.ahead:
            epochs["rollout/age"] = float(self.age)
        advantage = self.options.algorithm.advantage
        if self.options.rollout.resample == 1:
            return metrics.of_rollout(groups, advantage) | epochs
        learnt = {trajectory.problem.id for trajectory in batch.trajectories}
        return metrics.of_resampling(groups, learnt, advantage) | epochs

    def report_alarms(self, update: int, tracking: Tracking) -> str:
        """Print and track each alarm when it is first raised. -> the name of one that stops the run, or an empty string"""
        for name in [name for name in self.alarms if name not in self.alarmed]:
            logger.warning(f"  alarm {name}: {self.alarms[name]}")
            tracking.alert(update, name, self.alarms[name])
        self.alarmed |= self.alarms.keys()
        return next((name for name in self.options.stop_on if name in self.alarms), "")
