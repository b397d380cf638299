"""Attention over sequences that lie end to end: no padding, no mask, and every sequence sees itself alone.

Models are loaded with this file's function as their attention (`NAME`). A forward pass reads all its tokens as one row,
(1, N); everything but attention treats tokens one by one anyway. What a token may attend to is the business of a layout,
which travels to every layer as a keyword of the forward pass: `Packed` for sequences as wholes, in scoring and learning;
`SlotCache.reading` for those whose beginnings are remembered, in sampling.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from sod.errors import ModelError

NAME = "sod"
"""Of the attention function, for `attn_implementation`."""
UNSUPPORTED = ("sliding_window", "softcap", "s_aux", "position_bias")
"""What some models' attention has beyond the causal one: found out when a model is loaded."""


class Layout(Protocol):
    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """What each token's query finds. (1, heads, N, head_dim), keys and values with fewer heads -> as the query"""
        ...


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    *,
    scaling: float | None = None,
    layout: Layout | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Transformers' contract of an attention function. Without a layout, rows are whole sequences without padding."""
    assert attention_mask is None, "sequences are packed, not masked"
    if unknown := [name for name in UNSUPPORTED if others.get(name) is not None]:
        raise ModelError(
            f"The model's attention needs {unknown[0]}, which is not supported; use one with full attention."
        )
    if layout is None:
        found = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)
    else:
        found = layout.attend(module.layer_idx, query, key, value, scaling)
    return found.transpose(1, 2), None


AttentionInterface.register(NAME, _attend)


def check_attention(model: PreTrainedModel) -> None:
    """Raises ModelError for a model with another attention, which would let packed sequences see each other."""
    if model.config._attn_implementation != NAME:
        raise ModelError(
            f"Load the model with attn_implementation={NAME!r}, or call set_attn_implementation({NAME!r})."
        )


class Packed:
    """Whole sequences of the given lengths."""

    def __init__(self, lengths: Sequence[int]):
        self._lengths = list(lengths)

    def positions(self, device: torch.device) -> Tensor:
        """Each token's place in its sequence. -> (1, N)"""
        return torch.cat([torch.arange(length, device=device) for length in self._lengths])[None]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        del layer
        parts = zip(*(tensor.split(self._lengths, dim=2) for tensor in (query, key, value)), strict=True)
        return torch.cat(
            [scaled_dot_product_attention(*part, is_causal=True, scale=scale, enable_gqa=True) for part in parts], dim=2
        )


class SlotCache:
    """Keys and values of the sequences under way, one slot each: (slots, capacity, heads, head_dim) for each layer."""

    def __init__(self, slots: int, device: torch.device):
        self._slots = slots
        self._device = device
        self._capacity = 0
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def reading(self, slots: Sequence[int], starts: Sequence[int], counts: Sequence[int]) -> "Reading":
        """The layout of a pass that reads `counts[i]` new tokens into `slots[i]`, where `starts[i]` are known already."""
        longest = max(start + count for start, count in zip(starts, counts, strict=True))
        if longest > self._capacity:
            self._grow(max(longest, 2 * self._capacity, 64))
        return Reading(self, slots, starts, counts)

    @torch.inference_mode()
    def copy(self, source: int, target: int, length: int) -> None:
        """Let a slot begin as another does."""
        for keys, values in self._layers.values():
            keys[target, :length] = keys[source, :length]
            values[target, :length] = values[source, :length]

    def write(self, layer: int, where_N: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Put new keys and values, (1, heads, N, head_dim), at slot * capacity + position. -> all of the layer's"""
        if layer not in self._layers:
            _, heads, _, width = key.shape
            shape = (self._slots, self._capacity, heads, width)
            self._layers[layer] = (key.new_zeros(shape), value.new_zeros(shape))
        both = self._layers[layer]
        for all_of_them, new in zip(both, (key, value), strict=True):
            all_of_them.flatten(0, 1).index_copy_(0, where_N, new[0].transpose(0, 1))
        return both

    @property
    def capacity(self) -> int:
        return self._capacity

    @property
    def device(self) -> torch.device:
        return self._device

    def _grow(self, capacity: int) -> None:
        more = (0, 0, 0, 0, 0, capacity - self._capacity)
        self._layers = {layer: (pad(keys, more), pad(values, more)) for layer, (keys, values) in self._layers.items()}
        self._capacity = capacity


class Reading:
    """New tokens of some slots, in the order given: single ones first, which attend in one batch; longer runs after."""

    def __init__(self, cache: SlotCache, slots: Sequence[int], starts: Sequence[int], counts: Sequence[int]):
        assert list(counts) == sorted(counts, key=lambda count: count > 1), "single tokens come first"
        device = cache.device
        self._cache = cache
        self._singles = sum(count == 1 for count in counts)
        self._runs = list(zip(slots, starts, counts, strict=True))[self._singles :]
        self._ends = list(accumulate((count for _, _, count in self._runs), initial=self._singles))
        singles = list(zip(slots, starts, strict=True))[: self._singles]
        places = [slot * cache.capacity + start for slot, start in singles]
        places += [
            slot * cache.capacity + at for slot, start, count in self._runs for at in range(start, start + count)
        ]
        self._where_N = torch.tensor(places, device=device)
        self.positions = (self._where_N % cache.capacity)[None]
        """Each token's place in its sequence, (1, N)."""
        if singles:
            self._choose([slot for slot, _ in singles], [start + 1 for _, start in singles])

    def _choose(self, slots: list[int], lengths: list[int]) -> None:
        """The rows that single tokens attend to: all up to the highest slot where most are wanted, which spares a copy of
        them; the wanted ones otherwise."""
        device, rows = self._cache.device, max(slots) + 1
        self._length = max(lengths)
        self._is_dense = 2 * len(slots) >= rows
        self._slots = torch.tensor(slots, device=device)
        of_row = torch.ones(rows, dtype=torch.long) if self._is_dense else torch.tensor(lengths)
        if self._is_dense:
            of_row[slots] = torch.tensor(lengths)
        hidden = torch.arange(self._length) >= of_row[:, None]
        self._mask = torch.zeros(hidden.shape).masked_fill_(hidden, -torch.inf)[:, None, None].to(device)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        keys, values = self._cache.write(layer, self._where_N, key, value)
        found = [self._attend_singles(query[0, :, : self._singles], keys, values, scale)] if self._singles else []
        for (slot, start, count), (first, last) in zip(self._runs, pairwise(self._ends), strict=True):
            seen = start + count
            mask = None
            if start:
                at = torch.arange(seen, device=query.device)
                mask = at <= at[start:, None]
            found.append(
                scaled_dot_product_attention(
                    query[:, :, first:last],
                    keys[slot, :seen].transpose(0, 1)[None],
                    values[slot, :seen].transpose(0, 1)[None],
                    attn_mask=mask,
                    is_causal=mask is None,
                    scale=scale,
                    enable_gqa=True,
                )
            )
        return torch.cat(found, dim=2)

    def _attend_singles(self, query: Tensor, keys: Tensor, values: Tensor, scale: float | None) -> Tensor:
        """(heads, S, head_dim) -> (1, heads, S, head_dim). Query heads that share a key are taken for one head's queries,
        so that no key is repeated."""
        heads, _, width = query.shape
        shared = heads // keys.shape[2]
        queries = query.transpose(0, 1).unflatten(1, (-1, shared))
        if self._is_dense:
            rows = queries.new_zeros(len(self._mask), *queries.shape[1:])
            rows[self._slots] = queries
            keys, values = keys[: len(rows), : self._length], values[: len(rows), : self._length]
        else:
            rows = queries
            keys, values = keys[self._slots, : self._length], values[self._slots, : self._length]
        found = scaled_dot_product_attention(
            rows, keys.transpose(1, 2), values.transpose(1, 2), attn_mask=self._mask.to(rows.dtype), scale=scale
        )
        if self._is_dense:
            found = found[self._slots]
        return found.reshape(-1, heads, width).transpose(0, 1)[None]
