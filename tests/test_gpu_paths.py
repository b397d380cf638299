"""Every path of training and sampling on a GPU that is not there (tests/fake_gpu.py): device rules, copies, waits, attention."""

import asyncio
import json
import shutil
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import bitsandbytes  # noqa: F401  its import asks a GPU for its kernels
import pytest
import torch
from fake_gpu import MEMORY, FakeGPU, QuadraticAttention, fake_gpu, numbers, on_gpu
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sod.batching import Batch, CreditedBatch, collate
from sod.chat.format import ChatFormat
from sod.config import (
    EngineOptions,
    EvalOptions,
    LearnOptions,
    ModelOptions,
    RolloutOptions,
    ScoreOptions,
    TrainOptions,
)
from sod.engines import VLLM_VERSION, Request, choice
from sod.engines.hf import HFEngine
from sod.engines.opening import open_engine
from sod.engines.vllm_base import check_room
from sod.errors import CapacityError, ModelError, OptionError, OutageError
from sod.model.devices import LEARNING, chosen_device, device_errors
from sod.model.loading import load_model
from sod.model.policy import Policy
from sod.model.scores import score, score_top
from sod.processes.concurrency import Runner
from sod.teachers import TeacherSetup
from sod.teachers.local import LocalTeacher
from sod.teachers.privileged import PrivilegedTeacher
from sod.training.on_policy import train

Groups = Callable[..., Any]
Models = Callable[..., Any]
TYPES = (torch.float32, torch.bfloat16)
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 0.05}
"""Largest mean difference of log-probabilities between both devices, in nats. Kernels round differently in bfloat16."""


@pytest.fixture
def gpu() -> Iterator[FakeGPU]:
    with fake_gpu() as found:
        torch.backends.cuda.enable_cudnn_sdp(False)  # as `load_model` does
        yield found


@pytest.fixture
def batch(random_groups: Groups) -> Batch:
    return collate(random_groups(2, 3))


def credited(batch: Batch, student_BT: Tensor, **fields: Any) -> CreditedBatch:
    credit_BT = torch.linspace(-1, 1, batch.ids_BT.numel()).view_as(student_BT) * batch.mask_BT
    return replace(batch.scored(student_BT), **fields).credited(credit_BT)


def gap(a_BT: Tensor, b_BT: Tensor, batch: Batch) -> float:
    return float((a_BT - b_BT)[batch.mask_BT].abs().mean())


# Rules of the device itself


def test_tensors_of_two_devices_do_not_meet_and_a_number_that_is_read_waits(gpu: FakeGPU) -> None:
    there = torch.ones(2, device="cuda")
    with pytest.raises(RuntimeError, match="same device"):
        there + torch.ones(2)
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    assert (there + 1).sum().item() == 4
    assert gpu.counts.waits.total() == 1
    assert there.cpu().equal(torch.ones(2))
    assert gpu.counts.from_gpu.total() == 1


@pytest.mark.parametrize("dtype", TYPES)
def test_attention_with_a_mask_and_grouped_heads_is_reported_as_quadratic(gpu: FakeGPU, dtype: torch.dtype) -> None:
    query, key = (torch.randn(1, heads, 8, 16, device="cuda", dtype=dtype) for heads in (4, 2))
    mask = torch.ones(8, 8, dtype=torch.bool, device="cuda")
    with pytest.raises(QuadraticAttention, match="a mask, grouped heads"):
        torch.nn.functional.scaled_dot_product_attention(
            query, key, key, attn_mask=mask, is_causal=False, enable_gqa=True
        )


# Scores


@pytest.mark.parametrize("dtype", TYPES)
def test_scores_are_those_of_the_cpu(gpu: FakeGPU, random_model: Models, batch: Batch, dtype: torch.dtype) -> None:
    expected_BT, expected_entropy_BT = score(random_model(dtype=dtype), batch, 1.0, 40, entropy=True)
    found_BT, entropy_BT = score(random_model(dtype=dtype).to("cuda"), batch, 1.0, 40, entropy=True)
    assert not on_gpu(found_BT)
    assert gap(found_BT, expected_BT, batch) < ROUNDING[dtype]
    assert entropy_BT is not None
    assert expected_entropy_BT is not None
    assert gap(entropy_BT, expected_entropy_BT, batch) < ROUNDING[dtype]


@pytest.mark.parametrize("dtype", TYPES)
def test_rows_with_a_common_start_are_scored_as_on_the_cpu(
    gpu: FakeGPU, random_model: Models, trajectory: Any, dtype: torch.dtype
) -> None:
    from sod.types import Group, Problem

    prompt = ("prompt", [5 + i % 17 for i in range(40)])
    rows = [trajectory(prompt, ("student", [3 + sample, 7, 9, 1 + sample])) for sample in range(4)]
    batch = collate([Group(Problem(id="p", messages=(), answer="1"), rows)])
    expected_BT, _ = score(random_model(dtype=dtype), batch, 1.0, 1000)
    found_BT, _ = score(random_model(dtype=dtype).to("cuda"), batch, 1.0, 1000)
    assert gap(found_BT, expected_BT, batch) < ROUNDING[dtype]


def test_candidates_are_those_of_the_cpu(gpu: FakeGPU, random_model: Models, batch: Batch) -> None:
    expected, found = (score_top(random_model().to(place), batch, 1.0, 40, 5) for place in ("cpu", "cuda"))
    assert found[0].equal(expected[0])
    torch.testing.assert_close(found[1], expected[1], atol=1e-5, rtol=1e-5)


# Learning


def learnt(model: Any, tokenizer: PreTrainedTokenizerBase, batch: CreditedBatch, **options: Any) -> list[Tensor]:
    policy = Policy(model, tokenizer, LearnOptions(lr=1e-2, minibatches=1, microbatch_tokens=60, **options))
    policy.learn(batch, 1.0, torch.Generator().manual_seed(0), max_tokens=100)
    return [numbers(weight.detach()).float() for weight in model.parameters()]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"checkpointing": True},
        {"checkpointing": True, "keep_attention": True},
        {"loss": "gspo", "clip_low": 0.1, "clip_high": 0.1},
        {"entropy": 0.01},
        {"lora_rank": 2},
    ],
    ids=lambda options: ", ".join(options) or "usual",
)
def test_an_update_on_the_gpu_gives_the_weights_of_one_on_the_cpu(
    gpu: FakeGPU,
    random_model: Models,
    tokenizer: PreTrainedTokenizerBase,
    batch: Batch,
    options: dict[str, Any],
) -> None:
    student_BT, _ = score(random_model(), batch, 1.0, 1000)
    expected, found = (
        learnt(random_model().to(place), tokenizer, credited(batch, student_BT), **options) for place in ("cpu", "cuda")
    )
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def test_an_update_in_bfloat16_moves_the_weights_as_on_the_cpu(
    gpu: FakeGPU, random_model: Models, tokenizer: PreTrainedTokenizerBase, batch: Batch
) -> None:
    student_BT, _ = score(random_model(dtype=torch.bfloat16), batch, 1.0, 1000)
    before = torch.cat(
        [weight.detach().float().flatten() for weight in random_model(dtype=torch.bfloat16).parameters()]
    )
    moved = [
        torch.cat(
            [
                w.flatten()
                for w in learnt(random_model(dtype=torch.bfloat16).to(place), tokenizer, credited(batch, student_BT))
            ]
        )
        - before
        for place in ("cpu", "cuda")
    ]
    assert torch.cosine_similarity(*moved, dim=0) > 0.9


def test_exact_candidates_are_learnt_from_as_on_the_cpu(
    gpu: FakeGPU, random_model: Models, tokenizer: PreTrainedTokenizerBase, batch: Batch
) -> None:
    ids_BTJ, logprobs_BTJ = score_top(random_model(), batch, 1.0, 1000, 3)
    scored = replace(batch, candidates_BTJ=ids_BTJ[..., 1:]).scored(
        logprobs_BTJ[..., 0], candidate_student_BTJ=logprobs_BTJ[..., 1:]
    )
    scored = replace(scored, candidate_teacher_BTJ=logprobs_BTJ[..., 1:] * 0.9)
    whole = scored.credited(batch.mask_BT * 0.5, teacher_weight_BT=batch.mask_BT * 1.0)
    expected, found = (learnt(random_model().to(place), tokenizer, whole) for place in ("cpu", "cuda"))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def test_a_policy_is_saved_from_the_gpu_and_restored_there(
    gpu: FakeGPU, random_model: Models, tokenizer: PreTrainedTokenizerBase, batch: Batch, tmp_path: Path
) -> None:
    def policy() -> Policy:
        return Policy(random_model(dtype=torch.bfloat16).to("cuda"), tokenizer, LearnOptions(lr=1e-2, minibatches=1))

    first, again = policy(), policy()
    student_BT, _ = score(first.model, batch, 1.0, 1000)
    step = lambda each: each.learn(credited(batch, student_BT), 1.0, torch.Generator().manual_seed(0))  # noqa: E731
    step(first)
    first.save(tmp_path)
    again.restore(tmp_path)
    assert again.steps == 1
    for each in (first, again):
        step(each)
    for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert numbers(a.detach()).equal(numbers(b.detach()))


# Sampling


def sampled(model: Any, prompts: list[list[int]], **options: Any) -> list[Any]:
    engine = HFEngine(model, slots=len(prompts), **options)

    async def work() -> list[Any]:
        requests = [
            Request(ids=ids, max_tokens=12, stops=(), seed=i, top_p=0.9 if i % 2 else 1.0)
            for i, ids in enumerate(prompts)
        ]
        return await asyncio.gather(*map(engine.sample, requests))

    with Runner() as loop:  # computes in this thread
        return loop.run(work())


PROMPTS = [[3, 4, 5, 6, 7] * 8 + [8], [3, 4, 5, 6, 7] * 8 + [9, 10], [11, 12], [13] * 30]


def test_the_engine_samples_the_tokens_of_the_cpu(gpu: FakeGPU, random_model: Models) -> None:
    expected, found = (sampled(random_model().to(place), PROMPTS) for place in ("cpu", "cuda"))
    assert [reply.tokens for reply in found] == [reply.tokens for reply in expected]


def test_the_engine_samples_in_bfloat16_with_the_probabilities_of_a_full_pass(
    gpu: FakeGPU, random_model: Models, trajectory: Any
) -> None:
    from sod.types import Group, Problem

    model = random_model(dtype=torch.bfloat16).to("cuda")
    replies = sampled(model, PROMPTS)
    rows = [trajectory(("prompt", ids), ("student", reply.tokens)) for ids, reply in zip(PROMPTS, replies, strict=True)]
    batch = collate([Group(Problem(id="p", messages=(), answer="1"), rows)])
    found_BT, _ = score(model, batch, 1.0, 1)
    for row, reply in enumerate(replies):
        expected = found_BT[row][batch.mask_BT[row]]
        assert (torch.tensor(reply.logprobs) - expected).abs().mean() < 0.1


def test_a_decode_pass_waits_once_and_attends_once_a_layer(gpu: FakeGPU, random_model: Models) -> None:
    model = random_model(dtype=torch.bfloat16).to("cuda")
    engine = HFEngine(model, slots=4)

    async def work(count: int) -> None:
        requests = [Request(ids=ids, max_tokens=count, stops=(), seed=i) for i, ids in enumerate(PROMPTS)]
        await asyncio.gather(*map(engine.sample, requests))

    passes: list[Any] = []
    for count in (5, 15):
        with Runner() as loop:
            loop.run(engine.refresh())
            gpu.reset()
            loop.run(work(count))
        passes.append(gpu.counts)
    short, long = passes
    # One pass more for each token more. Prompts are read in the first passes of both.
    assert (long.waits - short.waits) == {"engines/drawing.py:draw_tokens": 10}
    assert (long.attention - short.attention) == {"efficient": 10 * model.config.num_hidden_layers}
    copies = long.to_gpu - short.to_gpu
    assert copies.total() <= 10 * 5, copies
    kernels = (long.launches - short.launches).total()
    assert kernels <= 10 * 230, f"{kernels / 10} launches of a pass"


@pytest.mark.parametrize(
    ("options", "passes"),
    [({}, 1), ({"checkpointing": True}, 2), ({"checkpointing": True, "keep_attention": True}, 1)],
    ids=["kept", "recomputed", "selective"],
)
def test_attention_of_a_micro_batch_is_one_call_a_layer_forward_and_backward(
    gpu: FakeGPU,
    random_model: Models,
    tokenizer: PreTrainedTokenizerBase,
    batch: Batch,
    options: dict[str, bool],
    passes: int,
) -> None:
    model = random_model(dtype=torch.bfloat16).to("cuda")
    policy = Policy(model, tokenizer, LearnOptions(lr=1e-2, **options))
    gpu.reset()
    policy.imitate(batch.ids_BT, batch.mask_BT, batch.lengths_B)
    layers = model.config.num_hidden_layers
    assert gpu.counts.attention == {"varlen": passes * layers, "varlen_backward": layers}


# Loading, the teacher in CPU memory, and a whole run


def test_a_model_is_loaded_in_bfloat16_without_cudnns_attention(untrained: Path) -> None:
    with fake_gpu() as gpu:
        torch.backends.cuda.enable_cudnn_sdp(True)  # an earlier test may have switched it off
        model = load_model(untrained, ModelOptions())
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        assert model.dtype == torch.bfloat16
        assert numbers(model.model.rotary_emb.inv_freq)[0] == 1
        assert model.device.type == "cuda"
        assert gpu.counts.attention


def test_a_teacher_in_cpu_memory_is_copied_to_the_gpu_and_never_back(
    gpu: FakeGPU, teacher: Path, tokenizer: PreTrainedTokenizerBase, random_groups: Groups
) -> None:
    batch = collate(random_groups(1, 3, vocabulary=400))
    setup = TeacherSetup(
        folder=teacher,
        tokenizer=tokenizer,
        network=ModelOptions(dtype="float32"),
        score=ScoreOptions(offload_teacher=True),
        rollout=RolloutOptions(max_prompt_tokens=400, max_tokens=400),
        microbatch_tokens=1000,
    )
    kept = LocalTeacher(replace(setup, score=ScoreOptions()))
    moved = LocalTeacher(setup)
    expected = kept.score_now(batch)
    weights = sum(1 for _ in moved._model.parameters())
    for _ in range(2):
        gpu.reset()
        found = moved.score_now(batch)
        assert found.logprobs_BT.equal(expected.logprobs_BT)
        assert weights <= gpu.counts.to_gpu["teachers/local.py:_enter"] <= weights + 2
        assert set(gpu.counts.from_gpu) == {"model/scores.py:score", "model/scores.py:_parts"} & set(
            gpu.counts.from_gpu
        )
        assert all(weight.device.type == "cpu" for weight in moved._model.parameters())


def test_the_average_of_an_offloaded_teacher_stays_in_cpu_memory(
    gpu: FakeGPU, teacher: Path, chat: ChatFormat, random_groups: Groups
) -> None:
    batch = collate(random_groups(1, 2, vocabulary=400))
    setup = TeacherSetup(
        folder=teacher,
        tokenizer=chat.tokenizer,
        network=ModelOptions(dtype="float32"),
        score=ScoreOptions(offload_teacher=True),
        rollout=RolloutOptions(max_prompt_tokens=400, max_tokens=400),
        microbatch_tokens=1000,
    )
    moved = PrivilegedTeacher(setup, chat, (), context="hint", decay=0.5)
    student = load_model(teacher, ModelOptions(dtype="float32"))
    with torch.no_grad():
        for weight in student.parameters():
            weight.add_(1)
    before = next(moved._model.parameters()).clone()
    moved.logprobs(batch)
    moved.follow(student)
    moved.logprobs(batch)
    assert all(average.device.type == "cpu" for average in moved._averages)
    torch.testing.assert_close(next(moved._model.parameters()).detach(), before.detach() + 0.5)


def test_the_slots_of_the_engine_are_bounded_by_its_share_of_the_memory(
    gpu: FakeGPU, random_model: Models, caplog: pytest.LogCaptureFixture
) -> None:
    token = 2 * 2 * 1 * 8 * 2  # keys and values, layers, heads, head_dim, bytes of bfloat16
    rollout = RolloutOptions(max_prompt_tokens=100, max_tokens=100, concurrency=64)
    options = EngineOptions(name="hf", memory_share=(10.5 * 200 * token) / MEMORY)
    with Runner() as loop, open_engine(loop, options, random_model(dtype=torch.bfloat16).to("cuda"), rollout) as engine:
        assert isinstance(engine, HFEngine)
        assert len(engine._cached) == 10
    assert "10 trajectories are sampled at a time, not rollout.concurrency = 64" in caplog.text


@pytest.mark.slow
def test_a_whole_run_trains_on_the_gpu(gpu: FakeGPU, untrained: Path, problem_file: Path, tmp_path: Path) -> None:
    options = TrainOptions.model_validate(
        {
            "student": untrained,
            "teacher": untrained,
            "data": problem_file,
            "out": tmp_path / "run",
            "updates": 1,
            "rollout": {"problems": 2, "group": 2, "max_tokens": 24, "max_prompt_tokens": 200, "max_turns": 1},
            "learn": {"minibatches": 1, "correction": "truncated"},
            "engine": {"name": "hf"},
        }
    )
    run = train(options)
    [row] = run.metrics()
    assert row["sampler/gap_mean"] < 0.1
    assert 0.5 < row["sampler/weight_mean"] < 2
    stored = json.loads((tmp_path / "run" / "options.json").read_text())
    assert (stored["network"]["dtype"], stored["engine"]["name"]) == ("bfloat16", "hf")
    assert load_model(run.finished() or tmp_path, ModelOptions(device="cpu")).dtype == torch.float32


# Errors in words


def test_full_memory_and_a_lost_gpu_are_told_with_what_to_try() -> None:
    full = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.1 GiB. Of the allocated memory ..."
    words = r"full while learning: CUDA out of memory\. .* 79\.1 GiB\. Try --learn\.check"
    with pytest.raises(CapacityError, match=words) as told, device_errors("learning", LEARNING):
        raise torch.OutOfMemoryError(full)
    assert "Of the allocated" not in str(told.value)
    words = r"The GPU failed while learning: CUDA error: device lost\. Look at `nvidia-smi`"
    with pytest.raises(OutageError, match=words), device_errors("learning", LEARNING):
        raise torch.AcceleratorError("CUDA error: device lost\nCUDA kernel errors might be ...")


def test_apples_gpu_is_refused_in_words_and_not_replaced_by_the_cpu(untrained: Path) -> None:
    words = r"network\.device = mps is not supported: sampling adds probabilities in float64"
    with pytest.raises(ModelError, match=words):
        load_model(untrained, ModelOptions(device="mps"))


def test_a_gpu_that_pytorch_cannot_use_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chosen_device("auto") == "cpu"
    assert "cannot use a GPU, so the CPU is used" in caplog.text


def test_a_directory_without_room_for_the_weights_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=64 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    check_room(Path("/dev/shm"), 60 << 20)
    with pytest.raises(
        OptionError, match=r"/dev/shm has 64 MiB free, .* 3,277 MiB .* docker run --shm-size .* --engine.exchange"
    ):
        check_room(Path("/dev/shm"), 3277 << 20)


# The engine of auto


@pytest.mark.parametrize(
    ("installed", "device", "temperature", "expected"),
    [
        ("0.32.0", "auto", 1, "vllm"),
        (None, "auto", 1, "hf"),
        ("0.33.0", "auto", 1, "hf"),
        ("0.32.1", "cpu", 1, "hf"),
        ("0.32.0", "cuda:0", 1, "vllm"),
        ("0.32.0", "cuda:1", 1, "hf"),
        ("0.32.0", "auto", 0.6, "hf"),
    ],
)
def test_auto_takes_vllm_on_a_gpu_where_its_version_is_installed(
    gpu: FakeGPU,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    installed: str | None,
    device: str,
    temperature: float,
    expected: str,
) -> None:
    monkeypatch.setattr(choice, "find_spec", lambda _: installed)
    monkeypatch.setattr(choice, "version", lambda _: installed)
    rollout = {"temperature": temperature, "top_p": 0.95}
    options = EvalOptions.model_validate(
        {"model": "m", "data": "d.jsonl", "out": tmp_path, "network": {"device": device}, "rollout": rollout}
    )
    assert choice.with_engine(options).engine.name == expected
    (tmp_path / "options.json").write_text(json.dumps({"engine": {"name": "hf"}}))
    assert choice.with_engine(options).engine.name == "hf"


def test_another_version_of_vllm_is_refused_with_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "version", lambda _: "0.33.0")
    assert choice.wrong_vllm().startswith(
        "vllm 0.33.0 is installed, but sod needs 0.32, the version for its PyTorch. Type pip"
    )


def test_the_extra_pins_the_version_of_vllm_that_is_checked() -> None:
    needs = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert any(each.startswith(f"vllm=={VLLM_VERSION}.") for each in needs["vllm"])
