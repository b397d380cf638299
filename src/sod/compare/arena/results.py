"""The results of a world of an arena: solve rates, paired differences with Holm's correction, a table, a picture, JSON."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sod.compare.table import Measured, check_same_problems, solved_counts
from sod.console.progress import echo
from sod.errors import DataError
from sod.evaluation.intervals import Interval, Solved, difference, rate
from sod.evaluation.sheets import Sheet, show_sheets
from sod.evaluation.significance import LEVEL, Noise, holm, noise_of, p_value
from sod.report.arena import arena_figure
from sod.report.drawing import save_figure
from sod.runs.contents import same_input
from sod.runs.files import write_json, write_whole

FORMAT = 1
"""Version of the content of results.json; docs/arena.md describes it."""
SOD = "sod"
RunKey = tuple[str, int]
"""Cold start and seed."""
Runs = Mapping[RunKey, Measured]


def pairs(systems: Sequence[str], baseline: str) -> list[tuple[str, str]]:
    """Return the differences that are tested: each system against the baseline and against SOD, each pair once."""
    found = [(name, baseline) for name in systems if name != baseline]
    if SOD in systems and baseline != SOD:
        found += [(name, SOD) for name in systems if name not in (SOD, baseline)]
    return found


def solved_of(runs: Runs) -> Solved:
    """Return the counts, one row for each run, sorted by cold start and seed."""
    return solved_counts([runs[key] for key in sorted(runs)])


def rates_of(measured: Mapping[str, Runs]) -> dict[str, float]:
    """Return the mean solve rate of each system over its runs."""
    check_same_problems([each for runs in measured.values() for each in runs.values()])
    return {name: rate(solved_of(runs)).mean for name, runs in measured.items()}


def noise_among(systems: Sequence[Runs]) -> Noise | None:
    """Estimate the noise of a difference from systems with the same runs, in pairs. None with fewer than two runs or systems."""
    if len(systems) < 2 or len(systems[0]) < 2:
        return None
    solved = [solved_of(runs) for runs in systems]
    found = [noise_of(one, other) for one, other in zip(solved[::2], solved[1::2], strict=False)]
    return Noise(
        seeds=math.sqrt(statistics.fmean(each.seeds**2 for each in found)),
        problems=math.sqrt(statistics.fmean(each.problems**2 for each in found)),
    )


def check_same_models(start: str, cells: Sequence[Path]) -> None:
    """Raise DataError unless all cells began with the same student, and learnt from the same teacher and problems."""
    for what in ("student", "teacher", "data"):
        found = {_fingerprint(cell, what): cell for cell in cells}
        found.pop(None, None)  # GRPO has no teacher
        first, *others = found or [None]
        if different := [found[print] for print in others if not same_input(first, print)]:
            one, other = found[first], different[0]
            raise DataError(
                f"Cold start {start}: {one} and {other} had different inputs ({what}) and cannot be compared. Prepare the worlds "
                "once (--arena.prepare), copy them to all machines, and repeat the cells of one of the two."
            )


def _fingerprint(cell: Path, what: str) -> str | None:
    try:
        return json.loads((cell / "train" / "environment.json").read_bytes())["data"].get(what)
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise DataError(
            f"{cell / 'train'} holds no readable training run ({type(error).__name__}: {error}). Move {cell} away and repeat the "
            "command, which trains it again."
        ) from error


# The finals


@dataclass(frozen=True)
class Finals:
    world: str
    folder: Path
    """Directory of the world."""
    baseline: str
    runs: Mapping[str, Runs]
    """The evaluations of each system."""
    untrained: Mapping[str, Mapping[str, Measured]]
    """The evaluations of the untrained student and of the teacher, by cold start."""
    plan: Mapping[str, Any]


def save_finals(finals: Finals) -> None:
    """Write results.json, table.md and results.png, and print the table."""
    content = contents(finals)
    sheet = arena_table(content)
    write_json(finals.folder / "results.json", content)
    notes = "\n".join(arena_notes(content))
    write_whole(finals.folder / "table.md", f"{sheet.markdown()}\n\n{notes}\n")
    save_figure(arena_figure, content, finals.folder / "results.png")
    show_sheets([sheet])
    echo(notes)
    echo(f"{finals.world}: {finals.folder / 'table.md'}, results.json and results.png")


def contents(finals: Finals) -> dict[str, Any]:
    """Return the content of results.json."""
    untrained = [each for models in finals.untrained.values() for each in models.values()]
    check_same_problems([*untrained, *(each for runs in finals.runs.values() for each in runs.values())])
    solved = {name: solved_of(runs) for name, runs in finals.runs.items()}
    rates = {name: rate(each) for name, each in solved.items()}
    differences = _differences(solved, pairs(list(solved), finals.baseline))
    rows = [
        {
            "system": name,
            "solved": asdict(rates[name]),
            "runs": [_run(start, seed, runs[start, seed]) for start, seed in sorted(runs)],
            "against": {other: found for (first, other), found in differences.items() if first == name},
        }
        for name, runs in sorted(finals.runs.items(), key=lambda item: -rates[item[0]].mean)
    ]
    first = next(iter(next(iter(finals.runs.values())).values()))
    return {
        "format": FORMAT,
        "world": finals.world,
        "baseline": finals.baseline,
        "problems": len(first.verdicts),
        "samples": first.results.samples,
        "comparisons": len(differences),
        "starts": {
            start: {name: asdict(rate(solved_counts([each]))) for name, each in models.items()}
            for start, models in finals.untrained.items()
        },
        "plan": finals.plan,
        "rows": rows,
    }


def _run(start: str, seed: int, measured: Measured) -> dict[str, Any]:
    return {
        "start": start,
        "seed": seed,
        "solved": rate(solved_counts([measured])).mean,
        "lr": measured.lr,
        "updates": measured.updates,
        "seconds": measured.seconds,
    }


def _differences(
    solved: Mapping[str, Solved], wanted: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], dict[str, Any]]:
    """Return each difference with its interval, its p-value, Holm's correction for all of them, and the verdict."""
    found = [difference(solved[one], solved[other]) for one, other in wanted]
    single = next(iter(solved.values())).right_SP.shape[0] < 2
    plain = [math.nan if single else p_value(solved[one], solved[other]) for one, other in wanted]
    return {
        pair: asdict(interval) | {"p": p, "p_holm": corrected, "verdict": standing_of(interval, corrected)}
        for pair, interval, p, corrected in zip(wanted, found, plain, holm(plain), strict=True)
    }


def standing_of(interval: Interval, p_holm: float) -> str:
    """Return better or worse if the corrected p-value is below 0.05. NaN, for a single run, is never below."""
    if not p_holm < LEVEL:
        return "not told apart"
    return "better" if interval.mean > 0 else "worse"


# Tables


def arena_table(content: Mapping[str, Any]) -> Sheet:
    """Return the table of a world."""
    baseline = content["baseline"]
    references = [baseline] + [SOD] * (baseline != SOD)
    rows = content["rows"]
    columns = {
        "method": [row["system"] for row in rows],
        f"avg@{content['samples']}, %": [f"{100 * row['solved']['mean']:.1f}" for row in rows],
        "95 %": [_limits(row["solved"]) for row in rows],
        "runs": [str(len(row["runs"])) for row in rows],
        "seeds": [str(len({run["seed"] for run in row["runs"]})) for row in rows],
    }
    for other in references:
        against = [row["against"].get(other) for row in rows]
        columns[f"- {other}"] = [
            Interval(*(a[k] for k in ("mean", "low", "high"))).in_points() if a else "" for a in against
        ]
        columns[f"p, {other}"] = [_p(a["p_holm"]) if a else "" for a in against]
    columns["verdict"] = [_verdicts(row, references) for row in rows]
    return Sheet.of(columns, content["world"])


def _limits(interval: Mapping[str, float]) -> str:
    return "" if math.isnan(interval["low"]) else f"{100 * interval['low']:.1f} to {100 * interval['high']:.1f}"


def _p(p: float) -> str:
    return "" if math.isnan(p) else f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _verdicts(row: Mapping[str, Any], references: Sequence[str]) -> str:
    against = row["against"]
    found = [f"{against[other]['verdict']} than {other}" for other in references if other in against]
    return ", ".join(text for text in found if not text.startswith("not"))


def arena_notes(content: Mapping[str, Any]) -> list[str]:
    """Return the sentences below the table."""
    starts = ", ".join(
        f"{name} {100 * models['start']['mean']:.1f} % (teacher {100 * models['teacher']['mean']:.1f} %)"
        for name, models in content["starts"].items()
    )
    runs = len(content["rows"][0]["runs"])
    lines = [
        f"Before training: {starts}. {content['problems']} problems x {content['samples']} samples; {runs} runs of each system.",
        "Intervals: 95 %, over problems and runs, not corrected. p: paired by problem and run, from the bootstrap, corrected by "
        f"Holm's method for {content['comparisons']} comparisons.",
        content["plan"]["power"],
    ]
    if runs < 2:
        lines.append(
            "With a single run, the variation between seeds is unknown. There are no p-values and no verdicts."
        )
    return lines
