"""Assign the step weights of a trajectory to one of the paper's three patterns. Standard library only."""

from collections.abc import Sequence
from typing import Literal

Pattern = Literal["stable", "erroneous", "recovery"]

LOW = 0.5
"""Weight of a step with twice the divergence of the first one. Lower weights are low."""
RECOVERED = 0.7
"""Smallest weight of a step that counts as recovered."""


def pattern(weights: Sequence[float]) -> Pattern | None:
    """Return the pattern of SOD's weights w_1 ... w_K (Eq. 7), or None for a single step.

    stable     no weight is below `LOW`
    recovery   a weight is below `LOW`, and the last two are at least `RECOVERED`
    erroneous  a weight is below `LOW`, and at least one of the last two is below `RECOVERED`

    The paper shows an example of each (stable near 1 to 1.2; erroneous 1.00 down to 0.17; recovery 1.00, 0.41, 1.12, 1.20)
    but gives no rule. The numbers are this project's. Two weights are required because a last step that only states the
    answer always agrees with the teacher.
    """
    if len(weights) < 2:
        return None
    if min(weights) >= LOW:
        return "stable"
    return "recovery" if min(weights[-2:]) >= RECOVERED else "erroneous"
