"""Read the common start of adjacent rows once: the prompt of a group, or the system prompt of many.

The rows of a group begin with the same prompt. Causal attention gives its tokens the same hidden states in every row.
Therefore a pass reads the prompt once, and then the rest of each row, which attends to the prompt's keys and to its own.
Results and gradients are those of full rows, up to rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sod.model.attention import Spans, Variant, attend_causally, concatenated, fits_flash

SHORTEST = 16
"""Tokens of a common start from which rows share it."""
WORTH_SHARING = 0.1
"""Share of a pass's tokens that must be saved, because attention to a shared start is slower."""
LARGEST_MASK = 1 << 24
"""Elements of the largest mask. Longer rows are read whole: they would need a large mask, and their prompt is a small part."""


@dataclass(slots=True)
class Family:
    """Adjacent rows with a common start of `start` tokens, and the number of tokens of each row after it."""

    start: int
    rests: list[int]

    @property
    def spared(self) -> int:
        """Return the number of tokens that are not read again."""
        return self.start * (len(self.rests) - 1)

    @property
    def segments(self) -> list[int]:
        return [self.start, *self.rests] if self.start else self.rests


def find_families(ids_BT: Tensor, lengths: Sequence[int]) -> list[Family]:
    """Divide rows into families, row after row: a row joins the previous one's family if that spares more tokens."""
    families: list[Family] = []
    for length, common in zip(lengths, [0, *_common_starts(ids_BT, lengths)], strict=True):
        if families:
            last = families[-1]
            whole = [last.start + rest for rest in last.rests]
            start = min(common, last.start) if len(whole) > 1 else common
            joined = Family(start, [row - start for row in [*whole, length]])
            if start >= SHORTEST and joined.spared >= last.spared and _mask_size(joined) <= LARGEST_MASK:
                families[-1] = joined
                continue
        families.append(Family(0, [length]))
    return families


def _common_starts(ids_BT: Tensor, lengths: Sequence[int]) -> list[int]:
    """Return the number of tokens that each row from the second on shares with the previous one, at most all but one."""
    same_BT = (ids_BT[1:] == ids_BT[:-1]).cumprod(1).sum(1).tolist()
    return [min(same, a - 1, b - 1) for same, a, b in zip(same_BT, lengths[:-1], lengths[1:], strict=True)]


def _mask_size(family: Family) -> int:
    return max(family.rests) * (family.start + max(family.rests))


class SharedStarts:
    """The layout of families: the start of each, then the rest of each of its rows."""

    def __init__(self, families: Sequence[Family]):
        self._families = families
        self._segments = [length for family in families for length in family.segments]
        known = [
            length
            for family in families
            for length in ([family.start] if family.start else []) + [family.start + rest for rest in family.rests]
        ]
        self._spans = Spans(self._segments, known)
        self._keys_M: Tensor | None = None
        """Packed place of every key that a segment attends to, segment after segment."""

    def positions(self, device: torch.device) -> Tensor:
        """Return each packed token's position in its row. -> (1, N)"""
        spans = [
            span
            for family in self._families
            for span in [(0, family.start), *((family.start, family.start + rest) for rest in family.rests)]
        ]
        return torch.cat([torch.arange(*span, device=device) for span in spans])[None]

    def ids(self, ids_BT: Tensor) -> Tensor:
        """Return the packed tokens of padded rows. -> (N,)"""
        parts: list[Tensor] = []
        rows = iter(ids_BT)
        for family in self._families:
            for at, rest in enumerate(family.rests):
                row = next(rows)
                parts.append(row[(0 if at == 0 else family.start) : family.start + rest])
        return torch.cat(parts)

    def places(self, device: torch.device, *, with_starts: bool = False) -> Tensor:
        """Return the packed place of every token of every row, row after row. -> (tokens of all rows,)

        `with_starts`: each family's common start comes once more, before its rows. These are the places of the keys that each
        segment attends to.
        """
        places: list[Tensor] = []
        at = 0
        for family in self._families:
            start = torch.arange(at, at + family.start, device=device)
            at += family.start
            places += [start] if with_starts else []
            for rest in family.rests:
                places += [start, torch.arange(at, at + rest, device=device)]
                at += rest
        return torch.cat(places)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None, variant: Variant | None = None
    ) -> Tensor:
        del layer
        if fits_flash(query, value, variant):
            self._keys_M = self.places(query.device, with_starts=True) if self._keys_M is None else self._keys_M
            key, value = (tensor.index_select(2, self._keys_M) for tensor in (key, value))
            return self._spans.attend(query, key, value, scale, variant)
        segments = iter(zip(*(tensor.split(self._segments, dim=2) for tensor in (query, key, value)), strict=True))
        found: list[Tensor] = []
        for family in self._families:
            new, keys, values = next(segments)
            found.append(attend_causally(new, keys, values, scale, variant))
            for _ in family.rests if family.start else ():
                new, own_keys, own_values = next(segments)
                seen = torch.cat([keys, own_keys], 2), torch.cat([values, own_values], 2)
                found.append(attend_causally(new, seen[0], seen[1], scale, variant))
        return concatenated(found)


def worth_sharing(families: Sequence[Family]) -> bool:
    """Return whether the families spare enough tokens."""
    read = sum(family.start + sum(family.rests) for family in families)
    spared = sum(family.spared for family in families)
    return spared >= WORTH_SHARING * (read + spared)
