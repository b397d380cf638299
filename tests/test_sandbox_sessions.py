"""Sessions of the local sandbox: what lives on between programs, what ends a session, and what never leaks."""

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from confining import CONFINABLE

from sod.config import SandboxOptions
from sod.errors import OptionError
from sod.sandbox import Program, Result, Session
from sod.sandbox.local import LocalSandbox
from sod.sandbox.retries import GuardedSandbox
from sod.sandbox.sessions import KEPT, NOTHING_KEPT

Work = Callable[[LocalSandbox], Coroutine[Any, Any, Any]]


class Shared:
    """One sandbox for most tests, because starting one takes a second."""

    runner: asyncio.Runner
    sandbox: LocalSandbox


@pytest.fixture(scope="module", autouse=True)
def shared() -> Iterator[None]:
    with asyncio.Runner() as Shared.runner:
        Shared.sandbox = LocalSandbox(workers=4, unsafe=not CONFINABLE)
        yield
        Shared.runner.run(Shared.sandbox.close())


def in_a_sandbox(work: Work, *, unsafe: bool | None = None) -> Any:
    """Run the work in the shared sandbox; in one of its own if `unsafe` is given."""

    async def alone() -> Any:
        async with LocalSandbox(workers=4, unsafe=bool(unsafe)) as sandbox:
            return await work(sandbox)

    return Shared.runner.run(asyncio.wait_for(work(Shared.sandbox) if unsafe is None else alone(), 120))


def program(code: str, **limits: Any) -> Program:
    return Program(code=code, **{"show_last_value": True, "seconds": 20.0, "memory_mb": 1024, **limits})


def session_of(*codes: str | Program, seconds: float = 100.0, unsafe: bool | None = None) -> list[Result]:
    """Run the programs one after another in one session."""

    async def work(sandbox: LocalSandbox) -> list[Result]:
        session = sandbox.session(seconds)
        try:
            return [await session.run(program(code) if isinstance(code, str) else code) for code in codes]
        finally:
            await session.close()

    return in_a_sandbox(work, unsafe=unsafe)


def outputs(*codes: str | Program) -> list[str]:
    return [result.stdout for result in session_of(*codes)]


# What lives on


def test_variables_imports_files_and_the_directory_live_on() -> None:
    assert outputs(
        "import math, os\nx = 3", "math.floor(x + 0.5)", "_ = open('a', 'w').write('kept')", "open('a').read()"
    ) == ["", "3\n", "", "'kept'\n"]
    assert outputs("import os\nos.mkdir('d')\nos.chdir('d')", "os.path.basename(os.getcwd())") == ["", "'d'\n"]


def test_an_error_keeps_the_state_and_its_traceback_shows_lines_of_earlier_programs() -> None:
    _, error, after = session_of("def half(n):\n    return 1 / n", "x = 1\nhalf(0)", "x")
    assert (error.status, error.session) == ("error", "")
    assert 'File "<program 2>", line 2, in <module>\n    half(0)' in error.stderr
    assert 'File "<program>", line 2, in half\n    return 1 / n' in error.stderr
    assert after.stdout == "1\n"


def test_exit_codes_are_those_of_programs_and_the_session_goes_on() -> None:
    results = session_of("x = 1\nimport sys; sys.exit(3)", "raise SystemExit('stop')", "def f(:", "x")
    assert [(result.status, result.exit_code) for result in results] == [
        ("error", 3), ("error", 1), ("error", 1), ("ok", 0)
    ]  # fmt: skip
    assert not any(result.session for result in results)


def test_exit_functions_and_threads_of_a_program_end_with_its_call() -> None:
    code = (
        "import atexit, threading\natexit.register(print, 'bye')\nthreading.Thread(target=print, args=('t',)).start()"
    )
    assert outputs(code, "1") == ["t\nbye\n", "1\n"]


def test_an_idle_thread_pool_does_not_hold_the_call() -> None:
    code = "from concurrent.futures import ThreadPoolExecutor as P\np = P(2)\nsum(p.map(abs, [-1, 2]))"
    assert outputs(code, "p.submit(abs, -3).result()") == ["3\n", "3\n"]


def test_threads_do_not_run_between_calls() -> None:
    async def work(sandbox: LocalSandbox) -> tuple[int, int]:
        session = sandbox.session(100.0)
        loop = "import threading\nn = 0\ndef f():\n    global n\n    while True: n += 1\n"
        await session.run(program(loop + "threading.Thread(target=f, daemon=True).start()"))
        before = await session.run(program("n"))
        await asyncio.sleep(0.5)
        after = await session.run(program("m = n\nm"))
        free = await session.run(program("import time\ntime.sleep(0.5)\nn - m"))
        await session.close()
        return int(after.stdout) - int(before.stdout), int(free.stdout)

    paused, running = in_a_sandbox(work)
    assert paused < running


def test_a_replaced_or_closed_output_is_restored_for_the_next_call() -> None:
    codes = [
        "import io, sys\nsys.stdout = io.StringIO()\nprint('lost')",
        "1",
        "import os\nos.close(1)",
        "2",
        "sys.stdin.read()",
    ]
    assert outputs(*codes) == ["", "1\n", "", "2\n", "''\n"]


def test_a_timer_does_not_outlive_its_call() -> None:
    results = session_of("import signal\nx = signal.setitimer(signal.ITIMER_REAL, 0.3)", "import time\ntime.sleep(0.6)")
    assert [result.status for result in results] == ["ok", "ok"]


def test_output_is_counted_and_cut_for_each_call() -> None:
    long, short = session_of(program("print('x' * 100_000)", output_bytes=100), program("print('y')", output_bytes=100))
    assert long.stdout_bytes == 100_001
    assert "omitted" in long.stdout
    assert (short.stdout, short.stdout_bytes) == ("y\n", 2)


# What ends a session


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("import os\nos._exit(4)", "error"),
        ("import os\nos.abort()", "signal"),
        ("import ctypes\nctypes.string_at(0)", "signal"),
        (program("while True: pass", seconds=0.3), "timeout"),
        ("while True: print('x' * 100_000)", "output_limit"),
        ("import os\nos.closerange(3, 100)", "ok"),
    ],
)
def test_a_program_that_ends_the_process_loses_variables_and_keeps_files(code: str | Program, status: str) -> None:
    _, ending, after, files = session_of("x = 1\n_ = open('a', 'w').write('kept')", code, "x", "open('a').read()")
    assert ending.status == status
    assert ending.session == f"The session ended with this call. {KEPT} The next call starts a new session."
    assert "NameError" in after.stderr
    assert (after.session, files.stdout) == ("", "'kept'\n")


def test_too_many_files_are_removed_with_the_session() -> None:
    code = "for i in range(30): open(str(i), 'w').close()"
    full, after = session_of(program(code, max_files=20), "import os\nos.listdir()")
    assert full.status == "disk_limit"
    assert NOTHING_KEPT in full.session
    assert after.stdout == "[]\n"


def test_a_memory_error_keeps_the_session_and_its_limit() -> None:
    first, second, third = session_of("x = 1\nbytearray(8 << 30)", "bytearray(8 << 30)", "x")
    assert ["MemoryError" in result.stderr for result in (first, second)] == [True, True]
    assert third.stdout == "1\n"


def test_a_program_that_uses_up_all_descriptors_can_be_followed_by_another() -> None:
    results = session_of("import os\np = []\nwhile True: p.append(os.pipe())", "len(p) > 10")
    assert "Too many open files" in results[0].stderr
    assert results[1].stdout == "True\n"


def test_all_programs_of_a_session_together_have_a_limit() -> None:
    first, second, third = session_of("import time\ntime.sleep(0.6)", "time.sleep(20)", "1", seconds=1.0)
    assert (first.status, second.status) == ("ok", "timeout")
    assert second.session.startswith("The session ended at its limit of 1 s of running programs. All variables")
    assert third.stdout == "1\n"


def test_bytes_that_a_program_writes_to_the_channel_are_no_answer() -> None:
    forged = "import os\nfor fd in range(3, 100):\n    try: n = os.write(fd, b'x' * 24)\n    except OSError: pass"
    first, second = session_of(forged + "\nprint('on')", "1")
    assert (first.status, first.stdout, second.stdout) == ("ok", "on\n", "1\n")


def test_a_process_killed_between_calls_is_reported_with_the_next_call() -> None:
    async def work(sandbox: LocalSandbox) -> Result:
        session = sandbox.session(100.0)
        pid = int((await session.run(program("import os\nos.getpid()"))).stdout)
        os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.2)
        result = await session.run(program("1"))
        await session.close()
        return result

    result = in_a_sandbox(work)
    assert (result.status, result.stdout) == ("ok", "1\n")
    assert result.session == f"The session ended between two calls, so this call ran in a new one. {KEPT}"


# What never leaks, and what is left


def test_sessions_do_not_share_anything_and_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    async def one(sandbox: LocalSandbox, number: int) -> list[str]:
        session = sandbox.session(100.0)
        await session.run(program(f"x = {number}\n_ = open('f{number}', 'w').close()"))
        read = await session.run(program("import os\n(x, os.listdir('.'))"))
        await session.close()
        return [read.stdout]

    async def work(sandbox: LocalSandbox) -> tuple[list[list[str]], list[Path]]:
        found = await asyncio.gather(*(one(sandbox, number) for number in range(8)))
        [root] = tmp_path.iterdir()
        return found, list(root.iterdir())

    found, left = in_a_sandbox(work, unsafe=not CONFINABLE)
    assert found == [[f"({number}, ['f{number}'])\n"] for number in range(8)]
    assert left == []


def test_a_cancelled_call_ends_its_process() -> None:
    async def work(sandbox: LocalSandbox) -> bool:
        session = sandbox.session(100.0)
        pid = int((await session.run(program("import os\nos.getpid()"))).stdout)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(session.run(program("while True: pass")), 0.3)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 0)
            return False
        await session.close()
        return True

    assert in_a_sandbox(work)


def test_calls_of_one_turn_run_in_their_order() -> None:
    async def work(sandbox: LocalSandbox) -> list[str]:
        session = sandbox.session(100.0)
        results = await asyncio.gather(*(session.run(program(code)) for code in ("x = 1", "x += 1", "x")))
        await session.close()
        return [result.stdout for result in results]

    assert in_a_sandbox(work) == ["", "", "2\n"]


def test_a_session_survives_without_confinement() -> None:
    assert [result.stdout for result in session_of("x = 2", "x", unsafe=True)] == ["", "2\n"]


def test_copies_stand_in_the_directory_of_a_program_and_of_a_session(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("a,b\n1,2\n")
    copies = {"t.csv": str(table)}

    async def work(sandbox: LocalSandbox) -> list[str]:
        alone = await sandbox.run(program("open('t.csv').read()", copies=copies))
        session = sandbox.session(100.0)
        changed = await session.run(program("open('t.csv', 'a').write('3,4\\n')", copies=copies))
        kept = await session.run(program("open('t.csv').read()", copies=copies))
        await session.close()
        return [alone.stdout, changed.stdout, kept.stdout]

    assert in_a_sandbox(work) == ["'a,b\\n1,2\\n'\n", "4\n", "'a,b\\n1,2\\n3,4\\n'\n"]
    assert table.read_text() == "a,b\n1,2\n"


# Failures of the sandbox


class Lossy:
    """A sandbox that cannot run the programs of the given numbers."""

    def __init__(self, *failing: int):
        self.failing, self.programs, self.closed = failing, 0, 0

    async def run(self, program: Program) -> Result:
        self.programs += 1
        failed = self.programs in self.failing
        return Result(status="sandbox_error" if failed else "ok", stdout="1\n", message="no fork left")

    async def close(self) -> None:
        self.closed += 1

    def session(self, seconds: float) -> Session:
        return self


def test_only_the_first_program_of_a_session_is_retried() -> None:
    async def statuses(*failing: int) -> list[str]:
        guarded = GuardedSandbox(Lossy(*failing), SandboxOptions(retries=2, max_failure_rate=1.0))
        session = guarded.session(10.0)
        return [(await session.run(program("1"))).status for _ in range(2)]

    assert asyncio.run(statuses(1, 2)) == ["ok", "ok"]
    assert asyncio.run(statuses(2)) == ["ok", "sandbox_error"]


def test_a_sandbox_without_sessions_is_refused_in_words() -> None:
    class Stateless:
        async def run(self, program: Program) -> Result:
            raise AssertionError

        async def close(self) -> None: ...

    with pytest.raises(OptionError, match="its servers run each program alone"):
        GuardedSandbox(Stateless(), SandboxOptions()).session(1.0)


def test_a_session_of_a_dead_zygote_is_a_failure_of_the_sandbox() -> None:
    async def work(sandbox: LocalSandbox) -> Result:
        session = sandbox.session(100.0)
        parent = int((await session.run(program("import os\nos.getppid()"))).stdout)
        os.kill(parent, signal.SIGKILL)
        await asyncio.sleep(0.3)
        result = await session.run(program("1"))
        await session.close()
        return result

    result = in_a_sandbox(work)
    assert result.status == "sandbox_error"
    assert "was lost" in result.message
