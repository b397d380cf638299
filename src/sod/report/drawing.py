"""Render figures as SVG for the page, in its colours, and as PNG for papers. Matplotlib is imported only inside functions
that need it.
"""

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sod.report.palette import LIGHT, themed
from sod.report.reading import RunRecord
from sod.runs.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE, HALF, HEIGHT = 9.0, 4.5, 2.6
"""Inches: width of a figure with several panels, width of a single panel, height of one row of panels."""
PNG_DPI = 200
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sod",
    "text.parse_math": False,
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.titlelocation": "left",
    "axes.titlepad": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.6,
    "grid.color": LIGHT["rule"],
    "axes.edgecolor": LIGHT["muted"],
    "axes.labelcolor": LIGHT["muted"],
    "axes.titlecolor": LIGHT["ink"],
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "text.color": LIGHT["ink"],
    "axes.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True, slots=True)
class Drawing:
    name: str
    """File name without extension."""
    title: str
    caption: str
    needs: str
    """Data that the figure requires; shown if it cannot be drawn."""
    draw: "Callable[[Sequence[RunRecord]], Figure | None]"


@dataclass(frozen=True, slots=True)
class Drawn:
    drawing: Drawing
    svg: str | None
    """None if there was nothing to draw."""
    png: bytes | None
    """None if there was nothing to draw, or no PNG was requested."""
    width: float
    """Width in inches."""


def render(drawing: Drawing, runs: Sequence[RunRecord], *, png: bool) -> Drawn:
    """Draw a figure once and render it as SVG and, if requested, as PNG."""
    with _style():
        figure = drawing.draw(runs)
        if figure is None:
            return Drawn(drawing, None, None, 0.0)
        paper = io.BytesIO()
        if png:
            figure.savefig(paper, format="png", dpi=PNG_DPI, facecolor="white")
        page = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(page, format="svg", transparent=True, metadata=nothing)
        return Drawn(drawing, _embeddable(page.getvalue(), drawing), paper.getvalue() or None, figure.get_figwidth())


def save_figure(draw: "Callable[[Any], Figure]", content: Any, path: Path) -> None:
    """Draw a figure of `content` in the style of the page, and write it as PNG."""
    with _style():
        paper = io.BytesIO()
        draw(content).savefig(paper, format="png", dpi=PNG_DPI, facecolor="white")
    write_whole(path, paper.getvalue())


@contextmanager
def _style() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # tokens may have any script
        yield


def _embeddable(svg: str, drawing: Drawing) -> str:
    """Return the <svg> element in the page's colours, with ids that are unique on the page."""
    svg = themed(svg[svg.index("<svg") :])
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{drawing.name}-", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{drawing.title}" ', 1)


# Panels


def panels(
    rows: int, columns: int, *, width: float, height: float = HEIGHT, **shared: Any
) -> "tuple[Figure, list[Axes]]":
    """Create a figure of rows x columns panels, and list the panels row by row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height * rows))
    return figure, list(figure.subplots(rows, columns, squeeze=False, **shared).flat)


def small_multiples(runs: Sequence[RunRecord], **shared: Any) -> "tuple[Figure, list[Axes]]":
    """Create a panel per run, titled with its name, two in a row, with a common scale."""
    columns = min(2, len(runs))
    rows = math.ceil(len(runs) / columns)
    figure, axes = panels(rows, columns, width=WIDE if columns > 1 else HALF, sharey=True, **shared)
    for unused in axes[len(runs) :]:
        unused.remove()
    for axis, run in zip(axes, runs, strict=False):
        if len(runs) > 1:
            axis.set_title(visible(run.name))
    return figure, axes[: len(runs)]


def whole_numbers(axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10]))


def legend(figure: "Figure", axes: "Sequence[Axes]") -> None:
    """Add a legend above the panels for all labels in any of them."""
    labelled = {
        label: handle for panel in axes for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    if labelled:
        figure.legend(
            labelled.values(),
            labelled.keys(),
            loc="outside upper left",
            ncols=6 if figure.get_figwidth() == WIDE else 3,
        )


def visible(text: str, longest: int = 24) -> str:
    """Format text on one line, with invisible characters spelled out."""
    before, after = len(text) - len(text.lstrip(" ")), len(text.rstrip(" "))
    shown = "".join(
        "␣" if c == " " and not before <= i < after else "↵" if c == "\n" else c if c.isprintable() else ascii(c)[1:-1]
        for i, c in enumerate(text[: longest + 1])
    )
    shown = (
        f" {shown}" if shown.startswith("_") else shown
    )  # matplotlib omits labels with a leading underscore from legends
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"
