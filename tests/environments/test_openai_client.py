"""The official client of OpenAI's API and the OpenAI Agents SDK, with `served:` and with `sod serve`."""

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from outside import ADD, attempt_of, conversations
from playing import REASON

from sod.chat.format import ChatFormat
from sod.types import Problem

openai = pytest.importorskip("openai", reason=REASON)

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
BOTH = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'
ANSWER = r"It is \boxed{3}."
SHAPE = ["prompt", "student", "tool", "student"]


def converses(url: str, *, stream: bool) -> list[Any]:
    """Let the student call a tool and answer. -> the usage of both requests"""
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        return _converse(client, stream=stream)


def _converse(client: Any, *, stream: bool) -> list[Any]:
    messages: list[Any] = [{"role": "system", "content": "Add."}, {"role": "user", "content": "1+2?"}]
    usages: list[Any] = []
    for _ in range(2):
        asked = {"model": "student", "messages": messages, "tools": [ADD]}
        if stream:
            with client.chat.completions.stream(**asked, stream_options={"include_usage": True}) as events:
                completion = events.get_final_completion()
        else:
            completion = client.chat.completions.create(**asked)
        message = completion.choices[0].message
        usages.append(completion.usage)
        messages.append(message.model_dump(exclude_none=True, exclude={"parsed"}))
        for call in message.tool_calls or ():
            assert json.loads(call.function.arguments) == {"a": 1}
            messages.append({"role": "tool", "tool_call_id": call.id, "content": "3"})
    assert message.content == ANSWER
    return usages


def plain(problem: Problem, url: str) -> None:
    converses(url, stream=False)


def streams(problem: Problem, url: str) -> None:
    converses(url, stream=True)


async def by_the_agents_sdk(url: str) -> str:
    agents = pytest.importorskip("agents", reason=REASON)

    @agents.function_tool
    def add(a: int, b: int) -> str:
        """Add two numbers."""
        return str(a + b)

    agents.set_tracing_disabled(True)
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        model = agents.OpenAIChatCompletionsModel("student", client)
        agent = agents.Agent(name="adder", instructions="Add.", tools=[add], model=model)
        return (await agents.Runner.run(agent, "What is 1+2?")).final_output


async def sdk(problem: Problem, url: str) -> None:
    await by_the_agents_sdk(url)


@pytest.mark.parametrize(("agent", "call"), [("plain", CALL), ("streams", CALL), ("sdk", BOTH)])
def test_as_an_agent_of_a_run(chat: ChatFormat, agent: str, call: str) -> None:
    attempt = attempt_of(chat, Path(__file__), agent, call, ANSWER)
    assert [piece.author for piece in attempt.pieces] == SHAPE
    assert list(attempt.pieces[2].tokens) == chat.observation(["3"], ["add"])
    assert attempt.judged.is_right


@pytest.mark.parametrize("stream", [False, True])
def test_as_a_client_of_the_server(chat: ChatFormat, tmp_path: Path, stream: bool) -> None:
    usages: list[Any] = []
    (row,) = conversations(
        chat, tmp_path / "rows", lambda url: usages.extend(converses(f"{url}/sum/v1", stream=stream)), CALL, ANSWER
    )
    assert [piece["author"] for piece in row["pieces"]] == SHAPE
    assert row["correct"]
    lengths = [len(piece["tokens"]) for piece in row["pieces"]]
    assert [(usage.prompt_tokens, usage.completion_tokens) for usage in usages] == [
        (lengths[0], lengths[1]),
        (sum(lengths[:3]), lengths[3]),
    ]


def test_the_agents_sdk_as_a_client_of_the_server(chat: ChatFormat, tmp_path: Path) -> None:
    (row,) = conversations(
        chat,
        tmp_path / "rows",
        lambda url: asyncio.run(by_the_agents_sdk(f"{url}/sum/v1")),
        BOTH,
        ANSWER,
    )
    assert [piece["author"] for piece in row["pieces"]] == SHAPE
    assert row["pieces"][2]["tokens"] == chat.observation(["3"], ["add"])
    assert row["correct"]


def test_a_refusal_is_an_error_of_the_client(chat: ChatFormat, tmp_path: Path) -> None:
    def talk(url: str) -> None:
        with openai.OpenAI(base_url=f"{url}/x/v1", api_key="none", max_retries=0) as client:
            ask = partial(client.chat.completions.create, model="student")
            said = ask(messages=[{"role": "user", "content": "One."}]).choices[0].message
            with pytest.raises(openai.BadRequestError, match="message 1 is another one"):
                ask(messages=[{"role": "user", "content": "Two."}, said, {"role": "user", "content": "Three."}])

    assert len(conversations(chat, tmp_path / "rows", talk, "a")) == 1
