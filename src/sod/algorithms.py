"""Batch to credit: what every sampled token is worth. The trainer never learns an algorithm's name.

A system is two things: what the outcome is worth (`outcome`), and how much of the teacher's signal each token is given (`rule`,
one of `sod.core.RULES`). Its credit is their sum, 0 off the mask:

    credit_BT = outcome_BT + coef * w_BT * (log pi_teacher - log pi_student)

The systems stand in `sod.systems`, one line each; a rule of your own needs no line, see `find`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from sod.batching import Batch
from sod.config import AlgorithmOptions
from sod.core import RULES, Rule, StepInfo, group_advantage, per_token, step_divergence, step_ids, teacher_advantage
from sod.core.rules import NoEntropyError
from sod.errors import OptionError
from sod.plugins import load
from sod.systems import SYSTEMS, traits

Outcome = Callable[[Batch], Tensor]


def grpo(batch: Batch) -> Tensor:
    """The trajectory's reward against its group's. -> (B,)"""
    return group_advantage(batch.rewards_B, batch.groups_B)


def shuffled(batch: Batch) -> Tensor:
    """GRPO on rewards shuffled over the whole batch: as many updates of the same size, with nothing to learn from. -> (B,)

    What a curve does under it is not the method's doing.
    """
    shuffle = torch.randperm(len(batch), generator=torch.Generator().manual_seed(int(batch.ids_BT.sum())))
    return group_advantage(batch.rewards_B[shuffle], batch.groups_B)


@dataclass(frozen=True, slots=True)
class System:
    """Who gives credit to a token. `None` says nothing."""

    outcome: Outcome | None
    rule: Rule | None
    context: Literal["gt", "hint"] | None = None
    """OPSD: the teacher is the student itself, whose prompt also holds the answer (gt) or a hint. None: another model."""

    def __call__(self, batch: Batch, options: AlgorithmOptions) -> Tensor:
        """The credit of every sampled token. -> (B, T), 0 off the mask"""
        return self.credit(batch, self.teacher_weight(batch, options))

    def credit(self, batch: Batch, weight_BT: Tensor | None) -> Tensor:
        """The same, from weights that are known.

        Candidates are judged whatever was sampled (`core.candidate_credit`), so a sampled token that is one of them gets
        nothing from the teacher beside; one that is none of them does, so that nothing is left out in the mean.
        """
        credit_BT = self.outcome_credit(batch)
        if weight_BT is None:
            return credit_BT
        signal_BT = signal(batch)
        if batch.candidates_BTJ is not None:
            signal_BT = signal_BT.masked_fill((batch.candidates_BTJ == batch.ids_BT[..., None]).any(-1), 0)
        return credit_BT + weight_BT * signal_BT

    def outcome_credit(self, batch: Batch) -> Tensor:
        """The outcome's part of the credit. -> (B, T), 0 off the mask"""
        if self.outcome is None:
            return torch.zeros(batch.mask_BT.shape)
        return self.outcome(batch)[:, None].expand(batch.mask_BT.shape).masked_fill(~batch.mask_BT, 0)

    def teacher_weight(self, batch: Batch, options: AlgorithmOptions) -> Tensor | None:
        """coef * w, the factor of the teacher's signal. -> (B, T), 0 off the mask; None without a teacher"""
        if self.rule is None:
            return None
        d_BK, info = step_info(batch, options)
        try:
            w = self.rule(d_BK, info).detach()
        except NoEntropyError as error:
            raise OptionError(f"algorithm.name {options.name!r}: {error}") from error
        w_BT = per_token(w, batch.steps_BT) if w.shape == d_BK.shape else w
        if w_BT.shape != batch.mask_BT.shape:
            raise OptionError(
                f"The weighting rule gave a tensor of shape {tuple(w.shape)}; it must be (B, K) = {tuple(d_BK.shape)} or "
                f"(B, T) = {tuple(batch.mask_BT.shape)}."
            )
        return options.coef * w_BT.masked_fill(~batch.mask_BT, 0)


def signal(batch: Batch) -> Tensor:
    """log pi_teacher - log pi_student of every sampled token, in nats. -> (B, T), 0 off the mask"""
    assert batch.student_BT is not None
    assert batch.teacher_BT is not None
    return teacher_advantage(batch.student_BT, batch.teacher_BT, batch.mask_BT)


def step_info(batch: Batch, options: AlgorithmOptions) -> tuple[Tensor, StepInfo]:
    """The divergence of the steps, and what else a rule may know. -> (B, K), ..."""
    assert batch.student_BT is not None
    assert batch.teacher_BT is not None
    info = StepInfo(
        ids_BT=batch.steps_BT,
        signal_BT=signal(batch),
        teacher_entropy_BT=batch.teacher_entropy_BT,
        failed_BK=batch.failed_BK,
        advantage_B=grpo(batch),
        update=batch.update,
        epsilon=options.epsilon,
        delta=options.delta,
        decay=options.decay,
    )
    return step_divergence(batch.student_BT, batch.teacher_BT, batch.steps_BT), info


def give_credit(batch: Batch, options: AlgorithmOptions) -> Batch:
    """The batch with credit for every sampled token, and the weight that its candidates, if it has any, are judged with."""
    system = find(options.name)
    weight_BT = system.teacher_weight(batch, options)
    return replace(batch, credit_BT=system.credit(batch, weight_BT), teacher_weight_BT=weight_BT)


OUTCOMES: dict[str, Outcome] = {"grpo": grpo, "shuffled": shuffled}


def find(name: str) -> System:
    """Return the system of that name; for `FILE.py:FUNCTION`, the rule that the file defines, beside GRPO.

    Raises OptionError that names the nearest system.
    """
    made_of = traits(name)
    rule = None if made_of.rule is None else RULES.get(made_of.rule) or load(made_of.rule, option="algorithm.name")
    return System(None if made_of.outcome is None else OUTCOMES[made_of.outcome], rule, made_of.context)


ALGORITHMS = {name: find(name) for name in SYSTEMS}
"""Every system of `sod.systems`, ready to compute."""


def needs_entropy(rule: Rule) -> bool:
    """Whether a rule cannot do without the teacher's entropy: found by trying it on a few made-up steps, without and with."""
    d_BK, without = _made_up()
    try:
        rule(d_BK, without)
    except NoEntropyError:
        return True
    except Exception:  # a user's rule may do anything with None
        try:
            rule(d_BK, replace(without, teacher_entropy_BT=torch.full(without.signal_BT.shape, 0.5)))
        except Exception:  # then it is not the entropy that it lacks, and the first update will say what
            return False
        return True
    return False


def _made_up() -> tuple[Tensor, StepInfo]:
    """Two trajectories of three steps, some of whose calls failed, under a teacher that tells no entropy."""
    mask_BT = torch.tensor([[0, 1, 0, 1, 1, 0, 1], [0, 1, 1, 0, 1, 0, 1]]).bool()
    info = StepInfo(
        ids_BT=step_ids(mask_BT),
        signal_BT=torch.linspace(-2, 2, mask_BT.numel()).view(mask_BT.shape).masked_fill(~mask_BT, 0),
        teacher_entropy_BT=None,
        failed_BK=torch.tensor([[True, False, False], [False, True, False]]),
        advantage_B=torch.tensor([1.0, -1.0]),
    )
    return torch.tensor([[0.5, 2.0, 4.0], [0.1, 0.2, 0.05]]), info
