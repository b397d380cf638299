"""A sandbox that tries again, counts, and holds everybody back while it is down.

A program that could not be run is tried again after a short, random wait. Where more than `max_failure_rate` of the latest
programs could not be run, the circuit opens: nobody's program is sent, one probe after another is, and when a probe comes
back right, all go on. If none does within `patience` seconds, every caller gets an `OutageError`, which stops the run.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sod.concurrency import Runner
from sod.config import SandboxOptions
from sod.console.progress import say, warn
from sod.errors import OutageError, SandboxError
from sod.sandbox import Program, Result, Sandbox
from sod.sandbox.fusion import FusionSandbox
from sod.sandbox.local import LocalSandbox

WINDOW = 100
"""Latest programs by which a sandbox is known."""
FEWEST_FAILURES = 3
"""As many must have failed before a rate means something."""
LONGEST_WAIT_SECONDS = 30.0
PROBE = Program(code="print(1)", seconds=10.0, memory_mb=512)


def open_sandbox(options: SandboxOptions) -> "GuardedSandbox":
    """The sandbox that the options name. Raises OptionError where it cannot be had."""
    backend = _backend(options)
    if isinstance(backend, FusionSandbox):  # which tries again by itself, as the server's answer tells it to
        options = options.model_copy(update={"retries": 0})
    return GuardedSandbox(backend, options)


def _backend(options: SandboxOptions) -> Sandbox:
    if options.backend == "fusion":
        assert options.url is not None, "sod.checks has seen to it"
        return FusionSandbox(options.url, workers=options.workers or 16, tries=options.retries + 1)
    if options.backend == "unsafe_subprocess":
        say("sandbox.backend = unsafe_subprocess: programs are NOT confined; they can do whatever you can.")
    return LocalSandbox(workers=options.workers, unsafe=options.backend == "unsafe_subprocess")


@dataclass(slots=True)
class Statistics:
    """What became of the programs since it was last asked."""

    programs: int = 0
    """Times that a program was sent, retries included."""
    failures: int = 0
    timeouts: int = 0
    seconds: list[float] = field(default_factory=list)
    """How long each caller waited, queue and retries included."""

    def __add__(self, other: "Statistics") -> "Statistics":
        return Statistics(
            self.programs + other.programs,
            self.failures + other.failures,
            self.timeouts + other.timeouts,
            [*self.seconds, *other.seconds],
        )

    def metrics(self) -> dict[str, float]:
        """Rates of what was sent, and how long callers waited."""
        if not self.programs:
            return {}
        times = sorted(self.seconds) or [0.0]
        return {
            "sandbox/programs": self.programs,
            "sandbox/failure_rate": self.failures / self.programs,
            "sandbox/timeout_rate": self.timeouts / self.programs,
            "sandbox/seconds_p50": times[round(0.50 * (len(times) - 1))],
            "sandbox/seconds_p99": times[round(0.99 * (len(times) - 1))],
        }


class GuardedSandbox:
    """Any sandbox, behind a circuit breaker."""

    def __init__(self, sandbox: Sandbox, options: SandboxOptions) -> None:
        self._sandbox = sandbox
        self._options = options
        self._failed: deque[bool] = deque(maxlen=WINDOW)
        self._recovery: asyncio.Task[None] | None = None
        self._statistics = Statistics()

    @contextmanager
    def working_in(self, loop: Runner | asyncio.Runner) -> Iterator[None]:
        """Use it in this loop, then close it. Raises SandboxError at once unless a program can be run."""
        try:
            result = loop.run(self._sandbox.run(PROBE))
            if not _is_answer(result):
                raise SandboxError(f"The sandbox does not work: {_trouble(result)}. `sod doctor` examines it.")
            yield
        finally:
            loop.run(self.close())

    async def run(self, program: Program) -> Result:
        """The program's result; `sandbox_error` once retries have not helped. Raises OutageError in a long outage."""
        start = time.monotonic()
        result = await self._run_once(program)
        for retry in range(self._options.retries):
            if result.status != "sandbox_error":
                break
            await asyncio.sleep(random.uniform(0, 0.1 * 4**retry))
            result = await self._run_once(program)
        self._statistics.seconds.append(time.monotonic() - start)
        return result

    async def close(self) -> None:
        if self._recovery is not None:
            self._recovery.cancel()
            self._recovery = None
        await self._sandbox.close()

    def take_statistics(self) -> Statistics:
        """The statistics so far, which then begin anew."""
        taken, self._statistics = self._statistics, Statistics()
        return taken

    async def _run_once(self, program: Program) -> Result:
        if self._recovery is not None:  # shielded: one caller's end must not end the waiting of all
            await asyncio.shield(self._recovery)
        result = await self._sandbox.run(program)
        failed = result.status == "sandbox_error"
        self._statistics.programs += 1
        self._statistics.failures += failed
        self._statistics.timeouts += result.status == "timeout"
        self._failed.append(failed)
        failures = sum(self._failed)
        if failures >= FEWEST_FAILURES and failures > self._options.max_failure_rate * len(self._failed):
            self._open(result.message)
        return result

    def _open(self, cause: str) -> None:
        """Hold everybody back until the sandbox answers again."""
        if self._recovery is None:
            warn(
                f"The sandbox could not run {sum(self._failed)} of the latest {len(self._failed)} programs ({cause}); "
                f"waiting up to {self._options.patience:g} s for it."
            )
            self._recovery = asyncio.create_task(self._recover())

    async def _recover(self) -> None:
        end = time.monotonic() + self._options.patience
        wait, cause = 0.25, ""
        while (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(left, wait * random.uniform(0.5, 1.0)))
            wait = min(2 * wait, LONGEST_WAIT_SECONDS)
            result = await self._sandbox.run(PROBE)
            if _is_answer(result):
                warn("The sandbox answers again; the run goes on.")
                self._failed.clear()
                self._recovery = None
                return
            cause = _trouble(result)
        raise OutageError(
            f"The sandbox has been down for {self._options.patience:g} s ({cause}). Mend it (`sod doctor` checks it), then "
            "continue a training run with --resume."
        )


def _is_answer(result: Result) -> bool:
    return (result.status, result.stdout) == ("ok", "1\n")


def _trouble(result: Result) -> str:
    return result.message or f"a program that prints 1 ended with {result.status} and printed {result.stdout[:80]!r}"
