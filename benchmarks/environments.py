"""Sessions of the interpreter and calls of MCP tools, against new interpreters and direct calls.

    python benchmarks/environments.py [--sessions 1000] [--at-once 16] [--rounds 3] [--unsafe]

A session is opened, runs one program and is closed. It is timed in turn with `python -I -c` and with a program of its own; the
ratios are of medians. An MCP call of a tool that adds two numbers is timed from the call to its result, with `--at-once`
calls under way. Its overhead is this time without the time in the SDK's own `call_tool`. The server is tests/mcp_server.py,
on stdin and stdout. Rollouts in a world and with the default environment: benchmarks/rollout.py.
"""

import argparse
import asyncio
import json
import sys
import time
from contextvars import ContextVar
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

from at_once import at_once

from sod.config import ToolOptions
from sod.sandbox import Program
from sod.sandbox.local import LocalSandbox
from sod.tools.mcp import mcp_tools

SERVER = Path(__file__).parents[1] / "tests" / "mcp_server.py"
PROGRAM = Program(code="print(1)", seconds=60.0)


async def by_interpreter() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-c", PROGRAM.code, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    await process.communicate()
    assert process.returncode == 0


async def sessions(count: int, most: int, rounds: int, unsafe: bool) -> dict[str, float]:
    """Return the medians per second: interpreters, programs, sessions, and further programs of one session."""
    rates: dict[str, list[float]] = {"interpreter": [], "program": [], "session": [], "further program": []}
    async with LocalSandbox(workers=most, unsafe=unsafe) as sandbox:
        lasting = sandbox.session(1e6)

        async def alone() -> None:
            assert (await sandbox.run(PROGRAM)).stdout == "1\n"

        async def session() -> None:
            opened = sandbox.session(60.0)
            assert (await opened.run(PROGRAM)).stdout == "1\n"
            await opened.close()

        async def further() -> None:
            assert (await lasting.run(PROGRAM)).stdout == "1\n"

        await alone()
        for _ in range(rounds):
            rates["interpreter"].append(await at_once(max(1, count // 10), most, by_interpreter))
            rates["program"].append(await at_once(count, most, alone))
            rates["session"].append(await at_once(count, most, session))
            rates["further program"].append(await at_once(count, most, further))
        await lasting.close()
    return {name: median(found) for name, found in rates.items()}


class TimedClient:
    """The SDK's client of a session. It adds the seconds of each call to the list of the task that calls."""

    seconds: ClassVar[ContextVar[list[float]]] = ContextVar("seconds")

    def __init__(self, client: Any):
        self._client = client

    async def call_tool(self, name: str, arguments: dict[str, Any]) -> Any:
        start = time.perf_counter()
        try:
            return await self._client.call_tool(name, arguments)
        finally:
            self.seconds.get().append(time.perf_counter() - start)


async def mcp_milliseconds(count: int, most: int) -> tuple[float, float]:
    """Return the median milliseconds of a call that computes nothing, `most` at a time, and those of its overhead."""
    [add] = mcp_tools(ToolOptions(mcp=(f"{sys.executable} {SERVER}",), mcp_only=("add",)))
    connection = await add.server.shared()
    vars(connection)["_client"] = TimedClient(vars(connection)["_client"])
    totals: list[float] = []
    overheads: list[float] = []

    async def call() -> None:
        inside: list[float] = []
        TimedClient.seconds.set(inside)
        start = time.perf_counter()
        assert (await add({"first": 1, "second": 2})).text == "3"
        totals.append(time.perf_counter() - start)
        overheads.append(totals[-1] - sum(inside))

    await at_once(most, most, call)  # warms up
    totals.clear()
    overheads.clear()
    await at_once(count, most, call)
    await connection.close()
    return 1000 * median(totals), 1000 * median(overheads)


def main() -> None:
    parser = argparse.ArgumentParser(description="Sessions and MCP calls")
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--unsafe", action="store_true", help="without confinement")
    options = parser.parse_args()
    rates = asyncio.run(sessions(options.sessions, options.at_once, options.rounds, options.unsafe))
    figures = {name: round(rate, 1) for name, rate in rates.items()}
    figures["session / interpreter"] = round(rates["session"] / rates["interpreter"], 2)
    figures["session / program"] = round(rates["session"] / rates["program"], 2)
    if find_spec("mcp") is not None:
        total, overhead = asyncio.run(mcp_milliseconds(options.sessions, options.at_once))
        figures["ms of an MCP call"] = round(total, 2)
        figures["ms of its overhead"] = round(overhead, 3)
    print(json.dumps({"at_once": options.at_once, "figures": figures}))
    for name, figure in figures.items():
        print(f"{name:24} {figure:10.2f}" + ("" if "/" in name or "ms" in name else " per second"))


if __name__ == "__main__":
    main()
