"""Read a finished evaluation, and show results in tables, beside the paper's figures."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sod.console.progress import echo
from sod.errors import DataError, RunError
from sod.evaluation.intervals import Solved
from sod.evaluation.measures import COUNTED
from sod.evaluation.sheets import Sheet, show_sheets
from sod.report import paper
from sod.runs.directory import Run
from sod.runs.results import Results, read_results

MANY_VALUES = 12
"""Labels with more values have no table; results.json contains all."""


# Reading


@dataclass(frozen=True)
class Evaluated:
    """A finished evaluation: the verdict of every sample, and the results."""

    folder: Path
    data: str
    """Fingerprint of the problems."""
    verdicts: dict[str, dict[int, bool]]
    """Whether each graded sample is right, by problem and by number of the sample."""
    benchmark: dict[str, str]
    """The set that each problem belongs to."""
    results: Results

    @property
    def mean(self) -> dict[str, float]:
        return self.results.mean

    def solved(self, problems: Sequence[str]) -> Solved:
        """Return the counts of these problems, as one row."""
        right = [sum(self.verdicts[problem].values()) for problem in problems]
        tried = [len(self.verdicts[problem]) for problem in problems]
        return Solved(np.array([right], dtype=np.int64), np.array([tried], dtype=np.int64))


def read_evaluation(folder: Path) -> Evaluated:
    """Read an evaluation. Raises DataError if it is not finished or is damaged."""
    try:
        results = read_results(folder)
        data = json.loads((folder / "environment.json").read_text(encoding="utf-8"))["data"]["data"]
        lines = Run(folder).trajectory_file(0).open(encoding="utf-8")
    except (RunError, OSError, ValueError, LookupError, TypeError) as error:
        what = str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}"
        raise DataError(
            f"{folder} holds no finished evaluation ({what}). Pass the directory of a finished `sod eval`."
        ) from error
    wanted = {(name, id) for name, benchmark in results.benchmarks.items() for id in benchmark.ids}
    verdicts: dict[str, dict[int, bool]] = {}
    benchmark: dict[str, str] = {}
    with lines:
        if results.partial:
            raise DataError(
                f"{folder} was interrupted: its results are partial. Run the same `sod eval` again to finish it."
            )
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                problem, sample = row["problem"], int(row["sample"])
                judged, correct = bool(row["graded"]), bool(row["correct"])
                if sample >= results.samples or (row["benchmark"], problem) not in wanted:
                    continue  # from an earlier call with more samples or problems
                benchmark[problem] = row["benchmark"]
            except (ValueError, LookupError, TypeError) as error:
                raise DataError(
                    f"{folder}: line {number} of its trajectories cannot be read ({error}). Run `sod eval` again."
                ) from error
            of_problem = verdicts.setdefault(problem, {})
            if judged:
                of_problem[sample] = correct
    return Evaluated(folder, data, verdicts, benchmark, results)


# Tables


def show_results(results: Results) -> None:
    """Print the tables and the remarks."""
    show_sheets(_sheets(results))
    for line in _remarks(results):
        echo(line)


def results_markdown(results: Results) -> str:
    return "\n\n".join([*(sheet.markdown() for sheet in _sheets(results)), *_remarks(results)]) + "\n"


def _sheets(results: Results) -> list[Sheet]:
    """Return the tables: scores, behaviour, scores by label, scores by additional judges."""
    rows = [(name, each.measured) for name, each in results.benchmarks.items()]
    rows += [("mean", results.mean)] if len(rows) > 1 else []
    by = [
        (f"{name}, {label} {value}", group)
        for name, benchmark in results.benchmarks.items()
        for label, groups in benchmark.by.items()
        if 1 < len(groups) <= MANY_VALUES
        for value, group in groups.items()
    ]
    judges = [
        (f"{name}, by {judge}", measured)
        for name, benchmark in results.benchmarks.items()
        for judge, measured in benchmark.judges.items()
    ]
    n, paper = results.samples, _paper_beside(results)
    sheets = [
        _sheet("", rows, SCORES | {f"pass@{n}": f"pass@{n}", f"maj@{n}": "maj"}, n, paper),
        _sheet("Behaviour", rows, BEHAVIOUR, n),
        _sheet("By label", by, SCORES, n),
        _sheet("The same samples, by additional judges", judges, SCORES | {f"maj@{n}": "maj"}, n),
    ]
    return [sheet for sheet in sheets if sheet.rows]


SCORES = {"problems": "problems", "avg@n, %": "avg", "SE, samples": "avg_sampling_se", "SE, problems": "avg_se"}
BEHAVIOUR = {
    "no answer, %": "no_answer",
    "cut off, %": "truncated",
    "calls": "tools/calls",
    "errors": "tools/errors",
    "tokens": "rollout/tokens",
    "d, nats": "steps/d",
}
"""Columns of the tables, with the names of the measured numbers."""
FORMS = {"problems": ".0f", "tools/calls": ".2f", "tools/errors": ".2f", "rollout/tokens": ".0f", "steps/d": ".3f"}
"""Formats of numbers. All others are percentages."""


def _sheet(
    title: str,
    rows: Sequence[tuple[str, Mapping[str, float]]],
    columns: Mapping[str, str],
    n: int,
    paper: Mapping[str, float] | None = None,
) -> Sheet:
    """Return a table with one row for each, without empty columns."""
    cells = {
        head.replace("@n", f"@{n}"): [_number(measured.get(key), FORMS.get(key, "%")) for _, measured in rows]
        for head, key in columns.items()
    }
    if paper:
        cells["paper, %"] = [_number(paper.get(name), ".2f") for name, _ in rows]
    cells = {"": [name for name, _ in rows]} | {head: column for head, column in cells.items() if any(column)}
    return Sheet.of(cells, title)


def _remarks(results: Results) -> list[str]:
    """Return the sentences below the tables."""
    lines: list[str] = []
    if results.partial:
        lines.append("PARTIAL: interrupted, or too many attempts were lost. Run the same command again to finish.")
    lines.append(
        "SE: standard error, in percentage points. samples: for new samples of the same problems. problems: for new problems "
        "of the same kind, which includes the former."
    )
    for name, benchmark in results.benchmarks.items():
        measured = benchmark.measured
        lines += [f"{name}: {note}" for note in benchmark.notes]
        if "avg" not in measured:
            lines.append(f"{name}: no attempt was graded, so there is no mean over the benchmarks.")
        elif lost := measured["problems_lost"]:
            lines.append(f"{name}: {lost:.0f} problems have no graded attempt and are left out.")
        if lost := measured["rollout/ungraded"]:
            lines.append(f"{name}: {lost:.0f} attempts that no judge could decide are not counted.")
        if lost := measured["rollout/dropped"]:
            lines.append(
                f"{name}: {lost:.0f} attempts were lost to infrastructure failures. Run the same command to try them again."
            )
        lines += [f"{name}: {line}" for line in _losses(measured, results.samples)]
    if results.paper is not None:
        lines.append(
            f"The paper's figures are those of {results.paper}: means of 5 training seeds, with the paper's graders, without "
            "standard errors."
            if _paper_beside(results)
            else f"The paper has no figures for {results.paper} on these benchmarks."
        )
    return lines


def _losses(measured: Mapping[str, float], n: int) -> Iterator[str]:
    """Yield what lost attempts mean for the numbers."""
    if "avg_low" in measured:
        low, high = (100 * measured[key] for key in ("avg_low", "avg_high"))
        yield f"avg@{n} would be {low:.1f} % if all attempts that are not counted were wrong, and {high:.1f} % if all were right."
    if (enough := measured.get(f"{COUNTED}{n}")) is not None:
        yield (
            f"pass@{n} and maj@{n} are over the {enough:.0f} of {measured['problems']:.0f} problems with {n} graded attempts."
            if enough
            else f"pass@{n} and maj@{n} are not known: no problem has {n} graded attempts."
        )


# The paper's figures


def _paper_beside(results: Results) -> dict[str, float]:
    """Return the paper's figures for these benchmarks, and their mean if the benchmarks are exactly the paper's."""
    if results.paper is None:
        return {}
    row = paper.rows()[results.paper]
    mean = {"mean": math.fsum(row.values()) / len(row)} if row.keys() == results.benchmarks.keys() else {}
    return {name: value for name, value in row.items() if name in results.benchmarks} | mean


# Numbers as text


def _number(value: float | None, form: str) -> str:
    """Return a number as text, empty for None. The form "%" is a percentage without its sign."""
    if value is None:
        return ""
    return f"{100 * value:.1f}" if form == "%" else format(value, form)
