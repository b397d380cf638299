"""The interface of a teacher, which scores the student's tokens."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sod.batching import Batch, ScoredBatch
from sod.chat.format import ChatFormat, Schema
from sod.config import (
    AlgorithmOptions,
    EngineOptions,
    EvalOptions,
    ModelOptions,
    SamplingOptions,
    ScoreOptions,
    TrainOptions,
)
from sod.engines import Engine
from sod.processes.concurrency import Runner
from sod.types import Problem


class Scores(NamedTuple):
    """A teacher's scores of a batch: in nats, at the rollout's temperature, 0 off the mask."""

    logprobs_BT: Tensor
    """log pi_teacher of each sampled token."""
    entropy_BT: Tensor | None
    """Entropy of the teacher's distribution at each sampled token; None if the teacher returns none."""
    candidates_BTJ: Tensor | None = None
    """log pi_teacher of each candidate, if the batch has any."""

    def add_to(self, batch: ScoredBatch) -> ScoredBatch:
        """Return the batch with these scores."""
        return replace(
            batch,
            teacher_BT=self.logprobs_BT,
            teacher_entropy_BT=self.entropy_BT,
            candidate_teacher_BTJ=self.candidates_BTJ,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSetup:
    """The inputs of every kind of teacher."""

    folder: Path
    """Directory of the teacher: weights and tokenizer, or the tokenizer of a remote teacher."""
    tokenizer: PreTrainedTokenizerBase
    """The student's."""
    network: ModelOptions
    score: ScoreOptions
    rollout: SamplingOptions
    microbatch_tokens: int
    """Largest number of tokens in a forward pass."""
    chat: ChatFormat | None = None
    """The student's chat format, which a teacher with another tokenizer needs."""
    tools: Sequence[Schema] = ()
    """The schemas of the student's tools."""
    thinking: bool | None = None
    """Value of `chat.thinking`, for the teacher's template as well."""

    @classmethod
    def of(
        cls, folder: Path, options: TrainOptions | EvalOptions, chat: ChatFormat, tools: Sequence[Schema]
    ) -> "TeacherSetup":
        """Return the inputs of a teacher in a run or an evaluation. `chat`, `tools`: the student's."""
        passes = options.learn if isinstance(options, TrainOptions) else options
        return cls(
            folder=folder,
            tokenizer=chat.tokenizer,
            network=options.network,
            score=options.score,
            rollout=options.rollout,
            microbatch_tokens=passes.microbatch_tokens,
            chat=chat,
            tools=tools,
            thinking=options.chat.thinking,
        )


class Teacher(ABC):
    """A model that scores the student's tokens.

    A training run calls `check` once, then for each update: `scored` for every group, `confirm`, `finish`, and `follow`. A
    checkpoint calls `save`, and a resumed run `restore`. Only `score` and `take_busy_seconds` are required; the others do nothing
    here.
    """

    scores_candidates = True
    """Whether it scores candidates, tokens that were not sampled."""
    scores_tokens = True
    """Whether it has a log-probability of each of the student's tokens. False: of spans, whose signal the tokens share, or upper
    bounds for the less likely tokens."""

    chat: ChatFormat | None = None
    """The teacher's own chat format; None if it reads the student's."""
    writes_turns = False
    """Whether `sampled` can open an engine that samples it."""
    has_spans = False
    """Whether it scores spans of text (`ScoredBatch.span_share_BT`)."""
    has_bounds = False
    """Whether some of its log-probabilities are upper bounds (`ScoredBatch.outside_BT`)."""

    @abstractmethod
    async def score(self, batch: Batch) -> Scores:
        """Score a batch with `sod.processes.concurrency.compute` or on a server. Several batches may be scored at once."""

    @abstractmethod
    def take_busy_seconds(self) -> float:
        """Return the seconds of scoring since the last call."""

    def sampled(
        self, loop: Runner, rollout: SamplingOptions, options: EngineOptions | None = None
    ) -> AbstractContextManager[Engine]:
        """Open an engine that samples this teacher, if `writes_turns`. `options`: of an engine for a teacher here."""
        raise NotImplementedError(f"a {type(self).__name__} writes no turns")

    def take_costs(self) -> dict[str, float]:
        """Return the tokens and requests of a teacher on a server since the last call, as metrics of this process."""
        return {}

    async def confirm(self) -> None:
        """Raise ModelError if this is no longer the teacher that was opened. Called after an update's groups are scored."""

    async def scored(self, batch: ScoredBatch) -> ScoredBatch:
        """Return a group's batch with this teacher's scores, or without them if `finish` adds them."""
        return (await self.score(batch)).add_to(batch)

    def finish(self, batches: Sequence[ScoredBatch]) -> list[ScoredBatch]:
        """Return the update's batches with all scores, after all groups have been sampled. Every process calls it once."""
        return list(batches)

    def check(self, problems: Sequence[Problem]) -> None:
        """Raise DataError if a problem lacks something that this teacher requires."""

    def metrics(self, batch: ScoredBatch, options: AlgorithmOptions) -> dict[str, float]:
        """Return metrics of an update that only this kind of teacher has."""
        del batch, options
        return {}

    def follow(self, student: PreTrainedModel) -> None:
        """Update the teacher's weights after an update of the student."""

    def save(self, folder: Path) -> None:
        """Write state that a resumed run needs to a checkpoint. The first process calls it."""

    def restore(self, folder: Path) -> None:
        """Load the state that `save` wrote."""
