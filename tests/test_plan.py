"""What a dry run says: exact where it can be, and honest about the rest."""

import copy
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerBase

from sod.chat.format import ChatFormat
from sod.chat.templates import HIDES_TOOLS
from sod.cli import run as sod
from sod.config import (
    EngineOptions,
    EvalOptions,
    EvalRolloutOptions,
    LearnOptions,
    ModelOptions,
    PlanOptions,
    RolloutOptions,
    ScoreOptions,
    SftLearnOptions,
    SftOptions,
    TrainOptions,
)
from sod.errors import DataError, ModelError, TemplateError
from sod.model.loading import load_model, load_tokenizer
from sod.planning.dry_run import plan
from sod.planning.inventory import Device, as_bytes, as_count, as_time, find_device
from sod.planning.plan import advice
from sod.planning.text import Text

WIDE = 1000
"""Columns that no line needs."""


@pytest.fixture
def train(teacher: Path, problem_file: Path, tmp_path: Path) -> Callable[..., str]:
    """The plan of a training run in the lab, with changes."""

    def make(**changes: Any) -> str:
        files = {"student": teacher, "teacher": teacher, "data": problem_file, "out": tmp_path / "run"}
        small = {"updates": 3, "rollout": {"problems": 2, "group": 4, "max_tokens": 400, "max_prompt_tokens": 100}}
        return plan(TrainOptions.model_validate(files | small | changes), WIDE)

    return make


def test_a_plan_of_training_counts(train: Callable[..., str], teacher: Path) -> None:
    text = train()
    assert f"{teacher}  found, 1.5 MiB of weights" in text
    assert "found, 8 problems" in text
    assert "3 updates with sod, each of 2 problems x 4 trajectories; 6 optimiser steps" in text
    assert "6 problems, 0.75 passes over 8" in text
    assert "24 trajectories; tokens: 9,600 at most, estimated 2,400 (assumed: 25% of rollout.max_tokens = 400)" in text
    assert "keys and values of 64 x 500 tokens" in text
    assert "fits into" in text
    assert "nothing: all inputs are available" in text


def test_what_is_not_there_is_named_with_the_command_that_makes_it(
    train: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    about = "".join(f'{key} = "-"\n' for key in ("what", "expect", "source", "hardware", "hours", "tested"))
    recipe = f'model = "Qwen/Qwen3-0.6B"\nout = "runs/start"\n[about]\ncommand = "sft"\n{about}'
    (tmp_path / "recipes" / "start.toml").write_text(recipe)
    text = train(student="runs/start", data="data/open_agentrl_30k.jsonl")
    assert "runs/start  does not exist yet" in text
    assert "1. sod sft recipes/start.toml" in text
    assert "2. sod data fetch open_agentrl_30k --out data" in text
    assert "2.2 GiB  student, float32" in text  # the recipe says what the run will start from
    assert "with the columns of docs/data.md" in train(data="data/mine.jsonl")


def test_a_model_on_the_hub_is_known_by_its_name_or_said_to_be_unknown(
    train: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = train(student="Qwen/Qwen3-1.7B", teacher="Qwen/Qwen3-8B@main")
    assert "Qwen/Qwen3-1.7B  will be downloaded: about 3.8 GiB" in text
    assert "Qwen/Qwen3-8B  will be downloaded: about 15 GiB" in text
    assert "not known: the student has no local config.json" in train(student="somebody/something")


def test_what_will_be_refused_is_said_before(train: Callable[..., str], tmp_path: Path) -> None:
    assert "Lower rollout.problems to 8, the number of problems in the data." in train(
        rollout=RolloutOptions(problems=9)
    )
    assert "algorithm.name = sod needs a teacher. Give --teacher." in train(teacher=None)
    assert "with the prompt it is 23,040, and the student has 1,024 positions" in train(
        rollout=RolloutOptions(problems=2, max_tokens=20480)
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
        found = re.search(r"([\d.]+) ([MG])iB  total at the peak", text)
        assert found
        return float(found[1]) * (1024 if found[2] == "G" else 1)

    def of(**changes: Any) -> float:
        big = {"student": "Qwen/Qwen3-1.7B", "teacher": "Qwen/Qwen3-4B", "network": ModelOptions(dtype="bfloat16")}
        return whole(train(**big | changes))

    plain = of()
    assert of(learn=LearnOptions(optimizer="adamw_8bit")) < plain
    lean = {"checkpointing": True, "optimizer": "adamw_8bit"}
    assert of(learn=LearnOptions.model_validate(lean | {"lora_rank": 8})) < of(learn=LearnOptions.model_validate(lean))
    assert of(score=ScoreOptions(offload_teacher=True)) == plain  # on a CPU there is nowhere to move it
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
    assert f"{tmp_path}/student/checkpoints/update-10000  found" in train(student=tmp_path / "student")


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
    text = plan(options, WIDE)
    assert "12 optimiser steps: 3 passes over the data, 2 conversations per optimiser step" in text
    chat = ChatFormat.of(load_tokenizer(teacher), options.chat)
    [row] = {sum(len(piece.tokens) for piece in chat.render(turns, []))}
    assert f"longest conversation: {row} tokens (64 with most characters were counted)" in text
    assert f"tokens: {21 * row:,} at most, estimated" in text
    assert f"a pass over {2 * row:,} tokens" in text  # a batch
    assert "2 checkpoints of 4.4 MiB, one being written" in text


@pytest.mark.parametrize(("limit", "cut"), [(2000, 1024), (300, 300)])
def test_fine_tuning_is_sized_for_the_longest_conversation_and_no_longer_one(
    teacher: Path, jsonl: Callable[[Sequence[Any]], Path], tmp_path: Path, limit: int, cut: int
) -> None:
    def row(answer: str) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": answer}]}

    fields = {"model": teacher, "out": tmp_path / "run", "max_tokens": limit, "learn": {"microbatch_tokens": 100}}
    middle = jsonl([row("2"), row("1 + 1 = 2. " * 12), row("2")])
    text = plan(SftOptions.model_validate(fields | {"data": middle}), WIDE)
    longest = int(re.findall(r"longest conversation: (\d+) tokens", text)[0])
    assert 100 < longest < 300
    assert f"a pass over {longest} tokens" in text
    text = plan(SftOptions.model_validate(fields | {"data": jsonl([row("1 + 1 = 2. " * 900)])}), WIDE)
    assert f"cut to {cut:,} (" in text
    assert f"a pass over {cut:,} tokens" in text


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
    text = plan(options, WIDE)
    assert "aime2024  will be downloaded from HuggingFaceH4/aime_2024, 30 problems" in text
    assert "terms must be accepted there first" in text
    assert "aime2042  neither a file nor a benchmark" in text
    assert "68 problems x 4 samples" in text  # 20 and 20 and 8, and at most 20 of the unknown one
    assert "1. Create aime2042, or give a name from `sod data list`" in text
    served = options.model_copy(update={"engine": EngineOptions(name="served", url="http://127.0.0.1:9")})
    assert "none on this machine: the model is on the server http://127.0.0.1:9" in plan(served, WIDE)


def test_what_is_typed_goes_on_so_that_it_can_be_pasted() -> None:
    text = Text("heading")
    command = "sod train --student Qwen/Qwen3-1.7B --data PROBLEMS.jsonl --learn.checkpointing --out RUN"
    text.add("type", f"$ {command}")
    lines = text.written(50).splitlines()[1:]
    assert max(map(len, lines)) <= 50
    assert all(line.endswith(" \\") for line in lines[:-1])
    assert not any(line.removesuffix(" \\").endswith(("--student", "--data", "--out")) for line in lines)
    pasted = "\n".join(lines).removeprefix("type     $ ")
    assert shlex.split(pasted.replace("\\\n", " ")) == command.split()


def test_lines_are_wrapped_to_what_there_is_and_say_the_same() -> None:
    options = TrainOptions(
        student=Path("Qwen/Qwen3-1.7B"), teacher=Path("Qwen/Qwen3-8B"), data=Path("data.jsonl"), out=Path("run")
    )
    narrow, wide = plan(options, 70), plan(options, WIDE)
    assert max(map(len, narrow.splitlines())) <= 70
    assert narrow.split() == wide.split()
    assert re.search(r"\n {9} +[\d.]+ GiB  peak: a pass over .*\n {20}\S", narrow)  # under where the name begins


def test_sizes_have_two_digits_and_no_exponent() -> None:
    assert [as_bytes(size * 2**20) for size in (0.5, 4, 9.96, 150, 4 << 10, 2.7 * 1024, 3 << 20)] == [
        "512 KiB",
        "4.0 MiB",
        "10 MiB",
        "150 MiB",
        "4.0 GiB",
        "2.7 GiB",
        "3.0 TiB",
    ]
    assert [as_time(seconds) for seconds in (4, 110, 7000, 200_000, 1e7)] == [
        "4.0 seconds",
        "110 seconds",
        "117 minutes",
        "2.3 days",
        "116 days",
    ]
    assert [as_count(number) for number in (9600, 3.146e9, 2e12)] == ["9,600", "3.15 billion", "2 trillion"]


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
    assert "Raise engine.memory_share: vLLM needs 3.2 GiB" in text
    assert "at 40% (assumed) of 165 TFLOP/s" in text
    assert "not compared: this machine has no cuda:3 with known memory" in train(network=ModelOptions(device="cuda:3"))


# Several processes


def test_a_plan_for_several_processes_says_what_each_needs_and_hears(
    gpus: Callable[[str], None], train: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    gpus('echo "NVIDIA H100 80GB HBM3, 81559"')
    big = {
        "student": "Qwen/Qwen3-1.7B",
        "teacher": "Qwen/Qwen3-4B",
        "network": ModelOptions(dtype="bfloat16"),
        "engine": EngineOptions(name="vllm"),
    }
    text = train(**big, processes=8)
    assert "6 optimiser steps, in 8 processes" in text
    assert "820 MiB  float32 weights, 1/8" in text  # 4 x 1,720,574,976 / 8
    assert "1.6 GiB  AdamW's moments, 1/8" in text
    assert "total at the peak, in each of 8 processes" in text
    assert "each process receives 11 GiB per micro-batch" in text
    assert "on each of 8 GPUs, without communication" in text
    assert text.endswith(". torchrun --nproc-per-node 8 -m sod ..., which starts the processes")
    alone = train(**big)
    assert "1/8" not in alone
    assert "receives" not in alone
    assert "7.5 GiB  teacher, bfloat16\n" in text
    assert "0.94 GiB" not in text
    assert "959 MiB  teacher, bfloat16, 1/8" in train(**big, processes=8, score=ScoreOptions(shard_teacher=True))


def test_under_torchrun_a_plan_is_for_the_processes_that_there_are(
    train: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "in each of 2 processes" in train()
    assert "nothing: all inputs are available" in train(processes=2)
    assert "1. Start 8 processes, or change --processes: torchrun has started 2, and processes = 8." in train(
        processes=8
    )


def test_what_several_processes_cannot_do_is_said_before(train: Callable[..., str]) -> None:
    text = train(processes=2, learn=LearnOptions(lora_rank=8, optimizer="adamw_8bit"))
    assert "Set learn.lora_rank to 0, or start one process." in text
    assert "Set learn.optimizer to adamw, or start one process." in text
    assert "rollout.problems is 2, too few for 3 processes" in train(processes=3)
    assert "rollout.problems" not in text


def test_processes_on_one_computer_share_its_memory(train: Callable[..., str], teacher: Path) -> None:
    device = find_device("cpu")
    assert device
    big = {"student": "Qwen/Qwen3-4B", "teacher": None, "algorithm": {"name": "grpo"}}
    few = next(count for count in range(1, 1000) if count * 4 * 4_022_468_096 > device.memory)
    assert "does NOT fit" in train(**big, processes=few, network=ModelOptions(device="cpu"))
    assert "fits into" in train(processes=2, network=ModelOptions(device="cpu"))
    assert re.search(r"in each of 2 processes\n +[\d.]+ [MG]iB  in all processes", train(processes=2))


def test_a_teacher_on_a_server_takes_nothing_here(train: Callable[..., str]) -> None:
    text = train(teacher="Qwen/Qwen3-14B", score=ScoreOptions(teacher_url="http://127.0.0.1:8001"))
    assert "teacher  on the server http://127.0.0.1:8001; its memory is not counted here" in text
    assert "teacher, float32" not in text
    assert "teacher, float32" in train(teacher="Qwen/Qwen3-14B")


def test_the_server_of_a_teacher_must_be_started_and_how_is_said(train: Callable[..., str]) -> None:
    text = train(teacher="Qwen/Qwen3-14B", score=ScoreOptions(teacher_url="http://127.0.0.1:8001"))
    command = "vllm serve Qwen/Qwen3-14B --dtype float32 --max-model-len 501 --host 127.0.0.1 --port 8001"
    assert (
        f"1. Start the teacher's server, unless it is running: {command}" in text
    )  # 100 of prompt, 400 of response, 1
    named = ScoreOptions(teacher_url="http://there", teacher_served_name="big", teacher_dtype="bfloat16")
    command = "--served-model-name big --dtype bfloat16 --max-model-len 501 --host there --port 80"
    assert command in train(teacher="Qwen/Qwen3-14B", score=named)
    assert "vllm serve" not in train()


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        ("vllm", "vllm serve T --served-model-name big --dtype float32 --max-model-len 501 --host there --port 8001"),
        (
            "sglang",
            "python -m sglang.launch_server --model-path T --served-model-name big --dtype float32 --context-length 501 "
            "--host there --port 8001",
        ),
        (
            "llamacpp",
            "llama-server --model T.gguf --alias big --ctx-size 2004 --parallel 4 --host there --port 8001",
        ),
        ("openai", "completions with echo and logprobs, for prompts of token ids, with a context of 501 tokens"),
    ],
)
def test_each_kind_of_a_teachers_server_has_its_own_command(
    train: Callable[..., str], kind: Any, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    score = ScoreOptions(teacher_url="http://there:8001", teacher_server=kind, teacher_served_name="big")
    assert f"Start the teacher's server, unless it is running: {command}" in train(teacher="T", score=score)


@pytest.mark.parametrize(
    ("kind", "exchanged", "read"),
    [
        ("auto", "1,000 tokens sent, 1,000 log-probabilities returned (assumed: vLLM;", "up to 1,000 tokens read"),
        (
            "sglang",
            "1,000 tokens sent, 800 log-probabilities",
            "read once, if the server's cache keeps it: at least 850",
        ),
        (
            "llamacpp",
            "60,000 tokens sent in 800 requests, one for each sampled token, 80,000 log-",
            "slot: at least 850",
        ),
        ("openai", "1,000 tokens sent, 1,000 log-probabilities", "the server decides: up to 1,000 tokens read"),
    ],
)
def test_the_tokens_of_a_served_teacher_are_estimated_with_what_its_cache_saves(
    train: Callable[..., str], kind: Any, exchanged: str, read: str
) -> None:
    """8 trajectories of 25 tokens of prompt and 100 of response, in 2 groups."""
    text = train(score=ScoreOptions(teacher_url="http://127.0.0.1:8001", teacher_server=kind))
    assert exchanged in text
    assert read in text
    assert "tokens sent" not in train()


def test_several_processes_need_a_server_each(train: Callable[..., str]) -> None:
    engine = EngineOptions(name="vllm_server", url="http://127.0.0.1:8000")
    assert "2 processes need a vLLM server each" in train(engine=engine, processes=2)
    assert "vLLM server each" not in train(engine=engine)
    each = train(engine=engine.model_copy(update={"url": "http://127.0.0.1:800{rank}"}), processes=2)
    assert "vLLM server each" not in each
    assert "is not the address" not in each


def test_tools_of_the_users_own_are_imported(train: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("raise SystemExit('broken')")
    text = train(tool={"own": [f"{tmp_path}/mine.py:look"]})
    assert f"tool     {tmp_path}/mine.py:look" in text
    assert "mine.py cannot be imported: SystemExit: broken" in text


def test_what_starts_the_processes_is_typed_last(train: Callable[..., str]) -> None:
    steps = re.findall(r"\d\. (.*)", train(processes=2, data="data/open_agentrl_30k.jsonl"))
    assert steps[0].startswith("sod data fetch")
    assert steps[-1].startswith("torchrun")


def test_only_a_gpu_is_spared_by_a_teacher_in_the_computers_memory(
    gpus: Callable[[str], None], train: Callable[..., str]
) -> None:
    large = {"student": "Qwen/Qwen3-14B", "teacher": "Qwen/Qwen3-14B", "rollout": {"problems": 8, "group": 4096}}
    large |= {"learn": LearnOptions(microbatch_tokens=1 << 30)}
    here = train(**large, network=ModelOptions(device="cpu"))
    assert "does NOT fit" in here
    assert "score.offload_teacher" not in here
    gpus('echo "NVIDIA L4, 23034"')
    assert "score.offload_teacher" in train(**large)


def test_fine_tuning_in_processes_keeps_a_copy_in_the_computers_memory(
    gpus: Callable[[str], None], jsonl: Callable[[Sequence[Any]], Path], tmp_path: Path
) -> None:
    gpus('echo "NVIDIA H100 80GB HBM3, 81559"')
    turns = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]
    options = SftOptions(
        model=Path("Qwen/Qwen3-1.7B"),
        data=jsonl([{"messages": turns}]),
        out=tmp_path / "run",
        processes=2,
        network=ModelOptions(dtype="bfloat16"),
    )
    text = plan(options, WIDE)
    assert "3.2 GiB  of the computer's memory in addition, in each process: a full copy" in text
    assert "model, bfloat16\n" not in text


# The commands


def test_a_dry_run_without_a_tokenizer_needs_no_torch_and_writes_nothing(problem_file: Path, tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from sod.config import TrainOptions
from sod.planning.dry_run import plan
plan(TrainOptions(student=Path("Qwen/Qwen3-0.6B"), data=Path({str(problem_file)!r}), out=Path("run")))
print([name for name in ("torch", "transformers", "numpy", "pyarrow") if name in sys.modules])
"""
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert ran.stdout == "[]\n"
    assert not list(tmp_path.iterdir())


def test_a_dry_run_tries_the_chat_template(
    teacher: Path, tokenizer: PreTrainedTokenizerBase, problem_file: Path, tmp_path: Path
) -> None:
    changed = copy.deepcopy(tokenizer)
    template = str(tokenizer.chat_template)
    drifting = template.replace("{{ turn(message.role) }}", "{{ turn(message.role) + EMPTY }}")
    bare = "loop.last and message.role == 'assistant' and not message.reasoning_content and '<think>' not in message.content"
    empty = f"('<think>\\n\\n</think>\\n\\n' if {bare} else '')"
    demonstrations = tmp_path / "demonstrations.jsonl"
    demonstrations.write_text(
        '{"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]}\n'
    )
    for folder, text, line in (
        ("refused", template.replace(HIDES_TOOLS, ""), "1. The chat template of .* does not show the tools"),
        ("accepted", drifting.replace("EMPTY", empty), "writes an empty thought into some turns"),
    ):
        shutil.copytree(teacher, tmp_path / folder)
        changed.chat_template = text
        changed.save_pretrained(tmp_path / folder)
        files: dict[str, Any] = {"out": tmp_path / "run", "data": problem_file}
        sft = SftOptions.model_validate(files | {"model": tmp_path / folder, "data": demonstrations})
        train = TrainOptions.model_validate(files | {"student": tmp_path / folder, "teacher": teacher})
        evaluation = EvalOptions.model_validate(files | {"model": tmp_path / folder, "data": [str(problem_file)]})
        for options in (sft, train, evaluation):
            assert re.search(line, plan(options, WIDE))
        with pytest.raises(TemplateError, match="does not show") if folder == "refused" else nullcontext():
            ChatFormat.of(load_tokenizer(tmp_path / folder), sft.chat)


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
    flags += ["--teacher", teacher, "--rollout.problems", 8] if command == "train" else []
    assert sod([command, *map(str, flags)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"sod {command}, a dry run: nothing is loaded, downloaded or written.\n")
    assert not (tmp_path / "run").exists()
    assert json.dumps(str(tmp_path / "run")).strip('"') in out


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("no file", "holds no weights in safetensors"),
        ("no norm", "its files lack model.norm.weight"),
        ("short head", "have another shape for model.embed_tokens.weight"),
        ("few rows", "but its tokenizer has ids up to"),
    ],
)
def test_weights_that_do_not_fit_are_found_before_loading(
    train: Callable[..., str], untrained: Path, tmp_path: Path, damage: str, words: str
) -> None:
    folder = Path(shutil.copytree(untrained, tmp_path / "student"))
    file, config = folder / "model.safetensors", folder / "config.json"
    weights = load_file(file)
    if damage == "no file":
        file.unlink()
    elif damage == "no norm":
        save_file({name: each for name, each in weights.items() if name != "model.norm.weight"}, file, {"format": "pt"})
    else:
        save_file(
            weights | {"model.embed_tokens.weight": weights["model.embed_tokens.weight"][:20]}, file, {"format": "pt"}
        )
        if damage == "few rows":
            config.write_text(json.dumps(json.loads(config.read_text()) | {"vocab_size": 20}))
    assert words in train(student=folder)
    assert "its files lack" not in train(student=untrained)


VARIANTS: dict[str, dict[str, Any]] = {
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gemma2": {"sliding_window": 64},
    "granite": {"logits_scaling": 8.0},
    "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen3": {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
}
SMALL: dict[str, Any] = {
    **{"vocab_size": 48, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
    **{"head_dim": 8, "intermediate_size": 48, "max_position_embeddings": 65_536},
    **{"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1},
}


@pytest.mark.parametrize("kind", VARIANTS)
def test_a_model_that_the_run_loads_is_not_refused_before(train: Callable[..., str], tmp_path: Path, kind: str) -> None:
    folder = tmp_path / kind
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**(SMALL | VARIANTS[kind])))
    model.save_pretrained(folder)
    load_model(folder, ModelOptions(device="cpu"))
    assert "not supported" not in train(student=folder)


def test_a_model_of_which_only_loading_can_tell_is_said_to_be_proved_then(
    train: Callable[..., str], tmp_path: Path
) -> None:
    """JetMoe's code reads numbers of its weights."""
    config = CONFIG_MAPPING["jetmoe"](**SMALL, kv_channels=8)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "jetmoe")
    why = "student's type is jetmoe, and a pass without its weights fails .* Loading it checks whether it can be used"
    assert re.search(why, train(student=tmp_path / "jetmoe"))
    with pytest.raises(ModelError, match=why):
        advice(PlanOptions(student=tmp_path / "jetmoe", teacher=None, gpus="8xH100"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gemma", "qwen3_5_text"])
def test_other_types_are_measured(train: Callable[..., str], tmp_path: Path, kind: str) -> None:
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**(SMALL | VARIANTS.get(kind, {}))))
    model.save_pretrained(tmp_path / kind)
    text = train(student=tmp_path / kind)
    assert f"{as_bytes(4 * model.num_parameters())}  student, float32" in text
    assert "total at the peak" in text
    assert "time     not estimated: operations are counted for models of type qwen3" in text
    plans = advice(PlanOptions(student=tmp_path / kind, teacher=None, gpus="8xH100"), WIDE)
    assert ("8 processes" in plans) == (kind == "gemma")
