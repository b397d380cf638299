"""Tiny Qwen3 models with random weights: the lab's student and teacher before training."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from sod.lab.tokenizer import PAD, TURN_END


@dataclass(frozen=True, slots=True)
class Size:
    width: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int
    head_dim: int = 32
    initial: float = 0.02
    """Standard deviation of the initial weights."""


STUDENT_SIZE = Size(width=64, layers=2, heads=4, kv_heads=2, feed_forward=160)
TEACHER_SIZE = Size(width=96, layers=3, heads=4, kv_heads=2, feed_forward=256)


def new_model(size: Size, tokenizer: PreTrainedTokenizerBase, seed: int) -> Qwen3ForCausalLM:
    """Create a Qwen3 model with tied embeddings and random weights drawn from `seed`."""
    pad, end = tokenizer.get_vocab()[PAD], tokenizer.get_vocab()[TURN_END]
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        intermediate_size=size.feed_forward,
        head_dim=size.head_dim,
        initializer_range=size.initial,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        eos_token_id=end,
        pad_token_id=pad,
        bos_token_id=None,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config)


def save_new_model(size: Size, tokenizer: PreTrainedTokenizerBase, seed: int, folder: Path) -> None:
    new_model(size, tokenizer, seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
