"""Which of the paper's three patterns the step weights of a trajectory follow. Standard library only."""

from collections.abc import Sequence
from typing import Literal

Pattern = Literal["stable", "erroneous", "recovery"]

LOW = 0.5
"""A weight below this marks a step whose divergence is more than twice the first one's."""
RECOVERED = 0.7
"""Weights of at least this have come back."""


def pattern(weights: Sequence[float]) -> Pattern | None:
    """Of SOD's weights w_1 ... w_K (Eq. 7): None for a single step, else

    stable     no weight falls below `LOW`
    recovery   one does, and the last two are at least `RECOVERED`
    erroneous  one does, and the last two are not both

    The paper shows an example of each (stable near 1 to 1.2; erroneous 1.00 down to 0.17; recovery 1.00, 0.41, 1.12, 1.20) and
    gives no rule; the numbers are this project's. Two weights, because a last step that only states the answer agrees with
    the teacher whatever went before.
    """
    if len(weights) < 2:
        return None
    if min(weights) >= LOW:
        return "stable"
    return "recovery" if min(weights[-2:]) >= RECOVERED else "erroneous"
