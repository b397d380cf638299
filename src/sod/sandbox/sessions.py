"""A session of the local sandbox: programs that run one after another in one confined process.

The process is a fork of the zygote (`sod.sandbox.session_child`). The zygote enforces the limits of each program and stops the
process between programs. The working directory lives as long as the session, also if its process ends.
"""

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace

from sod.sandbox import Program, Result
from sod.sandbox.capture import Capture
from sod.sandbox.handle import (
    LOST,
    PATIENCE_SECONDS,
    Handle,
    ProgramEnd,
    Zygote,
    fill,
    follow,
    input_of,
    remove_folder,
    result_of,
)
from sod.sandbox.session_child import ANSWER, CALL, SOCKET_TYPE
from sod.sandbox.zygote import ENDED, PAUSED

KEPT = "All variables and imports are lost; files are kept."
NOTHING_KEPT = "All variables, imports and files are lost."


@dataclass(slots=True)
class Process:
    """The running process of a session."""

    zygote: Zygote
    handle: Handle
    channel: socket.socket
    calls: int = 0
    seconds: float = 0.0
    """Wall-clock seconds of its programs so far."""
    cpu_seconds: float = 0.0

    def answer_to(self, data: bytes) -> ProgramEnd | None:
        """Return the end of the current call; None for bytes that are no answer to it."""
        if len(data) != ANSWER.size or ANSWER.unpack(data)[0] != self.calls:
            return None
        _, exit_code, cpu_seconds, memory_mb = ANSWER.unpack(data)
        spent, self.cpu_seconds = cpu_seconds - self.cpu_seconds, cpu_seconds
        return ProgramEnd(ENDED, (exit_code & 0xFF) << 8, cpu_seconds=spent, memory_mb=memory_mb)


class LocalSession:
    """Runs its programs one at a time. A program that ends the process ends the session; the next one starts a new process."""

    def __init__(
        self, with_zygote: Callable[[Callable[[Zygote], Awaitable[Result]]], Awaitable[Result]], seconds: float
    ):
        self._with_zygote = with_zygote
        self._seconds = seconds
        self._process: Process | None = None
        self._folder = ""
        self._turn = asyncio.Lock()

    async def run(self, program: Program) -> Result:
        """Run a program as soon as a slot is free. No behaviour of a program raises an exception."""
        async with self._turn:
            return await self._with_zygote(lambda zygote: self._run(zygote, program))

    async def close(self) -> None:
        """End the process and remove the working directory."""
        if self._process is not None:
            process = self._process
            self._drop()
            process.zygote.kill(process.handle)
            await asyncio.wait({process.handle.end}, timeout=PATIENCE_SECONDS)
        if self._folder:
            folder, self._folder = self._folder, ""
            await remove_folder(folder)

    async def _run(self, zygote: Zygote, program: Program) -> Result:
        if not await zygote.is_ready():
            return Result(status="sandbox_error", message=zygote.message)
        note = ""
        if (process := self._process) is not None and (process.handle.end.done() or process.zygote is not zygote):
            self._drop()
            if process.zygote is not zygote or process.handle.end.result().kind == LOST:
                self._folder = ""  # removed with the zygote's root
                return Result(status="sandbox_error", message=f"the session was lost: {process.zygote.message}")
            note = f"The session ended between two calls, so this call ran in a new one. {KEPT}"
        try:
            if self._process is None:
                self._process = await self._start(zygote, program)
            result = await self._call(self._process, program)
        except BaseException:  # also a cancelled call: its program may still run
            await self.close()
            raise
        return replace(result, session=result.session or note)

    async def _start(self, zygote: Zygote, program: Program) -> Process:
        if not self._folder or not os.path.isdir(self._folder):
            self._folder = f"{zygote.root}/{secrets.token_hex(8)}"  # other programs cannot guess the name
            os.mkdir(self._folder, 0o700)
            await fill(self._folder, program)
        ours, theirs = socket.socketpair(socket.AF_UNIX, SOCKET_TYPE)
        ours.setblocking(False)
        with theirs:
            try:
                handle = await zygote.open(next(zygote.numbers), program, self._seconds, self._folder, theirs)
            except BaseException:
                ours.close()
                raise
        return Process(zygote, handle, ours)

    async def _call(self, process: Process, program: Program) -> Result:
        zygote, handle = process.zygote, process.handle
        process.calls += 1
        left = self._seconds - process.seconds
        seconds = min(program.seconds, left)
        answer: asyncio.Future[ProgramEnd] = asyncio.get_running_loop().create_future()
        with Capture(program.output_bytes) as out, Capture(program.output_bytes) as err:
            await zygote.call(handle, seconds)
            with (
                input_of(program) as inputs,
                contextlib.suppress(BrokenPipeError, ConnectionResetError),
            ):  # it has ended
                head = CALL.pack(process.calls, program.show_last_value)
                socket.send_fds(process.channel, [head], [*inputs, out.writer, err.writer])
            with _listening(process, answer):
                end = await follow(zygote, handle, (out, err), seconds + PATIENCE_SECONDS, answer)
            last = end or await zygote.pause(handle)
            if last.kind == PAUSED:
                last = answer.result()._replace(seconds=last.seconds)
            else:  # the end of the process; it counts the processor time of all calls
                last = last._replace(cpu_seconds=max(0.0, last.cpu_seconds - process.cpu_seconds))
            result = result_of(program, last, out, err)
        process.seconds += result.seconds
        if handle.end.done():
            self._drop()
            return await self._ended(result, left <= program.seconds)
        return result

    async def _ended(self, result: Result, is_spent: bool) -> Result:
        """Add what is lost to the result of a program that ended its session. Too many or too large files are removed."""
        if result.status == "sandbox_error":
            return result
        lost = KEPT
        if result.status == "disk_limit":
            folder, self._folder, lost = self._folder, "", NOTHING_KEPT
            await remove_folder(folder)
        cause = f"The session ended at its limit of {self._seconds:g} s of running programs."
        if not (is_spent and result.status == "timeout"):
            cause = "The session ended with this call."
        return replace(result, session=f"{cause} {lost} The next call starts a new session.")

    def _drop(self) -> None:
        if self._process is not None:
            self._process.channel.close()
            self._process = None


@contextlib.contextmanager
def _listening(process: Process, answer: "asyncio.Future[ProgramEnd]") -> Iterator[None]:
    """Set `answer` when the process sends it."""
    loop = asyncio.get_running_loop()

    def take() -> None:
        try:
            data = process.channel.recv(ANSWER.size + 1)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:  # closed; the process ends, or its time limit ends it
            loop.remove_reader(process.channel)
        elif (end := process.answer_to(data)) is not None and not answer.done():
            answer.set_result(end)

    loop.add_reader(process.channel, take)
    try:
        yield
    finally:
        loop.remove_reader(process.channel)
