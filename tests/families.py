"""Tiny random models of the families that users bring, by the name that the documentation gives them."""

from typing import Any

import pytest
import torch
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoModelForCausalLM,
    PreTrainedModel,
)

VOCABULARY = 48
SMALL: dict[str, Any] = {
    **{"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 48, "max_position_embeddings": 64},
    **{"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1},
}
FULL = {"layer_types": ["full_attention"] * 2}
WINDOW = {"sliding_window": 6}
"""Shorter than the sequences of the tests."""
WINDOWS = WINDOW | {"layer_types": ["sliding_attention", "full_attention"]}
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
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 16}
NEMOTRON = {
    **{"layers_block_type": ["mamba", "attention"], "mamba_num_heads": 8, "mamba_head_dim": 8, "ssm_state_size": 8},
    **{"n_groups": 1, "chunk_size": 16},
}
HYBRID = {"layer_types": ["mamba", "attention"], "num_local_experts": 0, "shared_intermediate_size": 16} | MAMBA
SCALED = {"logits_scaling": 8.0, "embedding_multiplier": 12.0, "residual_multiplier": 0.22}
PER_LAYER = {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8}

SEES = {
    **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 16},
    **{"image_size": 28, "patch_size": 14},
}
TOWER = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
IMAGES = {"image_token_id": 40, "video_token_id": 41, "vision_start_token_id": 42, "vision_end_token_id": 43}
SECTIONS = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
MULTIMODAL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "gemma3": (
        WINDOWS,
        {"vision_config": SEES, "image_token_index": 40, "boi_token_index": 41, "eoi_token_index": 42},
    ),
    "mistral3": ({"model_type": "ministral3"}, {"vision_config": SEES, "image_token_index": 40}),
    "qwen3_5": (LINEAR, {"vision_config": TOWER} | IMAGES),
    "qwen3_vl": ({"rope_parameters": SECTIONS}, {"vision_config": TOWER | {"deepstack_visual_indexes": [0]}} | IMAGES),
    "lfm2_vl": (
        CONVOLUTION | {"model_type": "lfm2"},
        {"vision_config": SEES | {"num_patches": 4}, "image_token_id": 40},
    ),
}
"""Type of a multimodal model -> the configurations of its language model and of its other parts."""

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Apertus": ("apertus", {}),
    "Arcee": ("arcee", {}),
    "Bamba": ("bamba", {"attn_layer_indices": [1]} | MAMBA),
    "BitNet": ("bitnet", {}),
    "Cohere Command R": ("cohere", {}),
    "Cohere Command R7B, A": ("cohere2", WINDOWS),
    "DeepSeek V2": ("deepseek_v2", LATENT),
    "DeepSeek V3": ("deepseek_v3", LATENT),
    "DiffLlama": ("diffllama", {}),
    "Doge": ("doge", {}),
    "ERNIE 4.5": ("ernie4_5", {}),
    "ERNIE 4.5 MoE": ("ernie4_5_moe", EXPERTS),
    "EXAONE 4": ("exaone4", WINDOWS),
    "Falcon-H1": ("falcon_h1", {"mamba_d_ssm": 64} | MAMBA),
    "Falcon Mamba": ("falcon_mamba", {}),
    "FlexOlmo": ("flex_olmo", EXPERTS),
    "Gemma": ("gemma", {}),
    "Gemma 2": ("gemma2", WINDOWS),
    "Gemma 3 (text)": ("gemma3_text", WINDOWS),
    "Gemma 3 (image and text)": ("gemma3", {}),
    "Gemma 4 (text)": ("gemma4_text", WINDOWS | PER_LAYER),
    "GLM 4": ("glm4", {}),
    "GLM 4 MoE": ("glm4_moe", GROUPS),
    "GLM": ("glm", {}),
    "GPT-2": ("gpt2", OLD),
    "GPT-NeoX, Pythia": ("gpt_neox", {}),
    "GPT-OSS": ("gpt_oss", WINDOWS | EXPERTS),
    "Granite 3": ("granite", SCALED),
    "Granite 3 MoE": ("granitemoe", SCALED | EXPERTS),
    "Granite 4 hybrid": ("granitemoehybrid", HYBRID | SCALED),
    "Helium": ("helium", {}),
    "Hunyuan": ("hunyuan_v1_dense", {}),
    "Jamba": ("jamba", EXPERTS | {"mamba_d_state": 8, "attn_layer_period": 2, "attn_layer_offset": 1}),
    "JetMoe": ("jetmoe", EXPERTS | {"kv_channels": 8}),
    "LFM2": ("lfm2", CONVOLUTION),
    "LFM2 MoE": ("lfm2_moe", CONVOLUTION | EXPERTS),
    "LFM2-VL (image and text)": ("lfm2_vl", {}),
    "Llama 2, Llama 3, SmolLM2": ("llama", {}),
    "Llama 4 (text)": ("llama4_text", {"num_local_experts": 2, "intermediate_size_mlp": 32, "attention_chunk_size": 6}),
    "Mamba": ("mamba", {}),
    "Mamba 2": ("mamba2", {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1, "chunk_size": 16}),
    "MiniMax M2": ("minimax_m2", EXPERTS),
    "Ministral": ("ministral", WINDOWS),
    "Ministral 3 (text)": ("ministral3", {}),
    "Mistral": ("mistral", WINDOW),
    "Mistral 3, Ministral 3 (image and text)": ("mistral3", {}),
    "Mixtral": ("mixtral", WINDOW | EXPERTS),
    "nanochat": ("nanochat", {}),
    "Nemotron 3, Nemotron-H": ("nemotron_h", NEMOTRON),
    "Nemotron 4": ("nemotron", {}),
    "OLMo": ("olmo", {}),
    "OLMo 2": ("olmo2", {}),
    "OLMo 3": ("olmo3", WINDOWS),
    "OLMo hybrid": ("olmo_hybrid", {}),
    "OLMoE": ("olmoe", EXPERTS),
    "OPT": ("opt", {"ffn_dim": 32, "word_embed_proj_dim": 32}),
    "Phi 1, Phi 2": ("phi", {}),
    "Phi 3, Phi 4": ("phi3", WINDOW),
    "Phi 3.5 MoE": ("phimoe", EXPERTS | {"sliding_window": None}),
    "Qwen 2, Qwen 2.5": ("qwen2", FULL),
    "Qwen 2 MoE": ("qwen2_moe", FULL | EXPERTS),
    "Qwen 3": ("qwen3", FULL),
    "Qwen 3 MoE": ("qwen3_moe", FULL | EXPERTS),
    "Qwen3-Next": ("qwen3_next", LINEAR | EXPERTS),
    "Qwen3-VL (image and text)": ("qwen3_vl", {}),
    "Qwen 3.5 (text)": ("qwen3_5_text", LINEAR),
    "Qwen 3.5 (image and text)": ("qwen3_5", {}),
    "Qwen 3.5 MoE (text)": ("qwen3_5_moe_text", LINEAR | EXPERTS),
    "Seed-OSS": ("seed_oss", {}),
    "SmolLM3": ("smollm3", {}),
    "StableLM": ("stablelm", {}),
    "StarCoder 2": ("starcoder2", WINDOW),
}
"""Name -> the type in Transformers, and what its tiny configuration changes."""


def tiny(
    kind: str, more: dict[str, Any], dtype: torch.dtype = torch.float32, *, spread: float = 0.02
) -> PreTrainedModel:
    """A random model of a kind, with Transformers' own attention; `spread` is what its weights are drawn with."""
    if kind not in CONFIG_MAPPING:
        pytest.skip(f"this Transformers has no {kind}")
    small = SMALL | {"initializer_range": spread}
    language, others = MULTIMODAL.get(kind, ({}, {}))
    entries: dict[str, Any] = others | {"text_config": small | language} if others else small | more
    config = CONFIG_MAPPING[kind](**entries)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if others:
            whole: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
            return whole(config).to(dtype).eval()
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
