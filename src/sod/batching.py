"""Trajectories to tensors: the only place that pads.

What is known of each token stands in (B, T) tensors, padded at the right, where rows are easy to compare. No model ever
reads the padding: a forward pass packs its rows end to end (`sod.model.loading.hidden_states`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from heapq import heapreplace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sod.core import step_ids
from sod.types import Group, Piece, Trajectory


@dataclass(frozen=True, slots=True)
class Batch:
    """Trajectories side by side. (B, T) and (B, T, J) tensors are 0, or False, where a row has ended."""

    trajectories: list[Trajectory]
    ids_BT: Tensor
    """Token ids, int64."""
    mask_BT: Tensor
    """True on the tokens that the student sampled."""
    steps_BT: Tensor
    """Step number of each sampled token, from 1; 0 elsewhere."""
    lengths_B: Tensor
    """Tokens of each row."""
    rewards_B: Tensor
    groups_B: Tensor
    """Which group (problem) each row belongs to."""
    student_BT: Tensor | None = None
    """log pi of the policy before the update, at the rollout's temperature."""
    recomputed_B: Tensor | None = None
    """Where `student_BT` is of a full forward pass, and not the sampler's."""
    teacher_BT: Tensor | None = None
    """log pi of the teacher on the same tokens, at the same temperature."""
    teacher_entropy_BT: Tensor | None = None
    credit_BT: Tensor | None = None
    """What the algorithm says each token is worth."""
    update: int = 0
    """Updates that the run has behind it."""
    teacher_weight_BT: Tensor | None = None
    """How much of the teacher's signal the algorithm gives each token."""
    candidates_BTJ: Tensor | None = None
    """At each sampled token, the J likeliest tokens of the policy before the update, likeliest first: ids, int32."""
    candidate_student_BTJ: Tensor | None = None
    """Their log pi there, as `student_BT`: of the whole vocabulary's softmax, not of theirs."""
    candidate_teacher_BTJ: Tensor | None = None
    """Their log pi under the teacher, as `teacher_BT`."""

    def __len__(self) -> int:
        return len(self.trajectories)

    @property
    def failed_BK(self) -> Tensor:
        """Whether the tool calls that ended a step came back with an error. -> (B, K), bool"""
        failed = [
            [any(outcome != "ok" for outcome in piece.outcomes) for piece in t.observations] for t in self.trajectories
        ]
        steps = int(self.steps_BT.max()) if self.steps_BT.numel() else 0
        failed_BK = pad(failed, torch.bool)
        return torch.nn.functional.pad(failed_BK, (0, steps - failed_BK.shape[1]))

    def rows(self, index: Tensor) -> "Batch":
        """The given rows, cut to the longest of them."""
        width = int(self.lengths_B[index].max()) if len(index) else 0
        chosen: dict[str, Any] = {}
        for name in _TENSORS:
            tensor = getattr(self, name)
            chosen[name] = tensor if tensor is None else tensor[index] if tensor.dim() == 1 else tensor[index, :width]
        return Batch(trajectories=[self.trajectories[i] for i in index.tolist()], update=self.update, **chosen)


_TENSORS = [field.name for field in fields(Batch) if field.name.endswith(("_B", "_BT", "_BTJ"))]


def pad(rows: Sequence[Sequence[float]], dtype: torch.dtype) -> Tensor:
    """Ragged rows to a (B, T) tensor, filled with 0 at the right."""
    width = max((len(row) for row in rows), default=0)
    padded = torch.zeros(len(rows), width, dtype=dtype)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = torch.tensor(row, dtype=dtype)
    return padded


def collate(groups: Sequence[Group]) -> Batch:
    """All surviving trajectories of an update, group after group."""
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


def join(batches: Sequence[Batch]) -> Batch:
    """One or more batches of whole groups, one after another. What one does not know, the whole does not know."""
    width = max(batch.ids_BT.shape[1] for batch in batches)
    numbers = accumulate((int(batch.groups_B.max()) + 1 if len(batch) else 1 for batch in batches), initial=0)
    batches = [
        replace(batch, groups_B=batch.groups_B + number) for batch, number in zip(batches, numbers, strict=False)
    ]

    def joined(name: str) -> Tensor | None:
        tensors = [getattr(batch, name) for batch in batches]
        if any(tensor is None for tensor in tensors):
            return None
        return torch.cat([t if t.dim() == 1 else _widened(t, width) for t in tensors])

    tensors: dict[str, Any] = {name: joined(name) for name in _TENSORS}
    return Batch(trajectories=[t for batch in batches for t in batch.trajectories], **tensors)


def _widened(tensor_BT: Tensor, width: int) -> Tensor:
    """(B, T) or (B, T, J), filled with 0 up to `width` tokens."""
    last = (0, 0) * (tensor_BT.dim() - 2)
    return torch.nn.functional.pad(tensor_BT, (*last, 0, width - tensor_BT.shape[1]))


Row = tuple[Tensor, Tensor]
"""A conversation to imitate: token ids (int32) and loss mask, (T,) each."""


def demonstration_row(pieces: Sequence[Piece], max_tokens: int) -> Row:
    """A rendered conversation, cut at the right to `max_tokens`."""
    ids = [token for piece in pieces for token in piece.tokens][:max_tokens]
    mask = [piece.author == "student" for piece in pieces for _ in piece.tokens][:max_tokens]
    return torch.tensor(ids, dtype=torch.int32), torch.tensor(mask)


def collate_demonstrations(rows: Sequence[Row]) -> tuple[Tensor, Tensor, Tensor]:
    """-> ids (B, T), mask (B, T), lengths (B,)"""
    ids_BT = pad_sequence([ids for ids, _ in rows], batch_first=True).long()
    mask_BT = pad_sequence([mask for _, mask in rows], batch_first=True)
    return ids_BT, mask_BT, torch.tensor([len(ids) for ids, _ in rows])


def microbatches(lengths_B: Tensor, max_tokens: int) -> Iterator[Tensor]:
    """Row indices in parts of at most `max_tokens` tokens (or one row), as few as first-fit makes them."""
    parts: list[tuple[int, list[int]]] = []  # tokens left, rows
    for row in lengths_B.argsort(descending=True, stable=True).tolist():
        length = int(lengths_B[row])
        at = next((i for i, (left, _) in enumerate(parts) if length <= left), len(parts))
        left, rows = parts[at] if at < len(parts) else (max_tokens, [])
        parts[at : at + 1] = [(left - length, [*rows, row])]
    yield from (torch.tensor(rows) for _, rows in parts)


def balanced(lengths_B: Tensor, max_tokens: int, count: int) -> list[list[Tensor]]:
    """Row indices for each of `count` processes, in as many parts for one as for another, of about as many tokens.

    A part has at most `max_tokens` tokens (or one row). Where rows are few, some parts are empty.
    """
    number = count
    while not _fits(parts := _lightest_first(lengths_B, number), lengths_B, max_tokens):
        number += count
    return [parts[process::count] for process in range(count)]


def _lightest_first(lengths_B: Tensor, number: int) -> list[Tensor]:
    """Rows in so many parts: the longest first, each to the part that has the fewest tokens so far."""
    parts: list[list[int]] = [[] for _ in range(number)]
    lightest = [(0, part) for part in range(number)]
    for row in lengths_B.argsort(descending=True, stable=True).tolist():
        tokens, part = lightest[0]
        parts[part].append(row)
        heapreplace(lightest, (tokens + int(lengths_B[row]), part))
    return [torch.tensor(rows, dtype=torch.long) for rows in parts]


def _fits(parts: Sequence[Tensor], lengths_B: Tensor, max_tokens: int) -> bool:
    return all(len(rows) <= 1 or int(lengths_B[rows].sum()) <= max_tokens for rows in parts)


def minibatches(batch: Batch, count: int, shuffle: Callable[[int], Sequence[int]]) -> Iterator[Batch]:
    """The batch in `count` parts of whole groups, in the order that `shuffle(number of groups)` gives."""
    groups = batch.groups_B.unique().tolist()
    order = [groups[i] for i in shuffle(len(groups))]
    for part in range(min(count, len(order))):
        chosen = torch.tensor(order[part :: min(count, len(order))])
        yield batch.rows(torch.isin(batch.groups_B, chosen).nonzero()[:, 0])
