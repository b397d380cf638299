"""Addresses of a teacher's server behind which something else is, and responses that are none: one line, at once."""

import asyncio
import copy
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_teachers_dialects import Other
from test_teachers_server import CPU, Serving, with_teacher
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sod.engines.http import CERTIFICATES, Server
from sod.errors import InfrastructureError, OptionError, SodError
from sod.model.loading import load_model
from sod.teachers.dialects import DIALECTS

Tokenizer = PreTrainedTokenizerBase
PAGE = b"<!DOCTYPE html>\n<html><head><title> Sign in </title></head><body>...</body></html>"


def response(body: bytes, status: str = "200 OK", *fields: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields]
    return "\r\n".join([*head, "", ""]).encode() + body


MODELS = response(b'{"data": [{"id": "tiny"}]}')


async def answered(*answers: bytes, seconds: float = 60.0, scheme: str = "http", **tls: Any) -> tuple[Any, int]:
    """Ask a server at the start that gives these answers, the last one for ever. -> what came, and the number of requests"""
    asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        request = await reader.read(65536)
        if scheme == "http" and not request.startswith(b"GET"):  # the client tries whether this is https
            writer.close()
            return
        writer.write(answers[min(asked, len(answers) - 1)])
        asked += 1
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, **tls)
    port = listening.sockets[0].getsockname()[1]
    server = Server(f"{scheme}://127.0.0.1:{port}", kind="teacher's server", seconds=60)
    try:
        return await server.ask_at_start("GET", "v1/models", seconds=seconds), asked
    except SodError as error:
        return error, asked
    finally:
        await server.close()
        listening.close()


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (response(PAGE), r"status 200: \(an HTML page with the title 'Sign in'\)\."),
        (response(b"<html></html>"), r"status 200: \(an HTML page\)\."),
        (response(b"It works!"), r"status 200: It works!\."),
        (response(b""), r"status 200: \(an empty response\)\."),
        (response(b'\xff\xfe{"data"'), "status 200: "),
        (response(b"[" * 100_000), r"status 200: \[\[\["),
        (response(b"none", "200 OK", "Content-Encoding: gzip"), "bytes that cannot be read"),
    ],
    ids=["login", "page", "text", "empty", "bytes", "deep", "compressed"],
)
def test_another_program_at_the_address_is_refused_with_what_it_returned(answer: bytes, shown: str) -> None:
    error, asked = asyncio.run(answered(answer))
    assert isinstance(error, OptionError)
    with pytest.raises(OptionError, match=f"{shown}.* another program is at this address"):
        raise error
    assert asked == 1
    assert len(str(error)) < 700


@pytest.mark.parametrize("answer", [response(PAGE, "503 Service Unavailable"), response(PAGE, "502 Bad Gateway"), b""])
def test_a_server_that_starts_behind_a_proxy_is_waited_for(answer: bytes) -> None:
    assert asyncio.run(answered(answer, MODELS)) == ({"data": [{"id": "tiny"}]}, 2)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:8001",
        "localhost:8001",
        "ftp://127.0.0.1",
        "http://",
        "http://:80",
        "http://127.0.0.1:99999",
        "http://[::1",
        "http://127.0.0.1 :80",
        "http://127.0.0.1:port",
    ],
)
def test_what_is_no_address_is_refused_with_the_form_of_one(url: str) -> None:
    with pytest.raises(OptionError, match=r"is not a valid address of a server: .*\. Write http://HOST:PORT"):
        Server(url, kind="server", seconds=1)


def test_a_password_in_an_address_is_in_no_message() -> None:
    assert (
        str(Server("http://me:secret@127.0.0.1:9/v1", kind="server", seconds=1)) == "The server at http://127.0.0.1:9"
    )


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key in the same file."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("certificate")
    files = ["-keyout", folder / "key.pem", "-out", folder / "certificate.pem"]
    name = ["-subj", "/CN=teacher", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *files, *name], check=True)
    return folder


def test_a_certificate_that_is_not_trusted_is_refused_at_once_and_trusted_when_it_is_given(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate / "certificate.pem", certificate / "key.pem")
    monkeypatch.delenv(CERTIFICATES, raising=False)
    error, asked = asyncio.run(answered(MODELS, scheme="https", ssl=tls))
    assert isinstance(error, OptionError)
    assert "has a certificate that this machine does not trust" in str(error)
    assert f"Give a file with its certificate in {CERTIFICATES}" in str(error)
    assert asked == 0
    monkeypatch.setenv(CERTIFICATES, str(certificate / "certificate.pem"))
    assert asyncio.run(answered(MODELS, scheme="https", ssl=tls)) == ({"data": [{"id": "tiny"}]}, 1)
    monkeypatch.setenv(CERTIFICATES, str(certificate / "missing.pem"))
    with pytest.raises(OptionError, match="cannot be read"):
        Server("https://127.0.0.1", kind="server", seconds=1)


def test_http_to_a_server_with_https_is_refused_at_once(certificate: Path) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate / "certificate.pem", certificate / "key.pem")
    error, _ = asyncio.run(answered(MODELS, ssl=tls))
    assert isinstance(error, OptionError)
    assert "The server uses https. Give its address with https://." in str(error)


def test_https_to_a_server_without_it_is_refused_at_once() -> None:
    error, _ = asyncio.run(answered(MODELS, scheme="https"))
    assert isinstance(error, OptionError)
    assert "does not use https" in str(error)


def test_a_server_that_never_starts_is_awaited_no_longer_than_allowed() -> None:
    error, _ = asyncio.run(answered(response(b"", "503 Service Unavailable"), seconds=0.1))
    assert isinstance(error, InfrastructureError)
    assert "It gave no usable answer within 0.1 s." in str(error)


# Responses whose parts are something else


class Model:
    """What a dialect reads of the served model."""

    name = "tiny"

    def __str__(self) -> str:
        return "The teacher's server"


IDS = [1, 2, 3, 4]
ANSWERS: dict[str, Any] = {
    "vllm": {
        "choices": [
            {"finish_reason": "length", "prompt_logprobs": [None, *({str(id): {"logprob": -1.0}} for id in IDS[1:])]}
        ],
        "usage": {"prompt_tokens_details": {"cached_tokens": 1}},
    },
    "sglang": {
        "meta_info": {
            "input_token_logprobs": [[None, 1, None], *([-1.0, id, None] for id in IDS[1:])],
            "cached_tokens": 1,
            "finish_reason": {"type": "length"},
        }
    },
    "openai": {
        "choices": [
            {"logprobs": {"tokens": [f"token_id:{id}" for id in IDS], "token_logprobs": [None, -1.0, -1.0, -1.0]}}
        ],
        "usage": {"prompt_tokens": 4},
    },
    "llamacpp": {
        "completion_probabilities": [{"top_logprobs": [{"id": 2, "logprob": -1.0}, {"id": 3, "logprob": -2.0}]}],
        "tokens_evaluated": 1,
        "timings": {"cache_n": 0},
    },
}
ODD = (None, "x", "", [], {}, [None], [[]], [{}], {"a": 1}, -1, 0, 10**400, True, 5000.0, float("nan"), float("inf"))


def changed(answer: Any) -> Iterator[Any]:
    """Yield the answer with each of its parts replaced by each odd value, and without it."""
    yield from ODD
    if not isinstance(answer, dict | list):
        return
    for key in answer if isinstance(answer, dict) else range(len(answer)):
        for part in changed(answer[key]):
            other = copy.copy(answer)
            other[key] = part
            yield other
        without = copy.copy(answer)
        del without[key]
        yield without


@pytest.mark.parametrize("kind", ANSWERS)
def test_an_odd_part_of_a_response_is_read_or_refused_in_a_line(kind: str, tokenizer: Tokenizer) -> None:
    assert ANSWERS.keys() == DIALECTS.keys()
    model: Any = Model()
    read, words = 0, list[str]()
    for answer in changed(ANSWERS[kind]):

        async def ask(_body: Any, answer: Any = answer) -> Any:
            return answer

        dialect = DIALECTS[kind](model, tokenizer, 2)
        try:
            row = asyncio.run(dialect.row(ask, IDS, [1] if kind == "llamacpp" else [1, 2, 3]))
        except SodError as error:
            words.append(str(error))
            continue
        assert len(row.logprobs) == len(IDS)
        assert 0 <= row.cached < 2**31
        read += 1
    assert read > 20
    assert len(words) > 20
    assert max(map(len, words)) < 700


@pytest.fixture(scope="module")
def model(teacher: Path) -> PreTrainedModel:
    return load_model(teacher, CPU)


@pytest.mark.parametrize(
    "models", [["tiny"], [{"name": "tiny"}], [None], [{"id": "tiny", "max_model_len": "8k"}], [{"id": None}]]
)
def test_an_odd_list_of_models_is_read_or_refused_in_a_line(
    model: PreTrainedModel, teacher: Path, tokenizer: Tokenizer, models: list[Any]
) -> None:
    server = Serving(model, tokenizer)
    server.models = models
    if isinstance(models[0], dict) and "id" in models[0]:
        with_teacher(server, teacher, tokenizer)
        return
    with pytest.raises(OptionError, match="does not list its models"):
        with_teacher(server, teacher, tokenizer)


class OddProps(Other):
    """llama.cpp's server with other properties."""

    props: Any = None

    async def _answer(self, path: str, body: Any, trouble: str) -> tuple[int, Any]:
        return (200, self.props) if path == "/props" else await super()._answer(path, body, trouble)


@pytest.mark.parametrize("slots", [0, -1, "2", None])
def test_a_server_of_llamacpp_without_slots_is_refused(
    model: PreTrainedModel, teacher: Path, tokenizer: Tokenizer, slots: object
) -> None:
    server = OddProps(model, tokenizer, "llamacpp")
    server.props = {"total_slots": slots, "default_generation_settings": None}
    with pytest.raises(OptionError, match="has no /props with total_slots"):
        with_teacher(server, teacher, tokenizer, teacher_server="llamacpp")


def test_a_server_of_llamacpp_needs_no_settings_beside_its_slots(
    model: PreTrainedModel, teacher: Path, tokenizer: Tokenizer
) -> None:
    server = OddProps(model, tokenizer, "llamacpp")
    server.props = {"total_slots": 1, "default_generation_settings": None}
    with_teacher(server, teacher, tokenizer, teacher_top=100_000)
