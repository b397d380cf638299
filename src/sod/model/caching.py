"""Caches of unfinished sequences for sampling, one slot per trajectory.

`Packing` keeps keys and values of models that read packed tokens. `States` keeps one of Transformers' own caches per slot,
for models whose layers carry a state from token to token; it reads one slot per pass.
"""

import copy
from collections.abc import Sequence
from inspect import signature
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from sod.errors import ModelError
from sod.model.attention import SlotCache, check_attention
from sod.model.forward import forward
from sod.model.fsdp import base_module
from sod.model.traits import traits_of

State = dict[str, Cache]
"""A cache of Transformers by the name of the argument that it is passed in, which depends on the version."""


class SequenceCache(Protocol):
    def read(self, slots: Sequence[int], starts: Sequence[int], news: Sequence[Sequence[int]]) -> Tensor:
        """Read new tokens into slots that hold `starts` tokens each; single tokens come first.

        -> the hidden state of each slot's last token, (slots, D)
        """
        ...

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of slot `source` to slot `target`."""
        ...

    def clear(self) -> None:
        """Free the memory of all slots, on a GPU."""
        ...

    def usable(self, slot: int, common: int) -> int:
        """Return how many of a slot's first `common` tokens another sequence can continue from."""
        ...

    def promised(self, length: int, common: int) -> int:
        """Return the same for a slot that is about to read its first `length` tokens."""
        ...


def cache_for(model: PreTrainedModel, slots: int, context: int | None = None) -> SequenceCache:
    """Return an empty cache for a model. Raise ModelError if the model cannot be sampled in this process.

    `context`: maximum length of a sequence in tokens, if it is known.
    """
    traits = traits_of(model)
    if traits.packs:
        check_attention(model)
        return Packing(model, slots, context)
    if traits.no_sampling:
        raise ModelError(
            f"Transformers cannot sample this {model.config.model_type} model token by token: {traits.no_sampling} Sample it "
            "with vLLM (--engine.name vllm)."
        )
    return States(model, slots)


class Packing:
    """Keys and values of all slots in one `SlotCache`. All new tokens are read in one pass."""

    def __init__(self, model: PreTrainedModel, slots: int, context: int | None):
        self._model = model
        self._size = slots, context
        self._cache = SlotCache(slots, model.device, context)

    def read(self, slots: Sequence[int], starts: Sequence[int], news: Sequence[Sequence[int]]) -> Tensor:
        counts = list(map(len, news))
        layout = self._cache.reading(slots, starts, counts)
        ids_N = torch.tensor([token for new in news for token in new], device=self._model.device)
        hidden_ND = forward(self._model, ids_N, layout.positions, layout)
        return hidden_ND[[end - 1 for end in accumulate(counts)]]

    def clear(self) -> None:
        if self._model.device.type == "cuda":  # a CPU would only allocate it again
            slots, context = self._size
            self._cache = SlotCache(slots, self._model.device, context)

    def copy(self, source: int, target: int, length: int) -> None:
        self._cache.copy(source, target, length)

    def usable(self, slot: int, common: int) -> int:
        del slot
        return common

    def promised(self, length: int, common: int) -> int:
        del length
        return common


class States:
    """One cache of Transformers per slot.

    A state cannot be shortened. A slot therefore also keeps the state before the last token of its first reading, the
    prompt, so that trajectories with the same prompt continue from there.
    """

    def __init__(self, model: PreTrainedModel, slots: int):
        self._model = model
        self._prompts: list[tuple[int, State | None]] = [(0, None)] * slots
        """Number of tokens and state of each slot's prompt. These states are shared, and never change."""
        self._latest: list[tuple[int, State | None]] = [(0, None)] * slots
        """The same for all tokens of each slot."""

    def read(self, slots: Sequence[int], starts: Sequence[int], news: Sequence[Sequence[int]]) -> Tensor:
        return torch.stack([self._read(*each) for each in zip(slots, starts, news, strict=True)])

    def _read(self, slot: int, start: int, new: Sequence[int]) -> Tensor:
        if not start:
            *before, _ = new
            self._prompts[slot] = (len(before), read_on(self._model, before, 0, None)[1] if before else None)
            start, new = len(before), new[-1:]
        length, state = self._latest[slot]
        if length != start or start == self._prompts[slot][0]:
            length, prompt = self._prompts[slot]
            assert length == start, "a state cannot be shortened"
            state = copy.deepcopy(prompt)
        hidden_TD, state = read_on(self._model, new, start, state)
        self._latest[slot] = (start + len(new), state)
        return hidden_TD[-1]

    def clear(self) -> None:
        slots = len(self._latest)
        self._prompts, self._latest = [(0, None)] * slots, [(0, None)] * slots

    def copy(self, source: int, target: int, length: int) -> None:
        if length == self._prompts[source][0]:
            self._prompts[target] = self._prompts[source]
        else:
            self._prompts[target] = copy.deepcopy(self._latest[source])
        self._latest[target] = (0, None)

    def usable(self, slot: int, common: int) -> int:
        return max((n for n, _ in (self._prompts[slot], self._latest[slot]) if n <= common), default=0)

    def promised(self, length: int, common: int) -> int:
        return common if common >= length - 1 else 0


def read_on(model: PreTrainedModel, ids: Sequence[int], start: int, state: State | None) -> tuple[Tensor, State]:
    """Read tokens after the `start` tokens of a state, which is changed. None is the state of no token.

    -> hidden states, (T, D); the state after the tokens
    """
    base = base_module(model)
    pieces = [[token] for token in ids] if state is not None and traits_of(model).single_steps else [list(ids)]
    hidden_TD: list[Tensor] = []
    for piece in pieces:
        ids_1T = torch.tensor([piece], device=model.device)
        positions = {"position_ids": start + torch.arange(len(piece), device=model.device)[None]}
        options: dict[str, Any] = (positions if "position_ids" in signature(base.forward).parameters else {}) | (
            state or {}
        )
        output = base(input_ids=ids_1T, use_cache=True, **options)
        state = {name: value for name, value in output.items() if isinstance(value, Cache)}
        start += len(piece)
        hidden_TD.append(output.last_hidden_state[0])
    assert state, "a model returns the cache that it has filled"
    return torch.cat(hidden_TD), state


def affordable_slots(model: PreTrainedModel, wanted: int, context: int, memory: float) -> int:
    """Return how many slots of `context` tokens fit into `memory` bytes: at least 1, at most `wanted`.

    Models without packed sequences keep states of their own size, which are not counted.
    """
    if not traits_of(model).packs:
        return wanted
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    token = 2 * config.num_hidden_layers * heads * width * model.dtype.itemsize
    return max(1, min(wanted, int(memory // (token * context))))
