"""What the probe at load finds, in every type, and what it refuses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import CONVOLUTION, EXPERTS, FAMILIES, FULL, LINEAR, OLD, VOCABULARY, WINDOWS, tiny
from torch import Tensor
from transformers import PreTrainedModel

from sod.core import Head
from sod.errors import ModelError
from sod.model.attention import ATTENTION
from sod.model.forward import logits_of, output_head
from sod.model.proof import prove_model
from sod.model.traits import Traits, traits_of

PACKED = [
    "Qwen 3",
    "Qwen 3 MoE",
    "Phi 1, Phi 2",
    "DeepSeek V3",
    "GPT-2",
    "GPT-OSS",
    "Gemma 2",
    "Gemma 3 (text)",
    "Mistral",
]
ALONE = ["Qwen 3.5 (text)", "LFM2", "Granite 4 hybrid", "Falcon-H1", "Mamba 2", "StableLM", "DiffLlama"]


def proven(
    kind: str, more: dict[str, Any], dtype: torch.dtype = torch.float32, spread: float = 0.02
) -> PreTrainedModel:
    model = tiny(kind, more, dtype, spread=spread)
    model.set_attn_implementation(ATTENTION)
    prove_model(model, Path("model"))
    return model


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("name", [*PACKED, *ALONE])
def test_a_model_is_read_in_the_same_way_in_every_type(name: str, dtype: torch.dtype) -> None:
    traits = traits_of(proven(*FAMILIES[name], dtype))
    assert traits.packs == (name in PACKED)
    assert not traits.no_sampling


def test_a_leak_too_weak_to_change_a_number_is_seen() -> None:
    """A model with hardly any mixing today may learn to mix."""
    for spread in (1e-5, 1.0):
        assert not traits_of(proven("lfm2", CONVOLUTION, torch.bfloat16, spread)).packs


def test_strong_weights_change_nothing() -> None:
    for name in ("Qwen 3", "Qwen 3 MoE", "GLM 4 MoE"):
        for dtype in (torch.float32, torch.bfloat16):
            assert traits_of(proven(*FAMILIES[name], dtype, 0.5)).packs


def test_a_cache_that_is_wrong_for_several_tokens_is_read_one_token_per_pass() -> None:
    assert traits_of(proven("falcon_mamba", {}, spread=0.3)).single_steps
    assert not traits_of(proven("qwen3_5_text", LINEAR, spread=0.3)).single_steps


# The head


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("kind", "more", "scale", "cap"),
    [
        ("cohere", {"logit_scale": 0.3}, 0.3, None),
        ("granite", {"logits_scaling": 7.0}, 1 / 7, None),
        ("gemma2", {"final_logit_softcapping": 13.0}, 1.0, 13.0),
        ("gemma2", {"final_logit_softcapping": None}, 1.0, None),
        ("falcon_h1", {"mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8, "lm_head_multiplier": 0.4}, 0.4, None),
    ],
)
def test_scale_and_cap_of_the_logits_are_found(
    kind: str, more: dict[str, Any], scale: float, cap: float | None, dtype: torch.dtype
) -> None:
    traits = traits_of(proven(kind, more, dtype))
    assert (traits.scale, traits.cap) == (pytest.approx(scale), cap)


def test_a_bias_of_the_head_is_part_of_its_logits() -> None:
    model = tiny("phi", {})
    model.lm_head.bias.data[3] = 1e-4  # type: ignore[union-attr, operator]
    model.set_attn_implementation(ATTENTION)
    prove_model(model, Path("model"))
    assert logits_of(model, torch.zeros(1, 32))[0, 3].item() == pytest.approx(1e-4)


@pytest.mark.parametrize(
    "change",
    [lambda logits: logits * 1.01, lambda logits: logits + 1e-4, lambda logits: logits.clamp(max=90)],
    ids=["scale", "bias", "cap"],
)
def test_a_head_that_computes_anything_else_is_refused(change: Callable[[Tensor], Tensor]) -> None:
    """No number of the configuration explains these logits."""
    model = tiny("qwen3", FULL)
    model.set_attn_implementation(ATTENTION)
    model.get_output_embeddings().register_forward_hook(lambda _module, _inputs, output: change(output))  # type: ignore[union-attr]
    with pytest.raises(ModelError, match="computes logits in an unknown way"):
        prove_model(model, Path("model"))


def test_a_model_that_was_not_proven_has_a_plain_head() -> None:
    head = output_head(tiny("qwen3", FULL))
    assert isinstance(head, Head)
    assert (head.scale, head.cap, head.bias_V, len(head)) == (1.0, None, None, VOCABULARY)


# What the proof refuses, and what it leaves


def test_a_head_that_reads_other_hidden_states_is_refused() -> None:
    with pytest.raises(ModelError, match="its head does not read the hidden states"):
        proven(*FAMILIES["OPT"])


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_named(value: float) -> None:
    """Also where no token of the probe would meet them: one expert of four."""
    model = tiny("qwen3_moe", FULL | EXPERTS, torch.bfloat16)
    weights = dict(model.named_parameters())
    weights["model.layers.1.mlp.experts.down_proj"].data[3, 0, 0] = value
    with pytest.raises(
        ModelError, match=r"not finite: model\.layers\.1\.mlp\.experts\.down_proj holds NaN or infinity"
    ):
        prove_model(model, Path("model"))


@pytest.mark.parametrize(("kind", "more"), [("qwen3", FULL), ("gemma3_text", WINDOWS), ("gpt2", OLD)])
def test_the_proof_leaves_the_model_as_it_was(kind: str, more: dict[str, Any]) -> None:
    model = tiny(kind, more, spread=0.3)
    model.set_attn_implementation(ATTENTION)
    ids = torch.arange(12)[None]
    before = model(input_ids=ids, use_cache=False).logits
    prove_model(model, Path("model"))
    assert model.config._attn_implementation == ATTENTION
    assert torch.equal(model(input_ids=ids, use_cache=False).logits, before)
    assert traits_of(model) == Traits()
