"""Before training, teacher and student solve a sample of the problems in the same way: is the teacher better at all?"""

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sod.config import TrainOptions
from sod.evaluation.intervals import bounded, mean_over_problems
from sod.processes.concurrency import Runner
from sod.processes.distributed import Ranks
from sod.rollout.agent import Agent
from sod.rollout.groups import rollout
from sod.rollout.harness import Harness
from sod.runs.directory import Run
from sod.runs.files import write_whole
from sod.teachers import Teacher
from sod.teachers.several import SeveralTeachers
from sod.types import Problem

logger = logging.getLogger(__name__)

NUMBERS_FILE = "teacher.json"
"""File of the numbers in a run's directory, with the fingerprint of what they depend on."""
ROUND = -1
"""Number in place of the update, from which the seeds of the attempts derive."""

Metrics = dict[str, float]


@dataclass(frozen=True, slots=True)
class TeacherProbe:
    """Measures how much of a sample of the problems teacher and student solve."""

    options: TrainOptions
    harness: Harness
    loop: Runner
    ranks: Ranks

    def metrics(
        self, run: Run, files: dict[str, str], student: Agent, teacher: Teacher | None, problems: Sequence[Problem]
    ) -> Metrics:
        """Return the metrics of teacher and student, from the run's directory if they are there. Print the comparison."""
        count = self.options.score.probe_problems
        if not count or teacher is None:
            return {}
        chosen = _spread(problems, count)
        print_of = self._fingerprint(files, chosen)
        found = self.ranks.first(lambda: _saved(run, print_of))
        if found is None:
            found = self._measure(student, teacher, chosen)
            text = json.dumps({"fingerprint": print_of, "metrics": found}, indent=1)
            self.ranks.first(lambda: write_whole(run.folder / NUMBERS_FILE, text + "\n"))
        _report(found)
        return found

    def _measure(self, student: Agent, teacher: Teacher, problems: Sequence[Problem]) -> Metrics:
        solved = self._solved(student, problems)
        found: Metrics = {}
        for name, each, own in _parts(teacher, problems):
            if not each.writes_turns:
                logger.warning("score.probe_problems: a sharded teacher solves no problems; skipped.")
                continue
            with each.sampled(self.loop, self._limits) as engine:
                agent = self.harness.agent(engine, self._limits, logprobs=False)
                agent = replace(agent, chat=each.chat or agent.chat)
                theirs = self._solved(agent, own)
            both = [id for id in theirs if id in solved]
            if both:
                found |= _compared(name, [theirs[id] for id in both], [solved[id] for id in both])
        self.harness.environments.take_busy_seconds()
        self.harness.sandbox.take_statistics()
        student.engine.take_busy_seconds()
        return found

    @property
    def _limits(self) -> Any:
        return self.options.rollout.model_copy(update={"group": 1})

    def _solved(self, agent: Agent, problems: Sequence[Problem]) -> dict[str, float]:
        """Return 1 or 0 for each problem that was attempted and judged."""
        one = replace(agent, options=self._limits)
        groups = self.loop.run(rollout(one, self.ranks.share(problems), seed=self.options.seed, update=ROUND))
        mine = {group.problem.id: float(group.trajectories[0].judged.is_right) for group in groups if len(group)}
        return self.ranks.union(mine)

    def _fingerprint(self, files: dict[str, str], problems: Sequence[Problem]) -> str:
        kept = {name: value for name, value in files.items() if name not in ("data", "rates")}
        parts = [kept, [problem.id for problem in problems], self.options.seed, self._limits.model_dump(mode="json")]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _spread(problems: Sequence[Problem], count: int) -> list[Problem]:
    """Return `count` problems, evenly spread over the file."""
    count = min(count, len(problems))
    return [problems[at * len(problems) // count] for at in range(count)]


def _parts(teacher: Teacher, problems: Sequence[Problem]) -> Iterator[tuple[str, Teacher, list[Problem]]]:
    """Yield each teacher with its name in the metrics and its problems."""
    if not isinstance(teacher, SeveralTeachers):
        yield "teacher", teacher, list(problems)
        return
    for route, each in teacher.parts():
        if own := [problem for problem in problems if teacher.route(problem) == route]:
            yield f"teacher/{route.name}", each, own


def _compared(name: str, theirs: Sequence[float], ours: Sequence[float]) -> Metrics:
    """Return the solve rates on the same problems, and half-widths of 95 % intervals where several problems give one."""
    found: Metrics = {}
    gains = [one - other for one, other in zip(theirs, ours, strict=True)]
    for key, values, lowest in (("solved", theirs, 0.0), ("student_solved", ours, 0.0), ("gain", gains, -1.0)):
        interval = bounded(mean_over_problems(values), len(values), lowest)
        found[f"{name}/{key}"] = interval.mean
        if not math.isnan(interval.half):
            found[f"{name}/{key}_half"] = interval.half
    found[f"{name}/probe_problems"] = len(theirs)
    return found


def _report(found: Metrics) -> None:
    """Print the comparison of each teacher. One that is not better is a warning."""

    def shown(key: str, form: str) -> str:
        half = found.get(f"{key}_half")
        return f"{100 * found[key]:{form}}" + ("" if half is None else f" ± {100 * half:.0f}")

    for name in [key.removesuffix("/solved") for key in found if key.endswith("/solved")]:
        gain, half = found[f"{name}/gain"], found.get(f"{name}/gain_half", math.inf)
        count = found[f"{name}/probe_problems"]
        line = (
            f"{name.replace('/', ' ')}: solves {shown(f'{name}/solved', '.0f')} % of {count:.0f} problems, "
            f"the student {shown(f'{name}/student_solved', '.0f')} %, gain {shown(f'{name}/gain', '+.0f')} points"
        )
        if gain <= 0:
            logger.warning(
                f"careful: {line}. This teacher is not better than the student here. Choose another one, use grpo, or compare on "
                "more problems with score.probe_problems."
            )
        else:
            logger.info(line if gain > half else f"{line}: not shown to be better")


def _saved(run: Run, fingerprint: str) -> Metrics | None:
    """Return the metrics in the run's directory, if they are of the same models and problems."""
    try:
        saved: dict[str, Any] = json.loads((run.folder / NUMBERS_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return saved.get("metrics") if saved.get("fingerprint") == fingerprint else None
