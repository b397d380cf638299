"""Does a low step weight mark the steps where the teacher's advice is bad?

What the teacher's advice in a step is worth can be measured: from the beginning of the step the teacher itself goes on, once,
in the student's world and at the evaluation's settings (the tool fails as often as there), and solves the problem or not.
How well a rule's weights predict that is their AUC: the probability that a step from which the teacher succeeds weighs more
than one from which it fails, a tie counting half. 0.5 is to know nothing; below it, low weights mark *good* advice.

Steps are drawn evenly over the number of tool errors before them, so that rare ones are seen as well, and an AUC is of that
mixture. Errors have a part in both, weights and failures; so there is a second AUC, of pairs of steps with equally many errors
before them: what a rule knows beyond counting. `gated` and `sign_consistent` know how the student's own attempt came out.

Intervals are of 95 %, from a bootstrap that draws whole problems: what is continued at one problem succeeds or fails together.
"""

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor

from sod.algorithms import step_info
from sod.batching import ScoredBatch, collate, pad
from sod.concurrency import Runner
from sod.config import AlgorithmOptions, CalibrateOptions, EvalOptions, RolloutCommandOptions
from sod.console.progress import Display, console, say
from sod.core import RULES, Rule, StepInfo, step_mean
from sod.datasets.rows import fingerprint_model, read_rows
from sod.datasets.several import fingerprint, open_sets
from sod.engines.opening import open_engine
from sod.errors import DataError, RunError
from sod.evaluation.intervals import DRAWS
from sod.evaluation.results import read_evaluation
from sod.hub import model_folder
from sod.model.loading import check_context, check_embeddings, check_same_vocabulary, load_model, load_tokenizer
from sod.rollout.agent import Agent
from sod.rollout.groups import rollout
from sod.rollout.harness import World
from sod.runs.directory import Run
from sod.runs.files import to_json, write_json, write_whole
from sod.runs.records import from_record
from sod.scoring import check_groups
from sod.types import Group, Piece, Problem, Trajectory

Row = dict[str, Any]
Array = NDArray[np.float64]

SOD = "drift"
"""The rule that all others are compared with."""
ADVICE = "Start from the directory where `sod eval` was started."
MANY = 3
"""Tool errors from which on they are counted alike."""
BINS = 5
"""Of a rule's weights, of about equally many steps each."""


def calibrate(options: CalibrateOptions) -> Row:
    """Let the teacher continue; write calibration.json, also into the evaluation's directory; show what it says.

    Nothing is written before all steps are continued. Raises RunError where the run is no evaluation beside this teacher,
    DataError where its trajectories cannot be used.
    """
    run = Run(options.out)
    with run.held():
        run.check(options, resume=False)
        return _calibrate(options)


def _calibrate(options: CalibrateOptions) -> Row:
    evaluation = Beside.read(options.run)
    if fingerprint_model(model_folder(options.teacher)) != evaluation.teacher:
        raise RunError(
            f"{options.run} was measured against {evaluation.options.teacher}, but {options.teacher} is another model; give "
            "that one, from the directory where `sod eval` was started."
        )
    chosen = draw_evenly(starts(evaluation.batch.trajectories), options.steps, options.seed)
    if not chosen:
        raise DataError(f"No trajectory in {options.run} has more than one step: there is nothing to continue from.")
    if len(chosen) < options.steps:
        say(f"{options.run} has {len(chosen)} steps to continue from, not {options.steps}; all of them are taken.")
    rows = continuations(options, evaluation, chosen)
    results = summary(rows, seed=options.seed) | {"run": str(options.run), "teacher": str(options.teacher)}
    write_json(options.out / "calibration.json", results)
    try:
        write_json(options.run / "calibration.json", results)
    except RunError as error:
        say(f"{error} So its report will not show what {options.out} holds.")
    for table in tables(results):
        console.print(table)
    say(verdict(results))
    say(f"every continuation: {options.out / 'continuations.jsonl'}; the figure: sod report {options.run}")
    return results


# What was measured


@dataclass(frozen=True, slots=True)
class Beside:
    """An evaluation beside a teacher, read back from its directory."""

    options: EvalOptions
    data: str
    """Fingerprint of the problems; likewise of the teacher."""
    teacher: str
    batch: ScoredBatch
    """Its graded trajectories. Of both models' log-probabilities only the difference is known: the student's are 0 here."""
    private: frozenset[str]
    """Problems that are not to be published."""
    d_BK: Tensor
    """As measured; in `batch`, the signal of every token is rounded."""

    @classmethod
    def read(cls, folder: Path) -> "Beside":
        """Raises RunError where the directory holds no finished evaluation beside a teacher, DataError for a bad row."""
        try:
            options = RolloutCommandOptions.model_validate_json((folder / "options.json").read_text(encoding="utf-8"))
            prints: dict[str, str] = json.loads((folder / "environment.json").read_text(encoding="utf-8"))["data"]
            data = prints["data"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise RunError(
                f"{folder} holds no run of `sod eval` ({': '.join(str(error).splitlines()[:2])})."
            ) from error
        if options.teacher is None:
            raise RunError(f"{folder} was measured without a teacher; repeat `sod eval` with --teacher.")
        if options.score.teacher_url is not None:
            raise RunError(
                f"{folder} was measured against a teacher on a server, which tells no entropy; repeat `sod eval` without "
                "score.teacher_url."
            )
        measured = read_evaluation(folder)
        try:
            sets = open_sets(options)
        except DataError as error:
            raise RunError(
                f"{folder}: what it was measured on is not there or has changed. {ADVICE} ({error})"
            ) from error
        if fingerprint(sets) != data:
            raise RunError(f"{folder} was measured on {', '.join(options.data)}, which has changed. {ADVICE}")
        problems = {problem.id: problem for each in sets for problem in each.problems}
        by_problem: dict[str, list[_Scored]] = {}
        file = Run(folder).trajectory_file(0)
        for number, row in enumerate(read_rows(file), 1):
            try:
                if row["sample"] in measured.verdicts.get(row["problem"], ()):
                    by_problem.setdefault(row["problem"], []).append(_Scored.of(row, problems[row["problem"]]))
            except (LookupError, TypeError, ValueError) as error:
                what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
                raise DataError(
                    f"{file}, row {number} cannot be used: {what}. It is damaged or of an older version; repeat `sod eval`."
                ) from error
        scored = [each for group in by_problem.values() for each in group]
        signal_BT = pad([each.signal for each in scored], torch.float32)
        graded = collate([Group(problems[id], [each.trajectory for each in group]) for id, group in by_problem.items()])
        batch = replace(
            graded.scored(torch.zeros_like(signal_BT)),
            teacher_BT=signal_BT,
            teacher_entropy_BT=pad([each.teacher_entropy for each in scored], torch.float32),
        )
        teacher = prints.get("teacher") or fingerprint_model(model_folder(options.teacher))
        private = frozenset(problem.id for each in sets if each.private for problem in each.problems)
        return cls(options, data, teacher, batch, private, pad([each.d for each in scored], torch.float32))

    def info(self) -> StepInfo:
        """What rules may know: the whole evaluation as one batch, before the first update."""
        return step_info(self.batch, AlgorithmOptions())[1]

    def weights(self, rules: Mapping[str, Rule] = RULES) -> dict[str, Tensor]:
        """What each rule weighs each step, (B, K); the mean over the step where it weighs tokens.

        A rule that fails is said and left out.
        """
        info = self.info()
        weights: dict[str, Tensor] = {}
        for name, rule in rules.items():
            try:
                w = rule(self.d_BK, info)
                w_BK = w if w.shape == self.d_BK.shape else step_mean(w, info.ids_BT)
                if not w_BK[info.exists_BK].isfinite().all():
                    raise ValueError("weights that are not finite")
                weights[name] = w_BK
            except Exception as error:  # a rule may do anything
                say(f"The rule {name!r} is left out: {type(error).__name__}: {error}")
        return weights


@dataclass(frozen=True, slots=True)
class _Scored:
    """One row of a trajectory file (`sod.runs.records.scored_records`), checked."""

    trajectory: Trajectory
    signal: list[float]
    """Of every token, 0 where the student did not write; likewise the entropy."""
    teacher_entropy: list[float]
    d: list[float]

    @classmethod
    def of(cls, row: Row, problem: Problem) -> "_Scored":
        """Raises LookupError, TypeError or ValueError."""
        pieces, d = row["pieces"], [float(step["d"]) for step in row["steps"]]
        if [piece["author"] for piece in pieces] != ["prompt", "student", *["tool", "student"] * (len(d) - 1)]:
            raise ValueError("its steps are not those of its pieces")
        if not np.allclose([fmean(map(abs, turn["signal"])) for turn in pieces[1::2]], d, rtol=0, atol=1e-3):
            raise ValueError("the d of its steps is not the mean of |signal|")
        attempt = from_record(row, problem, lambda tokens: "")  # what it says is of no concern here
        return cls(attempt, _by_token(pieces, "signal"), _by_token(pieces, "teacher_entropy"), d)


def _by_token(pieces: Sequence[Row], name: str) -> list[float]:
    """A column of the student's pieces, with 0 for the tokens of the others."""
    values = [piece[name] if piece["author"] == "student" else [0.0] * len(piece["tokens"]) for piece in pieces]
    if any(len(column) != len(piece["tokens"]) for column, piece in zip(values, pieces, strict=True)):
        raise ValueError(f"its columns `tokens` and `{name}` differ in length")
    return [value for column in values for value in column]


# Where to continue from


@dataclass(frozen=True, slots=True, order=True)
class Start:
    """The beginning of a step."""

    row: int
    """Of the batch."""
    step: int
    """k, from 1."""
    errors: int
    """Tool calls that failed before it."""

    @property
    def pieces(self) -> int:
        """How many stand before it: the prompt, and k - 1 times a turn and an observation."""
        return 2 * self.step - 1


def starts(trajectories: Sequence[Trajectory]) -> list[Start]:
    """Of every step but the first: before that, the student has done nothing."""
    found: list[Start] = []
    for row, trajectory in enumerate(trajectories):
        errors = 0
        for step, observation in enumerate(trajectory.observations, 2):
            errors += sum(outcome != "ok" for outcome in observation.outcomes)
            found.append(Start(row, step, errors))
    return found


def draw_evenly(starts: Sequence[Start], count: int, seed: int) -> list[Start]:
    """`count` of them, as many with 0, 1, 2 and `MANY` or more errors as there are; all if there are no more. In order."""
    rng = random.Random(seed)
    strata = [[start for start in starts if min(start.errors, MANY) == errors] for errors in range(MANY + 1)]
    chosen: list[Start] = []
    for i, stratum in enumerate(sorted(strata, key=len)):  # what a small one lacks is shared among the larger
        chosen += rng.sample(stratum, min(len(stratum), (count - len(chosen)) // (len(strata) - i)))
    return sorted(chosen)


# What comes of it


@dataclass(frozen=True)
class Successor(Agent):
    """Goes on with what another began. A problem's id says where: it is the key of `prefixes`."""

    prefixes: Mapping[str, Sequence[Piece]]

    async def attempt(self, problem: Problem, sample: int, seed: int, prefix: Sequence[Piece] = ()) -> Trajectory:
        return await super().attempt(problem, sample, seed, prefix or self.prefixes[problem.id])


def continuations(options: CalibrateOptions, evaluation: Beside, chosen: Sequence[Start]) -> list[Row]:
    """One row for each step, as in continuations.jsonl; those that were lost or could not be graded are left out, and said."""
    measured = evaluation.options
    limits = measured.rollout
    everyone = {each.problem.id: each.problem for each in evaluation.batch.trajectories}
    folder, teacher_folder = model_folder(measured.model, weights=False), model_folder(options.teacher)
    world = World.of(folder, measured, list(everyone.values()))
    tokenizer = world.chat.tokenizer
    check_same_vocabulary(tokenizer, load_tokenizer(teacher_folder))
    dtype = measured.network.dtype if measured.score.teacher_dtype == "same" else measured.score.teacher_dtype
    teacher = load_model(teacher_folder, measured.network.model_copy(update={"dtype": dtype}))
    check_embeddings(teacher, tokenizer, teacher_folder)
    check_context(teacher, limits, whose="teacher")
    weights, info = evaluation.weights(), evaluation.info()

    problems: list[Problem] = []
    prefixes: dict[str, Sequence[Piece]] = {}
    for start in chosen:
        begun = evaluation.batch.trajectories[start.row]
        problems.append(replace(begun.problem, id=f"{begun.problem.id}/{begun.sample}/{start.step}"))
        prefixes[problems[-1].id] = begun.pieces[: start.pieces]
    with (
        Runner() as loop,
        world.sandbox.working_in(loop),
        open_engine(loop, measured.engine, teacher, limits) as engine,
        Display("calibrate", total=1) as display,
        display.phase("continue", len(problems)),
    ):
        agent = Successor(engine, world.chat, world.tools, world.referee, limits, prefixes)
        advance = lambda _: display.advance()  # noqa: E731
        groups = loop.run(rollout(agent, problems, seed=options.seed, update=0, on_trajectory=advance))
    check_groups(groups)
    rows: list[Row] = []
    for start, group in zip(chosen, groups, strict=True):
        for ended in group:
            begun, at = evaluation.batch.trajectories[start.row], (start.row, start.step - 1)
            written = ended.pieces[start.pieces :]
            rows.append(
                {
                    "problem": begun.problem.id,
                    "sample": begun.sample,
                    "step": start.step,
                    "errors_before": start.errors,
                    "d": float(evaluation.d_BK[at]),
                    "w": float(weights[SOD][at]),
                    "teacher_entropy": float(info.entropy_BK[at]),
                    "weights": {name: float(w_BK[at]) for name, w_BK in weights.items()},
                    "solved": ended.judged.is_right,
                    "answer": ended.judged.answer,
                    "stop": ended.stop,
                    "text": ""
                    if begun.problem.id in evaluation.private
                    else str(tokenizer.decode([token for piece in written for token in piece.tokens])),
                }
            )
    if len(rows) < len(chosen):
        say(f"{len(chosen) - len(rows)} continuations were lost to our own machinery or could not be graded.")
    run = Run.open(options, options.out, data={"data": evaluation.data, "teacher": evaluation.teacher})
    write_whole(run.folder / "continuations.jsonl", "".join(to_json(row) + "\n" for row in rows))
    return rows


# What weights know of it


def summary(rows: Sequence[Row], *, seed: int = 0) -> Row:
    """What stands in calibration.json: of every rule, and of d, entropy and errors themselves, AUC and table; by errors."""
    solved_N = np.array([row["solved"] for row in rows])
    errors_N = np.array([row["errors_before"] for row in rows])
    _, problem_N = np.unique([row["problem"] for row in rows], return_inverse=True)
    count = int(problem_N.max()) + 1
    times_RP = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=DRAWS)
    times_RN = np.vstack([np.ones(len(rows)), times_RP[:, problem_N]]).astype(np.float64)

    column = lambda key: np.array([row[key] for row in rows], dtype=np.float64)  # noqa: E731
    references = {"-d": -column("d"), "-entropy": -column("teacher_entropy"), "-errors": -column("errors_before")}
    rules = {name: np.array([row["weights"][name] for row in rows]) for name in rows[0]["weights"]}
    auc_of_sod_R = auc(rules[SOD], solved_N, times_RN)

    def judged(score_N: Array) -> Row:
        auc_R = auc(score_N, solved_N, times_RN)
        return {
            **_interval("auc", auc_R),
            **_interval("difference", auc_R - auc_of_sod_R),
            **_interval("same_errors", auc(score_N, solved_N, times_RN, errors_N)),
            "bins": bins(score_N, solved_N),
        }

    by_errors: list[Row] = []
    for errors in range(MANY + 1):
        alike = [row for row in rows if min(row["errors_before"], MANY) == errors]
        if alike:
            mean = {name: fmean(row[key] for row in alike) for name, key in _MEANS.items()}
            by_errors.append({"errors": errors, **_share([row["solved"] for row in alike]), **mean})
    return {
        "rules": {name: judged(score_N) for name, score_N in rules.items()},
        "references": {name: judged(score_N) for name, score_N in references.items()},
        "by_errors": by_errors,
        "steps": len(rows),
        "problems": count,
    }


_MEANS = {"d": "d", "entropy": "teacher_entropy", "w": "w"}


def auc(score_N: Array, solved_N: NDArray[np.bool_], times_RN: Array, alike_N: NDArray[Any] | None = None) -> Array:
    """P(a solved step scores higher than an unsolved one), a tie counting half, with each step counted so many times.

    Of pairs with equal `alike_N` alone, if given. -> (R,), not a number where there is no pair
    """
    won, lost = np.flatnonzero(solved_N), np.flatnonzero(~solved_N)
    higher_WL = (np.sign(score_N[won, None] - score_N[lost]) + 1) / 2
    pairs_WL = np.ones_like(higher_WL) if alike_N is None else (alike_N[won, None] == alike_N[lost]).astype(float)
    sum_of = lambda values_WL: ((times_RN[:, won] @ values_WL) * times_RN[:, lost]).sum(1)  # noqa: E731
    with np.errstate(invalid="ignore"):  # 0 / 0
        return sum_of(higher_WL * pairs_WL) / sum_of(pairs_WL)


def bins(score_N: Array, solved_N: NDArray[np.bool_], count: int = BINS) -> list[Row]:
    """Share solved by score, in at most `count` parts of about equally many steps; equal scores stay together."""
    _, place_N, sizes = np.unique(score_N, return_inverse=True, return_counts=True)
    middles = (sizes.cumsum() - sizes / 2) / len(score_N)  # where each value stands among all, from 0 to 1
    bin_N = (count * middles).astype(int)[place_N]
    chosen = [bin_N == number for number in np.unique(bin_N)]
    return [
        {"low": float(score_N[c].min()), "high": float(score_N[c].max()), **_share(solved_N[c].tolist())}
        for c in chosen
    ]


def _share(solved: Sequence[bool]) -> Row:
    share = fmean(solved)
    return {"n": len(solved), "solved": share, "se": math.sqrt(share * (1 - share) / len(solved))}


def _interval(name: str, values_R: Array) -> Row:
    """The first value is of the steps as they are, the others are of the bootstrap. None: there is nothing to compare."""
    if np.isnan(values_R[0]):
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    low, high = np.nanquantile(values_R[1:], [0.025, 0.975])
    return {name: float(values_R[0]), f"{name}_low": float(low), f"{name}_high": float(high)}


# In words


def tables(results: Row) -> list[Table]:
    """By errors so far; and every rule by its AUC, the best first."""
    by_errors = _table("The teacher goes on from the beginning of a step")
    for head in ("errors so far", "steps", "it then solves, %", "d, nats", "entropy, nats", f"w of {SOD}"):
        by_errors.add_column(head, justify="right")
    for row in results["by_errors"]:
        by_errors.add_row(
            f"{row['errors']}" + (" or more" if row["errors"] == MANY else ""),
            str(row["n"]),
            f"{100 * row['solved']:.0f} ± {100 * row['se']:.0f}",
            *(f"{row[name]:.2f}" for name in _MEANS),
        )
    by_auc = _table("What weights know of it: AUC [95 %]")
    for head in ("rule, or quantity", "AUC", f"less {SOD}'s", "at equal errors"):
        by_auc.add_column(head, justify="left" if head.startswith("rule") else "right")
    judged = results["rules"] | results["references"]
    for name, row in sorted(judged.items(), key=lambda item: -(item[1]["auc"] or 0.0)):
        difference = "" if name == SOD else _shown(row, "difference", "+").partition(" ")[2]
        by_auc.add_row(name, _shown(row, "auc"), difference, _shown(row, "same_errors"))
    return [by_errors, by_auc]


def _table(title: str) -> Table:
    return Table(title=title, box=SIMPLE_HEAD, pad_edge=False, show_edge=False)


def verdict(results: Row) -> str:
    """Whether SOD's weight predicts the teacher's success, also beyond errors, and what does so better."""
    sod = results["rules"][SOD]
    if sod["auc"] is None:
        return "The teacher solved all or none of the steps: nothing can be told of any weight."
    if sod["auc_low"] > 0.5:
        said = "Low weights of SOD mark steps where the teacher's advice is worse"
    elif sod["auc_high"] < 0.5:
        said = "Low weights of SOD mark steps where the teacher's advice is better"
    else:
        said = "That SOD's weights know where the teacher's advice is bad is not shown"
    said += f": AUC {_shown(sod, 'auc')}."
    if sod["same_errors"] is not None:
        holds = sod["same_errors_low"] <= 0.5 <= sod["same_errors_high"]
        said += f" Among steps after equally many tool errors it is {_shown(sod, 'same_errors')}"
        said += ": that they know more than errors do is not shown." if holds else "."
    others = {name: row for name, row in (results["rules"] | results["references"]).items() if name != SOD}
    better = sorted(
        (name for name, row in others.items() if row["difference_low"] > 0), key=lambda n: -others[n]["auc"]
    )
    names = ", ".join(better) or "nothing"
    return (
        f"{said} Better than SOD, by the interval of the paired difference: {names} (each of {len(others)} by itself)."
    )


def _shown(row: Row, name: str, sign: str = "") -> str:
    values = [row[name], row[f"{name}_low"], row[f"{name}_high"]]
    return "" if None in values else "{} [{}, {}]".format(*(f"{value:{sign}.2f}" for value in values))
