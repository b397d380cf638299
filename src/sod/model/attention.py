"""Attention over packed sequences: no padding, no mask, and every sequence attends only to itself.

Models are loaded with this file's function as their attention (`NAME`). A forward pass reads all its tokens as one row,
(1, N). Every other part of the network treats tokens separately. A layout decides what a token may attend to, and is passed
to every layer as a keyword of the forward pass: `Packed` for full sequences, in scoring and training;
`SlotCache.reading` for sequences with a cached prefix, in sampling.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from sod.errors import ModelError

ATTENTION = "sod"
"""Name of the attention function, for `attn_implementation`."""
UNSUPPORTED = ("sliding_window", "softcap", "s_aux", "position_bias")
"""Arguments of attention variants that are not supported. They are detected when a model is loaded."""


class Layout(Protocol):
    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """Return the attention output of each token. (1, heads, N, head_dim); keys and values may have fewer heads."""
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
    """Compute attention with Transformers' interface. Without a layout, rows are full sequences without padding."""
    assert attention_mask is None, "sequences are packed, not masked"
    if unknown := [name for name in UNSUPPORTED if others.get(name) is not None]:
        raise ModelError(
            f"The model's attention needs {unknown[0]}, which is not supported. Use a model with full attention."
        )
    if layout is None:
        found = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)
    else:
        found = layout.attend(module.layer_idx, query, key, value, scaling)
    return found.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, _attend)


def check_attention(model: PreTrainedModel) -> None:
    """Raise ModelError for a model with another attention function, in which packed sequences attend to each other."""
    if model.config._attn_implementation != ATTENTION:
        raise ModelError(
            f"The model's attention is {model.config._attn_implementation!r}, which does not keep packed sequences apart. Load "
            f"the model with attn_implementation={ATTENTION!r}, or call set_attn_implementation({ATTENTION!r})."
        )


class Packed:
    """The layout of full sequences of the given lengths."""

    def __init__(self, lengths: Sequence[int]):
        self._lengths = list(lengths)

    def positions(self, device: torch.device) -> Tensor:
        """Return each token's position in its sequence. -> (1, N)"""
        return torch.cat([torch.arange(length, device=device) for length in self._lengths])[None]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        del layer
        parts = zip(*(tensor.split(self._lengths, dim=2) for tensor in (query, key, value)), strict=True)
        return torch.cat(
            [scaled_dot_product_attention(*part, is_causal=True, scale=scale, enable_gqa=True) for part in parts], dim=2
        )


class SlotCache:
    """Cached keys and values of unfinished sequences, one slot each: (slots, heads, capacity, head_dim) for each layer.

    The capacity grows with the longest sequence. `context`: maximum length in tokens, if it is known.
    """

    def __init__(self, slots: int, device: torch.device, context: int | None = None):
        self.device = device
        self._slots = slots
        self._context = context
        self._capacity = 0
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def reading(self, slots: Sequence[int], starts: Sequence[int], counts: Sequence[int]) -> "Reading":
        """Return the layout of a pass that reads `counts[i]` new tokens into `slots[i]`, which holds `starts[i]` tokens."""
        longest = max(start + count for start, count in zip(starts, counts, strict=True))
        if longest > self._capacity:
            doubled = max(2 * self._capacity, 64)
            wanted = max(longest, doubled if self._context is None else min(doubled, self._context))
            # Not a power of two: slots at such distances compete for the same lines of the CPU's cache.
            self._grow(wanted // 64 * 64 + 72)
        return Reading(self, slots, starts, counts)

    @torch.inference_mode()
    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of slot `source` to slot `target`."""
        for keys, values in self._layers.values():
            keys[target, :, :length] = keys[source, :, :length]
            values[target, :, :length] = values[source, :, :length]

    def write(
        self, layer: int, slots_N: Tensor, positions_N: Tensor, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Store new keys and values, (1, heads, N, head_dim). -> all keys and all values of the layer"""
        heads = key.shape[1]
        if layer not in self._layers:
            keys, values = (new.new_zeros(self._slots, heads, self._capacity, new.shape[3]) for new in (key, value))
            self._layers[layer] = (keys, values)
        both = self._layers[layer]
        of_head = torch.arange(heads, device=key.device)[:, None]
        where = ((slots_N * heads + of_head) * self._capacity + positions_N).flatten()
        for all_of_them, new in zip(both, (key, value), strict=True):
            all_of_them.flatten(0, 2).index_copy_(0, where, new[0].flatten(0, 1))
        return both

    def _grow(self, capacity: int) -> None:
        more = (0, 0, 0, capacity - self._capacity)
        for layer, (keys, values) in self._layers.items():  # layer by layer, so that the old tensors are freed
            self._layers[layer] = (pad(keys, more), pad(values, more))
        self._capacity = capacity


class Reading:
    """The layout of new tokens of some slots, in the given order. Slots with a single new token come first: they attend in
    one batch."""

    BATCHED_ELEMENTS = 1 << 20
    """Largest number of key elements to gather for one batch. With more, it is faster to attend to each slot in place."""

    def __init__(self, cache: SlotCache, slots: Sequence[int], starts: Sequence[int], counts: Sequence[int]):
        device = cache.device
        ends = [start + count for start, count in zip(starts, counts, strict=True)]
        places = [at for start, end in zip(starts, ends, strict=True) for at in range(start, end)]
        self._cache = cache
        self._slots, self._ends, self._counts = list(slots), ends, list(counts)
        self._slots_N = torch.tensor(slots, device=device).repeat_interleave(torch.tensor(counts, device=device))
        self.positions = torch.tensor([places], device=device)
        """Position of each token in its sequence, (1, N)."""
        self._masks = [
            causal_mask(start, end, device) if start and end > start + 1 else None
            for start, end in zip(starts, ends, strict=True)
        ]
        self._singles = next((i for i, count in enumerate(counts) if count > 1), len(counts))
        assert all(count > 1 for count in counts[self._singles :]), "single tokens come first"
        of_singles = torch.tensor(ends[: self._singles], device=device)[:, None]
        self._longest = max(ends[: self._singles], default=0)
        hidden = torch.arange(self._longest, device=device) >= of_singles
        self._mask = torch.zeros(hidden.shape, device=device).masked_fill_(hidden, -torch.inf)[:, None, None]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        keys, values = self._cache.write(layer, self._slots_N, self.positions[0], key, value)
        _, heads, _, width = keys.shape
        batched = self._singles if self._singles * heads * self._longest * width <= self.BATCHED_ELEMENTS else 0
        singles, *others = query.split([batched, *self._counts[batched:]], dim=2)
        found = [self._attend_singles(singles[0], keys, values, scale)] if batched else []
        for new, slot, end, mask in zip(
            others, self._slots[batched:], self._ends[batched:], self._masks[batched:], strict=True
        ):
            found.append(
                scaled_dot_product_attention(
                    new,
                    keys[None, slot, :, :end],
                    values[None, slot, :, :end],
                    attn_mask=mask,
                    is_causal=mask is None and new.shape[2] > 1,
                    scale=scale,
                    enable_gqa=True,
                )
            )
        return torch.cat(found, dim=2)

    def _attend_singles(self, query: Tensor, keys: Tensor, values: Tensor, scale: float | None) -> Tensor:
        """Return the attention output of single new tokens. (heads, S, head_dim) -> (1, heads, S, head_dim)

        Query heads that share a key are treated as queries of one head, so that no key is repeated.
        """
        heads, singles, _ = query.shape
        chosen = self._slots_N[:singles]
        found = scaled_dot_product_attention(
            query.transpose(0, 1).unflatten(1, (keys.shape[1], -1)),
            keys[:, :, : self._longest].index_select(0, chosen),
            values[:, :, : self._longest].index_select(0, chosen),
            attn_mask=self._mask.to(query.dtype),
            scale=scale,
        )
        return found.reshape(singles, heads, -1).transpose(0, 1)[None]


def causal_mask(start: int, end: int, device: torch.device) -> Tensor:
    """Return the causal mask of the tokens from `start` to `end`: True where one attends to another. -> (end - start, end)"""
    at = torch.arange(end, device=device)
    return at <= at[start:, None]
