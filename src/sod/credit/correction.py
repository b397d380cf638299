"""Weigh the credit of sampled tokens by pi_old / pi_sampler: `learn.correction`."""

from dataclasses import replace

import torch

from sod.batching import CreditedBatch, pad
from sod.config import EngineOptions, LearnOptions
from sod.core import Correction, sampler_ratio, sampler_weights
from sod.engines import ENGINES

CAPS = {"none": 2.0, "truncated": 2.0, "masked": 2.0, "icepop": 5.0}
"""Default of learn.correction_cap."""


def correction_of(learn: LearnOptions, engine: EngineOptions) -> Correction:
    """Return the correction of learn.correction. auto corrects engines that sample with a copy of the weights."""
    if learn.correction != "auto":
        return learn.correction
    return "truncated" if ENGINES[engine.name].exchanges_weights else "none"


def with_correction(
    batch: CreditedBatch, learn: LearnOptions, engine: EngineOptions
) -> tuple[CreditedBatch, dict[str, float]]:
    """Return the batch with weighted credit, and metrics. Every loss is linear in the credit, so it is weighted as well.

    The divisor of the loss does not change: a masked token counts as one with a loss of 0, as in TRL. Candidates have expected
    values, so the level `token` weighs only the sampled token; `sequence` weighs the candidates of its tokens, too.
    """
    correction = correction_of(learn, engine)
    if correction == "none" or not batch.mask_BT.any():
        return batch, {}
    sampler_BT = pad([trajectory.sampler_logprobs for trajectory in batch.trajectories], torch.float32)
    cap = CAPS[correction] if learn.correction_cap is None else learn.correction_cap
    ratio_BT = sampler_ratio(batch.student_BT, sampler_BT, batch.mask_BT, learn.correction_level)
    weights_BT = sampler_weights(ratio_BT, correction, cap=cap, floor=learn.correction_floor)
    ratio_N, weights_N = ratio_BT[batch.mask_BT], weights_BT[batch.mask_BT]
    metrics = {
        "sampler/weight_mean": float(weights_N.mean()),
        "sampler/weight_max": float(ratio_N.max()),
        "sampler/weight_cut": float((weights_N != ratio_N).float().mean()),
        "sampler/effective_share": float(
            weights_N.sum() ** 2 / (len(weights_N) * weights_N.square().sum()).clamp(min=1e-12)
        ),
        "sampler/kl": float((sampler_BT - batch.student_BT)[batch.mask_BT].mean()),
    }
    of_candidates = batch.teacher_weight_BT
    if of_candidates is not None and batch.candidates_BTJ is not None and learn.correction_level == "sequence":
        of_candidates = of_candidates * weights_BT
    return replace(batch, credit_BT=batch.credit_BT * weights_BT, teacher_weight_BT=of_candidates), metrics
