"""Start `sod` commands warm: forked from a server that has imported PyTorch, Transformers and sod.

Python imports them in several seconds of a processor; a fork takes none. A warm command is like any other: it has its own
environment, output, signals and exit status. Its input is empty.

The server, `python -m sod.processes.warm`, has one thread. Its standard input is a socket. A request is the words and the
environment of a command as JSON, with two descriptors: the output of the command, and a socket that receives the process id and
later the exit status, a line each. The server exits when the other end of its input is closed, also because the process there
was killed. Running commands then receive SIGTERM: they save their work, and another `sod compare` finds no run in use.
"""

import asyncio
import atexit
import ctypes
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path

ACCELERATORS = ("/dev/nvidiactl", "/dev/kfd", "/dev/accel")
REQUEST_BYTES = 1 << 20
SIGNAL_AT_PARENTS_END = 1
"""Operation of prctl(2) that is named PR_SET_PDEATHSIG."""
UNKNOWN_STATUS = -int(signal.SIGKILL)
"""Exit status of a command whose server was killed: its own is not known."""


def can_start_warm() -> bool:
    """Return whether commands can be forked here: on Linux, and without an accelerator.

    A process that has asked for CUDA devices cannot use them in its forks, and packages may ask when they are imported.
    """
    return sys.platform == "linux" and not any(Path(device).exists() for device in ACCELERATORS)


class WarmCommand:
    """A running command, with the members of `asyncio.subprocess.Process` that a caller needs."""

    def __init__(self, pid: int, stdout: asyncio.StreamReader, status: "asyncio.Future[int]"):
        self.pid, self.stdout, self._status = pid, stdout, status

    @property
    def returncode(self) -> int | None:
        return self._status.result() if self._status.done() else None

    async def wait(self) -> int:
        """Wait for the end and return the exit status; minus the number of a signal that ended the command."""
        return await asyncio.shield(self._status)

    def terminate(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)


class WarmServer:
    def __init__(self, environment: Mapping[str, str]):
        """`environment`: of the server, for variables that packages read when they are imported, such as OMP_NUM_THREADS."""
        self._channel, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sod.processes.warm"],
                stdin=other.fileno(),
                stdout=subprocess.DEVNULL,
                env=dict(environment),
            )

    def close(self) -> None:
        """End the server, which sends SIGTERM to the commands that run."""
        self._channel.close()
        self.process.terminate()
        self.process.wait()

    async def start(self, words: Sequence[str], environment: Mapping[str, str]) -> WarmCommand:
        """Start `sod WORDS` in the current directory. Raise OSError if the server has ended."""
        output, its_output = os.pipe()
        status, its_status = socket.socketpair()
        request = json.dumps({"words": list(words), "environment": dict(environment), "folder": os.getcwd()})
        try:
            socket.send_fds(self._channel, [request.encode()], [its_output, its_status.fileno()])
        except OSError:
            os.close(output)
            status.close()
            raise
        finally:
            os.close(its_output)
            its_status.close()
        loop = asyncio.get_running_loop()
        lines, told = asyncio.StreamReader(), asyncio.StreamReader()
        for reader, end in ((lines, os.fdopen(output, "rb")), (told, status)):
            await loop.connect_read_pipe(functools.partial(asyncio.StreamReaderProtocol, reader), end)
        pid = await told.readline()
        if not pid:
            raise BrokenPipeError("The server of warm commands has ended.")
        return WarmCommand(int(pid), lines, loop.create_task(_status(told)))


async def _status(told: asyncio.StreamReader) -> int:
    return int(await told.read() or UNKNOWN_STATUS)


servers: dict[str | None, WarmServer] = {}
"""The server for each value of OMP_NUM_THREADS."""


async def start_warm(words: Sequence[str], environment: Mapping[str, str]) -> WarmCommand:
    """Start `sod WORDS`. The first call with a value of OMP_NUM_THREADS starts a server. Raise OSError if it has ended."""
    threads = environment.get("OMP_NUM_THREADS")
    server = servers.get(threads)
    if server is not None and server.process.poll() is not None:
        atexit.unregister(server.close)
        server.close()
        server = None
    if server is None:
        server = servers[threads] = WarmServer(environment)
        atexit.register(server.close)
    return await server.start(words, environment)


def _serve(channel: socket.socket) -> list[str] | None:
    """Fork for each request. -> in the fork: the words of its command; in the server: None, when it must end"""
    running: dict[int, socket.socket] = {}
    server = os.getpid()
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([channel, wake], [], [])
        if wake in ready:
            os.read(wake, 4096)
            _reap(running)
        if channel not in ready:
            continue
        data, descriptors, _, _ = socket.recv_fds(channel, REQUEST_BYTES, 2)
        if not data:
            return None
        output, status = descriptors
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            for each in (*running.values(), socket.socket(fileno=status)):
                each.close()
            os.close(wake)
            os.close(waker)
            channel.detach()
            return _become(json.loads(data), output, server)
        os.close(output)
        running[pid] = socket.socket(fileno=status)
        _tell(running[pid], pid)


def _tell(listener: socket.socket, number: int) -> None:
    with suppress(OSError):  # the caller was killed
        listener.sendall(f"{number}\n".encode())


def _reap(running: dict[int, socket.socket]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with running.pop(pid) as listener:
            _tell(listener, os.waitstatus_to_exitcode(status))


def _become(request: dict[str, object], output: int, server: int) -> list[str]:
    """Give a fork its input, output, signals, environment and folder. Return the words of its command."""
    end_with(server)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(output)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    environment, words = request["environment"], request["words"]
    assert isinstance(environment, dict)
    assert isinstance(words, list)
    os.environ.clear()
    os.environ.update(environment)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()  # as in a new process; Python's own generator is seeded by each fork
    os.chdir(str(request["folder"]))
    return words


def end_with(parent: int) -> None:
    """Let this process receive SIGTERM, upon which a command saves its work, when its parent has ended."""
    ctypes.CDLL(None, use_errno=True).prctl(SIGNAL_AT_PARENTS_END, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # before that call
        os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the commands themselves
    import_module("sod.processes.preloaded")
    words = _serve(socket.socket(fileno=0))
    if words is not None:
        sys.argv = ["sod", *words]
        import_module("sod.cli").main()


if __name__ == "__main__":
    main()
