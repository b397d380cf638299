"""Every path of training and sampling on a GPU that is not there (tests/fake_gpu.py): device rules, copies, waits, attention."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import bitsandbytes  # noqa: F401  its import asks a GPU for its kernels
import pytest
import torch
from fake_gpu import FakeGPU, QuadraticAttention, fake_gpu, numbers, on_gpu
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sod.batching import Batch, CreditedBatch, collate
from sod.concurrency import Runner
from sod.config import LearnOptions
from sod.engines import Request
from sod.engines.hf import HFEngine
from sod.model.loading import score, score_top
from sod.model.policy import Policy

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
            Request(ids=ids, max_tokens=12, stop=-1, seed=i, top_p=0.9 if i % 2 else 1.0)
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
