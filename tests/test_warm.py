"""Commands that are forked from a warm server: output, status, environment, signals; a server that is gone."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from sod.config.recipes import to_toml
from sod.errors import EXIT_TRY_AGAIN, EXIT_USAGE
from sod.processes import warm
from sod.processes.warm import can_start_warm, start_warm

pytestmark = [
    pytest.mark.skipif(not can_start_warm(), reason="commands start cold here: no Linux, or an accelerator"),
    pytest.mark.usefixtures("warm_commands"),  # the server, too, is forked
]


def run(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(asyncio.wait_for(work(), 300))


async def finished(*words: str, **environment: str) -> tuple[int, str]:
    command = await start_warm(words, os.environ | environment)
    output = await command.stdout.read()
    return await command.wait(), output.decode()


def test_a_command_has_its_own_output_status_environment_and_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    async def work() -> None:
        wide, narrow, wrong = await asyncio.gather(
            finished("runs", "--help", COLUMNS="100"),
            finished("runs", "--help", COLUMNS="50"),
            finished("runs", "--no"),
        )
        assert wide[0] == narrow[0] == 0
        assert max(map(len, narrow[1].splitlines())) <= 50 < max(map(len, wide[1].splitlines())) <= 100
        assert wrong[0] == EXIT_USAGE
        assert "--no" in wrong[1]
        (tmp_path / "rows.jsonl").write_text("not a row\n")
        assert "rows.jsonl" in (await finished("data", "check", "rows.jsonl"))[1]

    run(work)


def test_sigterm_ends_a_command_as_any_other(untrained: Path, problem_file: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "eval.toml"
    recipe.write_text(to_toml({"model": untrained, "data": problem_file, "samples": 500, "out": tmp_path / "eval"}))

    async def work() -> None:
        command = await start_warm(["eval", str(recipe)], os.environ)
        while not (tmp_path / "eval").exists():
            await asyncio.sleep(0.05)
        command.terminate()
        output = (await command.stdout.read()).decode()
        assert await command.wait() == EXIT_TRY_AGAIN
        assert "ended by SIGTERM" in output
        assert command.returncode == EXIT_TRY_AGAIN

    run(work)


def test_a_killed_server_is_replaced() -> None:
    async def work() -> None:
        assert (await finished("--version"))[0] == 0
        server = warm.servers[os.environ.get("OMP_NUM_THREADS")]
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        assert (await finished("--version"))[0] == 0

    run(work)


KILLED = """
import asyncio, os, signal
from sod.processes.warm import WarmServer

async def work():
    server = WarmServer(os.environ)
    command = await server.start(["--version"], os.environ)
    print(server.process.pid, await command.wait(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(work())
"""


def test_a_server_ends_when_the_process_that_started_it_is_killed() -> None:
    """Its server starts cold, as for a user."""
    killed = subprocess.run([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    number, status = killed.stdout.split()
    assert status == "0"
    server, deadline = Path(f"/proc/{number}/cmdline"), time.monotonic() + 120
    while (found := _read(server)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not found


def test_a_command_is_told_to_end_when_its_server_has_ended() -> None:
    code = (
        "import os, sys, time; from sod.processes.warm import end_with; server = os.getpid()\n"
        "if os.fork() == 0:\n end_with(server); print(os.getpid(), flush=True); time.sleep(600)\n"
        "sys.stdin.read(); os._exit(0)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        command = Path(f"/proc/{int(server.stdout.readline())}/cmdline")
        assert _read(command)
        server.stdin.close()
        assert server.stdout.read() == b""  # the command held it open, too
    deadline = time.monotonic() + 60
    while (found := _read(command)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not found


def _read(file: Path) -> bytes:
    """Return the words of a process; b"" once it has ended."""
    try:
        return file.read_bytes()
    except OSError:
        return b""
