"""Low-rank differences to the weights of a frozen model (LoRA, arXiv 2106.09685), through PEFT.

They are put into the model where it stands: it keeps its class, its head and its hidden states, and who samples from it or
scores with it need not know. Who wants its weights asks here, and gets them merged, under their plain names.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from sod.console.progress import say
from sod.errors import OptionError

if TYPE_CHECKING:
    from peft.tuners.lora import Linear

NAME = "sod"
"""Of the differences, in PEFT's names of parameters."""


def add_low_rank(model: PreTrainedModel, rank: int, alpha: float) -> None:
    """Freeze the model, and give each of its linear layers but the head a difference that learns: W + alpha / rank * B @ A.

    A is (rank, in) and random, the same in every run; B is (out, rank) and 0, so the model computes what it did before.
    Both are float32, whatever the model is. Raises OptionError where PEFT is missing.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise OptionError(
            f'learn.lora_rank needs PEFT ({error}): pip install ".[lean]" in a checkout of sod.'
        ) from error
    # PEFT's "all-linear" takes in blocks of experts, too, and `_plain` cannot merge those.
    output = model.get_output_embeddings()
    linear = [
        n for n, layer in model.named_modules() if isinstance(layer, torch.nn.Linear | Conv1D) and layer is not output
    ]
    if not linear:
        raise OptionError(f"learn.lora_rank: a {model.config.model_type} model has no linear layer; leave it out.")
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=linear)  # type: ignore[arg-type]
    _say_what_stays(model, linear)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inject_adapter_in_model(config, model, adapter_name=NAME)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()


def _say_what_stays(model: PreTrainedModel, linear: Sequence[str]) -> None:
    """Experts, and whatever else holds matrices without being a linear layer, stay as they are."""
    learning = {f"{name}.weight" for name in linear}
    kept = {
        name: weight.numel()
        for name, weight in model.base_model.named_parameters(prefix=model.base_model_prefix)
        if weight.dim() > 1 and name not in learning and weight is not model.get_input_embeddings().weight
    }
    if kept:
        share = sum(kept.values()) / model.num_parameters()
        say(
            f"LoRA leaves {share:.0%} of the weights as they are: {len(kept)} tensors that are no linear layers, such as "
            f"{next(iter(kept))}. Experts are such tensors."
        )


def plain_parameters(model: PreTrainedModel) -> Iterator[Tensor]:
    """The parameters of the model as it would be without differences, in its order; merged ones are made one at a time."""
    return (weight for _, weight in _plain(model, model.named_parameters()))


def save_plain(model: PreTrainedModel, folder: Path) -> None:
    """Write the model in Hugging Face format, with its differences, if it has any, merged into the weights.

    Merged weights are rounded to the model's type. They are made in the memory of the CPU, beside the model.
    """
    own = model.state_dict()
    plain = {name: tensor if name in own else tensor.cpu() for name, tensor in _plain(model, own.items())}
    model.save_pretrained(folder, state_dict=plain)


def save_weights(model: PreTrainedModel, folder: Path) -> None:
    """Write the model's weights alone, each once, as `save_plain` would; also in a process that is not the first of several,
    where Transformers writes nothing."""
    plain = {name: tensor.detach().contiguous() for name, tensor in _plain(model, model.named_parameters())}
    save_file(plain, folder / "model.safetensors")


@torch.no_grad()
def _plain(model: PreTrainedModel, named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Tensors by their names in a model without differences."""
    for name, tensor in named:
        owner, inside, what = name.partition(".base_layer.")
        if inside and what == "weight":
            layer = cast("Linear", model.get_submodule(owner))
            yield f"{owner}.weight", (tensor + layer.get_delta_weight(NAME)).to(tensor.dtype)
        elif inside:
            yield f"{owner}.{what}", tensor
        elif f".{NAME}." not in name:
            yield name, tensor
