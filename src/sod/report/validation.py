"""The figure and the table of validations while training."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sod.report.drawing import HALF, WIDE, legend, panels, visible, whole_numbers
from sod.report.palette import SERIES
from sod.report.reading import RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SCORE = re.compile(r"validate/(?P<set>.+)/(?P<measure>avg|loss)")
FORMS = {"avg": ("avg, %", 100, ".1f"), "loss": ("loss, nats per token", 1, ".3f")}
"""Unit, factor and format of each measure that a figure shows."""


def scores(runs: Sequence[RunRecord]) -> list[tuple[str, str]]:
    """Return the sets that any run was validated on, with their measure."""
    keys = dict.fromkeys(key for run in runs for row in run.validations for key in row)
    return [(match["set"], match["measure"]) for key in keys if (match := _SCORE.fullmatch(key))]


def validation_figure(runs: Sequence[RunRecord]) -> "Figure | None":
    """Draw the score over the updates; a panel per set, a curve with 95 % intervals per run, a ring for RUN/best."""
    shown = scores(runs)
    if not shown:
        return None
    columns = min(2, len(shown))
    figure, axes = panels(-(-len(shown) // columns), columns, width=WIDE if columns > 1 else HALF)
    for unused in axes[len(shown) :]:
        unused.remove()
    for axis, (name, measure) in zip(axes, shown, strict=False):
        unit, scale, _ = FORMS[measure]
        key = f"validate/{name}/{measure}"
        for i, run in enumerate(runs):
            rows = [row for row in run.validations if key in row]
            if not rows:
                continue
            updates, means = [row["update"] for row in rows], [scale * row[key] for row in rows]
            halves = [scale * row.get(f"{key}_half", 0.0) for row in rows]
            chosen = [(update, mean) for update, mean in zip(updates, means, strict=True) if update == run.best]
            axis.errorbar(
                updates, means, yerr=halves, color=SERIES[i % len(SERIES)], marker="o", markersize=3.5, elinewidth=1,
                label=visible(run.name),
            )  # fmt: skip
            for place in chosen:
                axis.plot(*place, color=SERIES[i % len(SERIES)], marker="o", markersize=10, fillstyle="none")
        axis.set(title=visible(name), ylabel=unit, xlabel="update")
        whole_numbers(axis)
    if len(runs) > 1:
        legend(figure, axes[: len(shown)])
    return figure


def validation_rows(runs: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """Return the rows of a table: for each set, each run's first, highest and last score, and that of RUN/best.

    RUN/best is chosen by the mean over all sets, and by a measure that may not be avg. It may differ from the highest.
    """
    rows: list[tuple[str, list[str]]] = []
    for name, measure in scores(runs):
        cells = [_cells(run, f"validate/{name}/{measure}", measure) for run in runs]
        extreme = "lowest" if measure == "loss" else "highest"
        for at, when in enumerate(("first", extreme, "RUN/best", "last")):
            rows.append((f"{name}, {FORMS[measure][0]}: {when}", [each[at] for each in cells]))
    return rows


def _cells(run: RunRecord, key: str, measure: str) -> tuple[str, str, str, str]:
    """Return the first score, the highest or lowest, that of RUN/best, and the last, each with half of its interval."""
    rows = [row for row in run.validations if key in row]
    if not rows:
        return "–", "–", "–", "–"
    _, scale, form = FORMS[measure]

    def cell(row: dict[str, float]) -> str:
        half = row.get(f"{key}_half")
        return format(scale * row[key], form) + ("" if half is None else f" ± {format(scale * half, form)}")

    extreme = (min if measure == "loss" else max)(rows, key=lambda row: row[key])
    chosen = next((cell(row) for row in rows if row["update"] == run.best), "–")
    if run.best is not None:
        chosen += f", update {run.best}"
    return cell(rows[0]), f"{cell(extreme)}, update {extreme['update']:.0f}", chosen, cell(rows[-1])
