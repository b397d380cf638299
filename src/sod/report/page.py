"""Write the page: one HTML file that contains everything and needs no network.

Text of runs enters the page in two ways only: escaped, in the summary and the figures; or as base64 that the script decodes
and shows as text. A content security policy in the page's head blocks every other script.
"""

import hashlib
from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from statistics import fmean
from string import Template
from typing import Any

from sod.report import palette, summary
from sod.report.drawing import Drawn
from sod.report.packing import packed_json
from sod.report.reading import RunRecord
from sod.report.trajectories import UNIT, ShownTrajectory

FIELDS = (
    *("run", "update", "problem", "sample", "verdict", "reward", "stop", "errors", "steps", "tokens", "pattern"),
    *("answer", "signal", "weights", "chunk", "place"),
)
"""Fields of a trajectory in the list; see `_entry`."""


def page(
    title: str, runs: Sequence[RunRecord], figures: Sequence[Drawn], chunks: Iterable[str], *, follow: str = ""
) -> str:
    """Return the whole document. `follow`: a script after ours, which may ask the page's own server for changes."""
    script = _resource("page.js") + follow
    entries = [
        _entry(number, trajectory, place)
        for number, run in enumerate(runs)
        for trajectory, place in zip(run.trajectories, run.places, strict=True)
    ]
    index = {"runs": [run.name for run in runs], "fields": FIELDS, "entries": entries, "unit": UNIT}
    return Template(_resource("page.html")).substitute(
        title=escape(title),
        style=palette.css() + _resource("page.css"),
        script=script,
        script_hash=f"'sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}'",
        connect="; connect-src 'self'" if follow else "",
        summary=_summary(runs),
        figures="\n".join([*map(_figure, figures), _not_drawn(figures)]),
        index=packed_json(index),
        chunks="\n".join(
            f'<script type="application/json" id="chunk-{i}">{chunk}</script>' for i, chunk in enumerate(chunks)
        ),
    )


def _entry(run: int, trajectory: ShownTrajectory, place: tuple[int, int]) -> list[Any]:
    """Return a value for each of FIELDS. `signal` is the mean of |signal|, in nats."""
    signal = trajectory.signal
    return [
        *(run, trajectory.update, trajectory.problem, trajectory.sample, trajectory.verdict, trajectory.reward),
        *(trajectory.stop, trajectory.errors, len(trajectory.steps), trajectory.tokens, trajectory.pattern),
        None if trajectory.answer is None else trajectory.answer[:40],
        round(fmean(map(abs, signal)), 4) if signal else None,
        [None if step.w is None else round(step.w, 3) for step in trajectory.steps],
        *place,
    ]


def _summary(runs: Sequence[RunRecord]) -> str:
    parts: list[str] = []
    if warnings := summary.warnings(runs):
        parts.append(_notice("warning", "Limited comparability", map(escape, warnings)))
    left_out = [f"{run.name}: {line}" if len(runs) > 1 else line for run in runs for line in run.notes.lines()]
    if left_out:
        parts.append(_notice("warning", "Left out", map(escape, left_out)))
    if alarms := summary.alarms(runs):
        parts.append(_notice("alarm", "Alarms", [_alarm(alarm, several=len(runs) > 1) for alarm in alarms]))
    tables = [_table("Runs", "words", summary.facts(runs), runs)]
    if results := summary.results(runs):
        tables.append(_table("Evaluation", "numbers", results, runs))
    if validated := summary.validation_table(runs):
        tables.append(_table("Validation", "numbers", validated, runs))
    if learnt := summary.learning_table(runs):
        tables.append(_table("Training", "numbers pairs", learnt, runs, spanning=summary.learners(runs)))
    return "\n".join([*parts, f'<div class="tables">{"".join(tables)}</div>'])


def _alarm(alarm: summary.AlarmSeen, *, several: bool) -> str:
    where = f" in {escape(alarm.run)}" if several else ""
    return f"<b>{escape(alarm.name)}</b>{where} ({alarm.when}): {escape(alarm.words)}"


def _notice(kind: str, title: str, items: Iterable[str]) -> str:
    """Return a notice. `items` are HTML."""
    lines = "".join(f"<li>{item}</li>" for item in items)
    return f'<div class="notice {kind}" role="note"><h2>{title}</h2><ul>{lines}</ul></div>'


def _table(
    title: str, kind: str, table: summary.Table, runs: Sequence[RunRecord], *, spanning: Sequence[str] = ()
) -> str:
    """Return a table. `spanning`: names of runs, each above two columns. Without them, the heads are names of runs."""
    order = [run.name for run in runs]
    above = "".join(f'<th scope="colgroup" colspan="2">{_run(name, order)}</th>' for name in spanning)
    heads = [escape(head) if spanning else _run(head, order) for head in table.heads]
    head = (f"<tr><td></td>{above}</tr>" if spanning else "") + _row("<td></td>", "th", heads)
    body = "".join(
        _row(f'<th scope="row">{escape(label)}</th>', "td", map(escape, cells)) for label, cells in table.rows
    )
    return (
        f'<div><h2>{title}</h2><div class="scroll" role="region" aria-label="{title}" tabindex="0">'
        f'<table class="{kind}"><thead>{head}</thead><tbody>{body}</tbody></table></div></div>'
    )


def _row(first: str, tag: str, cells: Iterable[str]) -> str:
    return f"<tr>{first}{''.join(f'<{tag}>{cell}</{tag}>' for cell in cells)}</tr>"


def _run(name: str, order: Sequence[str]) -> str:
    """Return a run's name with its colour in the figures."""
    series = order.index(name) % len(palette.SERIES) + 1
    return f'<span class="run" style="--run:var(--series-{series})">{escape(name)}</span>'


def _figure(drawn: Drawn) -> str:
    """Return a figure; nothing for one that is not drawn."""
    drawing = drawn.drawing
    if drawn.svg is None:
        return ""
    return (
        f'<figure id="figure-{drawing.name}" style="--inches:{drawn.width:g}"><h3>{escape(drawing.title)}</h3>'
        f'<div class="scroll">{drawn.svg}</div><figcaption>{escape(drawing.caption)}</figcaption></figure>'
    )


def _not_drawn(figures: Sequence[Drawn]) -> str:
    """Return the figures that are not drawn and what each requires, folded."""
    missing = [drawn.drawing for drawn in figures if drawn.svg is None]
    lines = "".join(f"<li><b>{escape(each.title)}</b> requires {escape(each.needs)}.</li>" for each in missing)
    return (
        f'<details class="absent"><summary>Not drawn: {len(missing)}</summary><ul>{lines}</ul></details>'
        if missing
        else ""
    )


def _resource(name: str) -> str:
    return files("sod.report").joinpath(name).read_text(encoding="utf-8")
