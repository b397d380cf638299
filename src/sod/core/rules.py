"""Weighting rules: the weight of the teacher's signal on each step or token. Each rule is one function.

    rule(d_BK, info) -> w_BK, a weight for every step, or w_BT, a weight for every token

`d_BK` is the divergence of each step; `StepInfo` holds the other inputs. A rule reads numbers, never a model, and carries no
gradient. Weights of steps or tokens that do not exist are ignored. The teacher's credit of a token is
coef * w * (log pi_teacher - log pi_student).

The first five rules are the paper's. The next come from other papers, as step or token weights combined with GRPO. Parts of
these papers that are not weights (other divergences, turns written by the teacher) are left out. The last rules are this
project's own, based on measurements in its lab: divergence shows that two models disagree, while the teacher's entropy shows
whether the teacher is certain.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sod.core.steps import per_token, step_mean
from sod.core.weights import decayed_weights, masked_weights, step_weights, steps_since_error


class NoEntropyError(ValueError):
    """A rule reads the teacher's entropy, and the teacher returns none."""


@dataclass(frozen=True, slots=True)
class StepInfo:
    """Inputs of a rule in addition to the divergence of the steps."""

    ids_BT: Tensor
    """Step number of each sampled token, from 1; 0 elsewhere."""
    signal_BT: Tensor
    """log pi_teacher - log pi_student, in nats; 0 off the mask."""
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

    @property
    def exists_BK(self) -> Tensor:
        """True where the row has this step."""
        return step_mean(torch.ones_like(self.signal_BT), self.ids_BT) > 0

    @property
    def entropy_BK(self) -> Tensor:
        """The teacher's mean entropy over each step. Raises NoEntropyError if the teacher returns none."""
        if self.teacher_entropy_BT is None:
            raise NoEntropyError(
                "this weighting rule reads the teacher's entropy, but the teacher returns none (a remote teacher never does). "
                "Choose another rule, or a local teacher."
            )
        return step_mean(self.teacher_entropy_BT, self.ids_BT)


Rule = Callable[[Tensor, StepInfo], Tensor]


# From the paper


def uniform(d_BK: Tensor, info: StepInfo) -> Tensor:
    """Return 1 for every step: plain on-policy distillation."""
    del info
    return torch.ones_like(d_BK)


def drift(d_BK: Tensor, info: StepInfo) -> Tensor:
    """Return min((d_1 + epsilon) / (d_k + epsilon), 1 + delta): SOD (Eq. 7)."""
    return step_weights(d_BK, epsilon=info.epsilon, delta=info.delta)


def drift_unclipped(d_BK: Tensor, info: StepInfo) -> Tensor:
    """Return SOD's weights without the upper bound 1 + delta."""
    return step_weights(d_BK, epsilon=info.epsilon, delta=math.inf)


def decayed(d_BK: Tensor, info: StepInfo) -> Tensor:
    """Return decay^(k - k_err) after the first tool error; the divergence is not used."""
    del d_BK
    return decayed_weights(info.failed_BK, decay=info.decay)


def masked(d_BK: Tensor, info: StepInfo) -> Tensor:
    """Return 1 up to the first tool error, 0 after it."""
    del d_BK
    return masked_weights(info.failed_BK)


# From the literature


def gated(d_BK: Tensor, info: StepInfo, *, lowest: float = 0.0, highest: float = 1.0, steepness: float = 1.0) -> Tensor:
    """Return lowest + (highest - lowest) sigmoid(-steepness * A): the higher the advantage, the lower the weight.

    From the code published with the paper, where this function is unused. The paper gives no values for the constants.
    """
    gate_B = lowest + (highest - lowest) * torch.sigmoid(-steepness * info.advantage_B)
    return gate_B[:, None].expand_as(d_BK)


def position(d_BK: Tensor, info: StepInfo) -> Tensor:
    """Return 2 t / T for the t-th of T sampled tokens: later tokens weigh more (PW-OPSD, arXiv 2605.21606).

    The paper's weight increases along the response. The line from 0 to 2, with mean 1, is this project's choice.
    """
    del d_BK
    order_BT = (info.ids_BT > 0).cumsum(-1)
    return 2 * order_BT / order_BT[:, -1:].clamp(min=1)


def trust_region(d_BK: Tensor, info: StepInfo, *, nats: float = 2.0) -> Tensor:
    """Return min(1, nats / |signal|), which bounds a token's signal by `nats` (TrOPD's outliers, arXiv 2606.01249).

    The paper also derives its region from both models' decoding and guides with the teacher's prefixes. Both are left out.
    """
    del d_BK
    return (nats / info.signal_BT.abs().clamp(min=1e-9)).clamp(max=1)


def sign_consistent(d_BK: Tensor, info: StepInfo, *, agrees: float = 1.5, contradicts: float = 0.5) -> Tensor:
    """Return `agrees` where the teacher's signal and the outcome have the same sign, `contradicts` where they differ.

    SG-OPD's gate, arXiv 2606.09304; the two factors are this project's choice. 1 where all rewards of the group are equal.
    """
    del d_BK
    product_BT = info.signal_BT.sign() * info.advantage_B.sign()[:, None]
    return torch.where(product_BT > 0, agrees, torch.where(product_BT < 0, contradicts, 1.0))


def curriculum(d_BK: Tensor, info: StepInfo, *, updates_per_step: int = 5) -> Tensor:
    """Return 1 for the first 1 + update // updates_per_step steps, 0 after: short to long (TCOD, arXiv 2604.24005).

    The paper cuts rollouts at that depth. Here rollouts continue, because GRPO needs the outcome; only the teacher's signal
    stops.
    """
    step_K = torch.arange(1, d_BK.shape[1] + 1, device=d_BK.device)
    return (step_K <= 1 + info.update // updates_per_step).to(d_BK.dtype).expand_as(d_BK)


# From this project


def entropy(d_BK: Tensor, info: StepInfo, *, nats: float = 0.2) -> Tensor:
    """Return exp(-H_k / nats), where H_k is the teacher's mean entropy over the step: a certain teacher weighs more."""
    del d_BK
    return torch.exp(-info.entropy_BK / nats)


def drift_from_median(d_BK: Tensor, info: StepInfo) -> Tensor:
    """Return min(m / d_k, 1 + delta), where m, the batch's median divergence over error-free steps, replaces d_1.

    Error-free steps are those up to the first tool error. An easy first step then no longer removes the teacher's signal
    from the rest of its trajectory.
    """
    clean_BK = info.exists_BK & (steps_since_error(info.failed_BK) == 0)
    reference = d_BK[clean_BK].median() if clean_BK.any() else d_BK.new_tensor(1.0)
    return ((reference + info.epsilon) / (d_BK + info.epsilon)).clamp(max=1 + info.delta)


def drift_with_floor(d_BK: Tensor, info: StepInfo, *, nats: float = 0.1) -> Tensor:
    """Return SOD's weights with d_1 at least `nats`, so that an easy first step does not suppress all later ones."""
    return drift(torch.cat([d_BK[:, :1].clamp(min=nats), d_BK[:, 1:]], dim=1), info)


def per_error(d_BK: Tensor, info: StepInfo, *, kept: float = 0.4) -> Tensor:
    """Return kept^(number of earlier steps with a failed tool call).

    In the lab, each error lowers the rate at which the teacher itself solves the problem from there by about 60 %
    (`sod calibrate`).
    """
    failed_BK = info.failed_BK.to(d_BK.dtype)
    return kept ** (failed_BK.cumsum(-1) - failed_BK)


def entropy_in_trust_region(d_BK: Tensor, info: StepInfo) -> Tensor:
    """Return the product of the step weights of `entropy` and the token weights of `trust_region`."""
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
