"""A weighting rule of your own, head to head with SOD's: no change to the package.

sod train   ... --algorithm.name examples/your_rule.py:impatient
sod compare --preset rivals --methods sod examples/your_rule.py:impatient
"""

from torch import Tensor

from sod.core import StepInfo, steps_since_error


def impatient(d_BK: Tensor, info: StepInfo) -> Tensor:
    """Trust the teacher while the trajectory is clean; after an error half as much, and nothing where it is unsure itself.

    `d_BK` is each step's divergence from the teacher in nats; `StepInfo` says what else is known. -> (B, K), or (B, T) for a
    weight of every token
    """
    after_error_BK = steps_since_error(info.failed_BK) > 0
    sure_BK = info.entropy_BK < 0.3
    return (1 - 0.5 * after_error_BK.to(d_BK.dtype)) * sure_BK.to(d_BK.dtype)
