"""A frozen teacher with another tokenizer than the student's."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sod.batching import Batch, ScoredBatch, collate
from sod.chat.format import ChatFormat, Schema
from sod.config import ChatOptions
from sod.errors import DataError, ModelError, OptionError, TemplateError
from sod.model.loading import load_tokenizer, positions_of
from sod.processes.concurrency import compute
from sod.teachers import Scores, TeacherSetup
from sod.teachers.alignment import Span
from sod.teachers.local import LocalTeacher
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


class TranslatedTeacher(LocalTeacher):
    """Scores with the model in `setup.folder`, which reads each trajectory in its own chat template and its own tokens.

    Student and teacher are compared over spans (`sod.teachers.alignment`). The signal of a span is the difference of the sums
    of its log-probabilities; it is shared among the student's tokens of the span. All other tokens get no signal.
    """

    scores_candidates = False

    def __init__(self, setup: TeacherSetup):
        assert setup.chat is not None, "a teacher with another tokenizer needs the student's chat format"
        if setup.score.shard_teacher:
            raise OptionError(
                "score.shard_teacher needs a teacher with the student's tokenizer. Leave it out, or choose such a teacher."
            )
        own = TokenBytes(load_tokenizer(setup.folder))
        for text in (PROBE, PROGRAM):
            own.check(text)
        options = ChatOptions(template=setup.score.teacher_template, thinking=setup.thinking, on_drift="append")
        try:
            chat = ChatFormat.of(own.tokenizer, options)
        except TemplateError as error:
            raise TemplateError(
                f"The teacher {setup.folder} has another tokenizer than the student, so it must show the conversation in its own "
                f"chat template. {error} (For the teacher, the option is --score.teacher-template.)"
            ) from error
        self._translator = Translator(setup.chat, chat, setup.tools)
        for text in (PROBE, PROGRAM):
            TokenBytes(setup.tokenizer).check(text)
        self._rule: Literal["equal", "surprise"] = setup.score.span_signal
        self._own_chat, self._tools = chat, setup.tools
        self.aligned = self._prove(setup, setup.chat)
        """Share of the probe's tokens that are aligned."""
        super().__init__(setup)
        self.chat = chat
        self._limit = positions_of(self._model)

    def _check_tokenizer(self, student: PreTrainedTokenizerBase, own: PreTrainedTokenizerBase) -> None:
        """Any tokenizer fits."""

    def _prove(self, setup: TeacherSetup, student: ChatFormat) -> float:
        """Return the share of the tokens of a probe that are aligned. Raise ModelError if it is too low."""
        probe = _probe(student, setup.tools)
        _, spans = self._translator.trajectory(probe)
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

    def check(self, problems: Sequence[Problem]) -> None:
        """Raise DataError if a prompt in the teacher's tokens leaves no room for a response."""
        for problem in problems:
            length = len(self._own_chat.prompt(problem.messages, self._tools))
            if length >= self._limit:
                raise DataError(
                    f"The prompt of problem {problem.id!r} has {length} tokens in the teacher's form, but the teacher has "
                    f"{self._limit} positions. Shorten or remove this problem, or choose another teacher."
                )

    async def score(self, batch: Batch) -> Scores:
        raise NotImplementedError("a span's signal needs the student's log-probabilities: use `scored`")

    async def scored(self, batch: ScoredBatch) -> ScoredBatch:
        return await compute(self.scored_now, batch)

    def scored_now(self, batch: ScoredBatch) -> ScoredBatch:
        """Same as `scored`, in the caller's thread."""
        start = time.perf_counter()
        rows = [self._translator.trajectory(trajectory, self._limit) for trajectory in batch.trajectories]
        translated = collate([Group(trajectory.problem, [trajectory]) for trajectory, _ in rows])
        scores = self.score_now(translated)
        scored = with_spans(batch, scores, [spans for _, spans in rows], translated.mask_BT, self._rule)
        self._busy_seconds += time.perf_counter() - start
        return scored


def with_spans(
    batch: ScoredBatch,
    scores: Scores,
    spans: Sequence[Sequence[Span]],
    theirs_BT: Tensor,
    rule: Literal["equal", "surprise"],
) -> ScoredBatch:
    """Return the batch with the teacher's signal shared among the student's tokens of each span.

    `scores`: of the same trajectories in the teacher's tokens. `spans`: of each row, as positions in both rows. `theirs_BT`:
    True on the teacher's tokens of the student's turns.

    The shares of a span's signal add up to the signal. A token alone in its span gets the teacher's log-probability of the
    span as `teacher_BT`. The entropy of a token is the mean over the teacher's tokens in its span. A token without a span has
    no signal, and the mean entropy of its row.
    """
    ours = [(row, span.ours, span.theirs) for row, found in enumerate(spans) for span in found]
    row_M = torch.tensor([row for row, _, _ in ours], dtype=torch.long)
    mine_M2 = torch.tensor([(one.start, one.stop) for _, one, _ in ours], dtype=torch.long).view(-1, 2)
    yours_M2 = torch.tensor([(other.start, other.stop) for _, _, other in ours], dtype=torch.long).view(-1, 2)
    student_BT = batch.student_BT.double()
    student_M, teacher_M = _sums(student_BT, row_M, mine_M2), _sums(scores.logprobs_BT.double(), row_M, yours_M2)
    count_M = mine_M2[:, 1] - mine_M2[:, 0]

    span_N = torch.arange(len(ours)).repeat_interleave(count_M)  # span of each aligned token
    first_M = count_M.cumsum(0) - count_M
    at_N = mine_M2[:, 0][span_N] + torch.arange(len(span_N)) - first_M[span_N]
    where = (row_M[span_N], at_N)
    equal_N = 1 / count_M[span_N].double()
    part_N = equal_N
    if rule == "surprise":
        part_N = torch.where(student_M[span_N] < 0, student_BT[where] / student_M[span_N], equal_N)

    teacher_BT, span_share_BT = student_BT.clone(), torch.zeros_like(student_BT)
    teacher_BT[where] += part_N * (teacher_M - student_M)[span_N]
    span_share_BT[where] = equal_N
    entropy_BT = None
    if scores.entropy_BT is not None:
        theirs_BT = theirs_BT.double()
        mean_B = (scores.entropy_BT.double() * theirs_BT).sum(1) / theirs_BT.sum(1).clamp(min=1)
        entropy_BT = mean_B[:, None].expand(batch.mask_BT.shape).masked_fill(~batch.mask_BT, 0).clone()
        mean_M = _sums(scores.entropy_BT.double(), row_M, yours_M2) / (yours_M2[:, 1] - yours_M2[:, 0])
        entropy_BT[where] = mean_M[span_N]
        entropy_BT = entropy_BT.float()
    scored = Scores(teacher_BT.float(), entropy_BT).add_to(batch)
    return replace(scored, span_share_BT=span_share_BT.float())


def _sums(values_BT: Tensor, row_M: Tensor, range_M2: Tensor) -> Tensor:
    """Return the sum of each range of a row. -> (M,)"""
    total_BT = torch.nn.functional.pad(values_BT.cumsum(1), (1, 0))
    return total_BT[row_M, range_M2[:, 1]] - total_BT[row_M, range_M2[:, 0]]


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
