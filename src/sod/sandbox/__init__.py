"""Run a program, get a result: the contract of every sandbox.

A sandbox reports what a *program* did (`ok`, `error`, `timeout`, ...) as a `Result`. When the sandbox itself is at
fault, the status is `sandbox_error`; callers turn it into `sod.errors.SandboxError` and never show it to the student.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

Status = Literal["ok", "error", "timeout", "signal", "output_limit", "disk_limit", "sandbox_error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Python source and what it may use. One program is one process; nothing survives it."""

    code: str
    stdin: str = ""
    seconds: float = 10.0
    """Wall-clock limit; CPU time is limited to the next whole second above it."""
    memory_mb: int = 2048
    """Address-space limit in MiB."""
    show_last_value: bool = False
    """Print the value of a trailing expression, unless it is None, as a notebook does. Nothing else of the program
    changes."""
    output_bytes: int = 65_536
    """Bytes kept of stdout, and of stderr: the head and the tail, with the number of omitted bytes between them."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Files that stand in the working directory when the program starts: plain names, and their text."""
    disk_mb: int = 64
    """What the working directory may hold, in MiB; it is looked at ten times a second, so a program can overshoot."""
    max_files: int = 512
    """Files and directories that the working directory may hold; likewise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a program did."""

    status: Status
    stdout: str = ""
    stderr: str = ""
    exit_code: int | None = None
    """None when a signal ended the program."""
    signal: int | None = None
    seconds: float = 0.0
    """Wall-clock seconds from the start of the program's process to its end; queueing is not counted."""
    cpu_seconds: float = 0.0
    """Processor time, user and system. Far below `seconds` in a time-out, it tells of a busy machine or a sleep."""
    memory_mb: float = 0.0
    """Peak resident memory, in MiB."""
    stdout_bytes: int = 0
    """Bytes that the program wrote to stdout, those that were left out included."""
    stderr_bytes: int = 0
    message: str = ""
    """For `sandbox_error`: what failed."""


class Sandbox(Protocol):
    """Runs programs, many at a time if the caller wishes."""

    async def run(self, program: Program) -> Result: ...

    async def close(self) -> None:
        """End every process that this sandbox started."""
        ...
