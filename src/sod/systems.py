"""The systems of the paper, its ablations, rival rules and a control: one line each, without torch.

`sod.algorithms` computes with them: credit = outcome + rule. To add a system, add a line to `SYSTEMS`.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from sod.errors import OptionError


@dataclass(frozen=True, slots=True)
class SystemTraits:
    """The parts of a system, for modules that must not import torch."""

    outcome: Literal["grpo", "shuffled"] | None
    """Credit for the outcome of a trajectory (`sod.algorithms.OUTCOMES`). None: no credit."""
    rule: str | None
    """Weighting of the teacher's signal: a name in `sod.core.RULES`, or FILE.py:FUNCTION. None: no teacher."""
    context: Literal["gt", "hint", "feedback"] | None = None
    """OPSD: the teacher is the student with the answer (gt), a hint, or the faults of the attempt (feedback) in its prompt.
    None: the teacher is another model."""
    reads_entropy: bool = False
    """The rule needs the entropy of the teacher's distribution, which no server returns."""

    @property
    def needs_teacher(self) -> bool:
        """Return whether the system needs a teacher model in addition to the student."""
        return self.rule is not None and self.context is None

    @property
    def is_own(self) -> bool:
        """Return whether the rule is the user's own, FILE.py:FUNCTION."""
        return self.rule is not None and ":" in self.rule


SOD_RULE = "drift"
"""The weighting rule of SOD. `sod calibrate` compares all other rules with it."""
SYSTEMS: dict[str, SystemTraits] = {
    "grpo": SystemTraits("grpo", None),
    "opd": SystemTraits("grpo", "uniform"),
    "opd_without_grpo": SystemTraits(None, "uniform"),
    "opsd_gt": SystemTraits(None, "uniform", context="gt"),
    "opsd_hint": SystemTraits(None, "uniform", context="hint"),
    "opsd_feedback": SystemTraits(None, "uniform", context="feedback"),
    "sod": SystemTraits("grpo", SOD_RULE),
    # the paper's ablations
    "sod_uniform": SystemTraits("grpo", "uniform"),
    "sod_decay": SystemTraits("grpo", "decayed"),
    "sod_mask_after_error": SystemTraits("grpo", "masked"),
    "sod_unclipped": SystemTraits("grpo", "drift_unclipped"),
    "sod_without_grpo": SystemTraits(None, "drift"),
    # rival rules, each combined with GRPO
    "gated": SystemTraits("grpo", "gated"),
    "position": SystemTraits("grpo", "position"),
    "trust_region": SystemTraits("grpo", "trust_region"),
    "sign_consistent": SystemTraits("grpo", "sign_consistent"),
    "curriculum": SystemTraits("grpo", "curriculum"),
    "entropy": SystemTraits("grpo", "entropy", reads_entropy=True),
    "drift_from_median": SystemTraits("grpo", "drift_from_median"),
    "drift_with_floor": SystemTraits("grpo", "drift_with_floor"),
    "per_error": SystemTraits("grpo", "per_error"),
    "entropy_in_trust_region": SystemTraits("grpo", "entropy_in_trust_region", reads_entropy=True),
    # a control
    "sham": SystemTraits("shuffled", None),
}


def traits(name: str) -> SystemTraits:
    """Return the traits of a system. For `FILE.py:FUNCTION`, return those of that rule combined with GRPO.

    Raise OptionError for an unknown name. The message suggests the nearest one.
    """
    if name in SYSTEMS:
        return SYSTEMS[name]
    if ":" in name:
        return SystemTraits("grpo", name)
    near = get_close_matches(name, SYSTEMS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(SYSTEMS)}, or FILE.py:FUNCTION."
    raise OptionError(f"algorithm.name: {name!r} is unknown; {hint}")
