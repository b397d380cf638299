"""Methods, evaluations and result tables of a comparison. No torch."""

import json
import math
import re
import statistics
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sod.errors import DataError, OptionError
from sod.evaluation.intervals import Interval, Solved, difference, rate
from sod.evaluation.results import Evaluated, read_evaluation
from sod.evaluation.sheets import Sheet, show_sheets
from sod.runs.by_teacher import TEACHER_ROWS, means_by_teacher
from sod.runs.directory import Run

# Methods


@dataclass(frozen=True)
class Method:
    """An algorithm and its changes to the shared recipe: "sod", "sod algorithm.epsilon=0.1"."""

    name: str
    algorithm: str = field(compare=False)
    options: dict[str, Any] = field(compare=False)

    @classmethod
    def parse(cls, name: str) -> "Method":
        """Return the method of this name. Raise OptionError if a part after the first is not option=value."""
        algorithm, *parts = name.split()
        options: dict[str, Any] = {}
        for part in parts:
            key, equals, value = part.partition("=")
            if not equals or not key or not value:
                raise OptionError(f"method {name!r}: {part!r} is not of the form option=value, such as learn.lr=1e-5.")
            *sections, last = key.split(".")
            inner = options
            for section in sections:
                inner = inner.setdefault(section, {})
            inner[last] = _value(value)
        return cls(name, algorithm, options)

    @property
    def slug(self) -> str:
        """Return the name of the method's folder."""
        return re.sub(r"[^\w.=-]+", "-", self.name.removesuffix(".py")).strip("-.")

    def sets(self, key: str) -> bool:
        """Return whether the method sets this option."""
        inner: Any = self.options
        for part in key.split("."):
            if not isinstance(inner, dict) or part not in inner:
                return False
            inner = inner[part]
        return True


def _value(text: str) -> Any:
    """Return the text as a TOML value. Return the text itself if it is not one."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


# Evaluations


@dataclass(frozen=True)
class Measured(Evaluated):
    """One evaluation and its training run."""

    seconds: float = math.nan
    """Duration of all updates of the training run; NaN if nothing was trained."""
    updates: int = 0
    lr: float = math.nan
    teachers: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """With several teachers: means of the metrics of each over all updates."""


def read_measured(folder: Path, training: Path | None = None) -> Measured:
    """Return a finished evaluation. Raise DataError if the evaluation or its training run cannot be read."""
    measured = Measured(**vars(read_evaluation(folder)))
    if training is None:
        return measured
    try:
        history = Run(training).metrics()
        lr = json.loads((training / "options.json").read_text(encoding="utf-8"))["learn"]["lr"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"{training} holds no readable training run ({type(error).__name__}: {error}). Move {training.parent} away and "
            "repeat the command, which trains it again."
        ) from error
    seconds = sum(row.get("seconds/update", math.nan) for row in history)
    return replace(measured, seconds=seconds, updates=len(history), lr=lr, teachers=means_by_teacher(history))


def check_same_problems(evaluations: Sequence[Measured]) -> None:
    """Raise DataError unless all evaluations used the same problems."""
    for other in evaluations[1:]:
        if other.data != evaluations[0].data or other.verdicts.keys() != evaluations[0].verdicts.keys():
            raise DataError(
                f"{other.folder} was evaluated on other problems than {evaluations[0].folder}, so they cannot be compared. "
                "Remove one of the two."
            )


def solved_counts(evaluations: Sequence[Measured]) -> Solved:
    """Return the verdicts, one row per sample, the problems sorted by name."""
    problems = sorted(evaluations[0].verdicts)
    solved = [evaluation.solved(problems) for evaluation in evaluations]
    return Solved(np.concatenate([s.right_SP for s in solved]), np.concatenate([s.tried_SP for s in solved]))


# Rows

MEANS = {
    "maj": "maj",
    "solved_without_error": "tools/solved_without_error",
    "solved_after_error": "tools/solved_after_error",
    "with_error": "tools/trajectories_with_error",
    "errors": "tools/errors",
    "steps": "rollout/turns",
    "tokens": "rollout/tokens",
    "no_answer": "no_answer",
    "d": "steps/d",
}


@dataclass(frozen=True)
class MethodRow:
    """The results of a method over its seeds, of the untrained student, or of the teacher."""

    method: str
    seeds: int
    """Number of training seeds; 0 if nothing was trained."""
    lr: float
    samples: int
    avg: Interval
    against: Interval | None
    """Difference from the baseline, over the seeds that both have. None for the baseline and for untrained models."""
    means: dict[str, float]
    """Means over seeds of pass@n and the quantities in `MEANS`."""
    chain: float
    """Mean number of tool errors in trajectories with at least one."""
    seconds: float
    """Mean duration of one update over all seeds."""
    teachers: dict[str, dict[str, float]] = field(default_factory=dict)
    """With several teachers: means of the metrics of each over updates and seeds."""

    @property
    def verdict(self) -> str:
        if self.against is None or not self.against.excludes_zero:
            return "" if self.against is None else "not told apart"
        return "better" if self.against.low > 0 else "worse"

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"verdict": self.verdict}


def table_rows(
    runs: Mapping[Method, Mapping[int, Measured]], known: Mapping[str, Measured], baseline: Method
) -> list[MethodRow]:
    """Return one row per model: known models first, then the methods in their order."""
    made = [_row(name, [measured], 0, None) for name, measured in known.items()]
    for method, seeds in runs.items():
        common = sorted(seeds.keys() & runs.get(baseline, {}).keys())
        against = None
        if method != baseline and common:
            against = difference(
                solved_counts([seeds[s] for s in common]), solved_counts([runs[baseline][s] for s in common])
            )
        made.append(_row(method.name, [seeds[s] for s in sorted(seeds)], len(seeds), against))
    return made


def _row(name: str, evaluations: Sequence[Measured], seeds: int, against: Interval | None) -> MethodRow:
    def mean(key: str) -> float:
        return statistics.fmean(e.mean.get(key, math.nan) for e in evaluations)

    samples = int(mean("samples"))
    means = {"pass": mean(f"pass@{samples}")} | {short: mean(key) for short, key in MEANS.items()}
    updates = sum(e.updates for e in evaluations)
    return MethodRow(
        method=name,
        seeds=seeds,
        lr=evaluations[0].lr,
        samples=samples,
        avg=rate(solved_counts(evaluations)),
        against=against,
        means=means,
        chain=means["errors"] / means["with_error"] if means["with_error"] else 0.0,
        seconds=sum(e.seconds for e in evaluations) / updates if updates else math.nan,
        teachers=_mean_teachers([e.teachers for e in evaluations]),
    )


def _mean_teachers(found: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Return the means over seeds of the metrics of each teacher."""
    keys = dict.fromkeys((name, key) for teachers in found for name, values in teachers.items() for key in values)
    made: dict[str, dict[str, float]] = {}
    for name, key in keys:
        values = [teachers[name][key] for teachers in found if key in teachers.get(name, {})]
        made.setdefault(name, {})[key] = statistics.fmean(values)
    return made


# Tables

TextColumns = dict[str, list[str]]


def _how_well(made: Sequence[MethodRow]) -> TextColumns:
    n = made[0].samples if made else 0
    return {
        "method": [row.method for row in made],
        "lr": [_number(row.lr, "{:g}") for row in made],
        f"avg@{n}, %": [
            _number(100 * row.avg.mean, "{:.1f}") + f" ± {50 * (row.avg.high - row.avg.low):.1f}" for row in made
        ],
        f"pass@{n}": [_number(100 * row.means["pass"], "{:.1f}") for row in made],
        f"maj@{n}": [_number(100 * row.means["maj"], "{:.1f}") for row in made],
        "difference": [row.against.in_points() if row.against else "" for row in made],
        "verdict": [row.verdict for row in made],
    }


def _how(made: Sequence[MethodRow]) -> TextColumns:
    return {
        "method": [row.method for row in made],
        "solved without error, %": [_number(100 * row.means["solved_without_error"], "{:.1f}") for row in made],
        "with error, %": [_number(100 * row.means["with_error"], "{:.1f}") for row in made],
        "then solved, %": [_number(100 * row.means["solved_after_error"], "{:.1f}") for row in made],
        "errors, if any": [_number(row.chain, "{:.2f}") for row in made],
        "no answer, %": [_number(100 * row.means["no_answer"], "{:.1f}") for row in made],
        "steps": [_number(row.means["steps"], "{:.2f}") for row in made],
        "tokens": [_number(row.means["tokens"], "{:.0f}") for row in made],
        "d, nats": [_number(row.means["d"], "{:.2f}") for row in made],
        "s/update": [_number(row.seconds, "{:.2f}") for row in made],
    }


def _by_teacher(made: Sequence[MethodRow]) -> TextColumns:
    """Return a row for each method and each of its several teachers. Columns without any value are left out."""
    rows = [(row.method, name, values) for row in made for name, values in row.teachers.items()]
    columns = {"method": [method for method, _, _ in rows], "teacher": [name for _, name, _ in rows]}
    for key, (words, is_share) in TEACHER_ROWS.items():
        scale, form = (100, "{:.1f}") if is_share else (1, "{:.2f}")
        cells = [_number(scale * values.get(key, math.nan), form) for _, _, values in rows]
        if any(cells):
            columns[f"{words}, %" if is_share else words] = cells
    return columns


def _sheets(made: Sequence[MethodRow]) -> list[Sheet]:
    """Return the scores, the behaviour of the models and, if there are several, what each teacher did in training."""
    tables = [_how_well(made), _how(made)]
    if any(row.teachers for row in made):
        tables.append(_by_teacher(made))
    return list(map(Sheet.of, tables))


def show_table(made: Sequence[MethodRow]) -> None:
    """Print the tables."""
    show_sheets(_sheets(made))


def table_markdown(made: Sequence[MethodRow]) -> str:
    """Return the tables of `show_table` as Markdown."""
    return "\n\n".join(sheet.markdown() for sheet in _sheets(made))


def told_apart(made: Sequence[MethodRow], baseline: str) -> list[str]:
    """Return a sentence of which methods the evaluation tells apart from the baseline. Empty without other methods."""
    by_verdict: dict[str, list[str]] = {}
    for row in made:
        if row.against is not None:
            by_verdict.setdefault(row.verdict, []).append(row.method)
    said = {"better": "Better than", "worse": "Worse than", "not told apart": "Not told apart from"}
    parts = [f"{said[verdict]} {baseline}: {', '.join(names)}." for verdict, names in sorted(by_verdict.items())]
    return [" ".join(parts)] if parts else []


def _number(value: float, form: str) -> str:
    """Return the formatted number, or "" for NaN."""
    return "" if math.isnan(value) else form.format(value)
