"""Options `--algorithm`: the rule and its numbers."""

from pathlib import Path
from typing import Literal

from sod.config.base import Options, Positive, PositiveReal, Rare, ReadsFiles, Real, ResumeMayChange, Share


class AlgorithmOptions(Options):
    """How credit is assigned to each token."""

    name: ReadsFiles[str] = "sod"
    """sod: GRPO plus the step-weighted teacher. opd, also called sod_uniform: GRPO plus the unweighted teacher.
    opd_without_grpo: the unweighted teacher alone. grpo: the reward alone. opsd_gt, opsd_hint: the student's initial weights
    as the teacher, with the answer or a hint in its prompt. opsd_feedback: the same with the errors of the attempt and the
    judge's reason. sod_decay, sod_mask_after_error, sod_unclipped, sod_without_grpo:
    the paper's ablations. Rules for the weight of the teacher, combined with GRPO (docs/rules.md): gated, position,
    trust_region, sign_consistent, curriculum, entropy, drift_from_median, drift_with_floor, drift_before, per_error,
    entropy_in_trust_region, turn_opd, middle_dropped, iw_opd, prefix, progressive_prefix, prefix_teach, tv_opd, surprise,
    power_opd, tip, ida_opd, ier_opd, opdvr, ra_opd, fire_opd, per_prompt, atod, gats, tide. Rules that compute the whole
    credit: rlsd, step_opsd, sdar, agent_opsd, future_credit, aopd, eopd, scope, gc_opd; without a teacher: gigpo. Controls:
    sham (shuffled rewards, no teacher), random_weights, random_mask, random_steps, opsd_unrelated, suppress_unlikely (no
    teacher), opd_then_grpo. FILE.py:FUNCTION: your own rule, combined with GRPO."""
    coef: Real = 1.0
    """Factor of the teacher's term. 0 ignores the teacher."""
    advantage: Rare[Literal["grpo", "dr_grpo", "rloo", "verdict"]] = "grpo"
    """Advantage of a trajectory from the rewards of its group (docs/losses.md). grpo: (reward - mean) / standard deviation, as
    in the paper. dr_grpo: reward - mean. rloo: reward - mean of the others. verdict: (reward - mean) / standard deviation of
    the verdicts, or reward - mean where all verdicts are the same; corrections for calls and length are not enlarged there."""
    kl_in_reward: Rare[Real] = 0.0
    """Coefficient of the divergence from the student's initial weights in the reward: this times the sum over the trajectory
    of log pi - log pi_initial is subtracted before the advantage (use_kl_in_reward in verl; estimator k1). 0 computes none.
    Above 0, the initial weights stay in memory, except with LoRA."""
    divergence: Rare[Literal["sampled", "exact"]] = "sampled"
    """sampled: score only the sampled tokens, as in the paper. exact: score every candidate at each position, weighted by its
    probability; at a given weight the same in expectation, without sampling noise. Refused for rules whose weight of a token
    depends on that token's signal."""
    candidates: Rare[Positive] = 64
    """Exact divergence only: number of the student's most likely tokens that are scored at each position."""
    epsilon: Rare[PositiveReal] = 1e-6
    """Constant added to every divergence in Eq. 7, in nats."""
    delta: Rare[Real] = 0.2
    """Largest step weight, minus 1: weights are at most 1 + delta."""
    teacher_rates: Rare[ResumeMayChange[Path | None]] = None
    """Finished run of `sod eval` on --data with the teacher: its solve rate of every problem, which gats and per_prompt read.
    Default: no rates."""
    decay: Rare[Share] = 0.9
    """sod_decay only: each step after the first tool error has this fraction of the previous step's weight."""
