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
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Self

from sod.errors import OptionError
from sod.sandbox import Program, Result
from sod.sandbox.capture import Capture
from sod.sandbox.confinement import confinement, lacking
from sod.sandbox.handle import LONGEST_SECONDS, PATIENCE_SECONDS, Zygote, fill, follow, remove_folder, result_of
from sod.sandbox.sessions import LocalSession
from sod.sandbox.zygote import CONFINED, UNCONFINED

__all__ = ["LONGEST_SECONDS", "LocalSandbox", "check_names"]

LONGEST_FILE_NAME = 255
"""Limit on a file name, in bytes."""


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
        self._zygote: Zygote | None = None

    async def run(self, program: Program) -> Result:
        """Run one program as soon as a slot is free. No behaviour of a program raises an exception.

        Raises ValueError for a name in `files` or `copies` that is not a plain name.
        """
        check_names(program.files)
        check_names(program.copies)
        return await self._with_zygote(lambda zygote: _run(zygote, program))

    def session(self, seconds: float) -> LocalSession:
        """Return a new session. Its process starts with the first program, and takes a slot only while a program runs."""
        return LocalSession(self._with_zygote, seconds)

    async def close(self) -> None:
        """End every process that this sandbox started. A later `run` starts a new zygote."""
        if self._zygote is not None:
            self._zygote.stop("the sandbox was closed")
            self._zygote = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _with_zygote(self, work: Callable[[Zygote], Awaitable[Result]]) -> Result:
        if self._loop is not asyncio.get_running_loop():
            await self.close()
            self._loop, self._slots = asyncio.get_running_loop(), asyncio.Semaphore(self._workers)
        async with self._slots:
            try:
                return await work(self._living_zygote())
            except OSError as error:  # in the trainer: no descriptor, disk or process left
                return Result(status="sandbox_error", message=str(error))

    def _living_zygote(self) -> Zygote:
        if self._zygote is None or not self._zygote.is_alive():
            self._zygote = Zygote(asyncio.get_running_loop(), self._mode)
        return self._zygote


async def _run(zygote: Zygote, program: Program) -> Result:
    if not await zygote.is_ready():
        return Result(status="sandbox_error", message=zygote.message)
    number = next(zygote.numbers)
    folder = f"{zygote.root}/{secrets.token_hex(8)}"  # other programs cannot guess the name
    os.mkdir(folder, 0o700)
    try:
        await fill(folder, program)
        with Capture(program.output_bytes) as out, Capture(program.output_bytes) as err:
            child = await zygote.start(number, program, folder, [out.writer, err.writer])
            end = await follow(zygote, child, (out, err), program.seconds + PATIENCE_SECONDS)
            assert end is not None
            return result_of(program, end, out, err)
    finally:
        await remove_folder(folder)


def check_names(files: Mapping[str, str]) -> None:
    """Raises ValueError for a name that is not a plain file name and could leave the working directory."""
    for name in files:
        if name in ("", ".", "..") or "/" in name or "\0" in name or len(os.fsencode(name)) > LONGEST_FILE_NAME:
            raise ValueError(f"{name!r} is not a plain file name")


def _processors() -> int:
    """Return this machine's processors, divided by the number of `torchrun` processes on it."""
    return max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
