"""Continuations for `sod calibrate`: the teacher continues a student's trajectories from the beginning of a step.

On request, the student also continues after the first turn that the teacher has written there: has the advice helped it?

The trajectories come from an evaluation with a teacher. Steps are drawn evenly over the number of tool errors before them.
"""

import json
import logging
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sod.batching import ScoredBatch, collate, pad
from sod.chat.format import ChatFormat
from sod.config import AlgorithmOptions, CalibrateOptions, EvalOptions, RolloutCommandOptions
from sod.config.teachers import REST, Route, routes_of
from sod.console.progress import Display
from sod.core import INPUTS, RULES, MissingInputError, Rule, StepInfo, Weights, step_mean
from sod.credit.algorithms import step_info
from sod.credit.systems import SOD_RULE
from sod.datasets import ProblemSet
from sod.datasets.rows import Row, fingerprint_model, read_rows
from sod.datasets.several import open_sets, sets_fingerprint
from sod.engines.opening import open_engine
from sod.errors import DataError, OptionError, RunError
from sod.evaluation.results import Evaluated, read_evaluation
from sod.model.hub import model_folder
from sod.model.loading import check_context, check_embeddings, load_model
from sod.processes.concurrency import Runner
from sod.rollout.agent import Agent
from sod.rollout.groups import attempt_seed, beginning_seed, rollout
from sod.rollout.harness import Harness
from sod.runs.contents import changed_contents, content_digests
from sod.runs.directory import Run, command_of
from sod.runs.files import to_json, write_whole
from sod.runs.records import from_record
from sod.scoring import check_groups
from sod.teachers import TeacherSetup
from sod.teachers.opening import has_same_tokens
from sod.teachers.translated import Translation
from sod.teachers.translation import Translator
from sod.types import Group, Piece, Problem, Trajectory

logger = logging.getLogger(__name__)

ADVICE = "Start from the directory where `sod eval` was started."
MANY = 3
"""Larger numbers of tool errors are treated as this one."""


# The evaluation


@dataclass(frozen=True, slots=True)
class ScoredEvaluation:
    """An evaluation with a teacher, read from its directory."""

    options: EvalOptions
    data: str
    """Fingerprint of the problems."""
    teachers: Mapping[str, str]
    """Fingerprint of each teacher by the key of its problems; the key of a single one is *."""
    student: str
    """Fingerprint of the student; empty if the evaluation has none."""
    batch: ScoredBatch
    """The graded trajectories. Only the difference of both models' log-probabilities was recorded: the student's are 0 here."""
    private: frozenset[str]
    """Ids of problems that must not be published."""
    d_BK: Tensor
    """Divergences as recorded; the signals in `batch` are rounded."""

    @classmethod
    def read(cls, folder: Path) -> "ScoredEvaluation":
        """Read an evaluation.

        Raises RunError if the directory holds no evaluation with a teacher, and DataError if it is not finished or if a row is
        damaged.
        """
        options, data, teachers, student, contents = _read_options(folder)
        evaluated = read_evaluation(folder)
        sets = _open_sets(folder, options, data, contents)
        problems = {problem.id: problem for each in sets for problem in each.problems}
        by_problem = _read_scored(folder, evaluated, problems)
        scored = [each for group in by_problem.values() for each in group]
        signal_BT = pad([each.signal for each in scored], torch.float32)
        graded = collate([Group(problems[id], [each.trajectory for each in group]) for id, group in by_problem.items()])
        batch = replace(
            graded.scored(torch.zeros_like(signal_BT)),
            teacher_BT=signal_BT,
            teacher_entropy_BT=pad([each.teacher_entropy for each in scored], torch.float32),
            span_share_BT=pad([each.share for each in scored], torch.float32)
            if any(each.share for each in scored)
            else None,
        )
        return cls(
            options=options,
            data=data,
            teachers=teachers,
            student=student,
            batch=batch,
            private=frozenset(problem.id for each in sets if each.private for problem in each.problems),
            d_BK=pad([each.d for each in scored], torch.float32),
        )

    def info(self) -> StepInfo:
        """Return the inputs of the rules: the whole evaluation as one batch, before the first update.

        The student's log-probabilities are those of the sampler, if they were recorded and not changed by top_p.
        """
        info = step_info(self.batch, AlgorithmOptions())[1]
        sampled_BT = pad([trajectory.sampler_logprobs for trajectory in self.batch.trajectories], torch.float32)
        known = self.options.rollout.top_p == 1 and bool((sampled_BT[self.batch.mask_BT] != 0).any())
        return replace(
            info,
            student_BT=sampled_BT if known else None,
            teacher_BT=sampled_BT + info.signal_BT if known and self.batch.span_share_BT is None else None,
            student_rate_B=None,
        )

    def weights(self, rules: Mapping[str, Rule] = RULES) -> dict[str, Tensor]:
        """Return each rule's weights of the steps, (B, K). Weights of tokens are averaged over the step.

        Rules that read what an evaluation does not hold are left out and logged, as is a rule that fails.
        """
        info = self.info()
        weights: dict[str, Tensor] = {}
        missing: list[str] = []
        for name, rule in rules.items():
            try:
                w = Weights.of(rule(self.d_BK, info)).teacher
                w_BK = w if w.shape == self.d_BK.shape else step_mean(w, info.ids_BT)
                if not w_BK[info.exists_BK].isfinite().all():
                    raise ValueError("some weights are not finite")
                weights[name] = w_BK
            except MissingInputError as error:
                missing.append(f"{name} ({INPUTS[error.name].what})")
            except Exception as error:  # a rule may raise anything
                logger.warning(f"The rule {name!r} is left out: {type(error).__name__}: {error}")
        if missing:
            logger.info(f"Rules that read more than an evaluation holds are left out: {', '.join(missing)}.")
        return weights


def routes_in(teacher: Path | None, teachers: Sequence[str]) -> list[Route]:
    """Return the teachers of the options of a command. Raise OptionError unless there is one, or several."""
    if (teacher is None) == (not teachers):
        raise OptionError("Give the teacher of the evaluation as --teacher, or its several teachers as --teachers.")
    return routes_of(teachers) if teacher is None else [Route(REST, teacher)]


def _read_options(folder: Path) -> tuple[EvalOptions, str, dict[str, str], str, dict[str, str]]:
    """Return the options of an evaluation, the fingerprints of its problems, teachers and student, and digests of its files."""
    try:
        text = (folder / "options.json").read_text(encoding="utf-8")
        environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
        if (command := command_of(environment, json.loads(text))) in ("train", "sft", "calibrate"):
            raise ValueError(f"it is a run of `sod {command}`")
        options = RolloutCommandOptions.model_validate_json(text)
        prints: dict[str, str] = environment["data"]
        contents: dict[str, str] = environment.get("files", {})
        data = prints["data"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RunError(
            f"{folder} holds no run of `sod eval` ({': '.join(str(error).splitlines()[:2])}). Pass the directory of a "
            "finished `sod eval` with --teacher."
        ) from error
    if options.teacher is None and not options.teachers:
        raise RunError(f"{folder} is an evaluation without a teacher. Repeat `sod eval` with --teacher.")
    if options.score.teacher_url is not None or options.score.teacher_urls:
        raise RunError(
            f"{folder} is an evaluation with a remote teacher, which returns no entropies. Repeat `sod eval` without "
            "a server."
        )
    teachers = {
        route.key: prints.get("teacher" if options.teacher else f"teacher {route.name}")
        or fingerprint_model(model_folder(route.model))
        for route in routes_in(options.teacher, options.teachers)
    }
    return options, data, teachers, prints.get("model", ""), contents


def _open_sets(folder: Path, options: EvalOptions, data: str, contents: dict[str, str]) -> list[ProblemSet]:
    """Open the problems of the evaluation, and check their fingerprint."""
    try:
        sets = open_sets(options)
    except DataError as error:
        raise RunError(f"The problems of {folder} are missing or have changed ({error}). {ADVICE}") from error
    if sets_fingerprint(sets) != data:
        raise RunError(f"The problems of {folder}, {', '.join(options.data)}, have changed. {ADVICE}")
    if changed := changed_contents(contents, content_digests(options, [(each.path, each.problems) for each in sets])):
        raise RunError(f"{changed[0]} has changed since the evaluation {folder}. Restore its content. {ADVICE}")
    return sets


@dataclass(frozen=True, slots=True)
class _Scored:
    """One row of a trajectory file (`sod.runs.records.scored_records`), checked."""

    trajectory: Trajectory
    signal: list[float]
    """Signal of each token; 0 for tokens that the student did not write."""
    teacher_entropy: list[float]
    """Entropy at each token; 0 for tokens that the student did not write."""
    d: list[float]
    share: list[float]
    """Part of a span that each token is; empty for a teacher with the student's tokenizer."""

    @classmethod
    def of(cls, row: Row, problem: Problem) -> "_Scored":
        """Check a row. Raises LookupError, TypeError or ValueError."""
        pieces, d = row["pieces"], [float(step["d"]) for step in row["steps"]]
        authors = ["observation" if piece["author"] in ("tool", "user") else piece["author"] for piece in pieces]
        if authors != ["prompt", "student", *["observation", "student"] * (len(d) - 1)]:
            raise ValueError("its steps do not match its pieces")
        turns = [(turn["signal"], turn.get("span_share") or [1.0] * len(turn["signal"])) for turn in pieces[1::2]]
        for (signal, share), own in zip(turns, d, strict=True):
            spans = math.fsum(share)
            if spans and not math.isclose(math.fsum(map(abs, signal)) / spans, own, rel_tol=1e-3, abs_tol=1e-3):
                raise ValueError("the d of its steps is not the mean of |signal|")
        attempt = from_record(row, problem, lambda tokens: "")  # its text is not needed
        share = _by_token(pieces, "span_share") if "span_share" in pieces[1] else []
        return cls(attempt, _by_token(pieces, "signal"), _by_token(pieces, "teacher_entropy"), d, share)


def _by_token(pieces: Sequence[Row], name: str) -> list[float]:
    """Return a column of the student's pieces, with 0 for the tokens of other pieces."""
    values = [piece[name] if piece["author"] == "student" else [0.0] * len(piece["tokens"]) for piece in pieces]
    if any(len(column) != len(piece["tokens"]) for column, piece in zip(values, pieces, strict=True)):
        raise ValueError(f"its columns `tokens` and `{name}` differ in length")
    return [value for column in values for value in column]


def _read_scored(folder: Path, evaluated: Evaluated, problems: Mapping[str, Problem]) -> dict[str, list[_Scored]]:
    """Read the graded trajectories of each problem. Raises DataError for a damaged row."""
    by_problem: dict[str, list[_Scored]] = {}
    file = Run(folder).trajectory_file(0)
    for number, row in enumerate(read_rows(file), 1):
        try:
            if row["sample"] in evaluated.verdicts.get(row["problem"], ()):
                by_problem.setdefault(row["problem"], []).append(_Scored.of(row, problems[row["problem"]]))
        except (LookupError, TypeError, ValueError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise DataError(
                f"{file}, row {number} cannot be used: {what}. It is damaged or of an older version. Repeat `sod eval`."
            ) from error
    return by_problem


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
        model_folder(evaluation.options.model, weights=False), evaluation.options, list(problems.values())
    )
    routes, weights = routes_in(options.teacher, options.teachers), evaluation.weights()
    by_start: dict[Start, Row] = {}
    for route in routes:  # one teacher after the other is in memory
        own = [start for start in chosen if _route(routes, evaluation, start) is route]
        if own:
            rows = _rows_of_teacher(options, evaluation, harness, weights, route, own)
            by_start |= {start: row | ({"teacher": route.name} if options.teachers else {}) for start, row in rows}
    rows = [by_start[start] for start in chosen if start in by_start]
    if len(rows) < len(chosen):
        logger.warning(
            f"{len(chosen) - len(rows)} continuations were lost to infrastructure failures or could not be graded."
        )
    prints = {("teacher" if key == REST else f"teacher {key}"): found for key, found in evaluation.teachers.items()}
    run = Run.open(options, options.out, data={"data": evaluation.data} | prints)
    write_whole(run.folder / "continuations.jsonl", "".join(to_json(row) + "\n" for row in rows))
    return rows


def _route(routes: Sequence[Route], evaluation: ScoredEvaluation, start: Start) -> Route:
    """Return the teacher of a step's problem. The evaluation has checked that there is one."""
    problem = evaluation.batch.trajectories[start.row].problem
    return next(route for route in routes if route.takes(problem.kind, problem.labels))


def _rows_of_teacher(
    options: CalibrateOptions,
    evaluation: ScoredEvaluation,
    harness: Harness,
    weights: Mapping[str, Tensor],
    route: Route,
    chosen: Sequence[Start],
) -> list[tuple[Start, Row]]:
    """Let one teacher continue. -> each step with its row, without those that were lost"""
    teacher = _Teacher.load(route.model, evaluation.options, harness)
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
            setup = TeacherSetup(
                folder=folder,
                tokenizer=chat.tokenizer,
                network=measured.network,
                score=measured.score,
                rollout=measured.rollout,
                microbatch_tokens=measured.microbatch_tokens,
                chat=chat,
                tools=harness.tools.schemas,
                thinking=measured.chat.thinking,
            )
            translation = Translation(setup)
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
    old, run_seed = evaluation.batch.trajectories[start.row], evaluation.options.seed
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
        measured = evaluation.options
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
    limits = evaluation.options.rollout
    with (
        Runner() as loop,
        harness.working_in(loop),
        open_engine(loop, evaluation.options.engine, model, limits) as engine,
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
