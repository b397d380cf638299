"""Options of the commands that look at runs: `sod watch` and `sod runs`."""

import warnings
from pathlib import Path
from typing import Annotated

from pydantic import Field
from tyro.conf import Positional, arg

from sod.config.base import Options, Positive


class WatchOptions(Options):
    """Follow one or more runs while they run: progress, curves, alarms, the newest trajectories.

    Only reads the run directories. A run may begin later. Without a terminal, the command prints the present state and ends.
    """

    runs: Annotated[tuple[Path, ...], Positional, arg(metavar="RUN [RUN ...]"), Field(min_length=1)]
    """Run directories of any command."""
    curves: tuple[str, ...] = ()
    """Metrics to draw, by name or by the beginning of their names, for example validate/ or learn/loss. Default: solve rate,
    validation score, reward, d, entropy, loss, tool calls and errors, speed."""
    page: bool = False
    """Show the runs as a page in a browser on this machine, like `sod report`. The page follows the runs. Ctrl-C ends it."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8765
    """Port of the page. 0 takes any free port."""
    trajectories: Positive = 500
    """Number of trajectories of each run on the page, the newest first."""


with warnings.catch_warnings():
    warnings.filterwarnings("ignore", 'Field name "json"')  # the option has the name of a method that is not used

    class RunsOptions(Options):
        """List all runs below a directory, the newest first: state, command, progress, score, age, size."""

        directory: Annotated[Path, Positional, arg(metavar="[DIR]")] = Path("runs")
        """Directory that contains run directories, at any depth."""
        json: bool = False  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
        """Print JSON, for programs, instead of a table."""
