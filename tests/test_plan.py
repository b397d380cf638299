"""What a dry run says: exact where it can be, measured where this machine can, and honest about the rest."""

import json
import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
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

from sod.algorithms import ALGORITHMS
from sod.attention import NAME as ATTENTION
from sod.cli import run as sod
from sod.config import (
    EngineOptions,
    EvalOptions,
    EvalRolloutOptions,
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
from sod.errors import DataError, ModelError
from sod.memory import take_peak_mb
from sod.models import hidden_states
from sod.plan import (
    CHUNK_ELEMENTS,
    ON_HUB,
    TOLD,
    UNTAUGHT,
    VALUE,
    Device,
    Shape,
    cache_bytes,
    checkpoint_bytes,
    find_device,
    forward_operations,
    layer_bytes,
    learning_bytes,
    optimiser_bytes,
    plan,
)
from sod.policy import Policy

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


# Arithmetic, against the real thing


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
    shape, value = shape_of(model), VALUE[dtype]
    last_norm = shape.width * (4 + value)
    expected = ids.numel() * (shape.layers * layer_bytes(shape, value, rank) + last_norm)
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
    state = optimiser_bytes(shape, VALUE[dtype], learn)
    expected = state["gradients"] + state["AdamW's moments"] + learning_bytes(shape, tokens, VALUE[dtype], learn)
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
    assert checkpoint_bytes(shape_of(model), VALUE[dtype], learn) == pytest.approx(written, rel=0.04)


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


def test_facts_that_stand_twice_agree() -> None:
    assert CHUNK_ELEMENTS == logprobs.CHUNK_ELEMENTS
    assert {name for name, system in ALGORITHMS.items() if system.told} == set(TOLD)
    assert {name for name, system in ALGORITHMS.items() if system.rule is None} == set(UNTAUGHT)


# Words


@pytest.fixture
def train(teacher: Path, problem_file: Path, tmp_path: Path) -> Callable[..., str]:
    """The plan of a training run in the lab, with changes."""

    def make(**changes: Any) -> str:
        files = {"student": teacher, "teacher": teacher, "data": problem_file, "out": tmp_path / "run"}
        small = {"updates": 3, "rollout": {"problems": 2, "group": 4, "max_tokens": 400, "max_prompt_tokens": 100}}
        return plan(TrainOptions.model_validate(files | small | changes))

    return make


def test_a_plan_of_training_counts(train: Callable[..., str], teacher: Path) -> None:
    text = train()
    assert f"{teacher}  here, 1.5 MiB of weights" in text
    assert "here, 8 problems" in text
    assert "3 updates by sod, of 2 problems x 4 trajectories; 6 optimiser steps" in text
    assert "6 problems, 0.75 passes over 8" in text
    assert "24 trajectories; tokens: 9,600 at most, likely 2,400 (assumed: 25% of rollout.max_tokens = 400)" in text
    assert "keys and values of 64 x 500 tokens" in text
    assert "fits into" in text
    assert "nothing: what is read can be had" in text


def test_what_is_not_there_is_named_with_the_command_that_makes_it(
    train: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    about = "".join(f'{key} = "-"\n' for key in ("what", "expect", "source", "hardware", "hours", "tested"))
    recipe = f'model = "Qwen/Qwen3-0.6B"\nout = "runs/start"\n[about]\ncommand = "sft"\n{about}'
    (tmp_path / "recipes" / "start.toml").write_text(recipe)
    text = train(student="runs/start", data="data/open_agentrl_30k.jsonl")
    assert "runs/start  not there yet" in text
    assert "1. sod sft recipes/start.toml" in text
    assert "2. sod data fetch open_agentrl_30k --out data" in text
    assert "2.2 GiB  student, float32" in text  # the recipe says what the run will start from
    assert "in the columns of docs/data.md" in train(data="data/mine.jsonl")


def test_a_model_on_the_hub_is_known_by_its_name_or_said_to_be_unknown(
    train: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = train(student="Qwen/Qwen3-1.7B", teacher="Qwen/Qwen3-8B@main")
    assert "Qwen/Qwen3-1.7B  will be downloaded: about 3.8 GiB" in text
    assert "Qwen/Qwen3-8B  will be downloaded: about 15 GiB" in text
    assert "not known: a model's shape" in train(student="somebody/something")


def test_what_will_be_refused_is_said_before(train: Callable[..., str], tmp_path: Path) -> None:
    assert "a lower rollout.problems: the data holds 8 problems" in train(rollout=RolloutOptions(problems=9))
    assert "a teacher, with --teacher: sod needs one" in train(teacher=None)
    assert "with the prompt it is 23,040, and the student has 1,024 positions" in train(
        rollout=RolloutOptions(problems=2)
    )
    assert "holds no run" in train(resume=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "options.json").write_text("{}")
    assert "already holds a run" in train()


def test_what_is_broken_is_an_error(train: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"prompt"')
    with pytest.raises(DataError, match="not JSON"):
        train(data=tmp_path / "bad.jsonl")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="damaged"):
        train(student=tmp_path)


def test_memory_follows_the_options(train: Callable[..., str]) -> None:
    def whole(text: str) -> float:
        found = re.search(r"([\d.]+) ([MG])iB  at most, at once", text)
        assert found
        return float(found[1]) * (1024 if found[2] == "G" else 1)

    def of(**changes: Any) -> float:
        big = {"student": "Qwen/Qwen3-1.7B", "teacher": "Qwen/Qwen3-4B", "network": ModelOptions(dtype="bfloat16")}
        return whole(train(**big | changes))

    plain = of()
    assert of(learn=LearnOptions(optimizer="adamw_8bit")) < plain
    lean = {"checkpointing": True, "optimizer": "adamw_8bit"}
    assert of(learn=LearnOptions.model_validate(lean | {"lora_rank": 8})) < of(learn=LearnOptions.model_validate(lean))
    assert of(score=ScoreOptions(offload_teacher=True)) < plain
    assert of(score=ScoreOptions(teacher_dtype="float32")) > plain
    assert of(network=ModelOptions()) > plain
    assert of(engine=EngineOptions(name="vllm_server", url="http://127.0.0.1:1")) < plain
    long = {"max_tokens": 20_480, "problems": 2}
    packed = of(rollout=long, learn=LearnOptions(microbatch_tokens=1024))
    assert packed > of(rollout=long, learn=LearnOptions(microbatch_tokens=1024, checkpointing=True))


def test_a_run_is_planned_from_its_newest_checkpoint(train: Callable[..., str], teacher: Path, tmp_path: Path) -> None:
    for update in ("update-9999", "update-10000", "update-20000.partial"):
        folder = tmp_path / "student" / "checkpoints" / update
        folder.mkdir(parents=True)
        (folder / "config.json").write_bytes((teacher / "config.json").read_bytes())
    assert f"{tmp_path}/student/checkpoints/update-10000  here" in train(student=tmp_path / "student")


def test_a_plan_of_fine_tuning_counts(teacher: Path, jsonl: Callable[[Sequence[Any]], Path], tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]
    options = SftOptions(
        model=teacher,
        data=jsonl([{"messages": turns}] * 7),
        out=tmp_path / "run",
        batch=2,
        epochs=3,
        max_tokens=2000,
        learn=SftLearnOptions(checkpointing=True),
    )
    text = plan(options)
    assert "12 optimiser steps: 3 passes over the data, 2 conversations an optimiser step" in text
    assert "tokens: 42,000 at most, likely" in text
    assert "a lower max_tokens: the model has 1,024 positions" in text
    assert "2 checkpoints of 4.4 MiB, one being written" in text


def test_a_plan_of_an_evaluation_counts_benchmarks_and_files(teacher: Path, problem_file: Path, tmp_path: Path) -> None:
    options = EvalOptions(
        model=teacher,
        data=("aime2024", "gpqa_diamond", str(problem_file), "aime2042"),
        out=tmp_path / "run",
        data_dir=tmp_path,
        samples=4,
        limit=20,
        rollout=EvalRolloutOptions(max_tokens=500, max_prompt_tokens=100),
    )
    text = plan(options)
    assert "aime2024  will be downloaded from HuggingFaceH4/aime_2024, 30 problems" in text
    assert "terms must be accepted there first" in text
    assert "aime2042  neither a file nor a benchmark" in text
    assert "68 problems x 4 samples" in text  # 20 and 20 and 8, and at most 20 of the unknown one
    assert "1. a file aime2042, or a name from `sod data list`" in text
    served = options.model_copy(update={"engine": EngineOptions(name="served", url="http://127.0.0.1:9")})
    assert "none here: the model is served at http://127.0.0.1:9" in plan(served)


# The device


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a program in nvidia-smi's place that prints what that would."""

    def put(script: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return put


def test_gpus_are_those_that_the_driver_names(gpus: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    gpus('echo "NVIDIA H100 80GB HBM3, 81559"; echo "NVIDIA L4, 23034"; [ -z "$3" ] || echo "asked $3, 1"')
    assert find_device("auto") == Device("NVIDIA H100 80GB HBM3", 81_559 << 20, is_gpu=True)
    assert find_device("cuda:1") == Device("NVIDIA L4", 23_034 << 20, is_gpu=True)
    assert find_device("cuda:7") is None
    cpu = find_device("cpu")
    assert cpu is not None
    assert not cpu.is_gpu
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert find_device("cuda:2") == Device("asked --id=3", 1 << 20, is_gpu=True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert find_device("cuda") is None
    assert find_device("auto") == cpu


def test_a_driver_that_fails_is_no_gpu(gpus: Callable[[str], None]) -> None:
    gpus("echo NVIDIA-SMI has failed; exit 9")
    assert find_device("cuda") is None


def test_a_gpu_is_held_against_the_sum(gpus: Callable[[str], None], train: Callable[..., str]) -> None:
    gpus('echo "NVIDIA GeForce RTX 4090, 24564"')
    big = {"student": "Qwen/Qwen3-1.7B", "teacher": "Qwen/Qwen3-4B", "network": ModelOptions(dtype="bfloat16")}
    vllm = {"engine": EngineOptions(name="vllm", memory_share=0.05)}
    text = train(**big | vllm)
    assert "does NOT fit into 24 GiB less 10%" in text
    assert "try learn.checkpointing, learn.optimizer = adamw_8bit, learn.lora_rank = 32, score.offload_teacher" in text
    assert "a larger engine.memory_share: vLLM needs 3.2 GiB" in text
    assert "at 40% (assumed) of 165 TFLOP/s" in text
    assert "there is no cuda:3 here whose memory is known" in train(network=ModelOptions(device="cuda:3"))


# The commands


def test_a_dry_run_needs_no_torch_and_writes_nothing(teacher: Path, problem_file: Path, tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from sod.config import TrainOptions
from sod.plan import plan
plan(TrainOptions(student=Path({str(teacher)!r}), data=Path({str(problem_file)!r}), out=Path("run")))
print([name for name in ("torch", "transformers", "numpy", "pyarrow") if name in sys.modules])
"""
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert ran.stdout == "[]\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["sft", "train", "eval"])
def test_the_commands_say_their_plan_and_do_nothing(
    command: str,
    teacher: Path,
    problem_file: Path,
    jsonl: Callable[[Sequence[Any]], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    turns = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]
    data = jsonl([{"messages": turns}]) if command == "sft" else problem_file
    model = "--student" if command == "train" else "--model"
    flags = [model, teacher, "--data", data, "--out", tmp_path / "run", "--dry-run"]
    assert sod([command, *map(str, flags)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"sod {command}, a dry run: nothing is loaded, downloaded or written.\n")
    assert not (tmp_path / "run").exists()
    assert json.dumps(str(tmp_path / "run")).strip('"') in out
