"""`sod diagnose`: measure a pair of student and teacher for some minutes, and advise a system.

Rounds double the number of problems until the time is used: the student is evaluated beside the teacher, then the teacher alone.
Then the teacher continues trajectories of the student, as in `sod calibrate`. Everything sampled is in run directories.
"""

import json
import logging
import math
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean

from sod.config import CalibrateOptions, DiagnoseOptions, EvalOptions
from sod.console.progress import echo
from sod.datasets.rows import Row, read_rows
from sod.errors import DataError, OptionError, RunError, UsageError
from sod.evaluation.advice import (
    ADVISERS,
    Findings,
    Recommendation,
    StepDivergence,
    choose,
    percent,
)
from sod.evaluation.continuations import continuations, draw_evenly, starts
from sod.evaluation.evaluate import evaluate
from sod.evaluation.intervals import Interval, bounded, difference, mean_over_problems, rate
from sod.evaluation.results import Evaluated, read_evaluation
from sod.evaluation.scored import ScoredEvaluation
from sod.runs.directory import Run
from sod.runs.files import write_json

logger = logging.getLogger(__name__)

FIRST_ROUND = 3
"""Problems of the first round, which is always finished. Fewer have no interval."""
FOR_ROUNDS = 2 / 3
"""Share of the time for evaluations; continuations have the rest."""
FEWEST_CONTINUATIONS = 8
DECISIVE = 1.0
"""Smallest |log pi_teacher - log pi_student| of a decisive token, nats."""
SHOWN_STEPS = 6


def diagnose(options: DiagnoseOptions) -> Row:
    """Measure, write diagnose.json, and print at most 24 lines. -> the content of diagnose.json

    The same command continues after an interruption, and with more minutes.
    """
    if options.engine.url is not None or options.engine.name in ("served", "vllm_server"):
        raise OptionError(
            "A server samples one model, so its student and its teacher would be the same. Remove engine.url, and give "
            "--engine.name hf or vllm."
        )
    with Run(options.out).held():
        plan = _measure(options)
        found = read_findings(options.out, plan)
        choice = choose(found)
        content = {
            "findings": asdict(found),
            "advice": [asdict(a) | {"confidence": a.confidence} for a in (adviser(found) for adviser in ADVISERS)],
            "choice": asdict(choice),
            "gain": choice.gain,
        }
        write_json(options.out / "diagnose.json", content)
    for line in screen(found, choice):
        echo(line)
    echo(f"figures: sod report {options.out / 'student'}")
    return content


# Measuring


@dataclass(frozen=True, slots=True)
class Plan:
    """The progress of a diagnosis, kept in plan.json."""

    limit: int = 0
    """Problems of each file in the last finished round."""
    problems: int = 0
    """Problems of all files in that round."""
    seconds: float = 0.0
    """Time of the finished rounds."""
    steps: int = 0
    """Steps to continue from. 0: rounds are not finished."""
    minutes: float = 0.0
    """The time for which `steps` was decided."""
    exhausted: bool = False
    """Whether the last round found no further problem."""
    options: Row = field(default_factory=dict)
    """The options that findings depend on."""

    @classmethod
    def read(cls, file: Path) -> "Plan":
        if not file.exists():
            return cls()
        try:
            return cls(**json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise RunError(f"{file} cannot be read ({error}). Remove it, and run the same command again.") from error


def _measure(options: DiagnoseOptions) -> Plan:
    """Evaluate in rounds, then continue trajectories. -> the finished plan"""
    file = options.out / "plan.json"
    plan = Plan.read(file)
    asked = options.model_dump(mode="json", exclude={"minutes", "out", "data_dir", "microbatch_tokens"})
    if plan.options and plan.options != asked:
        changed = ", ".join(name for name in asked if plan.options.get(name) != asked[name])
        raise RunError(f"{options.out} holds a diagnosis with another value of {changed}. Pass another --out.")
    plan = replace(plan, options=asked)
    seconds = 60 * options.minutes * FOR_ROUNDS
    if options.minutes > plan.minutes:
        plan = replace(plan, steps=0, minutes=options.minutes)
    while not plan.steps:
        if plan.limit and (plan.exhausted or 2 * plan.seconds > seconds):
            per_attempt = plan.seconds / (2 * plan.problems * options.samples)
            fit = int((60 * options.minutes - plan.seconds) / per_attempt)
            plan = replace(plan, steps=max(FEWEST_CONTINUATIONS, min(options.steps, fit)))
        else:
            plan = _round(options, plan)
        write_json(file, asdict(plan))
    _continue(options, plan)
    return plan


def _round(options: DiagnoseOptions, plan: Plan) -> Plan:
    """Evaluate both models on twice as many problems as before."""
    limit = 2 * plan.limit or FIRST_ROUND
    if options.limit is not None:
        limit = min(limit, options.limit)
    start = time.monotonic()
    results = evaluate(_evaluation(options, "student", limit))
    if options.score.teacher_url is None:
        evaluate(_evaluation(options, "teacher", limit))
    problems = sum(len(each.ids) for each in results.benchmarks.values())
    return replace(
        plan,
        limit=limit,
        problems=problems,
        seconds=plan.seconds + time.monotonic() - start,
        exhausted=problems == plan.problems or limit == options.limit,
    )


def _evaluation(options: DiagnoseOptions, whose: str, limit: int) -> EvalOptions:
    """Return the options of one evaluation. The teacher's samples have another seed, so that both are independent."""
    common = EvalOptions.model_fields.keys() & DiagnoseOptions.model_fields.keys()
    shared = {name: getattr(options, name) for name in common} | {"limit": limit, "out": options.out / whose}
    if whose == "student":
        return EvalOptions.model_validate(shared | {"model": options.student})
    changed = {"model": options.teacher, "teacher": None, "seed": options.seed + 1}
    return EvalOptions.model_validate(shared | changed | {"network": options.network.for_teacher(options.score)})


def _continued(folder: Path, plan: Plan) -> Path:
    """Return the directory of the continuations of a plan."""
    return folder / f"continuations-{plan.problems}-{plan.steps}"


def _continue(options: DiagnoseOptions, plan: Plan) -> None:
    """Let the teacher continue, unless that is done. What cannot be continued leaves a reason."""
    out = _continued(options.out, plan)
    if (out / "continuations.jsonl").exists() or (out / "reason.txt").exists():
        return
    try:
        evaluation = ScoredEvaluation.read(options.out / "student")
        chosen = draw_evenly(starts(evaluation.batch.trajectories), plan.steps, options.seed)
        if not chosen:
            raise DataError("No trajectory of the student has more than one step.")
        calibrated = CalibrateOptions(
            run=options.out / "student", teacher=options.teacher, out=out, steps=plan.steps, seed=options.seed
        )
        continuations(calibrated, evaluation, chosen)
    except UsageError as error:
        out.mkdir(parents=True, exist_ok=True)
        (out / "reason.txt").write_text(str(error), encoding="utf-8")


# Findings


def read_findings(folder: Path, plan: Plan) -> Findings:
    """Return what the run directories of a diagnosis hold."""
    student = read_evaluation(folder / "student")
    problems = sorted(id for id, samples in student.verdicts.items() if samples)
    if not problems:
        raise DataError(f"No attempt in {folder / 'student'} could be graded. Check --data and the judge.")
    teacher, ahead = _compared(student, problems, folder / "teacher")
    rows = [row for row in read_rows(folder / "student" / "trajectories" / "update-0000.jsonl") if _kept(row, student)]
    out = _continued(folder, plan)
    reasons = [] if teacher else ["a remote teacher cannot be evaluated here"]
    continued: list[Row] = []
    if (out / "continuations.jsonl").exists():
        continued = read_rows(out / "continuations.jsonl")
    else:
        reasons.append((out / "reason.txt").read_text(encoding="utf-8"))
    rescue, harm, fall = _continuations(continued, student)
    signals = [value for row in rows for piece in row["pieces"] for value in piece.get("signal", ())]
    of_several = [row for row in rows if len(row["steps"]) > 1]
    return Findings(
        problems=len(problems),
        samples=student.results.samples,
        student=bounded(rate(student.solved(problems)), len(problems), 0.0),
        teacher=teacher,
        ahead=ahead,
        contrast=_by_problem(
            [(id, float(len(set(student.verdicts[id].values())) > 1)) for id in problems], is_share=True
        ),
        first=_by_problem([(row["problem"], row["steps"][0]["d"]) for row in rows if row["steps"]]),
        growth=_by_problem([(row["problem"], _growth(row)) for row in of_several]) if of_several else None,
        clean=_by_step([row for row in rows if not _failed(row)]),
        erroneous=_by_step([row for row in rows if _failed(row)]),
        agreement=fmean(math.exp(min(0.0, value)) for value in signals) if signals else math.nan,
        decisive=fmean(abs(value) >= DECISIVE for value in signals) if signals else math.nan,
        rescue=rescue,
        harm=harm,
        fall=fall,
        unmeasured=tuple(reasons),
    )


def _kept(row: Row, evaluated: Evaluated) -> bool:
    return row["graded"] and row["sample"] in evaluated.verdicts.get(row["problem"], {})


def _compared(student: Evaluated, problems: Sequence[str], folder: Path) -> tuple[Interval | None, Interval | None]:
    """Return the teacher's solve rate and how far it is ahead; None for a teacher that is not evaluated."""
    if not folder.exists():
        return None, None
    teacher = read_evaluation(folder)
    common = [id for id in problems if teacher.verdicts.get(id)]
    ahead = difference(teacher.solved(common), student.solved(common))
    return (
        bounded(rate(teacher.solved(common)), len(common), 0.0),
        bounded(ahead, len(common), -1.0),
    )


def _by_problem(values: Sequence[tuple[str, float]], *, is_share: bool = False) -> Interval:
    """Return the mean over problems of each problem's mean, with an interval for new problems. NaN without a value."""
    of: dict[str, list[float]] = defaultdict(list)
    for problem, value in values:
        of[problem].append(value)
    interval = mean_over_problems([fmean(each) for each in of.values()])
    return bounded(interval, len(of), 0.0) if is_share else interval


def _growth(row: Row) -> float:
    return fmean(step["d"] for step in row["steps"][1:]) - row["steps"][0]["d"]


def _failed(row: Row) -> bool:
    """Return whether a tool call of the trajectory failed."""
    return any(outcome != "ok" for piece in row["pieces"] for outcome in piece.get("outcomes", ()))


def _by_step(rows: Sequence[Row]) -> tuple[StepDivergence, ...]:
    by_step: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        for number, step in enumerate(row["steps"], 1):
            by_step[number].append(step["d"])
    return tuple(StepDivergence(step, len(values), fmean(values)) for step, values in sorted(by_step.items()))


def _continuations(rows: Sequence[Row], student: Evaluated) -> tuple[Interval | None, Interval | None, Interval | None]:
    """Return rescue, harm and fall of the teacher's continuations (`Findings`)."""
    after = [row for row in rows if row["errors_before"]]
    failed = [row for row in after if not student.verdicts[row["problem"]][row["sample"]]]
    succeeded = [row for row in after if student.verdicts[row["problem"]][row["sample"]]]

    def share(chosen: Sequence[Row], *, solved: bool = True) -> Interval | None:
        values = [(row["problem"], float(row["solved"] is solved)) for row in chosen]
        return _by_problem(values, is_share=True) if values else None

    solved: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for row in rows:
        solved[row["problem"]][bool(row["errors_before"])].append(float(row["solved"]))
    falls = [fmean(early) - fmean(late) for early, late in solved.values() if early and late]
    fall = bounded(mean_over_problems(falls), len(falls), -1.0) if falls else None
    return share(failed), share(succeeded, solved=False), fall


# Output


def screen(found: Findings, choice: Recommendation) -> list[str]:
    """Return the findings as at most 23 lines of at most 80 columns."""

    def by_step(kind: Sequence[StepDivergence]) -> str:
        return " ".join(f"{each.d:.2f}" for each in kind[:SHOWN_STEPS]) or "none"

    lines = [
        f"{found.problems} problems, {found.samples} attempts each. In brackets: 95 % intervals.",
        f"solved          student {percent(found.student)}, teacher {percent(found.teacher)}",
        f"d by step       clean {by_step(found.clean)}",
        f"                after a failed call {by_step(found.erroneous)}",
        f"tokens          overlap {100 * found.agreement:.1f} %, decisive {100 * found.decisive:.1f} %",
        f"after errors    teacher rescues {percent(found.rescue)}, harms {percent(found.harm)}",
        "",
    ]
    for adviser in ADVISERS:
        advice = adviser(found)
        lines += [f"[{advice.confidence}] {advice.text}", f"    {advice.numbers}"]
    lines += ["", f"take            {choice.system or 'not known'}", f"    {choice.why}"]
    lines += [f"gain            {choice.gain}"]
    lines += [f"not measured    {' '.join(reason.split())}" for reason in found.unmeasured[:2]]
    return [line if len(line) <= 80 else line[:79] + "…" for line in lines]
