"""Let the teacher write some turns of the trajectories, fewer from update to update: `rollout.guided`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from sod.config import EngineOptions, TrainOptions
from sod.engines import Engine
from sod.processes.concurrency import Runner
from sod.rollout.agent import Agent
from sod.rollout.guide import Guide
from sod.teachers import Teacher


@dataclass(frozen=True, slots=True)
class Guidance:
    """The teacher's engine and the schedule, which depends only on the number of the update."""

    engine: Engine
    options: TrainOptions

    @classmethod
    @contextmanager
    def open(cls, loop: Runner, options: TrainOptions, teacher: Teacher | None) -> "Iterator[Guidance | None]":
        """Open an engine for the teacher, here or on its server; yield None if it writes no turns. `planning.checks` has checked
        the options."""
        if options.rollout.guided.probability == 0:
            yield None
            return
        assert teacher is not None, "`planning.checks` refuses turns of a teacher without one"
        own = EngineOptions(name="hf", memory_share=options.engine.memory_share)
        with teacher.sampled(loop, options.rollout, own) as engine:
            yield cls(engine, options)

    def probability(self, update: int) -> float:
        """Return the probability of a turn in this update, from 0."""
        return self.options.rollout.guided.at(update / self.options.updates)

    def guided(self, agent: Agent, update: int) -> Agent:
        """Return the agent of an update."""
        probability = self.probability(update)
        return replace(agent, guide=Guide(self.engine, probability)) if probability > 0 else agent

    def refresh(self, loop: Runner) -> None:
        """Drop what the engine has read, so that a resumed run samples the same. A server keeps its cache."""
        if self.options.score.teacher_url is None:
            loop.run(self.engine.refresh())

    def metrics(self, update: int) -> dict[str, float]:
        """Return the metrics of an update; those of `sod.runs.metrics` replace the number of turns."""
        return {"guided/probability": self.probability(update), "guided/turns": 0.0}
