"""Options `--learn`: the optimiser and the loss, in training and in a cold start."""

from typing import Literal

from sod.config.base import Count, Decay, Options, Positive, PositiveReal, Rare, Real, ResumeMayChange, Share


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
