"""Continuations for `sod calibrate`: the teacher continues a student's trajectories from the beginning of a step.

On request, the student also continues after the first turn that the teacher has written there: has the advice helped it?

The trajectories come from an evaluation with a teacher. Steps are drawn evenly over the number of tool errors before them.
"""

import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sod.chat.format import ChatFormat
from sod.config import CalibrateOptions, EvalOptions
from sod.config.teachers import Route, route_for
from sod.console.progress import Display
from sod.credit.systems import SOD_RULE
from sod.datasets.rows import Row
from sod.engines.opening import open_engine
from sod.errors import OptionError
from sod.evaluation.scored import ScoredEvaluation, routes_in
from sod.model.hub import model_folder
from sod.model.loading import check_context, check_embeddings, load_model
from sod.processes.concurrency import Runner
from sod.rollout.agent import Agent
from sod.rollout.groups import attempt_seed, beginning_seed, rollout
from sod.rollout.harness import Harness
from sod.runs.directory import Run
from sod.runs.files import to_json, write_whole
from sod.scoring import check_groups
from sod.teachers import TeacherSetup
from sod.teachers.opening import has_same_tokens
from sod.teachers.translated import Translation
from sod.teachers.translation import Translator
from sod.types import Group, Piece, Problem, Trajectory

logger = logging.getLogger(__name__)

MANY = 3
"""Larger numbers of tool errors are treated as this one."""


# The steps


@dataclass(frozen=True, slots=True, order=True)
class Start:
    """The beginning of a step."""

    row: int
    """Row of the trajectory in the batch."""
    step: int
    """k, from 1."""
    errors: int
    """Number of failed tool calls before the step."""

    @property
    def pieces(self) -> int:
        """Number of pieces before the step: the prompt, and k - 1 times a turn and an observation."""
        return 2 * self.step - 1


def starts(trajectories: Sequence[Trajectory]) -> list[Start]:
    """Return the beginning of every step except the first: before that one, the student has done nothing."""
    found: list[Start] = []
    for row, trajectory in enumerate(trajectories):
        errors = 0
        for step, observation in enumerate(trajectory.observations, 2):
            errors += sum(outcome != "ok" for outcome in observation.outcomes)
            found.append(Start(row, step, errors))
    return found


def draw_evenly(starts: Sequence[Start], count: int, seed: int) -> list[Start]:
    """Draw `count` of them, in order, as evenly as possible over 0, 1, 2 and at least `MANY` errors.

    Returns all of them if there are no more.
    """
    rng = random.Random(seed)
    strata = [[start for start in starts if min(start.errors, MANY) == errors] for errors in range(MANY + 1)]
    chosen: list[Start] = []
    for i, stratum in enumerate(sorted(strata, key=len)):  # larger strata fill up what smaller ones lack
        chosen += rng.sample(stratum, min(len(stratum), (count - len(chosen)) // (len(strata) - i)))
    return sorted(chosen)


# The continuations


class Begun(NamedTuple):
    """The part of a trajectory that is continued: the last arguments of `Agent.attempt`."""

    beginning: int
    """Seed of its environment."""
    prefix: Sequence[Piece]
    prefix_seeds: Sequence[int]
    """Seeds of its turns."""


Continuation = tuple[Problem, Begun]
"""What is continued. The problem's id names the step."""


@dataclass(frozen=True)
class Successor(Agent):
    """An agent that continues existing trajectories. Problem ids are the keys of `begun`."""

    begun: Mapping[str, Begun]

    async def attempt(self, problem: Problem, sample: int, seed: int, *others: Any, **named: Any) -> Trajectory:
        del others, named  # its own beginning
        return await super().attempt(problem, sample, seed, *self.begun[problem.id])


def continuations(options: CalibrateOptions, evaluation: ScoredEvaluation, chosen: Sequence[Start]) -> list[Row]:
    """Let the teacher of each step's problem continue once from it, and write continuations.jsonl. -> its rows

    Lost continuations and those that no judge could decide are left out and logged.
    """
    problems = {each.problem.id: each.problem for each in evaluation.batch.trajectories}
    harness = Harness.of(
        model_folder(evaluation.origin.options.model, weights=False), evaluation.origin.options, list(problems.values())
    )
    routes, weights = routes_in(options.teacher, options.teachers), evaluation.weights()
    by_start: dict[Start, Row] = {}
    for route in routes:  # one teacher after the other is in memory
        own = [start for start in chosen if _takes(route, routes, evaluation.batch.trajectories[start.row].problem)]
        if own:
            rows = _rows_of_teacher(options, evaluation, harness, weights, route, own)
            by_start |= {start: row | ({"teacher": route.name} if options.teachers else {}) for start, row in rows}
    rows = [by_start[start] for start in chosen if start in by_start]
    if len(rows) < len(chosen):
        logger.warning(
            f"{len(chosen) - len(rows)} continuations were lost to infrastructure failures or could not be graded."
        )
    prints = {
        route.recorded if options.teachers else "teacher": evaluation.origin.teachers[route.key] for route in routes
    }
    run = Run.open(options, options.out, data={"data": evaluation.origin.data} | prints)
    write_whole(run.folder / "continuations.jsonl", "".join(to_json(row) + "\n" for row in rows))
    return rows


def _takes(route: Route, routes: Sequence[Route], problem: Problem) -> bool:
    """Return whether a route is the problem's. The evaluation has checked that there is one."""
    return route_for(routes, problem) is route


def _rows_of_teacher(
    options: CalibrateOptions,
    evaluation: ScoredEvaluation,
    harness: Harness,
    weights: Mapping[str, Tensor],
    route: Route,
    chosen: Sequence[Start],
) -> list[tuple[Start, Row]]:
    """Let one teacher continue. -> each step with its row, without those that were lost"""
    teacher = _Teacher.load(route.model, evaluation.origin.options, harness)
    if options.advised and teacher.translator is not None:
        raise OptionError(
            f"advised lets the student go on after a turn of the teacher, but {route.model} has another tokenizer. Leave it "
            "out, or use a teacher with the student's tokenizer."
        )
    begun = [_from_step(evaluation, start, teacher) for start in chosen]
    groups = _continue(options, evaluation, harness, begun, teacher.model, teacher.chat)
    advised = _advised(options, evaluation, harness, begun, groups) if options.advised else {}
    return _rows(evaluation, weights, chosen, groups, advised, teacher.chat.tokenizer)


@dataclass(frozen=True, slots=True)
class _Teacher:
    """The teacher that continues, in its own chat format."""

    model: PreTrainedModel
    chat: ChatFormat
    translator: Translator | None
    """Renders the student's steps for a teacher with another tokenizer."""

    @classmethod
    def load(cls, model: Path, measured: EvalOptions, harness: Harness) -> "_Teacher":
        """Load the teacher with the precision of the evaluation, and check that it fits the student's limits."""
        folder, chat, translator = model_folder(model), harness.chat, None
        if not has_same_tokens(folder, chat.tokenizer):
            translation = Translation(TeacherSetup.of(folder, measured, chat, harness.tools.schemas))
            chat, translator = translation.chat, translation.translator
        network = load_model(folder, measured.network.for_teacher(measured.score))
        check_embeddings(network, chat.tokenizer, folder)
        check_context(network, measured.rollout, whose="teacher")
        return cls(network, chat, translator)

    def read(self, trajectory: Trajectory, pieces: int) -> Sequence[Piece]:
        """Return the first pieces of a trajectory in the teacher's tokens."""
        begun = replace(trajectory, pieces=trajectory.pieces[:pieces])
        return begun.pieces if self.translator is None else self.translator.trajectory(begun)[0].pieces


def _from_step(evaluation: ScoredEvaluation, start: Start, teacher: _Teacher) -> Continuation:
    """Return the student's trajectory up to the beginning of a step, in the teacher's tokens."""
    old, run_seed = evaluation.batch.trajectories[start.row], evaluation.origin.options.seed
    problem, seed = old.problem, attempt_seed(run_seed, 0, old.problem.id, old.sample)
    begun = Begun(
        beginning=beginning_seed(run_seed, 0, problem.id),
        prefix=teacher.read(old, start.pieces),
        prefix_seeds=range(seed, seed + start.step - 1),
    )
    return replace(problem, id=f"{problem.id}/{old.sample}/{start.step}"), begun


def _after_advice(options: CalibrateOptions, continuation: Continuation, ended: Trajectory) -> Continuation | None:
    """Return the trajectory up to the answer to the teacher's first turn; None if that turn ended it."""
    problem, begun = continuation
    written = len(begun.prefix)
    if len(ended.pieces) < written + 3:
        return None
    advice = replace(ended.pieces[written], author="teacher", logprobs=())
    seed = attempt_seed(options.seed, 0, problem.id, ended.sample) + len(begun.prefix_seeds)
    longer = Begun(
        beginning=begun.beginning,
        prefix=(*begun.prefix, advice, ended.pieces[written + 1]),
        prefix_seeds=(*begun.prefix_seeds, seed),
    )
    return replace(problem, id=f"{problem.id}/advised"), longer


def _advised(
    options: CalibrateOptions,
    evaluation: ScoredEvaluation,
    harness: Harness,
    begun: Sequence[Continuation],
    groups: Sequence[Group],
) -> dict[str, Trajectory]:
    """Let the student continue once after the teacher's first turn in each step. -> the whole attempt by the step's id

    A step in which that turn ended the attempt has the teacher's attempt. Lost and ungraded continuations are left out.
    """
    advised: dict[str, Trajectory] = {}
    longer: dict[str, Continuation] = {}
    for continuation, group in zip(begun, groups, strict=True):
        for ended in group:
            id, after = continuation[0].id, _after_advice(options, continuation, ended)
            if after is None:
                advised[id] = ended
            else:
                longer[id] = after
    if longer:
        measured = evaluation.origin.options
        model = load_model(model_folder(measured.model), measured.network)
        continued = _continue(options, evaluation, harness, list(longer.values()), model, harness.chat)
        for id, group in zip(longer, continued, strict=True):
            for ended in group:
                advised[id] = ended
    return advised


def _continue(
    options: CalibrateOptions,
    evaluation: ScoredEvaluation,
    harness: Harness,
    begun: Sequence[Continuation],
    model: PreTrainedModel,
    chat: ChatFormat,
) -> list[Group]:
    """Let a model continue. -> a group for each beginning, with its continuation unless that was lost"""
    limits = evaluation.origin.options.rollout
    with (
        Runner() as loop,
        harness.working_in(loop),
        open_engine(loop, evaluation.origin.options.engine, model, limits) as engine,
        Display("calibrate", total=1) as display,
        display.phase("continue", len(begun)),
    ):

        def advance(trajectory: Trajectory | None) -> None:
            del trajectory
            display.advance()

        beginnings = {problem.id: beginning for problem, beginning in begun}
        agent = Successor(engine, chat, harness.environments, harness.referee, limits, beginnings)
        problems = [problem for problem, _ in begun]
        groups = loop.run(rollout(agent, problems, seed=options.seed, update=0, on_trajectory=advance))
    check_groups(groups)
    return groups


def _rows(
    evaluation: ScoredEvaluation,
    weights: Mapping[str, Tensor],
    chosen: Sequence[Start],
    groups: Sequence[Group],
    advised: Mapping[str, Trajectory],
    tokenizer: PreTrainedTokenizerBase,
) -> list[tuple[Start, Row]]:
    """Return a row of continuations.jsonl for each graded continuation. `advised`: as `_advised` returns it."""
    info = evaluation.info()
    rows: list[tuple[Start, Row]] = []
    for start, group in zip(chosen, groups, strict=True):
        for ended in group:
            begun, at = evaluation.batch.trajectories[start.row], (start.row, start.step - 1)
            private = begun.problem.id in evaluation.private
            row: Row = {
                "problem": begun.problem.id,
                "sample": begun.sample,
                "step": start.step,
                "errors_before": start.errors,
                "d": float(evaluation.d_BK[at]),
                "w": float(weights[SOD_RULE][at]),
                "teacher_entropy": float(info.entropy_BK[at]),
                "weights": {name: float(w_BK[at]) for name, w_BK in weights.items()},
                "solved": ended.judged.is_right,
                "answer": ended.judged.answer,
                "stop": ended.stop,
                "text": "" if private else _text(ended, start.pieces, tokenizer),
            }
            if (other := advised.get(group.problem.id)) is not None:
                row |= {
                    "student_solved": begun.judged.is_right,
                    "advised_solved": other.judged.is_right,
                    "advised_text": "" if private else _text(other, start.pieces + 2, tokenizer),
                }
            rows.append((start, row))
    return rows


def _text(trajectory: Trajectory, first: int, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the text of the pieces from number `first` on."""
    return str(tokenizer.decode([token for piece in trajectory.pieces[first:] for token in piece.tokens]))
