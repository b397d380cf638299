"""Sessions of the interpreter and calls of MCP tools, against new interpreters and direct calls.

    python benchmarks/environments.py [--sessions 1000] [--at-once 16] [--rounds 3] [--unsafe]

A session is opened, runs one program and is closed. It is timed in turn with `python -I -c` and with a program of its own; the
ratios are of medians. An MCP call of a tool that adds two numbers costs the seconds of all calls divided by their number. The
server is tests/mcp_server.py, on stdin and stdout.
"""

import argparse
import asyncio
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from statistics import median

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


async def mcp_milliseconds(count: int, most: int, rounds: int) -> float:
    """Return the median milliseconds of a call that computes nothing, `most` at a time."""
    [add] = mcp_tools(ToolOptions(mcp=(f"{sys.executable} {SERVER}",), mcp_only=("add",)))

    async def call() -> None:
        assert (await add({"first": 1, "second": 2})).text == "3"

    await call()
    found = [1000 / await at_once(count, most, call) for _ in range(rounds)]
    await (await add.server.shared()).close()
    return median(found)


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
        calls = asyncio.run(mcp_milliseconds(options.sessions, options.at_once, options.rounds))
        figures["ms per MCP call"] = round(calls, 2)
    print(json.dumps({"at_once": options.at_once, "figures": figures}))
    for name, figure in figures.items():
        print(f"{name:24} {figure:10.2f}" + ("" if "/" in name or "ms" in name else " per second"))


if __name__ == "__main__":
    main()
