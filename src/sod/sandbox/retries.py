"""Wrap a sandbox with retries, statistics and a circuit breaker.

If the sandbox fails to run a program, the program is sent again after a short, random wait. If more than `max_failure_rate`
of the latest programs failed to run, the circuit opens: no programs are sent, only probes, one at a time. When a probe
succeeds, all programs continue. If none succeeds within `patience` seconds, every caller gets an `OutageError`, and the run
stops.
"""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sod.config import SandboxOptions
from sod.errors import OptionError, OutageError, SandboxError
from sod.processes.concurrency import Runner
from sod.processes.distributed import EVERY_PROCESS
from sod.sandbox import Program, Result, Sandbox, Session, SessionSandbox
from sod.sandbox.fusion import FusionSandbox
from sod.sandbox.local import LocalSandbox

logger = logging.getLogger(__name__)

FAILURE_WINDOW = 100
"""Number of latest programs that the failure rate is computed over."""
FEWEST_FAILURES = 3
"""Fewest failures that can open the circuit; below, a rate is not meaningful."""
LONGEST_WAIT_SECONDS = 30.0
NO_SESSIONS = (
    "tool.session = on does not work with sandbox.backend = fusion, because its servers run each program alone. Leave "
    "tool.session out, or use sandbox.backend = local."
)
PROBE_PROGRAM = Program(code="print(1)", seconds=10.0, memory_mb=512)


def open_sandbox(options: SandboxOptions) -> "GuardedSandbox":
    """Open the sandbox named by the options. Raises OptionError if it is not available."""
    backend = _backend(options)
    if isinstance(backend, FusionSandbox):  # has its own retries, which follow the server's Retry-After
        options = options.model_copy(update={"retries": 0})
    return GuardedSandbox(backend, options)


def refusals(options: SandboxOptions) -> Iterator[str]:
    """Yield a sentence for each of these options that does not go with another."""
    if options.backend == "fusion" and options.url is None:
        yield "sandbox.backend is fusion, but sandbox.url is not given. Add --sandbox.url ADDRESS; see docs/sandboxes.md."
    if options.backend != "fusion" and options.url is not None:
        yield f"sandbox.url is given, but sandbox.backend is {options.backend}. Add --sandbox.backend fusion."


def _backend(options: SandboxOptions) -> Sandbox:
    for refusal in refusals(options):
        raise OptionError(refusal)
    if options.backend == "fusion" and options.url is not None:
        return FusionSandbox(options.url, workers=options.workers or 16, tries=options.retries + 1)
    if options.backend == "unsafe_subprocess":
        logger.warning(
            "sandbox.backend = unsafe_subprocess: programs are NOT confined; they can do everything your user can do."
        )
    return LocalSandbox(workers=options.workers, unsafe=options.backend == "unsafe_subprocess")


@dataclass(slots=True)
class Statistics:
    """Counts of programs, failures and time-outs since the last call of `take_statistics`."""

    programs: int = 0
    """Programs sent, retries included."""
    failures: int = 0
    timeouts: int = 0
    seconds: list[float] = field(default_factory=list)
    """Seconds that each caller waited, queue and retries included."""

    def __add__(self, other: "Statistics") -> "Statistics":
        return Statistics(
            self.programs + other.programs,
            self.failures + other.failures,
            self.timeouts + other.timeouts,
            [*self.seconds, *other.seconds],
        )

    def metrics(self) -> dict[str, float]:
        """Return the failure and time-out rates, and percentiles of the callers' waiting time."""
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
    """A sandbox behind a circuit breaker, with retries and statistics."""

    def __init__(self, sandbox: Sandbox, options: SandboxOptions) -> None:
        self._sandbox = sandbox
        self._options = options
        self._failed: deque[bool] = deque(maxlen=FAILURE_WINDOW)
        self._recovery: asyncio.Task[None] | None = None
        self._statistics = Statistics()

    @contextmanager
    def working_in(self, loop: Runner | asyncio.Runner, *, probe: bool = True) -> Iterator[None]:
        """Use the sandbox in this loop, then close it. `probe`: first run a program, and raise SandboxError if it fails."""
        try:
            if probe:
                self._probe(loop)
            yield
        finally:
            loop.run(self.close())

    def _probe(self, loop: Runner | asyncio.Runner) -> None:
        result = loop.run(self._sandbox.run(PROBE_PROGRAM))
        if not _is_answer(result):
            raise SandboxError(f"The sandbox does not work: {_trouble(result)}. Run `sod doctor` to examine it.")

    def session(self, seconds: float) -> "GuardedSession":
        """Return a new session, with the same retries and statistics. Raises OptionError if the sandbox has none."""
        if not isinstance(self._sandbox, SessionSandbox):
            raise OptionError(NO_SESSIONS)
        return GuardedSession(self, self._sandbox.session(seconds))

    async def run(self, program: Program) -> Result:
        """Run a program; the status is `sandbox_error` if all retries fail. Raises OutageError in a long outage."""
        return await self.attempt(lambda: self._sandbox.run(program), self._options.retries)

    async def attempt(self, run: Callable[[], Awaitable[Result]], retries: int) -> Result:
        """Run a program by `run`, again after failures of the sandbox, and count it."""
        start = time.monotonic()
        result = await self._run_once(run)
        for retry in range(retries):
            if result.status != "sandbox_error":
                break
            await asyncio.sleep(random.uniform(0, 0.1 * 4**retry))
            result = await self._run_once(run)
        self._statistics.seconds.append(time.monotonic() - start)
        return result

    async def close(self) -> None:
        if self._recovery is not None:
            self._recovery.cancel()
            self._recovery = None
        await self._sandbox.close()

    def take_statistics(self) -> Statistics:
        """Return the statistics since the last call, and reset them."""
        taken, self._statistics = self._statistics, Statistics()
        return taken

    @property
    def retries(self) -> int:
        return self._options.retries

    async def _run_once(self, run: Callable[[], Awaitable[Result]]) -> Result:
        if self._recovery is not None:  # shielded: cancelling one caller must not cancel the shared recovery
            await asyncio.shield(self._recovery)
        result = await run()
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
        """Open the circuit: callers wait until a probe succeeds."""
        if self._recovery is None:
            logger.warning(
                f"The sandbox could not run {sum(self._failed)} of the latest {len(self._failed)} programs ({cause}); "
                f"waiting up to {self._options.patience:g} s for it to recover.",
                extra=EVERY_PROCESS,
            )
            self._recovery = asyncio.create_task(self._recover())

    async def _recover(self) -> None:
        end = time.monotonic() + self._options.patience
        wait, cause = 0.25, ""
        while (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(left, wait * random.uniform(0.5, 1.0)))
            wait = min(2 * wait, LONGEST_WAIT_SECONDS)
            result = await self._sandbox.run(PROBE_PROGRAM)
            if _is_answer(result):
                logger.warning("The sandbox works again; the run continues.", extra=EVERY_PROCESS)
                self._failed.clear()
                self._recovery = None
                return
            cause = _trouble(result)
        raise OutageError(
            f"The sandbox has been down for {self._options.patience:g} s ({cause}). Repair it (check with `sod doctor`), then "
            "continue a training run with --resume."
        )


class GuardedSession:
    """A session behind the circuit breaker of its sandbox.

    Only its first program is retried. Later ones may need the state of a session that was lost, so the whole attempt is repeated.
    """

    def __init__(self, sandbox: GuardedSandbox, session: Session) -> None:
        self._sandbox = sandbox
        self._session = session
        self._has_state = False

    async def run(self, program: Program) -> Result:
        """Run a program; the status is `sandbox_error` if the sandbox failed. Raises OutageError in a long outage."""
        retries = 0 if self._has_state else self._sandbox.retries
        result = await self._sandbox.attempt(lambda: self._session.run(program), retries)
        self._has_state = True
        return result

    async def close(self) -> None:
        """End the process and remove its files."""
        await self._session.close()


def _is_answer(result: Result) -> bool:
    return (result.status, result.stdout) == ("ok", "1\n")


def _trouble(result: Result) -> str:
    return result.message or f"a program that prints 1 ended with {result.status} and printed {result.stdout[:80]!r}"
