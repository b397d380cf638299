"""What a shape decides, against the real thing: models, what autograd keeps, what processes need, files, counters."""

import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import replace
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

from sod.config import (
    EngineOptions,
    LearnOptions,
    ModelOptions,
    RolloutOptions,
    ScoreOptions,
    SftLearnOptions,
    SftOptions,
    TrainOptions,
)
from sod.core import logprobs
from sod.engines.hf import HFEngine
from sod.model.attention import ATTENTION
from sod.model.caching import Packing
from sod.model.forward import hidden_states
from sod.model.policy import Policy
from sod.planning.budgets import by_part, memory_of_fine_tuning, memory_of_teacher_server, memory_of_training
from sod.planning.inventory import ON_HUB
from sod.planning.memory import (
    CHUNK_ELEMENTS,
    ITEMSIZE,
    Shape,
    activation_bytes,
    cache_bytes,
    checkpoint_bytes,
    exchanged_bytes,
    forward_operations,
    gathered_bytes,
    learning_bytes,
    loss_bytes,
    optimiser_bytes,
    scoring_bytes,
    sharded_bytes,
    sharded_learning_bytes,
    share,
)
from sod.runs.peaks import take_peak_mb

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
    assert shape.layer == sum(weight.numel() for weight in model.model.layers[0].parameters())
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
        from sod.model.lora import add_low_rank

        add_low_rank(model, rank, 32.0)
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in own:
            kept[place] = tensor
        return tensor

    ids = different_rows(512)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden_states(model, ids, torch.tensor([512, 512]))
    shape, itemsize = shape_of(model), ITEMSIZE[dtype]
    last_norm = shape.width * (4 + itemsize)
    expected = ids.numel() * (shape.layers * activation_bytes(shape, itemsize, rank) + last_norm)
    assert sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) == pytest.approx(expected, rel=0.02)
    learnt = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert learnt == (shape.adapters(rank) if rank else shape.parameters)


CHECKPOINTING = {"checkpointing": True}


def different_rows(tokens: int) -> torch.Tensor:
    """Two rows without a common start, which would be read once. -> (2, tokens)"""
    return torch.arange(2)[:, None].repeat(1, tokens)


Sizes = tuple[int, int, int, int]
"""Layers, width, vocabulary, tokens."""


def two_steps(dtype: str, options: dict[str, bool], sizes: Sizes) -> Callable[[], None]:
    """Prepare two optimiser steps on two micro-batches each."""
    layers, width, vocabulary, tokens = sizes
    model = small(layers, width, vocabulary, TYPES[dtype])
    tokenizer: Any = None  # nothing is saved
    policy = Policy(model, tokenizer, LearnOptions(microbatch_tokens=tokens, **options))
    ids = different_rows(tokens)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[:, 0] = False

    def learn() -> None:
        for _ in range(2):
            policy.imitate(ids, mask, torch.tensor([tokens, tokens]))

    return learn


def measure(pipe: Any, dtype: str, options: dict[str, bool], sizes: Sizes) -> None:
    """Send the bytes that two steps need at their height, beyond the model and its copies."""
    torch.set_num_threads(1)
    two_steps(dtype, options, (1, 64, 64, 8))()  # copies the pages that this fork writes to, also without learning
    learn = two_steps(dtype, options, sizes)
    take_peak_mb()
    before = take_peak_mb()
    learn()
    after = take_peak_mb()
    pipe.send(None if before is None or after is None else (after - before) * 2**20)


def fork_for_each(pipe: Any) -> None:
    """Measure each request in a fork, so that the memory of one does not depend on those before."""
    while (request := pipe.recv()) is not None:
        process = multiprocessing.get_context("fork").Process(target=measure, args=(pipe, *request))
        process.start()
        process.join()
        if process.exitcode:
            return  # and whoever waits for an answer learns that there is none


@pytest.fixture(scope="module")
def learner() -> Iterator[Any]:
    """Pipe to a process whose allocator hands memory back at once."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=fork_for_each, args=(theirs,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
        patch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")  # bfloat16 instructions need buffers of oneDNN's, 23 MB here
        process.start()
    theirs.close()
    yield ours
    ours.send(None)
    process.join()
    ours.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "options", "sizes"),
    [
        ("float32", {}, (6, 192, 2048, 2048)),
        ("float32", CHECKPOINTING, (6, 192, 2048, 2048)),
        ("float32", CHECKPOINTING | {"keep_attention": True}, (6, 192, 2048, 2048)),
        ("float32", CHECKPOINTING, (1, 256, 32_768, 1024)),
        ("bfloat16", {}, (4, 192, 2048, 1024)),
        ("bfloat16", CHECKPOINTING, (1, 256, 16_384, 512)),
    ],
)
def test_the_memory_of_learning_is_what_a_process_needs(
    dtype: str, options: dict[str, bool], sizes: Sizes, learner: Any
) -> None:
    """Within 15 %."""
    learner.send((dtype, options, sizes))
    needed = learner.recv()
    if needed is None:
        pytest.skip("the system does not tell a process's most memory")
    layers, width, vocabulary, tokens = sizes
    shape, learn = shape_of(small(layers, width, vocabulary)), LearnOptions.model_validate(options)
    state = optimiser_bytes(shape, ITEMSIZE[dtype], learn)
    expected = state["gradients"] + state["AdamW's moments"] + learning_bytes(shape, tokens, ITEMSIZE[dtype], learn)
    assert expected == pytest.approx(needed, rel=0.15)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("options", [{}, {"lora_rank": 32}, {"optimizer": "adamw_8bit"}])
def test_a_checkpoint_has_the_size_that_we_say(
    dtype: str, options: dict[str, Any], tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """Within 4 %: blocks of 8-bit moments have a scale each, and files and tensors a head."""
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
    written = sum(file.stat().st_size for file in [tmp_path / "model.safetensors", *(tmp_path / "trainer").iterdir()])
    assert checkpoint_bytes(shape_of(model), ITEMSIZE[dtype], learn) == pytest.approx(written, rel=0.04)


def test_the_cache_has_the_size_that_we_say() -> None:
    model = small()
    engine = HFEngine(model, slots=2)
    assert isinstance(engine._cache, Packing)
    engine._cache.read([0, 1], [0, 0], [[1] * 100] * 2)
    tensors = [tensor for layer in engine._cache._cache._layers.values() for tensor in layer]
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
    student = ON_HUB["Qwen/Qwen3-0.6B"]
    for gpu, rows in (
        (None, 441),
        (24 << 30, 441),
        (40 << 30, 441),
        (48 << 30, 883),
        (80 << 30, 2650),
        (141 << 30, 4096),
    ):
        assert logprobs.chunk_elements(student.vocabulary, gpu) // student.vocabulary == rows
        logits = rows * student.vocabulary * (8 + 2)
        hidden = 2 * 23_040 * student.width * 2
        assert loss_bytes(student, 23_040, 2, learnt=False, gpu=gpu) == logits + hidden
    small = replace(student, vocabulary=1000)  # a small vocabulary needs no larger chunks
    assert logprobs.chunk_elements(1000, 80 << 30) == CHUNK_ELEMENTS
    assert loss_bytes(small, 99, 2, learnt=True, gpu=80 << 30) == loss_bytes(small, 99, 2, learnt=True)


# Several processes

TOY = Shape(
    width=4,
    layers=3,
    heads=2,
    kv_heads=1,
    head_dim=2,
    feed_forward=8,
    vocabulary=10,
    tied=True,
    positions=99,
    family="llama",
)
"""A layer: 4x4 + 2 x 4x2 + 4x4 in attention, 3 x 4x8 beside, 2 x 4 in norms = 152. Outside: 10x4 + 4. In all 500."""


def test_a_toy_is_counted_by_hand() -> None:
    assert (TOY.layer, TOY.outside, TOY.parameters) == (152, 44, 500)
    assert sharded_bytes(TOY, 4) == {
        "float32 weights, 1/4": 500,
        "gradients, 1/4": 500,
        "AdamW's moments, 1/4": 1000,
    }
    assert gathered_bytes(TOY, 2) == 2 * (44 + 2 * 152)
    assert exchanged_bytes(TOY, 2, 4) == {
        "weights, a micro-batch": 1434,  # 2 x (2 x 3 x 152 + 44) = 1912, of which 478 are one's own
        "gradients, a micro-batch": 1500,
        "weights, an update": 1500,
    }


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_shares_make_a_whole_and_no_more_than_is_needed(processes: int) -> None:
    for size in (1, 7, 8, 1001):
        assert 0 <= share(size, processes) * processes - size < processes


@pytest.mark.parametrize("tied", [True, False])
def test_what_is_whole_for_a_moment_does_not_shrink_with_processes(tied: bool) -> None:
    """Hand-worked, where the gradients outside the layers are the most: one token, layers kept by their inputs alone."""
    shape, learn = Shape.of(Qwen3Config(tie_word_embeddings=tied).to_dict()), LearnOptions(checkpointing=True)
    assert shape
    last = (2 + 4) * shape.outside + (2 * shape.embedding if tied else 0)
    for processes in (64, 1024):
        assert sharded_learning_bytes(shape, 1, 2, learn, processes) == gathered_bytes(shape, 2) + last
    assert sharded_learning_bytes(shape, 1, 2, learn, 2) == 2 * shape.parameters  # the roots of AdamW's second moments


def test_a_longer_pass_needs_the_same_more_in_each_process_as_in_one() -> None:
    shape, learn = ON_HUB["Qwen/Qwen3-1.7B"], LearnOptions(checkpointing=True)
    alone = [learning_bytes(shape, tokens, 2, learn) for tokens in (60_000, 120_000)]
    divided = [sharded_learning_bytes(shape, tokens, 2, learn, 8) for tokens in (60_000, 120_000)]
    assert divided[1] - divided[0] == alone[1] - alone[0]


def training(**changes: Any) -> TrainOptions:
    files = {"student": Path("s"), "teacher": Path("t"), "data": Path("d"), "out": Path("o")}
    usual = {"network": ModelOptions(dtype="bfloat16"), "engine": EngineOptions(name="vllm")}
    return TrainOptions.model_validate(files | usual | changes)


def test_of_a_run_in_processes_the_learner_is_divided_and_nothing_else_that_is_kept() -> None:
    student, teacher, gpu = ON_HUB["Qwen/Qwen3-1.7B"], ON_HUB["Qwen/Qwen3-4B"], 80 << 30
    alone = memory_of_training(training(), student, [teacher], gpu)
    eight = memory_of_training(training(), student, [teacher], gpu, processes=8)
    assert {holder for holder in alone if alone[holder] != eight[holder]} == {"learner", "peak"}
    assert sum(eight["learner"].values()) == 2 * student.parameters  # (4 + 4 + 8) bytes a weight / 8
    assert sum(alone["learner"].values()) == 14 * student.parameters  # 4 + 2 + 8


def test_a_teacher_that_writes_turns_has_keys_and_values_of_its_own() -> None:
    student, teacher, gpu = ON_HUB["Qwen/Qwen3-0.6B"], ON_HUB["Qwen/Qwen3-4B"], 80 << 30
    guided = training(rollout={"guided": {"probability": 0.5}})
    plain, more = (memory_of_training(each, student, [teacher], gpu) for each in (training(), guided))
    added = {name: size for name, size in more["sampler"].items() if name not in plain["sampler"]}
    [(name, size)] = added.items()
    assert name.startswith("the teacher's keys and values of ")
    assert 0.2 * gpu < size <= guided.engine.memory_share * gpu
    assert {holder for holder in more if more[holder] != plain[holder]} == {"sampler"}


def test_a_teacher_is_whole_or_divided_or_away_or_elsewhere() -> None:
    student, teacher, gpu = ON_HUB["Qwen/Qwen3-0.6B"], ON_HUB["Qwen/Qwen3-14B"], 80 << 30
    lean = LearnOptions(checkpointing=True)

    def of(**changes: Any) -> tuple[int, int]:
        options = training(score=ScoreOptions.model_validate(changes), learn=lean)
        memory = memory_of_training(options, student, [teacher], gpu, processes=4)
        return sum(memory.get("teacher", {}).values()), sum(memory["peak"].values())

    weights, scoring = 2 * teacher.parameters, scoring_bytes(teacher, 23_040, 2, gpu)
    learning = sharded_learning_bytes(student, 23_040, 2, lean, 4, gpu)
    assert of() == (weights, max(learning, scoring))
    assert of(shard_teacher=True) == (weights // 4, max(learning, scoring + gathered_bytes(teacher, 2)))
    assert of(offload_teacher=True) == (0, scoring + weights)
    assert of(teacher_url="http://127.0.0.1:1") == (0, learning)


def test_the_initial_weights_are_counted_where_they_are_loaded_a_second_time() -> None:
    student, gpu = ON_HUB["Qwen/Qwen3-1.7B"], 80 << 30
    weights = 2 * student.parameters

    def of(**changes: Any) -> dict[str, int]:
        options = training(teacher=None, **changes)
        is_own = options.algorithm.name == "opsd_gt"
        memory = memory_of_training(options, student, [student] if is_own else [], gpu, processes=2)
        assert ("initial" in "".join(memory["peak"])) == ("reference" in memory)
        return memory.get("reference", {})

    grpo, lora = {"name": "grpo"}, {"kl": 0.1, "lora_rank": 8}
    assert of(algorithm=grpo) == {}
    assert of(algorithm=grpo, learn={"kl": 0.1}) == {"initial weights, bfloat16": weights}
    assert of(algorithm=grpo | {"kl_in_reward": 0.1}) == {"initial weights, bfloat16": weights}
    assert of(algorithm=grpo, learn={"kl": 0.1}, score={"offload_teacher": True}) == {}
    assert of(algorithm=grpo, learn=lora) == {}
    assert of(algorithm={"name": "opsd_gt"}, learn={"kl": 0.1}) == {}  # its teacher has them
    assert sum(of(algorithm={"name": "opsd_gt"}, learn={"kl": 0.1}, opsd={"decay": 0.9}).values()) == weights


def test_a_teachers_server_needs_also_what_vllm_does_not_reckon_with() -> None:
    teacher = ON_HUB["Qwen/Qwen3-4B"]
    memory = memory_of_teacher_server(training(), teacher)
    assert memory["peak"] == {"peak: logits of 8,192 tokens": 8192 * 151_936 * (2 + 4)}
    keys_and_values = 23_041 * 2 * 36 * 8 * 128 * 2
    assert sum(by_part(memory).values()) == 8192 * 151_936 * 6 + 8_044_936_192 + keys_and_values
    short = memory_of_teacher_server(training(rollout=RolloutOptions(max_tokens=1000, max_prompt_tokens=24)), TOY)
    assert short["peak"] == {"peak: logits of 1,025 tokens": 1025 * 10 * 6}


def test_fine_tuning_in_processes_keeps_the_whole_copy_off_the_gpu() -> None:
    shape, learn = ON_HUB["Qwen/Qwen3-0.6B"], SftLearnOptions(checkpointing=True)
    network = ModelOptions(dtype="bfloat16")
    options = SftOptions(model=Path("m"), data=Path("d"), out=Path("o"), network=network, learn=learn)
    on_gpus = memory_of_fine_tuning(options, shape, 80 << 30, processes=4)
    assert "student" not in on_gpus
    copy = {"student": {"model, bfloat16": 2 * shape.parameters}}
    on_cpus = memory_of_fine_tuning(options, shape, None, processes=4)
    assert {key: parts for key, parts in on_cpus.items() if key != "peak"} | {"peak": on_gpus["peak"]} == on_gpus | copy
    assert "student" in memory_of_fine_tuning(options, shape, 80 << 30)
