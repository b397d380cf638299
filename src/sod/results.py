"""What an evaluation came to: shown, beside the paper's figures, read back, and compared with another."""

import json
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from sod.config import CompareEvaluationsOptions
from sod.errors import DataError, OptionError
from sod.progress import console, say
from sod.runs import Run
from sod.statistics import Interval, Solved, difference

Results = dict[str, Any]
"""What stands in results.json: `benchmarks`, each with what was `measured`, and their `mean`."""

MANY_VALUES = 12
"""Labels with more values than these are not broken down on the screen; results.json has them all."""


# Read back


@dataclass(frozen=True)
class Evaluated:
    """A finished evaluation: how often each problem was solved, and everything else that was measured."""

    folder: Path
    data: str
    """Fingerprint of the problems."""
    verdicts: dict[str, dict[int, bool]]
    """Of each problem, whether each sample was right; those that no judge could decide are not there."""
    benchmark: dict[str, str]
    """The set that each problem belongs to."""
    results: Results

    @property
    def mean(self) -> dict[str, float]:
        return self.results["mean"]

    def solved(self, problems: Sequence[str]) -> Solved:
        """How often each of these problems was solved, as one row."""
        right = [sum(self.verdicts[problem].values()) for problem in problems]
        tried = [len(self.verdicts[problem]) for problem in problems]
        return Solved(np.array([right], dtype=np.int64), np.array([tried], dtype=np.int64))


def read_evaluation(folder: Path) -> Evaluated:
    """Raises DataError, saying what is missing, where there is no finished evaluation."""
    try:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        data = json.loads((folder / "environment.json").read_text(encoding="utf-8"))["data"]["data"]
        samples, partial, _ = int(results["samples"]), results["partial"], results["mean"]["avg"]
        lines = Run(folder).trajectory_file(0).open(encoding="utf-8")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{folder} holds no finished evaluation ({type(error).__name__}: {error}).") from error
    verdicts: dict[str, dict[int, bool]] = {}
    benchmark: dict[str, str] = {}
    with lines:
        if partial:
            raise DataError(
                f"{folder} was interrupted: its results are partial. Run the same `sod eval` again to finish it."
            )
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                problem, sample = row["problem"], int(row["sample"])
                judged, correct = bool(row["graded"]), bool(row["correct"])
                if sample >= samples or row["benchmark"] not in results["benchmarks"]:
                    continue  # of an earlier call that asked for more
                benchmark[problem] = row["benchmark"]
            except (ValueError, LookupError, TypeError) as error:
                raise DataError(f"{folder}: line {number} of its trajectories cannot be read ({error}).") from error
            of_problem = verdicts.setdefault(problem, {})
            if judged:
                of_problem[sample] = correct
    return Evaluated(folder, data, verdicts, benchmark, results)


# Shown


@dataclass(frozen=True)
class Sheet:
    """A table: a head and rows of text, of which the first column is words."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def drawn(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), title=self.title or None, title_justify="left")
        for i, name in enumerate(self.head):
            table.add_column(name, justify="right" if i else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        lines = [f"**{self.title}**", ""] if self.title else []
        lines += ["| " + " | ".join(self.head) + " |", "|---" + "|--:" * (len(self.head) - 1) + "|"]
        return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in self.rows)])


def show(results: Results) -> None:
    """On a terminal drawn, elsewhere as Markdown."""
    if not console.is_terminal:
        say(to_markdown(results))
        return
    for sheet in _sheets(results):
        console.print(sheet.drawn())
    for line in _remarks(results):
        say(line)


def to_markdown(results: Results) -> str:
    return "\n\n".join([*(sheet.markdown() for sheet in _sheets(results)), *_remarks(results)]) + "\n"


def _sheets(results: Results) -> list[Sheet]:
    benchmarks: dict[str, Any] = results["benchmarks"]
    sheets = [_scores(results)]
    by = [
        (f"{name}, {label} {value}", group)
        for name, benchmark in benchmarks.items()
        for label, groups in benchmark["by"].items()
        if 1 < len(groups) <= MANY_VALUES
        for value, group in groups.items()
    ]
    if by:
        sheets.append(Sheet("By label", ["", "problems", "avg, %", "± new problems"], [_score(*each) for each in by]))
    judges = [
        (f"{name}, by {judge}", measured)
        for name, benchmark in benchmarks.items()
        for judge, measured in benchmark["judges"].items()
    ]
    if judges:
        rows = [[*_score(name, each), _percent(each.get("maj"))] for name, each in judges]
        sheets.append(
            Sheet("The same samples, judged otherwise", ["", "problems", "avg, %", "± new problems", "maj"], rows)
        )
    return sheets


def _score(name: str, measured: Mapping[str, float]) -> list[str]:
    return [name, f"{measured['problems']:.0f}", _percent(measured["avg"]), _percent(measured["avg_se"])]


def _scores(results: Results) -> Sheet:
    n = max((round(each["measured"]["samples"]) for each in results["benchmarks"].values()), default=0)
    paper = _paper()[results["paper"]] if results["paper"] else {}
    rows = [(name, each["measured"]) for name, each in results["benchmarks"].items()]
    if len(rows) > 1:
        rows.append(("mean", results["mean"]))
    columns: dict[str, list[str]] = {
        "": [name for name, _ in rows],
        "problems": [f"{m['problems']:.0f}" for _, m in rows],
        f"avg@{n}, %": [_percent(m["avg"]) for _, m in rows],
        "± samples": [_percent(m.get("avg_sampling_se")) for _, m in rows],
        "± new problems": [_percent(m["avg_se"]) for _, m in rows],
        f"pass@{n}": [_percent(m.get(f"pass@{n}")) for _, m in rows],
        f"maj@{n}": [_percent(m.get("maj")) for _, m in rows],
        "no answer": [_percent(m.get("no_answer")) for _, m in rows],
        "cut off": [_percent(m.get("truncated")) for _, m in rows],
        "calls": [_number(m.get("tools/calls"), ".2f") for _, m in rows],
        "errors": [_number(m.get("tools/errors"), ".2f") for _, m in rows],
        "tokens": [_number(m.get("rollout/tokens"), ".0f") for _, m in rows],
    }
    if any("steps/d" in m for _, m in rows):
        columns["d, nats"] = [_number(m.get("steps/d"), ".3f") for _, m in rows]
    if paper.keys() == results["benchmarks"].keys():
        paper = paper | {"mean": math.fsum(paper.values()) / len(paper)}
    if any(name in paper for name, _ in rows):
        columns[f"paper, {results['paper']}"] = [_number(paper.get(name), ".2f") for name, _ in rows]
    return Sheet("", list(columns), list(zip(*columns.values(), strict=True)))


def _remarks(results: Results) -> list[str]:
    """What the reader of the table must know."""
    lines = (
        ["PARTIAL: interrupted, or too many attempts lost. Run the same command again to finish."]
        if results["partial"]
        else []
    )
    lines.append(
        "Standard errors, in points. samples: other samples of these very problems. new problems: other problems of this kind, "
        "which contains the first."
    )
    for name, benchmark in results["benchmarks"].items():
        lines += [f"{name}: {note}" for note in benchmark["notes"]]
        measured = benchmark["measured"]
        if lost := measured["rollout/ungraded"]:
            lines.append(f"{name}: {lost:.0f} attempts that no judge could decide are not counted.")
        if lost := measured["rollout/dropped"]:
            lines.append(
                f"{name}: {lost:.0f} attempts were lost to our own machinery; run the same command to try them again."
            )
    if results["paper"] and any(name in _paper()[results["paper"]] for name in results["benchmarks"]):
        lines.append("The paper gives no errors; its figures are means of 5 training seeds, by its own graders.")
    return lines


# The paper's figures


def check_paper(name: str | None) -> None:
    """Raises OptionError for a row that the paper's table does not have."""
    if name is not None and name not in (rows := _paper()):
        near = get_close_matches(name, rows, n=1)
        raise OptionError(
            f"paper: there is no row {name!r}"
            + (f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(rows)}.")
        )


def _paper() -> dict[str, dict[str, float]]:
    return tomllib.loads((files("sod") / "paper.toml").read_text(encoding="utf-8"))


# Two evaluations


@dataclass(frozen=True)
class Difference:
    """B minus A on one benchmark, over the problems that both have."""

    benchmark: str
    problems: int
    first: float
    second: float
    new_problems: Interval
    """Had both been measured on other problems of this kind: bootstrap over problems, paired by problem."""
    same_problems: Interval | None
    """On these very problems, with other samples, paired by problem and sample; None where a problem has a single one."""

    @property
    def verdict(self) -> str:
        if not self.new_problems.excludes_zero:
            return "not told apart"
        return "B is better" if self.new_problems.low > 0 else "B is worse"


def compare_evaluations(options: CompareEvaluationsOptions) -> list[Difference]:
    """Show how two evaluations differ, benchmark by benchmark, and write it down if asked to."""
    first, second = read_evaluation(options.first), read_evaluation(options.second)
    found = differences(first, second)
    sheet = Sheet(
        "",
        ["", "problems", "A, %", "B, %", "B - A, new problems", "B - A, these problems", "verdict"],
        [
            [
                each.benchmark,
                str(each.problems),
                _percent(each.first),
                _percent(each.second),
                _interval(each.new_problems),
                _interval(each.same_problems),
                each.verdict,
            ]
            for each in found
        ],
    )
    if console.is_terminal:
        console.print(sheet.drawn())
    else:
        say(sheet.markdown())
    say(f"A is {options.first}, B is {options.second}. Intervals: 95 %, paired by problem, in points.")
    for line in _unlike(first, second):
        say(f"careful: {line}")
    if options.out is not None:
        content = [asdict(each) | {"verdict": each.verdict} for each in found]
        options.out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        say(f"written to {options.out}")
    return found


def differences(first: Evaluated, second: Evaluated) -> list[Difference]:
    """For each benchmark that both have. Raises DataError where they have no problem in common."""
    common = [p for p in first.verdicts if first.verdicts[p] and second.verdicts.get(p)]
    names = dict.fromkeys(first.benchmark[problem] for problem in common)
    if not names:
        raise DataError(f"{first.folder} and {second.folder} have no problem in common.")
    return [_difference(first, second, name, [p for p in common if first.benchmark[p] == name]) for name in names]


def _difference(first: Evaluated, second: Evaluated, name: str, problems: Sequence[str]) -> Difference:
    a, b = first.solved(problems), second.solved(problems)
    rate_a, rate_b = (float((each.right_SP / each.tried_SP).mean()) for each in (a, b))
    mean = rate_b - rate_a
    error = _sampling_error([(first.verdicts[problem], second.verdicts[problem]) for problem in problems])
    same = None if error is None else Interval(mean, mean - 1.96 * error, mean + 1.96 * error)
    return Difference(name, len(problems), rate_a, rate_b, difference(b, a), same)


def _sampling_error(pairs: Sequence[tuple[dict[int, bool], dict[int, bool]]]) -> float | None:
    """Standard error of the mean difference over these very problems; None where a problem has a single pair of samples.

    Samples are paired by their number: two models that draw with the same seed are right and wrong together more often than
    by chance, and then their difference is surer than its parts.
    """
    variance = 0.0
    for one, other in pairs:
        by_sample = [other[sample] - right for sample, right in one.items() if sample in other]
        if len(by_sample) < 2:
            return None
        variance += float(np.var(by_sample, ddof=1)) / len(by_sample)
    return math.sqrt(variance) / len(pairs)


ALIKE = ("prompts", "temperature", "top_p", "max_turns", "max_tokens", "judge")


def _unlike(first: Evaluated, second: Evaluated) -> Iterable[str]:
    """Why the two may not be comparable."""
    for key in ALIKE:
        one, other = first.results[key], second.results[key]
        if one != other:
            yield f"{key} is {one} in A and {other} in B."
    for name in first.results["benchmarks"].keys() & second.results["benchmarks"].keys():
        files_ = [each.results["benchmarks"][name]["sha256"] for each in (first, second)]
        if files_[0] != files_[1]:
            yield f"{name} was read from different files; problems are paired by their ids."
    alone = first.verdicts.keys() ^ second.verdicts.keys()
    if alone:
        yield f"{len(alone)} problems are in one of the two only, and left out."


# Numbers as text


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * value for value in (interval.mean, interval.low, interval.high)))
