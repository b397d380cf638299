"""Compute the credit of every sampled token of a batch. The trainer is independent of the algorithm.

A system has two parts: the credit from the outcome (`outcome`), and the weight of the teacher's signal (`rule`, one of
`sod.core.RULES`). Its credit is their sum, 0 off the mask:

    credit_BT = outcome_BT + coef * w_BT * (log pi_teacher - log pi_student)

The systems stand in `sod.systems`, one line each; a rule of your own needs no line, see `find`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from sod.batching import CreditedBatch, ScoredBatch
from sod.config import AlgorithmOptions
from sod.core import ADVANTAGES, RULES, Rule, StepInfo, per_token, step_divergence, step_ids, teacher_advantage
from sod.core.rules import NoEntropyError
from sod.errors import OptionError
from sod.plugins import load
from sod.systems import SYSTEMS, traits

OutcomeCredit = Callable[[ScoredBatch, AlgorithmOptions], Tensor]


def grpo(batch: ScoredBatch, options: AlgorithmOptions) -> Tensor:
    """Return each trajectory's reward relative to its group, by `algorithm.advantage`. -> (B,)"""
    return _advantage(batch, options, torch.arange(len(batch)))


def shuffled(batch: ScoredBatch, options: AlgorithmOptions) -> Tensor:
    """Return the advantage of rewards shuffled over the whole batch: equal updates without information. -> (B,)

    This is a control: effects seen under it are not caused by any method.
    """
    shuffle = torch.randperm(len(batch), generator=torch.Generator().manual_seed(int(batch.ids_BT.sum())))
    return _advantage(batch, options, shuffle)


def _advantage(batch: ScoredBatch, options: AlgorithmOptions, order: Tensor) -> Tensor:
    """Return the advantages, if row i has the outcome of row order[i]. Its divergence from the start remains its own. -> (B,)"""
    rewards_B = batch.rewards_B[order]
    if options.kl_in_reward:
        assert batch.reference_BT is not None, "no reference has scored this batch"
        k1_BT = (batch.student_BT - batch.reference_BT).masked_fill(~batch.mask_BT, 0)
        rewards_B = rewards_B - options.kl_in_reward * k1_BT.sum(1)
    right_B = batch.right_B[order] if options.advantage == "verdict" else rewards_B > 0
    return ADVANTAGES[options.advantage](rewards_B, right_B, batch.groups_B)


@dataclass(frozen=True, slots=True)
class System:
    """The sources of a token's credit. A part that is None gives no credit."""

    outcome: OutcomeCredit | None
    rule: Rule | None
    context: Literal["gt", "hint", "feedback"] | None = None
    """OPSD: the teacher is the student itself, whose prompt also holds the answer (gt), a hint, or the faults of the attempt
    (feedback). None: another model."""

    def __call__(self, batch: ScoredBatch, options: AlgorithmOptions) -> Tensor:
        """Return the credit of every sampled token. -> (B, T), 0 off the mask"""
        return self.credit(batch, self.teacher_weight(batch, options), options)

    def credit(self, batch: ScoredBatch, weight_BT: Tensor | None, options: AlgorithmOptions) -> Tensor:
        """Return the credit of every sampled token, given the teacher's weights. -> (B, T), 0 off the mask

        Candidates get their own credit, independent of the sampled token (`core.candidate_credit`). A sampled token that is a
        candidate therefore gets no further credit from the teacher. A sampled token that is not a candidate does, so that the
        expectation covers the whole vocabulary.
        """
        credit_BT = self.outcome_credit(batch, options)
        if weight_BT is None:
            return credit_BT
        signal_BT = signal(batch)
        if batch.candidates_BTJ is not None:
            signal_BT = signal_BT.masked_fill((batch.candidates_BTJ == batch.ids_BT[..., None]).any(-1), 0)
        return credit_BT + weight_BT * signal_BT

    def outcome_credit(self, batch: ScoredBatch, options: AlgorithmOptions) -> Tensor:
        """Return the outcome's part of the credit. -> (B, T), 0 off the mask"""
        if self.outcome is None:
            return torch.zeros(batch.mask_BT.shape)
        return self.outcome(batch, options)[:, None].expand(batch.mask_BT.shape).masked_fill(~batch.mask_BT, 0)

    def teacher_weight(self, batch: ScoredBatch, options: AlgorithmOptions) -> Tensor | None:
        """Return coef * w, the factor of the teacher's signal. -> (B, T), 0 off the mask; None without a teacher"""
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
                f"The weighting rule returned a tensor of shape {tuple(w.shape)}; it must return (B, K) = "
                f"{tuple(d_BK.shape)} or (B, T) = {tuple(batch.mask_BT.shape)}."
            )
        return options.coef * w_BT.masked_fill(~batch.mask_BT, 0)


def signal(batch: ScoredBatch) -> Tensor:
    """Return log pi_teacher - log pi_student of every sampled token, in nats. -> (B, T), 0 off the mask"""
    return teacher_advantage(*batch.pair_BT, batch.mask_BT)


def step_info(batch: ScoredBatch, options: AlgorithmOptions) -> tuple[Tensor, StepInfo]:
    """Return the divergence of the steps, and the other inputs of a rule. -> (B, K), ..."""
    info = StepInfo(
        ids_BT=batch.steps_BT,
        signal_BT=signal(batch),
        teacher_entropy_BT=batch.teacher_entropy_BT,
        failed_BK=batch.failed_BK,
        advantage_B=grpo(batch, options),
        update=batch.update,
        epsilon=options.epsilon,
        delta=options.delta,
        decay=options.decay,
    )
    return step_divergence(*batch.pair_BT, batch.steps_BT, batch.span_share_BT), info


def give_credit(batch: ScoredBatch, options: AlgorithmOptions) -> CreditedBatch:
    """Return the batch with the credit of every sampled token, and the teacher's weights, which candidates need."""
    system = find(options.name)
    weight_BT = system.teacher_weight(batch, options)
    return batch.credited(system.credit(batch, weight_BT, options), weight_BT)


OUTCOMES: dict[str, OutcomeCredit] = {"grpo": grpo, "shuffled": shuffled}


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
    """Return True if a rule needs the teacher's entropy. Runs the rule on a few invented steps, without and with entropy."""
    d_BK, without = _invented_steps()
    try:
        rule(d_BK, without)
    except NoEntropyError:
        return True
    except Exception:  # a user's rule may raise anything for None
        try:
            rule(d_BK, replace(without, teacher_entropy_BT=torch.full(without.signal_BT.shape, 0.5)))
        except Exception:  # the entropy is not the cause; the first update will report the error
            return False
        return True
    return False


def _invented_steps() -> tuple[Tensor, StepInfo]:
    """Return two trajectories of three steps, with some failed calls and without entropies."""
    mask_BT = torch.tensor([[0, 1, 0, 1, 1, 0, 1], [0, 1, 1, 0, 1, 0, 1]]).bool()
    info = StepInfo(
        ids_BT=step_ids(mask_BT),
        signal_BT=torch.linspace(-2, 2, mask_BT.numel()).view(mask_BT.shape).masked_fill(~mask_BT, 0),
        teacher_entropy_BT=None,
        failed_BK=torch.tensor([[True, False, False], [False, True, False]]),
        advantage_B=torch.tensor([1.0, -1.0]),
    )
    return torch.tensor([[0.5, 2.0, 4.0], [0.1, 0.2, 0.05]]), info
