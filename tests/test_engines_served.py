"""A served model: vLLM's way of answering and OpenAI's, refusals in plain words, and a server that comes and goes.

The servers are real ones on this machine: one has vLLM's API, one knows OpenAI's and nothing else, and either can have
troubles. How it goes with vLLM itself is in test_engines_vllm.py.
"""

import asyncio
import json
import random
import shutil
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

from sod.config import EngineOptions, RolloutOptions
from sod.engines import Reply, Request
from sod.engines.opening import open_engine
from sod.engines.served import PROBE_TEXT, ServedEngine
from sod.errors import InfrastructureError, ModelError, OptionError, OutageError
from sod.model.loading import load_tokenizer
from sod.processes.concurrency import Runner

ROLLOUT = RolloutOptions(max_prompt_tokens=100, max_tokens=400)
CONTEXT = 512
STANDARD = {"model", "prompt", "max_tokens", "temperature", "top_p", "seed", "stop"}
TEXT = "So it is \\boxed{7}."

Work = Callable[[ServedEngine], Awaitable[Any]]


class Serving:
    """A server with vLLM's API, which draws any tokens; or, `plain`, one with OpenAI's, which always writes TEXT.

    `troubles` are met by the next requests for tokens, one each.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, plain: bool = False, key: str = ""):
        self._tokenizer, self._plain, self._key = tokenizer, plain, key
        self.models: list[dict[str, Any]] = [{"id": "tiny"} if plain else {"id": "tiny", "max_model_len": CONTEXT}]
        self.shift = 0
        """How far its tokenizer's ids are off."""
        self.drawn = range(5, 60)
        """Ids that it draws from."""
        self.finish = "stop"
        self.text = TEXT
        self.asked: list[dict[str, Any]] = []
        """Bodies of the requests for tokens."""
        self.troubles: deque[str] = deque()
        self.left = asyncio.Event()
        """Set when somebody hangs up without waiting for the answer."""
        self._port = 0
        self._listening: asyncio.Server | None = None

    async def start(self) -> str:
        """-> its address, which is the same every time"""
        self._listening = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._listening.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{self._port}"

    def stop(self) -> None:
        if self._listening is not None:
            self._listening.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = head.split()[1]
        headers = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:] if line)
        body = json.loads(await reader.readexactly(int(headers.get("content-length", 0))) or b"null")
        trouble = self.troubles.popleft() if self.troubles and path == "/v1/completions" else ""
        if trouble == "hang":
            if not await reader.read():
                self.left.set()
        elif trouble != "drop":
            allowed = not self._key or headers.get("authorization") == f"bearer {self._key}"
            status, answer = self._answer(path, body, trouble) if allowed else (401, {"error": "Unauthorized"})
            text = json.dumps(answer).encode()
            writer.write(f"HTTP/1.1 {status} .\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)
        writer.close()

    def _answer(self, path: str, body: Any, trouble: str) -> tuple[int, Any]:
        if path == "/v1/models":
            return 200, {"object": "list", "data": self.models}
        if path == "/tokenize" and not self._plain:
            ids = self._tokenizer.encode(body["prompt"], add_special_tokens=body["add_special_tokens"])
            return 200, {"tokens": [id + self.shift for id in ids]}
        if path != "/v1/completions":
            return 404, {"detail": "Not Found"}
        self.asked.append(body)
        if trouble == "abort":
            return 200, {"choices": [{"finish_reason": "abort", "text": ""}]}
        if trouble:
            return int(trouble), {"error": "the server's own words"}
        if body["model"] not in {model["id"] for model in self.models}:
            return 404, {"error": f"The model {body['model']} does not exist."}
        if self._plain:
            unknown = sorted(body.keys() - STANDARD)
            return (400, {"error": f"unknown fields: {unknown}"}) if unknown else (200, self._text())
        return 200, self._tokens(body)

    def _text(self) -> dict[str, Any]:
        return {"choices": [{"finish_reason": self.finish, "text": self.text, "logprobs": None}]}

    def _tokens(self, body: dict[str, Any]) -> dict[str, Any]:
        stops = body["stop_token_ids"]
        tokens = random.Random(body["seed"]).choices(self.drawn, k=body["max_tokens"])
        if stops:
            tokens = [*tokens[: body["seed"] % body["max_tokens"]], *stops]
        logprobs = {"token_logprobs": [-0.5] * len(tokens)} if "logprobs" in body else None
        choice = {"finish_reason": "stop" if stops else "length", "text": "x", "token_ids": tokens}
        return {"choices": [choice | {"logprobs": logprobs}]}


@asynccontextmanager
async def engine_of(
    server: Serving, tokenizer: PreTrainedTokenizerBase, path: str = "", **options: Any
) -> AsyncIterator[ServedEngine]:
    url = await server.start() + path
    try:
        wanted = EngineOptions.model_validate({"name": "served", "url": url, "patience": 30.0} | options)
        engine = await ServedEngine.open(wanted, tokenizer, ROLLOUT)
        try:
            yield engine
        finally:
            await engine.close()
    finally:
        server.stop()


def with_engine(server: Serving, tokenizer: PreTrainedTokenizerBase, work: Work | None = None, **options: Any) -> Any:
    """Open an engine of the server, do some work with it, close it."""

    async def main() -> Any:
        async with asyncio.timeout(60), engine_of(server, tokenizer, **options) as engine:
            return await work(engine) if work else None

    return asyncio.run(main())


def sampling(*requests: Request) -> Work:
    return lambda engine: asyncio.gather(*map(engine.sample, requests))


@pytest.fixture
def stop(tokenizer: PreTrainedTokenizerBase) -> int:
    assert isinstance(tokenizer.eos_token_id, int)
    return tokenizer.eos_token_id


@pytest.fixture
def request_of(stop: int) -> Callable[..., Request]:
    return lambda **fields: Request(**{"ids": (5, 6, 7), "seed": 3, "max_tokens": 8, "stop": stop} | fields)


@pytest.fixture
def vllm(tokenizer: PreTrainedTokenizerBase) -> Serving:
    return Serving(tokenizer)


@pytest.fixture
def plain(tokenizer: PreTrainedTokenizerBase) -> Serving:
    return Serving(tokenizer, plain=True)


Ask = Callable[..., Request]
Tokenizer = PreTrainedTokenizerBase


# vLLM: token ids in, token ids out


def test_vllm_is_given_token_ids_and_gives_them(
    vllm: Serving, tokenizer: Tokenizer, request_of: Ask, stop: int
) -> None:
    replies = with_engine(vllm, tokenizer, sampling(*(request_of(seed=seed) for seed in range(20))))
    for reply in replies:
        assert reply.tokens[-1] == stop
        assert reply.stop == "stop"
        assert reply.logprobs == (-0.5,) * len(reply.tokens)
    assert len({reply.tokens for reply in replies}) > 10
    body = vllm.asked[-1]
    assert (body["prompt"], body["stop_token_ids"], body["return_token_ids"]) == ([5, 6, 7], [stop], True)
    assert (body["temperature"], body["top_p"], body["top_k"], body["repetition_penalty"]) == (1.0, 1.0, 0, 1.0)


def test_ids_without_a_token_are_never_asked_for_and_never_taken(
    vllm: Serving, teacher: Path, request_of: Ask, tmp_path: Path
) -> None:
    """config.json beside the tokenizer counts the rows of the head."""
    folder = shutil.copytree(teacher, tmp_path / "wide", ignore=shutil.ignore_patterns("*.safetensors"))
    config, tokens = json.loads((folder / "config.json").read_text()), len(load_tokenizer(folder).get_vocab())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": tokens + 3}))
    with_engine(vllm, load_tokenizer(folder), sampling(request_of()))
    assert vllm.asked[-1]["logit_bias"] == {str(id): -100.0 for id in range(tokens, tokens + 3)}
    vllm.drawn = range(tokens, tokens + 1)
    with pytest.raises(InfrastructureError, match=rf"wrote id {tokens}, but the tokenizer here has {tokens} ids"):
        with_engine(vllm, load_tokenizer(folder), sampling(request_of(stop=-1)))


def test_a_reply_that_never_stops_is_as_long_as_it_may_be(vllm: Serving, tokenizer: Tokenizer, request_of: Ask) -> None:
    (reply,) = with_engine(vllm, tokenizer, sampling(request_of(stop=-1)))
    assert (len(reply.tokens), reply.stop) == (8, "length")


def test_at_another_temperature_there_are_no_log_probabilities(
    vllm: Serving, tokenizer: Tokenizer, request_of: Ask
) -> None:
    """vLLM's are from before it."""
    (reply,) = with_engine(vllm, tokenizer, sampling(request_of(temperature=0.6)))
    assert reply.tokens
    assert reply.logprobs == ()
    assert "logprobs" not in vllm.asked[-1]


def test_vllm_needs_nothing_to_be_said(vllm: Serving, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]) -> None:
    with_engine(vllm, tokenizer)
    assert capsys.readouterr().out == ""


def test_an_address_may_end_in_v1(vllm: Serving, tokenizer: Tokenizer, request_of: Ask) -> None:
    for path in ("/", "/v1", "/v1/"):
        assert with_engine(vllm, tokenizer, sampling(request_of()), path=path)


# OpenAI's API: token ids in, text out


def test_a_server_that_gives_text_is_asked_in_standard_words_and_that_is_said_once(
    plain: Serving, tokenizer: Tokenizer, request_of: Ask, stop: int, capsys: pytest.CaptureFixture[str]
) -> None:
    replies = with_engine(plain, tokenizer, sampling(request_of(), request_of(seed=4)))
    expected = (*tokenizer.encode(TEXT, add_special_tokens=False), stop)
    assert replies == [Reply(expected, (), "stop")] * 2
    assert plain.asked[-1].keys() == STANDARD
    assert plain.asked[-1]["stop"] == [tokenizer.eos_token]
    assert plain.asked[-1]["prompt"] == [5, 6, 7]
    out = capsys.readouterr().out
    assert out.count("is used through OpenAI's API") == 1
    assert "unknown fields: ['frequency_penalty'" in out
    assert out.count("has no endpoint for its tokenizer") == 1


def test_a_text_that_was_cut_has_no_end_of_turn(plain: Serving, tokenizer: Tokenizer, request_of: Ask) -> None:
    plain.finish = "length"
    (reply,) = with_engine(plain, tokenizer, sampling(request_of()))
    assert reply == Reply(tuple(tokenizer.encode(TEXT, add_special_tokens=False)), (), "length")


def test_an_end_of_turn_that_the_server_writes_out_is_not_doubled_and_nothing_follows_it(
    plain: Serving, tokenizer: Tokenizer, request_of: Ask, stop: int
) -> None:
    plain.text = f"{TEXT}{tokenizer.eos_token}\nand on"
    (reply,) = with_engine(plain, tokenizer, sampling(request_of()))
    assert reply == Reply((*tokenizer.encode(TEXT, add_special_tokens=False), stop), (), "stop")


def test_a_turn_without_words_is_an_end_of_turn(
    plain: Serving, tokenizer: Tokenizer, request_of: Ask, stop: int
) -> None:
    plain.text = ""
    assert with_engine(plain, tokenizer, sampling(request_of())) == [Reply((stop,), (), "stop")]


# What is refused, and what is then to be done


def test_a_served_model_cannot_be_trained(
    vllm: Serving, tokenizer: Tokenizer, random_model: Callable[..., Qwen3ForCausalLM]
) -> None:
    with pytest.raises(OptionError, match=r"cannot be used for training.* To train a model and sample .* vllm_server"):
        with_engine(vllm, tokenizer, lambda engine: engine.refresh())
    options = EngineOptions(name="served", url="http://127.0.0.1:9")
    with (
        Runner() as loop,
        pytest.raises(OptionError, match=r"use --engine\.name vllm_server"),
        open_engine(loop, options, random_model(), ROLLOUT, tokenizer),
    ):
        pass


def test_of_several_models_one_must_be_named(vllm: Serving, tokenizer: Tokenizer, request_of: Ask) -> None:
    vllm.models.append({"id": "other", "max_model_len": CONTEXT})
    with pytest.raises(OptionError, match=r"more than one model\. .*--engine\.served_name: tiny, other"):
        with_engine(vllm, tokenizer)
    with pytest.raises(OptionError, match=r"no model named 'big'\. .*: tiny, other"):
        with_engine(vllm, tokenizer, served_name="big")
    with_engine(vllm, tokenizer, sampling(request_of()), served_name="other")
    assert vllm.asked[-1]["model"] == "other"


def test_a_model_that_is_no_longer_served_is_named_with_those_that_are(
    vllm: Serving, tokenizer: Tokenizer, request_of: Ask
) -> None:
    async def work(engine: ServedEngine) -> None:
        vllm.models = [{"id": "another"}]
        await engine.sample(request_of())

    with pytest.raises(OptionError, match=r"status 404: .* It serves another, not tiny\."):
        with_engine(vllm, tokenizer, work)


def test_the_longest_trajectory_must_fit(vllm: Serving, tokenizer: Tokenizer) -> None:
    vllm.models[0]["max_model_len"] = 499
    with pytest.raises(OptionError, match=r"a context of 499 tokens, but .* is 500\."):
        with_engine(vllm, tokenizer)


def test_a_server_with_another_tokenizer_is_refused(vllm: Serving, tokenizer: Tokenizer) -> None:
    vllm.shift = 1
    with pytest.raises(ModelError, match="tokenizes differently from the tokenizer in"):
        with_engine(vllm, tokenizer)


def test_the_probe_shows_how_a_tokenizer_cuts(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(PROBE_TEXT, add_special_tokens=False)
    assert tokenizer.decode(ids) == PROBE_TEXT
    assert len(set(ids)) > 30


def test_a_key_comes_from_the_environment_and_its_lack_is_named(
    tokenizer: Tokenizer, request_of: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Serving(tokenizer, key="secret")
    monkeypatch.delenv("SERVING_KEY", raising=False)
    with pytest.raises(
        OptionError, match=r"environment variable SERVING_KEY \(engine\.key_variable\) is not set\. Set it"
    ):
        with_engine(server, tokenizer, key_variable="SERVING_KEY")
    monkeypatch.setenv("SERVING_KEY", "wrong")
    with pytest.raises(OptionError, match=r"SERVING_KEY .* has another value") as error:
        with_engine(server, tokenizer, key_variable="SERVING_KEY")
    assert "wrong" not in str(error.value)
    monkeypatch.setenv("SERVING_KEY", "secret")
    assert with_engine(server, tokenizer, sampling(request_of()), key_variable="SERVING_KEY")


def test_a_request_that_is_refused_says_how_long_it_was(vllm: Serving, tokenizer: Tokenizer, request_of: Ask) -> None:
    async def work(engine: ServedEngine) -> None:
        vllm.troubles.append("400")
        await engine.sample(request_of())

    with pytest.raises(OptionError, match=r"own words.* The prompt has 3 tokens, and the reply may have 8"):
        with_engine(vllm, tokenizer, work)


def test_what_is_no_such_server_is_refused(vllm: Serving, tokenizer: Tokenizer) -> None:
    vllm.models = []
    with pytest.raises(OptionError, match="does not list its models"):
        with_engine(vllm, tokenizer)
    for url in ("127.0.0.1:8000", "ftp://127.0.0.1", "http://[::1"):
        with pytest.raises(OptionError, match="address"):
            asyncio.run(ServedEngine.open(EngineOptions(name="served", url=url), tokenizer, ROLLOUT))


# Troubles


@pytest.mark.parametrize("trouble", ["500", "503", "429", "drop"])
def test_what_may_pass_is_asked_again(vllm: Serving, tokenizer: Tokenizer, request_of: Ask, trouble: str) -> None:
    async def work(engine: ServedEngine) -> list[Reply]:
        calm = await engine.sample(request_of())
        vllm.troubles += [trouble] * 2  # met by the request, and by the first question whether the server is there
        return [calm, await engine.sample(request_of())]

    calm, stormy = with_engine(vllm, tokenizer, work)
    assert stormy == calm


def test_a_reply_that_was_not_finished_is_an_infrastructure_error(
    vllm: Serving, tokenizer: Tokenizer, request_of: Ask
) -> None:
    async def work(engine: ServedEngine) -> None:
        vllm.troubles.append("abort")
        with pytest.raises(InfrastructureError, match="did not finish a reply"):
            await engine.sample(request_of())
        await engine.sample(request_of())

    with_engine(vllm, tokenizer, work)


def test_a_reply_that_fails_while_others_do_not_is_given_up(
    vllm: Serving, tokenizer: Tokenizer, request_of: Ask
) -> None:
    async def work(engine: ServedEngine) -> None:
        vllm.troubles += ["500", "", "500", "", "500"]  # each time, one short reply shows that the server is well
        with pytest.raises(InfrastructureError, match="own words") as error:
            await engine.sample(request_of())
        assert not isinstance(error.value, OutageError)
        await engine.sample(request_of())

    with_engine(vllm, tokenizer, work)


def test_a_server_that_dies_and_comes_back_is_waited_for_and_said_once_each(
    vllm: Serving, tokenizer: Tokenizer, request_of: Ask, capsys: pytest.CaptureFixture[str]
) -> None:
    requests = [request_of(seed=seed) for seed in range(8)]

    async def work(engine: ServedEngine) -> tuple[list[Reply], list[Reply]]:
        calm = await asyncio.gather(*map(engine.sample, requests))
        vllm.troubles += ["drop"] * len(requests)
        vllm.stop()
        pending = asyncio.gather(*map(engine.sample, requests))
        await asyncio.sleep(1.0)
        assert not pending.done()
        vllm.troubles.clear()
        await vllm.start()
        return calm, await pending

    calm, stormy = with_engine(vllm, tokenizer, work)
    assert stormy == calm
    out = capsys.readouterr().out
    assert out.count("waiting up to 30 s.") == 1
    assert out.count("is back; the run continues.") == 1


def test_a_server_that_stays_away_is_an_outage_for_everybody(
    vllm: Serving, tokenizer: Tokenizer, request_of: Ask
) -> None:
    async def work(engine: ServedEngine) -> list[BaseException | Reply]:
        vllm.stop()
        requests = (request_of(seed=seed) for seed in range(4))
        return await asyncio.gather(*map(engine.sample, requests), return_exceptions=True)

    errors = with_engine(vllm, tokenizer, work, patience=0.5)
    assert {type(error) for error in errors} == {OutageError}
    assert "It has been down for 0.5 s. Restart it, then run the same command" in str(errors[0])


def test_a_server_that_comes_back_with_another_model_is_not_waited_for(
    vllm: Serving, tokenizer: Tokenizer, request_of: Ask
) -> None:
    async def work(engine: ServedEngine) -> None:
        vllm.troubles.append("drop")
        vllm.models = [{"id": "another"}]
        await engine.sample(request_of())

    with pytest.raises(OptionError, match="It serves another, not tiny"):
        with_engine(vllm, tokenizer, work)


def test_a_cancelled_request_hangs_up_and_disturbs_nobody(vllm: Serving, tokenizer: Tokenizer, request_of: Ask) -> None:
    async def work(engine: ServedEngine) -> None:
        vllm.troubles.append("hang")
        task = asyncio.create_task(engine.sample(request_of()))
        while vllm.troubles:
            await asyncio.sleep(0.01)
        other = asyncio.create_task(engine.sample(request_of(seed=5)))
        task.cancel()
        await vllm.left.wait()
        assert (await other).tokens

    with_engine(vllm, tokenizer, work)


def test_one_who_stops_waiting_does_not_end_the_waiting_of_the_others(
    vllm: Serving, tokenizer: Tokenizer, request_of: Ask
) -> None:
    async def work(engine: ServedEngine) -> Reply:
        vllm.stop()
        first, second = (asyncio.create_task(engine.sample(request_of(seed=seed))) for seed in range(2))
        await asyncio.sleep(0.3)
        first.cancel()
        await vllm.start()
        return await second

    assert with_engine(vllm, tokenizer, work).tokens


def test_a_server_that_is_still_starting_is_waited_for_and_that_is_said(
    vllm: Serving, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        url = await vllm.start()
        vllm.stop()
        options = EngineOptions(name="served", url=url)
        opening = asyncio.create_task(ServedEngine.open(options, tokenizer, ROLLOUT))
        await asyncio.sleep(0.2)
        await vllm.start()
        await (await opening).close()
        vllm.stop()

    asyncio.run(main())
    out = capsys.readouterr().out
    assert "It may still be starting, or the address may be wrong; waiting up to 300 s." in out


@pytest.mark.parametrize("character", ["vllm", "plain"])
def test_a_model_that_is_still_being_loaded_is_waited_for(
    character: str, request: pytest.FixtureRequest, tokenizer: Tokenizer, request_of: Ask
) -> None:
    server: Serving = request.getfixturevalue(character)
    server.troubles.append("503")
    assert with_engine(server, tokenizer, sampling(request_of()))


def test_busy_seconds_are_counted_until_they_are_asked_for(
    vllm: Serving, tokenizer: Tokenizer, request_of: Ask
) -> None:
    async def work(engine: ServedEngine) -> None:
        await asyncio.gather(engine.sample(request_of(trajectory=7)), engine.sample(request_of()))
        engine.release(7)
        engine.release(7)
        assert engine.take_busy_seconds() > 0
        assert engine.take_busy_seconds() == 0

    with_engine(vllm, tokenizer, work)
