"""The paper's method as tensor functions: tensors in, tensors out. Imports only torch.

Tensor names end in their dimensions:

    B  trajectories of a batch        K  steps of a trajectory, numbered from 1
    T  tokens of a trajectory         V  vocabulary
    N  tokens, end to end             D  width of the model
    M  sampled tokens among the N
    J  candidates: tokens that could have been sampled at a position

If a function takes a mask or step ids, values outside them may be anything, -inf and NaN included. Functions exclude these
values by selection, never by multiplication.
"""

from sod.core.advantages import (
    ADVANTAGES,
    centred_advantage,
    group_advantage,
    leave_one_out_advantage,
    teacher_advantage,
    verdict_advantage,
)
from sod.core.corrections import Correction, Level, sampler_ratio, sampler_weights
from sod.core.head import Head
from sod.core.logprobs import token_logprobs, token_loss, top_logprobs
from sod.core.losses import (
    PolicyLoss,
    TokenInputs,
    candidate_credit,
    cispo_loss,
    clipped_policy_loss,
    loss_divisor,
    masked_mean,
    reference_kl,
    sequence_log_ratio,
    sequence_policy_loss,
)
from sod.core.rules import CREDITS, INPUTS, RULES, MissingInputError, Rule, StepInfo, Weights, WholeCredit
from sod.core.steps import per_token, step_ids, step_mean
from sod.core.weights import decayed_weights, masked_weights, step_divergence, step_weights, steps_since_error

__all__ = [
    "ADVANTAGES",
    "CREDITS",
    "INPUTS",
    "RULES",
    "Correction",
    "Head",
    "Level",
    "MissingInputError",
    "PolicyLoss",
    "Rule",
    "StepInfo",
    "TokenInputs",
    "Weights",
    "WholeCredit",
    "candidate_credit",
    "centred_advantage",
    "cispo_loss",
    "clipped_policy_loss",
    "decayed_weights",
    "group_advantage",
    "leave_one_out_advantage",
    "loss_divisor",
    "masked_mean",
    "masked_weights",
    "per_token",
    "reference_kl",
    "sampler_ratio",
    "sampler_weights",
    "sequence_log_ratio",
    "sequence_policy_loss",
    "step_divergence",
    "step_ids",
    "step_mean",
    "step_weights",
    "steps_since_error",
    "teacher_advantage",
    "token_logprobs",
    "token_loss",
    "top_logprobs",
    "verdict_advantage",
]
