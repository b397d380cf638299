"""`sod calibrate`: does a low step weight mark the steps where the teacher's advice is bad?

The value of the teacher's advice in a step is measured: the teacher itself continues once from the beginning of the step, with
the student's tools and the evaluation's settings, including failing tool calls. It solves the problem or not. The AUC measures
how well a rule's weights predict this: the probability that a step from which the teacher succeeds has a larger weight than
one from which it fails. A tie counts half. 0.5 means no information; below 0.5, low weights mark *good* advice.

Steps are drawn evenly over the number of tool errors before them, so that rare numbers are included. An AUC describes this
mixture. Errors influence both weights and failures. Therefore a second AUC compares only steps with equally many errors
before them: it measures the information beyond the number of errors. Rules by agreement with the outcome (`gated`,
`sign_consistent`, `opdvr`, `ra_opd`) use the outcome of the student's own attempt. Rules that read what an evaluation does not
hold, and rules that compute the whole credit, have no row.

With `--advised`, the student also continues once after the turn that the teacher wrote in the step (paired continuations, as in
OG-OPD). Its own attempt is the continuation without the advice. A step is rescued if only the advised attempt solves the
problem, and harmed if only the own one does. Completed alone: only the teacher's continuation solves it.

Intervals are 95 % intervals from a bootstrap over whole problems, because continuations of one problem are correlated.
"""

import logging
import math
import shlex
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Table

from sod.config import CalibrateOptions
from sod.console.progress import console, echo
from sod.credit.systems import SOD_RULE
from sod.datasets.rows import Row, fingerprint_model
from sod.errors import DataError, RunError
from sod.evaluation.continuations import MANY, continuations, draw_evenly, starts
from sod.evaluation.intervals import DRAWS
from sod.evaluation.scored import ScoredEvaluation, routes_in
from sod.model.hub import model_folder
from sod.runs.contents import same_input
from sod.runs.directory import Run
from sod.runs.files import write_json

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]

BINS = 5
"""Number of bins of a rule's weights, with about equally many steps each."""


def calibrate(options: CalibrateOptions) -> Row:
    """Let the teacher continue, write calibration.json, also into the evaluation's directory, and print the findings.

    Nothing is written before all steps are continued. Raises RunError if the run is not an evaluation with this teacher, and
    DataError if its trajectories cannot be used.
    """
    run = Run(options.out)
    with run.held():
        run.check(options, resume=False)
        return _calibrate(options)


def _calibrate(options: CalibrateOptions) -> Row:
    evaluation = ScoredEvaluation.read(options.run)
    _check_teachers(options, evaluation)
    student = evaluation.origin.options.model
    if options.advised and not same_input(evaluation.origin.student, fingerprint_model(model_folder(student))):
        raise RunError(
            f"{student} has changed since the evaluation {options.run}. Leave --advised out, or repeat `sod eval`."
        )
    if (top_p := evaluation.origin.options.rollout.top_p) < 1:
        logger.warning(
            f"careful: {options.run} was sampled with rollout.top_p = {top_p:g}, and training samples with 1. Its student errs "
            "less, and the weights are those of other trajectories. For the weights of a training run, evaluate with "
            "--rollout.top-p 1."
        )
    chosen = draw_evenly(starts(evaluation.batch.trajectories), options.steps, options.seed)
    if not chosen:
        raise DataError(
            f"No trajectory in {options.run} has more than one step: there is nothing to continue from. Pass another run."
        )
    if len(chosen) < options.steps:
        logger.info(f"{options.run} has only {len(chosen)} steps to continue from, not {options.steps}; all are used.")
    rows = continuations(options, evaluation, chosen)
    about: Row = {"run": str(options.run), "teacher": str(options.teacher or ", ".join(options.teachers))}
    results = calibration_summary(rows, seed=options.seed) | about
    write_json(options.out / "calibration.json", results)
    try:
        write_json(options.run / "calibration.json", results)
    except RunError as error:
        logger.warning(f"{error} The report of {options.run} will therefore not show this calibration.")
    for table in calibration_tables(results):
        console.print(table)
    echo(verdict(results))
    if "advice" in results:
        echo(advice_verdict(results["advice"]))
    echo(f"every continuation: {options.out / 'continuations.jsonl'}; the figure: sod report {options.run}")
    return results


def _check_teachers(options: CalibrateOptions, evaluation: ScoredEvaluation) -> None:
    """Raise RunError unless the teachers are those of the evaluation."""
    measured = evaluation.origin.options
    usual = f"--teacher {measured.teacher or shlex.join(measured.teachers)}"
    routes = routes_in(options.teacher, options.teachers)
    if [route.key for route in routes] != list(evaluation.origin.teachers):
        raise RunError(f"{options.run} has teachers with other keys. Pass {usual}.")
    for route in routes:
        if not same_input(evaluation.origin.teachers[route.key], fingerprint_model(model_folder(route.model))):
            raise RunError(
                f"{route.model} is another model than the teacher of {options.run}. Pass {usual}, from the directory where `sod "
                "eval` was started."
            )


# AUCs


def calibration_summary(rows: Sequence[Row], *, seed: int = 0) -> Row:
    """Return the content of calibration.json: AUC and bins of every rule and of d, entropy and errors; means by errors."""
    solved_N = np.array([row["solved"] for row in rows])
    errors_N = np.array([row["errors_before"] for row in rows])
    _, problem_N = np.unique([row["problem"] for row in rows], return_inverse=True)
    count = int(problem_N.max()) + 1
    times_RP = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=DRAWS)
    times_RN = np.vstack([np.ones(len(rows)), times_RP[:, problem_N]]).astype(np.float64)

    def column(key: str) -> Array:
        return np.array([row[key] for row in rows], dtype=np.float64)

    references = {"-d": -column("d"), "-entropy": -column("teacher_entropy"), "-errors": -column("errors_before")}
    rules = {name: np.array([row["weights"][name] for row in rows]) for name in rows[0]["weights"]}
    auc_of_sod_R = auc(rules[SOD_RULE], solved_N, times_RN)

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
    known = [n for n, row in enumerate(rows) if "advised_solved" in row]
    advice = {"advice": advice_summary([rows[n] for n in known], times_RN[:, known])} if known else {}
    by_teacher = [
        {"teacher": name, **_share([row["solved"] for row in rows if row["teacher"] == name])}
        for name in dict.fromkeys(row["teacher"] for row in rows if "teacher" in row)
    ]
    advice |= {"by_teacher": by_teacher} if by_teacher else {}
    return advice | {
        "rules": {name: judged(score_N) for name, score_N in rules.items()},
        "references": {name: judged(score_N) for name, score_N in references.items()},
        "by_errors": by_errors,
        "steps": len(rows),
        "problems": count,
    }


_MEANS = {"d": "d", "entropy": "teacher_entropy", "w": "w"}


def advice_summary(rows: Sequence[Row], times_RN: Array) -> list[Row]:
    """Return what the teacher's turn does to the student's success: over all steps, and over those with smaller and larger d.

    Shares are of the steps, with intervals. `times_RN`: how often each step counts, the first row once each.
    """
    own_N, advised_N, taught_N = (
        np.array([row[key] for row in rows], dtype=bool) for key in ("student_solved", "advised_solved", "solved")
    )
    d_N = np.array([row["d"] for row in rows])
    is_large_N = d_N > np.median(d_N)
    shares = {
        "own": own_N,
        "advised": advised_N,
        "rescue": ~own_N & advised_N,
        "harm": own_N & ~advised_N,
        "gain": advised_N.astype(float) - own_N,
        "alone": taught_N & ~own_N & ~advised_N,
    }
    found: list[Row] = []
    for name, chosen_N in (("all", np.full(len(rows), True)), ("smaller d", ~is_large_N), ("larger d", is_large_N)):
        if chosen_N.any():
            with np.errstate(invalid="ignore"):  # a draw without any of the steps
                means = {
                    key: times_RN @ (value_N * chosen_N) / (times_RN @ chosen_N) for key, value_N in shares.items()
                }
            row = {"steps": name, "n": int(chosen_N.sum())}
            found.append(row | {k: v for key, mean_R in means.items() for k, v in _interval(key, mean_R).items()})
    return found


def auc(score_N: Array, solved_N: NDArray[np.bool_], times_RN: Array, alike_N: NDArray[Any] | None = None) -> Array:
    """Return P(a solved step scores higher than an unsolved one) for each row of counts, (R,). A tie counts half.

    `times_RN`: how often each step counts. With `alike_N`, only pairs with equal values count. NaN without any pair.
    """
    won, lost = np.flatnonzero(solved_N), np.flatnonzero(~solved_N)
    higher_WL = (np.sign(score_N[won, None] - score_N[lost]) + 1) / 2
    pairs_WL = np.ones_like(higher_WL) if alike_N is None else (alike_N[won, None] == alike_N[lost]).astype(float)

    def sum_of(values_WL: Array) -> Array:
        return ((times_RN[:, won] @ values_WL) * times_RN[:, lost]).sum(1)

    with np.errstate(invalid="ignore"):  # 0 / 0
        return sum_of(higher_WL * pairs_WL) / sum_of(pairs_WL)


def bins(score_N: Array, solved_N: NDArray[np.bool_], count: int = BINS) -> list[Row]:
    """Return the solved share per bin of scores: at most `count` bins of about equally many steps. Ties share a bin."""
    _, place_N, sizes = np.unique(score_N, return_inverse=True, return_counts=True)
    middles = (sizes.cumsum() - sizes / 2) / len(score_N)  # rank of each value, from 0 to 1
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
    """Return a value with its interval; None if undefined. The first value is the estimate, the others are bootstrap draws."""
    if np.isnan(values_R[0]):
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    low, high = np.nanquantile(values_R[1:], [0.025, 0.975])
    return {name: float(values_R[0]), f"{name}_low": float(low), f"{name}_high": float(high)}


# Output


def calibration_tables(results: Row) -> list[Table]:
    """Return a table by number of errors, and one of the rules by AUC, the best first."""
    by_errors = _table("Continuations by the teacher from the beginning of a step")
    for head in ("errors so far", "steps", "solved, %", "d, nats", "entropy, nats", f"w of {SOD_RULE}"):
        by_errors.add_column(head, justify="right")
    for row in results["by_errors"]:
        by_errors.add_row(
            f"{row['errors']}" + (" or more" if row["errors"] == MANY else ""),
            str(row["n"]),
            f"{100 * row['solved']:.0f} ± {100 * row['se']:.0f}",
            *(f"{row[name]:.2f}" for name in _MEANS),
        )
    by_auc = _table("AUC of the weights [95 %]")
    for head in ("rule, or quantity", "AUC", f"less {SOD_RULE}'s", "at equal errors"):
        by_auc.add_column(head, justify="left" if head.startswith("rule") else "right")
    judged = results["rules"] | results["references"]
    for name, row in sorted(judged.items(), key=lambda item: -(item[1]["auc"] or 0.0)):
        difference = "" if name == SOD_RULE else _shown(row, "difference", "+").partition(" ")[2]
        by_auc.add_row(name, _shown(row, "auc"), difference, _shown(row, "same_errors"))
    return [
        by_errors,
        by_auc,
        *_teachers_table(results.get("by_teacher", ())),
        *([_advice_table(results["advice"])] if "advice" in results else []),
    ]


def _teachers_table(rows: Sequence[Row]) -> list[Table]:
    """Return a table of several teachers; nothing for a single one."""
    table = _table("Continuations by each teacher")
    for head in ("teacher", "steps", "solved, %"):
        table.add_column(head, justify="left" if head == "teacher" else "right")
    for row in rows:
        table.add_row(row["teacher"], str(row["n"]), f"{100 * row['solved']:.0f} ± {100 * row['se']:.0f}")
    return [table] if rows else []


def _advice_table(rows: Sequence[Row]) -> Table:
    table = _table("The student without and with the teacher's turn, % of the steps ± 95 %")
    for head in ("steps", "", "solves", "advised", "rescued", "harmed", "teacher only"):
        table.add_column(head, justify="left" if head == "steps" else "right")
    for row in rows:
        shares = (_within(row, name) for name in ("own", "advised", "rescue", "harm", "alone"))
        table.add_row(row["steps"], str(row["n"]), *shares)
    return table


def _within(row: Row, name: str) -> str:
    """Return a share and half its interval, in percent."""
    return f"{100 * row[name]:.0f} ± {50 * (row[f'{name}_high'] - row[f'{name}_low']):.0f}"


def advice_verdict(rows: Sequence[Row]) -> str:
    """Return whether a turn of the teacher helps the student."""
    gain, low, high = (100 * rows[0][f"gain{end}"] for end in ("", "_low", "_high"))
    found = (
        "helps the student" if low > 0 else "harms the student" if high < 0 else "has no measured effect on the student"
    )
    return (
        f"A turn of the teacher {found}: {gain:+.0f} [{low:+.0f}, {high:+.0f}] points, rescued {_within(rows[0], 'rescue')} %, "
        f"harmed {_within(rows[0], 'harm')} % of {rows[0]['n']} steps."
    )


def _table(title: str) -> Table:
    return Table(title=title, box=SIMPLE_HEAD, pad_edge=False, show_edge=False)


def verdict(results: Row) -> str:
    """Return whether SOD's weights predict the teacher's success, also at equal errors, and what predicts it better."""
    sod = results["rules"][SOD_RULE]
    if sod["auc"] is None:
        return "The teacher solved all or none of the steps, so no AUC is defined."
    if sod["auc_low"] > 0.5:
        found = "Low weights of SOD mark steps where the teacher's advice is worse"
    elif sod["auc_high"] < 0.5:
        found = "Low weights of SOD mark steps where the teacher's advice is better"
    else:
        found = "No evidence that SOD's weights identify bad teacher advice"
    found += f": AUC {_shown(sod, 'auc')}."
    if sod["same_errors"] is not None:
        holds = sod["same_errors_low"] <= 0.5 <= sod["same_errors_high"]
        found += f" Among steps after equally many tool errors: {_shown(sod, 'same_errors')}"
        found += ", no evidence of information beyond the number of errors." if holds else "."
    others = {name: row for name, row in (results["rules"] | results["references"]).items() if name != SOD_RULE}
    better = sorted(
        (name for name, row in others.items() if row["difference_low"] > 0), key=lambda n: -others[n]["auc"]
    )
    names = ", ".join(better) or "nothing"
    return (
        f"{found} Better than SOD, by the interval of the paired difference: {names} ({len(others)} compared, each on its "
        "own)."
    )


def _shown(row: Row, name: str, sign: str = "") -> str:
    values = [row[name], row[f"{name}_low"], row[f"{name}_high"]]
    return "" if None in values else "{} [{}, {}]".format(*(f"{value:{sign}.2f}" for value in values))
