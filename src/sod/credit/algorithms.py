"""Compute the credit of every sampled token of a batch. The trainer is independent of the algorithm.

A system has two parts: the credit from the outcome (`outcome`), and the weights of a rule (`rule`, one of
`sod.core.RULES`). Its credit is their sum, 0 off the mask, where v is 1 for most rules:

    credit_BT = v_BT * outcome_BT + coef * w_BT * (log pi_teacher - log pi_student)

Or one function computes the whole credit (`whole`, one of `sod.core.CREDITS`).
The systems stand in `sod.credit.systems`, one line each; a rule of your own needs no line, see `find`.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sod.batching import CreditedBatch, ScoredBatch
from sod.config import AlgorithmOptions
from sod.config.plugins import load
from sod.core import (
    ADVANTAGES,
    CREDITS,
    INPUTS,
    RULES,
    MissingInputError,
    Rule,
    StepInfo,
    Weights,
    WholeCredit,
    per_token,
    step_divergence,
    step_ids,
    teacher_advantage,
)
from sod.credit.systems import SYSTEMS, Context, traits
from sod.errors import OptionError

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
class TokenWeights:
    """The weights of both parts of a credit, per token."""

    teacher_BT: Tensor
    """coef * w, the factor of the teacher's signal; 0 off the mask."""
    outcome_BT: Tensor
    """Factor of the outcome."""
    state: Mapping[str, float]
    """The rule's numbers for the next update."""


@dataclass(frozen=True, slots=True)
class System:
    """The sources of a token's credit. A part that is None gives no credit."""

    outcome: OutcomeCredit | None
    rule: Rule | None
    context: Context | None = None
    """OPSD: the teacher is the student itself, with this information in its prompt. None: another model."""
    whole: WholeCredit | None = None
    """Computes the whole credit, in place of outcome and rule."""
    reads_signal: bool = True
    """Only `whole` can do without a teacher."""

    def __call__(self, batch: ScoredBatch, options: AlgorithmOptions) -> Tensor:
        """Return the credit of every sampled token. -> (B, T), 0 off the mask"""
        return self.give(batch, options).credit_BT

    def give(self, batch: ScoredBatch, options: AlgorithmOptions) -> CreditedBatch:
        """Return the batch with the credit of every sampled token, and the teacher's weights, which candidates need.

        Candidates get their own credit, independent of the sampled token (`core.candidate_credit`). A sampled token that is a
        candidate therefore gets no further credit from the teacher. A sampled token that is not a candidate does, so that the
        expectation covers the whole vocabulary.
        """
        if self.whole is not None:
            return batch.credited(self._whole_credit(self.whole, batch, options))
        outcome_BT, parts = self.outcome_credit(batch, options), self.parts(batch, options)
        if parts is None:
            return batch.credited(outcome_BT)
        signal_BT = signal(batch)
        if batch.candidates_BTJ is not None:
            signal_BT = signal_BT.masked_fill((batch.candidates_BTJ == batch.ids_BT[..., None]).any(-1), 0)
        credit_BT = parts.outcome_BT * outcome_BT + parts.teacher_BT * signal_BT
        return replace(batch.credited(credit_BT, parts.teacher_BT), state=parts.state)

    def outcome_credit(self, batch: ScoredBatch, options: AlgorithmOptions) -> Tensor:
        """Return the outcome's part of the credit, before its weight. -> (B, T), 0 off the mask"""
        if self.outcome is None:
            return torch.zeros(batch.mask_BT.shape)
        return self.outcome(batch, options)[:, None].expand(batch.mask_BT.shape).masked_fill(~batch.mask_BT, 0)

    def teacher_weight(self, batch: ScoredBatch, options: AlgorithmOptions) -> Tensor | None:
        """Return coef * w, the factor of the teacher's signal. -> (B, T), 0 off the mask; None without a rule"""
        parts = self.parts(batch, options)
        return None if parts is None else parts.teacher_BT

    def parts(self, batch: ScoredBatch, options: AlgorithmOptions) -> TokenWeights | None:
        """Return the weights of both parts of the credit; None without a rule."""
        if self.rule is None:
            return None
        assert batch.teacher_BT is not None, "no teacher has scored this batch"
        d_BK, info = step_info(batch, options)
        weights = Weights.of(_run(options, self.rule, d_BK, info))
        state = batch.state if weights.state is None else {name: float(each) for name, each in weights.state.items()}
        if not all(map(math.isfinite, state.values())):
            raise OptionError(f"The weighting rule returned a state with a number that is not finite: {dict(state)}.")
        return TokenWeights(
            teacher_BT=options.coef * _by_token(weights.teacher, d_BK, batch).masked_fill(~batch.mask_BT, 0),
            outcome_BT=_by_token(weights.outcome, d_BK, batch),
            state=state,
        )

    def _whole_credit(self, whole: WholeCredit, batch: ScoredBatch, options: AlgorithmOptions) -> Tensor:
        assert batch.teacher_BT is not None or not self.reads_signal, "no teacher has scored this batch"
        credit = _run(options, whole, step_info(batch, options)[1])
        if not isinstance(credit, Tensor) or credit.shape != batch.mask_BT.shape:
            shape = tuple(credit.shape) if isinstance(credit, Tensor) else type(credit).__name__
            raise OptionError(
                f"A rule with one argument computes the whole credit. It returned {shape}; it must return a tensor of shape "
                f"(B, T) = {tuple(batch.mask_BT.shape)}."
            )
        credit_BT = credit.detach().masked_fill(~batch.mask_BT, 0)
        if batch.span_share_BT is None or not self.reads_signal:
            return credit_BT
        # A teacher with another tokenizer has scored no token outside its spans. Such a token has the outcome's credit alone.
        return credit_BT.where(batch.span_share_BT > 0, self.outcome_credit(batch, options))


def _run(options: AlgorithmOptions, function: Callable[..., Any], *inputs: Any) -> Any:
    """Call a rule. Raise OptionError if it reads an input that is missing."""
    try:
        return function(*inputs)
    except MissingInputError as error:
        raise OptionError(f"algorithm.name {options.name!r}: {error}") from error


def _by_token(weight: Tensor | float, d_BK: Tensor, batch: ScoredBatch) -> Tensor:
    """Return a weight of each token, from one number, or one for each step or token. -> (B, T)"""
    if not isinstance(weight, Tensor):
        return torch.full(batch.mask_BT.shape, float(weight))
    w = weight.detach()
    w_BT = per_token(w, batch.steps_BT) if w.shape == d_BK.shape else w
    if w_BT.shape != batch.mask_BT.shape:
        raise OptionError(
            f"The weighting rule returned a tensor of shape {tuple(w.shape)}; it must return (B, K) = "
            f"{tuple(d_BK.shape)} or (B, T) = {tuple(batch.mask_BT.shape)}."
        )
    return w_BT


def signal(batch: ScoredBatch) -> Tensor:
    """Return log pi_teacher - log pi_student of every sampled token, in nats. -> (B, T), 0 off the mask"""
    return teacher_advantage(*batch.pair_BT, batch.mask_BT)


def step_info(batch: ScoredBatch, options: AlgorithmOptions) -> tuple[Tensor, StepInfo]:
    """Return the divergence of the steps, and the other inputs of a rule. -> (B, K), ...

    Without a teacher, signal and divergence are 0.
    """
    pair = (batch.student_BT, batch.student_BT) if batch.teacher_BT is None else batch.pair_BT
    info = StepInfo(
        ids_BT=batch.steps_BT,
        signal_BT=teacher_advantage(*pair, batch.mask_BT),
        teacher_entropy_BT=batch.teacher_entropy_BT,
        failed_BK=batch.failed_BK,
        advantage_B=grpo(batch, options),
        update=batch.update,
        epsilon=options.epsilon,
        delta=options.delta,
        decay=options.decay,
        coef=options.coef,
        student_BT=batch.student_BT,
        teacher_BT=batch.teacher_BT,
        student_entropy_BT=batch.student_entropy_BT,
        right_B=batch.right_B if all(t.verdict is not None for t in batch.trajectories) else None,
        reward_B=batch.rewards_B,
        group_B=batch.groups_B,
        student_rate_B=batch.student_rates_B,
        teacher_rate_B=batch.teacher_rates_B,
        progress=batch.progress,
        anchors_BK=batch.anchors_BK,
        state=batch.state,
        seed=int(batch.ids_BT.sum()),
    )
    return step_divergence(*pair, batch.steps_BT, batch.span_share_BT), info


def give_credit(batch: ScoredBatch, options: AlgorithmOptions) -> CreditedBatch:
    """Return the batch with the credit of every sampled token, by the system in the options."""
    return find(options.name).give(batch, options)


OUTCOMES: dict[str, OutcomeCredit] = {"grpo": grpo, "shuffled": shuffled}


def find(name: str) -> System:
    """Return the system of that name; for `FILE.py:FUNCTION`, the rule that the file defines, beside GRPO.

    Raises OptionError that names the nearest system.
    """
    made_of = traits(name)
    outcome = None if made_of.outcome is None else OUTCOMES[made_of.outcome]
    if made_of.rule is None:
        return System(outcome, None, made_of.context)
    if made_of.whole:
        return System(outcome, None, whole=CREDITS[made_of.rule], reads_signal=made_of.signal)
    if made_of.rule in RULES:
        return System(outcome, RULES[made_of.rule], made_of.context)
    return own_system(load(made_of.rule, option="algorithm.name"))


def own_system(function: Callable[..., Any]) -> System:
    """Return GRPO with a user's rule. A function with one argument computes the whole credit, in place of the sum."""
    try:
        given = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a built-in function
        return System(grpo, function)
    needed = [each for each in given if each.default is each.empty and each.kind in _BY_PLACE]
    return System(grpo, None, whole=function) if len(needed) == 1 else System(grpo, function)


_BY_PLACE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

ALGORITHMS = {name: find(name) for name in SYSTEMS}
"""Every system of `sod.credit.systems`, ready to compute."""


# What a rule reads


def inputs_of(name: str) -> frozenset[str]:
    """Return the inputs that a system reads (`sod.core.INPUTS`). A user's own rule is tried."""
    made_of = traits(name)
    return inputs_read(find(name)) if made_of.is_own else made_of.reads


def inputs_read(system: System) -> frozenset[str]:
    """Return the inputs that a rule reads. It is run on a few invented steps, each time without one input."""
    d_BK, full = _invented_steps()

    def fails(info: StepInfo) -> bool:
        try:
            _ = None if system.rule is None else system.rule(d_BK, info)
            _ = None if system.whole is None else system.whole(info)
        except Exception:  # a user's rule may raise anything
            return True
        return False

    if fails(full):  # no input is the cause; the first update will report the error
        return frozenset()
    return frozenset(name for name, each in INPUTS.items() if fails(replace(full, **{each.field: None})))


def keeps_state(system: System) -> bool:
    """Return whether a rule keeps numbers from update to update (`sod.core.Weights.state`). It is run on invented steps."""
    try:
        found = None if system.rule is None else system.rule(*_invented_steps())
    except Exception:  # a user's rule may raise anything; the first update will report it
        return False
    return isinstance(found, Weights) and found.state is not None


def _invented_steps() -> tuple[Tensor, StepInfo]:
    """Return two trajectories of three steps, with some failed calls."""
    mask_BT = torch.tensor([[0, 1, 0, 1, 1, 0, 1], [0, 1, 1, 0, 1, 0, 1]]).bool()
    signal_BT = torch.linspace(-2, 2, mask_BT.numel()).view(mask_BT.shape).masked_fill(~mask_BT, 0)
    info = StepInfo(
        ids_BT=step_ids(mask_BT),
        signal_BT=signal_BT,
        teacher_entropy_BT=torch.full(mask_BT.shape, 0.5),
        failed_BK=torch.tensor([[True, False, False], [False, True, False]]),
        advantage_B=torch.tensor([1.0, -1.0]),
        student_BT=torch.full(mask_BT.shape, -3.0),
        teacher_BT=signal_BT - 3,
        student_entropy_BT=torch.full(mask_BT.shape, 0.4),
        right_B=torch.tensor([True, False]),
        reward_B=torch.tensor([1.0, -1.0]),
        group_B=torch.tensor([0, 0]),
        student_rate_B=torch.tensor([0.5, float("nan")]),
        teacher_rate_B=torch.tensor([1.0, 0.5]),
        progress=0.25,
        anchors_BK=torch.tensor([[0, 3, 4], [0, 3, 5]]),
    )
    return torch.tensor([[0.5, 2.0, 4.0], [0.1, 0.2, 0.05]]), info
