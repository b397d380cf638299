"""What a shape decides, against the real thing: models, what autograd keeps, what processes need, files, counters."""

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from sod.attention import NAME as ATTENTION
from sod.config import LearnOptions
from sod.core import logprobs
from sod.engines.hf import HFEngine
from sod.inventory import ON_HUB
from sod.memory import take_peak_mb
from sod.models import hidden_states
from sod.policy import Policy
from sod.shapes import (
    CHUNK_ELEMENTS,
    ITEMSIZE,
    Shape,
    activation_bytes,
    cache_bytes,
    checkpoint_bytes,
    forward_operations,
    learning_bytes,
    optimiser_bytes,
)

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def small(
    layers: int = 3, width: int = 128, vocabulary: int = 512, dtype: torch.dtype = torch.float32
) -> Qwen3ForCausalLM:
    """A network of Qwen3's proportions."""
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 64,
        head_dim=32,
        intermediate_size=3 * width,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        dtype=dtype,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    model.set_attn_implementation(ATTENTION)
    return model


def shape_of(model: PreTrainedModel) -> Shape:
    shape = Shape.of(model.config.to_dict())
    assert shape is not None
    return shape


@pytest.mark.parametrize("name", ON_HUB)
def test_the_parameters_of_known_models_are_exact(name: str) -> None:
    shape = ON_HUB[name]
    config = Qwen3Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.feed_forward,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=shape.positions,
    )
    with torch.device("meta"):
        model = Qwen3ForCausalLM(config)
    model.tie_weights()
    assert shape.parameters == sum(weight.numel() for weight in model.parameters())
    assert Shape.of(config.to_dict()) == shape


def test_the_published_sizes_of_qwen3_follow() -> None:
    published = {"Qwen/Qwen3-4B": 8_044_936_192, "Qwen/Qwen3-8B": 16_381_470_720, "Qwen/Qwen3-14B": 29_536_614_400}
    assert {name: 2 * ON_HUB[name].parameters for name in published} == published
    small = ON_HUB["Qwen/Qwen3-0.6B"]  # its file also has the head, which is the embedding
    assert 2 * (small.parameters + small.embedding) == 1_503_264_768


@pytest.mark.parametrize("tied", [True, False])
def test_the_parameters_of_other_families_are_exact(tied: bool) -> None:
    sizes: dict[str, Any] = {
        "vocab_size": 99,
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 96,
        "tie_word_embeddings": tied,
        "pad_token_id": 0,
    }
    for model in (Qwen2ForCausalLM(Qwen2Config(**sizes)), LlamaForCausalLM(LlamaConfig(**sizes))):
        assert shape_of(model).parameters == sum(weight.numel() for weight in model.parameters())
    assert Shape.of(LlamaConfig(**sizes, attention_bias=True).to_dict()) is None
    assert Shape.of({"model_type": "mamba"}) is None


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("rank", [0, 8])
def test_what_autograd_keeps_of_a_layer_is_what_we_say(dtype: str, rank: int) -> None:
    """Within 2 %: the rest are the angles of positions."""
    model = small(dtype=TYPES[dtype])
    if rank:
        pytest.importorskip("peft")
        from sod.lora import add_low_rank

        add_low_rank(model, rank, 32.0)
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in own:
            kept[place] = tensor
        return tensor

    ids = torch.ones(2, 512, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden_states(model, ids, torch.tensor([512, 512]))
    shape, itemsize = shape_of(model), ITEMSIZE[dtype]
    last_norm = shape.width * (4 + itemsize)
    expected = ids.numel() * (shape.layers * activation_bytes(shape, itemsize, rank) + last_norm)
    assert sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) == pytest.approx(expected, rel=0.02)
    learnt = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert learnt == (shape.adapters(rank) if rank else shape.parameters)


def learn_twice(pipe: Any, dtype: str, checkpointing: bool, sizes: tuple[int, int, int, int]) -> None:
    """Bytes that two optimiser steps on two micro-batches each need at their height, beyond the model and its copies."""
    torch.set_num_threads(1)
    layers, width, vocabulary, tokens = sizes
    model = small(layers, width, vocabulary, TYPES[dtype])
    tokenizer: Any = None  # nothing is saved
    policy = Policy(model, tokenizer, LearnOptions(checkpointing=checkpointing, microbatch_tokens=tokens))
    ids = torch.ones(2, tokens, dtype=torch.long)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[:, 0] = False
    take_peak_mb()
    before = take_peak_mb()
    for _ in range(2):
        policy.imitate(ids, mask, torch.tensor([tokens, tokens]))
    after = take_peak_mb()
    pipe.send(None if before is None or after is None else (after - before) * 2**20)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "checkpointing", "sizes"),
    [
        ("float32", False, (6, 384, 4096, 4096)),
        ("float32", True, (6, 384, 4096, 4096)),
        ("float32", True, (2, 512, 32_768, 2048)),
        ("bfloat16", False, (4, 384, 4096, 2048)),
        ("bfloat16", True, (2, 512, 32_768, 1024)),
    ],
)
def test_the_memory_of_learning_is_what_a_process_needs(
    dtype: str, checkpointing: bool, sizes: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 15 %, where the allocator hands memory back at once."""
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=learn_twice, args=(theirs, dtype, checkpointing, sizes))
    process.start()
    theirs.close()
    needed = ours.recv()
    process.join()
    if needed is None:
        pytest.skip("the system does not tell a process's most memory")
    layers, width, vocabulary, tokens = sizes
    shape, learn = shape_of(small(layers, width, vocabulary)), LearnOptions(checkpointing=checkpointing)
    state = optimiser_bytes(shape, ITEMSIZE[dtype], learn)
    expected = state["gradients"] + state["AdamW's moments"] + learning_bytes(shape, tokens, ITEMSIZE[dtype], learn)
    assert expected == pytest.approx(needed, rel=0.15)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("options", [{}, {"lora_rank": 8}, {"optimizer": "adamw_8bit"}])
def test_a_checkpoint_has_the_size_that_we_say(
    dtype: str, options: dict[str, Any], tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """Within 4 %: blocks of 8-bit moments have a scale each, and files have a head."""
    pytest.importorskip("peft" if "lora_rank" in options else "torch")
    pytest.importorskip("bitsandbytes" if "optimizer" in options else "torch")
    learn = LearnOptions.model_validate(options)
    model = small(width=256, vocabulary=2048, dtype=TYPES[dtype])
    policy = Policy(model, tokenizer, learn)
    ids = torch.ones(1, 16, dtype=torch.long)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[:, 0] = False
    policy.imitate(ids, mask, torch.tensor([16]))
    policy.save(tmp_path)
    written = sum((tmp_path / name).stat().st_size for name in ("model.safetensors", "trainer.pt"))
    assert checkpoint_bytes(shape_of(model), ITEMSIZE[dtype], learn) == pytest.approx(written, rel=0.04)


def test_the_cache_has_the_size_that_we_say() -> None:
    model = small()
    engine = HFEngine(model, slots=2)
    layout = engine._cache.reading([0, 1], [0, 0], [100, 100])
    model.base_model(
        input_ids=torch.ones(1, 200, dtype=torch.long), position_ids=layout.positions, use_cache=False, layout=layout
    )
    tensors = [tensor for layer in engine._cache._layers.values() for tensor in layer]
    capacity = tensors[0].shape[2]
    assert sum(tensor.nbytes for tensor in tensors) == 2 * capacity * cache_bytes(shape_of(model), 4)


def test_the_operations_of_a_forward_pass_are_those_that_pytorch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model, tokens = small(), 64
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        model(input_ids=torch.ones(1, tokens, dtype=torch.long), use_cache=False)
    shape = shape_of(model)
    hidden_half = 2 * shape.layers * shape.heads * shape.head_dim * tokens * tokens  # eager computes the whole square
    assert counter.get_total_flops() == forward_operations(shape, tokens, tokens) + hidden_half


def test_as_many_logits_exist_at_a_time_as_the_loss_makes() -> None:
    assert CHUNK_ELEMENTS == logprobs.CHUNK_ELEMENTS
