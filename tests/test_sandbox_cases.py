"""Programs that a sandbox must survive, and what must come of each: `golden/sandbox_cases.jsonl`.

Each runs as a program of its own, and again as the first program of a session. All run in one sandbox, several at a time, before
the first test looks at a result. In their code, @@SECRET@@ is a file of the host, @@OUTSIDE@@ its directory, @@CANARY@@ a
process, @@PORT@@ a listening socket and @@MARK@@ a word that stands in the file and in the environments of the trainer and of
the process.

A case may expect: `status` (one of these), `exit_code`, `signal`, `stdout`, `stdout_bytes`, `max_memory_mb`, what stdout
and stderr hold (`_has`) and do not hold (`_hasnt`), and what is still true of the host. It may run twice, with the same
output, or beside another program. One that names system calls by number is for one `machine`.
"""

import asyncio
import contextlib
import json
import os
import secrets
import socket
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from confining import needs_confinement

from sod.sandbox import Program, Result
from sod.sandbox.local import LocalSandbox

pytestmark = needs_confinement

CASES: list[dict[str, Any]] = [
    case
    for line in Path(__file__).with_name("golden").joinpath("sandbox_cases.jsonl").read_text().splitlines()
    if (case := json.loads(line)).get("machine", os.uname().machine) == os.uname().machine
]
NAMES = [case["name"] for case in CASES]
NOT_IN_A_SESSION = {
    "del_order": "variables live on",
    "gen_close": "variables live on",
    "fd_3_and_above_are_closed": "a session has two descriptors of its own",
}
AT_ONCE = 4
SECONDS, SECONDS_TO_A_TIMEOUT = 30.0, 2.0
"""A program that is not expected to time out gets more than a busy machine could need."""


class Host:
    """What programs might harm, and whether it is unharmed."""

    def __init__(self, folder: Path) -> None:
        self.mark = "mark" + secrets.token_hex(8)
        self.folder = folder
        self.canary = subprocess.Popen(["sleep", "600"], env={"KEY": self.mark, "PATH": os.environ["PATH"]})
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)

    def close(self) -> None:
        self.canary.kill()
        self.canary.wait()
        self.listener.close()

    def outside(self, case: dict[str, Any]) -> Path:
        return self.folder / case["name"]

    def prepare(self, case: dict[str, Any]) -> None:
        self.outside(case).mkdir()
        secret = self.outside(case) / "secret.txt"
        secret.write_text(self.mark)
        secret.chmod(0o644)

    def fill(self, case: dict[str, Any], text: str) -> str:
        outside = self.outside(case)
        values = {"SECRET": outside / "secret.txt", "OUTSIDE": outside, "CANARY": self.canary.pid, "MARK": self.mark}
        for name, value in (values | {"PORT": self.listener.getsockname()[1]}).items():
            text = text.replace(f"@@{name}@@", str(value))
        return text

    def holds(self, condition: str, case: dict[str, Any]) -> bool:
        secret = self.outside(case) / "secret.txt"
        if condition == "canary_alive":
            return self.canary.poll() is None
        if condition == "secret_file_intact":
            return secret.exists() and secret.read_text() == self.mark and secret.stat().st_mode & 0o777 == 0o644
        if condition == "outside_untouched":
            return list(self.outside(case).iterdir()) == [secret]
        assert condition == "no_connection"
        try:
            self.listener.accept()
        except BlockingIOError:
            return True
        return False


@dataclass(frozen=True)
class Outcome:
    result: Result
    second: Result | None
    broken: list[str]
    """What was expected of the host and did not hold, right after the program."""


@dataclass(frozen=True)
class Survey:
    outcomes: dict[str, Outcome]
    host: Host
    directories: list[Path]
    """Working directories that are still there."""
    processes: int
    """Those of the sandbox, with all programs ended."""


def make_program(case: dict[str, Any], host: Host) -> Program:
    return Program(
        code=host.fill(case, case["code"]),
        stdin=case.get("stdin", "") * case.get("stdin_times", 1),
        files=case.get("files", {}),
        seconds=SECONDS_TO_A_TIMEOUT if "timeout" in case["expect"]["status"] else SECONDS,
        memory_mb=1024,
        disk_mb=32,
        max_files=200,
    )


Run = Callable[[LocalSandbox, Program], Awaitable[Result]]


async def alone(sandbox: LocalSandbox, program: Program) -> Result:
    return await sandbox.run(program)


async def in_a_session(sandbox: LocalSandbox, program: Program) -> Result:
    session = sandbox.session(600.0)
    try:
        return await session.run(program)
    finally:
        await session.close()


async def run_case(run: Run, sandbox: LocalSandbox, case: dict[str, Any], host: Host) -> Outcome:
    host.prepare(case)
    program = make_program(case, host)
    beside = asyncio.create_task(run(sandbox, Program(code=case.get("beside", ""))))
    result = await run(sandbox, program)
    second = await run(sandbox, program) if case.get("twice") else None
    broken = [condition for condition in case["expect"].get("host", []) if not host.holds(condition, case)]
    await beside
    return Outcome(result, second, broken)


async def run_all(run: Run, host: Host, temporary: Path) -> Survey:
    free = asyncio.Semaphore(AT_ONCE)

    async def one(case: dict[str, Any]) -> Outcome:
        async with free:
            return await run_case(run, sandbox, case, host)

    async with LocalSandbox(workers=2 * AT_ONCE) as sandbox:
        outcomes = await asyncio.gather(*map(one, CASES))
        [root] = temporary.iterdir()
        return Survey(dict(zip(NAMES, outcomes, strict=True)), host, list(root.iterdir()), processes_naming(root))


def processes_naming(path: Path) -> int:
    """How many processes name the path in their command line."""
    found = 0
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            found += str(path) in line.read_text()
    return found


@pytest.fixture(scope="module", params=[alone, pytest.param(in_a_session, marks=pytest.mark.slow)])
def survey(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Survey]:
    host = Host(tmp_path_factory.mktemp("host"))
    temporary = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(temporary))
        patch.setenv("SANDBOX_CANARY_API_KEY", host.mark)
        yield asyncio.run(run_all(request.param, host, temporary))
    host.close()


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_a_program_ends_as_expected(case: dict[str, Any], survey: Survey, request: pytest.FixtureRequest) -> None:
    if request.node.callspec.params["survey"] is in_a_session and case["name"] in NOT_IN_A_SESSION:
        pytest.skip(NOT_IN_A_SESSION[case["name"]])
    outcome, expected = survey.outcomes[case["name"]], case["expect"]
    result = outcome.result
    assert result.status in expected["status"], result
    for exact in ("exit_code", "signal", "stdout", "stdout_bytes"):
        if exact in expected:
            assert getattr(result, exact) == expected[exact], result
    for stream in ("stdout", "stderr"):
        for text in expected.get(f"{stream}_has", []):
            assert survey.host.fill(case, text) in getattr(result, stream), result
        for text in expected.get(f"{stream}_hasnt", []):
            assert survey.host.fill(case, text) not in getattr(result, stream), result
    assert result.memory_mb <= expected.get("max_memory_mb", result.memory_mb)
    assert outcome.broken == []
    assert outcome.second is None or outcome.second.stdout == result.stdout


def test_after_all_of_them_no_directory_and_no_process_is_left(survey: Survey) -> None:
    assert survey.directories == []
    assert survey.processes == 1  # the zygote
