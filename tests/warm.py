"""Python commands in processes that start warm: forked from a server that has imported PyTorch, Transformers and sod.

Starting Python and importing these takes several seconds of a processor; a fork takes none. The process is otherwise like any
other: it has its own environment, folder, output, signals and exit status. A test about the start itself, or about a variable
that a package reads when it is imported, uses `subprocess` instead.

`warm_python` does the same for code that starts `sys.executable -m MODULE` itself: `sod compare`, `sod run`, torchrun.
"""

import json
import multiprocessing
import multiprocessing.connection
import os
import resource
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import reduction
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore

DEADLINE = 900.0
"""Seconds in which a command must end here, however slow the machine."""
LAUNCHER_SECONDS = 30.0
"""Seconds between SIGTERM and SIGKILL for processes that remain when another has failed, as in torchrun."""
HEAD_START = 3.0
"""Seconds before this SIGTERM, in which the other processes can report the same failure and end."""
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["sod.processes.preloaded", "torch.distributed.device_mesh"])


class Warm:
    """A running `python ARGUMENTS`, where the arguments are `-m MODULE ...`, `-c CODE ...` or `SCRIPT ...`."""

    def __init__(
        self,
        arguments: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        file_bytes: int | None = None,
        session: bool = False,
    ):
        """`file_bytes` limits the size of files that the process writes; `session` makes it the leader of a session."""
        self.args = [str(argument) for argument in arguments]
        self._folder = Path(tempfile.mkdtemp())
        self._files = [self._folder / name for name in ("stdout", "stderr")]
        for file in self._files:
            file.touch()
        environment = dict(os.environ if env is None else env)
        given = (self.args, environment, str(cwd or Path.cwd()), file_bytes, session, sys.executable)
        outputs = [os.open(file, os.O_WRONLY | os.O_APPEND) for file in self._files]
        self._process = _start(outputs, *given)
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Return the exit status: negative if a signal ended the process, None if it runs."""
        with _STARTING:
            return self._process.exitcode

    @property
    def sentinel(self) -> int:
        """Descriptor that becomes readable at the end."""
        return self._process.sentinel

    def send(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self, seconds: float = DEADLINE) -> "subprocess.CompletedProcess[str]":
        """Wait for the end and return status and output. Raises TimeoutExpired, after SIGKILL."""
        multiprocessing.connection.wait([self.sentinel], timeout=seconds)
        if self.poll() is None:
            self.send(signal.SIGKILL)
            multiprocessing.connection.wait([self.sentinel])
            raise subprocess.TimeoutExpired(self.args, seconds, *(file.read_bytes() for file in self._files))
        stdout, stderr = (file.read_text() for file in self._files)
        shutil.rmtree(self._folder)
        status = self.poll()
        assert status is not None
        return subprocess.CompletedProcess(self.args, status, stdout, stderr)


class _Descriptor:
    """A file descriptor that a new process receives as one of its own."""

    def __init__(self, number: int):
        self._number = number

    def __reduce__(self) -> Any:
        return _received, (reduction.DupFd(self._number),)


def _received(duplicate: Any) -> int:
    return duplicate.detach()


_STARTING = threading.RLock()
"""Held while a process is started or its status is read: `multiprocessing` does both without a lock."""


def _start(streams: Sequence[int], *given: Any) -> Any:
    """Start a process that becomes `python ARGUMENTS`, with these as its last standard streams, and close them here."""
    process = CONTEXT.Process(target=_execute, args=([_Descriptor(stream) for stream in streams], *given))
    with _STARTING:
        process.start()
    for stream in streams:
        os.close(stream)
    return process


def _execute(
    streams: Sequence[int],
    arguments: list[str],
    env: dict[str, str],
    cwd: str,
    file_bytes: int | None,
    session: bool,
    python: str,
) -> None:
    """Become `python ARGUMENTS`, which starts others with `python`."""
    sys.executable = python
    for number, stream in enumerate(streams, start=3 - len(streams)):
        os.dup2(stream, number)
        os.close(stream)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    if session:
        os.setsid()
    if file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    first, *rest = arguments
    if first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(rest[0], {"__name__": "__main__"})
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(first).parent))
        runpy.run_path(first, run_name="__main__")


def run_warm(
    arguments: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    file_bytes: int | None = None,
) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end, as `subprocess.run` with `capture_output` and `text`."""
    return Warm(arguments, env=env, cwd=cwd, file_bytes=file_bytes).wait()


def _wait_for_all(running: Sequence[Warm], seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := [each.sentinel for each in running if each.poll() is None]) and time.monotonic() < end:
        multiprocessing.connection.wait(left, timeout=max(0.0, end - time.monotonic()))


@contextmanager
def ranks(count: int, arguments: Sequence[str | Path], *, file_bytes: int | None = None) -> Iterator[list[Warm]]:
    """Start a command in so many processes, with the store and the variables that torchrun gives them; kill what is left."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = os.environ | {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    running = [
        Warm(arguments, env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, file_bytes=file_bytes, session=True)
        for rank in range(count)
    ]
    try:
        yield running
    finally:
        for each in running:
            each.send(signal.SIGKILL)


def launch(
    count: int,
    arguments: Sequence[str | Path],
    *,
    file_bytes: int | None = None,
    grace_seconds: float = LAUNCHER_SECONDS,
) -> "subprocess.CompletedProcess[str]":
    """Run a command in so many processes as torchrun does. -> the first status that is not 0; the output of all

    When one fails, the others get SIGTERM, and SIGKILL if they have not ended after `grace_seconds`.
    """
    with ranks(count, arguments, file_bytes=file_bytes) as running:
        deadline, told = time.monotonic() + DEADLINE, False
        while None in (statuses := [each.poll() for each in running]):
            if not told and any(statuses):
                told, deadline = True, time.monotonic() + grace_seconds
                _wait_for_all(running, HEAD_START)
                for each in running:
                    each.send(signal.SIGTERM)
            if time.monotonic() > deadline:
                for each in running:
                    each.send(signal.SIGKILL)
            multiprocessing.connection.wait([each.sentinel for each in running if each.poll() is None], timeout=0.5)
        done = [each.wait() for each in running]
    status = next((each.returncode for each in done if each.returncode), 0)
    return subprocess.CompletedProcess(
        done[0].args, status, "".join(each.stdout for each in done), "".join(each.stderr for each in done)
    )


CLIENT = """#!PYTHON -IS
import json, os, signal, socket, sys

arguments = sys.argv[1:]
while arguments and (arguments[0] == "-u" or arguments[0].startswith("-X")):
    del arguments[0]
if not arguments or arguments[0].startswith("-") and arguments[0] != "-m":
    os.execv("PYTHON", ["PYTHON", *sys.argv[1:]])
passed_on = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
signal.pthread_sigmask(signal.SIG_BLOCK, passed_on)
server = socket.socket(socket.AF_UNIX)
server.connect("SOCKET")
request = {"arguments": arguments, "env": dict(os.environ), "cwd": os.getcwd()}
socket.send_fds(server, [json.dumps(request).encode() + b"\\n"], [0, 1, 2])
os.close(1)
os.close(2)
answers = server.makefile()
pid = int(answers.readline())
for number in passed_on:
    signal.signal(number, lambda number, _: os.kill(pid, number))
signal.pthread_sigmask(signal.SIG_UNBLOCK, passed_on)
status = int(answers.readline())
if status < 0:
    signal.signal(-status, signal.SIG_DFL) if -status not in (signal.SIGKILL, signal.SIGSTOP) else None
    os.kill(os.getpid(), -status)
os._exit(status)
"""
"""A `python` that runs modules and files in a process of the server, and everything else in Python itself."""


@contextmanager
def warm_python() -> Iterator[Path]:
    """Yield an executable that starts modules and files warm. Give it as `sys.executable`, or to torchrun as PYTHON_EXEC.

    The process has the executable's folder, environment, input, output and exit status. It receives its signals, and ends
    with it.
    """
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        client, address = Path(folder) / "python", str(Path(folder) / "socket")
        client.write_text(CLIENT.replace("PYTHON", sys.executable).replace("SOCKET", address))
        client.chmod(0o700)
        listener.bind(address)
        listener.listen()
        threading.Thread(target=_accept, args=(listener, str(client)), daemon=True).start()
        try:
            yield client
        finally:
            listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, client: str) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # shut down
            return
        threading.Thread(target=_attend, args=(connection, client), daemon=True).start()


def _attend(connection: socket.socket, client: str) -> None:
    """Run a client's command, and send its process id and its exit status."""
    with connection:
        words, streams, _, _ = socket.recv_fds(connection, 1 << 16, 3)
        while not words.endswith(b"\n"):
            words += connection.recv(1 << 16)
        request = json.loads(words)
        process = _start(streams, request["arguments"], request["env"], request["cwd"], None, False, client)
        connection.sendall(f"{process.pid}\n".encode())
        if process.sentinel not in multiprocessing.connection.wait([process.sentinel, connection]):
            os.kill(process.pid, signal.SIGKILL)  # the client was killed
            return
        with _STARTING:
            status = process.exitcode
        connection.sendall(f"{status}\n".encode())
