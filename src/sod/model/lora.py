"""LoRA adapters on a frozen model (arXiv 2106.09685), through PEFT.

The adapters are injected in place. The model keeps its class, its head and its hidden states, so sampling and scoring need
no change. The functions here return its weights with the adapters merged, under their original names.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.pytorch_utils import Conv1D

from sod.errors import OptionError

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from peft.tuners.lora import Linear

WITHOUT_OUTPUT = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")
"""Types whose Mamba kernels read the weight of `out_proj`. PEFT refuses an adapter there."""
ADAPTER = "sod"
"""Name of the adapters in PEFT's parameter names."""


def add_low_rank(model: PreTrainedModel, rank: int, alpha: float, *, reports: bool = True) -> None:
    """Freeze the model and add a trainable adapter to each linear layer except the head: W + alpha / rank * B @ A.

    A is (rank, in) and random, the same in every run. B is (out, rank) and 0, so the model's outputs do not change at first.
    Both are always float32. Layers whose weight other code reads directly get none. `reports`: log the share of the weights
    without an adapter. Raise OptionError if PEFT is missing or the model has no linear layer.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise OptionError(
            f'learn.lora_rank needs PEFT, which cannot be imported ({error}). Type pip install ".[lean]" in a checkout of sod.'
        ) from error
    linear = adapted_layers(model)
    if not linear:
        raise OptionError(
            f"learn.lora_rank is not supported by models of type {model.config.model_type}, which have no linear layer. "
            "Leave it out."
        )
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=linear)  # type: ignore[arg-type]
    if reports:
        _say_what_stays(model, linear)
    with torch.random.fork_rng(devices=[]), _as_named():
        torch.manual_seed(0)
        inject_adapter_in_model(config, model, adapter_name=ADAPTER)
    end = f".lora_A.{ADAPTER}.weight"
    adapted = {name.removesuffix(end) for name, _ in model.named_parameters() if name.endswith(end)}
    if adapted != set(linear):
        raise OptionError(
            f"learn.lora_rank is not supported by models of type {model.config.model_type}: PEFT puts adapters on other layers, "
            f"for example {min(adapted ^ set(linear))}. Leave it out."
        )
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()


@contextmanager
def _as_named() -> Iterator[None]:
    """Let PEFT take layers by the names given to it.

    PEFT reads `shared_expert.up_proj` as a name from Transformers 4, and adapts the block of routed experts instead.
    """
    from peft.utils import transformers_weight_conversion as conversion

    original = conversion.convert_peft_config_for_transformers
    conversion.convert_peft_config_for_transformers = lambda *_, **__: None
    try:
        yield
    finally:
        conversion.convert_peft_config_for_transformers = original


def adapted_layers(model: PreTrainedModel) -> list[str]:
    """Return the names of the linear layers that get an adapter.

    PEFT's "all-linear" also selects blocks of experts, which `_plain` cannot merge.
    """
    output = model.get_output_embeddings()
    linear = {n: each for n, each in model.named_modules() if isinstance(each, torch.nn.Linear | Conv1D)}
    return [name for name, layer in linear.items() if layer is not output and not _is_bypassed(model, name)]


def _is_bypassed(model: PreTrainedModel, name: str) -> bool:
    """Return whether a Mamba layer reads the weight itself, without calling the layer, so that an adapter has no effect."""
    owner, _, last = name.rpartition(".")
    if not hasattr(model.get_submodule(owner), "A_log"):
        return False
    return last == "dt_proj" or (last == "out_proj" and model.config.model_type in WITHOUT_OUTPUT)


@contextmanager
def without_adapters(model: PreTrainedModel) -> Iterator[None]:
    """Compute with the frozen weights alone: every adapter is switched off within the context."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(enabled=False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(enabled=True)


def _say_what_stays(model: PreTrainedModel, linear: Sequence[str]) -> None:
    """Report the weight matrices that get no adapter because they are not in linear layers, such as experts."""
    learning = {f"{name}.weight" for name in linear}
    kept = {
        name: weight.numel()
        for name, weight in model.base_model.named_parameters(prefix=model.base_model_prefix)
        if weight.dim() > 1 and name not in learning and weight is not model.get_input_embeddings().weight
    }
    if kept:
        share = sum(kept.values()) / model.num_parameters()
        logger.warning(
            f"LoRA does not train {share:.0%} of the weights: {len(kept)} tensors without an adapter (such as experts), "
            f"for example {next(iter(kept))}."
        )


def plain_parameters(model: PreTrainedModel) -> Iterator[Tensor]:
    """Return the model's parameters with the adapters merged, in the model's order. They are merged one at a time."""
    return (weight for _, weight in _plain(model, model.named_parameters()))


def save_plain(model: PreTrainedModel, folder: Path) -> None:
    """Write the model in Hugging Face format, with adapters (if any) merged into the weights.

    Merged weights are rounded to the model's type. They are a second copy, in CPU memory.
    """
    own = model.state_dict()
    plain = {name: tensor if name in own else tensor.cpu() for name, tensor in _plain(model, own.items())}
    model.save_pretrained(folder, state_dict=plain)


def save_weights(model: PreTrainedModel, folder: Path) -> None:
    """Write weights and persistent buffers, each once, by the names of published checkpoints, with adapters merged.

    Every process can do so. Transformers' own function writes nothing in a process other than the first. vLLM knows the published
    names. Those of a loaded model can differ, such as for the experts of Mixtral.
    """
    first, every = ({name for name, _ in model.named_parameters(remove_duplicate=once)} for once in (True, False))
    own = ((name, tensor) for name, tensor in model.state_dict().items() if name not in every - first)
    plain = {name: tensor.detach().cpu() for name, tensor in _plain(model, own)}
    published = revert_weight_conversion(model, plain)
    save_file({name: tensor.contiguous() for name, tensor in published.items()}, folder / "model.safetensors")


@torch.no_grad()
def _plain(model: PreTrainedModel, named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Yield tensors with adapters merged, by their names in a model without adapters."""
    for name, tensor in named:
        owner, inside, what = name.partition(".base_layer.")
        if inside and what == "weight":
            layer = cast("Linear", model.get_submodule(owner))
            yield f"{owner}.weight", (tensor + layer.get_delta_weight(ADAPTER)).to(tensor.dtype)
        elif inside:
            yield f"{owner}.{what}", tensor
        elif f".{ADAPTER}." not in name:
            yield name, tensor
