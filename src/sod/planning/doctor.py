"""`sod doctor`: check whether this machine can train. Tests the sandbox with hostile programs, the judges, and the speed.

Every hostile program prints `through` if it was not stopped. None does harm if it is not stopped.
"""

import asyncio
import os
import platform
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from sod import __version__
from sod.config import DoctorOptions, RewardOptions, SandboxOptions
from sod.console.progress import echo
from sod.errors import DoctorError
from sod.processes.concurrency import run_concurrently
from sod.rewards.kinds import KINDS, Example
from sod.rewards.referee import Referee
from sod.sandbox import Program, Sandbox
from sod.sandbox.confinement import confinement
from sod.sandbox.retries import open_sandbox
from sod.types import Problem, Trajectory

AT_A_TIME = 8
SECRET_VARIABLE = "SOD_DOCTOR_SECRET"

HOSTILE = {
    "read a file of yours": "open({secret!r}).read()",
    "write over it": "open({secret!r}, 'a').close()",
    "move it": "import os; os.rename({secret!r}, {secret!r} + '~'); os.rename({secret!r} + '~', {secret!r})",
    "list your home directory": "import os; os.listdir({home!r})",
    "read your environment": "open('/proc/{pid}/environ', 'rb').read()",
    "inherit your environment": "import os; assert {variable!r} in os.environ",
    "connect to a port of this machine": "import socket; socket.create_connection(('127.0.0.1', {port}), 2)",
    "start another program": "import subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)",
    "fork": "import os; os.fork() or os._exit(0)",
    "signal your process": "import os; os.kill({pid}, 0)",
    "trace its parent": "import ctypes, os; assert ctypes.CDLL(None).ptrace(0x4206, os.getppid(), 0, 0) == 0",
}
"""Actions that the sandbox must refuse, and code that tries them."""

BOUNDLESS = {
    "loop for ever": ("while True: pass", {"timeout"}),
    "take 8 GiB of memory": ("b'x' * (8 << 30)", {"error", "signal"}),
    "print without end": ("while True: print('x' * 65536)", {"output_limit", "timeout"}),
    "fill the disk": ("for i in range(12): open(f'f{i}', 'wb').write(b'x' * (8 << 20))", {"disk_limit", "error"}),
}
"""Programs that exceed a limit, and the allowed statuses of their end."""


@dataclass(slots=True)
class Report:
    """A printed report of the findings that collects the failed checks."""

    checks: int = 0
    failed: tuple[str, ...] = ()
    _area: str = ""

    def line(self, area: str, text: str) -> None:
        echo(f"{area if area != self._area else '':<10}{text}")
        self._area = area

    def check(self, area: str, fine: bool, found: str, what: str) -> None:
        self.line(area, f"{'ok ' if fine else 'BAD'}  {found:<13}{what}")
        self.checks += 1
        if not fine:
            self.failed += (f"{what}: {found}",)


def doctor(options: DoctorOptions) -> None:
    """Examine this machine and print one line per finding. Raise DoctorError if a check fails."""
    report = Report()
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "math-verify", "sympy"))
    system = f"{platform.system()} {platform.release()} {platform.machine()}, {os.cpu_count()} processors"
    report.line("machine", f"{system}; Python {platform.python_version()}")
    report.line("machine", f"sod {__version__}, {packages}")
    for line in _enforced(options.sandbox):
        report.line("sandbox", line)
    os.environ[SECRET_VARIABLE] = "1"  # set before the sandbox starts, because the sandbox must not pass it on
    sandbox = open_sandbox(options.sandbox)
    with asyncio.Runner() as loop, sandbox.working_in(loop):
        loop.run(_examine(sandbox, options, report))
    if report.failed:
        raise DoctorError(f"{len(report.failed)} of {report.checks} checks failed: {'; '.join(report.failed)}.")
    echo(f"All {report.checks} checks passed.")


async def _examine(sandbox: Sandbox, options: DoctorOptions, report: Report) -> None:
    if options.sandbox.backend != "fusion":
        await _try_hostile(sandbox, report)
    await _try_boundless(sandbox, report)
    referee = Referee(sandbox, RewardOptions(), max_tokens=1)
    await _try_judges(referee, report)
    await _measure(sandbox, referee, options.programs, report)


def _enforced(options: SandboxOptions) -> list[str]:
    if options.backend == "fusion":
        return [f"a SandboxFusion server at {options.url}; its deployment decides what it isolates"]
    if options.backend == "unsafe_subprocess":
        return ["processes on this machine with limits on time, memory and output; NOT confined"]
    return confinement().lines()


# Programs


@contextmanager
def _bait() -> Iterator[dict[str, str | int]]:
    """Create a secret file and a listening port as targets of the hostile programs."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
        secret = Path(folder) / "secret.txt"
        secret.write_text("secret")
        yield {
            "secret": str(secret),
            "home": str(Path.home()),
            "variable": SECRET_VARIABLE,
            "pid": os.getpid(),
            "port": server.getsockname()[1],
        }


async def _try_hostile(sandbox: Sandbox, report: Report) -> None:
    with _bait() as bait:
        for what, code in HOSTILE.items():
            result = await sandbox.run(Program(code=code.format(**bait) + "\nprint('through')", seconds=5))
            refused = result.status != "sandbox_error" and "through" not in result.stdout
            found = "refused" if refused else "got through" if "through" in result.stdout else result.message
            report.check("programs", refused, found, what)


async def _try_boundless(sandbox: Sandbox, report: Report) -> None:
    for what, (code, endings) in BOUNDLESS.items():
        result = await sandbox.run(Program(code=code, seconds=2, memory_mb=1024))
        report.check("limits", result.status in endings, result.status, what)


# Judges


def examples() -> list[tuple[str, Example]]:
    """Return the attempts to judge, each with the kind of its problem."""
    return [(name, example) for name, kind in KINDS.items() for example in kind.examples]


def _trajectory(kind: str, gold: str, text: str) -> Trajectory:
    problem = Problem(id=text, messages=(), answer=gold, kind=kind)
    return Trajectory(problem=problem, sample=0, pieces=(), stop="answered", final_text=text)


async def _try_judges(referee: Referee, report: Report) -> None:
    for kind, example in examples():
        verdict = await referee.judge(_trajectory(kind, example.gold, example.text), str)
        shown = next(line for line in example.text.splitlines() if not line.startswith("```"))
        report.check("judges", verdict.outcome == example.outcome, verdict.outcome, f"{kind}: {shown}")


# Speed


async def _measure(sandbox: Sandbox, referee: Referee, programs: int, report: Report) -> None:
    for code, times in (("print(1)", programs), ("import sympy", programs // 10)):
        if not times:
            continue
        ours = await _per_second(lambda code=code: sandbox.run(Program(code=code)), times)
        theirs = await _per_second(lambda code=code: _subprocess(code), max(1, times // 5))
        report.line("speed", f"{code}: {ours:.0f} programs/s, {AT_A_TIME} at a time; `python -I -c`: {theirs:.1f}/s")
    for name, gold, text in (("an integer", "25", r"\boxed{25}"), ("an expression", "x^2+2x+1", r"\boxed{(x+1)^2}")):
        times = [await _seconds(lambda: referee.judge(_trajectory("math", gold, text), str)) for _ in range(50)]  # noqa: B023
        report.line("speed", f"judging {name}: {1000 * statistics.median(times):.2f} ms")


async def _per_second(run: Callable[[], Awaitable[object]], times: int) -> float:
    slots = asyncio.Semaphore(AT_A_TIME)

    async def once() -> None:
        async with slots:
            await run()

    start = time.perf_counter()
    await run_concurrently(once() for _ in range(times))
    return times / (time.perf_counter() - start)


async def _seconds(run: Callable[[], Awaitable[object]]) -> float:
    start = time.perf_counter()
    await run()
    return time.perf_counter() - start


async def _subprocess(code: str) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-I", "-c", code, stdout=asyncio.subprocess.DEVNULL)
    await process.wait()
