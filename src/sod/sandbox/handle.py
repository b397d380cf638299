"""The trainer's side of a zygote (`sod.sandbox.zygote`): its process, its socket, and how each of its programs ended."""

import asyncio
import contextlib
import fcntl
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from sod.sandbox import Program, Result, Status
from sod.sandbox.capture import OUTPUT_LIMIT, Capture
from sod.sandbox.child import cpu_seconds
from sod.sandbox.folders import make_root, remove
from sod.sandbox.interpreter import command, environment
from sod.sandbox.zygote import (
    CALL,
    FAILED,
    FULL,
    KILL,
    LATE,
    LOAD,
    LOADED_LATER,
    OPEN,
    PAUSE,
    PAUSED,
    READY,
    REPORT,
    REQUEST,
    RUN,
    STARTED,
    kill_group,
)

START_SECONDS = 120.0
"""Seconds that a zygote may take to preload its packages."""
PATIENCE_SECONDS = 30.0
"""Seconds that the zygote may take to respond in addition to a program's time limit."""
STOP_SECONDS = 2.0
LONGEST_SECONDS = 1e6
LOST = b"X"
"""End of a program after its zygote died. The zygote reports all other ends."""


class ProgramEnd(NamedTuple):
    """The zygote's last report of a program."""

    kind: bytes
    value: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    memory_mb: float = 0.0
    message: str = ""


@dataclass(slots=True)
class Handle:
    """A process of the zygote."""

    number: int
    end: asyncio.Future[ProgramEnd]
    pid: int | None = None
    paused: asyncio.Future[ProgramEnd] | None = None
    """Sessions only: set when the zygote has stopped the process after a call."""


class Zygote:
    """The trainer's handle on the zygote's process: its end of the socket, and the reports received."""

    def __init__(self, loop: asyncio.AbstractEventLoop, mode: str) -> None:
        self._loop = loop
        self._ready: asyncio.Future[None] = loop.create_future()
        self._children: dict[int, Handle] = {}
        self._unread = b""
        self._stopped = False
        self._loaded = False
        """Whether it was asked to load what it does not load at its start."""
        self.numbers = itertools.count()
        self.message = ""
        """Why it was stopped."""
        self.root, self._lock = make_root()
        self._errors = _scratch_file("")
        self._channel, theirs = socket.socketpair()
        self._channel.setblocking(False)
        try:
            self._process = subprocess.Popen(
                command("sod.sandbox.zygote", "main", self.root, mode),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                cwd=self.root,
                env=environment(),
                start_new_session=True,
            )
        except OSError:
            self._channel.close()
            self._errors.close()
            self._remove_root()
            raise
        finally:
            theirs.close()
        loop.add_reader(self._channel, self._read)

    def is_alive(self) -> bool:
        if not self._stopped and (self._process.poll() is not None or not os.path.isdir(self.root)):
            self.stop()
        return not self._stopped

    async def is_ready(self) -> bool:
        """Wait until the zygote has preloaded its packages; return False if it failed."""
        await asyncio.wait({self._ready}, timeout=START_SECONDS)
        if not self._ready.done():
            self.stop(f"the sandbox's zygote was not ready within {START_SECONDS:.0f} seconds")
        return not self._stopped

    async def start(self, number: int, program: Program, folder: str, outputs: list[int]) -> Handle:
        """Request a process for a program; the zygote starts it when it reads the request."""
        if any(LOADED_LATER in text for text in (program.code, *program.files.values())):
            await self._load()
        with input_of(program) as inputs, opened(folder) as place:
            return await self._start(RUN, number, program, program.seconds, [*inputs, *outputs, place])

    async def open(self, number: int, first: Program, seconds: float, folder: str, channel: socket.socket) -> Handle:
        """Request a process for a session with its socket, and the limits of its first program."""
        await self._load()  # a later program of the session may need it, and could not share it
        with _sealed(_scratch_file("")) as empty, opened(folder) as place:
            fds = [channel.fileno(), *3 * [empty.fileno()], place]
            return await self._start(OPEN, number, first, seconds, fds)

    async def _start(self, kind: bytes, number: int, program: Program, seconds: float, fds: list[int]) -> Handle:
        seconds = min(max(seconds, 0.0), LONGEST_SECONDS)
        memory, disk = program.memory_mb << 20, program.disk_mb << 20
        request = REQUEST.pack(kind, number, seconds, memory, program.show_last_value, disk, program.max_files)
        await self._send(request, fds)
        child = self._children[number] = Handle(number, self._loop.create_future())
        return child

    async def _load(self) -> None:
        """Request that what few programs need is loaded before the next process starts."""
        if not self._loaded:
            self._loaded = True
            await self._send(REQUEST.pack(LOAD, 0, 0.0, 0, False, 0, 0))

    async def _send(self, request: bytes, fds: Sequence[int] = ()) -> None:
        while True:
            try:
                socket.send_fds(self._channel, [request], fds)
                return
            except BlockingIOError:  # the socket's queue is full
                await asyncio.sleep(0.001)

    async def call(self, child: Handle, seconds: float) -> None:
        """Let a session's process run for at most so many seconds."""
        await self._change(CALL, child, min(max(seconds, 0.0), LONGEST_SECONDS))

    async def pause(self, child: Handle) -> ProgramEnd:
        """Stop a session's process until its next call. Return the end of the call, or of the process."""
        child.paused = self._loop.create_future()
        await self._change(PAUSE, child, 0.0)
        await asyncio.wait({child.paused, child.end}, timeout=PATIENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not child.end.done() and not child.paused.done():
            self.stop("the sandbox's zygote did not answer")
        return child.end.result() if child.end.done() else child.paused.result()

    async def _change(self, kind: bytes, child: Handle, seconds: float) -> None:
        while not child.end.done():
            try:
                self._channel.send(REQUEST.pack(kind, child.number, seconds, 0, False, 0, 0))
                break
            except BlockingIOError:
                await asyncio.sleep(0.001)

    def kill(self, child: Handle) -> None:
        """Request the end of a program. If the request is lost, the program's time limit ends it."""
        with contextlib.suppress(OSError):
            self._channel.send(REQUEST.pack(KILL, child.number, 0.0, 0, False, 0, 0))

    def stop(self, reason: str = "") -> None:
        """End the zygote and all its programs; those still running are reported as lost."""
        if self._stopped:
            return
        self._stopped = True
        if not self._loop.is_closed():
            self._loop.remove_reader(self._channel)
        self._channel.close()  # makes the zygote kill its children, clean up and exit
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
        self._remove_root()
        self.message = reason or f"the sandbox's zygote ended with exit code {code}" + (f": {last}" if last else "")
        if self._loop.is_closed():
            return
        if not self._ready.done():
            self._ready.set_result(None)
        for child in self._children.values():
            child.end.set_result(ProgramEnd(LOST, message=self.message))

    def _remove_root(self) -> None:
        remove(self.root)
        os.close(self._lock)

    def _read(self) -> None:
        """Read the reports received. The end of the stream means that the zygote is dead."""
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
        for kind, number, *values in REPORT.iter_unpack(data[:whole]):
            if kind == READY:
                self._ready.set_result(None)
            elif number not in self._children:  # already reported as FAILED; this is the end of its process
                continue
            elif kind == STARTED:
                self._children[number].pid = values[0]
            elif kind == PAUSED:
                paused = self._children[number].paused
                if paused is not None and not paused.done():
                    paused.set_result(ProgramEnd(kind, *values))
            else:
                self._children.pop(number).end.set_result(ProgramEnd(kind, *values))


async def fill(folder: str, program: Program) -> None:
    """Write the program's files into its directory."""
    for name, text in program.files.items():
        Path(folder, name).write_bytes(_encoded(text))
    if program.copies:
        await asyncio.to_thread(_copy, folder, program.copies)


def _copy(folder: str, copies: Mapping[str, str]) -> None:
    for name, path in copies.items():
        shutil.copyfile(path, f"{folder}/{name}")


async def remove_folder(folder: str) -> None:
    try:
        os.rmdir(folder)
    except OSError:  # not empty, and perhaps large
        await asyncio.to_thread(remove, folder)


async def follow(
    zygote: Zygote,
    child: Handle,
    streams: tuple[Capture, ...],
    patience: float,
    answer: "asyncio.Future[ProgramEnd] | None" = None,
) -> ProgramEnd | None:
    """Read a program's output until its end. -> None if a session has sent its `answer` instead"""
    loop = asyncio.get_running_loop()

    def take(stream: Capture) -> None:
        ended = stream.read() == 0
        if ended or stream.total > OUTPUT_LIMIT:
            loop.remove_reader(stream.reader)
        if stream.total > OUTPUT_LIMIT:
            zygote.kill(child)

    for stream in streams:
        stream.close_writer()
        loop.add_reader(stream.reader, take, stream)
    events: set[asyncio.Future[Any]] = {child.end} if answer is None else {child.end, answer}
    try:
        done, _ = await asyncio.wait(events, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        if not done:
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
    return child.end.result() if child.end.done() else None


def result_of(program: Program, end: ProgramEnd, out: Capture, err: Capture) -> Result:
    if end.kind == LOST:
        return Result(status="sandbox_error", message=end.message)
    if end.kind == FAILED:
        return Result(status="sandbox_error", message=f"no process could be started: {os.strerror(end.value)}")
    code = os.waitstatus_to_exitcode(end.value)
    return Result(
        status=_status(program, end, code, max(out.total, err.total)),
        stdout=out.text(),
        stderr=err.text(),
        exit_code=code if code >= 0 else None,
        signal=-code if code < 0 else None,
        seconds=end.seconds,
        cpu_seconds=end.cpu_seconds,
        memory_mb=end.memory_mb,
        stdout_bytes=out.total,
        stderr_bytes=err.total,
    )


def _status(program: Program, end: ProgramEnd, code: int, written: int) -> Status:
    if written > OUTPUT_LIMIT:
        return "output_limit"
    if end.kind == FULL:
        return "disk_limit"
    # A program that ignores SIGXCPU is killed a second later.
    spent = code == -signal.SIGKILL and end.cpu_seconds > cpu_seconds(program.seconds)
    if end.kind == LATE or code == -signal.SIGXCPU or spent:
        return "timeout"
    return "ok" if code == 0 else "error" if code > 0 else "signal"


def _encoded(text: str) -> bytes:
    """Encode text for a program. Lone surrogates pass; decoding fails in the program if it reads them strictly."""
    return text.encode(errors="surrogatepass")


def _scratch_file(text: str) -> IO[bytes]:
    """Return an open file without a name that holds the text, positioned at its start."""
    if sys.platform != "linux":
        file: IO[bytes] = tempfile.TemporaryFile()
    else:
        file = os.fdopen(os.memfd_create("sod", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "w+b")
    file.write(_encoded(text))
    file.seek(0)
    return file


def _sealed(file: IO[bytes]) -> IO[bytes]:
    """Make the file read-only for all processes (Linux only), because a program gets it as its input."""
    file.flush()
    if sys.platform == "linux":
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    return file


@contextlib.contextmanager
def input_of(program: Program) -> Iterator[list[int]]:
    """Open the program's code and input as descriptors."""
    with _sealed(_scratch_file(program.code)) as code, _sealed(_scratch_file(program.stdin)) as stdin:
        yield [code.fileno(), stdin.fileno()]


@contextlib.contextmanager
def opened(folder: str) -> Iterator[int]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)
