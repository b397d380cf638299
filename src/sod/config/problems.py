"""Options `--problems`: which problems an update takes, and in which order."""

from pathlib import Path
from typing import Literal

from sod.config.base import Options, ResumeMayChange, Share


class ProblemOptions(Options):
    """Choose and order the problems of training."""

    order: Literal["shuffled", "file", "easy_first", "hard_first"] = "shuffled"
    """Order of the problems in each epoch. shuffled: at random. file: as in the file. easy_first, hard_first: by the solve rates
    of problems.rates."""
    rates: ResumeMayChange[Path | None] = None
    """Finished run of `sod eval` on --data, usually with the student: the measured solve rate of every problem. Default: no
    rates."""
    lowest: Share = 0.0
    """Leave out problems with a lower solve rate. 0 leaves out none."""
    highest: Share = 1.0
    """Leave out problems with a higher solve rate. 1 leaves out none."""
