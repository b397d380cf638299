"""A frozen teacher with another tokenizer than the student's."""

import logging
import time
from collections.abc import Sequence
from typing import Literal

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sod.batching import Batch, ScoredBatch, collate
from sod.chat.format import ChatFormat, Schema
from sod.chat.teacher import teacher_chat
from sod.errors import DataError, ModelError, OptionError
from sod.model.loading import load_tokenizer, positions_of
from sod.processes.concurrency import compute
from sod.teachers import Scores, TeacherSetup
from sod.teachers.alignment import Span
from sod.teachers.local import LocalTeacher
from sod.teachers.spans import with_spans
from sod.teachers.token_bytes import TokenBytes
from sod.teachers.translation import Translator
from sod.types import Group, Message, Piece, Problem, Trajectory

logger = logging.getLogger(__name__)

LEAST_ALIGNED = 0.5
"""Share of the probe's tokens that must be aligned."""
PROBE = """A farmer has 17 sheep and buys 3 pens. Each pen holds at most 8 animals, so the question is whether all of them fit.
Let us count: 3 * 8 = 24 places, and 24 - 17 = 7 of these stay empty. Was für Schafe gilt, gilt auch für Ziegen. 证毕。 🐑"""
PROGRAM = """def places(pens, size, animals):
    free = pens * size - animals
    return "full" if free < 0 else free

print(places(3, 8, 17))
"""


class Translation:
    """A teacher's reading of the student's trajectories: in its own chat template and its own tokens.

    Student and teacher are compared over spans (`sod.teachers.alignment`). The signal of a span is the difference of the sums
    of its log-probabilities; it is shared among the student's tokens of the span. All other tokens get no signal.
    """

    def __init__(self, setup: TeacherSetup):
        assert setup.chat is not None, "a teacher with another tokenizer needs the student's chat format"
        own = TokenBytes(load_tokenizer(setup.folder))
        for text in (PROBE, PROGRAM):
            own.check(text)
        self.chat = teacher_chat(own.tokenizer, setup.folder, setup.score, thinking=setup.thinking)
        """The teacher's chat format."""
        self.translator = Translator(setup.chat, self.chat, setup.tools)
        for text in (PROBE, PROGRAM):
            TokenBytes(setup.tokenizer).check(text)
        self._rule: Literal["equal", "surprise"] = setup.score.span_signal
        self._tools = setup.tools
        self.aligned = self._prove(setup, setup.chat)
        """Share of the probe's tokens that are aligned."""

    def _prove(self, setup: TeacherSetup, student: ChatFormat) -> float:
        """Return the share of the tokens of a probe that are aligned. Raise ModelError if it is too low."""
        probe = _probe(student, setup.tools)
        _, spans = self.translator.trajectory(probe)
        share = sum(len(span.ours) for span in spans) / max(1, sum(probe.mask))
        if share < LEAST_ALIGNED:
            raise ModelError(
                f"Only {share:.0%} of the tokens of a probe are aligned with the tokens of the teacher {setup.folder} (at least "
                f"{LEAST_ALIGNED:.0%} is needed), so most tokens would get no signal. Choose another teacher, or give a template "
                "that writes calls and thoughts as the student's does (--score.teacher-template)."
            )
        logger.info(
            f"The teacher has another tokenizer: {share:.0%} of the tokens of a probe are aligned, "
            f"{sum(len(span.ours) for span in spans) / max(1, len(spans)):.2f} tokens per span."
        )
        return share

    def check(self, problems: Sequence[Problem], limit: int | None) -> None:
        """Raise DataError if a prompt in the teacher's tokens leaves no room for a response within `limit` tokens."""
        if limit is None:
            return
        for problem in problems:
            length = len(self.chat.prompt(problem.messages, self._tools))
            if length >= limit:
                raise DataError(
                    f"The prompt of problem {problem.id!r} has {length} tokens in the teacher's form, but the teacher has "
                    f"{limit} positions. Shorten or remove this problem, or choose another teacher."
                )

    def translated(self, batch: Batch, limit: int | None) -> tuple[Batch, list[list[Span]]]:
        """Return the batch in the teacher's tokens, at most `limit` in a row, and the spans of each row."""
        rows = [self.translator.trajectory(trajectory, limit) for trajectory in batch.trajectories]
        return collate([Group(each.problem, [each]) for each, _ in rows]), [spans for _, spans in rows]

    def scored(
        self,
        batch: ScoredBatch,
        scores: Scores,
        spans: Sequence[Sequence[Span]],
        theirs_BT: Tensor,
        outside_BT: Tensor | None = None,
    ) -> ScoredBatch:
        """Return the batch with the teacher's scores (`with_spans`)."""
        return with_spans(batch, scores, spans, theirs_BT, self._rule, outside_BT)


class TranslatedTeacher(LocalTeacher):
    """Scores with the model in `setup.folder`, which reads each trajectory in its own chat template and its own tokens."""

    scores_candidates = False
    scores_tokens = False
    has_spans = True

    def __init__(self, setup: TeacherSetup):
        if setup.score.shard_teacher:
            raise OptionError(
                "score.shard_teacher needs a teacher with the student's tokenizer. Leave it out, or choose such a teacher."
            )
        self._translation = Translation(setup)
        super().__init__(setup)
        self.chat = self._translation.chat
        self._limit = positions_of(self._model)

    @property
    def aligned(self) -> float:
        """Share of the probe's tokens that are aligned."""
        return self._translation.aligned

    def _check_tokenizer(self, student: PreTrainedTokenizerBase, own: PreTrainedTokenizerBase) -> None:
        """Any tokenizer fits."""

    def check(self, problems: Sequence[Problem]) -> None:
        self._translation.check(problems, self._limit)

    async def score(self, batch: Batch) -> Scores:
        raise NotImplementedError("a span's signal needs the student's log-probabilities: use `scored`")

    async def scored(self, batch: ScoredBatch) -> ScoredBatch:
        return await compute(self.scored_now, batch)

    def scored_now(self, batch: ScoredBatch) -> ScoredBatch:
        """Same as `scored`, in the caller's thread."""
        start = time.perf_counter()
        translated, spans = self._translation.translated(batch, self._limit)
        scored = self._translation.scored(batch, self.score_now(translated), spans, translated.mask_BT)
        self._busy_seconds += time.perf_counter() - start
        return scored


def _probe(chat: ChatFormat, tools: Sequence[Schema]) -> Trajectory:
    """Return a conversation of the student: a turn with a thought and a call, its result, and an answer."""
    thought = {} if chat.template.thinking == "closed" else {"reasoning_content": "Let us count the animals first."}
    asked = Problem(id="probe", messages=({"role": "user", "content": "Do the sheep fit?"},), answer="")
    answer: Message = {"role": "assistant", "content": PROBE}
    pieces = [Piece("prompt", tuple(chat.prompt(asked.messages, tools)))]
    if tools:
        function = tools[0].get("function", tools[0])
        keys = list((function.get("parameters") or {}).get("properties") or {})[:1]
        call = {"type": "function", "function": {"name": function["name"], "arguments": dict.fromkeys(keys, PROGRAM)}}
        calling: Message = {"role": "assistant", "content": "A program counts.", "tool_calls": [call], **thought}
        pieces.append(Piece("student", tuple(chat.turn(calling, tools))))
        pieces.append(Piece("tool", tuple(chat.observation(["7"], [function["name"]]))))
    pieces.append(Piece("student", tuple(chat.turn(answer, tools))))
    return Trajectory(problem=asked, sample=0, pieces=tuple(pieces), stop="answered", final_text="")
