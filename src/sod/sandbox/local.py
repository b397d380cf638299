"""Run programs on this machine, each in a process forked from a preloaded one (`sod.sandbox.zygote`).

On Linux the kernel confines every program (`sod.sandbox.confinement`). A program can only access the interpreter and a
directory of its own. It cannot use a network, start a process or signal other processes. A program that loops, hangs, uses
up memory, floods its output, fills the disk, leaves files behind or crashes its interpreter gets a result. Neither the
trainer nor the next program is affected. `sod.sandbox.zygote` enforces the time limit, and `sod.sandbox.child` the limits of
memory and processor time. docs/security.md lists what this does not protect from.

If the kernel cannot confine programs, the sandbox refuses to start, except with `unsafe=True`. Then only the resource limits
apply, and a program can do everything its user can do.
"""

import asyncio
import contextlib
import fcntl
import itertools
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple, Self

from sod.errors import OptionError
from sod.sandbox import Program, Result, Status
from sod.sandbox.capture import OUTPUT_LIMIT, Capture
from sod.sandbox.child import cpu_seconds
from sod.sandbox.confinement import confinement, lacking
from sod.sandbox.folders import make_root, remove
from sod.sandbox.interpreter import command, environment
from sod.sandbox.zygote import (
    CONFINED,
    FAILED,
    FULL,
    KILL,
    LATE,
    READY,
    REPORT,
    REQUEST,
    RUN,
    STARTED,
    UNCONFINED,
    kill_group,
)

START_SECONDS = 120.0
"""Seconds that a zygote may take to preload its packages."""
PATIENCE_SECONDS = 30.0
"""Seconds that the zygote may take to respond in addition to a program's time limit."""
STOP_SECONDS = 2.0
LONGEST_SECONDS = 1e6
LONGEST_NAME = 255
"""Limit on a file name, in bytes."""
LOST = b"X"
"""End of a program after its zygote died. The zygote reports all other ends."""


class LocalSandbox:
    """Runs at most `workers` programs at a time, in order of arrival. Default: one per core.

    One event loop uses it at a time. A new loop gets a new zygote, and programs of the old loop are killed.
    """

    def __init__(self, *, workers: int | None = None, unsafe: bool = False) -> None:
        """Raises OptionError if programs cannot be run here, or cannot be confined and `unsafe` is False."""
        if cause := lacking():
            raise OptionError(f"Programs cannot be run here. {cause}")
        if not unsafe and (missing := confinement().missing):
            raise OptionError(
                f"Programs cannot be confined on this machine: {'; '.join(missing)}. Run them on a server "
                "(sandbox.backend = fusion, with sandbox.url), or, if they may do all that you can do, with resource limits "
                "only (sandbox.backend = unsafe_subprocess). See docs/security.md."
            )
        self._mode = UNCONFINED if unsafe else CONFINED
        self._workers = workers or _processors()
        self._slots = asyncio.Semaphore(self._workers)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._zygote: _Zygote | None = None

    async def run(self, program: Program) -> Result:
        """Run one program as soon as a slot is free. No behaviour of a program raises an exception.

        Raises ValueError for a name in `files` that is not a plain name.
        """
        check_names(program.files)
        if self._loop is not asyncio.get_running_loop():
            await self.close()
            self._loop, self._slots = asyncio.get_running_loop(), asyncio.Semaphore(self._workers)
        async with self._slots:
            try:
                return await _run(self._living_zygote(), program)
            except OSError as error:  # in the trainer: no descriptor, disk or process left
                return Result(status="sandbox_error", message=str(error))

    async def close(self) -> None:
        """End every process that this sandbox started. A later `run` starts a new zygote."""
        if self._zygote is not None:
            self._zygote.stop("the sandbox was closed")
            self._zygote = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _living_zygote(self) -> "_Zygote":
        if self._zygote is None or not self._zygote.is_alive():
            self._zygote = _Zygote(asyncio.get_running_loop(), self._mode)
        return self._zygote


class _End(NamedTuple):
    """The zygote's last report of a program."""

    kind: bytes
    value: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    memory_mb: float = 0.0
    message: str = ""


@dataclass(slots=True)
class _Child:
    number: int
    end: asyncio.Future[_End]
    pid: int | None = None


class _Zygote:
    """The trainer's handle on the zygote's process: its end of the socket, and the reports received."""

    def __init__(self, loop: asyncio.AbstractEventLoop, mode: str) -> None:
        self._loop = loop
        self._ready: asyncio.Future[None] = loop.create_future()
        self._children: dict[int, _Child] = {}
        self._unread = b""
        self._stopped = False
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

    async def start(self, number: int, program: Program, folder: str, outputs: list[int]) -> _Child:
        """Request a process for a program; the zygote starts it when it reads the request."""
        seconds = min(max(program.seconds, 0.0), LONGEST_SECONDS)
        memory, disk = program.memory_mb << 20, program.disk_mb << 20
        request = REQUEST.pack(RUN, number, seconds, memory, program.show_last_value, disk, program.max_files)
        with (
            _sealed(_scratch_file(program.code)) as code,
            _sealed(_scratch_file(program.stdin)) as stdin,
            _opened(folder) as place,
        ):
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
            child.end.set_result(_End(LOST, message=self.message))

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
            else:
                self._children.pop(number).end.set_result(_End(kind, *values))


async def _run(zygote: _Zygote, program: Program) -> Result:
    if not await zygote.is_ready():
        return Result(status="sandbox_error", message=zygote.message)
    number = next(zygote.numbers)
    folder = f"{zygote.root}/{secrets.token_hex(8)}"  # other programs cannot guess the name
    os.mkdir(folder, 0o700)
    try:
        for name, text in program.files.items():
            Path(folder, name).write_bytes(_encoded(text))
        with Capture(program.output_bytes) as out, Capture(program.output_bytes) as err:
            child = await zygote.start(number, program, folder, [out.writer, err.writer])
            end = await _follow(zygote, child, (out, err), program.seconds + PATIENCE_SECONDS)
            return _result(program, end, out, err)
    finally:
        try:
            os.rmdir(folder)
        except OSError:  # not empty, and perhaps large
            await asyncio.to_thread(remove, folder)


async def _follow(zygote: _Zygote, child: _Child, streams: tuple[Capture, ...], patience: float) -> _End:
    """Read a program's output until its end."""
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


def _result(program: Program, end: _End, out: Capture, err: Capture) -> Result:
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


def _status(program: Program, end: _End, code: int, written: int) -> Status:
    if written > OUTPUT_LIMIT:
        return "output_limit"
    if end.kind == FULL:
        return "disk_limit"
    # A program that ignores SIGXCPU is killed a second later.
    spent = code == -signal.SIGKILL and end.cpu_seconds > cpu_seconds(program.seconds)
    if end.kind == LATE or code == -signal.SIGXCPU or spent:
        return "timeout"
    return "ok" if code == 0 else "error" if code > 0 else "signal"


def check_names(files: Mapping[str, str]) -> None:
    """Raises ValueError for a name that is not a plain file name and could leave the working directory."""
    for name in files:
        if name in ("", ".", "..") or "/" in name or "\0" in name or len(os.fsencode(name)) > LONGEST_NAME:
            raise ValueError(f"{name!r} is not a plain file name")


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
def _opened(folder: str) -> Iterator[int]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def _processors() -> int:
    """Return this machine's processors, divided by the number of `torchrun` processes on it."""
    return max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
