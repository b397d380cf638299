"""Record the memory of passes of a model without its weights: PyTorch's fake tensors have sizes and no content.

Layers, attention and caches are those of a run on a CPU. Equal layers are computed once and counted as often as they occur.
"""

import copy
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from sod.model.attention import ATTENTION, SlotCache
from sod.model.caching import read_on
from sod.model.forward import alone, forward
from sod.model.fsdp import checkpoint_layers
from sod.model.lora import adapted_layers, add_low_rank
from sod.model.multimodal import text_config

GROUPED = torch.ops.aten._grouped_mm.default
"""Product of experts. PyTorch computes the size of its result in bfloat16 only."""
SHORTEST = 512
"""Tokens of the shorter pass. Attention is computed in blocks of 256 tokens."""
RECURRENT = 16
"""The same of layers that compute token by token (Mamba 1)."""
LONGEST_WINDOW = 8192
"""Longest sliding window for which a pass is recorded."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Numbers of parameters of a model."""

    parameters: int
    outside: int
    """Outside the layers."""
    layer: int
    """Of its largest layer."""
    layers: int
    width: int
    embedding: int
    tied: bool
    linear: int
    """Sum of inputs and outputs of the linear layers that get a LoRA adapter."""


@dataclass(frozen=True, slots=True)
class Pass:
    """Bytes of a pass, without weights and their gradients."""

    kept: int
    """After the forward pass: what the backward pass needs, or the cache."""
    most: int
    """At the same time."""


class Live(TorchDispatchMode):
    """Count the bytes of the tensors that operations make and that exist at the same time."""

    def __init__(self, others: Iterable[Tensor]) -> None:
        """`others`: tensors that are not counted, such as weights."""
        super().__init__()
        self._known = {tensor.untyped_storage()._cdata: 0 for tensor in others}
        self.now = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        if func is GROUPED:
            made = func(*tree_map_only(Tensor, _narrow, args), **(kwargs or {})).to(args[0].dtype)
        else:
            made = func(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if isinstance(each, Tensor):
                self._add(each.untyped_storage())
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        place = storage._cdata
        if place not in self._known:
            self._known[place] = storage.nbytes()
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._remove, place)

    def _remove(self, place: int) -> None:
        self.now -= self._known.pop(place, 0)


def _narrow(tensor: Tensor) -> Tensor:
    return tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor


@dataclass(slots=True)
class _Kind:
    """Equal layers of a model, of which the first is computed."""

    count: int = 0
    kept: int = 0
    """Bytes that the first one keeps, its output included."""
    output: Any = None
    """What it returned, on the meta device."""


@dataclass(slots=True)
class Traced:
    """A model of fake tensors. Recorded once; a second recording needs a new one."""

    model: PreTrainedModel
    kinds: dict[Any, _Kind] = field(default_factory=dict)
    live: Live = field(init=False)

    def __post_init__(self) -> None:
        for layer in _layers(self.model):
            signature = _signature(layer)
            is_first = signature not in self.kinds
            kind = self.kinds.setdefault(signature, _Kind())
            kind.count += 1
            layer.forward = self._computed(layer.forward, kind) if is_first else _skipped(kind)

    def _computed(self, inner: Callable[..., Any], kind: _Kind) -> Callable[..., Any]:
        def compute(*arguments: Any, **options: Any) -> Any:
            before = self.live.now
            output = inner(*arguments, **options)
            kind.kept, kind.output = self.live.now - before, _shell(output)
            return output

        return compute

    def training(self, length: int) -> Pass:
        """Record a forward and a backward pass over one sequence. A weight's gradient exists only while it is computed."""
        embedding = self.model.get_input_embeddings()
        embedding.weight.requires_grad_(False)  # type: ignore[union-attr, operator]  # counted by `sod.planning.memory`
        embedding.register_forward_hook(lambda _module, _arguments, output: output.requires_grad_())
        for weight in self.model.parameters():
            if weight.requires_grad:
                weight.register_post_accumulate_grad_hook(lambda weight: setattr(weight, "grad", None))
        with self._recording():
            hidden = alone(self.model, torch.ones(length, dtype=torch.long))
            kept = self.live.now
            hidden.sum().backward()
        again = sum((kind.count - 1) * kind.kept for kind in self.kinds.values())
        return Pass(kept + again, self.live.most + again)

    @torch.no_grad()
    def scoring(self, length: int) -> int:
        """Return the most bytes of a forward pass over one sequence."""
        with self._recording():
            alone(self.model, torch.ones(length, dtype=torch.long))
        return self.live.most

    @torch.no_grad()
    def packed_cache(self) -> int | None:
        """Return the bytes of a token's keys and values in a `SlotCache`; None if not every layer has some."""
        cache = SlotCache(1, torch.device("cpu"))
        layout = cache.reading([0], [0], [2])
        with self._recording():
            forward(self.model, torch.ones(2, dtype=torch.long), layout.positions, layout)
        found = {at: sum(each.nbytes // each.shape[2] for each in pair) for at, pair in cache._layers.items()}
        layers = [_signature(layer) for layer in _layers(self.model)]
        if len(found) < len(self.kinds):
            return None
        return sum(found[at] * self.kinds[layers[at]].count for at in found)

    @torch.no_grad()
    def state_cache(self, length: int) -> int:
        """Return the bytes of Transformers' cache of one sequence."""
        with self._recording():
            hidden, state = read_on(self.model, [1] * length, 0, None)
            del hidden
            kept = self.live.now
            del state
        width = self.model.config.get_text_config().hidden_size * length * self.model.dtype.itemsize
        return kept + sum((kind.count - 1) * (kind.kept - width) for kind in self.kinds.values())

    def _recording(self) -> Live:
        self.live = Live([*self.model.parameters(), *self.model.buffers()])
        return self.live


def _layers(model: PreTrainedModel) -> list[torch.nn.Module]:
    return [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]


def _skipped(kind: _Kind) -> Callable[..., Any]:
    def skip(hidden_states: Tensor, *_: Any, **__: Any) -> Any:
        return (hidden_states, *kind.output) if isinstance(kind.output, tuple) else hidden_states

    return skip


def _shell(output: Any) -> Any:
    """Return what a layer returns after its hidden states."""
    return output[1:] if isinstance(output, tuple) else None


def _signature(layer: torch.nn.Module) -> Any:
    """Return what two equal layers have in common: classes, sizes, and settings such as a window."""
    plain = (int, float, str, bool, type(None))
    settings = [
        (
            name,
            type(part).__name__,
            sorted((k, str(v)) for k, v in vars(part).items() if type(v) in plain and k not in PLACE),
        )
        for name, part in layer.named_modules()
    ]
    sizes = [(name, tuple(weight.shape)) for name, weight in layer.named_parameters()]
    return str((settings, sizes))


PLACE = ("layer_idx", "layer_id", "layer_number", "idx", "_is_hf_initialized")
"""Attributes of a layer that hold its place, which does not change its memory."""


def sizes_of(folder: Path) -> Sizes:
    """Return the numbers of parameters of the model of a config.json, from a model on the meta device."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(_text_config(folder), attn_implementation=ATTENTION)
    model.tie_weights()
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    linear = [model.get_submodule(name) for name in adapted_layers(model)]
    count = lambda module: sum(weight.numel() for weight in module.parameters())  # noqa: E731
    layers = [count(layer) for layer in _layers(model)]
    return Sizes(
        parameters=count(model),
        outside=count(model) - sum(layers),
        layer=max(layers, default=0),
        layers=len(layers),
        width=embedding.weight.shape[1],
        embedding=embedding.weight.numel(),
        tied=head.weight is embedding.weight,
        linear=sum(sum(each.weight.shape) for each in linear),
    )


def traced(
    folder: Path, dtype: str, *, rank: int = 0, checkpointing: bool = False, keep_attention: bool = False
) -> Traced:
    """Return a model of fake tensors to record. Call this function and its methods within the mode of `fake`."""
    with unset_fake_temporarily():
        config, options = _text_config(folder), {"dtype": getattr(torch, dtype), "attn_implementation": ATTENTION}
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, **options).eval()
        model.tie_weights()
        if rank:
            add_low_rank(model, rank, 1.0, reports=False)
    _empty(model)
    if checkpointing:
        checkpoint_layers(model, keep_attention=keep_attention)
    return Traced(model)


def _empty(model: PreTrainedModel) -> None:
    """Replace the tensors of a model by tensors of the same sizes on the CPU, fake ones in the mode of `fake`."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for kind in (module._parameters, module._buffers):
            for name, old in kind.items():
                if old is None:
                    continue
                if id(old) not in made:
                    new = torch.empty(old.shape, dtype=old.dtype, device="cpu")
                    is_weight = kind is module._parameters
                    made[id(old)] = torch.nn.Parameter(new, old.requires_grad) if is_weight else new
                kind[name] = made[id(old)]  # type: ignore[assignment]


def fake() -> FakeTensorMode:
    return FakeTensorMode(allow_non_fake_inputs=True)


def recorded_lengths(folder: Path) -> tuple[int, int]:
    """Return two lengths between and above which memory is a line: longer than windows and chunks. Raise ValueError for none."""
    config = _text_config(folder)
    entries = config.to_dict()
    if "time_step_rank" in entries or "mamba_dt_rank" in entries:
        return RECURRENT, 2 * RECURRENT
    positions = entries.get("max_position_embeddings") or LONGEST_WINDOW
    windows = [entries.get(name) or 0 for name in ("sliding_window", "attention_chunk_size")]
    window = max((each for each in windows if each < positions), default=0)
    chunk = max(entries.get(name) or 0 for name in ("chunk_size", "mamba_chunk_size"))
    if window > LONGEST_WINDOW:
        raise ValueError(f"its window of {window:,} tokens is too long to record a pass")
    shorter = max(SHORTEST, 2 * window, 2 * chunk)
    return shorter, 2 * shorter


def _text_config(folder: Path) -> PreTrainedConfig:
    config = text_config(AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False))
    assert config is not None
    return copy.deepcopy(config)
