"""The local sandbox, program by program. Where the kernel cannot confine, all but the walls is tested."""

import asyncio
import contextlib
import errno
import os
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confining import CONFINABLE, needs_confinement
from one_sandbox import OneSandbox

from sod.sandbox import Program, Result, confinement
from sod.sandbox.local import LocalSandbox

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
SANDBOX = OneSandbox()
"""For programs that need no sandbox of their own."""


def teardown_module() -> None:
    SANDBOX.close()


@pytest.fixture
def rooms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory in which the sandboxes of a test make theirs."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def program(code: str, *, stdin: str = "", seconds: float = 10.0, **limits: Any) -> Program:
    return Program(code=textwrap.dedent(code), stdin=stdin, seconds=seconds, **limits)


def open_sandbox(workers: int | None = None, *, unsafe: bool = not CONFINABLE) -> LocalSandbox:
    return LocalSandbox(workers=workers, unsafe=unsafe)


def run_all(*programs: Program, unsafe: bool | None = None) -> list[Result]:
    """All at once, in the shared sandbox; in one of its own if `unsafe` is given."""

    async def work(sandbox: LocalSandbox) -> list[Result]:
        return await asyncio.gather(*map(sandbox.run, programs))

    async def alone(unsafe: bool) -> list[Result]:
        async with open_sandbox(unsafe=unsafe) as sandbox:
            return await work(sandbox)

    return SANDBOX.run(work) if unsafe is None else asyncio.run(alone(unsafe))


def run(code: str, *, stdin: str = "", seconds: float = 10.0, **limits: Any) -> Result:
    return run_all(program(code, stdin=stdin, seconds=seconds, **limits))[0]


def is_alive(pid: int) -> bool:
    """Whether the process is there and not a zombie."""
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        os.kill(pid, 0)
        return sys.platform != "linux" or ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    return False


def processes_naming(text: str) -> list[str]:
    """The command lines in /proc that hold the text."""
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            lines.append(file.read_text())
    return [line for line in lines if text in line]


def soon(condition: Callable[[], bool]) -> bool:
    """Whether it comes true within three seconds."""
    end = time.monotonic() + 3
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


WRITE_PIDS = "import os, time\nprint(os.getppid(), os.getpid(), file=open('pids', 'w', 1))\ntime.sleep(60)"


async def pids_in(rooms: Path) -> tuple[int, int]:
    """The zygote's and the program's, once the program has written them."""
    while True:
        for note in rooms.glob("*/*/pids"):
            if note.read_text().endswith("\n"):
                zygote, pid = map(int, note.read_text().split())
                return zygote, pid
        await asyncio.sleep(0.01)


def finish(work: Coroutine[None, None, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


# What a program does, as Python does it


def test_a_program_reads_its_input_and_prints() -> None:
    result = run("a = input()\nimport sys\nprint(a[::-1], sys.stdin.read().split())", stdin="añ\n1 2\n3")
    assert (result.status, result.stdout, result.stderr) == ("ok", "ña ['1', '2', '3']\n", "")
    assert (result.exit_code, result.signal) == (0, None)
    assert 0 < result.seconds < 5


def test_a_traceback_shows_the_program_and_nothing_of_ours() -> None:
    result = run(
        """
        def half(n):
            return 1 / n
        try:
            half(0)
        except ZeroDivisionError as error:
            raise ValueError("no half") from error
        """
    )
    assert (result.status, result.exit_code) == ("error", 1)
    assert result.stderr == textwrap.dedent(
        """\
        Traceback (most recent call last):
          File "<program>", line 5, in <module>
            half(0)
          File "<program>", line 3, in half
            return 1 / n
                   ~~^~~
        ZeroDivisionError: division by zero

        The above exception was the direct cause of the following exception:

        Traceback (most recent call last):
          File "<program>", line 7, in <module>
            raise ValueError("no half") from error
        ValueError: no half
        """
    )


def test_what_cannot_be_compiled_is_an_error_of_the_program() -> None:
    broken, null, surrogate, empty, large, marked = run_all(
        program("x = (\n"),
        program("x = '\0'"),
        program("x = '\ud800'"),
        program(""),
        program("x = '" + 5_000_000 * "é" + "'\nprint(len(x))"),
        program("\ufeff# coding: latin-1\nprint('é')\r\nprint(2)"),
    )
    assert broken.stderr.splitlines()[0] == '  File "<program>", line 1'
    assert broken.stderr.endswith("SyntaxError: '(' was never closed\n")
    assert [r.status for r in (broken, null, surrogate)] == ["error"] * 3
    assert "null bytes" in null.stderr
    assert "surrogates not allowed" in surrogate.stderr
    assert (empty.status, empty.stdout) == ("ok", "")
    assert large.stdout == "5000000\n"
    assert marked.stdout == "é\n2\n"


def test_system_exit_is_honoured() -> None:
    results = run_all(*(program(f"import sys\nprint('x', end='')\nsys.exit({code})") for code in ("", "3", "'bye'")))
    assert [(r.status, r.exit_code, r.stdout, r.stderr) for r in results] == [
        ("ok", 0, "x", ""),
        ("error", 3, "x", ""),
        ("error", 1, "x", "bye\n"),
    ]


def test_a_program_ends_as_under_the_interpreter() -> None:
    result = run(
        """
        import atexit, threading, time
        class Loud:
            def __del__(self):
                print("dropped")
        loud = Loud()
        atexit.register(print, "at exit")
        threading.Thread(target=lambda: (time.sleep(0.1), print("thread"))).start()
        unclosed = open(1, "w", closefd=False)
        unclosed.write("unclosed\\n")
        print("end")
        """
    )
    assert sorted(result.stdout.split("\n")[3:]) == ["", "dropped", "unclosed"]
    assert result.stdout.split("\n")[:3] == ["end", "thread", "at exit"]


def test_a_program_is_the_main_module() -> None:
    result = run(
        """
        from __future__ import annotations
        import dataclasses, inspect, pickle, sys
        @dataclasses.dataclass
        class Point:
            x: int
        assert pickle.loads(pickle.dumps(Point(1))) == Point(1)
        def double(x):
            return 2 * x
        assert "2 * x" in inspect.getsource(double)
        print(__name__, sys.argv, sys.path[0] == "")
        """
    )
    assert result.stdout == "__main__ ['<program>'] True\n", result.stderr


def test_every_run_has_the_same_randomness() -> None:
    pytest.importorskip("numpy")
    code = "import numpy, random\nprint(random.random(), numpy.random.rand(), hash('a'), {'a', 'b', 'c'})"
    first, second = run_all(*2 * [program(code)])
    assert first.stdout == second.stdout != ""


@pytest.mark.parametrize("package", ["numpy", "numpy.random", "sympy"])
def test_what_is_slow_to_import_is_loaded_before_a_program_starts(package: str) -> None:
    pytest.importorskip(package)
    assert run(f"import sys\nprint({package!r} in sys.modules)").stdout == "True\n"


def test_sympy_is_loaded_for_the_first_program_that_names_it_and_takes_nothing_of_any_programs_memory() -> None:
    pytest.importorskip("sympy")
    state = """
        import mmap, sys
        room = 0
        for size in (512 >> n for n in range(10)):
            try:
                mmap.mmap(-1, room + size << 20).close()
                room += size
            except OSError:
                pass
        print("symp" + "y" in sys.modules, room)
        """

    async def work() -> list[str]:
        async with open_sandbox(workers=1) as sandbox:
            programs = (program(state), program("import helper", files={"helper.py": "import sympy"}), program(state))
            return [(await sandbox.run(replace(each, memory_mb=512))).stdout for each in programs]

    before, _, after = asyncio.run(work())
    assert (before.split()[0], after.split()[0]) == ("False", "True")
    assert 200 < int(before.split()[1]) == pytest.approx(int(after.split()[1]), abs=2)


def test_the_project_itself_cannot_be_seen() -> None:
    code = "import sys\nprint([name for name in sys.modules if name.partition('.')[0] == 'sod'])\nprint(sys.path)"
    modules, path = run(code).stdout.splitlines()
    assert modules == "[]"
    assert str(Path(__file__).parents[1] / "src") not in path


def test_packages_of_the_interpreter_can_be_imported() -> None:
    pytest.importorskip("numpy")
    assert run("import numpy\nprint(numpy.arange(3).sum())").stdout == "3\n"


# Limits


def test_a_program_that_sleeps_is_stopped_and_keeps_its_output() -> None:
    result = run("import time\nprint('before')\ntime.sleep(60)", seconds=0.3)
    assert (result.status, result.stdout, result.exit_code) == ("timeout", "before\n", None)
    assert 0.3 <= result.seconds < 2


def test_processor_time_is_limited_as_well() -> None:
    result = run("import resource, os\nprint(resource.getrlimit(resource.RLIMIT_CPU)[0])\nos.kill(os.getpid(), 24)")
    assert (result.status, result.stdout) == ("timeout", "11\n")


def test_a_signal_is_told_apart_from_an_error() -> None:
    crash, aborted = run_all(program("import os\nos.kill(os.getpid(), 11)"), program("import os\nos.abort()"))
    assert [(r.status, r.signal, r.exit_code) for r in (crash, aborted)] == [("signal", 11, None), ("signal", 6, None)]


@LINUX
def test_memory_files_and_descriptors_are_limited() -> None:
    memory, file, descriptors = run_all(
        program("x = bytearray(300 << 20)", memory_mb=256),
        program("open('big', 'wb').write(bytes(40 << 20))"),
        program("files = [open('x', 'w') for _ in range(100)]"),
    )
    assert memory.stderr.endswith("MemoryError\n")
    assert "File too large" in file.stderr
    assert "Too many open files" in descriptors.stderr


def test_long_output_keeps_head_and_tail_and_tells_what_is_missing() -> None:
    text = "".join(f"{i:05}€\n" for i in range(3000))
    keeps = (0, 1, 101, 102, 103, 104, 10_000, len(text.encode()) - 1)
    code = "for i in range(3000): print(f'{i:05}€')"
    for keep, result in zip(keeps, run_all(*(program(code, output_bytes=keep) for keep in keeps)), strict=True):
        shown = re.fullmatch(r"(.*)\n\.\.\. \[(\d+) bytes omitted\] \.\.\.\n(.*)", result.stdout, re.DOTALL)
        assert shown, result
        head, omitted, tail = shown.groups()
        kept = len((head + tail).encode())
        assert text.startswith(head)
        assert text.endswith(tail)
        assert kept + int(omitted) == len(text.encode())
        assert keep - 4 <= kept <= keep
    assert run(code, output_bytes=len(text.encode())).stdout == text


def test_output_that_is_not_text_is_replaced() -> None:
    assert run("import os\nos.write(1, b'a\\xff\\xe2\\x82')").stdout == "a\ufffd\ufffd"


def test_a_program_that_floods_its_output_is_stopped() -> None:
    result = run("import sys\nprint('mine', file=sys.stderr)\nwhile True: print('x' * 100_000)", output_bytes=100)
    assert (result.status, result.stderr) == ("output_limit", "mine\n")
    assert len(result.stdout) < 200
    assert result.seconds < 5


def test_files_stand_in_the_working_directory_and_count_towards_its_quota() -> None:
    reading, full = run_all(
        Program(
            code="import os\nprint(sorted(os.listdir()), open('b').read(), open('-ü').read())",
            files={"b": "two\nlines", "-ü": ""},
        ),
        Program(code="import time\ntime.sleep(60)", files={"large": "x" * (3 << 20)}, disk_mb=2, seconds=30.0),
    )
    assert (reading.stdout, reading.stderr) == ("['-ü', 'b'] two\nlines \n", "")
    assert full.status == "disk_limit"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/x", "a\0b", "x" * 256, "\ud800"])
def test_a_file_whose_name_is_not_plain_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"plain file name|surrogates not allowed"):
        run_all(Program(code="print(1)", files={name: ""}))


def test_a_full_directory_ends_a_program_even_if_it_is_quick() -> None:
    results = run_all(
        program("open('x', 'wb').write(bytes(3 << 20))", disk_mb=2),
        program("for i in range(30): open(str(i), 'w')", max_files=20),
        program("import os\nwhile True: os.mkdir('d'); os.chdir('d')"),
        program("import os\nwhile True: os.mkdir('d' * 250); os.chdir('d' * 250)"),
        program("open('x', 'wb').write(bytes(1 << 20))", disk_mb=2),
    )
    assert [r.status for r in results] == ["disk_limit"] * 4 + ["ok"]


@LINUX
def test_a_file_that_is_deleted_and_held_open_counts_as_well() -> None:
    code = "import os, time\nfile = open('x', 'wb')\nos.unlink('x')\nfile.write(bytes(3 << 20))\nfile.flush()\ntime.sleep(60)"
    assert run(code, disk_mb=2, seconds=30.0).status == "disk_limit"


def test_a_result_tells_what_a_program_used() -> None:
    idle, busy = run_all(
        program("import time\ntime.sleep(0.5)\nprint('é')"),
        program(
            "import sys, time\nx = bytearray(200 << 20)\nwhile time.process_time() < 0.5: pass\nsys.stderr.write('12')",
            seconds=60.0,
        ),
    )
    assert (idle.stdout_bytes, idle.stderr_bytes, busy.stdout_bytes, busy.stderr_bytes) == (3, 0, 0, 2)
    assert idle.cpu_seconds < 0.5 <= busy.cpu_seconds
    assert busy.memory_mb >= 200 + idle.memory_mb / 2


@LINUX
def test_a_program_that_ignores_the_limit_on_processor_time_is_a_timeout_all_the_same() -> None:
    code = """
        import hashlib, signal, threading
        signal.signal(signal.SIGXCPU, signal.SIG_IGN)
        def burn():
            while True: hashlib.pbkdf2_hmac("sha256", b"", b"", 10**5)
        for _ in range(4): threading.Thread(target=burn).start()
        """
    assert run(code, seconds=1.0).status == "timeout"


@LINUX
def test_a_traceback_is_printed_even_when_all_memory_is_used_up() -> None:
    result = run("x = {}\nwhile True: x[len(x)] = object()", memory_mb=256, seconds=60.0)
    assert result.stderr.endswith("MemoryError\n")


# What it leaves behind


def test_unsafe_a_grandchild_that_holds_the_output_open_is_ended() -> None:
    code = """
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]{})
        print(child.pid)
        """
    start = time.monotonic()
    in_group, escaped = run_all(program(code.format("")), program(code.format(", start_new_session=True")), unsafe=True)
    assert time.monotonic() - start < 30
    assert (in_group.status, escaped.status) == ("ok", "ok")
    assert soon(lambda: not is_alive(int(in_group.stdout)))
    os.kill(int(escaped.stdout), signal.SIGKILL)  # the documented hole


@pytest.mark.parametrize("unsafe", [True, pytest.param(False, marks=needs_confinement)])
def test_each_program_has_a_directory_of_its_own_that_is_removed(rooms: Path, unsafe: bool) -> None:
    code = """
        import os, tempfile
        print(os.getcwd(), os.listdir())
        open("mine.py", "w").write("x = 5")
        import mine
        os.makedirs("a/b")
        tempfile.mkdtemp()
        os.chmod("a", 0)
        os.chmod(".", 0)
        """

    async def work() -> None:
        async with open_sandbox(unsafe=unsafe) as sandbox:
            results = await asyncio.gather(*(sandbox.run(program(code)) for _ in range(3)))
            assert {r.status for r in results} == {"ok"}, results
            assert len({r.stdout for r in results}) == 3
            assert all(r.stdout.endswith(" []\n") for r in results)
            [root] = rooms.iterdir()
            assert not list(root.iterdir())
        assert not list(rooms.iterdir())

    finish(work())


@LINUX
def test_unsafe_nothing_of_the_trainer_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_API_KEY", "s3cret-value")
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        code = """
            import os
            print(sorted(os.environ))
            print(sorted(os.listdir("/proc/self/fd"), key=int)[:-1])
            print(b"s3cret" in open(f"/proc/{os.getppid()}/environ", "rb").read())
            print([os.readlink(f"/proc/{os.getppid()}/fd/{fd}") for fd in os.listdir(f"/proc/{os.getppid()}/fd")])
            """
        [result] = run_all(program(code), unsafe=True)
    environment, descriptors, secret_in_zygote, zygote_files = result.stdout.splitlines()
    assert "SECRET" not in environment
    assert "PATH" not in environment.replace("LD_LIBRARY_PATH", "")
    assert descriptors == "['0', '1', '2']"
    assert secret_in_zygote == "False"
    assert str(tmp_path) not in zygote_files


@LINUX
@pytest.mark.parametrize("unsafe", [True, pytest.param(False, marks=needs_confinement)])
def test_nothing_is_left_after_closing(rooms: Path, unsafe: bool) -> None:
    codes = ["print(1)", "1 / 0", "import time; time.sleep(9)", "import os\nif os.fork(): os._exit(0)\nwhile 1: pass"]

    async def work() -> None:
        sandbox = open_sandbox(2, unsafe=unsafe)
        await sandbox.run(program("print(0)"))
        open_before = len(os.listdir("/proc/self/fd"))
        await asyncio.gather(*(sandbox.run(program(code, seconds=0.3)) for code in codes * 4))
        assert len(os.listdir("/proc/self/fd")) == open_before
        assert len(processes_naming(str(rooms))) == 1
        hanging = asyncio.create_task(sandbox.run(program("import time\nprint(1)\ntime.sleep(60)")))
        await asyncio.sleep(0.2)
        assert len(processes_naming(str(rooms))) == 2
        await sandbox.close()
        assert (await hanging).status == "sandbox_error"
        await sandbox.close()

    open_before = len(os.listdir("/proc/self/fd"))
    finish(work())
    assert len(os.listdir("/proc/self/fd")) == open_before
    assert not list(rooms.iterdir())
    assert not processes_naming(str(rooms))


# Many programs, and trouble


@needs_confinement
def test_a_program_of_root_has_none_of_its_capabilities() -> None:
    code = """
        import ctypes
        header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(*6 * [1])
        print(ctypes.CDLL(None).capget(header, sets), list(sets))
        """
    assert run(code).stdout == "0 [0, 0, 0, 0, 0, 0]\n"


REFUSE = """
import asyncio, os, sys
from sod.errors import OptionError
from sod.sandbox import Program, seccomp
from sod.sandbox.libc import PR_SET_NO_NEW_PRIVS, install_filter, prctl
from sod.sandbox.local import LocalSandbox

call, argument, error = map(int, sys.argv[1:])
code = seccomp.INSTRUCTION.pack
only_with = code(seccomp.LOAD, 0, 0, 16) + code(seccomp.EQUAL, 0, 1, argument) if argument else b""
body = only_with + code(seccomp.RETURN, 0, 0, seccomp.ERRNO | error)
prctl(PR_SET_NO_NEW_PRIVS, 1)
install_filter(
    code(seccomp.LOAD, 0, 0, 0) + code(seccomp.EQUAL, 0, len(body) // 8, call) + body
    + code(seccomp.RETURN, 0, 0, seccomp.ALLOW)
)
try:
    LocalSandbox()
except OptionError as error:
    print(error)
print(asyncio.run(LocalSandbox(unsafe=True).run(Program(code="print(1)"))).stdout)
"""
PRCTL = {"x86_64": 157, "aarch64": 167}.get(platform.machine(), 0)


@needs_confinement
@pytest.mark.parametrize(
    ("call", "argument", "error", "reason"),
    [
        (444, 0, errno.ENOSYS, "Landlock: the kernel does not support it"),
        (444, 0, errno.EOPNOTSUPP, "Landlock: it is disabled"),
        (444, 0, errno.EPERM, "Landlock: the container's seccomp profile forbids it"),
        (446, 0, errno.EPERM, "Landlock: the container's seccomp profile forbids it"),
        (PRCTL, 22, errno.EINVAL, "seccomp: "),
        (PRCTL, 38, errno.EINVAL, "dropping privileges failed: "),
    ],
)
def test_where_the_kernel_refuses_there_is_no_sandbox_unless_it_is_asked_for(
    call: int, argument: int, error: int, reason: str
) -> None:
    """In a process whose system call (with this first argument) fails, as in the containers of older engines."""
    command = [sys.executable, "-c", REFUSE, str(call), str(argument), str(error)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stderr == ""
    assert f"cannot be confined on this machine: {reason}" in done.stdout
    assert "sandbox.backend = fusion" in done.stdout
    assert "sandbox.backend = unsafe_subprocess" in done.stdout
    assert done.stdout.endswith("\n1\n\n")


def test_a_zygote_that_cannot_start_is_told_of_and_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = open_sandbox()
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    results = asyncio.run(asyncio.wait_for(run_several(sandbox), 60))
    assert {r.status for r in results} == {"sandbox_error"}
    assert "zygote ended with exit code 1" in results[0].message


async def run_several(sandbox: LocalSandbox) -> list[Result]:
    async with sandbox:
        return await asyncio.gather(*(sandbox.run(program("print(1)")) for _ in range(4)))


@LINUX
def test_a_program_that_crashes_as_it_can_does_not_outlive_or_harm_the_next() -> None:
    crash = "import ctypes\nctypes.memset(0, 1, 1)"
    results = run_all(*(program(code) for code in (crash, "print(1)") * 4))
    assert [r.status for r in results] == ["signal", "ok"] * 4


def test_no_more_than_the_workers_run_at_once_in_order_of_arrival() -> None:
    async def work() -> None:
        ended: list[int] = []
        async with open_sandbox(2) as sandbox:

            async def one(number: int) -> tuple[float, float]:
                result = await sandbox.run(
                    program("import time\na = time.monotonic()\ntime.sleep(0.15)\nprint(a, time.monotonic())")
                )
                ended.append(number)
                start, end = map(float, result.stdout.split())
                return start, end

            spans = await asyncio.gather(*map(one, range(6)))
        for start, _ in spans:
            assert sum(a <= start < b for a, b in spans) <= 2
        assert [number // 2 for number in ended] == [0, 0, 1, 1, 2, 2]

    finish(work())


def test_a_busy_event_loop_changes_no_verdict() -> None:
    async def work() -> None:
        async with open_sandbox(2) as sandbox:
            await sandbox.run(program("pass"))
            quick = asyncio.create_task(sandbox.run(program("import time\ntime.sleep(0.1)\nprint(1)", seconds=0.6)))
            slow = asyncio.create_task(sandbox.run(program("import time\ntime.sleep(60)", seconds=0.3)))
            await asyncio.sleep(0.05)
            time.sleep(1)  # as a training step that holds the interpreter would
            assert (await quick).status == "ok"
            assert (await slow).status == "timeout"
            assert (await slow).seconds < 0.9

    finish(work())


def test_a_cancelled_program_is_killed(rooms: Path) -> None:
    async def work() -> None:
        async with open_sandbox(1) as sandbox:
            task = asyncio.create_task(sandbox.run(program(WRITE_PIDS)))
            _, pid = await pids_in(rooms)
            assert is_alive(pid)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert task.cancelled()
            assert not is_alive(pid)
            assert (await sandbox.run(program("print(2)"))).stdout == "2\n"

    finish(work())


def test_when_the_zygote_dies_the_running_program_is_no_verdict_and_the_next_one_works(rooms: Path) -> None:
    async def work() -> None:
        async with open_sandbox(2) as sandbox:
            task = asyncio.create_task(sandbox.run(program(WRITE_PIDS)))
            zygote, pid = await pids_in(rooms)
            os.kill(zygote, signal.SIGKILL)
            result = await task
            assert result.status == "sandbox_error"
            assert "zygote ended with exit code -9" in result.message
            assert soon(lambda: not is_alive(pid))
            assert (await sandbox.run(program("print(2)"))).stdout == "2\n"

    finish(work())


def test_a_sandbox_without_descriptors_to_spare_says_so_and_recovers() -> None:
    async def work() -> None:
        async with open_sandbox() as sandbox:
            await sandbox.run(program("pass"))
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                result = await sandbox.run(program("print(1)"))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert (result.status, result.message) == ("sandbox_error", "[Errno 24] Too many open files")
            assert (await sandbox.run(program("print(2)"))).stdout == "2\n"

    finish(work())


def test_one_sandbox_serves_several_event_loops_one_after_the_other() -> None:
    sandbox = open_sandbox(1)

    async def work(number: int) -> list[str]:
        results = await asyncio.gather(*(sandbox.run(program(f"print({number})")) for _ in range(3)))
        return [r.stdout for r in results]

    assert asyncio.run(work(1)) == 3 * ["1\n"]
    assert asyncio.run(work(2)) == 3 * ["2\n"]
    asyncio.run(sandbox.close())


def start_trainer(rooms: Path) -> subprocess.Popen[bytes]:
    """Another process, with a program that sleeps."""
    code = (
        "import asyncio\nfrom sod.sandbox import Program\nfrom sod.sandbox.local import LocalSandbox\n"
        f"asyncio.run(LocalSandbox(unsafe={not CONFINABLE}).run(Program(code={WRITE_PIDS!r})))"
    )
    environment = os.environ | {"TMPDIR": str(rooms), "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-c", code], env=environment)


def test_a_trainer_that_is_killed_leaves_nothing_behind(tmp_path: Path) -> None:
    trainer = start_trainer(tmp_path)
    pids = asyncio.run(asyncio.wait_for(pids_in(tmp_path), 30))
    trainer.kill()
    trainer.wait()
    assert soon(lambda: not any(map(is_alive, pids)))
    assert soon(lambda: not list(tmp_path.iterdir()))


def test_a_directory_left_by_a_trainer_and_zygote_that_were_killed_is_swept_up_by_the_next(rooms: Path) -> None:
    trainer = start_trainer(rooms)
    zygote, pid = asyncio.run(asyncio.wait_for(pids_in(rooms), 30))
    trainer.kill()
    os.kill(zygote, signal.SIGKILL)
    trainer.wait()
    if not CONFINABLE:  # else the kernel ends it with the zygote
        os.kill(pid, signal.SIGKILL)
    [left] = rooms.iterdir()
    assert soon(lambda: not any(map(is_alive, (zygote, pid))))

    async def work() -> None:
        async with open_sandbox() as sandbox:
            assert (await sandbox.run(program("print(1)"))).stdout == "1\n"
            [root] = rooms.iterdir()
            assert root != left

    finish(work())


def test_directories_in_use_are_not_swept_up(rooms: Path) -> None:
    async def work() -> None:
        async with open_sandbox() as first, open_sandbox() as second:
            running = asyncio.create_task(first.run(program("import time\ntime.sleep(2)\nopen('mine', 'w')")))
            assert (await second.run(program("print(2)"))).stdout == "2\n"
            assert len(list(rooms.iterdir())) == 2
            assert (await running).status == "ok"
            assert (await first.run(program("print(1)"))).stdout == "1\n"

    finish(work())


def test_what_a_machine_lacks_is_named_and_nobody_is_advised_to_go_without_walls() -> None:
    assert confinement.lacking() == ""
    assert confinement.lacking(device="/nothing").startswith("/nothing is missing")
    assert sys.platform != "linux" or "Mount /proc" in confinement.lacking(processes="/nothing")
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"  # no temporary file can be written
        "from sod.errors import OptionError\nfrom sod.sandbox.local import LocalSandbox\n"
        "try: LocalSandbox()\nexcept OptionError as error: print(error)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "Set TMPDIR" in told
    assert "unsafe" not in told


@needs_confinement
def test_the_probe_uses_the_directory_for_temporary_files_that_was_given(tmp_path: Path) -> None:
    code = "from sod.sandbox.confinement import surroundings; print(surroundings()['TMPDIR'])"
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert told.stdout == f"{tmp_path}\n"
