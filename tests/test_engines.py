"""Who writes tokens: what every engine promises, and that the one with a model samples exactly that model."""

import asyncio
import math
import random
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen3ForCausalLM

from sod.config import EngineOptions, RolloutOptions
from sod.engines import ENGINES, Engine, EngineTraits, Reply, Request
from sod.engines.hf import HFEngine
from sod.engines.opening import OPENERS, EngineSetup, open_engine
from sod.engines.scripted import ScriptedEngine
from sod.engines.vllm_server import VLLMServerEngine
from sod.errors import InfrastructureError, OptionError
from sod.processes.concurrency import Runner
from sod.rollout.groups import attempt_seed

STOP, NEVER = 1, -1
VOCABULARY = 24

MakeModel = Callable[..., Qwen3ForCausalLM]


@pytest.fixture(params=["scripted", "hf"])
def engine(request: pytest.FixtureRequest, random_model: MakeModel) -> Engine:
    """Either engine; the scripted one ends its turns after one to ten tokens."""
    if request.param == "hf":
        return HFEngine(random_model(), slots=4)
    return ScriptedEngine(lambda request: [*range(2, 2 + request.seed % 10), STOP])


def ask(seed: int = 0, *, ids: Sequence[int] = (5, 6, 7), **fields: Any) -> Request:
    return Request(**{"ids": ids, "seed": seed, "max_tokens": 8, "stop": STOP} | fields)


def write(engine: Engine, *requests: Request) -> list[Reply]:
    """All requests at once."""

    async def work() -> list[Reply]:
        return await asyncio.gather(*map(engine.sample, requests))

    return asyncio.run(work())


async def turns(count: int = 1) -> None:
    """Let the engine write some tokens."""
    for _ in range(2 * count):
        await asyncio.sleep(0)


# Every engine


def test_a_reply_has_at_most_max_tokens_and_says_why_it_ended(engine: Engine) -> None:
    requests = [ask(seed, max_tokens=1 + seed % 7) for seed in range(60)]
    replies = write(engine, *requests)
    for request, reply in zip(requests, replies, strict=True):
        ended = reply.tokens[-1] == STOP
        assert reply.stop == ("stop" if ended else "length")
        assert ended or len(reply.tokens) == request.max_tokens
        assert 1 <= len(reply.tokens) <= request.max_tokens
    assert {reply.stop for reply in replies} == {"stop", "length"}


def test_the_token_that_ends_a_turn_is_kept_and_nothing_follows_it(engine: Engine) -> None:
    for reply in write(engine, *(ask(seed, max_tokens=30) for seed in range(30))):
        assert STOP not in reply.tokens[:-1]
        assert reply.tokens[-1] == STOP or reply.stop == "length"


def test_every_token_has_its_log_probability(engine: Engine) -> None:
    for reply in write(engine, *(ask(seed) for seed in range(20))):
        assert len(reply.logprobs) == len(reply.tokens)
        assert all(logprob <= 0 for logprob in reply.logprobs)


def test_the_same_request_gives_the_same_reply(engine: Engine) -> None:
    first, second = write(engine, ask(9)), write(engine, ask(9))
    assert first[0].tokens == second[0].tokens


def test_a_cancelled_request_does_not_disturb_the_others(engine: Engine) -> None:
    requests = [ask(seed, stop=NEVER, max_tokens=12) for seed in range(8)]
    undisturbed = write(engine, *requests)

    async def work() -> list[Reply | BaseException]:
        tasks = [asyncio.create_task(engine.sample(request)) for request in requests]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await turns(3)
        tasks[2].cancel()  # under way by now, or already done
        tasks[7].cancel()  # perhaps still waiting for a slot
        async with asyncio.timeout(20):
            return await asyncio.gather(*tasks, return_exceptions=True)

    replies = asyncio.run(work())
    assert isinstance(replies[1], asyncio.CancelledError)
    for i in (0, 3, 4, 5, 6):
        reply = replies[i]
        assert isinstance(reply, Reply)
        assert reply.tokens == undisturbed[i].tokens


def test_an_engine_serves_one_event_loop_after_another(engine: Engine) -> None:
    for _ in range(3):
        assert len(write(engine, ask(1), ask(2))) == 2


def test_a_trajectory_may_be_released_twice_or_without_ever_having_asked(engine: Engine) -> None:
    engine.release(77)
    write(engine, ask(1, trajectory=77))
    engine.release(77)
    engine.release(77)
    assert len(write(engine, ask(1, trajectory=77))) == 1


def test_the_scripted_engine_remembers_what_it_was_asked() -> None:
    engine = ScriptedEngine(lambda request: [3, 4, STOP], logprob=-2.0)
    assert write(engine, ask(1), ask(2, max_tokens=2)) == [
        Reply((3, 4, 1), (-2.0,) * 3, "stop"),
        Reply((3, 4), (-2.0,) * 2, "length"),
    ]
    asyncio.run(engine.refresh())
    engine.release(5)
    assert [request.seed for request in engine.requests] == [1, 2]
    assert (engine.refreshed, engine.released) == (1, [5])


# The engine with a model: its log-probabilities are the model's own


def full_forward(model: Qwen3ForCausalLM, ids: Sequence[int], temperature: float = 1.0) -> Tensor:
    """log pi of every token but the first, (T - 1,), from one pass over the whole."""
    with torch.no_grad():
        logprobs_TV = (model(torch.tensor([list(ids)])).logits[0, :-1] / temperature).log_softmax(-1)
    return logprobs_TV.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


async def converse(
    engine: Engine, seed: int, rounds: int, *, temperature: float = 0.7, prompt: int = 10, observation: int = 6
) -> tuple[list[int], dict[int, float]]:
    """A trajectory of several turns with made-up observations. -> its ids, and the log-probability at each place"""
    generator = torch.Generator().manual_seed(seed)
    tokens = lambda n: torch.randint(2, VOCABULARY, (n,), generator=generator).tolist()  # noqa: E731
    ids, logprobs = tokens(prompt + seed % 5), {}
    for turn in range(rounds):
        request = ask(
            seed * 100 + turn,
            ids=tuple(ids),
            max_tokens=3 + (seed + turn) % 9,
            temperature=temperature,
            trajectory=seed,
        )
        reply = await engine.sample(request)
        logprobs |= dict(enumerate(reply.logprobs, len(ids)))
        ids += reply.tokens
        ids += tokens(observation + seed % 3)
        await turns(seed % 4)  # a tool runs
    engine.release(seed)
    return ids, logprobs


def agrees_with_a_full_forward(
    model: Qwen3ForCausalLM, ids: Sequence[int], logprobs: dict[int, float], temperature: float = 0.7
) -> bool:
    whole = full_forward(model, ids, temperature)
    return all(math.isclose(logprob, whole[i - 1].item(), abs_tol=1e-4) for i, logprob in logprobs.items())


@pytest.mark.parametrize("slots", [12, 5, 1], ids=lambda slots: f"{slots} slots")
def test_log_probabilities_are_those_of_a_full_forward_over_many_turns(random_model: MakeModel, slots: int) -> None:
    """Also with more trajectories than slots: a slot is taken from an idle one, which is read again later."""
    model = random_model()
    engine = HFEngine(model, slots=slots)

    async def work() -> list[tuple[list[int], dict[int, float]]]:
        return await asyncio.gather(*(converse(engine, seed, rounds=4) for seed in range(12)))

    conversations = asyncio.run(work())
    assert sum(len(logprobs) for _, logprobs in conversations) > 200
    for ids, logprobs in conversations:
        assert agrees_with_a_full_forward(model, ids, logprobs)
        assert not agrees_with_a_full_forward(model, ids, logprobs, temperature=1.0)


def test_evictions_change_no_token(random_model: MakeModel) -> None:
    async def work(slots: int) -> list[list[int]]:
        engine = HFEngine(random_model(), slots=slots)
        return [ids for ids, _ in await asyncio.gather(*(converse(engine, seed, rounds=3) for seed in range(9)))]

    assert asyncio.run(work(9)) == asyncio.run(work(2))


def test_a_later_turn_reads_only_what_is_new(random_model: MakeModel) -> None:
    model = random_model()
    read: list[int] = []
    model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    engine = HFEngine(model, slots=1)
    first = ask(1, ids=range(2, 22), max_tokens=5, stop=NEVER, trajectory=3)
    reply = write(engine, first)[0]
    assert read == [20, 1, 1, 1, 1]
    read.clear()
    write(engine, ask(2, ids=[*first.ids, *reply.tokens, 7, 8, 9], max_tokens=2, stop=NEVER, trajectory=3))
    assert read == [4, 1]  # the reply's last token, which nobody had to read yet, and three new ones


def test_a_prompt_that_departs_from_what_was_cached_is_read_from_there_on(random_model: MakeModel) -> None:
    model = random_model()
    engine = HFEngine(model, slots=1)
    write(engine, ask(1, ids=[2, 3, 4, 5, 6, 7], trajectory=3))
    for ids in ([2, 3, 9, 9, 9, 9, 9], [2, 3, 9], [8]):
        reply = write(engine, ask(2, ids=ids, trajectory=3, temperature=0.7))[0]
        logprobs = dict(enumerate(reply.logprobs, len(ids)))
        assert agrees_with_a_full_forward(model, [*ids, *reply.tokens], logprobs)


@pytest.mark.parametrize("length", [30, 90], ids=lambda length: f"{length} tokens")
def test_after_a_refresh_the_log_probabilities_are_those_of_the_new_weights(
    random_model: MakeModel, length: int
) -> None:
    model, other = random_model(0), random_model(1)
    engine = HFEngine(model, slots=2)
    ids = torch.randint(2, VOCABULARY, (length,), generator=torch.Generator().manual_seed(0)).tolist()
    ids += write(engine, ask(1, ids=ids, trajectory=3, stop=NEVER))[0].tokens

    model.load_state_dict(other.state_dict())  # in place, as an optimiser step does
    asyncio.run(engine.refresh())
    reply = write(engine, ask(2, ids=[*ids, 5, 6], trajectory=3, temperature=0.7))[0]
    assert agrees_with_a_full_forward(other, [*ids, 5, 6, *reply.tokens], dict(enumerate(reply.logprobs, len(ids) + 2)))


def reads_of(model: Qwen3ForCausalLM) -> list[int]:
    """Tokens that each forward pass reads, from now on."""
    read: list[int] = []
    model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    return read


def test_a_groups_prompt_is_read_once(random_model: MakeModel) -> None:
    model = random_model()
    prompt = torch.randint(2, VOCABULARY, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    requests = [ask(seed, ids=prompt, max_tokens=3, stop=NEVER, trajectory=seed) for seed in range(6)]
    alone = [write(HFEngine(model, slots=1), request)[0] for request in requests]
    read = reads_of(model)
    replies = write(HFEngine(model, slots=6), *requests)
    assert read == [40, 6, 6, 5]  # the first reads it; then it writes its second token, and the others their first
    for reply, expected in zip(replies, alone, strict=True):
        assert reply.tokens == expected.tokens
        assert reply.logprobs == pytest.approx(expected.logprobs, abs=1e-5)


def test_a_latecomer_takes_what_its_prompt_shares_with_another_from_there(random_model: MakeModel) -> None:
    model = random_model()
    engine = HFEngine(model, slots=3)
    prompt = torch.randint(2, VOCABULARY, (30,), generator=torch.Generator().manual_seed(0)).tolist()
    write(engine, ask(1, ids=prompt, trajectory=1))
    read = reads_of(model)
    latecomer = ask(2, ids=[*prompt[:20], 2, 3, 4], max_tokens=4, stop=NEVER, trajectory=2, temperature=0.7)
    reply = write(engine, latecomer)[0]
    assert read == [3, 1, 1, 1]
    assert agrees_with_a_full_forward(model, [*latecomer.ids, *reply.tokens], dict(enumerate(reply.logprobs, 23)))


@pytest.mark.parametrize("seed", range(5))
def test_slots_that_give_and_are_given_to_at_once_change_no_token(random_model: MakeModel, seed: int) -> None:
    """Few slots, many trajectories, and prompts that share beginnings of every length."""
    model, rng = random_model(), random.Random(seed)
    trunk = [rng.randrange(2, VOCABULARY) for _ in range(60)]
    prompts = [trunk[: rng.randint(10, 60)] + [rng.randrange(2, VOCABULARY)] * rng.randint(1, 9) for _ in range(24)]
    requests = [
        ask(i, ids=ids, max_tokens=rng.randint(1, 12), stop=NEVER, trajectory=i, temperature=0.7)
        for i, ids in enumerate(prompts)
    ]
    for request, reply in zip(requests, write(HFEngine(model, slots=4), *requests), strict=True):
        logprobs = dict(enumerate(reply.logprobs, len(request.ids)))
        assert agrees_with_a_full_forward(model, [*request.ids, *reply.tokens], logprobs)


def test_newcomers_are_read_in_the_pass_that_writes_for_the_others(random_model: MakeModel) -> None:
    model = random_model()
    engine = HFEngine(model, slots=4)
    read = reads_of(model)

    async def work() -> None:
        long = asyncio.create_task(engine.sample(ask(1, ids=[2, 3], max_tokens=60, stop=NEVER)))
        async with asyncio.timeout(20):
            while len(read) < 5:
                await asyncio.sleep(0)
        await engine.sample(ask(2, ids=[4, 5, 6, 7, 8, 9], max_tokens=2, stop=NEVER))
        await long

    asyncio.run(work())
    assert len(read) == 60  # no pass was the newcomer's alone
    assert sorted(set(read)) == [1, 2, 7]


def test_more_new_tokens_than_one_pass_may_read_wait_for_the_next(random_model: MakeModel) -> None:
    class Narrow(HFEngine):
        PASS_TOKENS = 20

    model = random_model()
    read = reads_of(model)
    prompts = [[seed + 2] * 15 for seed in range(3)]
    requests = [ask(seed, ids=ids, max_tokens=2, stop=NEVER, trajectory=seed) for seed, ids in enumerate(prompts)]
    long = ask(9, ids=list(range(9, 24)) * 3, max_tokens=1, stop=NEVER, trajectory=9)  # longer than a pass: on its own
    replies = write(Narrow(model, slots=4), *requests, long)
    assert read == [15, 16, 16, 46]
    assert [len(reply.tokens) for reply in replies] == [2, 2, 2, 1]


# Joining and leaving


def test_a_request_joins_while_others_are_being_written_and_may_end_before_them(random_model: MakeModel) -> None:
    engine = HFEngine(random_model(), slots=2)
    ended: list[str] = []

    async def sample(name: str, **fields: Any) -> None:
        await engine.sample(ask(stop=NEVER, **fields))
        ended.append(name)

    async def work() -> None:
        long = asyncio.create_task(sample("long", max_tokens=100))
        await turns(10)
        short = asyncio.create_task(sample("short", max_tokens=3))
        await asyncio.gather(long, short)

    asyncio.run(work())
    assert ended == ["short", "long"]


def test_a_cancelled_request_frees_its_slot(random_model: MakeModel) -> None:
    engine = HFEngine(random_model(), slots=1)

    async def work() -> Reply:
        endless = asyncio.create_task(engine.sample(ask(stop=NEVER, max_tokens=1 << 30, trajectory=1)))
        waiting = asyncio.create_task(engine.sample(ask(trajectory=2)))
        await turns(5)
        assert not waiting.done()
        endless.cancel()
        async with asyncio.timeout(20):
            return await waiting

    assert asyncio.run(work()).tokens == write(engine, ask())[0].tokens


def test_a_failing_model_fails_everyone_who_waits_for_it(random_model: MakeModel) -> None:
    engine = HFEngine(random_model(), slots=2)

    async def work() -> list[Reply | BaseException]:
        good, bad = ask(1, max_tokens=50, stop=NEVER), ask(2, ids=[VOCABULARY + 5])
        tasks = [asyncio.create_task(engine.sample(request)) for request in (good, bad)]
        async with asyncio.timeout(20):
            return await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(reply) for reply in asyncio.run(work())] == [IndexError, IndexError]


def test_busy_seconds_are_counted_until_they_are_asked_for(random_model: MakeModel) -> None:
    engine = HFEngine(random_model(), slots=2)
    write(engine, ask())
    assert engine.take_busy_seconds() > 0
    assert engine.take_busy_seconds() == 0


# Draws


def test_the_same_seed_draws_the_same_tokens_whatever_else_is_under_way(random_model: MakeModel) -> None:
    model = random_model()
    request = ask(42, max_tokens=20, stop=NEVER)
    alone = write(HFEngine(model, slots=1), request)[0]

    async def in_company(company: int) -> Reply:
        engine = HFEngine(model, slots=6)
        others = [
            asyncio.create_task(engine.sample(ask(seed, ids=[2] * (seed + 1), max_tokens=5 * seed + 1, stop=NEVER)))
            for seed in range(company)
        ]
        await turns(company)
        reply = await engine.sample(request)
        await asyncio.gather(*others)
        return reply

    for company in (1, 3, 10):
        reply = asyncio.run(in_company(company))
        assert reply.tokens == alone.tokens
        assert reply.logprobs == pytest.approx(alone.logprobs, abs=1e-4)


def first_tokens(model: Qwen3ForCausalLM, draws: int, **fields: Any) -> Tensor:
    """How often each token came first. -> (V,)"""
    seeds = [attempt_seed(0, 0, "draw", i) for i in range(draws)]
    replies = write(HFEngine(model, slots=64), *(ask(seed, max_tokens=1, **fields) for seed in seeds))
    return torch.bincount(torch.tensor([reply.tokens[0] for reply in replies]), minlength=VOCABULARY)


def distribution(model: Qwen3ForCausalLM, temperature: float) -> Tensor:
    """pi of the token that follows `ask()`'s ids. -> (V,)"""
    with torch.no_grad():
        return (model(torch.tensor([[5, 6, 7]])).logits[0, -1].double() / temperature).softmax(-1)


@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_tokens_are_drawn_as_often_as_the_model_says(random_model: MakeModel, temperature: float) -> None:
    model, draws = random_model(), 2000
    expected = distribution(model, temperature) * draws
    observed = first_tokens(model, draws, temperature=temperature)
    common = expected >= 5
    pooled = [torch.cat([x[common], x[~common].sum()[None]]) for x in (observed.double(), expected)]
    chi_square = ((pooled[0] - pooled[1]).square() / pooled[1].clamp(min=1)).sum().item()
    freedom = int(common.sum())
    assert freedom > 3
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom)


def test_top_p_keeps_the_nucleus_and_reports_log_probabilities_from_before_it(random_model: MakeModel) -> None:
    model = random_model()
    pi = distribution(model, 0.9)
    order = pi.argsort(descending=True)
    size = int((pi[order].cumsum(0) < 0.8).sum()) + 1  # the token that crosses it is in
    nucleus = set(order[:size].tolist())
    assert 1 < size < VOCABULARY / 2
    counts = first_tokens(model, 600, temperature=0.9, top_p=0.8)
    assert set(counts.nonzero()[:, 0].tolist()) == nucleus
    assert counts[order[:size]].double() / 600 == pytest.approx(pi[order[:size]] / pi[order[:size]].sum(), abs=0.07)
    reply = write(HFEngine(model, slots=1), ask(3, max_tokens=1, temperature=0.9, top_p=0.8))[0]
    assert math.exp(reply.logprobs[0]) == pytest.approx(pi[reply.tokens[0]].item(), abs=1e-4)


def test_each_request_has_its_own_temperature_and_top_p(random_model: MakeModel) -> None:
    model = random_model()
    best = int(distribution(model, 1.0).argmax())
    greedy = [ask(seed, max_tokens=1, top_p=1e-6) for seed in range(20)]
    cold = [ask(seed, max_tokens=1, temperature=1e-3) for seed in range(20)]
    free = [ask(seed, max_tokens=1, temperature=5.0) for seed in range(20)]
    replies = write(
        HFEngine(model, slots=64), *(request for three in zip(greedy, cold, free, strict=True) for request in three)
    )
    assert {reply.tokens[0] for reply in replies[0::3]} == {reply.tokens[0] for reply in replies[1::3]} == {best}
    assert len({reply.tokens[0] for reply in replies[2::3]}) > 5


def test_a_seeds_draws_do_not_depend_on_how_many_tokens_came_before(random_model: MakeModel) -> None:
    """A longer limit only goes on from where the shorter one stopped."""
    engine = HFEngine(random_model(), slots=1)
    replies = [write(engine, ask(4, max_tokens=n, stop=NEVER))[0].tokens for n in (2, 5, 11)]
    assert all(long[: len(short)] == short for short, long in pairwise(replies))


# Which engine


def opened(model: Qwen3ForCausalLM, **options: Any) -> Engine:
    with Runner() as loop, open_engine(loop, EngineOptions.model_validate(options), model, RolloutOptions()) as engine:
        return engine


def test_transformers_in_this_process_is_the_engine_unless_another_is_named(random_model: MakeModel) -> None:
    assert isinstance(opened(random_model()), HFEngine)


def test_an_engine_of_a_file_is_opened_by_its_name_as_any_other(
    random_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two entries that CONTRIBUTING names are all that an engine needs to be opened."""

    async def mine(setup: EngineSetup) -> Engine:
        return ScriptedEngine(lambda request: [len(request.ids), setup.context])

    monkeypatch.setitem(ENGINES, "mine", EngineTraits())
    monkeypatch.setitem(OPENERS, "mine", mine)
    options = EngineOptions.model_construct(name="mine")
    with Runner() as loop, open_engine(loop, options, random_model(), RolloutOptions()) as engine:
        reply = loop.run(engine.sample(Request(ids=[1, 2], max_tokens=9, stop=-1, seed=0)))
    assert reply.tokens == (2, RolloutOptions().max_prompt_tokens + RolloutOptions().max_tokens)


def test_a_served_model_is_not_for_training(random_model: MakeModel) -> None:
    with pytest.raises(OptionError, match=r"To train .* use --engine\.name vllm_server"):
        opened(random_model(), name="served", url="http://127.0.0.1:9")


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
def test_where_vllm_is_not_installed_that_is_said_with_what_to_do(random_model: MakeModel) -> None:
    with pytest.raises(OptionError, match=r"pip install \"\.\[vllm\]\" in a checkout of sod, or run it as a server"):
        opened(random_model(), name="vllm")


def test_a_server_that_is_not_there_is_not_waited_for_for_ever(random_model: MakeModel) -> None:
    async def knock() -> None:
        await VLLMServerEngine.open("http://127.0.0.1:9", random_model(), start_seconds=0.1)

    with pytest.raises(InfrastructureError, match=r"The vLLM server at http://127.0.0.1:9/? is unreachable"):
        asyncio.run(knock())
