"""Upper limits of one micro-batch of learning, counted on meta tensors: multiplications, memory traffic, kernels, attention.

The models have the published sizes, but no numbers. Each operation of the product's own code is counted by its arguments and
results. Attention is counted by calls and not by its own work, because meta tensors take none of the GPU's kernels.
Logits are computed as on a CPU, with one conversion more than on a GPU, so traffic and kernels are slightly too high.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from fake_gpu import VIEWS
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3Config, Qwen3ForCausalLM

from sod.core import token_loss
from sod.model.attention import ATTENTION, Variant
from sod.model.forward import forward, output_head
from sod.model.fsdp import checkpoint_layers
from sod.planning.inventory import ON_HUB
from sod.planning.memory import Shape

TOKENS = 4 * 4096
SIZES = {"Qwen/Qwen3-0.6B": (1024, 3072), "Qwen/Qwen3-1.7B": (2048, 6144)}
"""Width and width of the feed-forward layers."""
CEILINGS = {
    ("Qwen/Qwen3-0.6B", False): (5_600, 800),
    ("Qwen/Qwen3-0.6B", True): (7_050, 950),
    ("Qwen/Qwen3-1.7B", False): (5_600, 1_140),
    ("Qwen/Qwen3-1.7B", True): (7_050, 1_350),
}
"""Most kernels, and most gigabytes read and written, by model and checkpointing: what was counted, and 2 % more."""


class Work(TorchDispatchMode):
    """Counts kernels, and the bytes that they read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels, self.bytes = 0, 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = operation(*args, **(kwargs or {}))
        if operation._schema.name.partition("::")[2] not in VIEWS:
            tensors = [each for each in tree_leaves((args, kwargs, found)) if isinstance(each, Tensor)]
            self.kernels += 1
            self.bytes += sum(each.nbytes for each in tensors)
        return found


class Attention(torch.autograd.Function):
    """Attention without numbers. Counts its calls."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, calls: Counter[str]) -> Tensor:
        calls["forward"] += 1
        ctx.save_for_backward(query, key, value)
        ctx.calls = calls
        return torch.empty_like(query)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        ctx.calls["backward"] += 1
        return *(torch.empty_like(saved) for saved in ctx.saved_tensors), None


@dataclass
class Counting:
    """A layout that counts calls of attention."""

    calls: Counter[str] = field(default_factory=Counter)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None, variant: Variant | None = None
    ) -> Tensor:
        del layer, scale
        assert variant is None
        return Attention.apply(query, key, value, self.calls)  # type: ignore[no-any-return]


def model_without_numbers(name: str) -> Qwen3ForCausalLM:
    width, feed_forward = SIZES[name]
    config = Qwen3Config(
        vocab_size=151_936,
        hidden_size=width,
        intermediate_size=feed_forward,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
        dtype=torch.bfloat16,
    )
    config._attn_implementation = ATTENTION
    with torch.device("meta"):
        return Qwen3ForCausalLM(config).bfloat16().eval()


def learn(model: Qwen3ForCausalLM, layout: Counting) -> None:
    """Compute the gradient of one packed micro-batch, as `Policy` does."""
    ids_N = torch.zeros(TOKENS, dtype=torch.long, device="meta")
    hidden_ND = forward(model, ids_N, torch.zeros(1, TOKENS, dtype=torch.long, device="meta"), layout)
    loss, _, _ = token_loss(hidden_ND, output_head(model), ids_N, lambda logprobs_N, _: -logprobs_N, entropy=True)
    loss.backward()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", SIZES)
def test_a_micro_batch_stays_below_its_ceilings(name: str, checkpointing: bool) -> None:
    model, layout = model_without_numbers(name), Counting()
    assert sum(weight.numel() for weight in model.parameters()) == ON_HUB[name].parameters
    if checkpointing:
        checkpoint_layers(model)
    with FlopCounterMode(display=False) as counter, Work() as work:
        learn(model, layout)

    shape: Shape = ON_HUB[name]
    linear = shape.layers * sum(inputs * outputs for inputs, outputs in shape.projections)
    # Forward and two products backward. What is computed again ends before a layer's last map, whose output nobody needs.
    again = linear - shape.layers * shape.width * shape.feed_forward if checkpointing else 0
    assert counter.get_total_flops() == pytest.approx(2 * TOKENS * (3 * linear + again + 3 * shape.embedding), rel=2e-3)
    assert layout.calls == {"forward": shape.layers * (1 + checkpointing), "backward": shape.layers}
    kernels, gigabytes = CEILINGS[name, checkpointing]
    assert work.kernels <= kernels
    assert work.bytes <= gigabytes * 1e9
