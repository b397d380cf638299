"""Run programs on this machine, each in a process forked from a warm one (`sod.sandbox.zygote`).

It protects from accidents: a program that loops, hangs, eats memory, floods its output, leaves processes or files
behind, or crashes its interpreter gets a result, and neither the trainer nor the next program notices. Programs see
neither the trainer's environment, nor its open files, nor each other's code and input.

It is NOT a security boundary yet: a program runs as the same user, can read every file that user can read (write and
delete likewise), reach the network, signal other processes, and escape the clean-up by starting a session of its own.
"""

import asyncio
import codecs
import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple, Self

from sod.sandbox import Program, Result, Status
from sod.sandbox.zygote import FAILED, KILL, LATE, REPORT, REQUEST, RUN, STARTED, kill_group, remove

OUTPUT_LIMIT = 16 << 20
"""Bytes a program may write to one stream before it is ended."""
PATIENCE_SECONDS = 30.0
"""How much longer than a program's own time the zygote may take to answer."""
STOP_SECONDS = 2.0
LONGEST_SECONDS = 1e6
LOST = b"X"
"""The end of a program whose zygote died, beside those that a zygote reports."""

# Not `-I`: it would ignore PYTHONHASHSEED. The environment is ours, so `-s -P` isolates as well.
COMMAND = (sys.executable, "-s", "-P", str(Path(__file__).with_name("zygote.py")))
ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONUTF8": "1",
    # A program gets one core; and the address space would not hold a BLAS thread for each of many.
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
LIBRARY_PATH = "LD_LIBRARY_PATH"
"""The one variable passed on: without it some interpreters do not find their own library."""


class LocalSandbox:
    """At most `workers` programs at a time (default: one a core), first come, first served.

    One event loop uses it at a time; a new loop gets a new zygote, which ends what the old loop left running.
    """

    def __init__(self, *, workers: int | None = None) -> None:
        self._workers = workers or os.cpu_count() or 1
        self._slots = asyncio.Semaphore(self._workers)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._zygote: _Zygote | None = None

    async def run(self, program: Program) -> Result:
        """Run one program when its turn comes. Never raises for what a program does."""
        if self._loop is not asyncio.get_running_loop():
            await self.close()
            self._loop, self._slots = asyncio.get_running_loop(), asyncio.Semaphore(self._workers)
        async with self._slots:
            try:
                return await _run(self._living_zygote(), program)
            except OSError as error:  # ours: no descriptor, disk or process left
                return Result(status="sandbox_error", message=str(error))

    async def close(self) -> None:
        """End every process that this sandbox started. A later `run` starts anew."""
        if self._zygote is not None:
            self._zygote.stop("the sandbox was closed")
            self._zygote = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _living_zygote(self) -> "_Zygote":
        if self._zygote is None or not self._zygote.is_alive():
            self._zygote = _Zygote(asyncio.get_running_loop())
        return self._zygote


class _End(NamedTuple):
    """The zygote's last report of a program."""

    kind: bytes
    value: int
    seconds: float
    message: str = ""


@dataclass(slots=True)
class _Child:
    number: int
    end: asyncio.Future[_End]
    pid: int | None = None


class _Zygote:
    """The zygote's process as seen from here: our end of its socket, and what it reported."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._children: dict[int, _Child] = {}
        self._unread = b""
        self._stopped = False
        self.numbers = itertools.count()
        self.root = tempfile.mkdtemp(prefix="sod-sandbox-")
        self._errors = _scratch_file("")
        self._channel, theirs = socket.socketpair()
        self._channel.setblocking(False)
        passed_on = {name: os.environ[name] for name in (LIBRARY_PATH,) if name in os.environ}
        try:
            self._process = subprocess.Popen(
                [*COMMAND, self.root],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                cwd=self.root,
                env=ENVIRONMENT | passed_on,
                start_new_session=True,
            )
        except OSError:
            self._channel.close()
            remove(self.root)
            raise
        finally:
            theirs.close()
        loop.add_reader(self._channel, self._read)

    def is_alive(self) -> bool:
        if not self._stopped and self._process.poll() is not None:
            self.stop()
        return not self._stopped

    async def start(self, number: int, program: Program, folder: str, outputs: list[int]) -> _Child:
        """Ask for a process; it starts when the zygote comes to it."""
        seconds = min(max(program.seconds, 0.0), LONGEST_SECONDS)
        request = REQUEST.pack(RUN, number, seconds, program.memory_mb << 20, program.show_last_value)
        with _scratch_file(program.code) as code, _scratch_file(program.stdin) as stdin, _opened(folder) as place:
            fds = [code.fileno(), stdin.fileno(), *outputs, place]
            while True:
                try:
                    socket.send_fds(self._channel, [request], fds)
                    break
                except BlockingIOError:  # the socket's queue is full
                    await asyncio.sleep(0.001)
        child = self._children[number] = _Child(number, self._loop.create_future())
        return child

    def kill(self, child: _Child) -> None:
        """Ask for the end of a program; if the request is lost, the program's own time limit ends it."""
        with contextlib.suppress(OSError):
            self._channel.send(REQUEST.pack(KILL, child.number, 0.0, 0, False))

    def stop(self, reason: str = "") -> None:
        """End the zygote and all its programs; those still running are reported as lost."""
        if self._stopped:
            return
        self._stopped = True
        if not self._loop.is_closed():
            self._loop.remove_reader(self._channel)
        self._channel.close()  # tells it to end its children, to tidy up and to exit
        try:
            code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        for child in self._children.values():
            if code != 0 and child.pid is not None:
                kill_group(child.pid)
        self._errors.seek(0)
        last = self._errors.read().decode(errors="replace").strip().rpartition("\n")[2]
        self._errors.close()
        remove(self.root)
        message = reason or f"the sandbox's zygote ended with exit code {code}" + (f": {last}" if last else "")
        for child in [] if self._loop.is_closed() else self._children.values():
            child.end.set_result(_End(LOST, 0, 0.0, message))

    def _read(self) -> None:
        """Take the reports that have come; at the end of the stream the zygote is dead."""
        try:
            data = self._channel.recv(65_536)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            self.stop()
            return
        data = self._unread + data
        whole = len(data) - len(data) % REPORT.size
        self._unread = data[whole:]
        for kind, number, value, seconds in REPORT.iter_unpack(data[:whole]):
            if number not in self._children:  # it failed, and its process is reported too
                continue
            if kind == STARTED:
                self._children[number].pid = value
            else:
                self._children.pop(number).end.set_result(_End(kind, value, seconds))


class _Capture:
    """A pipe that a program writes into: read as it fills; the head and the tail are kept."""

    def __init__(self, keep: int) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        self.total = 0
        self._head_room, self._tail_room = keep // 2, keep - keep // 2
        self._head, self._tail = bytearray(), bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.reader)
        self.close_writer()

    def close_writer(self) -> None:
        """Leave the program's side to the program."""
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def read(self) -> int:
        """Take what is there, once; the number of bytes, 0 at the end. Raises BlockingIOError if nothing is there."""
        data = os.read(self.reader, 65_536)
        self.total += len(data)
        room = self._head_room - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > self._tail_room + 1_000_000:
            self._trim()
        return len(data)

    def read_rest(self) -> None:
        """Take what is left when the program is gone; a process that got away may still hold the pipe open."""
        with contextlib.suppress(BlockingIOError):
            while self.total <= OUTPUT_LIMIT and self.read():
                pass

    def text(self) -> str:
        self._trim()
        if self.total == len(self._head) + len(self._tail):
            return (self._head + self._tail).decode(errors="replace")
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        head = decoder.decode(bytes(self._head))  # up to the last whole character
        cut = len(decoder.getstate()[0])
        first = next((i for i, byte in enumerate(self._tail[:4]) if byte & 0xC0 != 0x80), 0)
        omitted = self.total - len(self._head) - len(self._tail) + cut + first
        return f"{head}\n... [{omitted} bytes omitted] ...\n{self._tail[first:].decode(errors='replace')}"

    def _trim(self) -> None:
        del self._tail[: max(0, len(self._tail) - self._tail_room)]


async def _run(zygote: _Zygote, program: Program) -> Result:
    number = next(zygote.numbers)
    folder = f"{zygote.root}/{number}"
    os.mkdir(folder, 0o700)
    try:
        with _Capture(program.output_bytes) as out, _Capture(program.output_bytes) as err:
            child = await zygote.start(number, program, folder, [out.writer, err.writer])
            end = await _follow(zygote, child, (out, err), program.seconds + PATIENCE_SECONDS)
            return _result(end, out, err)
    finally:
        try:
            os.rmdir(folder)
        except OSError:  # not empty, and perhaps large
            await asyncio.to_thread(remove, folder)


async def _follow(zygote: _Zygote, child: _Child, streams: tuple[_Capture, ...], patience: float) -> _End:
    """Read what a program writes until its end."""
    loop = asyncio.get_running_loop()

    def take(stream: _Capture) -> None:
        ended = stream.read() == 0
        if ended or stream.total > OUTPUT_LIMIT:
            loop.remove_reader(stream.reader)
        if stream.total > OUTPUT_LIMIT:
            zygote.kill(child)

    for stream in streams:
        stream.close_writer()
        loop.add_reader(stream.reader, take, stream)
    try:
        await asyncio.wait({child.end}, timeout=patience)
        if not child.end.done():
            zygote.stop("the sandbox's zygote did not answer")
    except asyncio.CancelledError:
        zygote.kill(child)
        await asyncio.wait({child.end}, timeout=PATIENCE_SECONDS)
        raise
    finally:
        for stream in streams:
            loop.remove_reader(stream.reader)
    for stream in streams:
        stream.read_rest()
    return child.end.result()


def _result(end: _End, out: _Capture, err: _Capture) -> Result:
    if end.kind == LOST:
        return Result(status="sandbox_error", message=end.message)
    if end.kind == FAILED:
        return Result(status="sandbox_error", message=f"no process could be started: {os.strerror(end.value)}")
    code = os.waitstatus_to_exitcode(end.value)
    status: Status = "ok" if code == 0 else "error" if code > 0 else "signal"
    if max(out.total, err.total) > OUTPUT_LIMIT:
        status = "output_limit"
    elif end.kind == LATE or code == -signal.SIGXCPU:
        status = "timeout"
    return Result(
        status=status,
        stdout=out.text(),
        stderr=err.text(),
        exit_code=code if code >= 0 else None,
        signal=-code if code < 0 else None,
        seconds=end.seconds,
    )


def _scratch_file(text: str) -> IO[bytes]:
    """An open file without a name that holds the text, to be read from its start."""
    if sys.platform == "linux":
        file: IO[bytes] = os.fdopen(os.memfd_create("sod"), "w+b")
    else:
        file = tempfile.TemporaryFile()
    file.write(text.encode(errors="surrogatepass"))  # what no file can hold, the program's own reading refuses
    file.seek(0)
    return file


@contextlib.contextmanager
def _opened(folder: str) -> Iterator[int]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)
