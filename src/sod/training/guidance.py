"""Let the teacher write some turns of the trajectories, fewer from update to update: `rollout.guided`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from sod.config import EngineOptions, TrainOptions
from sod.engines import Engine
from sod.engines.opening import open_engine
from sod.processes.concurrency import Runner
from sod.rollout.agent import Agent
from sod.rollout.guide import Guide
from sod.teachers import Teacher
from sod.teachers.local import LocalTeacher


@dataclass(frozen=True, slots=True)
class Guidance:
    """The teacher's engine and the schedule, which depends only on the number of the update."""

    engine: Engine
    options: TrainOptions

    @classmethod
    @contextmanager
    def open(cls, loop: Runner, options: TrainOptions, teacher: Teacher | None) -> "Iterator[Guidance | None]":
        """Sample the teacher in this process; yield None if it writes no turns. `planning.checks` has checked the options."""
        if options.rollout.guided.probability == 0:
            yield None
            return
        assert isinstance(teacher, LocalTeacher), f"a teacher of type {type(teacher).__name__} cannot write turns"
        own = EngineOptions(name="hf", memory_share=options.engine.memory_share)
        with teacher.lent() as model, open_engine(loop, own, model, options.rollout) as engine:
            yield cls(engine, options)

    def probability(self, update: int) -> float:
        """Return the probability of a turn in this update, from 0."""
        return self.options.rollout.guided.at(update / self.options.updates)

    def guided(self, agent: Agent, update: int) -> Agent:
        """Return the agent of an update."""
        probability = self.probability(update)
        return replace(agent, guide=Guide(self.engine, probability)) if probability > 0 else agent

    def metrics(self, update: int) -> dict[str, float]:
        """Return the metrics of an update; those of `sod.runs.metrics` replace the number of turns."""
        return {"guided/probability": self.probability(update), "guided/turns": 0.0}
