"""Open the held-out problems, and check them against the training problems before a model is loaded."""

import logging
from collections.abc import Sequence

from sod.config import DecontaminateOptions, ValidateOptions
from sod.datasets import ProblemSet
from sod.datasets.contamination import count_shared
from sod.datasets.several import open_sets
from sod.errors import DataError, OptionError
from sod.evaluation.intervals import TOO_FEW
from sod.types import Problem

logger = logging.getLogger(__name__)

FRAMES = DecontaminateOptions.model_fields
WORDS, SHARE = FRAMES["words"].default, FRAMES["share"].default
"""Length of n-grams and share of a problem's n-grams, as in `sod data decontaminate`."""


def validation_sets(options: ValidateOptions) -> list[ProblemSet]:
    """Open the held-out problems. Raise DataError or OptionError if they cannot be used with these options."""
    sets = open_sets(options)
    for each in sets:
        if not each.problems:
            raise DataError(f"validate.data: {each.path} holds no problems. Give another file, or leave it out.")
        check_enough_rows(each.name, len(each.problems), options.stop_after)
        if options.measure == "maj" and not each.votes:
            raise OptionError(
                f"validate.measure = maj: {each.name} has programs, which have no votes. Use avg or pass."
            )
    return sets


def check_enough_rows(name: str, rows: int, stop_after: int) -> None:
    """Raise OptionError if a set is too small for an interval, without which no gain is ever outside the noise."""
    if stop_after and rows < TOO_FEW:
        raise OptionError(
            f"validate.stop_after compares validations row by row, but {name} has {rows} of them, too few for an interval. "
            f"Give at least {TOO_FEW}, or leave validate.stop_after out."
        )


def warn_of_overlap(sets: Sequence[ProblemSet], problems: Sequence[Problem]) -> None:
    """Log a warning for each set that shares problems with the training data."""
    for each in sets:
        same, similar = count_shared(each.problems, problems, WORDS, SHARE)
        if same + similar:
            logger.warning(
                f"careful: {each.name}: {same} of {len(each.problems)} held-out problems are also training problems, and "
                f"{similar} share at least {SHARE:.0%} of their {WORDS}-word sequences with one. Their scores measure what was "
                "memorised. `sod data decontaminate` removes such problems from the training data."
            )
