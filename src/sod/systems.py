"""The systems of the paper, its ablations, rival rules and a control: one line each, as data without torch.

`sod.algorithms` computes with them: credit = outcome + rule. To add a system, add a line to `SYSTEMS`.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from sod.errors import OptionError


@dataclass(frozen=True, slots=True)
class Traits:
    """What a system is made of, for everybody who must not import torch."""

    outcome: Literal["grpo", "shuffled"] | None
    """What the outcome of a trajectory is worth (`sod.algorithms.OUTCOMES`). None: nothing."""
    rule: str | None
    """How the teacher's signal is weighted: a name in `sod.core.RULES`, or FILE.py:FUNCTION. None: no teacher."""
    context: Literal["gt", "hint"] | None = None
    """OPSD: the teacher is the student itself, whose prompt also holds the answer (gt) or a hint. None: another model."""
    reads_entropy: bool = False
    """The rule needs the entropy of the teacher's distribution, which no server returns."""

    @property
    def needs_teacher(self) -> bool:
        """Return whether the system needs a teacher beside the student."""
        return self.rule is not None and self.context is None

    @property
    def is_own(self) -> bool:
        """Return whether the rule is a user's, FILE.py:FUNCTION."""
        return self.rule is not None and ":" in self.rule


SYSTEMS: dict[str, Traits] = {
    "grpo": Traits("grpo", None),
    "opd": Traits("grpo", "uniform"),
    "opd_without_grpo": Traits(None, "uniform"),
    "opsd_gt": Traits(None, "uniform", context="gt"),
    "opsd_hint": Traits(None, "uniform", context="hint"),
    "sod": Traits("grpo", "drift"),
    # the paper's ablations
    "sod_uniform": Traits("grpo", "uniform"),
    "sod_decay": Traits("grpo", "decayed"),
    "sod_mask_after_error": Traits("grpo", "masked"),
    "sod_unclipped": Traits("grpo", "drift_unclipped"),
    "sod_without_grpo": Traits(None, "drift"),
    # rival rules, each beside GRPO
    "gated": Traits("grpo", "gated"),
    "position": Traits("grpo", "position"),
    "trust_region": Traits("grpo", "trust_region"),
    "sign_consistent": Traits("grpo", "sign_consistent"),
    "curriculum": Traits("grpo", "curriculum"),
    "entropy": Traits("grpo", "entropy", reads_entropy=True),
    "drift_from_median": Traits("grpo", "drift_from_median"),
    "drift_with_floor": Traits("grpo", "drift_with_floor"),
    "per_error": Traits("grpo", "per_error"),
    "entropy_in_trust_region": Traits("grpo", "entropy_in_trust_region", reads_entropy=True),
    # a control
    "sham": Traits("shuffled", None),
}


def traits(name: str) -> Traits:
    """Return the traits of a system; for `FILE.py:FUNCTION`, of that rule beside GRPO.

    Raises OptionError that names the nearest system.
    """
    if name in SYSTEMS:
        return SYSTEMS[name]
    if ":" in name:
        return Traits("grpo", name)
    near = get_close_matches(name, SYSTEMS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(SYSTEMS)}, or FILE.py:FUNCTION."
    raise OptionError(f"algorithm.name: {name!r} is unknown; {hint}")
