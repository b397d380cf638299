"""The picture of an arena's world: the solve rate of every system, and its differences from the baseline and from SOD."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sod.report.drawing import WIDE, legend, panels, visible
from sod.report.palette import LIGHT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROW, FRAME = 0.22, 1.0
"""Inches: height of a system's row, and of title, axis and legend."""
COLOURS = {"better": "right", "worse": "erroneous", "not told apart": "muted"}
MARKERS = {"better": "^", "worse": "v", "not told apart": "o"}


def arena_figure(content: Mapping[str, Any]) -> "Figure":
    """Draw results.json of a world: systems from the highest solve rate to the lowest."""
    rows = content["rows"]
    baseline = content["baseline"]
    references = [baseline] + [name for name in ("sod",) if name != baseline]
    figure, axes = panels(1, 1 + len(references), width=WIDE, height=FRAME + ROW * len(rows), sharey=True)
    rate, *others = axes
    for y, row in enumerate(rows):
        mean, low, high = (100 * row["solved"][key] for key in ("mean", "low", "high"))
        rate.plot([low, high], [y, y], color=LIGHT["series-1"], linewidth=1)
        rate.plot([mean], [y], "o", color=LIGHT["series-1"], markersize=4)
        for run in row["runs"]:
            rate.plot([100 * run["solved"]], [y], "|", color=LIGHT["muted"], markersize=5, markeredgewidth=0.8)
    rate.set_yticks(range(len(rows)), [visible(row["system"]) for row in rows], color=LIGHT["ink"])
    rate.invert_yaxis()
    rate.set(title=f"{content['world']}: solve rate", xlabel="% of attempts; ticks: single runs")
    starts = [100 * models["start"]["mean"] for models in content["starts"].values()]
    rate.axvline(
        sum(starts) / len(starts), color=LIGHT["muted"], linewidth=1, linestyle=(0, (4, 2)), label="before training"
    )
    for axis, other in zip(others, references, strict=True):
        axis.axvline(0, color=LIGHT["muted"], linewidth=0.8)
        for y, row in enumerate(rows):
            if (found := row["against"].get(other)) is None:
                continue
            colour = LIGHT[COLOURS[found["verdict"]]]
            mean, low, high = (100 * found[key] for key in ("mean", "low", "high"))
            axis.plot([low, high], [y, y], color=colour, linewidth=1)
            axis.plot(
                [mean],
                [y],
                MARKERS[found["verdict"]],
                color=colour,
                markersize=4,
                linestyle="none",
                label=found["verdict"],
            )
        axis.set(title=f"difference from {visible(other)}", xlabel="percentage points")
    legend(figure, axes)
    return figure
