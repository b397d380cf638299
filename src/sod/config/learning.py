"""Options of the networks, their scores and the change of the weights."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator

from sod.config.base import (
    Count,
    Decay,
    Options,
    Positive,
    PositiveReal,
    Rare,
    ReadsFiles,
    Real,
    ResumeMayChange,
    Share,
    as_names,
)

TeacherNames = Annotated[tuple[str, ...], BeforeValidator(as_names)]


class OptimiserOptions(Options):
    """How the student's weights change."""

    lr: PositiveReal = 1e-6
    """Peak learning rate of AdamW."""
    warmup: Rare[Count] = 0
    """Number of optimiser steps over which the learning rate rises linearly from 0."""
    betas: Rare[tuple[Decay, Decay]] = (0.9, 0.999)
    """Decay rates of AdamW's first and second moment."""
    weight_decay: Rare[Real] = 0.01
    """Weight decay of AdamW."""
    clip_grad: Rare[PositiveReal] = 1.0
    """Largest gradient norm. A larger gradient is scaled down to it."""
    microbatch_tokens: Positive = 16384
    """Tokens per forward pass, packed end to end. Lower it to save memory; the result stays the same."""
    checkpointing: ResumeMayChange[bool] = False
    """Activation checkpointing: recompute activations in the backward pass. It needs a fraction of the memory and a third
    more time."""
    keep_attention: Rare[ResumeMayChange[bool]] = False
    """With learn.checkpointing: keep the outputs of attention, so that its kernel is not computed again. It needs the memory of
    one more activation per layer and token. Without learn.checkpointing they are kept anyway. Default: off."""
    optimizer: Rare[Literal["adamw", "adamw_8bit"]] = "adamw"
    """adamw_8bit: AdamW with 8-bit moments (bitsandbytes, extra `lean`), 2 instead of 8 bytes per weight."""
    reduce: Rare[ResumeMayChange[Literal["microbatch", "step"]]] = "microbatch"
    """With several processes: when gradients are added over the processes. microbatch: after every pass; each process keeps a
    shard of them. step: once per optimiser step, which sends less; each process keeps whole gradients, 4 bytes per weight."""
    lora_rank: Count = 0
    """Rank of the LoRA adapters on all linear layers (PEFT, extra `lean`). 0 trains all weights. Checkpoints always hold whole
    models."""
    lora_alpha: Rare[PositiveReal] = 32.0
    """LoRA alpha: adapter outputs are scaled by alpha / rank."""


class LearnOptions(OptimiserOptions):
    """How the student's weights change."""

    minibatches: Rare[Positive] = 4
    """Optimiser steps per update. All trajectories of a problem are in the same step."""
    clip_low: Rare[Share] = 0.2
    """The policy ratio is clipped at 1 - clip_low."""
    clip_high: Rare[Real] = 0.28
    """The policy ratio is clipped at 1 + clip_high."""
    loss: Rare[Literal["ppo", "gspo", "cispo"]] = "ppo"
    """Policy loss (docs/losses.md). ppo: the clipped ratio of each token, as in the paper. gspo: the clipped ratio of the whole
    trajectory; it needs clip_low and clip_high of about 0.0003. cispo: the clipped ratio is a weight, and every token keeps
    its gradient; it needs clip_low = 1 and a clip_high of 1 to 5."""
    aggregation: Rare[Literal["token_mean", "sequence_mean", "constant"]] = "token_mean"
    """How the losses of a minibatch's tokens become one number. token_mean: their mean, as in the paper (DAPO). sequence_mean:
    the mean over trajectories of each trajectory's mean (GRPO). constant: their sum / (trajectories x rollout.max_tokens)
    (Dr. GRPO)."""
    kl: Rare[Real] = 0.0
    """Coefficient of the divergence from the student's initial weights in the loss, in 1/nats (beta in TRL, kl_loss_coef in
    verl; estimator k3). 0 computes none. Above 0, the initial weights stay in memory, except with LoRA."""
    entropy: Rare[Real] = 0.0
    """Coefficient of the entropy bonus: the loss has minus this times the entropy of each sampled token's distribution, in
    nats. 0 adds none."""
    correction: Rare[Literal["auto", "none", "truncated", "masked", "icepop"]] = "auto"
    """Importance weight pi_old / pi_sampler of each sampled token, because an engine with a copy of the weights samples with
    slightly other probabilities (docs/losses.md). truncated: at most correction_cap. masked: 0 above correction_cap. icepop: 0
    above correction_cap and below correction_floor. auto: truncated with vLLM; none with hf, which samples the policy itself."""
    correction_level: Rare[Literal["token", "sequence"]] = "token"
    """token: the ratio of each token. sequence: the product over the trajectory, without bias and with a high variance."""
    correction_cap: Rare[PositiveReal | None] = None
    """Largest importance weight. Default: 2; icepop: 5."""
    correction_floor: Rare[Real] = 0.5
    """icepop only: smallest importance weight that is not set to 0."""


class SftLearnOptions(OptimiserOptions):
    """How the student's weights change."""

    lr: PositiveReal = 5e-5
    """Peak learning rate of AdamW."""


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


class OpsdOptions(Options):
    """On-policy self-distillation (opsd_gt, opsd_hint, opsd_feedback): the teacher is the student with more information in its
    prompt."""

    template: Rare[str | None] = None
    """Text that replaces the student's last message in the teacher's prompt. {question} is that message; {context} is the
    answer, the hint or the feedback. Default: a short built-in text with both."""
    decay: Rare[Decay | None] = None
    """The teacher is an exponential moving average of the student; at each update it keeps this share of its own weights.
    Default: the teacher keeps the student's initial weights."""


class ScoreOptions(Options):
    """How student and teacher score the sampled tokens."""

    student: Rare[Literal["recompute", "sampler"]] = "recompute"
    """How to obtain the student's old log-probabilities, which the policy ratio and the divergence are computed against.
    recompute: with a forward pass over every trajectory, as in the paper; results repeat bit for bit. sampler: from the
    engine; saves that pass and differs by rounding (checked on the longest trajectory of each group)."""
    teacher_dtype: Rare[Literal["same", "float32", "bfloat16"]] = "same"
    """Data type of the teacher's weights. same: network.dtype. bfloat16 halves the memory of a float32 teacher."""
    offload_teacher: Rare[ResumeMayChange[bool]] = False
    """Keep the weights of the teacher, and the initial weights for learn.kl, in CPU memory and copy them to the GPU only while
    they score."""
    shard_teacher: Rare[ResumeMayChange[bool]] = False
    """With several processes: shard the teacher's weights among them, if one GPU cannot hold the teacher. It then scores after
    all trajectories are sampled, instead of at the same time."""
    teacher_template: Rare[ReadsFiles[str | None]] = None
    """For a teacher with another tokenizer: chat template in place of the teacher's own. hermes: a template with tools, for a
    teacher without one. FILE.jinja: your own. Default: the teacher's own template."""
    span_signal: Rare[Literal["equal", "surprise"]] = "equal"
    """For a teacher with another tokenizer: how the signal of a span is shared among the student's tokens in it
    (docs/teachers.md). equal: the same share for each. surprise: in proportion to -log pi of the student."""
    probe_problems: Rare[ResumeMayChange[Count]] = 0
    """`sod train`: number of the problems that a teacher on this machine and the student solve once before training, to compare
    them. 0 skips this; 64 takes about as long as the sampling of 64 attempts with each model."""
    teacher_url: Rare[ResumeMayChange[str | None]] = None
    """Address of a server with the teacher (docs/teachers.md), such as http://127.0.0.1:8001. --teacher then names the
    teacher's tokenizer. If --teacher also has the weights, the server is verified against a forward pass. Default: load the
    teacher here."""
    teacher_urls: Rare[ResumeMayChange[TeacherNames]] = ()
    """Several teachers only: the servers of those that are not loaded here, each as KEY=URL with a KEY of --teachers, or as
    KEY=URL#NAME with the teacher's name on the server. Default: load all of them here."""
    teacher_served_name: Rare[ResumeMayChange[str | None]] = None
    """The teacher's name on its server. Default: the server's only model."""
    teacher_server: Rare[ResumeMayChange[Literal["auto", "vllm", "sglang", "llamacpp", "openai"]]] = "auto"
    """Kind of the teacher's server. openai: completions with echo and logprobs. auto: found by a request at the start."""
    teacher_top: Rare[Positive] = 100
    """A teacher on llama.cpp's server only: number of most likely tokens that it returns. A token outside them has only an upper
    bound (docs/teachers.md)."""
    teacher_patience: Rare[ResumeMayChange[PositiveReal]] = 600.0
    """Longest wait for a teacher's server that does not respond, in seconds. After it, the run stops with exit status 75."""


class ModelOptions(Options):
    """The networks of student and teacher."""

    dtype: Rare[Literal["auto", "fastest", "float32", "bfloat16"]] = "auto"
    """Data type of the weights and of the computation. The optimiser always uses float32. auto: bfloat16 on a GPU that computes
    in it, float32 on a CPU. fastest: bfloat16 also on a processor that computes in it (AVX512-BF16, AMX). The run stores the
    type and continues in it."""
    device: str = "auto"
    """Device of the models: cpu, cuda, cuda:1, ... auto uses an NVIDIA or AMD GPU if PyTorch finds one, otherwise the CPU. mps is
    not supported."""

    def for_teacher(self, score: ScoreOptions) -> "ModelOptions":
        """Return the options of the teacher's network: these, with score.teacher_dtype."""
        return self if score.teacher_dtype == "same" else self.model_copy(update={"dtype": score.teacher_dtype})
