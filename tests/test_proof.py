"""Models that Transformers has, tiny and random: each is computed as Transformers does, or refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from sod.errors import ModelError
from sod.model.attention import ATTENTION
from sod.model.proof import prove_model

SMALL: dict[str, Any] = {
    **{"vocab_size": 48, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
    **{"head_dim": 8, "intermediate_size": 48, "max_position_embeddings": 64},
    **{"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1},
}
FULL = {"layer_types": ["full_attention"] * 2}
NO_WINDOW = {"sliding_window": None}
EXPERTS = {
    **{"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2},
    **{"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
}
GROUPS = EXPERTS | {"first_k_dense_replace": 1, "n_group": 1, "topk_group": 1}
LATENT = GROUPS | {
    **{"num_key_value_heads": 4, "kv_lora_rank": 16, "q_lora_rank": None},
    **{"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8},
}
OLD = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
LINEAR = {
    **{"layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2, "linear_num_value_heads": 4},
    **{"linear_key_head_dim": 8, "linear_value_head_dim": 8},
}
CONVOLUTION = {"layer_types": ["conv", "full_attention"]}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8}

RIGHT: dict[str, dict[str, Any]] = {
    **{key: {} for key in ("llama", "smollm3", "phi", "granite", "olmo", "olmo2", "gemma", "glm", "glm4", "helium")},
    **{key: {} for key in ("ernie4_5", "hunyuan_v1_dense", "seed_oss", "apertus", "arcee", "bitnet", "gpt_neox")},
    **dict.fromkeys(("qwen2", "qwen3", "olmo3", "gemma3_text", "exaone4", "ministral", "ministral3"), FULL),
    **dict.fromkeys(("qwen2_moe", "qwen3_moe"), FULL | EXPERTS),
    **dict.fromkeys(("phi3", "mistral", "starcoder2"), NO_WINDOW),
    **dict.fromkeys(("phimoe", "mixtral"), NO_WINDOW | EXPERTS),
    **dict.fromkeys(("olmoe", "minimax_m2", "granitemoe", "ernie4_5_moe", "flex_olmo"), EXPERTS),
    "glm4_moe": GROUPS,
    **dict.fromkeys(("deepseek_v2", "deepseek_v3"), LATENT),
    "jetmoe": EXPERTS | {"kv_channels": 8},
    "gpt2": OLD,
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    **dict.fromkeys(("qwen3_5_text",), (LINEAR, "influence each other.* state or a convolution .*linear_attention")),
    **dict.fromkeys(("qwen3_next", "qwen3_5_moe_text"), (LINEAR | EXPERTS, "influence each other.*linear_attention")),
    "lfm2": (CONVOLUTION, r"influence each other.*\(conv\)"),
    "lfm2_moe": (CONVOLUTION | EXPERTS, r"influence each other.*\(conv\)"),
    "granitemoehybrid": (
        {"layer_types": ["mamba", "attention"], "num_local_experts": 0, "shared_intermediate_size": 16} | MAMBA,
        "influence each other",
    ),
    "falcon_h1": ({"mamba_d_ssm": 64} | MAMBA, "influence each other"),
    "bamba": ({"attn_layer_indices": [1]} | MAMBA, "influence each other"),
    "mamba2": ({"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1}, "influence each other"),
    **dict.fromkeys(("mamba", "falcon_mamba", "nemotron_h", "olmo_hybrid"), ({}, "influence each other")),
    "jamba": (EXPERTS | {"mamba_d_state": 8}, "influence each other"),
    **dict.fromkeys(
        ("stablelm", "nemotron"), ({}, "influence each other.* ignores the arguments that keep sequences apart")
    ),
    "diffllama": ({}, "token by token, .* from those of the single sequence"),
    **dict.fromkeys(("cohere", "nanochat"), ({}, "scales or caps them, or adds a bias")),
    "gemma2": (FULL, "scales or caps them, or adds a bias"),
    "opt": ({"ffn_dim": 32, "word_embed_proj_dim": 32}, "its head does not read the hidden states"),
    "gpt_oss": (FULL | EXPERTS, "s_aux"),
    "mistral": ({"sliding_window": 16}, "sliding_window"),
    "llama4_text": ({"num_local_experts": 2, "intermediate_size_mlp": 32}, "cannot read packed sequences"),
    "doge": ({}, "cannot read packed sequences"),
}


def tiny(
    kind: str, more: dict[str, Any], dtype: torch.dtype = torch.float32, *, spread: float = 0.02
) -> PreTrainedModel:
    """A random model of a kind; `spread` is what its weights are drawn with."""
    if kind not in CONFIG_MAPPING:
        pytest.skip(f"this Transformers has no {kind}")
    config = CONFIG_MAPPING[kind](**(SMALL | {"initializer_range": spread} | more))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=ATTENTION).eval()


@pytest.mark.parametrize("kind", RIGHT)
def test_a_model_whose_tokens_meet_in_attention_alone_is_taken_in_every_type(kind: str) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        prove_model(tiny(kind, RIGHT[kind], dtype), Path("model"))


@pytest.mark.parametrize("kind", REFUSED)
def test_a_model_that_would_compute_something_else_is_refused_in_every_type(kind: str) -> None:
    more, why = REFUSED[kind]
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.raises(ModelError, match=why):
            prove_model(tiny(kind, more, dtype), Path("model"))


def test_a_leak_too_weak_to_change_a_number_is_seen() -> None:
    """A model with hardly any mixing today may learn to mix."""
    for spread in (1e-5, 1.0):
        with pytest.raises(ModelError, match="influence each other"):
            prove_model(tiny("lfm2", CONVOLUTION, torch.bfloat16, spread=spread), Path("model"))


def test_strong_weights_are_no_reason_to_refuse() -> None:
    for kind in ("qwen3", "qwen3_moe", "glm4_moe"):
        for dtype in (torch.float32, torch.bfloat16):
            prove_model(tiny(kind, RIGHT[kind], dtype, spread=0.5), Path("model"))


def test_a_small_bias_of_the_head_is_seen() -> None:
    model = tiny("phi", {})
    model.lm_head.bias.data[3] = 1e-4  # type: ignore[union-attr, operator]
    with pytest.raises(ModelError, match="adds a bias"):
        prove_model(model, Path("model"))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_named(value: float) -> None:
    """Also where no token of the probe would meet them: one expert of four."""
    model = tiny("qwen3_moe", RIGHT["qwen3_moe"], torch.bfloat16)
    weights = dict(model.named_parameters())
    weights["model.layers.1.mlp.experts.down_proj"].data[3, 0, 0] = value
    with pytest.raises(
        ModelError, match=r"not finite: model\.layers\.1\.mlp\.experts\.down_proj holds NaN or infinity"
    ):
        prove_model(model, Path("model"))


def test_the_proof_leaves_the_model_as_it_was() -> None:
    model = tiny("qwen3", RIGHT["qwen3"])
    ids = torch.arange(6)[None]
    before = model(input_ids=ids, use_cache=False).logits
    prove_model(model, Path("model"))
    assert model.config._attn_implementation == ATTENTION
    assert torch.equal(model(input_ids=ids, use_cache=False).logits, before)
