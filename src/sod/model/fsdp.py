"""Shard a model over processes with PyTorch's FSDP2: each process keeps a shard of every weight, and layers are gathered one
at a time while they compute.

Only the first process reads the model's files. A pass needs all processes, layer by layer, so every process must make the
same number of passes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from sod.errors import OptionError
from sod.model.devices import prepare_device
from sod.model.traits import Traits, set_traits, traits_of
from sod.moved import keep_old_names
from sod.processes.distributed import Ranks

ATTENTION_KERNELS = {
    "aten::_scaled_dot_product_cudnn_attention",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "torch_attn::_varlen_attn",
}
"""PyTorch's fused kernels of attention, by the name of their operation."""


@torch.no_grad()
def load_sharded(
    load: Callable[[], PreTrainedModel], ranks: Ranks, dtype: torch.dtype | None = None
) -> PreTrainedModel:
    """Call `load` in the first process, and shard its model over all processes, which must call this together.

    The other processes hold a whole weight only while they receive their part of it. `dtype`: see `shard`; None: the
    type of the weights.
    """
    model = load() if ranks.is_first else None
    outline = ranks.first(lambda: _Outline.of(cast(PreTrainedModel, model)))
    wholes = [] if model is None else [weight.detach() for weight in model.parameters()]
    if model is None:
        model = outline.without_weights()
    shard(model, ranks, dtype or model.dtype)
    if not ranks.is_first:
        model.to_empty(device=ranks.mesh().device_type)
        outline.set_buffers(model)
    for number, part in enumerate(model.parameters()):
        assert isinstance(part, DTensor)
        whole = wholes[number] if ranks.is_first else torch.empty(part.shape, dtype=part.dtype, device=part.device)
        part.copy_(distribute_tensor(whole, part.device_mesh, part.placements))
    return model


@dataclass(frozen=True)
class _Outline:
    """What a process needs to build the model of another process without its weights."""

    kind: type[PreTrainedModel]
    config: PreTrainedConfig
    dtype: torch.dtype
    learns: bool
    """Whether the weights have gradients."""
    traits: Traits
    tokens: int
    """Number of ids that have a row of the head (`sod.model.forward.head`)."""
    buffers: dict[str, Tensor]

    @classmethod
    def of(cls, model: PreTrainedModel) -> "_Outline":
        return cls(
            kind=type(model),
            config=model.config,
            dtype=model.dtype,
            learns=any(weight.requires_grad for weight in model.parameters()),
            traits=traits_of(model),
            tokens=head_layer(model).out_features,
            buffers={name: buffer.cpu() for name, buffer in model.named_buffers()},
        )

    def without_weights(self) -> PreTrainedModel:
        """Return a model on the meta device."""
        with torch.device("meta"):
            model = self.kind(self.config)
        model.tie_weights()
        model.eval().to(self.dtype).requires_grad_(self.learns)  # type: ignore[arg-type]
        set_traits(model, self.traits)
        head_layer(model).out_features = self.tokens
        return model

    def set_buffers(self, model: PreTrainedModel) -> None:
        for name, buffer in model.named_buffers():
            holder, _, last = name.rpartition(".")
            setattr(model.get_submodule(holder), last, self.buffers[name].to(buffer.device))


def shard(model: PreTrainedModel, ranks: Ranks, dtype: torch.dtype) -> None:
    """Shard the model in place. Its weights keep their type; layers compute in `dtype`, gradients are reduced in float32.

    The model is moved to the processes' devices, a layer at a time. Embedding and head stay gathered from the forward to
    the backward pass. Raise OptionError for a model that cannot be sharded.
    """
    if not traits_of(model).packs:  # the processes would make different numbers of passes
        raise OptionError(
            f"A {model.config.model_type} model cannot be sharded over processes, because it reads one sequence per pass. "
            "Start one process."
        )
    mesh, precision = ranks.mesh(), MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    for layer in _layers(model):
        fully_shard(layer, mesh=mesh, mp_policy=precision)
    fully_shard(model, mesh=mesh, mp_policy=precision)
    prepare_device(model.device.type)
    # Embedding and head belong to the root module, which is never called itself: FSDP must hook into the base model's pass.
    model.base_forward = MethodType(_base_forward, model)  # type: ignore[assignment]
    register_fsdp_forward_method(model, "base_forward")


def base_module(model: PreTrainedModel) -> torch.nn.Module:
    """Return the model without its head. A few types give its attribute another name than they use."""
    base = model.base_model
    return base if base is not model else cast(torch.nn.Module, model.model)


def head_layer(model: PreTrainedModel) -> torch.nn.Linear:
    """Return the layer that computes logits. Its `out_features` count the rows of tokens (`sod.model.forward.head`)."""
    return cast(torch.nn.Linear, model.get_output_embeddings())


def base_of(model: PreTrainedModel) -> Callable[..., Any]:
    """Return the function that computes hidden states: the model without its head, sharded or not."""
    divided = isinstance(model, FSDPModule)
    return cast(Callable[..., Any], model.base_forward if divided else base_module(model))


def whole(tensor: Tensor) -> Tensor:
    """Return the full tensor of a sharded one, and other tensors unchanged. All processes must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def copy_whole(divided: PreTrainedModel, model: PreTrainedModel) -> None:
    """Copy a sharded model's weights into a full model, a weight at a time. All processes must call this."""
    for share, weight in zip(divided.parameters(), model.parameters(), strict=True):
        weight.copy_(whole(share))


def checkpoint_layers(model: PreTrainedModel, *, keep_attention: bool = False) -> None:
    """Recompute each layer in the backward pass. Raise OptionError if the model has no layers that support it.

    With `keep_attention`, the outputs of fused attention kernels are kept, and only the rest is recomputed.
    Transformers' own switch needs training mode, in which dropout and router noise change the network.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if not layers:
        raise OptionError(
            f"learn.checkpointing is not supported by models of type {model.config.model_type}, whose layers cannot be "
            "recomputed. Leave it out."
        )
    contexts = {"context_fn": partial(create_selective_checkpoint_contexts, _kept)} if keep_attention else {}
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, **contexts)  # type: ignore[method-assign]


def _kept(context: Any, operation: Any, *_: Any, **__: Any) -> CheckpointPolicy:
    """Return that the outputs of attention are kept and all others are recomputed."""
    del context
    name = operation._schema.name
    return CheckpointPolicy.MUST_SAVE if name in ATTENTION_KERNELS else CheckpointPolicy.PREFER_RECOMPUTE


def _base_forward(model: PreTrainedModel, *arguments: Any, **options: Any) -> Any:
    return base_module(model)(*arguments, **options)


def _layers(model: PreTrainedModel) -> torch.nn.ModuleList:
    """Return the list of the decoder's layers. Raise OptionError unless exactly one list qualifies.

    It must be as long as the configuration says. All its layers must be of classes that the model lists as not to be split.
    """
    count, whole = model.config.get_text_config().num_hidden_layers, set(model._no_split_modules or ())
    lists = [each for each in model.modules() if isinstance(each, torch.nn.ModuleList) and len(each) == count]
    found = [each for each in lists if all(type(layer).__name__ in whole for layer in each)]
    if len(found) != 1:
        raise OptionError(
            f"A {model.config.model_type} model cannot be trained in several processes: it has {len(found)} lists of {count} "
            f"decoder layers (classes: {', '.join(sorted(whole)) or 'none named'}), and sharding needs exactly one. Start one "
            "process."
        )
    return found[0]


keep_old_names(__name__, divide="shard")
