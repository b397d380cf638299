"""An evaluation with a teacher, read from its directory, as one scored batch: the input of `sod calibrate`."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from sod.batching import ScoredBatch, collate, pad
from sod.config import AlgorithmOptions, EvalOptions, RolloutCommandOptions
from sod.config.teachers import REST, Route, routes_of
from sod.core import INPUTS, RULES, MissingInputError, Rule, StepInfo, Weights, step_mean
from sod.credit.algorithms import step_info
from sod.datasets import ProblemSet
from sod.datasets.rows import Row, fingerprint_model, read_rows
from sod.datasets.several import open_sets, sets_fingerprint
from sod.errors import DataError, OptionError, RunError
from sod.evaluation.results import Evaluated, read_evaluation
from sod.model.hub import model_folder
from sod.runs.contents import changed_contents, content_digests
from sod.runs.directory import Run, command_of
from sod.runs.records import from_record
from sod.types import Group, Problem, Trajectory

logger = logging.getLogger(__name__)

ADVICE = "Start from the directory where `sod eval` was started."


def routes_in(teacher: Path | None, teachers: Sequence[str]) -> list[Route]:
    """Return the teachers of the options of a command. Raise OptionError unless there is one, or several."""
    if (teacher is None) == (not teachers):
        raise OptionError("Give the teacher of the evaluation as --teacher, or its several teachers as --teachers.")
    return routes_of(teachers) if teacher is None else [Route(REST, teacher)]


@dataclass(frozen=True, slots=True)
class Origin:
    """What an evaluation with a teacher was made of."""

    options: EvalOptions
    data: str
    """Fingerprint of the problems."""
    teachers: Mapping[str, str]
    """Fingerprint of each teacher by the key of its problems; the key of a single one is *."""
    student: str
    """Fingerprint of the student; empty if the evaluation has none."""
    contents: dict[str, str]
    """Digests of its files."""

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Read options and fingerprints. Raises RunError unless it is an evaluation with a teacher on this machine."""
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
            route.key: prints.get("teacher" if options.teacher else route.recorded)
            or fingerprint_model(model_folder(route.model))
            for route in routes_in(options.teacher, options.teachers)
        }
        return cls(options, data, teachers, prints.get("model", ""), contents)

    def open_sets(self, folder: Path) -> list[ProblemSet]:
        """Open the problems. Raises RunError if they, or other files of the evaluation, have changed."""
        try:
            sets = open_sets(self.options)
        except DataError as error:
            raise RunError(f"The problems of {folder} are missing or have changed ({error}). {ADVICE}") from error
        if sets_fingerprint(sets) != self.data:
            raise RunError(f"The problems of {folder}, {', '.join(self.options.data)}, have changed. {ADVICE}")
        digests = content_digests(self.options, [(each.path, each.problems) for each in sets])
        if changed := changed_contents(self.contents, digests):
            raise RunError(f"{changed[0]} has changed since the evaluation {folder}. Restore its content. {ADVICE}")
        return sets


@dataclass(frozen=True, slots=True)
class ScoredEvaluation:
    """An evaluation with a teacher, read from its directory."""

    origin: Origin
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
        origin = Origin.of(folder)
        evaluated = read_evaluation(folder)
        sets = origin.open_sets(folder)
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
            origin=origin,
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
        known = self.origin.options.rollout.top_p == 1 and bool((sampled_BT[self.batch.mask_BT] != 0).any())
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
