"""A teacher on a server: its scores stand where a teacher's here would, what it must be is proved, and trouble is waited out.

The servers are real ones on this machine, whose teacher is the lab's. How it goes with vLLM itself, which needs SOD_VLLM_PYTHON
(see test_engines_vllm.py), is at the end.
"""

import asyncio
import json
import math
import shutil
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from policy_server import completion, loop_in_a_thread
from test_engines_vllm import serving as serving_vllm
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sod.batching import Batch, collate
from sod.config import EvalOptions, ModelOptions, RolloutOptions, ScoreOptions, TrainOptions
from sod.engines.hf import HFEngine
from sod.engines.served_model import TRIES
from sod.errors import InfrastructureError, ModelError, OptionError, OutageError
from sod.evaluation.evaluate import evaluate
from sod.lab import settings
from sod.model.loading import load_model
from sod.processes.concurrency import Runner
from sod.processes.distributed import ALONE
from sod.runs.directory import Run
from sod.teachers import Scores, Teacher, TeacherSetup
from sod.teachers.dialects import Dialect
from sod.teachers.local import LocalTeacher
from sod.teachers.opening import fingerprint_teacher, open_teacher
from sod.teachers.proving import TEXT
from sod.teachers.server import KEY_VARIABLE, ServerTeacher
from sod.training.on_policy import train

CPU = ModelOptions(device="cpu")
ROLLOUT = RolloutOptions(max_prompt_tokens=200, max_tokens=600)
CONTEXT = 801
"""What ROLLOUT needs, and one more."""

MakeGroups = Callable[..., list[Any]]
Tokenizer = PreTrainedTokenizerBase
Work = Callable[[ServerTeacher], Awaitable[Any]]


class Serving:
    """A server that answers `prompt_logprobs` as vLLM does, with a model's own, and samples the model.

    `troubles` are met by the next requests for tokens, one each.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Tokenizer):
        self._model, self._tokenizer = model, tokenizer
        self.written = 0
        """Number of requests to sample text."""
        self.models: list[dict[str, Any]] = [{"id": "tiny", "max_model_len": CONTEXT}]
        self.shift = 0
        """How far its tokenizer's ids are off."""
        self.change: Callable[[Tensor], Tensor] = lambda logits_TV: logits_TV.log_softmax(-1)
        """From logits to what it tells."""
        self.key = ""
        self.asked: list[dict[str, Any]] = []
        """Bodies of the requests for tokens."""
        self.troubles: deque[str] = deque()
        self.under_way = self.most = 0
        """Requests for tokens at the moment, and at most."""
        self._port = 0
        self._listening: asyncio.Server | None = None

    @cached_property
    def _engine(self) -> HFEngine:
        return HFEngine(self._model, slots=16)

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
            await reader.read()
        elif trouble == "half":
            writer.write(b"HTTP/1.1 200 .\r\nContent-Length: 4000\r\n\r\n{")
        elif trouble == "page":
            writer.write(b"HTTP/1.1 200 .\r\nContent-Length: 13\r\n\r\n<html></html>")
        elif trouble == "busy":
            writer.write(b"HTTP/1.1 429 .\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n")
        elif trouble != "drop":
            allowed = not self.key or headers.get("authorization") == f"bearer {self.key}"
            status, answer = await self._answer(path, body, trouble) if allowed else (401, {"error": "Unauthorized"})
            text = json.dumps(answer).encode()
            writer.write(f"HTTP/1.1 {status} .\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)
        writer.close()

    async def _answer(self, path: str, body: Any, trouble: str) -> tuple[int, Any]:
        if path == "/v1/models":
            return 200, {"object": "list", "data": self.models}
        if path == "/tokenize":
            ids = self._tokenizer.encode(body["prompt"], add_special_tokens=body["add_special_tokens"])
            return 200, {"tokens": [id + self.shift for id in ids]}
        if body is None:
            return 404, {"error": "not found"}
        if body.get("return_token_ids"):
            self.written += 1
            return 200, await completion(self._engine, body)
        self.asked.append(body)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0.01)
        self.under_way -= 1
        choice: dict[str, Any] = {"finish_reason": "length", "text": "x", "prompt_logprobs": None}
        match trouble:
            case "":
                choice["prompt_logprobs"] = self._told(body["prompt"])
            case "abort":
                choice["finish_reason"] = "abort"
            case "mute":
                pass
            case "others":
                choice["prompt_logprobs"] = self._told([id + 1 for id in body["prompt"]])
            case "text":
                choice["prompt_logprobs"] = self._told(body["prompt"])
                next(iter(choice["prompt_logprobs"][-1].values()))["logprob"] = "low"
            case "longer" | "shorter":
                told = self._told(body["prompt"])
                choice["prompt_logprobs"] = told[:-1] if trouble == "shorter" else [*told, told[-1]]
            case "null":
                choice["prompt_logprobs"] = self._told(body["prompt"])
                next(iter(choice["prompt_logprobs"][-1].values()))["logprob"] = None
            case _:
                return int(trouble), {"error": "the server's own words"}
        return 200, {"choices": [choice]}

    def _told(self, ids: list[int]) -> list[Any]:
        with torch.no_grad():
            told_TV = self.change(self._model(torch.tensor([ids]), use_cache=False).logits[0])
        after = zip(ids[1:], told_TV[:-1], strict=True)
        return [None, *({str(id): {"logprob": told_V[id].item(), "rank": 1}} for id, told_V in after)]


@pytest.fixture(scope="module")
def model(teacher: Path) -> PreTrainedModel:
    return load_model(teacher, CPU)


@pytest.fixture
def server(model: PreTrainedModel, tokenizer: Tokenizer) -> Serving:
    return Serving(model, tokenizer)


@pytest.fixture(scope="module")
def without_weights(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the lab's tokenizer and nothing else."""
    folder = tmp_path_factory.mktemp("tokenizer")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(teacher / name, folder)
    return folder


@pytest.fixture
def batch(random_groups: MakeGroups) -> Batch:
    return collate(random_groups(2, 5, vocabulary=500, longest=60))


@contextmanager
def in_the_background(server: Serving) -> Iterator[str]:
    """It answers in a thread of its own. -> its address"""

    with loop_in_a_thread() as loop:
        try:
            yield asyncio.run_coroutine_threadsafe(server.start(), loop).result()
        finally:
            loop.call_soon_threadsafe(server.stop)


def setup(
    folder: Path,
    tokenizer: Tokenizer,
    score: ScoreOptions,
    network: ModelOptions = CPU,
    rollout: RolloutOptions = ROLLOUT,
) -> TeacherSetup:
    return TeacherSetup(
        folder=folder, tokenizer=tokenizer, network=network, score=score, rollout=rollout, microbatch_tokens=1000
    )


@asynccontextmanager
async def teacher_of(
    server: Serving,
    folder: Path,
    tokenizer: Tokenizer,
    *,
    network: ModelOptions = CPU,
    rollout: RolloutOptions = ROLLOUT,
    seconds: float = 60.0,
    **options: Any,
) -> AsyncIterator[ServerTeacher]:
    wanted = ScoreOptions.model_validate({"teacher_url": await server.start(), "teacher_patience": 30.0} | options)
    try:
        opened = await ServerTeacher.open(setup(folder, tokenizer, wanted, network, rollout), seconds=seconds)
        try:
            yield opened
        finally:
            await opened.close()
    finally:
        server.stop()


def with_teacher(server: Serving, folder: Path, tokenizer: Tokenizer, work: Work | None = None, **options: Any) -> Any:
    """Open a teacher on the server, do some work with it, close it."""

    async def main() -> Any:
        async with asyncio.timeout(60), teacher_of(server, folder, tokenizer, **options) as opened:
            return await work(opened) if work else None

    return asyncio.run(main())


def local(folder: Path, tokenizer: Tokenizer, batch: Batch, rollout: RolloutOptions = ROLLOUT) -> Tensor:
    """The same scores from a teacher that is here."""
    return LocalTeacher(setup(folder, tokenizer, ScoreOptions(), CPU, rollout)).score_now(batch).logprobs_BT


# Scores


def test_scores_are_those_of_the_same_teacher_here(
    server: Serving, teacher: Path, tokenizer: Tokenizer, batch: Batch
) -> None:
    scores: Scores = with_teacher(server, teacher, tokenizer, lambda opened: opened.score(batch))
    torch.testing.assert_close(scores.logprobs_BT, local(teacher, tokenizer, batch), atol=1e-4, rtol=0)
    assert not scores.logprobs_BT[~batch.mask_BT].any()
    assert scores.entropy_BT is None
    assert scores.candidates_BTJ is None
    for body, trajectory in zip(server.asked[-len(batch) :], batch.trajectories, strict=True):
        assert body["prompt"] == trajectory.ids
        assert (body["model"], body["max_tokens"], body["prompt_logprobs"]) == ("tiny", 1, 0)


def test_a_batch_without_a_trajectory_has_no_scores(server: Serving, teacher: Path, tokenizer: Tokenizer) -> None:
    empty = collate([])
    scores: Scores = with_teacher(server, teacher, tokenizer, lambda opened: opened.score(empty))
    assert scores.logprobs_BT.shape == empty.ids_BT.shape


def test_so_many_trajectories_are_asked_about_at_once_and_no_more(
    server: Serving, teacher: Path, tokenizer: Tokenizer, batch: Batch
) -> None:
    """Also of several groups together."""

    async def work(opened: ServerTeacher) -> None:
        await asyncio.gather(opened.score(batch), opened.score(batch))

    with_teacher(server, teacher, tokenizer, work)
    assert server.most == Dialect.at_once


def test_busy_seconds_are_counted_until_they_are_asked_for(
    server: Serving, teacher: Path, tokenizer: Tokenizer, batch: Batch
) -> None:
    async def work(opened: ServerTeacher) -> None:
        opened.take_busy_seconds()
        await opened.score(batch)
        assert opened.take_busy_seconds() > 0
        assert opened.take_busy_seconds() == 0

    with_teacher(server, teacher, tokenizer, work)


# Is it the teacher?


def test_the_teachers_own_server_needs_nothing_to_be_said(
    server: Serving, teacher: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    with_teacher(server, teacher, tokenizer)
    assert capsys.readouterr().out == ""


def test_the_probe_is_longer_than_what_a_prefix_cache_keeps_at_a_time(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    assert tokenizer.decode(ids) == TEXT
    assert len(ids) > 128


def test_without_weights_to_compare_with_that_is_said_and_fetches_none(
    server: Serving, without_weights: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    with_teacher(server, without_weights, tokenizer)
    out = " ".join(capsys.readouterr().out.split())
    assert "holds no weights, so the weights are not checked. The teacher's server" in out


def test_another_model_is_refused_with_what_both_think(
    server: Serving, untrained: Path, without_weights: Path, tokenizer: Tokenizer
) -> None:
    with pytest.raises(ModelError, match=r"serves another model: .* is -\d+\.\d+ nats, .* is -\d+\.\d+; the mean"):
        with_teacher(server, untrained, tokenizer)
    with_teacher(server, without_weights, tokenizer)  # nobody can know


@pytest.mark.parametrize(
    ("dtype", "words"),
    [("float32", "computes in a lower precision than allowed: .* Start it with --dtype float32"), ("bfloat16", "")],
)
def test_a_server_that_rounds_is_one_for_a_teacher_that_may_be_rounded(
    teacher: Path, tokenizer: Tokenizer, dtype: str, words: str
) -> None:
    rounding = Serving(load_model(teacher, ModelOptions(device="cpu", dtype="bfloat16")), tokenizer)
    rounding.change = lambda logits_TV: logits_TV.float().log_softmax(-1)
    if not words:
        with_teacher(rounding, teacher, tokenizer, teacher_dtype=dtype)
        return
    with pytest.raises(ModelError, match=words):
        with_teacher(rounding, teacher, tokenizer, teacher_dtype=dtype)


def test_a_server_that_does_not_repeat_itself_is_refused(
    server: Serving, without_weights: Path, tokenizer: Tokenizer
) -> None:
    draw = torch.Generator().manual_seed(0)
    server.change = lambda logits_TV: (logits_TV + torch.randn(logits_TV.shape, generator=draw)).log_softmax(-1)
    with pytest.raises(ModelError, match=r"is not deterministic: .* nats between two requests \(allowed: 0\.001\)"):
        with_teacher(server, without_weights, tokenizer)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda logits_TV: logits_TV * math.nan, "log-probabilities such as nan"),
        (lambda logits_TV: logits_TV.log_softmax(-1) * 0 - 9999.0, r"log-probabilities such as -9999\.0"),
        (lambda logits_TV: logits_TV, "none can be above 0. Start it without --logprobs-mode raw_logits"),
    ],
    ids=["nan", "impossible", "logits"],
)
def test_numbers_that_are_no_log_probabilities_are_refused(
    server: Serving, without_weights: Path, tokenizer: Tokenizer, change: Callable[[Tensor], Tensor], words: str
) -> None:
    server.change = change
    with pytest.raises(ModelError, match=words):
        with_teacher(server, without_weights, tokenizer)


def test_numbers_that_break_later_are_refused_then(
    server: Serving, teacher: Path, tokenizer: Tokenizer, batch: Batch
) -> None:
    async def work(opened: ServerTeacher) -> None:
        server.troubles.append("null")
        await opened.score(batch)

    with pytest.raises(ModelError, match="log-probabilities such as nan for 1 tokens"):
        with_teacher(server, teacher, tokenizer, work)


def test_another_tokenizer_is_refused(server: Serving, teacher: Path, tokenizer: Tokenizer) -> None:
    server.shift = 1
    with pytest.raises(
        ModelError, match=r"tokenizes differently .* Pass the served model, or its tokenizer, as --teacher"
    ):
        with_teacher(server, teacher, tokenizer)


def test_the_longest_trajectory_must_fit_with_a_token_more(
    server: Serving, teacher: Path, tokenizer: Tokenizer
) -> None:
    server.models[0]["max_model_len"] = CONTEXT - 1
    with pytest.raises(OptionError, match=r"a context of 800 tokens, but .* \+ 1 is 801\."):
        with_teacher(server, teacher, tokenizer)


def test_of_several_models_one_must_be_named(server: Serving, teacher: Path, tokenizer: Tokenizer) -> None:
    server.models.append({"id": "other", "max_model_len": CONTEXT})
    with pytest.raises(OptionError, match=r"more than one model\. .*--score\.teacher_served_name: tiny, other"):
        with_teacher(server, teacher, tokenizer)
    with_teacher(server, teacher, tokenizer, teacher_served_name="other")
    assert server.asked[-1]["model"] == "other"


@pytest.mark.parametrize(("trouble", "error"), [("mute", OptionError), ("others", ModelError)])
def test_a_server_that_answers_something_else_is_refused(
    server: Serving, teacher: Path, tokenizer: Tokenizer, trouble: str, error: type[Exception]
) -> None:
    server.troubles += ["", trouble]
    with pytest.raises(error, match=r"prompt_logprobs|other tokens than the ones that it received"):
        with_teacher(server, teacher, tokenizer)


@pytest.mark.parametrize("key", ["gehéim", "a\nb", "a\x1b"])
def test_a_key_that_no_request_can_have_is_refused_at_once(
    server: Serving, teacher: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, key)
    with pytest.raises(OptionError, match=f"environment variable {KEY_VARIABLE} has characters that no key has"):
        with_teacher(server, teacher, tokenizer)


def test_a_key_comes_from_the_environment_and_its_lack_is_named(
    server: Serving, teacher: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.key = "secret"
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(OptionError, match=f"environment variable {KEY_VARIABLE} is not set"):
        with_teacher(server, teacher, tokenizer)
    monkeypatch.setenv(KEY_VARIABLE, "secret\n")  # as a file of a key ends
    with_teacher(server, teacher, tokenizer)


# Temperature


def test_another_temperature_is_warned_of_once(
    server: Serving, teacher: Path, tokenizer: Tokenizer, batch: Batch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def work(opened: ServerTeacher) -> Tensor:
        await opened.score(batch)
        return (await opened.score(batch)).logprobs_BT

    found_BT = with_teacher(server, teacher, tokenizer, work, rollout=ROLLOUT.model_copy(update={"temperature": 0.7}))
    out = " ".join(capsys.readouterr().out.split())
    assert out.count("the signal compares the teacher at 1 with the student at 0.7") == 1
    torch.testing.assert_close(found_BT, local(teacher, tokenizer, batch), atol=1e-4, rtol=0)


# Troubles


@pytest.mark.parametrize("trouble", ["500", "503", "429", "drop", "abort", "hang", "half", "page"])
def test_what_may_pass_is_asked_again(
    server: Serving, teacher: Path, tokenizer: Tokenizer, batch: Batch, trouble: str
) -> None:
    async def work(opened: ServerTeacher) -> tuple[Scores, Scores]:
        calm = await opened.score(batch)
        server.troubles += [trouble] * 2
        return calm, await opened.score(batch)

    calm, stormy = with_teacher(server, teacher, tokenizer, work, seconds=1.0)
    assert torch.equal(calm.logprobs_BT, stormy.logprobs_BT)
    assert not server.troubles


def test_a_busy_server_is_asked_again_as_late_and_as_often_as_it_says(
    server: Serving, teacher: Path, tokenizer: Tokenizer, batch: Batch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Being busy is no failure: more of such responses than there are tries, and no probe between them."""
    one = batch.rows(torch.tensor([0]))

    async def work(opened: ServerTeacher) -> tuple[Scores, int]:
        asked = len(server.asked)
        server.troubles += ["busy"] * (TRIES + 1)
        return await opened.score(one), len(server.asked) - asked

    found, asked = with_teacher(server, teacher, tokenizer, work)
    assert asked == 1
    torch.testing.assert_close(found.logprobs_BT, local(teacher, tokenizer, one), atol=1e-4, rtol=0)
    assert "It allows another request in 1 s; waiting up to 30 s." in " ".join(capsys.readouterr().out.split())


def test_a_server_that_stays_busy_is_an_outage(
    server: Serving, teacher: Path, tokenizer: Tokenizer, batch: Batch
) -> None:
    async def work(opened: ServerTeacher) -> None:
        server.troubles += ["busy"] * 100
        await opened.score(batch)

    with pytest.raises(OutageError, match=r"It has been busy for 1\.5 s\."):
        with_teacher(server, teacher, tokenizer, work, teacher_patience=1.5)


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/", "/v1/completions"])
def test_an_address_may_end_in_the_path_of_the_api(
    server: Serving, teacher: Path, tokenizer: Tokenizer, ending: str
) -> None:
    async def main() -> None:
        options = ScoreOptions(teacher_url=await server.start() + ending)
        await (await ServerTeacher.open(setup(teacher, tokenizer, options))).close()
        server.stop()

    asyncio.run(main())
    assert server.asked


@pytest.mark.parametrize("trouble", ["others", "null", "text", "longer", "shorter"])
@pytest.mark.parametrize("when", ["at the start", "later"])
def test_what_is_wrong_with_log_probabilities_is_named_and_shown_in_short(
    server: Serving, teacher: Path, tokenizer: Tokenizer, batch: Batch, trouble: str, when: str
) -> None:
    async def work(opened: ServerTeacher) -> None:
        server.troubles += [trouble] * 20
        await opened.score(batch)

    if when == "at the start":
        server.troubles += [trouble] * 20
    words = {
        "others": "log-probabilities of other tokens than the ones that it received",
        "null": "log-probabilities such as nan",
        "text": r"does not return the log-probabilities of the tokens that it receives",
        "longer": r"log-probabilities of \d+ tokens, not of the \d+ that it received",
        "shorter": r"log-probabilities of \d+ tokens, not of the \d+ that it received",
    }
    with pytest.raises((ModelError, OptionError), match=words[trouble]) as error:
        with_teacher(server, teacher, tokenizer, work)
    assert len(str(error.value)) < 700


@pytest.mark.parametrize("trouble", ["500", "abort"])
def test_an_answer_that_fails_while_others_do_not_is_given_up(
    server: Serving, teacher: Path, tokenizer: Tokenizer, batch: Batch, trouble: str
) -> None:
    one = batch.rows(torch.tensor([0]))

    async def work(opened: ServerTeacher) -> None:
        # After each failure, a short answer shows that the server is there, and another that it is the same.
        server.troubles += [trouble] * 3 if trouble == "abort" else [trouble, "", "", trouble, "", "", trouble]
        with pytest.raises(InfrastructureError) as error:
            await opened.score(one)
        assert not isinstance(error.value, OutageError)
        await opened.score(one)

    with_teacher(server, teacher, tokenizer, work)


def test_a_server_that_dies_and_comes_back_is_waited_for_and_said_once_each(
    server: Serving, teacher: Path, tokenizer: Tokenizer, batch: Batch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def work(opened: ServerTeacher) -> tuple[Scores, Scores]:
        calm = await opened.score(batch)
        server.troubles += ["drop"] * Dialect.at_once
        server.stop()
        pending = asyncio.create_task(opened.score(batch))
        await asyncio.sleep(1.0)
        assert not pending.done()
        server.troubles.clear()
        await server.start()
        return calm, await pending

    calm, stormy = with_teacher(server, teacher, tokenizer, work)
    assert torch.equal(calm.logprobs_BT, stormy.logprobs_BT)
    out = " ".join(capsys.readouterr().out.split())
    assert out.count("waiting up to 30 s.") == 1
    assert out.count("is back; the run continues.") == 1


def test_a_server_that_comes_back_with_another_model_ends_the_run(
    server: Serving, teacher: Path, tokenizer: Tokenizer, batch: Batch
) -> None:
    async def work(opened: ServerTeacher) -> None:
        server.troubles += ["drop"] * Dialect.at_once
        server.stop()
        pending = asyncio.create_task(opened.score(batch))
        await asyncio.sleep(0.5)
        server.change = lambda logits_TV: (0.9 * logits_TV).log_softmax(-1)
        server.troubles.clear()
        await server.start()
        with pytest.raises(ModelError, match="has changed its model"):
            await pending
        with pytest.raises(ModelError, match="has changed its model"):
            await opened.score(batch)

    with_teacher(server, teacher, tokenizer, work)


def test_a_server_that_stays_away_is_an_outage_and_what_to_do_is_said(
    server: Serving, teacher: Path, tokenizer: Tokenizer, batch: Batch
) -> None:
    async def work(opened: ServerTeacher) -> None:
        server.stop()
        await opened.score(batch)

    with pytest.raises(OutageError, match=r"down for 0\.5 s\. Restart it .* `sod train` with --resume"):
        with_teacher(server, teacher, tokenizer, work, teacher_patience=0.5)


def test_a_request_that_is_refused_says_how_long_it_was(
    server: Serving, teacher: Path, tokenizer: Tokenizer, batch: Batch
) -> None:
    one = batch.rows(torch.tensor([0]))

    async def work(opened: ServerTeacher) -> None:
        server.troubles.append("400")
        await opened.score(one)

    with pytest.raises(
        OptionError, match=rf"own words.* has {int(one.lengths_B)} tokens, and the server may sample one more"
    ):
        with_teacher(server, teacher, tokenizer, work)


def test_a_server_that_is_still_starting_is_waited_for_and_that_is_said(
    server: Serving, teacher: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.troubles.append("503")  # the model comes after the server

    async def main() -> None:
        url = await server.start()
        server.stop()
        options = ScoreOptions(teacher_url=url)
        opening = asyncio.create_task(ServerTeacher.open(setup(teacher, tokenizer, options)))
        await asyncio.sleep(0.2)
        await server.start()
        await (await opening).close()
        server.stop()

    asyncio.run(main())
    out = " ".join(capsys.readouterr().out.split())
    assert "It may still be starting, or the address may be wrong; waiting up to 300 s." in out


# The teacher that the options name


def test_the_teacher_is_here_unless_an_address_is_given(
    server: Serving, teacher: Path, tokenizer: Tokenizer, batch: Batch
) -> None:
    def scored(loop: Runner, options: ScoreOptions) -> tuple[type[Teacher], Tensor]:
        with open_teacher(loop, setup(teacher, tokenizer, options), ALONE) as opened:
            return type(opened), loop.run(opened.score(batch)).logprobs_BT

    with Runner() as loop:
        here, here_BT = scored(loop, ScoreOptions())
        with in_the_background(server) as url:
            there, there_BT = scored(loop, ScoreOptions(teacher_url=url))
    assert (here, there) == (LocalTeacher, ServerTeacher)
    torch.testing.assert_close(there_BT, here_BT, atol=1e-4, rtol=0)


def test_a_teacher_is_known_by_its_weights_or_by_its_name_on_the_server(teacher: Path, without_weights: Path) -> None:
    served = ScoreOptions(teacher_url="http://127.0.0.1:9", teacher_served_name="big")
    assert fingerprint_teacher(teacher, served) == fingerprint_teacher(teacher, ScoreOptions())
    assert fingerprint_teacher(without_weights, served).startswith("served big ")


# An evaluation beside it


@pytest.fixture
def wanted(untrained: Path, teacher: Path, problem_file: Path, tmp_path: Path) -> EvalOptions:
    files = {"model": untrained, "teacher": teacher, "data": str(problem_file), "out": tmp_path / "here"}
    return EvalOptions.model_validate(settings.EVAL | files | {"samples": 2, "limit": 3})


def beside(server: Serving, wanted: EvalOptions, url: str, **score: Any) -> EvalOptions:
    server.models[0]["max_model_len"] = 1024
    options = wanted.score.model_copy(update={"teacher_url": url} | score)
    return wanted.model_copy(update={"out": wanted.out.with_name("there"), "score": options})


def test_an_evaluation_beside_it_comes_to_what_one_beside_a_teacher_here_does(
    server: Serving, wanted: EvalOptions
) -> None:
    here = evaluate(wanted)
    with in_the_background(server) as url:
        there = evaluate(beside(server, wanted, url))
    assert here.mean["steps/d"] > 1
    assert here.mean.keys() - there.mean.keys() == {"steps/teacher_entropy"}
    for name in ("avg", "steps/d", "steps/d_1"):
        assert there.mean[name] == pytest.approx(here.mean[name], abs=1e-4)
    ours, theirs = (
        [json.loads(line) for line in Run(out).trajectory_file(0).read_text().splitlines()]
        for out in (wanted.out, wanted.out.with_name("there"))
    )
    for our, their in zip(ours, theirs, strict=True):
        assert [step["d"] for step in their["steps"]] == pytest.approx([step["d"] for step in our["steps"]], abs=1e-3)
        assert all("teacher_entropy" not in step for step in their["steps"])


def test_a_server_that_vanishes_during_an_evaluation_costs_no_sample(server: Serving, wanted: EvalOptions) -> None:
    with in_the_background(server) as url:
        options = beside(server, wanted, url, teacher_patience=0.5)
        file = Run(options.out).trajectory_file(0)
        server.troubles += [""] * 4 + ["drop"] * 1000  # it proves itself, and is never heard of again
        with pytest.raises(OutageError, match="`sod eval` by running the same command"):
            evaluate(options)
        before = file.read_text().splitlines()
        server.troubles.clear()
        results = evaluate(options)
    assert len(before) == len(file.read_text().splitlines()) == 6
    assert results.mean["steps/d"] > 1
    assert not results.partial


def test_a_server_with_another_model_is_refused_before_anything_is_written(
    server: Serving, wanted: EvalOptions, untrained: Path
) -> None:
    with in_the_background(server) as url:
        options = beside(server, wanted, url).model_copy(update={"teacher": untrained})
        with pytest.raises(ModelError, match="serves another model"):
            evaluate(options)
    assert not options.out.exists()


# With vLLM


@pytest.fixture(scope="module")
def vllm(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a vLLM server that has the lab's teacher."""
    with serving_vllm(teacher, tmp_path_factory.mktemp("worker"), CONTEXT, weights="auto") as url:
        yield url


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_vllm_scores_as_the_teacher_here_does_at_temperature_1(
    vllm: str, teacher: Path, tokenizer: Tokenizer, random_groups: MakeGroups, temperature: float
) -> None:
    batch = collate(random_groups(3, 4, vocabulary=500, longest=90))
    rollout, options = ROLLOUT.model_copy(update={"temperature": temperature}), ScoreOptions(teacher_url=vllm)
    with (
        Runner() as loop,
        open_teacher(loop, setup(teacher, tokenizer, options, CPU, rollout), ALONE) as opened,
    ):
        found_BT = loop.run(opened.score(batch)).logprobs_BT
    torch.testing.assert_close(found_BT, local(teacher, tokenizer, batch), atol=1e-4, rtol=0)


def test_vllm_reads_as_many_tokens_as_were_reckoned_with(
    vllm: str, teacher: Path, tokenizer: Tokenizer, trajectory: Callable[..., Any], random_groups: MakeGroups
) -> None:
    """The longest trajectory that is allowed, and none that is longer."""
    longest, longer = (
        trajectory(("prompt", [5] * 100), ("student", [6 + i % 400 for i in range(length - 100)]))
        for length in (CONTEXT - 1, CONTEXT)
    )
    groups = random_groups(1, 2)
    options = ScoreOptions(teacher_url=vllm)
    with (
        Runner() as loop,
        open_teacher(loop, setup(teacher, tokenizer, options), ALONE) as opened,
    ):
        groups[0].trajectories[:] = [longest]
        assert loop.run(opened.score(collate(groups))).logprobs_BT.shape == (1, CONTEXT - 1)
        groups[0].trajectories[:] = [longer]
        with pytest.raises(OptionError, match=f"has {CONTEXT} tokens, and the server may sample one more"):
            loop.run(opened.score(collate(groups)))


def test_vllm_with_another_model_is_refused(vllm: str, untrained: Path, tokenizer: Tokenizer) -> None:
    with (
        Runner() as loop,
        pytest.raises(ModelError, match="serves another model"),
        open_teacher(loop, setup(untrained, tokenizer, ScoreOptions(teacher_url=vllm)), ALONE),
    ):
        pass


def test_a_run_beside_vllm_learns_what_one_beside_the_teacher_here_learns(
    vllm: str, teacher: Path, trembling: Callable[[Path, float], None], problem_file: Path, tmp_path: Path
) -> None:
    trembling(tmp_path / "student", 0.1)
    files = {"student": tmp_path / "student", "teacher": teacher, "data": problem_file}
    small = {"rollout": settings.ROLLOUT | {"problems": 4, "group": 2, "max_tokens": 100}, "learn": {"lr": 1e-3}}
    shared = files | small | {"tool": settings.TOOL, "updates": 2, "network": {"device": "cpu"}}
    here, there = (
        train(TrainOptions.model_validate(shared | {"out": tmp_path / name, "score": score})).metrics()
        for name, score in {"here": {}, "there": {"teacher_url": vllm}}.items()
    )
    for one, other in zip(here, there, strict=True):
        names = [name for name in one if name.startswith(("steps/", "learn/", "rollout/"))]
        assert {"steps/d", "learn/loss", "rollout/reward"} < set(names)
        expected = {name: one[name] for name in names if name != "steps/teacher_entropy"}
        assert {name: other[name] for name in expected} == pytest.approx(expected, abs=1e-4, rel=1e-4)
        assert "steps/teacher_entropy" not in other
