"""The signal of spans of text, shared among the student's tokens."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from sod.batching import ScoredBatch
from sod.teachers import Scores
from sod.teachers.alignment import Span


def with_spans(
    batch: ScoredBatch,
    scores: Scores,
    spans: Sequence[Sequence[Span]],
    theirs_BT: Tensor,
    rule: Literal["equal", "surprise"],
    outside_BT: Tensor | None = None,
) -> ScoredBatch:
    """Return the batch with the teacher's signal shared among the student's tokens of each span.

    `scores`: of the same trajectories in the teacher's tokens. `spans`: of each row, as positions in both rows. `theirs_BT`:
    True on the teacher's tokens of the student's turns. `outside_BT`: True where a log-probability of the teacher is an upper
    bound; the signal of a span is then between minus infinity and an upper bound, and gets the value nearest to 0.

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
    signal_M, bound_M = teacher_M - student_M, torch.zeros(len(ours), dtype=torch.bool)
    if outside_BT is not None:
        bound_M = _sums(outside_BT.double(), row_M, yours_M2) > 0
        signal_M = torch.where(bound_M, signal_M.clamp(max=0), signal_M)
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
    teacher_BT[where] += part_N * signal_M[span_N]
    span_share_BT[where] = equal_N
    entropy_BT = None
    if scores.entropy_BT is not None:
        theirs_BT = theirs_BT.double()
        mean_B = (scores.entropy_BT.double() * theirs_BT).sum(1) / theirs_BT.sum(1).clamp(min=1)
        entropy_BT = mean_B[:, None].expand(batch.mask_BT.shape).masked_fill(~batch.mask_BT, 0).clone()
        mean_M = _sums(scores.entropy_BT.double(), row_M, yours_M2) / (yours_M2[:, 1] - yours_M2[:, 0])
        entropy_BT[where] = mean_M[span_N]
        entropy_BT = entropy_BT.float()
    scored = replace(Scores(teacher_BT.float(), entropy_BT).add_to(batch), span_share_BT=span_share_BT.float())
    if outside_BT is None:
        return scored
    likeliest_BT = torch.zeros_like(student_BT)
    likeliest_BT[where] = torch.where(bound_M, teacher_M.exp(), 0)[span_N]
    return replace(scored, outside_BT=likeliest_BT.float())


def _sums(values_BT: Tensor, row_M: Tensor, range_M2: Tensor) -> Tensor:
    """Return the sum of each range of a row. -> (M,)"""
    total_BT = torch.nn.functional.pad(values_BT.cumsum(1), (1, 0))
    return total_BT[row_M, range_M2[:, 1]] - total_BT[row_M, range_M2[:, 0]]
