"""Weighting rules: how much of the teacher's signal a step, or a token, is given. Each is one function.

    rule(d_BK, info) -> w_BK, a weight for every step, or w_BT, one for every token

`d_BK` is the steps' divergence; `StepInfo` has whatever else is known. A rule sees numbers, never a model, and gives no
gradient. Weights of steps or tokens that do not exist mean nothing. The teacher's credit of a token is then
coef * w * (log pi_teacher - log pi_student).

The first five are the paper's. The next come from the literature, as step- or token-wise weights beside GRPO; where a paper
does more than weigh (other divergences, teacher-written turns), that part is left out. The last are this project's own,
from what its lab measured: divergence says that two models disagree, the teacher's entropy whether it knows.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sod.core.steps import per_token, step_mean
from sod.core.weights import decayed_weights, masked_weights, step_weights, steps_since_error


class NoEntropyError(ValueError):
    """A rule asked for the entropy of a teacher that tells none."""


@dataclass(frozen=True, slots=True)
class StepInfo:
    """What a rule may know of a batch beside the divergence of its steps."""

    ids_BT: Tensor
    """Step number of each sampled token, from 1; 0 elsewhere."""
    signal_BT: Tensor
    """log pi_teacher - log pi_student, in nats; 0 off the mask."""
    teacher_entropy_BT: Tensor | None
    """Entropy of the teacher's distribution at each sampled token, in nats; 0 off the mask. None: the teacher tells none."""
    failed_BK: Tensor
    """Whether the tool calls that ended a step came back with an error."""
    advantage_B: Tensor
    """GRPO's: how much better a trajectory did than its group."""
    update: int = 0
    """Updates that the run has behind it."""
    epsilon: float = 1e-6
    """Of Eq. 7, in nats."""
    delta: float = 0.2
    """Of Eq. 7: headroom above 1."""
    decay: float = 0.9
    """Of the paper's fixed schedule."""

    @property
    def exists_BK(self) -> Tensor:
        """Whether a row has the step at all."""
        return step_mean(torch.ones_like(self.signal_BT), self.ids_BT) > 0

    @property
    def entropy_BK(self) -> Tensor:
        """The teacher's mean entropy over each step. Raises NoEntropyError where it tells none."""
        if self.teacher_entropy_BT is None:
            raise NoEntropyError(
                "The teacher tells no entropy, as one on a server does not, and this weighting rule reads it."
            )
        return step_mean(self.teacher_entropy_BT, self.ids_BT)


Rule = Callable[[Tensor, StepInfo], Tensor]


# The paper's


def uniform(d_BK: Tensor, info: StepInfo) -> Tensor:
    """1: plain on-policy distillation."""
    del info
    return torch.ones_like(d_BK)


def drift(d_BK: Tensor, info: StepInfo) -> Tensor:
    """min((d_1 + epsilon) / (d_k + epsilon), 1 + delta): SOD (Eq. 7)."""
    return step_weights(d_BK, epsilon=info.epsilon, delta=info.delta)


def drift_unclipped(d_BK: Tensor, info: StepInfo) -> Tensor:
    """SOD without the headroom: a step that agrees better than the first counts for as much more."""
    return step_weights(d_BK, epsilon=info.epsilon, delta=math.inf)


def decayed(d_BK: Tensor, info: StepInfo) -> Tensor:
    """decay^(k - k_err) after the first tool error, whatever the divergence."""
    del d_BK
    return decayed_weights(info.failed_BK, decay=info.decay)


def masked(d_BK: Tensor, info: StepInfo) -> Tensor:
    """1 up to the first tool error, 0 after it."""
    del d_BK
    return masked_weights(info.failed_BK)


# From the literature


def gated(d_BK: Tensor, info: StepInfo, *, lowest: float = 0.0, highest: float = 1.0, steepness: float = 1.0) -> Tensor:
    """lowest + (highest - lowest) sigmoid(-steepness * A): less teacher the better the trajectory did than its group.

    In the code that came with the paper, where nothing calls it; the constants are free.
    """
    gate_B = lowest + (highest - lowest) * torch.sigmoid(-steepness * info.advantage_B)
    return gate_B[:, None].expand_as(d_BK)


def position(d_BK: Tensor, info: StepInfo) -> Tensor:
    """2 t / T for the t-th of T sampled tokens: the later, the more reliable (PW-OPSD, arXiv 2605.21606).

    The paper's weight increases along the response; the line from 0 to 2, whose mean is 1, is this project's choice.
    """
    del d_BK
    order_BT = (info.ids_BT > 0).cumsum(-1)
    return 2 * order_BT / order_BT[:, -1:].clamp(min=1)


def trust_region(d_BK: Tensor, info: StepInfo, *, nats: float = 2.0) -> Tensor:
    """min(1, nats / |signal|): a token's signal never exceeds `nats` (TrOPD's clipped outliers, arXiv 2606.01249).

    The paper finds its region from what both models would decode, and guides with the teacher's own prefixes; left out.
    """
    del d_BK
    return (nats / info.signal_BT.abs().clamp(min=1e-9)).clamp(max=1)


def sign_consistent(d_BK: Tensor, info: StepInfo, *, agrees: float = 1.5, contradicts: float = 0.5) -> Tensor:
    """More where the teacher's wish for a token and the outcome point the same way, less where they do not.

    SG-OPD's gate, arXiv 2606.09304; the two factors are this project's choice. 1 where the group has one reward.
    """
    del d_BK
    product_BT = info.signal_BT.sign() * info.advantage_B.sign()[:, None]
    return torch.where(product_BT > 0, agrees, torch.where(product_BT < 0, contradicts, 1.0))


def curriculum(d_BK: Tensor, info: StepInfo, *, updates_per_step: int = 5) -> Tensor:
    """1 for the first 1 + update // updates_per_step steps, 0 after: from short to long (TCOD, arXiv 2604.24005).

    The paper cuts rollouts at that depth; here they go on, for GRPO, and the teacher speaks no further.
    """
    step_K = torch.arange(1, d_BK.shape[1] + 1, device=d_BK.device)
    return (step_K <= 1 + info.update // updates_per_step).to(d_BK.dtype).expand_as(d_BK)


# This project's


def entropy(d_BK: Tensor, info: StepInfo, *, nats: float = 0.2) -> Tensor:
    """exp(-H_k / nats), H_k the teacher's mean entropy over the step: trust it where it is sure of itself."""
    del d_BK
    return torch.exp(-info.entropy_BK / nats)


def drift_from_median(d_BK: Tensor, info: StepInfo) -> Tensor:
    """min(m / d_k, 1 + delta), m the batch's median divergence over steps before any error, in place of d_1.

    One easy first step no longer switches the rest of its trajectory off.
    """
    clean_BK = info.exists_BK & (steps_since_error(info.failed_BK) == 0)
    reference = d_BK[clean_BK].median() if clean_BK.any() else d_BK.new_tensor(1.0)
    return ((reference + info.epsilon) / (d_BK + info.epsilon)).clamp(max=1 + info.delta)


def drift_with_floor(d_BK: Tensor, info: StepInfo, *, nats: float = 0.1) -> Tensor:
    """SOD with d_1 no smaller than `nats`: an easy first step does not make a stranger of every later one."""
    return drift(torch.cat([d_BK[:, :1].clamp(min=nats), d_BK[:, 1:]], dim=1), info)


def per_error(d_BK: Tensor, info: StepInfo, *, kept: float = 0.4) -> Tensor:
    """kept^(steps so far whose tool call failed). In the lab, each error takes away some 60 % of how often the teacher itself
    solves the problem from there (`sod calibrate`)."""
    failed_BK = info.failed_BK.to(d_BK.dtype)
    return kept ** (failed_BK.cumsum(-1) - failed_BK)


def entropy_in_trust_region(d_BK: Tensor, info: StepInfo) -> Tensor:
    """Steps by the teacher's entropy, tokens within a trust region: the two combined."""
    return per_token(entropy(d_BK, info), info.ids_BT) * trust_region(d_BK, info)


RULES: dict[str, Rule] = {
    "uniform": uniform,
    "drift": drift,
    "drift_unclipped": drift_unclipped,
    "decayed": decayed,
    "masked": masked,
    "gated": gated,
    "position": position,
    "trust_region": trust_region,
    "sign_consistent": sign_consistent,
    "curriculum": curriculum,
    "entropy": entropy,
    "drift_from_median": drift_from_median,
    "drift_with_floor": drift_with_floor,
    "per_error": per_error,
    "entropy_in_trust_region": entropy_in_trust_region,
}
