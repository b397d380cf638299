"""Options `--rollout`: how trajectories are sampled, in training and in an evaluation."""

from typing import Annotated, Literal

from pydantic import Field

from sod.config.base import Count, Options, Positive, PositiveReal, PositiveShare, Rare, ResumeMayChange, Share


class SamplingOptions(Options):
    """How the student's trajectories are sampled."""

    temperature: PositiveReal = 1.0
    """Sampling temperature. The teacher's log-probabilities are computed at the same temperature."""
    top_p: Rare[PositiveShare] = 1.0
    """Nucleus sampling: sample from the most likely tokens that together have this probability. 1 keeps all tokens."""
    max_turns: Positive = 16
    """Largest number of turns with a tool call. One turn more ends the trajectory."""
    max_turn_tokens: Rare[Positive | None] = None
    """Longest turn, in tokens. Default: as many as rollout.max_tokens leaves."""
    max_prompt_tokens: Positive = 2560
    """Longest prompt, in tokens. A longer prompt is an error that names the problem."""
    max_tokens: Positive = 20480
    """Longest response, in tokens, tool outputs included."""
    max_repeats: Rare[Annotated[int, Field(ge=2)]] = 4
    """Number of identical turns in a row that ends a trajectory."""
    seconds: Rare[ResumeMayChange[PositiveReal]] = 1800.0
    """Wall-clock limit of one trajectory, in seconds. A trajectory over the limit is dropped and counted."""
    concurrency: Rare[ResumeMayChange[Positive]] = 64
    """Number of trajectories sampled at the same time."""
    retries: Rare[ResumeMayChange[Count]] = 2
    """Number of retries after the infrastructure fails during a trajectory. After the last one the trajectory is dropped."""


class GuidedOptions(Options):
    """Turns that the teacher writes into the student's trajectories (Guided-OPD). They are context and never trained on."""

    probability: Share = 0.0
    """Probability that the teacher writes a turn in place of the student, in the first update. The first turn and the answer are
    always the student's. Needs a teacher on this machine with the student's tokenizer. 0: the student writes every turn."""
    until: PositiveShare = 0.5
    """Share of the updates after which the student writes every turn. The probability falls linearly until then."""

    def at(self, progress: float) -> float:
        """Return the probability when this share of the updates is done."""
        return self.probability * max(0.0, 1 - progress / self.until)


class RolloutOptions(SamplingOptions):
    """How the student's trajectories are sampled."""

    problems: Positive = 64
    """Problems per update."""
    group: Positive = 16
    """Trajectories per problem. GRPO compares the trajectories of one problem with each other."""
    resample: Rare[Annotated[float, Field(ge=1)]] = 1.0
    """Dynamic sampling (DAPO): replace problems whose attempts all have the same verdict by further problems, until an update has
    sampled this factor times rollout.problems. If that is not enough, such problems fill the update. Default: 1, no further
    problems."""
    ahead: Rare[Literal[0, 1]] = 0
    """Number of batches that are sampled ahead. 1: the next batch is sampled while this one is learnt, with weights that are one
    update older; learn.correction weighs its tokens. Needs vLLM, best on another GPU. 0: every batch is sampled with the weights
    that learn from it, as in the paper."""
    update_seconds: Rare[ResumeMayChange[PositiveReal | None]] = None
    """Wall-clock limit of the sampling of one update, in seconds. Unfinished trajectories are dropped and counted. Default: no
    limit."""
    guided: Rare[GuidedOptions] = GuidedOptions()


class EvalRolloutOptions(SamplingOptions):
    """How the student's trajectories are sampled."""

    top_p: PositiveShare = 0.6
    """Nucleus sampling: sample from the most likely tokens that together have this probability. 1 keeps all tokens."""
