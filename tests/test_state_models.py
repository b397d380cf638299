"""Learning of layers that carry a state: adapters and recomputed layers have the gradients of the plain model."""

import copy

import pytest
import torch
from families import FAMILIES, tiny
from torch import Tensor
from transformers import PreTrainedModel

from sod.model.forward import alone
from sod.model.fsdp import checkpoint_layers
from sod.model.lora import ADAPTER, adapted_layers, add_low_rank

STATES = (
    *(
        "Bamba",
        "Falcon Mamba",
        "Falcon-H1",
        "Granite 4 hybrid",
        "Jamba",
        "LFM2",
        "Mamba",
        "Mamba 2",
        "Nemotron 3, Nemotron-H",
    ),
    *("OLMo hybrid", "Qwen 3.5 (text)", "Qwen3-Next"),
)


def gradients(model: PreTrainedModel) -> dict[str, Tensor]:
    model.zero_grad()
    ids = torch.arange(12) % 40
    alone(model, ids).square().sum().backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("name", STATES)
def test_recomputed_layers_have_the_same_gradients(name: str) -> None:
    model = tiny(*FAMILIES[name], spread=0.15)
    expected = gradients(model)
    checkpoint_layers(model)
    found = gradients(model)
    assert found.keys() == expected.keys()
    for each in expected:
        torch.testing.assert_close(found[each], expected[each], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", STATES)
def test_every_adapter_has_the_gradient_of_its_weight(name: str) -> None:
    """B is 0, so its gradient is that of the weight times A transposed, times alpha / rank = 2."""
    pytest.importorskip("peft")
    model = tiny(*FAMILIES[name], spread=0.15)
    plain = gradients(copy.deepcopy(model))
    layers = adapted_layers(model)
    assert layers
    add_low_rank(model, 4, 8.0)
    found = gradients(model)
    for layer in layers:
        a = model.get_parameter(f"{layer}.lora_A.{ADAPTER}.weight")
        expected = 2 * plain[f"{layer}.weight"] @ a.T
        torch.testing.assert_close(found[f"{layer}.lora_B.{ADAPTER}.weight"], expected, rtol=1e-3, atol=1e-4)
