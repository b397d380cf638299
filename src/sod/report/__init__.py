"""`sod report`: write one self-contained page about one or more runs, and its figures as PNG files. Only reads the runs.

reading.py       read run directories, also damaged ones  trajectories.py  parse one row of a trajectory file
packing.py       pack trajectories for the page           summary.py       facts, metrics, alarms, warnings
figures.py       each figure, for page and PNG            palette.py       every colour, light and dark
validation.py    scores while training                    page.py          the document, from page.html, .css and .js
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sod.config import ReportOptions
from sod.console.progress import Display, echo
from sod.errors import RunError
from sod.report import reading
from sod.report.drawing import Drawn, render
from sod.report.figures import FIGURES
from sod.report.packing import Packer
from sod.report.page import page

NAMED = 4
"""Largest number of runs that the title names; for more it gives their number."""
LARGE_MB = 100
"""Size in MB above which a page is slow to open."""


def report(options: ReportOptions) -> None:
    """Write the page, and the figures if requested."""
    folders = list({folder.resolve(): folder for folder in options.runs}.values())
    for folder in folders:
        reading.check_run(folder)
    packer = Packer()
    with Display("report", total=len(folders) + 1) as display:
        names = reading.names(folders)
        runs = [
            _read(folder, name, options.trajectories, packer, display)
            for folder, name in zip(folders, names, strict=True)
        ]
        if all(run.empty for run in runs):
            raise RunError(
                f"Nothing could be read from {', '.join(map(str, folders))}: no metrics, no results, no trajectories. "
                f"{reading.ADVICE}"
            )
        with display.phase("draw", len(FIGURES)):
            drawn = []
            for drawing in FIGURES:
                drawn.append(render(drawing, runs, png=options.png is not None))
                display.advance()
        display.done()
    named = ", ".join(run.name for run in runs) if len(runs) <= NAMED else f"{len(runs)} runs"
    out = options.out or folders[0] / "report.html"
    text = page(f"sod report: {named}", runs, drawn, packer.chunks())
    _write(out, text.encode(errors="replace"))
    _log_size(out, runs)
    if options.png is not None:
        _write_figures(options.png, drawn)


def _read(folder: Path, name: str, limit: int, packer: Packer, display: Display) -> reading.RunRecord:
    """Read a run, and print immediately what had to be left out."""
    with display.phase(f"read {name}", len(reading.trajectory_files(folder))):
        run = reading.read_run(folder, name, limit=limit, keep=packer.add, advance=display.advance)
    left_out = "\n".join(f"{name}: left out {line}" for line in run.notes.lines())
    display.done(left_out.encode(errors="replace").decode())  # a lone surrogate cannot be printed
    return run


def _log_size(out: Path, runs: Sequence[reading.RunRecord]) -> None:
    megabytes = out.stat().st_size / 1e6
    echo(f"page: {out} ({megabytes:.1f} MB, {sum(len(run.trajectories) for run in runs):,} trajectories)")
    if megabytes > LARGE_MB:
        echo(
            f"  This page is slow to open. Pass --trajectories with fewer than "
            f"{max(len(run.trajectories) for run in runs):,} per run."
        )


def _write_figures(folder: Path, drawn: Sequence[Drawn]) -> None:
    for figure in drawn:
        if figure.png is None:
            echo(f"figure {figure.drawing.name}: not drawn; requires {figure.drawing.needs}")
        else:
            file = folder / f"{figure.drawing.name}.png"
            _write(file, figure.png)
            echo(f"figure: {file}")


def _write(file: Path, content: bytes) -> None:
    """Write the file completely, or not at all."""
    partial = file.with_name(file.name + ".partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(file)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise RunError(f"{file} cannot be written: {error.strerror}. Choose another path.") from error
