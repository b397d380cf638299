"""Read a finished evaluation, and show results in tables, beside the paper's figures."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich import box
from rich.cells import cell_len
from rich.table import Table

from sod import paper
from sod.console.progress import console, echo
from sod.console.text import cell
from sod.errors import DataError, RunError
from sod.evaluation.intervals import Solved
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


WORDS = ("", "method", "verdict")
"""Names of columns that contain words. All other columns contain numbers."""
GAP = 2
"""Characters between two columns, including the line of the box."""


@dataclass(frozen=True)
class Sheet:
    """A table of text: column names and rows."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    @classmethod
    def of(cls, columns: Mapping[str, Sequence[str]], title: str = "") -> "Sheet":
        return cls(title, list(columns), list(zip(*columns.values(), strict=True)))

    def drawn(self, width: int) -> list[Table]:
        """Return tables that fit into `width` characters. Columns that do not fit continue in a further table with the same rows.

        Words are not broken, except in a name that needs more than half of the width.
        """
        columns = [[cell(name), *(cell(row[i]) for row in self.rows)] for i, name in enumerate(self.head)]
        least = [min(width // 2, _least(column)) for column in columns]
        tables: list[Table] = []
        for part in _parts(least, width):
            table = Table(
                box=box.SIMPLE_HEAD,
                padding=(0, GAP - 1, 0, 0),
                pad_edge=False,
                show_edge=False,
                title=None if tables else self.title or None,
                title_justify="left",
            )
            for i, taken in zip(
                part, _widths([columns[i] for i in part], [least[i] for i in part], width), strict=True
            ):
                justify = "left" if self.head[i] in WORDS else "right"
                table.add_column(columns[i][0], justify=justify, overflow="fold", width=taken)
            for number in range(len(self.rows)):
                table.add_row(*(columns[i][1 + number] for i in part))
            tables.append(table)
        return tables

    def markdown(self) -> str:
        lines = [f"**{_markdown(self.title)}**", ""] if self.title else []
        lines.append("| " + " | ".join(map(_markdown, self.head)) + " |")
        lines.append("|" + "|".join("---" if name in WORDS else "--:" for name in self.head) + "|")
        return "\n".join([*lines, *("| " + " | ".join(map(_markdown, row)) + " |" for row in self.rows)])


def _least(column: Sequence[str]) -> int:
    """Return the smallest width of a column, in characters: its longest word. Cells with numbers stay on one line."""
    name, *cells = column
    words = [word for text in cells for word in text.split()] if name in WORDS else cells
    return max(map(cell_len, [*name.split(), *words]), default=1)


def _parts(least: Sequence[int], width: int) -> list[list[int]]:
    """Divide the columns into groups that fit side by side. Every group starts with the first column."""
    parts = [[0]]
    for column in range(1, len(least)):
        if len(parts[-1]) > 1 and sum(least[c] + GAP for c in [*parts[-1], column]) - GAP > width:
            parts.append([0])
        parts[-1].append(column)
    return parts


def _widths(columns: Sequence[Sequence[str]], least: Sequence[int], width: int) -> list[int]:
    """Return the width of each column, in characters. The widest columns shrink until all fit."""
    taken = [max(map(cell_len, column)) for column in columns]
    while sum(taken) + GAP * (len(taken) - 1) > width:
        room = [own - few for own, few in zip(taken, least, strict=True)]
        if not any(spare > 0 for spare in room):
            break
        widest = max((i for i, spare in enumerate(room) if spare > 0), key=lambda i: taken[i])
        taken[widest] -= 1
    return taken


def _markdown(text: str) -> str:
    return cell(text).replace("|", "\\|")


def show_sheets(sheets: Sequence[Sheet]) -> None:
    """Print tables: drawn on a terminal, elsewhere as Markdown."""
    if not console.is_terminal:
        echo("\n\n".join(sheet.markdown() for sheet in sheets))
        return
    for sheet in sheets:
        for table in sheet.drawn(console.width):
            console.print(table)
            console.print()


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
    if results.paper is not None:
        lines.append(
            f"The paper's figures are those of {results.paper}: means of 5 training seeds, with the paper's graders, without "
            "standard errors."
            if _paper_beside(results)
            else f"The paper has no figures for {results.paper} on these benchmarks."
        )
    return lines


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
