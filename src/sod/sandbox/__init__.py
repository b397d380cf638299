"""The interface of every sandbox: run a `Program`, return a `Result`.

A program runs in a process of its own, or in a session: one process whose variables, imports and files live on between
programs. A `Result` reports how the *program* ended (`ok`, `error`, `timeout`, ...). If the sandbox itself fails, the status is
`sandbox_error`. Callers turn it into `sod.errors.SandboxError` and never show it to the student.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

Status = Literal["ok", "error", "timeout", "signal", "output_limit", "disk_limit", "sandbox_error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Python source and its limits. Outside a session, each program runs in a new process, and nothing survives it."""

    code: str
    stdin: str = ""
    seconds: float = 10.0
    """Wall-clock limit; CPU time is limited to the next whole second above it."""
    memory_mb: int = 2048
    """Address-space limit in MiB."""
    show_last_value: bool = False
    """Print the value of a trailing expression, unless it is None, as a notebook does. Nothing else changes."""
    output_bytes: int = 65_536
    """Bytes kept of stdout and of stderr, each: the head and the tail, with the number of omitted bytes between them."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Files in the working directory when the program starts: plain names mapped to text."""
    copies: Mapping[str, str] = field(default_factory=dict)
    """More such files: plain names mapped to paths of this machine, which are copied. The program can change its copies."""
    disk_mb: int = 64
    """Limit on the size of the working directory, in MiB. Checked ten times a second, so a program can overshoot."""
    max_files: int = 512
    """Limit on the number of files and directories in the working directory. Checked ten times a second as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a program ended, and its output."""

    status: Status
    stdout: str = ""
    stderr: str = ""
    exit_code: int | None = None
    """None if a signal ended the program."""
    signal: int | None = None
    seconds: float = 0.0
    """Wall-clock seconds from the start of the program's process to its end, without queueing."""
    cpu_seconds: float = 0.0
    """Processor time, user and system. If it is far below `seconds` in a time-out, the machine was busy or the program
    slept."""
    memory_mb: float = 0.0
    """Peak resident memory, in MiB."""
    stdout_bytes: int = 0
    """Bytes that the program wrote to stdout, omitted bytes included."""
    stderr_bytes: int = 0
    message: str = ""
    """For `sandbox_error`: what failed."""
    session: str = ""
    """A sentence for the student if the session ended: what ended, and what is lost. Empty while the session goes on."""


class Sandbox(Protocol):
    """Runs programs; callers may run many concurrently."""

    async def run(self, program: Program) -> Result: ...

    async def close(self) -> None:
        """End every process that this sandbox started."""
        ...


class Session(Protocol):
    """Runs programs one after another in one process, as the cells of a notebook. The first one starts the process.

    A program that is stopped, or that ends its process, ends the session; `Result.session` reports it. The next program starts
    a new process.
    """

    async def run(self, program: Program) -> Result:
        """Run one program. The files and the limits of memory and disk are those of a process's first program."""
        ...

    async def close(self) -> None:
        """End the process and remove its files."""
        ...


@runtime_checkable
class SessionSandbox(Sandbox, Protocol):
    """A sandbox that can open sessions."""

    def session(self, seconds: float) -> Session:
        """Return a new session. `seconds`: wall-clock limit of all its programs together."""
        ...
