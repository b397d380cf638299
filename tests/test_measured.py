"""What is measured of a model without its weights, against the same model with weights."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, tiny
from transformers import AutoModelForCausalLM, Cache, PreTrainedModel

from sod.config import LearnOptions
from sod.model.attention import ATTENTION, SlotCache
from sod.model.caching import read_on
from sod.model.forward import alone, forward
from sod.model.lora import add_low_rank
from sod.planning.measured import MeasuredShape

LENGTH = 1536
"""Tokens of a sequence, more than were recorded."""
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: FAMILIES[name] for name in ("Gemma 2", "Ministral", "GPT-OSS", "DeepSeek V3", "LFM2")},
    "OLMoE": ("olmoe", FAMILIES["OLMoE"][1] | {"num_hidden_layers": 4}),
    "Qwen 3.5 (text)": (
        "qwen3_5_text",
        FAMILIES["Qwen 3.5 (text)"][1]
        | {
            "num_hidden_layers": 4,
            "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"],
        },
    ),
    "Mamba 2": FAMILIES["Mamba 2"],
    "Falcon-H1": FAMILIES["Falcon-H1"],
    "Mamba": FAMILIES["Mamba"],
}
"""Windows, experts, latent attention, and layers with a state; two cases have equal layers."""


def length_of(name: str) -> int:
    return 48 if name == "Mamba" else LENGTH


def real(name: str) -> PreTrainedModel:
    kind, more = CASES[name]
    model = tiny(kind, more)
    return AutoModelForCausalLM.from_config(copy.deepcopy(model.config), attn_implementation=ATTENTION).eval()


def measured(name: str, folder: Path) -> MeasuredShape:
    kind, more = CASES[name]
    tiny(kind, more).config.save_pretrained(folder)
    found = MeasuredShape.of(folder / "config.json")
    assert isinstance(found, MeasuredShape), found
    return found


def saved_bytes(model: PreTrainedModel, length: int) -> int:
    """Bytes that autograd keeps of a pass, with its output."""
    own = {weight.untyped_storage().data_ptr() for weight in [*model.parameters(), *model.buffers()]}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in own:
            kept[place] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = alone(model, torch.ones(length, dtype=torch.long))
    kept[hidden.untyped_storage().data_ptr()] = hidden
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def cache_tensors(value: Any) -> list[torch.Tensor]:
    """Tensors in one of Transformers' caches, without its own classes' names."""
    if isinstance(value, torch.Tensor):
        return [value]
    inner = (
        vars(value).values() if isinstance(value, Cache) or type(value).__module__ == "transformers.cache_utils" else ()
    )
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else inner
    return [tensor for each in inner for tensor in cache_tensors(each)]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_weights_activations_and_caches_are_those_of_the_model_with_weights(name: str, tmp_path: Path) -> None:
    model, found, length = real(name), measured(name, tmp_path), length_of(name)
    assert found.parameters == sum(weight.numel() for weight in model.parameters())
    kept, backward = found.held_bytes(length, 4, LearnOptions())
    assert kept == pytest.approx(saved_bytes(model, length), rel=0.06)
    assert backward > 0
    with torch.no_grad():
        if found.packs:
            cache = SlotCache(1, torch.device("cpu"))
            layout = cache.reading([0], [0], [length])
            forward(model, torch.ones(length, dtype=torch.long), layout.positions, layout)
            tensors = [tensor[:, :, :length] for pair in cache._layers.values() for tensor in pair]
            assert found.trajectory_bytes(length, 8, 4) == sum(tensor.numel() * 4 for tensor in tensors)
        else:
            state, prompt = (read_on(model, [1] * count, 0, None)[1] for count in (length, length // 2))
            size = sum(tensor.nbytes for each in (state, prompt) for tensor in cache_tensors(list(each.values())))
            assert found.trajectory_bytes(length, length // 2, 4) == pytest.approx(size, rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["OLMoE", "Falcon-H1"])
def test_adapters_are_counted_and_checkpointing_keeps_less(name: str, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    model, found = real(name), measured(name, tmp_path)
    add_low_rank(model, 4, 8.0)
    assert found.adapters(4) == sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    kept, _ = found.held_bytes(LENGTH, 4, LearnOptions(lora_rank=4))
    assert kept == pytest.approx(saved_bytes(model, LENGTH), rel=0.03)
    plain, sparing = (found.held_bytes(LENGTH, 4, LearnOptions(checkpointing=each)) for each in (False, True))
    assert sparing[0] < plain[0] / 2
    assert sum(sparing) < sum(plain)
