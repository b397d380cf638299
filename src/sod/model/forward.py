"""The forward pass of scoring, training and sampling: packed tokens in one row, and a layout that separates sequences.

Models that cannot read packed sequences read one sequence per pass, with Transformers' own attention.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sod.core import Head
from sod.model.attention import Layout, Packed, check_attention
from sod.model.fsdp import base_of, head_layer
from sod.model.prefixes import SharedStarts, find_families, worth_sharing
from sod.model.traits import traits_of


def head(model: PreTrainedModel) -> Tensor:
    """Return the rows of the output embedding that belong to tokens. -> (V, D)

    Many heads have more rows than the tokenizer has ids. `load_model` removes them from the layer's `out_features`.
    Therefore sampling, scoring and training all give them probability 0, and agree about all other ids.
    """
    layer = head_layer(model)
    return _of_tokens(layer, layer.weight)


def output_head(model: PreTrainedModel) -> Head:
    """Return the function from hidden states to the logits of tokens."""
    layer, traits = head_layer(model), traits_of(model)
    bias: Tensor | None = layer.bias  # type: ignore[assignment]
    return Head(head(model), None if bias is None else _of_tokens(layer, bias), traits.scale, traits.cap)


def _of_tokens(layer: torch.nn.Linear, rows: Tensor) -> Tensor:
    return rows if layer.out_features == rows.shape[0] else rows[: layer.out_features]


def logits_of(model: PreTrainedModel, hidden_ND: Tensor) -> Tensor:
    """Return the logits of tokens, in float32. -> (N, V)"""
    return output_head(model).logits(hidden_ND)


def forward(model: PreTrainedModel, ids_N: Tensor, positions_1N: Tensor, layout: Layout) -> Tensor:
    """Return the last hidden states, before the head. -> (N, D)"""
    return base_of(model)(
        input_ids=ids_N[None], position_ids=positions_1N, use_cache=False, layout=layout
    ).last_hidden_state[0]


def alone(model: PreTrainedModel, ids_T: Tensor) -> Tensor:
    """Return the last hidden states of one sequence, as Transformers computes them. -> (T, D)"""
    return base_of(model)(input_ids=ids_T[None], use_cache=False).last_hidden_state[0]


def hidden_states(model: PreTrainedModel, ids_BT: Tensor, lengths_B: Tensor) -> Tensor:
    """Return the last hidden states, before the head, of the rows' first `lengths_B` tokens, packed. -> (N, D)

    The common start of adjacent rows is read once, where that saves enough.
    """
    lengths = lengths_B.tolist()
    if not traits_of(model).packs:
        return torch.cat([alone(model, row[:length]) for row, length in zip(ids_BT, lengths, strict=True)])
    check_attention(model)
    if worth_sharing(families := find_families(ids_BT, lengths)):
        shared = SharedStarts(families)
        return forward(model, shared.ids(ids_BT), shared.positions(ids_BT.device), shared)[shared.places(ids_BT.device)]
    layout = Packed(lengths)
    ids_N = torch.cat([row[:length] for row, length in zip(ids_BT, lengths, strict=True)])
    return forward(model, ids_N, layout.positions(ids_BT.device), layout)


def id_count(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return one more than the highest id of a token."""
    return max(tokenizer.get_vocab().values()) + 1


def end_ids(model: PreTrainedModel) -> frozenset[int]:
    """Return the end-of-sequence ids in the model's generation_config.json."""
    config = model.generation_config
    return _ends(None if config is None else config.eos_token_id)


_PLAIN_SAMPLING: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "sequence_bias"), (None, [])),
    **dict.fromkeys(("forced_bos_token_id", "forced_eos_token_id", "exponential_decay_length_penalty"), (None,)),
    **dict.fromkeys(("repetition_penalty", "encoder_repetition_penalty"), (None, 1)),
    **dict.fromkeys(("no_repeat_ngram_size", "min_length", "min_new_tokens"), (None, 0)),
}
"""Settings of generation_config.json that change samples, beside temperature and the like, and their values without effect."""


def unused_generation(model: PreTrainedModel) -> str:
    """Return the settings in the model's generation_config.json that no engine applies, with values; empty without them."""
    config = model.generation_config
    found = {name: getattr(config, name, None) for name, plain in _PLAIN_SAMPLING.items()}
    return ", ".join(f"{name} = {value}" for name, value in found.items() if value not in _PLAIN_SAMPLING[name])


def ends_beside(tokenizer: Path) -> frozenset[int]:
    """Return the end-of-sequence ids of a remote model, from its tokenizer's folder. Empty without generation_config.json."""
    try:
        return _ends(json.loads((tokenizer / "generation_config.json").read_bytes()).get("eos_token_id"))
    except (OSError, ValueError, AttributeError):  # no such file, or not a JSON object
        return frozenset()


def unused_beside(tokenizer: Path, tokens: int) -> range:
    """Return the ids from `tokens` on in a remote model's head, which belong to no token. Empty without config.json.

    The size of the head is read from config.json in the tokenizer's folder.
    """
    try:
        config = json.loads((tokenizer / "config.json").read_bytes())
        rows = (config.get("text_config") or config).get("vocab_size", 0)
    except (OSError, ValueError, AttributeError):  # as above
        return range(0)
    return range(tokens, rows) if isinstance(rows, int) else range(0)


def _ends(value: Any) -> frozenset[int]:
    return frozenset(end for end in (value if isinstance(value, list) else [value]) if isinstance(end, int))
