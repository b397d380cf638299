"""Take the language model out of a multimodal one, such as Gemma 3 or Mistral 3. The result is a text model of its own type."""

from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    PreTrainedConfig,
    PreTrainedModel,
)

from sod.errors import ModelError

SAME_FOR_TEXT = {"qwen3_vl_text": "qwen3", "qwen3_vl_moe_text": "qwen3_moe"}
"""Types without a causal language model in Transformers -> types that should compute the same on text. This is verified."""
PROBE_TOKENS = 6
EXACT, COARSE = 1e-3, 0.1
"""Largest relative difference of logits between both models, in float32 and in coarser types."""


def text_config(config: PreTrainedConfig) -> PreTrainedConfig | None:
    """Return the configuration of a multimodal model's language model; None if Transformers has no class for it.

    The configuration of a text model is returned unchanged.
    """
    if not is_multimodal(config):
        return config if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING else None
    text = config.get_text_config()
    if (same := SAME_FOR_TEXT.get(text.model_type)) is not None:
        entries = {name: value for name, value in text.to_dict().items() if name != "model_type"}
        return CONFIG_MAPPING[same](**entries)
    return text if type(text) in MODEL_FOR_CAUSAL_LM_MAPPING else None


def is_multimodal(config: PreTrainedConfig) -> bool:
    return config.get_text_config() is not config and whole_class(config) is not None


def whole_class(config: PreTrainedConfig) -> Any:
    """Return Transformers' class of a whole multimodal model, or None."""
    language: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    whole = language if language is not None and language.config_class is type(config) else None
    return MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(type(config), whole)


@torch.no_grad()
def text_part(whole: PreTrainedModel, folder: Path, attention: str | None) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Return the language model of a multimodal one, and Transformers' report of its weights.

    Raise ModelError if it does not compute the same logits for text.
    """
    config = text_config(whole.config)
    decoder, head = whole.get_decoder(), whole.get_output_embeddings()
    if config is None or head is None:
        raise ModelError(_refused(whole, folder, "its language model has no class of its own in Transformers"))
    of_text: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    config.tie_word_embeddings = head.weight is whole.get_input_embeddings().weight
    weights = {f"{of_text.base_model_prefix}.{name}": weight for name, weight in decoder.state_dict().items()}
    weights |= {} if config.tie_word_embeddings else {"lm_head.weight": cast(torch.Tensor, head.weight)}
    text, report = of_text.from_pretrained(
        None,
        config=config,
        state_dict=weights,
        dtype=whole.dtype,
        attn_implementation=attention,
        output_loading_info=True,
    )
    text.generation_config = whole.generation_config
    off = _difference(whole, text.eval(), attention)
    if not off <= (EXACT if whole.dtype == torch.float32 else COARSE):
        raise ModelError(_refused(whole, folder, f"without its other parts, its logits for text differ by {off:.1%}"))
    return text, report


def _difference(whole: PreTrainedModel, text: PreTrainedModel, attention: str | None) -> float:
    """Return the relative difference of both models' logits for text."""
    highest = whole.get_input_embeddings().weight.shape[0]  # type: ignore[union-attr]
    ids_1T = torch.randint(int(highest), (1, PROBE_TOKENS), generator=torch.Generator().manual_seed(0))
    for model in (whole, text):
        model.set_attn_implementation("eager")
    wanted, found = (model(input_ids=ids_1T, use_cache=False).logits.float() for model in (whole, text))
    if attention is not None:
        text.set_attn_implementation(attention)
    return ((found - wanted).norm() / wanted.norm().clamp(min=1e-9)).item()


def _refused(whole: PreTrainedModel, folder: Path, why: str) -> str:
    return f"The model in {folder} (type {whole.config.model_type}) is not supported: {why}. Use a text model such as Qwen3."
