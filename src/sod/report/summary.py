"""Compute the page's summary as plain text: facts of each run, changes during training, alarms, and warnings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from statistics import fmean
from typing import Any

from sod.report.reading import RunRecord
from sod.report.trajectories import drawable
from sod.report.validation import validation_rows
from sod.runs.alarms import ALARMS, WINDOW, raised
from sod.runs.by_teacher import TEACHER_ROWS, shown_keys

Format = Callable[[float], str]
UNKNOWN = "–"


def _share(value: float) -> str:
    return f"{value:.1%}"


def _real(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")


def _few(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _count(value: float) -> str:
    return f"{value:,.0f}"


METRICS: Sequence[tuple[str, str, Format]] = (
    ("rollout/solved", "solved", _share),
    ("rollout/reward", "reward", _few),
    ("tools/calls", "tool calls per trajectory", _few),
    ("tools/errors", "tool errors per trajectory", _few),
    ("tools/malformed", "calls that are no valid call", _share),
    ("tools/solved_without_error", "solved without a tool error", _share),
    ("tools/solved_after_error", "solved after a tool error", _share),
    ("guided/turns", "teacher's turns per trajectory", _few),
    ("guided/solved_alone", "solved without a turn of the teacher", _share),
    ("rollout/tokens", "tokens per response", _count),
    ("stop/max_tokens", "cut off by the token limit", _share),
    ("learn/entropy", "student entropy, nats", _real),
    ("steps/d", "divergence d, nats", _real),
    ("steps/w_after_first", "step weight w after the first step", _few),
    ("steps/w_used_after_first", "teacher weight used after the first step", _few),
    ("steps/signal_in_top_5_percent_of_tokens", "signal in the top 5% of tokens", _share),
    ("pattern/stable", "pattern: stable", _share),
    ("pattern/erroneous", "pattern: erroneous", _share),
    ("pattern/recovery", "pattern: recovery", _share),
    ("teacher/tokens_sent", "tokens sent to the teacher's server per update", _count),
    ("teacher/tokens_cached", "of these read from its cache", _count),
    ("teacher/tokens_returned", "log-probabilities returned by it per update", _count),
    ("learn/loss", "loss", _real),
    ("seconds/update", "seconds per update", _few),
)
SCORES = 2
"""Number of metrics before the parts of the reward, which have names of their own."""
RESULTS: Sequence[tuple[str, str, Format]] = (
    ("maj", "maj@n", _share),
    ("no_answer", "no answer", _share),
    ("problems", "problems", _count),
    ("samples", "samples per problem (n)", _count),
    *(entry for entry in METRICS if entry[0] not in ("rollout/solved", "rollout/reward")),
)


@dataclass(frozen=True, slots=True)
class Table:
    """A table. `heads` name the columns after the first. A row is its label and one cell per head."""

    heads: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]


@dataclass(frozen=True, slots=True)
class AlarmSeen:
    run: str
    name: str
    when: str
    words: str
    """What was observed, why it matters, what to try."""


def facts(runs: Sequence[RunRecord]) -> Table:
    """Return one column per run: its inputs and its progress."""
    rows = {
        "command": [_command(run) for run in runs],
        "progress": [_progress(run) for run in runs],
        "student": [_path(run, "student", "model") for run in runs],
        "teacher": [_path(run, "teacher", "teachers") for run in runs],
        "problems": [_path(run, "data") for run in runs],
        "seed": [str(run.options.get("seed", UNKNOWN)) for run in runs],
        "sod": [str(run.environment.get("sod", UNKNOWN)) for run in runs],
        "trajectories here": [_trajectories(run) for run in runs],
    }
    return Table([run.name for run in runs], list(rows.items()))


def learning_table(runs: Sequence[RunRecord]) -> Table | None:
    """Return two columns per run: means over its first and its last updates. None if no run has two updates."""
    runs = [run for run in runs if len(run.metrics) > 1]
    spans = [_spans(run) for run in runs]
    rows: list[tuple[str, list[str]]] = []
    for key, label, form in [*METRICS[:SCORES], *_reward_parts(runs), *METRICS[SCORES:], *_teachers(runs)]:
        cells = [_mean(span, key, form) for pair in spans for span in pair]
        if any(cell != UNKNOWN for cell in cells):
            rows.append((label, cells))
    heads = [_updates(span) for pair in spans for span in pair]
    return Table(heads, rows) if rows else None


def _reward_parts(runs: Sequence[RunRecord]) -> list[tuple[str, str, Format]]:
    """Return the metrics reward/NAME of the runs: the parts of the reward, before they are weighted."""
    rows = [row for run in runs for row in (*run.metrics, run.measured)]
    keys = dict.fromkeys(key for row in rows for key in row if key.startswith("reward/"))
    return [(key, f"reward: {key.removeprefix('reward/')}", _few) for key in keys]


def _teachers(runs: Sequence[RunRecord]) -> list[tuple[str, str, Format]]:
    """Return the metrics teacher/NAME/KEY of the runs: those of each of several teachers."""
    keys = shown_keys(row for run in runs for row in (*run.metrics, run.measured))
    shown = {key: (name, *TEACHER_ROWS[what]) for key, (name, what) in keys.items()}
    return [
        (key, f"teacher {name}: {words}", _share if share else _real) for key, (name, words, share) in shown.items()
    ]


def learners(runs: Sequence[RunRecord]) -> list[str]:
    """Return the names above the columns of `learning`; each spans two."""
    return [run.name for run in runs if len(run.metrics) > 1]


def results(runs: Sequence[RunRecord]) -> Table | None:
    """Return one column per run with results of an evaluation. None if there are none."""
    runs = [run for run in runs if run.results]
    rows: list[tuple[str, list[str]]] = [("avg@n ± standard error", [_average(run.measured) for run in runs])]
    names = list(dict.fromkeys(name for run in runs for name in run.benchmarks))
    if len(names) > 1:
        rows += [(name, [_average(run.benchmarks.get(name, {})) for run in runs]) for name in names]
    rows.append(("pass@n", [_pass(run.measured) for run in runs]))
    for key, label, form in [*_reward_parts(runs), *RESULTS, *_teachers(runs)]:
        cells = [UNKNOWN if (value := drawable(run.measured.get(key))) is None else form(value) for run in runs]
        if any(cell != UNKNOWN for cell in cells):
            rows.append((label, cells))
    return Table([run.name for run in runs], rows) if runs else None


def validation_table(runs: Sequence[RunRecord]) -> Table | None:
    """Return one column per run with validations while training. None if there are none."""
    runs = [run for run in runs if run.validations]
    return Table([run.name for run in runs], validation_rows(runs)) if runs else None


def alarms(runs: Sequence[RunRecord]) -> list[AlarmSeen]:
    """Return every alarm that a run recorded, with its text at the first update."""
    seen: list[AlarmSeen] = []
    for run in runs:
        rows = run.metrics
        for key in dict.fromkeys(key for row in rows for key in row if key.startswith("alarm/")):
            name = key.removeprefix("alarm/")
            at = [i for i, row in enumerate(rows) if key in row]
            first, count = at[0], len(at)
            when = f"first in update {rows[first]['update']:.0f}, raised in {count} of {len(rows)}"
            when += ", still at the end" if at[-1] == len(rows) - 1 else ""
            seen.append(AlarmSeen(run.name, name, when, _alarm_words(name, rows[: first + 1])))
    return seen


def warnings(runs: Sequence[RunRecord]) -> list[str]:
    """Return the reasons why the runs may not be comparable."""
    found: list[str] = []
    if problems := _differing(runs, lambda run: _fingerprint(run, "data")):
        found.append(f"These runs used different problems, so their solve rates are not comparable: {problems}.")
    if students := _differing(runs, lambda run: _fingerprint(run, "student")):
        found.append(f"These runs started from different students: {students}.")
    if teachers := _differing(runs, _teacher_prints):
        found.append(f"These runs used different teachers: {teachers}.")
    if versions := _differing(runs, lambda run: run.environment.get("sod")):
        found.append(f"These runs were made by different versions of sod: {versions}.")
    return found


def _differing(runs: Sequence[RunRecord], what: Callable[[RunRecord], object]) -> str:
    """Return the names of the runs, grouped by equal values; empty if all agree. Skips runs without a value."""
    groups: dict[str, list[str]] = {}
    for run in runs:
        if (value := what(run)) is not None:
            groups.setdefault(str(value), []).append(run.name)
    return " versus ".join(", ".join(group) for group in groups.values()) if len(groups) > 1 else ""


def _fingerprint(run: RunRecord, name: str) -> object:
    data = run.environment.get("data")
    return data.get(name) if isinstance(data, dict) else None


def _teacher_prints(run: RunRecord) -> object:
    """Return the fingerprint of each teacher by its name; None without a teacher."""
    data = run.environment.get("data")
    prints = data.items() if isinstance(data, dict) else ()
    return sorted((name, value) for name, value in prints if name.partition(" ")[0] == "teacher") or None


def _command(run: RunRecord) -> str:
    return f"{run.command} · {run.algorithm}" if run.algorithm else run.command


def _progress(run: RunRecord) -> str:
    done = int(run.metrics[-1]["update"]) if run.metrics else 0
    if run.command == "serve":
        return f"{len(run.trajectories):,} conversations"
    if run.command in ("eval", "rollout"):
        if not run.results:
            return "not finished: no results.json"
        return "partial: interrupted" if run.results.partial else "finished"
    planned = drawable(run.environment.get("updates")) or drawable(run.options.get("updates"))
    if planned is None:
        return f"{done} updates"
    return f"{done} of {planned:.0f} updates" + (", not finished" if done < planned else "")


def _path(run: RunRecord, *keys: str) -> str:
    """Return the last two parts of a path in the options, or of each of several paths. A path may follow KEY=."""
    value = next((run.options[key] for key in keys if run.options.get(key)), None)
    paths = value if isinstance(value, list) else [] if value is None else [value]
    return ", ".join(map(_end, map(str, paths))) or UNKNOWN


def _end(path: str) -> str:
    key, equals, rest = path.partition("=")
    before = key + equals if equals and "/" not in key else ""
    return before + "/".join(PurePath(rest if before else path).parts[-2:])


def _trajectories(run: RunRecord) -> str:
    if not run.trajectories:
        return "none"
    first, last = run.trajectories[0].update, run.trajectories[-1].update
    held = f"{len(run.trajectories):,}" + (f" of updates {first}–{last}" if last > first else "")
    return held + (", older ones not shown" if run.older_files else "")


def _spans(run: RunRecord) -> tuple[Sequence[Mapping[str, float]], Sequence[Mapping[str, float]]]:
    """Return the run's first and last updates, without overlap."""
    width = min(WINDOW, len(run.metrics) // 2)
    return run.metrics[:width], run.metrics[-width:]


def _updates(rows: Sequence[Mapping[str, float]]) -> str:
    first, last = rows[0]["update"], rows[-1]["update"]
    return f"update {last:.0f}" if first == last else f"updates {first:.0f}–{last:.0f}"


def _mean(rows: Sequence[Mapping[str, float]], key: str, form: Format) -> str:
    values = [row[key] for row in rows if key in row]
    return form(fmean(values)) if values else UNKNOWN


def _average(measured: Mapping[str, Any]) -> str:
    average, error = drawable(measured.get("avg")), drawable(measured.get("avg_se"))
    if average is None:
        return UNKNOWN
    return f"{average:.1%}" + (f" ± {error:.1%}" if error is not None else "")


def _pass(measured: Mapping[str, Any]) -> str:
    value = drawable(measured.get(f"pass@{drawable(measured.get('samples')) or 0:.0f}"))
    return UNKNOWN if value is None else _share(value)


def _alarm_words(name: str, history: list[dict[str, float]]) -> str:
    if words := raised(history).get(name):
        return words
    if name in ALARMS:  # this version has another threshold
        return f"{ALARMS[name].why} Try {ALARMS[name].remedy}."
    return "This version of sod does not have this alarm."
