"""What a GPU does otherwise than a CPU: bfloat16, several kernels for attention, two memories."""

import asyncio
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from sod.batching import Batch, collate
from sod.config import LearnOptions, ModelOptions, RolloutOptions, ScoreOptions
from sod.engines import Engine, Request
from sod.engines.hf import HFEngine
from sod.engines.vllm import VLLMEngine
from sod.engines.vllm_base import COARSE_TOLERANCE
from sod.model.attention import ATTENTION
from sod.model.policy import Policy
from sod.model.scores import score
from sod.planning.memory import Shape, learning_bytes, optimiser_bytes
from sod.teachers import TeacherSetup
from sod.teachers.local import LocalTeacher
from sod.types import Group

GPU = torch.device("cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU here (torch.cuda.is_available())"),
]

VOCABULARY = 1000
ROUNDING = 0.1
"""Nats, mean over tokens: what bfloat16 may do to a log-probability. It does 0.03 on a CPU; sequences that see each other are off
by 1.3."""
EVERYTHING = 1 << 20
"""Tokens of a micro-batch that holds them all."""

Groups = Callable[..., list[Group]]


def network(dtype: torch.dtype, *, seed: int = 0, width: int = 256, layers: int = 4) -> Qwen3ForCausalLM:
    """A network whose next token depends sharply on what came before, on the CPU."""
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=3 * width,
        head_dim=64,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        initializer_range=0.08,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        attn_implementation=ATTENTION,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config).eval().to(dtype)


@pytest.fixture
def batch(random_groups: Groups) -> Batch:
    """Trajectories of very different lengths."""
    return collate(random_groups(3, 4, vocabulary=VOCABULARY, longest=120))


def gap(a_BT: Tensor, b_BT: Tensor, batch: Batch) -> float:
    """Nats, mean over sampled tokens."""
    return float((a_BT - b_BT)[batch.mask_BT].abs().mean())


def test_scores_in_float32_are_the_cpus(batch: Batch) -> None:
    model = network(torch.float32)
    on_cpu_BT, _ = score(model, batch, 1.0, EVERYTHING)
    on_gpu_BT, _ = score(model.to(GPU), batch, 1.0, EVERYTHING)  # type: ignore[arg-type]
    assert gap(on_gpu_BT, on_cpu_BT, batch) < 1e-3


def test_packed_scores_in_bfloat16_are_those_of_each_row_alone(batch: Batch) -> None:
    model = network(torch.bfloat16).to(GPU)  # type: ignore[arg-type]
    packed_BT, _ = score(model, batch, 1.0, EVERYTHING)
    alone_BT, _ = score(model, batch, 1.0, 1)
    assert gap(packed_BT, alone_BT, batch) < ROUNDING


@torch.no_grad()
def test_packed_scores_in_bfloat16_are_those_of_transformers_on_padded_rows(batch: Batch) -> None:
    model = network(torch.bfloat16).to(GPU)  # type: ignore[arg-type]
    packed_BT, _ = score(model, batch, 1.0, EVERYTHING)
    model.set_attn_implementation("sdpa")
    inside_BT = torch.arange(batch.ids_BT.shape[1]) < batch.lengths_B[:, None]
    logits_BTV = model(input_ids=batch.ids_BT.to(GPU), attention_mask=inside_BT.to(GPU).long()).logits.float()
    logprobs_BT = logits_BTV[:, :-1].log_softmax(-1).gather(2, batch.ids_BT[:, 1:, None].to(GPU))[..., 0].cpu()
    assert gap(packed_BT, torch.nn.functional.pad(logprobs_BT, (1, 0)), batch) < ROUNDING


def test_an_engine_samples_with_the_policys_probabilities(random_groups: Groups) -> None:
    model = network(torch.bfloat16).to(GPU)  # type: ignore[arg-type]
    engine = HFEngine(model, slots=4)

    async def work() -> list[tuple[list[int], tuple[int, ...], tuple[float, ...]]]:
        prompts = [list(trajectory.ids) for group in random_groups(1, 4, vocabulary=VOCABULARY) for trajectory in group]
        requests = [Request(ids=ids, max_tokens=100, stops=(), seed=i) for i, ids in enumerate(prompts)]
        replies = await asyncio.gather(*map(engine.sample, requests))
        return [(ids, reply.tokens, reply.logprobs) for ids, reply in zip(prompts, replies, strict=True)]

    for ids, tokens, logprobs in asyncio.run(work()):
        assert len(tokens) == 100
        assert (torch.tensor(logprobs) - read(model, [*ids, *tokens])[-100:]).abs().mean() < ROUNDING


@torch.no_grad()
def read(model: Qwen3ForCausalLM, ids: list[int]) -> Tensor:
    """log pi of every token but the first. -> (T - 1,)"""
    ids_BT = torch.tensor([ids], device=model.device)
    logprobs_TV = model(input_ids=ids_BT, use_cache=False).logits[0, :-1].float().log_softmax(-1)
    return logprobs_TV.gather(1, ids_BT[0, 1:, None])[:, 0].cpu()


def test_an_offloaded_teacher_scores_alike_and_leaves_the_gpu(
    random_groups: Groups, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    network(torch.bfloat16).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    batch = collate(random_groups(2, 3, vocabulary=VOCABULARY, longest=60))
    limits = RolloutOptions(max_prompt_tokens=1000, max_tokens=1000)

    def open_teacher(*, offload: bool) -> LocalTeacher:
        setup = TeacherSetup(
            folder=tmp_path,
            tokenizer=tokenizer,
            network=ModelOptions(dtype="bfloat16", device=GPU.type),
            score=ScoreOptions(offload_teacher=offload),
            rollout=limits,
            microbatch_tokens=EVERYTHING,
        )
        return LocalTeacher(setup)

    expected_BT = asyncio.run(open_teacher(offload=False).score(batch)).logprobs_BT
    before = torch.cuda.memory_allocated()
    teacher = open_teacher(offload=True)
    scores_BT = asyncio.run(teacher.score(batch)).logprobs_BT
    assert torch.cuda.memory_allocated() - before < 1 << 20  # its weights are some 9 MiB
    assert scores_BT.equal(expected_BT)
    assert asyncio.run(teacher.score(batch)).logprobs_BT.equal(expected_BT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_checkpointing_does_not_change_what_is_learnt(
    dtype: torch.dtype, random_groups: Groups, tokenizer: PreTrainedTokenizerBase
) -> None:
    batch = collate(random_groups(2, 3, vocabulary=VOCABULARY, longest=60))

    def learnt(*, checkpointing: bool) -> tuple[float, list[Tensor]]:
        model = network(dtype).to(GPU)  # type: ignore[arg-type]
        policy = Policy(model, tokenizer, LearnOptions(lr=1e-3, checkpointing=checkpointing))
        report = policy.imitate(batch.ids_BT, batch.mask_BT, batch.lengths_B)
        return report["grad_norm"], [weight.detach() for weight in model.parameters()]

    (norm, weights), (norm_again, weights_again) = learnt(checkpointing=False), learnt(checkpointing=True)
    assert norm_again == pytest.approx(norm, rel=1e-2 if dtype == torch.bfloat16 else 1e-4)
    moved = torch.cat([(a - b).flatten().float() for a, b in zip(weights, weights_again, strict=True)])
    assert moved.abs().mean() < 1e-4  # a step of Adam moves every weight by lr = 1e-3


def test_learning_needs_as_much_memory_as_is_predicted(tokenizer: PreTrainedTokenizerBase) -> None:
    model = network(torch.bfloat16, width=1024, layers=8).to(GPU)  # type: ignore[arg-type]
    shape = Shape.of(model.config.to_dict())
    assert shape is not None
    learn = LearnOptions(lr=1e-6, microbatch_tokens=4096)
    policy = Policy(model, tokenizer, learn)
    ids_BT = torch.randint(2, VOCABULARY, (4, 1024), generator=torch.Generator().manual_seed(0))
    mask_BT = torch.ones_like(ids_BT, dtype=torch.bool)
    mask_BT[:, 0] = False
    for _ in range(2):  # gradients and moments stand side by side only in the second
        torch.cuda.reset_peak_memory_stats()
        policy.imitate(ids_BT, mask_BT, torch.full((4,), 1024))
    predicted = 2 * shape.parameters + sum(optimiser_bytes(shape, 2, learn).values())
    predicted += learning_bytes(shape, 4096, 2, learn)
    assert 0.6 < torch.cuda.max_memory_allocated() / predicted < 1.1


@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed here (pip install '.[vllm]')")
@pytest.mark.filterwarnings("default")  # vLLM's own
def test_vllm_proves_that_it_samples_with_the_policys_weights_also_after_they_changed() -> None:
    model = network(torch.bfloat16).to(GPU)  # type: ignore[arg-type]

    async def work() -> None:
        engine = await VLLMEngine.open(model, context=2048, memory_share=0.2)
        try:
            assert engine.gap <= COARSE_TOLERANCE
            with torch.no_grad():
                for weight in model.parameters():
                    weight += 0.02 * torch.randn_like(weight)
            await engine.refresh()
            assert engine.gap <= COARSE_TOLERANCE
            await read_again(engine)
        finally:
            await engine.close()

    async def read_again(engine: Engine) -> None:
        reply = await engine.sample(Request(ids=list(range(2, 60)), max_tokens=64, stops=(), seed=3))
        expected_T = read(model, [*range(2, 60), *reply.tokens])[-64:]
        assert (torch.tensor(reply.logprobs) - expected_T).abs().mean() <= COARSE_TOLERANCE

    asyncio.run(work())
