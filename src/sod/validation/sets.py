"""Open the held-out problems, and check them against the training problems before a model is loaded."""

import logging
from collections.abc import Sequence
from pathlib import Path

from sod.chat.conversations import Demonstration
from sod.config import DecontaminateOptions, SftValidateOptions, ValidateOptions
from sod.datasets import ProblemSet
from sod.datasets.contamination import count_shared, row_surroundings
from sod.datasets.overlap import ProblemIdentity, text_of_prompt
from sod.datasets.rows import load_demonstrations
from sod.datasets.several import open_sets
from sod.errors import OptionError
from sod.evaluation.intervals import TOO_FEW

logger = logging.getLogger(__name__)

FRAMES = DecontaminateOptions.model_fields
WORDS, SHARE = FRAMES["words"].default, FRAMES["share"].default
"""Length of n-grams and share of a problem's n-grams, as in `sod data decontaminate`."""


def validation_sets(options: ValidateOptions) -> list[ProblemSet]:
    """Open the held-out problems. Raise DataError or OptionError if they cannot be used with these options."""
    sets = open_sets(options)
    for each in sets:
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


def warn_of_overlap(name: str, held_out: Sequence[ProblemIdentity], training: Sequence[ProblemIdentity]) -> None:
    """Log a warning if held-out questions are also training questions."""
    same, similar = count_shared(held_out, training, WORDS, SHARE)
    if same + similar:
        logger.warning(
            f"careful: {name}: {same} of {len(held_out)} held-out questions are also in the training data, and {similar} others "
            f"share at least {SHARE:.0%} of their {WORDS}-word sequences with it. Their scores also measure what was "
            "memorised. `sod data decontaminate` removes such rows from the training data."
        )


def questions_of(demonstrations: Sequence[Demonstration], folder: Path) -> list[ProblemIdentity]:
    """Return the problem of each demonstration: its prompt, and its environment, setting and files. `folder`: of the file."""
    return [
        ProblemIdentity(text_of_prompt(each.prompt), row_surroundings(dict(each.about), folder))
        for each in demonstrations
    ]


def held_out_demonstrations(options: SftValidateOptions) -> dict[str, list[Demonstration]]:
    """Open the files of held-out demonstrations. -> by the stem of each file's name"""
    sets: dict[str, list[Demonstration]] = {}
    for path in map(Path, options.data):
        if path.stem in sets:
            raise OptionError(f"validate.data: two files have the name {path.stem!r}. Rename one of them.")
        sets[path.stem] = load_demonstrations(path)[: options.limit]
        check_enough_rows(path.stem, len(sets[path.stem]), options.stop_after)
    return sets
