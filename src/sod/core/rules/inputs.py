"""The inputs and the result of a rule."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from sod.core.steps import step_mean


class RuleInput(NamedTuple):
    """An input that is not always at hand."""

    field: str
    """Its field in `StepInfo`."""
    what: str
    why: str
    """Why it can be missing, and what to do then."""


INPUTS: dict[str, RuleInput] = {
    "student": RuleInput(
        "student_BT",
        "the student's log-probabilities",
        "only their difference from the teacher's is known. Choose another rule",
    ),
    "teacher": RuleInput(
        "teacher_BT",
        "the teacher's log-probabilities",
        "only their difference from the student's is known. Choose another rule",
    ),
    "student_entropy": RuleInput(
        "student_entropy_BT",
        "the student's entropy",
        "the student's own forward pass has not computed it. Use `sod train` with score.student = recompute and "
        "algorithm.divergence = sampled, or choose another rule",
    ),
    "teacher_entropy": RuleInput(
        "teacher_entropy_BT",
        "the teacher's entropy",
        "the teacher returns none (a remote teacher never does). Choose another rule, or a local teacher",
    ),
    "right": RuleInput("right_B", "the verdicts", "they are not known here. Use `sod train`, or choose another rule"),
    "reward": RuleInput("reward_B", "the rewards", "they are not known here. Use `sod train`, or choose another rule"),
    "group": RuleInput(
        "group_B", "the group of each trajectory", "it is not known here. Use `sod train`, or choose another rule"
    ),
    "student_rates": RuleInput(
        "student_rate_B",
        "the student's solve rates in earlier updates",
        "they are not known here. Use `sod train`, or choose another rule",
    ),
    "teacher_rates": RuleInput(
        "teacher_rate_B",
        "the teacher's solve rates",
        "none are given. Give a run of `sod eval` of the teacher as --algorithm.teacher-rates, or choose another rule",
    ),
    "progress": RuleInput(
        "progress",
        "the share of the updates that are done",
        "it is not known here. Use `sod train`, or choose another rule",
    ),
    "anchors": RuleInput(
        "anchors_BK",
        "the observation before each step",
        "it is not known here. Use `sod train`, or choose another rule",
    ),
}
"""The inputs that can be missing, by name. A system declares the ones that its rule reads (`sod.credit.systems.SystemTraits.reads`)."""


class MissingInputError(ValueError):
    """A rule reads an input that is missing."""

    def __init__(self, name: str):
        missing = INPUTS[name]
        super().__init__(f"this rule reads {missing.what}, but {missing.why}.")
        self.name = name


@dataclass(frozen=True, slots=True)
class StepInfo:
    """Inputs of a rule in addition to the divergence of the steps. A field that is None is missing; see `need`."""

    ids_BT: Tensor
    """Step number of each sampled token, from 1; 0 elsewhere."""
    signal_BT: Tensor
    """log pi_teacher - log pi_student, in nats; 0 off the mask, and 0 without a teacher."""
    teacher_entropy_BT: Tensor | None
    """Entropy of the teacher's distribution at each sampled token, in nats; 0 off the mask. None if the teacher returns no
    entropies."""
    failed_BK: Tensor
    """True where a tool call at the end of the step returned an error."""
    advantage_B: Tensor
    """The GRPO advantage: the trajectory's reward relative to its group."""
    update: int = 0
    """Updates completed in this run."""
    epsilon: float = 1e-6
    """Epsilon of Eq. 7, in nats."""
    delta: float = 0.2
    """Delta of Eq. 7: headroom above 1."""
    decay: float = 0.9
    """Decay factor of the paper's fixed schedule."""
    coef: float = 1.0
    """Factor of the teacher's part (`algorithm.coef`). Only a rule that computes the whole credit applies it."""
    student_BT: Tensor | None = None
    """log pi_student of each sampled token, before the update."""
    teacher_BT: Tensor | None = None
    """log pi_teacher of each sampled token."""
    student_entropy_BT: Tensor | None = None
    """Entropy of the student's distribution at each sampled token, in nats; 0 off the mask."""
    right_B: Tensor | None = None
    """True where the judge found the answer right."""
    reward_B: Tensor | None = None
    """The reward."""
    group_B: Tensor | None = None
    """Number of the group: the trajectories with the same number are attempts at the same problem."""
    student_rate_B: Tensor | None = None
    """Share of the student's right attempts at the problem in earlier updates of this run; NaN before the first."""
    teacher_rate_B: Tensor | None = None
    """Share of the teacher's right attempts at the problem, from an evaluation; NaN where it has none."""
    progress: float | None = None
    """Share of the run's updates that are done, from 0 to below 1."""
    anchors_BK: Tensor | None = None
    """A number for the observation before each step, int64. Equal observations have equal numbers; 0 before the first step."""
    state: Mapping[str, float] = field(default_factory=dict)
    """The numbers that the rule returned as `Weights.state` in the previous update; empty in the first."""
    seed: int = 0
    """Seed that depends on the tokens of the batch."""

    @property
    def exists_BK(self) -> Tensor:
        """True where the row has this step."""
        return step_mean(torch.ones_like(self.signal_BT), self.ids_BT) > 0

    @property
    def mask_BT(self) -> Tensor:
        """True on the sampled tokens."""
        return self.ids_BT > 0

    @property
    def entropy_BK(self) -> Tensor:
        """The teacher's mean entropy over each step. Raises MissingInputError if the teacher returns none."""
        return step_mean(self.need("teacher_entropy"), self.ids_BT)

    @property
    def advantage_BT(self) -> Tensor:
        """The GRPO advantage at each sampled token; 0 off the mask."""
        return self.advantage_B[:, None].expand_as(self.signal_BT).masked_fill(~self.mask_BT, 0)

    def need(self, name: str) -> Tensor:
        """Return an input by its name in `INPUTS`. Raises MissingInputError if it is missing."""
        value: Tensor | float | None = getattr(self, INPUTS[name].field)
        if value is None:
            raise MissingInputError(name)
        return torch.as_tensor(value)

    def generator(self) -> torch.Generator:
        """Return a random generator that depends only on the tokens of the batch."""
        return torch.Generator().manual_seed(self.seed)


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of both parts of the credit."""

    teacher: Tensor
    """Weight of the teacher's signal: (B, K), one for every step, or (B, T), one for every token."""
    outcome: Tensor | float = 1.0
    """Weight of the outcome's part: a number, (B, K) or (B, T)."""
    state: Mapping[str, float] | None = None
    """Numbers for the same rule's `StepInfo.state` in the next update. Checkpoints hold them. None: no change."""

    @classmethod
    def of(cls, result: "Tensor | Weights") -> "Weights":
        """Return the result of a rule as weights. A tensor is the teacher's weight; the outcome's is then 1."""
        return result if isinstance(result, Weights) else cls(result)


Rule = Callable[[Tensor, StepInfo], Tensor | Weights]
"""Weights the teacher's signal, and optionally the outcome: (d_BK, info) -> (B, K), (B, T) or Weights."""
WholeCredit = Callable[[StepInfo], Tensor]
"""Computes the whole credit of every token, in place of the weighted sum: info -> (B, T)."""
