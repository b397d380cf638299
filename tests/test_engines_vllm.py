"""vLLM as an engine: what every engine promises, weights that are proved to be the policy's, and trouble with a server.

What needs vLLM runs in process where it can be imported, and on a server where SOD_VLLM_PYTHON names the Python of an
environment that has it. The rest runs everywhere, against a server in this process that answers as vLLM does.
"""

import asyncio
import gc
import importlib.util
import json
import multiprocessing
import os
import random
import shutil
import socket
import subprocess
import tempfile
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from sod.chat.format import ChatFormat
from sod.config import EngineOptions, ModelOptions, RolloutOptions, TrainOptions
from sod.datasets.rows import load_problems
from sod.engines import Engine, Reply, Request, vllm_worker
from sod.engines.hf import HFEngine
from sod.engines.opening import open_engine
from sod.engines.served import ServedEngine
from sod.engines.vllm import VLLMEngine
from sod.engines.vllm_base import VLLM, logprobs_mode, parameters
from sod.engines.vllm_server import VLLMServerEngine
from sod.errors import InfrastructureError, ModelError, OptionError, OutageError, TrainingError
from sod.lab import settings
from sod.model.loading import load_model, load_tokenizer
from sod.processes.concurrency import Runner
from sod.rollout.groups import attempt_seed
from sod.training.on_policy import train

pytestmark = pytest.mark.filterwarnings("default")  # vLLM's own

STOP = 1
VOCABULARY = 24
CONTEXT = 16384
MEMORY = 0.2
BLOCK = 128
"""Tokens that vLLM's prefix cache reuses at a time on a CPU."""
HAS_VLLM = importlib.util.find_spec("vllm") is not None
NEEDS_VLLM = pytest.mark.skipif(not HAS_VLLM, reason="vLLM is not installed here")
SHAPE = {
    *(
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "intermediate_size",
    ),
    *("head_dim", "max_position_embeddings", "initializer_range", "pad_token_id", "bos_token_id", "eos_token_id"),
}
"""Options of a model's configuration that families share."""
SERVER_PYTHON = os.environ.get("SOD_VLLM_PYTHON")
SERVER_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_HOST_IP": "127.0.0.1"}


def new_model(seed: int = 0, *, head_dim: int = 32) -> Qwen3ForCausalLM:
    """A tiny model with tied embeddings, of a shape that vLLM can run."""
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=64,
        head_dim=head_dim,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=0.2,
        pad_token_id=0,
        eos_token_id=STOP,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config).eval()


def become(model: Qwen3ForCausalLM, seed: int) -> None:
    """Other weights, in place, as an optimiser step does."""
    model.load_state_dict(new_model(seed).state_dict())


def some_ids(count: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(2, VOCABULARY), k=count)


def full_forward(model: PreTrainedModel, ids: Sequence[int], temperature: float) -> Tensor:
    """log pi of every token but the first. -> (T - 1,)"""
    with torch.no_grad():
        logits_TV = model(torch.tensor([list(ids)])).logits[0, :-1] / temperature
    return logits_TV.log_softmax(-1).gather(1, torch.tensor(ids)[1:, None])[:, 0]


def worst(model: PreTrainedModel, ids: Sequence[int], reply: Reply, temperature: float) -> float:
    """The largest difference of a reply's log-probabilities from a full forward pass."""
    expected = full_forward(model, [*ids, *reply.tokens], temperature)[len(ids) - 1 :]
    return (torch.tensor(reply.logprobs) - expected).abs().max().item()


class Setting:
    """An engine, the policy that it samples, and the event loop that both live in."""

    def __init__(self, runner: asyncio.Runner, engine: VLLM, model: Qwen3ForCausalLM, **sampling: float):
        self.runner, self.engine, self.model, self.sampling = runner, engine, model, sampling

    def ask(self, seed: int = 0, *, ids: Sequence[int] = (5, 6, 7), **fields: Any) -> Request:
        return Request(**{"ids": ids, "seed": seed, "max_tokens": 8, "stops": (STOP,)} | self.sampling | fields)

    def write(self, *requests: Request) -> list[Reply]:
        async def work() -> list[Reply]:
            return await asyncio.gather(*map(self.engine.sample, requests))

        return self.runner.run(work())

    def run(self, work: Awaitable[Any]) -> Any:
        async def waiting() -> Any:
            return await work

        return self.runner.run(waiting())

    def worst(self, ids: Sequence[int], reply: Reply) -> float:
        return worst(self.model, ids, reply, self.sampling["temperature"])


# With vLLM


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner
    gc.collect()  # what vLLM leaves behind, while its warnings are let pass


@contextmanager
def serving(student: Path, worker: Path, context: int, *, weights: str = "dummy") -> Iterator[str]:
    """A vLLM server for models of this shape, with its own weights if they are `auto`; the address.

    `worker` is a folder of its own.
    """
    if SERVER_PYTHON is None:
        pytest.skip("SOD_VLLM_PYTHON names no Python that has vLLM")
    shutil.copy(vllm_worker.__file__, worker)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = {
        "model": student,
        "host": "127.0.0.1",
        "port": port,
        "dtype": "float32",
        "load-format": weights,
        "max-model-len": context,
        "generation-config": "vllm",
        "worker-extension-cls": "vllm_worker.WeightSync",
    }
    log = worker / "output.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(SERVER_PYTHON, "-m", "vllm.entrypoints.openai.api_server"),
                *("--enforce-eager", "--no-enable-chunked-prefill"),
                *(f"--{name}={value}" for name, value in flags.items()),
            ],
            env=os.environ | SERVER_ENVIRONMENT | {"VLLM_SERVER_DEV_MODE": "1", "PYTHONPATH": str(worker)},
            stdout=output,
            stderr=output,
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


@pytest.fixture(scope="module")
def server(tokenizer: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a vLLM server with other weights than any policy here."""
    student, worker = tmp_path_factory.mktemp("student"), tmp_path_factory.mktemp("worker")
    new_model(99).save_pretrained(student)
    tokenizer.save_pretrained(student)
    with serving(student, worker, CONTEXT) as url:
        yield url


@pytest.fixture(scope="module", params=[pytest.param("process", marks=NEEDS_VLLM), "server"])
def vllm(request: pytest.FixtureRequest, runner: asyncio.Runner) -> Iterator[Setting]:
    """In process at another temperature, where log-probabilities are vLLM's processed ones; served with top_p, where
    they are its raw ones."""
    model = new_model()
    if request.param == "process":
        sampling = {"temperature": 0.7, "top_p": 1.0}
        engine = runner.run(VLLMEngine.open(model, context=CONTEXT, memory_share=MEMORY, **sampling))
    else:
        sampling = {"temperature": 1.0, "top_p": 0.8}
        engine = runner.run(VLLMServerEngine.open(request.getfixturevalue("server"), model, **sampling))
    yield Setting(runner, engine, model, **sampling)
    runner.run(engine.close())


# Training with it


@pytest.mark.parametrize("engine", [pytest.param("vllm", marks=NEEDS_VLLM), "vllm_server"])
def test_a_training_run_samples_from_the_policy_of_each_update(
    engine: str, teacher: Path, trembling: Callable[[Path, float], None], problem_file: Path, tmp_path: Path
) -> None:
    """The lab's teacher with a tremor learns from the steady one, in large steps: with an earlier update's weights, the
    sampler would be off."""
    trembling(tmp_path / "student", 0.05)
    rollout = settings.ROLLOUT | {"problems": 4, "group": 2, "max_tokens": 200}
    recipe = {
        "student": tmp_path / "student",
        "teacher": teacher,
        "data": problem_file,
        "out": tmp_path / "run",
        "updates": 3,
        "rollout": rollout,
        "engine": {"name": engine, "memory_share": MEMORY},
        "learn": {"lr": 3e-3, "minibatches": 2},
        "reward": settings.REWARD,
        "tool": settings.TOOL,
        "sandbox": {"workers": 2},
    }
    with ExitStack() as stack:
        if engine == "vllm_server":
            (tmp_path / "worker").mkdir()
            recipe["engine"]["url"] = stack.enter_context(serving(teacher, tmp_path / "worker", 512))
        rows = train(TrainOptions.model_validate(recipe)).metrics()
    assert rows[0]["tools/calls"] > 1
    assert all(row["sampler/gap_max"] < 1e-3 for row in rows)
    divergences = [row["steps/d"] for row in rows]
    assert min(abs(a - b) for a, b in pairwise(divergences)) > 1e-3  # each update's policy was another
    assert all(row["seconds/sync"] > 0 and row["seconds/generate"] > 0 for row in rows)


# Measuring what somebody else serves


@pytest.fixture(scope="module")
def served_teacher(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a vLLM server with the lab's teacher."""
    with serving(teacher, tmp_path_factory.mktemp("worker"), 512, weights="auto") as url:
        yield url


def test_a_served_model_writes_what_it_would_write_here(
    served_teacher: str, teacher: Path, tokenizer: PreTrainedTokenizerBase, chat: ChatFormat, problem_file: Path
) -> None:
    """Its likeliest tokens, turn after turn; and, drawn freely, with the log-probabilities of a full forward pass."""
    model = load_model(teacher, ModelOptions(device="cpu"))
    prompts = [chat.prompt(problem.messages, []) for problem in load_problems(problem_file)]
    rollout = RolloutOptions(max_prompt_tokens=256, max_tokens=256)
    options = EngineOptions(name="served", url=f"{served_teacher}/v1")

    def ask(ids: Sequence[int], seed: int, **fields: Any) -> Request:
        return Request(**{"ids": ids, "max_tokens": 60, "stops": (chat.end_of_turn,), "seed": seed} | fields)

    async def write(engine: Engine, requests: Sequence[Request]) -> list[Reply]:
        return await asyncio.gather(*map(engine.sample, requests))

    with Runner() as loop, open_engine(loop, options, None, rollout, tokenizer) as served:
        here = HFEngine(model, slots=8)
        likeliest = [ask(ids, seed, top_p=1e-6) for seed, ids in enumerate(prompts)]
        for _ in range(2):
            there = loop.run(write(served, likeliest))
            assert [reply.tokens for reply in there] == [
                reply.tokens for reply in loop.run(write(here, [replace(r, trajectory=r.seed) for r in likeliest]))
            ]
            likeliest = [
                replace(request, ids=[*request.ids, *reply.tokens, *chat.observation(["12"])])
                for request, reply in zip(likeliest, there, strict=True)
            ]
        free = [ask(ids, 100 * seed + i) for seed, ids in enumerate(prompts) for i in range(4)]
        replies = loop.run(write(served, free))
        assert loop.run(write(served, free)) == replies
        cool = loop.run(write(served, [replace(request, temperature=0.6) for request in free]))
    differences = [worst(model, request.ids, reply, 1.0) for request, reply in zip(free, replies, strict=True)]
    print(
        f"\n{sum(len(reply.tokens) for reply in replies)} tokens in {len(set(replies))} replies, off by at most "
        f"{max(differences):.1e} nats"
    )
    assert max(differences) < 1e-4
    assert {reply.stop for reply in replies} >= {"stop"}
    assert len({reply.tokens for reply in replies}) > len(prompts)
    assert all(reply.tokens and not reply.logprobs for reply in cool)


def test_a_served_model_with_another_tokenizer_is_found_out(
    served_teacher: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path)
    other = load_tokenizer(tmp_path)
    other.add_tokens(["two spaces"])
    options = EngineOptions(name="served", url=served_teacher)
    with pytest.raises(ModelError, match="tokenizes differently"):
        asyncio.run(ServedEngine.open(options, other, RolloutOptions(max_prompt_tokens=100, max_tokens=100)))


def test_a_trajectory_longer_than_the_served_models_context_is_refused_before_it_begins(
    served_teacher: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    options = EngineOptions(name="served", url=served_teacher)
    with pytest.raises(OptionError, match=r"a context of 512 tokens, but .* is 513"):
        asyncio.run(ServedEngine.open(options, tokenizer, RolloutOptions(max_prompt_tokens=256, max_tokens=257)))


# Every engine's promises


def test_a_reply_has_at_most_max_tokens_and_says_why_it_ended(vllm: Setting) -> None:
    requests = [vllm.ask(seed, max_tokens=1 + seed % 12) for seed in range(60)]
    replies = vllm.write(*requests)
    for request, reply in zip(requests, replies, strict=True):
        ended = reply.tokens[-1] == STOP
        assert reply.stop == ("stop" if ended else "length")
        assert ended or len(reply.tokens) == request.max_tokens
        assert STOP not in reply.tokens[:-1]
        assert 1 <= len(reply.tokens) == len(reply.logprobs) <= request.max_tokens
        assert vllm.worst(request.ids, reply) < 1e-4
    assert {reply.stop for reply in replies} == {"stop", "length"}


def test_a_reply_that_never_stops_goes_on_behind_the_models_own_end(vllm: Setting) -> None:
    replies = vllm.write(*(vllm.ask(seed, stops=(), max_tokens=60) for seed in range(4)))
    assert all(len(reply.tokens) == 60 and reply.stop == "length" for reply in replies)
    assert any(STOP in reply.tokens[:-1] for reply in replies)


def test_log_probabilities_are_those_of_a_full_forward_over_many_turns(vllm: Setting) -> None:
    """Trajectories that share a prompt of more than a block, each going on from what is in the cache."""

    async def converse(seed: int) -> list[tuple[list[int], Reply]]:
        ids, turns = some_ids(BLOCK + 70), []
        for turn in range(4):
            reply = await vllm.engine.sample(
                vllm.ask(attempt_seed(0, 0, "p", seed) + turn, ids=tuple(ids), max_tokens=40, trajectory=seed)
            )
            turns.append((ids, reply))
            ids = [*ids, *reply.tokens, *some_ids(25, seed * 10 + turn)]
        vllm.engine.release(seed)
        return turns

    async def work() -> list[list[tuple[list[int], Reply]]]:
        return await asyncio.gather(*map(converse, range(12)))

    turns = [turn for trajectory in vllm.runner.run(work()) for turn in trajectory]
    differences = [vllm.worst(ids, reply) for ids, reply in turns]
    print(f"\n{sum(len(reply.tokens) for _, reply in turns)} tokens, off by at most {max(differences):.1e} nats")
    assert max(differences) < 1e-4
    assert len({reply.tokens for _, reply in turns}) > 40


def test_more_and_longer_prompts_than_vllm_reads_at_once_are_no_trouble(vllm: Setting) -> None:
    requests = [vllm.ask(seed, ids=some_ids(600, seed), max_tokens=4) for seed in range(40)]
    for request, reply in zip(requests, vllm.write(*requests), strict=True):
        assert vllm.worst(request.ids, reply) < 1e-4


def test_the_same_request_gives_the_same_reply_in_any_company(vllm: Setting) -> None:
    alone = vllm.write(vllm.ask(9, max_tokens=20))
    among = vllm.write(vllm.ask(9, max_tokens=20), *(vllm.ask(seed, max_tokens=20) for seed in range(9)))
    assert alone[0].tokens == among[0].tokens


def test_seeds_that_differ_only_in_high_bits_draw_differently(vllm: Setting) -> None:
    """The numbers that a generator of torch's starts from on a CPU are cut to 32 bits."""
    seeds = [(i << 40) + 7 for i in range(8)] + [2**63 - 1]
    assert len({reply.tokens for reply in vllm.write(*(vllm.ask(s, stops=(), max_tokens=20) for s in seeds))}) == 9


def test_tokens_are_drawn_as_often_as_the_model_says(vllm: Setting) -> None:
    draws = 1500
    requests = [vllm.ask(attempt_seed(0, 0, "draw", i), max_tokens=1) for i in range(draws)]
    counts = Counter(reply.tokens[0] for reply in vllm.write(*requests))
    with torch.no_grad():
        pi = (vllm.model(torch.tensor([[5, 6, 7]])).logits[0, -1] / vllm.sampling["temperature"]).softmax(-1)
    order = pi.argsort(descending=True)
    size = min(int((pi[order].cumsum(0) < vllm.sampling["top_p"]).sum()) + 1, VOCABULARY)
    kept = pi[order[:size]] / pi[order[:size]].sum()
    assert set(counts) <= set(order[:size].tolist())
    for token, share in zip(order[:size].tolist(), kept.tolist(), strict=True):
        assert counts[token] / draws == pytest.approx(share, abs=5 * (share * (1 - share) / draws) ** 0.5 + 1e-3)


def test_a_cancelled_request_is_freed_and_disturbs_nobody(vllm: Setting) -> None:
    requests = [vllm.ask(seed, stops=(), max_tokens=30) for seed in range(6)]
    undisturbed = vllm.write(*requests)

    async def work() -> list[Reply]:
        endless = [
            asyncio.create_task(vllm.engine.sample(vllm.ask(seed, stops=(), max_tokens=CONTEXT - 3)))
            for seed in range(4)
        ]
        while await vllm.engine._reset_prefix_cache():  # until they hold some of it
            await asyncio.sleep(0.01)
        others = [asyncio.create_task(vllm.engine.sample(request)) for request in requests]
        await asyncio.sleep(0)
        for task in endless:
            task.cancel()
        assert all(
            isinstance(error, asyncio.CancelledError)
            for error in await asyncio.gather(*endless, return_exceptions=True)
        )
        replies = await asyncio.gather(*others)
        await vllm.engine.forget()  # raises while anybody holds any
        return replies

    replies = vllm.runner.run(work())
    assert [reply.tokens for reply in replies] == [reply.tokens for reply in undisturbed]


def test_a_trajectory_may_be_released_twice_or_without_ever_having_asked(vllm: Setting) -> None:
    vllm.engine.release(77)
    vllm.write(vllm.ask(1, trajectory=77))
    vllm.engine.release(77)
    vllm.engine.release(77)
    assert len(vllm.write(vllm.ask(1, trajectory=77))) == 1


def test_busy_seconds_are_counted_until_they_are_asked_for(vllm: Setting) -> None:
    vllm.write(vllm.ask(), vllm.ask())
    assert vllm.engine.take_busy_seconds() > 0
    assert vllm.engine.take_busy_seconds() == 0


def test_what_cannot_be_answered_is_refused(vllm: Setting) -> None:
    with pytest.raises(OptionError, match="temperature"):
        vllm.write(vllm.ask(temperature=0.9))
    with pytest.raises(OptionError, match="context of 16384 tokens"):
        vllm.write(vllm.ask(ids=some_ids(100), max_tokens=CONTEXT - 99))
    assert len(vllm.write(vllm.ask(ids=some_ids(CONTEXT - 5), max_tokens=5, stops=()))[0].tokens) == 5


@pytest.mark.parametrize("length", [30, 3 * BLOCK + 5], ids=lambda length: f"{length} tokens")
def test_after_a_refresh_the_log_probabilities_are_those_of_the_new_weights(vllm: Setting, length: int) -> None:
    ids = some_ids(length)
    ids += vllm.write(vllm.ask(1, ids=ids, stops=()))[0].tokens
    become(vllm.model, seed=length)
    old = vllm.write(vllm.ask(2, ids=ids, stops=()))[0]
    assert vllm.worst(ids, old) > 0.1
    vllm.run(vllm.engine.refresh())
    new = vllm.write(vllm.ask(2, ids=ids, stops=()))[0]
    assert vllm.worst(ids, new) < 1e-4
    assert 0 <= vllm.engine.gap < 1e-4
    assert old.tokens != new.tokens


@pytest.mark.parametrize("left_out", ["nothing", "renew_tied_head", "forget", "load_policy"])
def test_weights_that_were_not_wholly_taken_over_do_not_pass_the_proof(vllm: Setting, left_out: str) -> None:
    """Each part of a refresh is needed (the tied head's on a CPU), and the proof sees that it is missing."""
    engine = vllm.engine
    become(vllm.model, seed=1)
    vllm.run(engine.refresh())
    become(vllm.model, seed=2)
    with tempfile.TemporaryDirectory() as folder:
        vllm.model.save_pretrained(folder)
        parts: dict[str, Callable[[], Awaitable[None]]] = {
            "load_policy": lambda: engine.call("load_policy", folder),
            "renew_tied_head": lambda: engine.call("renew_tied_head"),
            "forget": engine.forget,
        }
        for name, part in parts.items():
            if name != left_out:
                vllm.run(part())
        if left_out == "nothing":
            vllm.run(engine.prove())
        else:
            with pytest.raises(TrainingError, match="differ from the policy's by"):
                vllm.run(engine.prove())
            print(f"\nwithout {left_out} the proof is off by {engine.gap:.2g} nats")
    vllm.run(engine.refresh())


def test_weights_that_vllm_cannot_find_are_an_error_and_no_harm(vllm: Setting, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="holds no weights, or is not readable"):
        vllm.run(vllm.engine.call("load_policy", str(tmp_path)))
    vllm.run(vllm.engine.prove())


def test_a_server_whose_log_probabilities_are_other_ones_is_refused(server: str, runner: asyncio.Runner) -> None:
    """This one reports them before temperature."""
    with pytest.raises(TrainingError, match="--logprobs-mode processed_logprobs"):
        runner.run(VLLMServerEngine.open(server, new_model(), temperature=0.7))


@NEEDS_VLLM
@pytest.mark.slow
def test_what_vllm_wrote_is_told_when_it_does_not_start(runner: asyncio.Runner) -> None:
    with pytest.raises(OptionError, match=r"does not start: (.|\n)* Its output:\n(.|\n)*No module named 'nowhere'"):
        runner.run(
            VLLMEngine.open(
                new_model(), context=256, memory_share=MEMORY, options={"worker_extension_cls": "nowhere.Nothing"}
            )
        )


@NEEDS_VLLM
@pytest.mark.slow
def test_a_model_of_a_shape_that_vllm_cannot_run_is_refused(runner: asyncio.Runner) -> None:
    with pytest.raises(OptionError, match=r"cannot run this model here(.|\n)*head_dim=20"):
        runner.run(VLLMEngine.open(new_model(head_dim=20), context=256, memory_share=MEMORY))


EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "first_k_dense_replace": 1}


@NEEDS_VLLM
@pytest.mark.slow
@pytest.mark.parametrize(("kind", "experts"), [("mixtral", EXPERTS), ("glm4_moe", ROUTED)])
def test_a_student_with_experts_is_proved(kind: str, experts: dict[str, Any], runner: asyncio.Runner) -> None:
    """Published checkpoints of Mixtral have other names than its loaded model. GLM 4 has a router with a bias, a buffer."""
    shape: dict[str, Any] = {name: value for name, value in new_model().config.to_diff_dict().items() if name in SHAPE}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**shape | experts)).eval()
        for name, buffer in model.named_buffers():
            if name.endswith("bias"):
                buffer.normal_()
    engine = runner.run(VLLMEngine.open(model, context=1024, memory_share=MEMORY, options={"enforce_eager": True}))
    runner.run(engine.close())
    assert engine.gap < 1e-4


@NEEDS_VLLM
@pytest.mark.slow
def test_vllm_must_start_in_time(runner: asyncio.Runner) -> None:
    with pytest.raises(OptionError, match=r"does not start within 0\.1 seconds"):
        runner.run(VLLMEngine.open(new_model(), context=256, seconds=0.1))


@NEEDS_VLLM
@pytest.mark.slow
def test_when_vllm_has_died_the_run_stops(runner: asyncio.Runner) -> None:
    async def work() -> None:
        before = set(multiprocessing.active_children())
        engine = await VLLMEngine.open(new_model(), context=512, memory_share=MEMORY)
        for child in set(multiprocessing.active_children()) - before:
            child.kill()
        try:
            await engine.sample(Request(ids=[5], max_tokens=400, stops=(), seed=0))
        finally:
            await engine.close()

    with pytest.raises(OutageError, match="vLLM has died"):
        runner.run(work())


@pytest.mark.skipif(HAS_VLLM, reason="vLLM is installed here")
def test_without_vllm_it_is_said_how_to_get_it(runner: asyncio.Runner) -> None:
    with pytest.raises(OptionError, match=r"pip install \"\.\[vllm\]\""):
        runner.run(VLLMEngine.open(new_model(), context=256))


def test_a_request_names_every_end_and_every_id_that_is_never_written() -> None:
    request = Request(ids=[1], max_tokens=5, stops=(7,), seed=0)
    asked = parameters(request, frozenset({7, 3}), range(20, 22))
    assert (asked["stop_token_ids"], asked["logit_bias"]) == ([3, 7], {20: -100.0, 21: -100.0})
    probe = parameters(replace(request, stops=()), frozenset({3}))
    assert probe["stop_token_ids"] == []  # a probe is written to its end
    assert "logit_bias" not in probe


def test_log_probabilities_come_from_where_they_are_the_policys() -> None:
    assert logprobs_mode(1.0, 1.0) == logprobs_mode(1.0, 0.6) == "raw_logprobs"
    assert logprobs_mode(0.7, 1.0) == "processed_logprobs"
    assert logprobs_mode(1.0, 1.0, padded=True) == "processed_logprobs"
    assert logprobs_mode(1.0, 0.6, padded=True) == "raw_logprobs"
    for temperature, top_p in [(0.7, 0.9), (1e-3, 1.0)]:
        with pytest.raises(OptionError, match="temperature"):
            logprobs_mode(temperature, top_p)


# A server that answers as vLLM does, and has troubles


class Fake:
    """Draws anything, but reports the log-probabilities of its own weights, which it takes from where it is told to.

    `troubles` are met by the next requests for tokens, one each.
    """

    def __init__(self, *, deaf: bool = False):
        self.model = new_model(99)
        self.deaf = deaf
        """Whether it says that it took weights over, and does not."""
        self.paths: list[str] = []
        self.troubles: deque[str] = deque()
        self.left = asyncio.Event()
        """Set when somebody hangs up without waiting for the answer."""
        self.answers: dict[str, tuple[int, Any]] = {
            "/v1/models": (200, {"data": [{"id": "tiny", "max_model_len": CONTEXT}]}),
            "/reset_prefix_cache": (200, {"success": True}),
            "/collective_rpc": (200, {"results": [None]}),
        }

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = head.split()[1]
        self.paths.append(path)
        length = next((int(line[15:]) for line in head.lower().splitlines() if line.startswith("content-length:")), 0)
        body = json.loads(await reader.readexactly(length) or b"null")
        trouble = self.troubles.popleft() if self.troubles and path == "/v1/completions" else ""
        if trouble == "hang":
            if not await reader.read():
                self.left.set()
        elif trouble != "drop":
            status, answer = self.trouble(trouble, body) if trouble else self.answer(path, body)
            text = json.dumps(answer).encode()
            writer.write(f"HTTP/1.1 {status} .\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)
        writer.close()

    def answer(self, path: str, body: Any) -> tuple[int, Any]:
        if path == "/v1/completions":
            return self.reply(body)
        if path == "/collective_rpc" and body["method"] == "load_policy" and not self.deaf:
            self.model.load_state_dict(load_file(Path(body["args"][0], "model.safetensors")), strict=False)
        return self.answers.get(path, (404, {"detail": "Not Found"}))

    def reply(self, body: Any, finish_reason: str = "length") -> tuple[int, Any]:
        tokens = random.Random(body["seed"]).choices(range(2, VOCABULARY), k=body["max_tokens"])
        logprobs = full_forward(self.model, [*body["prompt"], *tokens], body["temperature"])[-len(tokens) :].tolist()
        choice = {"finish_reason": finish_reason, "token_ids": tokens, "logprobs": {"token_logprobs": logprobs}}
        return 200, {"choices": [choice]}

    def trouble(self, name: str, body: Any) -> tuple[int, Any]:
        match name:
            case "abort":
                return self.reply(body, "abort")
            case "short":
                return self.reply(body | {"max_tokens": body["max_tokens"] - 1})
            case "no ids":
                return 200, {"choices": [{"finish_reason": "length", "text": "abc"}]}
            case status:
                return int(status), {"error": "the server's own words"}


@asynccontextmanager
async def fake_server(fake: Fake) -> AsyncIterator[str]:
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    try:
        yield "http://{}:{}".format(*server.sockets[0].getsockname())
    finally:
        server.close()


def with_engine(fake: Fake, work: Callable[[VLLMServerEngine], Awaitable[Any]] | None = None, **options: Any) -> Any:
    """Open an engine of the fake server, do some work with it, close it."""

    async def main() -> Any:
        async with fake_server(fake) as url:
            engine = await VLLMServerEngine.open(url, new_model(), **options)
            try:
                return await work(engine) if work else None
            finally:
                await engine.close()

    return asyncio.run(main())


def request(**fields: Any) -> Request:
    return Request(**{"ids": (5, 6, 7), "seed": 3, "max_tokens": 8, "stops": ()} | fields)


@pytest.mark.parametrize("trouble", ["500", "503", "429", "drop", "hang", "abort"])
def test_what_may_pass_is_an_infrastructure_error_and_the_next_try_succeeds(trouble: str) -> None:
    fake = Fake()

    async def work(engine: VLLMServerEngine) -> Reply:
        fake.troubles.append(trouble)
        with pytest.raises(InfrastructureError, match="vLLM"):
            await engine.sample(request())
        return await engine.sample(request())

    assert len(with_engine(fake, work, seconds=3.0).tokens) == 8


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("400", "the server's own words"),
        ("404", "started as described in sod.engines.vllm_server"),
        ("no ids", "Update its vLLM"),
        ("short", "--generation-config vllm"),
    ],
)
def test_what_will_never_work_says_what_to_do(trouble: str, message: str) -> None:
    fake = Fake()
    fake.troubles.append(trouble)
    with pytest.raises(OptionError, match=message):
        with_engine(fake)


@pytest.mark.parametrize("status", [404, 500], ids=["no development mode", "no worker extension"])
def test_a_server_that_cannot_take_weights_is_refused(status: int) -> None:
    fake = Fake()
    fake.answers["/collective_rpc"] = (status, {"error": "the server's own words"})
    with pytest.raises(
        OptionError,
        match=r"own words.*Start it as described in sod\.engines\.vllm_server, and check that it can read /",
    ):
        with_engine(fake)


def test_a_server_that_keeps_its_own_weights_is_found_out() -> None:
    with pytest.raises(TrainingError, match="other weights"):
        with_engine(Fake(deaf=True))


def test_a_refresh_hands_weights_over_before_it_empties_the_cache() -> None:
    fake = Fake()

    async def work(engine: VLLMServerEngine) -> None:
        become(engine._model, seed=5)  # pyright: ignore[reportArgumentType]
        fake.paths.clear()
        await engine.refresh()
        assert engine.gap < 1e-4

    with_engine(fake, work)
    probe = "/v1/completions"
    assert fake.paths == [probe, "/collective_rpc", "/collective_rpc", "/reset_prefix_cache", probe]


def test_a_cancelled_request_hangs_up() -> None:
    fake = Fake()

    async def work(engine: VLLMServerEngine) -> None:
        fake.troubles.append("hang")
        task = asyncio.create_task(engine.sample(request()))
        while fake.troubles:
            await asyncio.sleep(0.01)
        task.cancel()
        async with asyncio.timeout(20):
            await fake.left.wait()

    with_engine(fake, work)


def test_a_server_that_is_still_starting_is_waited_for() -> None:
    async def work() -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        opening = asyncio.create_task(VLLMServerEngine.open(f"http://127.0.0.1:{port}", new_model()))
        await asyncio.sleep(0.1)
        async with await asyncio.start_server(Fake().serve, "127.0.0.1", port):
            await (await opening).close()

    asyncio.run(work())


def test_a_server_that_never_answers_is_given_up() -> None:
    with pytest.raises(InfrastructureError, match="is unreachable"):
        asyncio.run(VLLMServerEngine.open("http://127.0.0.1:9", new_model(), start_seconds=0.1))


def test_what_is_no_vllm_server_is_refused() -> None:
    fake = Fake()
    fake.answers["/v1/models"] = (200, {"models": []})
    with pytest.raises(OptionError, match="no vLLM server"):
        with_engine(fake)
    for url in ("127.0.0.1:8000", "ftp://127.0.0.1", "http://[::1"):
        with pytest.raises(OptionError, match="address"):
            asyncio.run(VLLMServerEngine.open(url, new_model()))
