"""OpenEnv: a real server of it on this machine."""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playing import REASON, play, total

pytest.importorskip("openenv", reason=REASON)

import httpx

from sod.config import ToolOptions
from sod.environments import Opening, Step, Turn
from sod.environments.guarding import GuardedEnvironment
from sod.environments.openenv import OpenEnv
from sod.errors import DataError, InfrastructureError
from sod.types import Problem, ToolCall

SERVER = Path(__file__).with_name("openenv_server.py")


@pytest.fixture
def url() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, str(SERVER), str(port)])
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                httpx.get(f"{address}/schema")
                break
            except httpx.HTTPError:
                time.sleep(0.2)
        yield address
    finally:
        process.kill()
        process.wait()


def act(*numbers: Any) -> Turn:
    return Turn("", tuple(ToolCall(name="act", arguments={"number": number}) for number in numbers))


def bisects(_: Opening, steps: list[Step]) -> Turn:
    low, high = 1, 100
    for step in steps:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if step.observations[0].text == "Higher." else (low, middle - 1)
    return act((low + high) // 2)


def test_a_session_is_played_by_the_servers_own_schema_and_repeats(url: str) -> None:
    first = play(OpenEnv(url), {}, bisects, seed=7)
    opening, steps, verdict = first
    assert first == play(OpenEnv(url), {}, bisects, seed=7)
    function = opening.tools[0]["function"]
    assert (function["name"], function["description"]) == ("act", "Guess the number.")
    assert list(function["parameters"]["properties"]) == ["number"]
    assert verdict.is_right
    assert total(steps) == 1
    assert steps[-1].is_over


def test_a_turn_of_text_fills_a_field_of_the_action(url: str) -> None:
    opening, steps, _ = play(
        OpenEnv(),
        {"url": url, "text_field": "number", "prompt": "Guess."},
        lambda _, steps: Turn("101") if not steps else None,
    )
    assert not opening.tools
    assert steps[0].observations[0].text == "Lower."


def test_an_action_that_the_server_refuses_is_an_error_of_the_student(url: str) -> None:
    def student(_: Opening, steps: list[Step]) -> Turn | None:
        return (act("many"), Turn("five"), act(101, 0))[len(steps)] if len(steps) < 3 else None

    _, steps, _ = play(OpenEnv(url), {}, student)
    assert [[each.outcome for each in step.observations] for step in steps] == [["error"], ["error"], ["ok", "ok"]]


@pytest.mark.parametrize(
    ("number", "words"), [(-1, "step raised RuntimeError: .*negative"), (-2, "step raised"), (-3, "did not return")]
)
def test_a_server_that_raises_dies_or_hangs_is_a_failure_in_words(url: str, number: int, words: str) -> None:
    async def attempt() -> None:
        guarded = GuardedEnvironment(OpenEnv(url), f"openenv:{url}", ToolOptions(), seconds=5)
        await guarded.open(Problem(id="p", messages=(), answer=""), 0)
        try:
            await guarded.answer("", [ToolCall(name="act", arguments={"number": number})], 0)
        finally:
            await guarded.close()

    with pytest.raises(InfrastructureError, match=words):
        asyncio.run(attempt())


def test_a_missing_server_is_a_failure_and_a_missing_address_an_error() -> None:
    with pytest.raises(httpx.ConnectError):
        play(OpenEnv("http://127.0.0.1:9"), {}, bisects)
    with pytest.raises(DataError, match="names no server"):
        play(OpenEnv(), {}, bisects)
