"""A model divided among processes, by PyTorch's FSDP2: each keeps a share of every weight, and layers are put together one at
a time while they compute.

A pass needs all processes, layer by layer: each must make as many as any other.
"""

from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from sod.distributed import Ranks
from sod.errors import OptionError


def divide(model: PreTrainedModel, ranks: Ranks, dtype: torch.dtype) -> None:
    """Divide the model, in place. Its weights keep their type; layers compute in `dtype`, gradients are summed up in float32.

    It is moved to the processes' devices, a layer at a time. Embedding and head stay whole from the forward to the backward
    pass.
    """
    mesh, precision = ranks.mesh(), MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    for layer in _layers(model):
        fully_shard(layer, mesh=mesh, mp_policy=precision)
    fully_shard(model, mesh=mesh, mp_policy=precision)
    # Embedding and head belong to the model as a whole, which is never called: its hidden states are. So FSDP must know.
    model.base_forward = MethodType(_base_forward, model)  # type: ignore[assignment]
    register_fsdp_forward_method(model, "base_forward")


def base_of(model: PreTrainedModel) -> Callable[..., Any]:
    """What computes hidden states, divided or not: the model without its head."""
    divided = isinstance(model, FSDPModule)
    return cast(Callable[..., Any], model.base_forward if divided else model.base_model)


def whole(tensor: Tensor) -> Tensor:
    """All shares of a tensor together; what is not divided, as it is. All processes must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def copy_whole(divided: PreTrainedModel, model: PreTrainedModel) -> None:
    """Give a whole model the weights of a divided one, a weight at a time. All processes must ask."""
    for share, weight in zip(divided.parameters(), model.parameters(), strict=True):
        weight.copy_(whole(share))


def checkpoint_layers(model: PreTrainedModel) -> None:
    """Let the backward pass compute each layer again. Transformers' own switch needs its training mode, in which dropout
    and the noise of routers come back and change the network. Raises OptionError."""
    layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if not layers:
        raise OptionError(f"learn.checkpointing: a {model.config.model_type} model has no layers for it; leave it out.")
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)  # type: ignore[method-assign]


def _base_forward(model: PreTrainedModel, *arguments: Any, **options: Any) -> Any:
    return model.base_model(*arguments, **options)


def _layers(model: PreTrainedModel) -> torch.nn.ModuleList:
    """Return the list of the decoder's layers: as many as the configuration has, all of classes that the model names as not
    to be split. Raises OptionError unless it is the only one."""
    count, whole = model.config.get_text_config().num_hidden_layers, set(model._no_split_modules or ())
    lists = [each for each in model.modules() if isinstance(each, torch.nn.ModuleList) and len(each) == count]
    found = [each for each in lists if all(type(layer).__name__ in whole for layer in each)]
    if len(found) != 1:
        raise OptionError(
            f"processes: a {model.config.model_type} model has {len(found)} lists of {count} decoder layers (classes: "
            f"{', '.join(sorted(whole)) or 'none named'}), and it is divided by one. Train it in one process."
        )
    return found[0]
