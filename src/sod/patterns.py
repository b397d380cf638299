"""Which of the paper's three patterns the step weights of a trajectory follow. Standard library only."""

from collections.abc import Sequence
from typing import Literal

Pattern = Literal["stable", "erroneous", "recovery"]

LOW = 0.5
"""A weight below this marks a step whose divergence is more than twice the first one's."""
RECOVERED = 0.7
"""A last weight of at least this has come back."""


def pattern(weights: Sequence[float]) -> Pattern | None:
    """Of SOD's weights w_1 ... w_K (Eq. 7): None for a single step, else

    stable     no weight falls below `LOW`
    recovery   one does, and the last weight is at least `RECOVERED`
    erroneous  one does, and the last weight is not

    The paper shows an example of each (stable near 1 to 1.2; erroneous 1.00 down to 0.17; recovery 1.00, 0.41, 1.20) and
    gives no rule; these two numbers are this project's.
    """
    if len(weights) < 2:
        return None
    if min(weights) >= LOW:
        return "stable"
    return "recovery" if weights[-1] >= RECOVERED else "erroneous"
