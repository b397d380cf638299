"""Attention over packed sequences: no padding, no mask, and every sequence attends only to itself.

Models are loaded with this file's function as their attention (`NAME`). A forward pass reads all its tokens as one row,
(1, N). Every other part of the network treats tokens separately. A layout decides what a token may attend to, and is passed
to every layer as a keyword of the forward pass: `Packed` for full sequences, in scoring and training;
`SlotCache.reading` for sequences with a cached prefix, in sampling.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, PreTrainedModel

from sod.errors import ModelError

ATTENTION = "sod"
"""Name of the attention function, for `attn_implementation`."""
UNSUPPORTED = ("position_bias",)
"""Arguments of attention variants that are not supported. They are detected when a model is loaded."""
BLOCK = 256
"""Queries of a variant for which a mask or scores exist at a time."""
FLASH_TYPES = (torch.bfloat16, torch.float16)
FLASH_WIDTH = 256
"""Largest head_dim of FlashAttention's kernels."""
FLASH_CAPABILITY = (8, 0)
"""Oldest GPUs with FlashAttention: Ampere."""


@dataclass(frozen=True, slots=True)
class Variant:
    """How a layer's attention differs from softmax(scale * query @ key^T) @ value over all earlier tokens."""

    window: int | None = None
    """A token attends to this many tokens, itself included; None for all."""
    cap: float | None = None
    """Scores x are replaced with cap * tanh(x / cap)."""
    sinks: Tensor | None = None
    """Score of an additional key of each head, which has no value. (heads,)"""

    @classmethod
    def of(cls, *, sliding_window: int | None, softcap: float | None, s_aux: Tensor | None) -> "Variant | None":
        """Return the variant of the arguments that Transformers passes to attention functions; None for usual attention."""
        if sliding_window is None and softcap is None and s_aux is None:
            return None
        return cls(sliding_window, softcap, s_aux)

    @property
    def is_window(self) -> bool:
        """Return whether a window is the only difference."""
        return self.cap is None and self.sinks is None


class Layout(Protocol):
    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None, variant: Variant | None = None
    ) -> Tensor:
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
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Compute attention with Transformers' interface. Without a layout, rows are full sequences without padding."""
    assert attention_mask is None, "sequences are packed, not masked"
    if unknown := [name for name in UNSUPPORTED if others.get(name) is not None]:
        raise ModelError(
            f"The model's attention needs {unknown[0]}, which is not supported. Use a model with full attention."
        )
    variant = Variant.of(sliding_window=sliding_window, softcap=softcap, s_aux=s_aux)
    if layout is None:
        found = attend_causally(query, key, value, scaling, variant)
    else:
        found = layout.attend(module.layer_idx, query, key, value, scaling, variant)
    return found.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, _attend)


def attend_causally(
    query: Tensor, key: Tensor, value: Tensor, scale: float | None, variant: Variant | None = None
) -> Tensor:
    """Return the attention output of the last tokens of sequences. (B, heads, n, head_dim), keys (B, fewer heads, m, head_dim)

    A variant is computed in blocks of queries, so that no matrix of tokens by tokens exists.
    """
    new, known = query.shape[2], key.shape[2]
    if fits_flash(query, value, variant):
        return Spans([new] * len(query), [known] * len(query)).attend(query, key, value, scale, variant)
    if variant is None or (variant.is_window and known <= (variant.window or known)):
        mask = _visible(known - new, known, 0, known, None, query.device) if 1 < new < known else None
        return _fused(query, key, value, scale, mask, is_causal=mask is None and new > 1)
    found: list[Tensor] = []
    for start in range(known - new, known, BLOCK):
        end = min(start + BLOCK, known)
        first = 0 if variant.window is None else max(0, start - variant.window + 1)
        mask = _visible(start, end, first, end, variant.window, query.device)
        part = query[:, :, start - known + new : end - known + new], key[:, :, first:end], value[:, :, first:end]
        if variant.is_window:
            found.append(_fused(*part, scale, mask))
        elif torch.is_grad_enabled():  # the backward pass computes the scores again
            found.append(checkpoint(_explicit, *part, scale, mask, variant, use_reentrant=False))  # type: ignore[arg-type]
        else:
            found.append(_explicit(*part, scale, mask, variant))
    return concatenated(found)


def concatenated(parts: Sequence[Tensor]) -> Tensor:
    """Return the parts, one after another along the tokens. A single part is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=2)


def fits_flash(query: Tensor, value: Tensor, variant: Variant | None) -> bool:
    """Return whether FlashAttention's kernel for several sequences in one call computes this attention."""
    return (
        query.is_cuda
        and query.dtype in FLASH_TYPES
        and query.shape[-1] == value.shape[-1] <= FLASH_WIDTH
        and (variant is None or variant.is_window)
        and _has_flash(query.device)
    )


@lru_cache
def _has_flash(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= FLASH_CAPABILITY


class Spans:
    """Packed sequences of which the last `new` of `known` tokens attend, in one call of FlashAttention.

    The kernel aligns the last query with the last key, so it needs no mask. It shares keys among query heads.
    """

    def __init__(self, new: Sequence[int], known: Sequence[int]):
        self._new, self._known = list(new), list(known)
        self._sums: tuple[Tensor, Tensor] | None = None
        """Running sums of both, on the GPU. Copied there once, for all layers."""

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float | None, variant: Variant | None = None
    ) -> Tensor:
        """Return the attention output. (B, heads, N, head_dim), keys and values (B, fewer heads, M, head_dim)

        The sequences follow each other along rows and tokens.
        """
        batch, _, length, _ = query.shape
        if self._sums is None:
            sums = [[0, *accumulate(lengths)] for lengths in (self._new, self._known)]
            self._sums = tuple(torch.tensor(sums, dtype=torch.int32, device=query.device))  # type: ignore[assignment]
            assert self._sums is not None
        window = -1 if variant is None or variant.window is None else variant.window - 1
        found = varlen_attn(
            *(tensor.transpose(1, 2).flatten(0, 1) for tensor in (query, key, value)),
            *self._sums,
            max(self._new),
            max(self._known),
            scale=scale,
            window_size=(window, 0),
            enable_gqa=True,
        )
        assert isinstance(found, Tensor)
        return found.unflatten(0, (batch, length)).transpose(1, 2)


def _visible(start: int, end: int, first: int, last: int, window: int | None, device: torch.device) -> Tensor:
    """Return the mask of the tokens from `start` to `end` over the keys from `first` to `last`: True where one attends to
    another. -> (end - start, last - first)"""
    at, keys = torch.arange(start, end, device=device)[:, None], torch.arange(first, last, device=device)
    return keys <= at if window is None else (keys <= at) & (keys > at - window)


def _fused(
    query: Tensor, key: Tensor, value: Tensor, scale: float | None, mask: Tensor | None, *, is_causal: bool = False
) -> Tensor:
    """Return PyTorch's attention. Narrower values are padded, because its fast implementations need the keys' width.

    On a GPU, keys are repeated where no linear kernel shares them among query heads: PyTorch would hold all scores.
    """
    narrower = query.shape[-1] - value.shape[-1]
    value = pad(value, (0, narrower)) if narrower > 0 else value
    shared = query.shape[1] // key.shape[1]
    if (
        query.is_cuda
        and shared > 1
        and not (mask is None and query.dtype in FLASH_TYPES and query.shape[-1] <= FLASH_WIDTH)
    ):
        key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    found = scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=is_causal, scale=scale, enable_gqa=True
    )
    return found[..., :-narrower] if narrower > 0 else found


def _explicit(query: Tensor, key: Tensor, value: Tensor, scale: float | None, mask: Tensor, variant: Variant) -> Tensor:
    """Return attention with capped scores or sinks. `mask`: (n, m) or (B, 1, n, m), True where a token attends to another."""
    batch, heads, new, width = query.shape
    shared = heads // key.shape[1]
    grouped = query.reshape(batch, key.shape[1], shared, new, width)
    scores = (grouped @ key[:, :, None].transpose(-1, -2)).float() * (width**-0.5 if scale is None else scale)
    if variant.cap is not None:
        scores = variant.cap * (scores / variant.cap).tanh()
    scores = scores.masked_fill(~(mask if mask.dim() == 2 else mask[:, :, None]), -math.inf)
    if variant.sinks is not None:
        sinks = variant.sinks.float().view(1, -1, shared, 1, 1).expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, sinks], dim=-1)
    weights = scores.softmax(-1)[..., : key.shape[2]].to(value.dtype)
    return (weights @ value[:, :, None]).reshape(batch, heads, new, -1)


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
        self._spans = Spans(lengths, lengths)

    def positions(self, device: torch.device) -> Tensor:
        """Return each token's position in its sequence. -> (1, N)"""
        return torch.cat([torch.arange(length, device=device) for length in self._lengths])[None]

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None, variant: Variant | None = None
    ) -> Tensor:
        del layer
        if fits_flash(query, value, variant):
            return self._spans.attend(query, key, value, scale, variant)
        queries, keys, values = (tensor.split(self._lengths, dim=2) for tensor in (query, key, value))
        parts = zip(queries, keys, values, strict=True)
        return concatenated([attend_causally(*part, scale, variant) for part in parts])


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
    """Largest number of key elements to gather for one batch on a CPU. With more, it is faster to attend to each slot in place.
    A GPU would wait for the launches of each slot."""

    def __init__(self, cache: SlotCache, slots: Sequence[int], starts: Sequence[int], counts: Sequence[int]):
        device = cache.device
        ends = [start + count for start, count in zip(starts, counts, strict=True)]
        places = [at for start, end in zip(starts, ends, strict=True) for at in range(start, end)]
        self._cache = cache
        self._slots, self._ends, self._counts = list(slots), ends, list(counts)
        of_tokens = [slot for slot, count in zip(slots, counts, strict=True) for _ in range(count)]
        self._slots_N, positions_N = torch.tensor([of_tokens, places], device=device)
        self.positions = positions_N[None]
        """Position of each token in its sequence, (1, N)."""
        self._singles = next((i for i, count in enumerate(counts) if count > 1), len(counts))
        assert all(count > 1 for count in counts[self._singles :]), "single tokens come first"
        self._ends_S = torch.tensor(ends[: self._singles], device=device)
        self._longest = max(ends[: self._singles], default=0)
        self._spans: dict[int, Spans] = {}
        """Spans of the other slots, for all layers."""
        self._masks: dict[int | None, Tensor] = {}
        """Masks of the single tokens by window, (S, 1, 1, longest)."""

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None, variant: Variant | None = None
    ) -> Tensor:
        keys, values = self._cache.write(layer, self._slots_N, self.positions[0], key, value)
        _, heads, _, width = keys.shape
        few = query.is_cuda or self._singles * heads * self._longest * width <= self.BATCHED_ELEMENTS
        batched = self._singles if few else 0
        singles, *others = query.split([batched, *self._counts[batched:]], dim=2)
        found = [self._attend_singles(singles[0], keys, values, scale, variant)] if batched else []
        for new, slot, end in zip(others, self._slots[batched:], self._ends[batched:], strict=True):
            part = new, keys[None, slot, :, :end], values[None, slot, :, :end], scale, variant
            if fits_flash(new, values, variant):
                spans = self._spans.setdefault(slot, Spans([new.shape[2]], [end]))
                found.append(spans.attend(*part))
            else:
                found.append(attend_causally(*part))
        return concatenated(found)

    def _attend_singles(
        self, query: Tensor, keys: Tensor, values: Tensor, scale: float | None, variant: Variant | None
    ) -> Tensor:
        """Return the attention output of single new tokens. (heads, S, head_dim) -> (1, heads, S, head_dim)

        Query heads that share a key are treated as queries of one head, so that no key is repeated.
        """
        heads, singles, _ = query.shape
        chosen = self._slots_N[:singles]
        keys, values = (tensor[:, :, : self._longest].index_select(0, chosen) for tensor in (keys, values))
        mask = self._mask(variant and variant.window)
        if variant is None or variant.is_window:
            found = _fused(query.transpose(0, 1).unflatten(1, (keys.shape[1], -1)), keys, values, scale, mask)
        else:
            found = _explicit(query.transpose(0, 1)[:, :, None], keys, values, scale, mask, variant)
        return found.reshape(singles, heads, -1).transpose(0, 1)[None]

    def _mask(self, window: int | None) -> Tensor:
        """Return where the single tokens attend to their slots' tokens. -> (S, 1, 1, longest)"""
        if window not in self._masks:
            at, ends_S1 = torch.arange(self._longest, device=self._ends_S.device), self._ends_S[:, None]
            visible = at < ends_S1 if window is None else (at < ends_S1) & (at >= ends_S1 - window)
            self._masks[window] = visible[:, None, None]
        return self._masks[window]
