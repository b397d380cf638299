"""Train a student on its own samples: sample, score, give credit, learn."""

import functools
import logging
import operator
import shlex
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from sod.algorithms import give_credit
from sod.batching import CreditedBatch, ScoredBatch, join
from sod.checks import check, of_training
from sod.concurrency import Runner
from sod.config import EngineOptions, TrainOptions
from sod.console.progress import LEGEND, Display, console, echo, fitted
from sod.datasets.asking import load_asked, unasked
from sod.datasets.rows import fingerprint_model, sample_problems
from sod.distributed import Ranks, joined
from sod.engines.opening import open_engine
from sod.errors import AlarmError, OptionError, TrainingError
from sod.hub import model_folder
from sod.interrupts import Terminated, held_back, let_through
from sod.model.dtypes import with_dtype
from sod.model.loading import check_context, check_embeddings, head, load_model
from sod.model.policy import Policy, load_sharded, origin
from sod.planning.dry_run import plan
from sod.rollout.agent import Agent
from sod.rollout.groups import attempt_seed, rollout
from sod.rollout.harness import World
from sod.runs import metrics
from sod.runs.alarms import raised
from sod.runs.directory import Run
from sod.runs.files import sha256_of_file
from sod.runs.peaks import take_peak_mb
from sod.runs.records import scored_records, to_record
from sod.scoring import Scorer, check_groups
from sod.systems import traits
from sod.teachers import Teacher, TeacherSetup
from sod.teachers.opening import fingerprint_teacher, open_teacher, teacher_folder
from sod.teachers.privileged import PrivilegedTeacher
from sod.types import Group, Problem

logger = logging.getLogger(__name__)

MAX_SAMPLER_GAP = 0.5
"""Largest mean difference per sampled token, in nats. Rounding causes 1e-6 in fp32 and about 1e-2 in bf16; more means that
the sampler is broken."""
EXPLAINED = f"{LEGEND}tool calls and errors a trajectory; d: nats from teacher; w: step weight"


def train(options: TrainOptions) -> Run:
    """Train a student. -> the run, whose newest checkpoint holds the student

    Raises SodError for bad input, and Terminated after a signal. In both cases a run that has begun can be resumed.
    """
    options = with_dtype(options)
    if options.dry_run:
        echo(plan(options))
        return Run(options.out)
    with (
        joined(options.processes, options.network.device) as ranks,
        TrainingSession.open(options, ranks) as session,
        Display(options.algorithm.name, options.updates, session.done) as display,
        held_back(),
    ):
        echo(EXPLAINED)
        if console.is_terminal:
            echo(f"in another terminal: sod watch {shlex.quote(str(options.out))}")
        for update in range(session.done, options.updates):
            clock = Clock()
            with clock.time("sample"), display.phase("sample", session.attempts):
                groups, batch = session.sample(update, display)
            credited = give_credit(replace(batch, update=update), options.algorithm)

            with clock.time("learn"), display.phase("learn", 1):
                learnt = session.learn(update, credited)
            with clock.time("sync"):
                session.refresh()

            report = session.record(update, groups, credited, learnt, clock)
            display.done(_line(update + 1, options.updates, report, display.room))
            stopping = session.report_alarms()
            if (update + 1) % options.save_every == 0 or update + 1 == options.updates or stopping:
                session.save(update + 1)
            if stopping:
                words = f"Stopped after update {update + 1} by the alarm {stopping}; {session.run.conclusion()}."
                raise AlarmError(words, stopping)
    echo(session.run.conclusion())
    return session.run


@dataclass
class Clock:
    """Wall-clock seconds and peak memory of each named phase of an update."""

    seconds: dict[str, float] = field(default_factory=dict)
    peak_mb: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        take_peak_mb()
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
        if (peak := take_peak_mb()) is not None:
            self.peak_mb[name] = peak


@dataclass
class TrainingSession:
    """The state of a training run. Create it with `open`."""

    options: TrainOptions
    ranks: Ranks
    run: Run
    problems: list[Problem]
    policy: Policy
    teacher: Teacher | None
    scorer: Scorer
    agent: Agent
    world: World
    loop: Runner
    done: int
    """Number of updates that were complete when the run was opened."""
    history: list[dict[str, float]]
    """Metrics of all updates so far."""
    alarms: dict[str, str] = field(default_factory=dict)
    """Alarms of the latest update: name to message."""
    alarmed: set[str] = field(default_factory=set)
    """Names of the alarms that have been reported."""
    saved: int = 0
    """Number of updates in the newest checkpoint."""

    @classmethod
    @contextmanager
    def open(cls, options: TrainOptions, ranks: Ranks) -> "Iterator[TrainingSession]":
        """Check and load everything before anything is written, then create or resume the run."""
        check(of_training(options, ranks.count))
        run = Run(options.out)
        engine_options = _own_engine(options.engine, ranks)
        with run.held(ranks), Runner() as loop:
            ranks.first(lambda: run.check(options, resume=options.resume))
            problems, notes = load_asked(options.data)
            for note in notes:
                logger.info(f"{options.data}: {note}")
            _check_number(options, problems)
            student = model_folder(options.student)
            files = ranks.first(lambda: _fingerprints(options, student))
            world = World.of(student, options, problems)
            for line in unasked(problems, world.frame):
                logger.warning(f"careful: {line}")
            done, folder = ranks.first(run.take_up) if options.resume else (0, None)
            start = origin(student, folder, options.learn)
            model = load_model(start, options.network)
            check_embeddings(model, world.chat.tokenizer, student)
            check_context(model, options.rollout, whose="student")
            with world.sandbox.working_in(loop), _teacher(options, student, world, loop, ranks) as teacher:
                if teacher:
                    teacher.check(problems)
                learner = None if ranks.alone else load_sharded(start, options.network, ranks)
                policy = Policy(model, world.chat.tokenizer, options.learn, learner=learner, ranks=ranks)
                if folder:
                    policy.restore(folder)
                    if teacher:
                        teacher.restore(folder)
                scorer = _scorer(options, policy, teacher)
                with open_engine(loop, engine_options, policy.model, options.rollout) as engine:
                    history = ranks.first(lambda: _begin(options, run, files, done))
                    agent = world.agent(engine, options.rollout)
                    yield cls(
                        options=options,
                        ranks=ranks,
                        run=run,
                        problems=problems,
                        policy=policy,
                        teacher=teacher,
                        scorer=scorer,
                        agent=agent,
                        world=world,
                        loop=loop,
                        done=done,
                        history=history,
                        saved=done,
                    )

    @property
    def attempts(self) -> int:
        """Number of attempts by this process in one update."""
        return len(self.ranks.share(range(self.options.rollout.problems))) * self.options.rollout.group

    def sample(self, update: int, display: Display) -> tuple[list[Group], ScoredBatch]:
        """Sample an update's trajectories, and score each group as soon as it is complete.

        Each process samples its share of the problems; every process returns all groups, in the same order.
        """
        problems = sample_problems(
            self.problems, seed=self.options.seed, update=update, size=self.options.rollout.problems
        )
        scored: dict[str, ScoredBatch] = {}

        async def score(group: Group) -> None:
            scored[group.problem.id] = await self.scorer.score(group)

        attempts = rollout(
            self.agent,
            self.ranks.share(problems),
            seed=self.options.seed,
            update=update,
            on_trajectory=lambda _: display.advance(),
            on_group=score,
        )
        groups = self._unless_ended(update, attempts)
        batches = [scored[group.problem.id] for group in groups]
        if self.teacher:
            batches = self.teacher.finish(batches)
        of = {group.problem.id: (group, batch) for group, batch in zip(groups, batches, strict=True)}
        everyone = {id: pair for others in self.ranks.gather(of) for id, pair in others.items()}
        groups = [everyone[problem.id][0] for problem in problems]
        check_groups(groups)
        batch = join([everyone[problem.id][1] for problem in problems])
        gap = metrics.of_sampler(batch).get("sampler/gap_mean", 0.0)
        if gap > MAX_SAMPLER_GAP:
            raise TrainingError(
                f"The sampler's log-probabilities differ from a full forward pass of the same weights by {gap:.2f} nats per "
                "token, so the samples are not the policy's."
            )
        return groups, batch

    def learn(self, update: int, batch: CreditedBatch) -> dict[str, float]:
        shuffle = torch.Generator().manual_seed(attempt_seed(self.options.seed, update, "minibatches", 0))
        learnt = self.policy.learn(batch, self.options.rollout.temperature, shuffle)
        if self.teacher:
            self.teacher.follow(self.policy.model)
        return learnt

    def _unless_ended(self, update: int, attempts: Coroutine[Any, Any, list[Group]]) -> list[Group]:
        """Run the attempts. If a signal ends any process, all save the `update` updates so far and raise Terminated."""
        groups: list[Group] = []
        ended = 0
        try:
            with let_through():
                groups = self.loop.run(attempts)
        except Terminated as error:
            attempts.close()
            ended = error.number
        if ended := max(self.ranks.gather(ended)):
            if update > self.saved:
                self.save(update)
            raise Terminated(ended, agreed=True)
        return groups

    def save(self, update: int) -> None:
        """Save a checkpoint after `update` updates."""
        self.run.save(update, self._save, keep=self.options.keep, ranks=self.ranks)
        self.saved = update

    def _save(self, folder: Path) -> None:
        """Write the weights and all other state that a resumed run loads."""
        self.policy.save(folder)
        if self.teacher and self.ranks.is_first:
            self.teacher.save(folder)

    def refresh(self) -> None:
        self.loop.run(self.agent.engine.refresh())

    def record(
        self, update: int, groups: Sequence[Group], batch: CreditedBatch, learnt: dict[str, float], clock: Clock
    ) -> dict[str, float]:
        """Write the update's metrics and trajectories. -> the metrics, over all processes; the same in each"""
        report = metrics.of_rollout(groups) | metrics.of_steps(batch, self.options.algorithm)
        report |= metrics.of_sampler(batch) | {f"learn/{name}": value for name, value in learnt.items()}
        busy = {
            "generate": self.agent.engine.take_busy_seconds(),
            "score": self.scorer.take_busy_seconds(),
            "tools": self.world.tools.take_busy_seconds(),
        }
        everyone = self.ranks.gather((clock, busy, self.world.sandbox.take_statistics()))
        clocks, busies, programs = zip(*everyone, strict=True)
        report |= functools.reduce(operator.add, programs).metrics()
        mean = {name: fmean(each[name] for each in busies) for name in busy}
        report |= metrics.of_time(batch, clocks[0].seconds, **mean)
        for name in clock.peak_mb:
            report[f"memory/{name}_peak_mb"] = max(each.peak_mb[name] for each in clocks)
        self.history.append(report)
        self.alarms = raised(self.history)
        report |= {f"alarm/{name}": 1.0 for name in self.alarms}
        if not self.ranks.is_first:
            return report
        decode, keep = self.world.chat.tokenizer.decode, self.options.save_trajectories
        rows = scored_records(batch, self.options.algorithm, decode, keep)
        rows += [to_record(trajectory, decode) for group in groups for trajectory in group.ungraded]
        self.run.record(update + 1, report, rows)
        return report

    def report_alarms(self) -> str:
        """Print each alarm when it is first raised. -> the name of one that stops the run, or an empty string"""
        for name in [name for name in self.alarms if name not in self.alarmed]:
            logger.warning(f"  alarm {name}: {self.alarms[name]}")
        self.alarmed |= self.alarms.keys()
        return next((name for name in self.options.stop_on if name in self.alarms), "")


def _begin(options: TrainOptions, run: Run, files: dict[str, str], done: int) -> list[dict[str, float]]:
    """Create or resume the run directory. -> the metrics of the completed updates"""
    Run.open(options, options.out, data=files, resume=options.resume, updates=options.updates)
    if options.resume:
        run.rewind(done)
    return run.metrics()


def _scorer(options: TrainOptions, policy: Policy, teacher: Teacher | None) -> Scorer:
    is_exact = options.algorithm.divergence == "exact"
    return Scorer(
        policy.model,
        teacher,
        temperature=options.rollout.temperature,
        microbatch_tokens=options.learn.microbatch_tokens,
        student_from=options.score.student,
        candidates=min(options.algorithm.candidates, len(head(policy.model))) if is_exact else 0,
    )


def _fingerprints(options: TrainOptions, student: Path) -> dict[str, str]:
    """Return the fingerprints of the run's inputs."""
    files = {"data": sha256_of_file(options.data), "student": fingerprint_model(student)}
    if options.teacher is not None:
        files["teacher"] = fingerprint_teacher(teacher_folder(options.teacher, options.score), options.score)
    return files


@contextmanager
def _teacher(
    options: TrainOptions, student: Path, world: World, loop: Runner, ranks: Ranks
) -> Iterator[Teacher | None]:
    """Open the teacher that the algorithm requires, or yield None."""
    context = traits(options.algorithm.name).context
    if context is not None:
        folder = student
    elif options.teacher is not None:
        folder = teacher_folder(options.teacher, options.score)
    else:
        yield None
        return
    setup = TeacherSetup(
        folder=folder,
        tokenizer=world.chat.tokenizer,
        network=options.network,
        score=options.score,
        rollout=options.rollout,
        microbatch_tokens=options.learn.microbatch_tokens,
    )
    if context is None:
        with open_teacher(loop, setup, ranks) as teacher:
            yield teacher
        return
    opsd = options.opsd
    yield PrivilegedTeacher(
        setup, world.chat, world.tools.schemas, context=context, template=opsd.template, decay=opsd.decay
    )


def _own_engine(options: EngineOptions, ranks: Ranks) -> EngineOptions:
    """Return the engine's options with `{rank}` in the URL replaced by this process's number. Each process has a server."""
    if options.name != "vllm_server" or options.url is None or ranks.alone:
        return options
    return options.model_copy(update={"url": options.url.replace("{rank}", str(ranks.rank))})


def _check_number(options: TrainOptions, problems: Sequence[Problem]) -> None:
    if options.rollout.problems > len(problems):
        raise OptionError(
            f"rollout.problems is {options.rollout.problems}, but {options.data} holds {len(problems)} problems; lower it."
        )


def _line(update: int, updates: int, report: dict[str, float], room: int | None) -> str:
    """Return the update's metrics as a line of at most `room` characters, the most important ones first."""
    parts = [
        (9, f"update {update:>{len(str(updates))}}/{updates}"),
        (9, f"solved {report['rollout/solved']:4.0%}"),
        (4, f"reward {report['rollout/reward']:+.2f}"),
        (8, f"calls {report['tools/calls']:.1f}"),
        (5, f"errors {report['tools/errors']:.1f}"),
    ]
    if "steps/d" in report:
        parts.append((7, f"d {report['steps/d']:.2f}"))
    if "steps/w_after_first" in report:
        parts.append((6, f"w {report['steps/w_after_first']:.2f}"))
    parts += [
        (2, f"entropy {report['learn/entropy']:.2f}"),
        (1, f"{report['speed/tokens_per_second']:,.0f} tok/s"),
        (3, f"{report['seconds/update']:.1f} s"),
    ]
    return fitted(parts, room)
