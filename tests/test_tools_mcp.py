"""Tools of MCP servers, against real servers made with the official SDK (`mcp_server.py`)."""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from sod.config import ToolOptions
from sod.errors import InfrastructureError, OptionError
from sod.tools import Toolbox
from sod.tools.mcp import McpTool, mcp_tools
from sod.types import Observation, Problem, ToolCall

pytest.importorskip("mcp", reason="mcp is not installed: pip install '.[mcp]'")

SERVER = Path(__file__).with_name("mcp_server.py")
COMMAND = f"{sys.executable} {SERVER}"
PROBLEM = Problem(id="p", messages=({"role": "user", "content": "?"},), answer="1")


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 100))


def call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(name=name, arguments=arguments)


async def answers(toolbox: Toolbox, *calls: ToolCall) -> list[Observation]:
    return [(await toolbox.answer([each]))[0] for each in calls]


async def in_attempts(tools: list[McpTool], *attempts: list[ToolCall]) -> list[list[str]]:
    """The texts of each attempt; of a failed one, the failure."""
    toolbox = Toolbox(tools)
    texts: list[list[str]] = []
    for calls in attempts:
        opened = await toolbox.open(PROBLEM, 0)
        try:
            texts.append([observation.text for observation in await answers(opened, *calls)])
        except InfrastructureError as error:
            texts.append([f"InfrastructureError: {error}"])
        finally:
            await opened.close()
    for tool in tools:
        if tool.server.current is not None:
            await tool.server.current.close()
    return texts


@pytest.fixture(scope="module")
def tools() -> list[McpTool]:
    return mcp_tools(ToolOptions(mcp=(COMMAND,), seconds=20.0))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, SERVER, "http", str(port)], stderr=subprocess.DEVNULL)
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            time.sleep(0.1)
    yield f"http://127.0.0.1:{port}/mcp"
    process.kill()
    process.wait()


def test_tools_are_listed_with_their_schemas(tools: list[McpTool]) -> None:
    assert [tool.name for tool in tools] == ["add", "broken", "count", "slow", "die"]
    function = tools[0].schema["function"]
    assert function["description"] == "Adds two whole numbers."
    assert function["parameters"]["properties"]["first"]["type"] == "integer"
    assert function["parameters"]["required"] == ["first", "second"]


def test_a_call_is_answered_and_a_tool_s_own_error_is_text(tools: list[McpTool]) -> None:
    async def work() -> list[Observation]:
        toolbox = Toolbox(tools)
        found = await answers(
            toolbox, call("add", first=1, second=2), call("broken", text="x"), call("add", first="a", second=1)
        )
        await tools[0].server.current.close()  # type: ignore[union-attr]
        return found

    added, broken, wrong = run(work())
    assert (added.text, added.outcome) == ("3", "ok")
    assert ("no x" in broken.text, broken.outcome) == (True, "error")
    assert wrong.outcome == "wrong_arguments"


@pytest.mark.slow
def test_a_shared_session_keeps_state_across_attempts_and_a_dead_server_is_started_again(tools: list[McpTool]) -> None:
    counting = [call("count"), call("count")]
    texts = run(in_attempts(tools, counting, counting, [call("die")], counting))
    assert texts[0] + texts[1] == ["1", "2", "3", "4"]
    assert "has failed: the server was told to die." in texts[2][0]
    assert texts[3] == ["1", "2"]


@pytest.mark.slow
def test_a_session_of_each_trajectory_shares_nothing() -> None:
    own = mcp_tools(ToolOptions(mcp=(COMMAND,), mcp_session="trajectory", seconds=20.0, mcp_only=("count", "add")))
    assert Toolbox(own).has_state
    counting = [call("count"), call("add", first=1, second=1), call("count")]
    assert run(in_attempts(own, counting, counting)) == [["1", "2", "2"], ["1", "2", "2"]]


def test_a_call_has_a_deadline(tools: list[McpTool]) -> None:
    short = [McpTool(tool.server, tool.schema, ToolOptions(seconds=0.5)) for tool in tools]
    texts = run(in_attempts(short, [call("slow", seconds=30)]))
    assert texts == [["[stopped: longer than 0.5 s]"]]


@pytest.mark.slow
def test_a_server_at_an_address_answers_sixteen_calls_at_once(url: str) -> None:
    remote = mcp_tools(ToolOptions(mcp=(url,), mcp_only=("add",)))

    async def work() -> list[str]:
        toolbox = Toolbox(remote)
        found = await toolbox.answer([call("add", first=number, second=1) for number in range(16)])
        await remote[0].server.current.close()  # type: ignore[union-attr]
        return [observation.text for observation in found]

    assert run(work()) == [str(number + 1) for number in range(16)]


@pytest.mark.slow
def test_a_server_that_changes_its_tools_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = tmp_path / "names"
    names.write_text("old")
    monkeypatch.setenv("MCP_TOOLS", str(names))
    changing = mcp_tools(ToolOptions(mcp=(COMMAND,)))
    names.write_text("new")
    texts = run(in_attempts(changing, [call("old", first=1, second=1)]))
    assert texts[0][0].endswith("has changed its tools during the run: gone: old; new: new.")


@pytest.mark.parametrize(
    ("address", "cause"),
    [
        ("no-such-program", "does not start: FileNotFoundError"),
        (f"{sys.executable} -c 'import no_such_module'", "does not start: ModuleNotFoundError"),
        ("http://127.0.0.1:9/mcp", "does not start: ConnectError"),
        ("'", "is not a command"),
        (" ", "an empty command was given"),
    ],
)
def test_a_server_that_does_not_start_is_one_sentence(address: str, cause: str) -> None:
    with pytest.raises(OptionError, match=cause) as caught:
        mcp_tools(ToolOptions(mcp=(address,)))
    assert "\n" not in str(caught.value)


def test_an_unknown_name_and_two_tools_of_one_name_are_refused(tools: list[McpTool]) -> None:
    with pytest.raises(OptionError, match="names none, which no server offers"):
        mcp_tools(ToolOptions(mcp=(COMMAND,), mcp_only=("none",)))
    with pytest.raises(OptionError, match="There are two tools called 'add'"):
        Toolbox([*tools, *tools])
