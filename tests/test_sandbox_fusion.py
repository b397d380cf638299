"""The client of SandboxFusion and the script it sends, against a server on this machine that behaves as the real one."""

import ast
import asyncio
import base64
import contextlib
import email.utils
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sod.errors import OptionError, SandboxError
from sod.sandbox import Program, Result, fusion_driver
from sod.sandbox.fusion import FusionSandbox
from sod.sandbox.local import LocalSandbox

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's limits or /proc")
STDOUT_BYTES = 200_000
"""What gets through of a stream: SandboxFusion drops the rest and says nothing."""


# The server


class Handler(BaseHTTPRequestHandler):
    """One request: the next scripted answer, or else what SandboxFusion does."""

    server: "FakeFusion"  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer()

    def answer(self) -> None:
        scripted = self.server.begin()
        if scripted is not None:
            scripted(self)
        elif self.path == "/v1/ping":
            self.send(200, '"pong"')
        else:
            self.send(200, json.dumps(run_as_sandbox_fusion_does(json.loads(self.body))))

    def send(self, status: int, text: str, **headers: str) -> None:
        self.server.end()
        data = text.encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


Answer = Callable[[Handler], None]


class FakeFusion(ThreadingHTTPServer):
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.scripted: deque[Answer] = deque()
        """What the next requests are answered; when it is used up, programs run."""
        self.moments: list[float] = []
        """When each request came."""
        self.running = self.most_running = 0
        self.hung_up = threading.Event()
        """Set when a client hung up on an answer that hangs."""
        self.lock = threading.Lock()

    def begin(self) -> Answer | None:
        """Count a request that has come; what it is to be answered, if that is scripted."""
        with self.lock:
            self.moments.append(time.monotonic())
            self.running += 1
            self.most_running = max(self.most_running, self.running)
            return self.scripted.popleft() if self.scripted else None

    def end(self) -> None:
        """Count a request that is about to be answered."""
        with self.lock:
            self.running -= 1


def run_as_sandbox_fusion_does(request: dict[str, Any]) -> dict[str, Any]:
    """Files into a temporary directory, `python script` through a shell, no lock on anything; losses included."""
    assert request["language"] == "python"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for name, content in request["files"].items():
            Path(folder, name).write_bytes(base64.b64decode(content))
        script = Path(folder, "tmpscript.py")
        script.write_text(request["code"])
        process = subprocess.Popen(
            f"'{sys.executable}' {script}",
            shell=True,
            executable="/bin/bash",
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        start = time.monotonic()
        try:
            out, err = process.communicate((request.get("stdin") or "").encode(), timeout=request["run_timeout"])
            status, code = "Finished", process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            status, code, out, err = "TimeLimitExceeded", None, b"", b""
        return {
            "status": "Success" if code == 0 else "Failed",
            "message": "",
            "compile_result": None,
            "run_result": {
                "status": status,
                "execution_time": time.monotonic() - start,
                "return_code": code,
                "stdout": decoded(out[:STDOUT_BYTES]),
                "stderr": decoded(err[:STDOUT_BYTES]),
            },
            "executor_pod_name": None,
            "files": {
                name: base64.b64encode(path.read_bytes()).decode()
                for name in request["fetch_files"]
                if (path := Path(folder, name)).is_file()
            },
        }


def decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        return f"[DecodeError] {error}"


def says(status: int, text: str = "told you", **headers: str) -> Answer:
    return lambda handler: handler.send(status, text, **headers)


def drops(handler: Handler) -> None:
    """The connection, without a word."""
    handler.connection.shutdown(socket.SHUT_RDWR)


def hangs(handler: Handler) -> None:
    """Until the client hangs up."""
    select.select([handler.connection], [], [])
    handler.server.hung_up.set()


def finished(**run_result: object) -> Answer:
    """A well-formed answer without a report."""
    return says(200, json.dumps({"status": "Failed", "message": "", "run_result": run_result, "files": {}}))


def reports(report: object) -> Answer:
    """A well-formed answer with this report."""
    text = report if isinstance(report, str) else base64.b64encode(json.dumps(report).encode()).decode()
    return says(200, json.dumps({"status": "Success", "files": {fusion_driver.REPORT: text}}))


@pytest.fixture
def server() -> Iterator[FakeFusion]:
    with FakeFusion() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def use(server: FakeFusion, work: Callable[[FusionSandbox], Awaitable[Any]], **options: Any) -> Any:
    async def main() -> Any:
        async with FusionSandbox(server.url, **options) as sandbox:
            return await work(sandbox)

    return asyncio.run(asyncio.wait_for(main(), 30))


def run_all(server: FakeFusion, *programs: Program, **options: Any) -> list[Result]:
    """All at once; a few at a time."""
    return use(server, lambda sandbox: asyncio.gather(*map(sandbox.run, programs)), **{"workers": 4, **options})


def soon(condition: Callable[[], bool]) -> bool:
    """Whether it comes true within five seconds."""
    end = time.monotonic() + 5
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def is_running(pid: str) -> bool:
    """Whether the process is there and not a zombie."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    return False


def program(code: str, **fields: Any) -> Program:
    return Program(code=textwrap.dedent(code), **fields)


PRINT = program("print(1)")
REPORT = {
    "exit_code": 0,
    "stopped_for": "",
    "seconds": 0.1,
    "cpu_seconds": 0.1,
    "memory_mb": 9.0,
    "stdout": {"head": "MQo=", "tail": "", "bytes": 2},
    "stderr": {"head": "", "tail": "", "bytes": 0},
}
"""What our script reports of it."""


# What a program does


PROGRAMS = (
    program("a = input()\nimport sys\nprint(a[::-1], sys.stdin.read().split())", stdin="añ\n1 2\n3"),
    program("def half(n):\n    return 1 / n\nprint('before')\nhalf(0)"),
    program("try:\n    [][0]\nexcept IndexError as error:\n    raise ValueError('no') from error"),
    program("x = (\n"),
    program("x = '\0'"),
    program("x = '\ud800'"),
    program("print('\\ud800')"),
    program(""),
    program("\ufeff# coding: latin-1\nprint('é')\r\nprint(2)"),
    program("x = '" + 5_000_000 * "é" + "'\nprint(len(x))"),
    program("print(len(input()))", stdin=3_000_000 * "x"),
    program("print(ascii(input()))", stdin="\ud800\n"),
    program("print('HEAD' + 'x' * 300_000 + 'TAIL')"),
    program("print('x' * 5_000_000)\nprint('END')"),
    program("for i in range(30_000): print(f'{i:05}€')", output_bytes=1000),
    program("print('€' * 1000, end='')", output_bytes=101),
    program("print('€')", output_bytes=0),
    program("import os\nos.write(1, b'a\\0\\xff\\xe2\\x82')\nos.write(2, b'b')"),
    program("import sys\nprint('x', end='')\nsys.exit()"),
    program("import sys\nprint('x', end='')\nsys.exit(-1)"),
    program("raise SystemExit('bye')"),
    program("raise KeyboardInterrupt"),
    program("import os\nos.kill(os.getpid(), 11)"),
    program("import os\nos._exit(3)"),
    program("import os, resource\nprint(resource.getrlimit(resource.RLIMIT_CPU)[0])\nos.kill(os.getpid(), 24)"),
    program("1 + 1\n'a' * 3", show_last_value=True),
    program("x = 1\nprint(x)", show_last_value=True),
    program("for i in range(3):\n    i", show_last_value=True),
    program("from __future__ import annotations\ndef f(x: Nope): return x\nf(None)\nf(2)", show_last_value=True),
    program("1\n1 / 0  # why", show_last_value=True),
    program("1 + 1"),
    program("print(open('data.txt').read(), end='')", files={"data.txt": "ha\r\nllo\ud800"[:7]}),
    program("import random\nprint(random.random(), hash('a'), {'a', 'b', 'c'})"),
    program("import os\nprint(sorted(os.environ), os.listdir(), os.getcwd() == os.environ['HOME'])"),
    program("import warnings\nwarnings.warn('w')"),
    program(
        "import atexit\nclass Loud:\n    def __del__(self): print('dropped')\nx = Loud()\natexit.register(print, 'exit')"
    ),
    program(
        """
        import dataclasses, inspect, pickle, sys
        @dataclasses.dataclass
        class Point:
            x: int
        assert pickle.loads(pickle.dumps(Point(1))) == Point(1)
        assert "x: int" in inspect.getsource(Point)
        print(__name__, sys.argv, sys.path[0] == "")
        """
    ),
)


def test_a_program_gets_the_result_that_the_local_sandbox_gives_it(server: FakeFusion) -> None:
    async def locally() -> list[Result]:
        async with LocalSandbox(unsafe=True) as sandbox:
            return await asyncio.gather(*map(sandbox.run, PROGRAMS))

    def known(result: Result) -> tuple[object, ...]:
        kind = (result.status, result.exit_code, result.signal, result.message)
        return *kind, result.stdout, result.stdout_bytes, result.stderr, result.stderr_bytes

    for each, here, there in zip(PROGRAMS, asyncio.run(locally()), run_all(server, *PROGRAMS), strict=True):
        assert known(here) == known(there), each.code[:200]


def test_output_that_cannot_be_written_is_an_error_of_the_program(server: FakeFusion) -> None:
    [result] = run_all(server, program("import os\nos.close(1)\nprint('x')"))
    assert result.status == "error"
    assert "Bad file descriptor" in result.stderr


def test_what_a_program_took_is_measured(server: FakeFusion) -> None:
    [result] = run_all(
        server, program("x = bytearray(b'1') * (100 << 20)\nwhile __import__('time').process_time() < 0.3: 0")
    )
    assert result.status == "ok"
    assert result.seconds >= 0.3
    assert result.cpu_seconds >= 0.3
    assert 100 <= result.memory_mb < 300


def test_a_program_that_runs_out_of_time_keeps_its_output(server: FakeFusion) -> None:
    code = "import sys, time\nprint('before')\nprint('error', file=sys.stderr)\n"
    blocked = "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\nsum(range(10**12))"
    late = "import atexit\natexit.register(time.sleep, 60)"
    for result in run_all(server, *(program(code + rest, seconds=1.5) for rest in ("time.sleep(60)", blocked, late))):
        assert (result.status, result.exit_code) == ("timeout", None)
        assert (result.stdout, result.stderr) == ("before\n", "error\n")
        assert result.seconds >= 1.5


@LINUX
def test_copies_are_sent_with_the_program(server: FakeFusion, tmp_path: Path) -> None:
    (tmp_path / "table").write_bytes(b"\xff\x00")
    [result] = run_all(server, program("print(open('t.bin', 'rb').read())", copies={"t.bin": str(tmp_path / "table")}))
    assert result.stdout == "b'\\xff\\x00'\n"


def test_memory_disk_files_and_descriptors_are_limited(server: FakeFusion) -> None:
    memory, file, descriptors, disk, many = run_all(
        server,
        program("x = bytearray(300 << 20)", memory_mb=256),
        program("open('big', 'wb').write(bytes(40 << 20))"),
        program("files = [open('x', 'w') for _ in range(100)]"),
        program("for i in range(9): open(f'{i}', 'wb').write(bytes(1 << 20))", disk_mb=4),
        program("import os, time\nfor i in range(20): os.mkdir(f'{i}')\ntime.sleep(60)", max_files=16),
    )
    assert memory.stderr.endswith("MemoryError\n")
    assert "File too large" in file.stderr
    assert "Too many open files" in descriptors.stderr
    assert (disk.status, many.status) == ("disk_limit", "disk_limit")


def test_a_program_that_floods_its_output_is_stopped(server: FakeFusion) -> None:
    code = "import sys\nprint('mine', file=sys.stderr)\nwhile True: print('x' * 100_000)"
    [result] = run_all(server, program(code, output_bytes=100))
    assert (result.status, result.stderr) == ("output_limit", "mine\n")
    assert result.stdout_bytes > 16 << 20
    assert len(result.stdout) < 200


@LINUX
def test_nothing_that_a_program_started_survives_it(server: FakeFusion) -> None:
    code = """
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
        print(child.pid)
        """
    [result] = run_all(server, program(code))
    assert result.status == "ok"
    assert result.seconds < 30
    assert not is_running(result.stdout.strip())


def test_nothing_of_the_server_is_in_the_environment(server: FakeFusion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_API_KEY", "s3cret")
    [result] = run_all(server, program("import os, sys\nprint('SECRET_API_KEY' in os.environ, os.listdir('.'))"))
    assert result.stdout == "False []\n"


def test_numpy_starts_the_same_every_time(server: FakeFusion) -> None:
    pytest.importorskip("numpy")
    first, second = run_all(server, *2 * [program("import numpy\nprint(numpy.random.rand())")])
    assert first.stdout == second.stdout != ""


def test_a_name_that_is_not_plain_is_refused(server: FakeFusion) -> None:
    with pytest.raises(ValueError, match="not a plain file name"):
        run_all(server, program("", files={"../x": ""}))
    assert not server.moments


@LINUX
def test_a_program_that_ends_our_script_ends_itself_and_is_told_apart_from_a_broken_server(
    server: FakeFusion, tmp_path: Path
) -> None:
    note = tmp_path / "pids"
    code = f"import os, time\nprint(os.getpid(), file=open({str(note)!r}, 'a', 1))\nos.kill(os.getppid(), 9)\ntime.sleep(60)"
    [result] = run_all(server, program(code))
    assert (result.status, result.signal) == ("signal", 9)
    assert len(server.moments) == len(note.read_text().split()) == 3
    assert soon(lambda: not any(map(is_running, note.read_text().split())))


def test_the_script_runs_on_older_pythons_with_the_standard_library() -> None:
    tree = ast.parse(Path(fusion_driver.__file__).read_text(), feature_version=(3, 9))
    names = [a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names]
    names += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names | {"numpy"}


# What a server does


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (says(429), "status 429: told you"),
        (says(500), "status 500: told you"),
        (says(502), "status 502"),
        (says(503), "status 503"),
        (says(504), "status 504"),
        (says(200, "<html>busy</html>"), "not JSON: '<html>busy</html>'"),
        (says(200, "[" * 100_000), "not JSON"),
        (says(200, "[1]"), "response is not SandboxFusion's: '[1]'"),
        (says(200, '{"status": "SandboxError", "message": "no pods"}'), "failed: no pods"),
        (
            finished(status="TimeLimitExceeded", return_code=None, stdout="", stderr=""),
            "timed out before the program's own time limit",
        ),
        (finished(status="Finished", return_code=127, stdout="", stderr="no python"), "exit code 127: no python"),
        (finished(status="Finished", return_code=0, stdout="1\n", stderr=""), "exit code 0"),
        (finished(status="Finished", return_code=-15, stdout="", stderr=""), "by signal 15"),
        (finished(status="Finished", return_code=143, stdout="", stderr=""), "by signal 15"),
        (reports("?"), "cannot be read"),
        (reports({"exit_code": 0}), "cannot be read: KeyError"),
        (reports([]), "cannot be read: TypeError"),
        (reports({"exit_code": float("inf")}), "cannot be read: OverflowError"),
        (drops, "is unreachable: RemoteProtocolError"),
    ],
)
def test_what_may_pass_is_tried_again(server: FakeFusion, fault: Answer, message: str) -> None:
    server.scripted.append(fault)
    [failed] = run_all(server, PRINT, tries=1)
    assert failed.status == "sandbox_error"
    assert message in failed.message
    server.scripted.extend([fault, reports(REPORT)])
    [result] = run_all(server, PRINT)
    assert (result.status, result.stdout, result.message) == ("ok", "1\n", "")
    assert len(server.moments) == 3


def test_no_program_is_sent_more_often_than_asked(server: FakeFusion) -> None:
    killed = finished(status="Finished", return_code=-9, stdout="", stderr="")
    server.scripted.extend([says(500), killed, says(503), says(504)])
    [result] = run_all(server, PRINT, tries=3)
    assert (result.status, len(server.moments)) == ("sandbox_error", 3)
    assert "status 503" in result.message


def test_a_server_that_does_not_answer_in_time_is_no_verdict(server: FakeFusion) -> None:
    server.scripted.extend([hangs, hangs])
    [result] = run_all(server, program("", seconds=0.1), tries=2, grace_seconds=0.2)
    assert (result.status, len(server.moments)) == ("sandbox_error", 2)
    assert "did not respond within 0.3 seconds" in result.message
    assert server.hung_up.wait(5)


@pytest.mark.parametrize("status", [301, 400, 401, 404, 408, 413, 422])
def test_what_will_not_pass_is_not_tried_again(server: FakeFusion, status: int) -> None:
    server.scripted.append(says(status, '{"detail": "field required"}'))
    [result] = run_all(server, PRINT)
    assert result.status == "sandbox_error"
    assert f'status {status}: {{"detail": "field required"}}' in result.message
    assert len(server.moments) == 1


def test_a_server_that_is_not_there_is_no_verdict() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

    async def work() -> Result:
        async with FusionSandbox(url) as sandbox:
            with pytest.raises(SandboxError, match=r"sandbox.url\) does not respond.*ConnectError"):
                await sandbox.ping()
            return await sandbox.run(PRINT)

    result = asyncio.run(work())
    assert result.status == "sandbox_error"
    assert f"{url}/ is unreachable: ConnectError" in result.message


def test_the_wait_that_a_server_asks_for_is_kept(server: FakeFusion) -> None:
    date = email.utils.formatdate(time.time() + 1, usegmt=True)
    server.scripted.extend([says(429, Retry_After="0.5"), says(503, Retry_After=date), says(429, Retry_After="soon")])
    [result] = run_all(server, PRINT, tries=4)
    assert result.stdout == "1\n"
    first, second, _, _ = server.moments
    assert second - first >= 0.5
    assert time.time() >= email.utils.parsedate_to_datetime(date).timestamp()


def test_a_server_that_asks_for_too_long_a_wait_is_given_up(server: FakeFusion) -> None:
    server.scripted.append(says(429, "come back tomorrow", Retry_After="86400"))
    [result] = run_all(server, PRINT)
    assert (result.status, len(server.moments)) == ("sandbox_error", 1)
    assert "come back tomorrow" in result.message


def test_no_more_than_the_workers_are_sent_at_once(server: FakeFusion) -> None:
    server.scripted.extend(20 * [lambda handler: (time.sleep(0.02), handler.send(422, ""))[1]])
    results = run_all(server, *20 * [PRINT], workers=3)
    assert len(results) == len(server.moments) == 20
    assert server.most_running == 3


def test_who_is_cancelled_hangs_up_and_makes_room(server: FakeFusion) -> None:
    server.scripted.append(hangs)

    async def work(sandbox: FusionSandbox) -> Result:
        task = asyncio.create_task(sandbox.run(PRINT))
        while not server.running:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await sandbox.run(PRINT)

    assert use(server, work, workers=1).stdout == "1\n"
    assert server.hung_up.wait(5)


def test_closing_ends_what_is_under_way_and_the_next_program_starts_anew(server: FakeFusion) -> None:
    server.scripted.append(hangs)

    async def work(sandbox: FusionSandbox) -> tuple[Result, Result, Result]:
        running, waiting = (asyncio.create_task(sandbox.run(PRINT)) for _ in range(2))
        while not server.running:
            await asyncio.sleep(0.01)
        await sandbox.close()
        return await running, await waiting, await sandbox.run(PRINT)

    running, waiting, after = use(server, work, workers=1)
    assert (running.status, running.message) == ("sandbox_error", "the sandbox was closed")
    assert (waiting.status, waiting.message) == ("sandbox_error", "the sandbox was closed")
    assert after.stdout == "1\n"
    assert server.hung_up.wait(5)


def test_one_sandbox_serves_several_event_loops_one_after_the_other(server: FakeFusion) -> None:
    sandbox = FusionSandbox(server.url, workers=2)

    async def work() -> list[str]:
        return [result.stdout for result in await asyncio.gather(*(sandbox.run(PRINT) for _ in range(3)))]

    assert asyncio.run(work()) == 3 * ["1\n"]
    assert asyncio.run(work()) == 3 * ["1\n"]
    asyncio.run(sandbox.close())


def test_a_ping_knows_a_sandbox_from_something_else(server: FakeFusion) -> None:
    use(server, FusionSandbox.ping)
    for other in (says(200, "<html>It works!</html>"), says(404, '"pong"')):
        server.scripted.append(other)
        with pytest.raises(SandboxError, match="no SandboxFusion server: status"):
            use(server, FusionSandbox.ping)
    server.scripted.append(drops)
    with pytest.raises(SandboxError, match="does not respond"):
        use(server, FusionSandbox.ping)


# The address


@pytest.mark.parametrize(
    "url",
    [
        "",
        " ",
        "localhost",
        "localhost:8080",
        "127.0.0.1:8080",
        "ftp://127.0.0.1",
        "http://",
        "http:///run_code",
        "http://localhost:port",
        "http://localhost:99999",
        "http://<host>:8080/run_code",
        "<sandbox-url>",
        "http://{host}:8080",
        "http://${SANDBOX_HOST}:8080",
        "http://$HOST:8080",
        "http://*:8080",
        "http://[host]:8080",
        "http://my host:8080",
        "http://your-sandbox-fusion.com",
        "https://YOUR_SANDBOX_HOST:8080/run_code",
        "http://sandbox.your-company.com",
        "https://xxx.apigateway-cn-beijing.volceapi.com",
        "http://x.x.x.x:8080",
        "http://example.com",
        "https://sandbox.example.org:8080",
        "http://sandbox.example",
        "http://yourhost:8080",
        "http://placeholder:8080",
        "http://changeme",
        "http://127.0.0.1:8080/?key=1",
        "http://127.0.0.1:8080/#top",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(OptionError, match=r"sandbox.url = .* is not the address .* such as --sandbox.url http://127"):
        FusionSandbox(url)


@pytest.mark.parametrize("end", ["", "/", "/run_code", "/run_code/", " "])
def test_an_address_may_end_with_the_path_of_the_request(server: FakeFusion, end: str) -> None:
    server.url += end
    assert run_all(server, PRINT)[0].stdout == "1\n"


@pytest.mark.parametrize(
    "url", ["http://localhost:1", "http://[::1]:1", "http://127.1.2.3", "https://x.sandbox.yourkit.com/x/y"]
)
def test_an_address_that_is_near_or_encrypted_is_taken_silently(url: str) -> None:
    FusionSandbox(url)


@pytest.mark.parametrize("url", ["http://sandbox:8080", "http://10.0.0.7:8080", "http://[2001:db8::1]"])
def test_unencrypted_traffic_to_another_machine_is_warned_of(url: str) -> None:
    with pytest.warns(UserWarning, match="travel unencrypted") as warned:
        FusionSandbox(url)
    assert warned[0].filename == __file__


def test_the_password_in_an_address_is_sent_and_not_shown(server: FakeFusion) -> None:
    def shows(handler: Handler) -> None:
        handler.send(401, handler.headers["Authorization"])

    server.scripted.append(shows)
    server.url = server.url.replace("//", "//me:pass@")
    [result] = run_all(server, PRINT)
    assert base64.b64encode(b"me:pass").decode() in result.message
    assert "pass@" not in result.message


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    server: FakeFusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert run_all(server, PRINT)[0].stdout == "1\n"
