"""The interface of every sandbox: run a `Program`, return a `Result`.

A `Result` reports how the *program* ended (`ok`, `error`, `timeout`, ...). If the sandbox itself fails, the status is
`sandbox_error`. Callers turn it into `sod.errors.SandboxError` and never show it to the student.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

Status = Literal["ok", "error", "timeout", "signal", "output_limit", "disk_limit", "sandbox_error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Python source and its limits. Each program runs in a new process, and nothing survives it."""

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


class Sandbox(Protocol):
    """Runs programs; callers may run many concurrently."""

    async def run(self, program: Program) -> Result: ...

    async def close(self) -> None:
        """End every process that this sandbox started."""
        ...
