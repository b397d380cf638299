"""Options `--sandbox`: where programs run."""

from typing import Literal

from sod.config.base import Count, Options, Positive, PositiveReal, Rare, ResumeMayChange, Share


class SandboxOptions(Options):
    """Where programs run: the student's tool calls and, for code problems, its answers."""

    backend: Literal["local", "fusion", "unsafe_subprocess"] = "local"
    """local: on this machine, confined by the kernel (Linux only). fusion: on the SandboxFusion server at sandbox.url.
    unsafe_subprocess: on this machine with limits but NOT confined; programs can read, write and connect as you can."""
    url: Rare[str | None] = None
    """Address of the SandboxFusion server, such as http://127.0.0.1:8080. Default: no server."""
    workers: Rare[ResumeMayChange[Positive | None]] = None
    """Number of programs that run at the same time. Default: one per processor, or 16 on a server."""
    retries: Rare[ResumeMayChange[Count]] = 2
    """Number of retries after the sandbox fails to run a program. A program that fails with an error is not retried."""
    max_failure_rate: Rare[ResumeMayChange[Share]] = 0.05
    """Share of the latest 100 programs that the sandbox may fail to run. Above it, the run pauses until the sandbox works."""
    patience: Rare[ResumeMayChange[PositiveReal]] = 600.0
    """Longest pause for a sandbox that does not work, in seconds. After it, the run stops with exit status 75."""
