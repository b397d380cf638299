"""Convert trajectories to tensors. Only this module pads.

Values per token are (B, T) tensors, padded on the right. No model ever reads the padding: a forward pass packs its rows end
to end (`sod.model.forward.hidden_states`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from heapq import heapreplace
from itertools import accumulate
from typing import Any, Self, TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sod.core import step_ids
from sod.types import Group, Piece, Trajectory


@dataclass(frozen=True, slots=True)
class Batch:
    """Trajectories as padded tensors. (B, T) and (B, T, J) tensors are 0 or False after the end of a row.

    Example:
        >>> from sod.types import Problem
        >>> problem = Problem(id="sum", messages=(), answer="3")
        >>> pieces = Piece("prompt", (7, 8)), Piece("student", (5,)), Piece("tool", (9,)), Piece("student", (6, 2))
        >>> batch = collate([Group(problem, [Trajectory(problem, 0, pieces, "answered", "3")])])
        >>> batch.steps_BT.tolist()
        [[0, 0, 1, 0, 2, 2]]
    """

    trajectories: list[Trajectory]
    ids_BT: Tensor
    """Token ids, int64."""
    mask_BT: Tensor
    """True on the tokens that the student sampled."""
    steps_BT: Tensor
    """Step number of each sampled token, from 1; 0 elsewhere."""
    lengths_B: Tensor
    """Length of each row in tokens."""
    rewards_B: Tensor
    groups_B: Tensor
    """Number of the group (problem) of each row."""
    candidates_BTJ: Tensor | None = None
    """Candidates at each sampled token: ids (int32) of the policy's J likeliest tokens before the update, likeliest first."""

    def __len__(self) -> int:
        return len(self.trajectories)

    @property
    def right_B(self) -> Tensor:
        """True where the judge found the answer right. -> (B,), bool"""
        return torch.tensor([trajectory.judged.is_right for trajectory in self.trajectories], dtype=torch.bool)

    @property
    def failed_BK(self) -> Tensor:
        """True where a tool call at the end of a step returned an error. -> (B, K), bool"""
        failed = [
            [any(outcome != "ok" for outcome in piece.outcomes) for piece in t.observations] for t in self.trajectories
        ]
        steps = int(self.steps_BT.max()) if self.steps_BT.numel() else 0
        failed_BK = pad(failed, torch.bool)
        return torch.nn.functional.pad(failed_BK, (0, steps - failed_BK.shape[1]))

    @property
    def anchors_BK(self) -> Tensor:
        """A number for the observation before each step: equal observations have equal numbers. -> (B, K), int64

        0 before the first step. Numbers of different batches cannot be compared.
        """
        anchors = [[0, *(hash(piece.tokens) for piece in t.read[1:])] for t in self.trajectories]
        steps = int(self.steps_BT.max()) if self.steps_BT.numel() else 0
        anchors_BK = torch.zeros(len(self), steps, dtype=torch.long)
        for row, numbers in zip(anchors_BK, anchors, strict=True):
            row[: len(numbers)] = torch.tensor(numbers[:steps], dtype=torch.long)
        return anchors_BK

    def rows(self, index: Tensor) -> Self:
        """Return the given rows, cut to the longest of them."""
        width = int(self.lengths_B[index].max()) if len(index) else 0
        chosen = {
            name: tensor if tensor is None else tensor[index] if tensor.dim() == 1 else tensor[index, :width]
            for name, tensor in _tensors(self).items()
        }
        return replace(self, trajectories=[self.trajectories[i] for i in index.tolist()], **chosen)

    def scored(
        self, student_BT: Tensor, recomputed_B: Tensor | None = None, candidate_student_BTJ: Tensor | None = None
    ) -> "ScoredBatch":
        """Add the policy's log-probabilities. Default of `recomputed_B`: all True."""
        return ScoredBatch(
            **_values(self),
            student_BT=student_BT,
            recomputed_B=torch.ones(len(self), dtype=torch.bool) if recomputed_B is None else recomputed_B,
            candidate_student_BTJ=candidate_student_BTJ,
        )


@dataclass(frozen=True, slots=True)
class ScoredBatch(Batch):
    """A batch with the log-probabilities of the policy and, if the system has one, of the teacher."""

    student_BT: Tensor = field(kw_only=True)
    """log pi of the policy before the update, at the rollout's temperature."""
    recomputed_B: Tensor = field(kw_only=True)
    """True where `student_BT` comes from a full forward pass, False where it comes from the sampler."""
    candidate_student_BTJ: Tensor | None = None
    """log pi of the candidates under the policy, from the softmax over the whole vocabulary, as in `student_BT`."""
    teacher_BT: Tensor | None = None
    """log pi of the teacher on the same tokens, at the same temperature; None without a teacher."""
    teacher_entropy_BT: Tensor | None = None
    """Entropy of the teacher's distribution at each sampled token; None if the teacher returns none."""
    candidate_teacher_BTJ: Tensor | None = None
    """log pi of the candidates under the teacher, as in `teacher_BT`."""
    span_share_BT: Tensor | None = None
    """Teacher with another tokenizer: the part of a span that each token is, 0 for a token without a signal of the teacher
    (docs/teachers.md). `teacher_BT` is then `student_BT` plus the token's share of the span's signal. None: every token is a
    span."""
    outside_BT: Tensor | None = None
    """Largest possible probability of a token that is not among the teacher's most likely ones; 0 where the teacher's
    log-probability is exact. None: all are exact."""
    reference_BT: Tensor | None = None
    """log pi of the policy's initial weights, as in `student_BT`; None if no option needs it."""
    student_entropy_BT: Tensor | None = None
    """Entropy of the student's distribution at each sampled token, before the update; None if no rule needs it."""
    update: int = 0
    """Updates completed in this run."""
    progress: float | None = None
    """Share of the run's updates that are done; None outside a run."""
    student_rates_B: Tensor | None = None
    """Share of the student's right attempts at each row's problem in earlier updates; NaN before the first."""
    teacher_rates_B: Tensor | None = None
    """Share of the teacher's right attempts at each row's problem; NaN where unknown, None if no evaluation is given."""
    state: Mapping[str, float] = field(default_factory=dict)
    """The rule's numbers from the previous update."""

    @property
    def pair_BT(self) -> tuple[Tensor, Tensor]:
        """log pi of student and teacher. Raises AssertionError without a teacher."""
        assert self.teacher_BT is not None, "no teacher has scored this batch"
        return self.student_BT, self.teacher_BT

    def credited(self, credit_BT: Tensor, teacher_weight_BT: Tensor | None = None) -> "CreditedBatch":
        """Add the algorithm's credit."""
        given = {"credit_BT": credit_BT, "teacher_weight_BT": teacher_weight_BT}
        return CreditedBatch(**(_values(self) | given))


@dataclass(frozen=True, slots=True)
class CreditedBatch(ScoredBatch):
    """A scored batch from which a policy can learn."""

    credit_BT: Tensor = field(kw_only=True)
    """The algorithm's credit of each token."""
    teacher_weight_BT: Tensor | None = None
    """The algorithm's weight of the teacher's signal at each token; None without a teacher."""


def _values(batch: Batch) -> dict[str, Any]:
    return {each.name: getattr(batch, each.name) for each in fields(batch)}


def _tensors(batch: Batch) -> dict[str, Tensor | None]:
    return {name: value for name, value in _values(batch).items() if name.endswith(("_B", "_BT", "_BTJ"))}


B = TypeVar("B", bound=Batch)


def pad(rows: Sequence[Sequence[float]], dtype: torch.dtype) -> Tensor:
    """Convert ragged rows to a (B, T) tensor, filled with 0 on the right."""
    width = max((len(row) for row in rows), default=0)
    padded = torch.zeros(len(rows), width, dtype=dtype)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = torch.tensor(row, dtype=dtype)
    return padded


def collate(groups: Sequence[Group]) -> Batch:
    """Convert the graded trajectories of all groups to a batch, group after group."""
    trajectories = [trajectory for group in groups for trajectory in group]
    mask_BT = pad([t.mask for t in trajectories], torch.bool)
    return Batch(
        trajectories=trajectories,
        ids_BT=pad([t.ids for t in trajectories], torch.long),
        mask_BT=mask_BT,
        steps_BT=step_ids(mask_BT),
        lengths_B=torch.tensor([len(t.ids) for t in trajectories], dtype=torch.long),
        rewards_B=torch.tensor([t.reward for t in trajectories], dtype=torch.float32),
        groups_B=torch.tensor([i for i, group in enumerate(groups) for _ in group], dtype=torch.long),
    )


def join(batches: Sequence[B]) -> B:
    """Concatenate one or more batches of whole groups. A field missing in any part is None in the result."""
    width = max(batch.ids_BT.shape[1] for batch in batches)
    numbers = accumulate((int(batch.groups_B.max()) + 1 if len(batch) else 1 for batch in batches), initial=0)
    batches = [
        replace(batch, groups_B=batch.groups_B + number) for batch, number in zip(batches, numbers, strict=False)
    ]

    parts = [_tensors(batch) for batch in batches]

    def joined(name: str) -> Tensor | None:
        tensors = [part[name] for part in parts]
        present = [t if t.dim() == 1 else _widened(t, width) for t in tensors if t is not None]
        return torch.cat(present) if len(present) == len(tensors) else None

    tensors: dict[str, Any] = {name: joined(name) for name in parts[0]}
    return replace(batches[0], trajectories=[t for batch in batches for t in batch.trajectories], **tensors)


def _widened(tensor_BT: Tensor, width: int) -> Tensor:
    """Fill (B, T) or (B, T, J) with 0 up to `width` tokens."""
    last = (0, 0) * (tensor_BT.dim() - 2)
    return torch.nn.functional.pad(tensor_BT, (*last, 0, width - tensor_BT.shape[1]))


DemonstrationRow = tuple[Tensor, Tensor]
"""A demonstration: token ids (int32) and loss mask, (T,) each."""


def demonstration_row(pieces: Sequence[Piece], max_tokens: int) -> DemonstrationRow:
    """Convert a rendered conversation to a row, cut on the right to `max_tokens`."""
    ids = [token for piece in pieces for token in piece.tokens][:max_tokens]
    mask = [piece.author == "student" for piece in pieces for _ in piece.tokens][:max_tokens]
    return torch.tensor(ids, dtype=torch.int32), torch.tensor(mask)


def collate_demonstrations(rows: Sequence[DemonstrationRow]) -> tuple[Tensor, Tensor, Tensor]:
    """Pad demonstrations to a batch. -> ids (B, T), mask (B, T), lengths (B,)"""
    ids_BT = pad_sequence([ids for ids, _ in rows], batch_first=True).long()
    mask_BT = pad_sequence([mask for _, mask in rows], batch_first=True)
    return ids_BT, mask_BT, torch.tensor([len(ids) for ids, _ in rows])


def microbatches(lengths_B: Tensor, max_tokens: int, groups_B: Tensor | None = None) -> Iterator[Tensor]:
    """Yield row indices in parts of at most `max_tokens` tokens (or one longer row), packed by first-fit decreasing.

    With `groups_B`, the rows of a group stay together where they fit, so that a pass can read their prompt once.
    """
    lengths = lengths_B.tolist()
    units = [[row] for row in range(len(lengths))] if groups_B is None else _units(lengths, max_tokens, groups_B)
    sizes = [sum(lengths[row] for row in unit) for unit in units]
    parts: list[tuple[int, list[int]]] = []  # tokens left, rows
    for size, unit in sorted(zip(sizes, units, strict=True), key=lambda each: -each[0]):
        at = next((i for i, (left, _) in enumerate(parts) if size <= left), len(parts))
        left, rows = parts[at] if at < len(parts) else (max_tokens, [])
        parts[at : at + 1] = [(left - size, [*rows, *unit])]
    yield from (torch.tensor(rows) for _, rows in parts)


def _units(lengths: list[int], max_tokens: int, groups_B: Tensor) -> list[list[int]]:
    """Return the rows of each group, divided where they have more than `max_tokens` tokens."""
    units: list[list[int]] = []
    for group in groups_B.unique().tolist():
        left = -1
        for row in (groups_B == group).nonzero()[:, 0].tolist():
            if left < lengths[row]:
                units.append([])
                left = max_tokens
            units[-1].append(row)
            left -= lengths[row]
    return units


def balanced_parts(lengths_B: Tensor, max_tokens: int, count: int) -> list[list[Tensor]]:
    """Distribute row indices over `count` processes: equally many parts for each, of about equally many tokens.

    A part has at most `max_tokens` tokens (or one longer row). With few rows, some parts are empty.
    """
    number = count
    while not _fits(parts := _lightest_first(lengths_B, number), lengths_B, max_tokens):
        number += count
    return [parts[process::count] for process in range(count)]


def _lightest_first(lengths_B: Tensor, number: int) -> list[Tensor]:
    """Distribute rows over `number` parts: longest row first, each to the part with the fewest tokens so far."""
    parts: list[list[int]] = [[] for _ in range(number)]
    lightest = [(0, part) for part in range(number)]
    for row in lengths_B.argsort(descending=True, stable=True).tolist():
        tokens, part = lightest[0]
        parts[part].append(row)
        heapreplace(lightest, (tokens + int(lengths_B[row]), part))
    return [torch.tensor(rows, dtype=torch.long) for rows in parts]


def _fits(parts: Sequence[Tensor], lengths_B: Tensor, max_tokens: int) -> bool:
    return all(len(rows) <= 1 or int(lengths_B[rows].sum()) <= max_tokens for rows in parts)


def minibatches(batch: B, count: int, shuffle: Callable[[int], Sequence[int]]) -> Iterator[B]:
    """Split the batch into `count` parts of whole groups, in the order that `shuffle(number of groups)` returns."""
    groups = batch.groups_B.unique().tolist()
    order = [groups[i] for i in shuffle(len(groups))]
    for part in range(min(count, len(order))):
        chosen = torch.tensor(order[part :: min(count, len(order))])
        yield batch.rows(torch.isin(batch.groups_B, chosen).nonzero()[:, 0])
