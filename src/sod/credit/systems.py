"""The systems of the paper, its ablations, rival rules and a control: one line each, without torch.

`sod.credit.algorithms` computes with them: credit = outcome + rule, or the rule's whole credit. To add a system, add a line to
`SYSTEMS`.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from sod.errors import OptionError

Context = Literal["gt", "hint", "feedback", "unrelated"]
"""Information in the prompt of a teacher that is the student itself. gt: the answer, and the worked solution if there is one.
hint: a hint. feedback: the faults of the attempt. unrelated: the answer of another problem, a control."""


@dataclass(frozen=True, slots=True)
class SystemTraits:
    """The parts of a system, for modules that must not import torch."""

    outcome: Literal["grpo", "shuffled"] | None
    """Credit for the outcome of a trajectory (`sod.credit.algorithms.OUTCOMES`). None: no credit."""
    rule: str | None
    """Weighting of the teacher's signal: a name in `sod.core.RULES` or `sod.core.CREDITS`, or FILE.py:FUNCTION. None: no
    teacher."""
    context: Context | None = None
    """OPSD: the teacher is the student with this information in its prompt. None: the teacher is another model."""
    reads: frozenset[str] = frozenset()
    """Inputs of the rule that are not always at hand: names in `sod.core.INPUTS`. Where one is missing, the system is refused."""
    whole: bool = False
    """The rule computes the whole credit (`sod.core.CREDITS`)."""
    signal: bool = True
    """The rule reads the teacher's signal. Only a rule that computes the whole credit can do without."""
    by_signal: bool = False
    """The weight of a token is a function of that token's own signal. It is then no weight of other tokens at its position, so
    it cannot weigh candidates."""

    @property
    def needs_teacher(self) -> bool:
        """Return whether the system needs a teacher model in addition to the student."""
        return self.rule is not None and self.context is None and self.signal

    @property
    def uses_reward(self) -> bool:
        """Return whether the credit depends on the reward or the verdict."""
        return self.outcome is not None or bool(self.reads & {"reward", "right"})

    @property
    def is_own(self) -> bool:
        """Return whether the rule is the user's own, FILE.py:FUNCTION."""
        return self.rule is not None and ":" in self.rule


def _weighted(rule: str, *reads: str, by_signal: bool = False) -> SystemTraits:
    """Return GRPO with a rule for the weight of the teacher's signal."""
    return SystemTraits("grpo", rule, reads=frozenset(reads), by_signal=by_signal)


def _whole(rule: str, *reads: str, signal: bool = True, outcome: Literal["grpo"] | None = "grpo") -> SystemTraits:
    """Return a rule that computes the whole credit."""
    return SystemTraits(outcome, rule, reads=frozenset(reads), whole=True, signal=signal)


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
    "trust_region": _weighted("trust_region", by_signal=True),
    "sign_consistent": _weighted("sign_consistent", by_signal=True),
    "curriculum": SystemTraits("grpo", "curriculum"),
    "entropy": _weighted("entropy", "teacher_entropy"),
    "drift_from_median": SystemTraits("grpo", "drift_from_median"),
    "drift_with_floor": SystemTraits("grpo", "drift_with_floor"),
    "drift_before": SystemTraits("grpo", "drift_before"),
    "per_error": SystemTraits("grpo", "per_error"),
    "entropy_in_trust_region": _weighted("entropy_in_trust_region", "teacher_entropy", by_signal=True),
    # weighting rules of other papers, each combined with GRPO
    "turn_opd": _weighted("turn_opd", "progress"),
    "middle_dropped": _weighted("middle_dropped"),
    "iw_opd": _weighted("iw_opd"),
    "prefix": _weighted("prefix"),
    "progressive_prefix": _weighted("progressive_prefix", "progress"),
    "prefix_teach": _weighted("prefix_teach"),
    "tv_opd": _weighted("tv_opd", by_signal=True),
    "surprise": _weighted("surprise", by_signal=True),
    "power_opd": _weighted("power_opd", "student", "teacher", by_signal=True),
    "tip": _weighted("tip", "student_entropy", by_signal=True),
    "ida_opd": _weighted("ida_opd", "student", "student_entropy", by_signal=True),
    "ier_opd": _weighted("ier_opd", "student_entropy", "group", by_signal=True),
    "opdvr": _weighted("opdvr", by_signal=True),
    "ra_opd": _weighted("ra_opd"),
    "fire_opd": _weighted("fire_opd", "student_entropy", "teacher_entropy"),
    "per_prompt": _weighted("per_prompt", "teacher_rates"),
    "atod": _weighted("atod", "student"),
    "gats": _weighted("gats", "right", "teacher_rates"),
    "tide": _weighted("tide", "teacher_entropy"),
    # other papers: the whole credit
    "rlsd": _whole("rlsd"),
    "step_opsd": _whole("step_opsd"),
    "sdar": _whole("sdar"),
    "agent_opsd": _whole("agent_opsd", "right", "group"),
    "future_credit": _whole("future_credit"),
    "aopd": _whole("aopd"),
    "eopd": _whole("eopd", "teacher_entropy"),
    "gigpo": _whole("gigpo", "reward", "group", "anchors", signal=False),
    "scope": _whole("scope", "student", "teacher", "right", "group", outcome=None),
    "gc_opd": _whole("gc_opd", "right", "group"),
    # controls
    "sham": SystemTraits("shuffled", None),
    "random_weights": _weighted("random_weights"),
    "random_mask": _weighted("random_mask"),
    "random_steps": _weighted("random_steps"),
    "opsd_unrelated": SystemTraits(None, "uniform", context="unrelated"),
    "suppress_unlikely": _whole("suppress_unlikely", "student", signal=False),
    "opd_then_grpo": _weighted("opd_then_grpo", "progress"),
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
