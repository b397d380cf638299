"""Programs a second in the sandbox, against a new interpreter for each; and whether it leaks.

    python benchmarks/sandbox.py [--at-once 8] [--rounds 5] [--unsafe] [--soak 3000]

Both are timed in turn, round after round, with as many programs at once; the ratio is of medians. The sandbox starts
before the clock does, as it does once in a run. With --soak, so many programs of all kinds run instead, and what they
leave behind is counted: open files, memory of the two processes that stay, directories, processes.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

from at_once import at_once

from sod.sandbox import Program
from sod.sandbox.local import LocalSandbox

PROGRAMS = {"print(1)": 160, "import sympy": 8}
"""Code, and how often it runs in a round in an interpreter of its own."""
MORE_IN_THE_SANDBOX = 4
"""As many times more runs there, so that what is measured lasts long enough."""

MIXTURE = [
    ("ok", Program(code="print(sum(range(10_000)))")),
    ("ok", Program(code="print(input())", stdin="hello\n")),
    ("ok", Program(code="import sympy\nx = sympy.symbols('x')\nprint(sympy.factor(x**2 - 1))")),
    ("ok", Program(code="print(open('data').read())", files={"data": "x" * 10_000})),
    ("ok", Program(code="print('x' * 1_000_000)")),
    ("ok", Program(code="import os\nos.makedirs('a/b/c')\nopen('a/b/c/d', 'w').write('x')\nos.chmod('a', 0)")),
    ("error", Program(code="1 / 0")),
    ("error", Program(code="def f(:")),
    ("error", Program(code="import os\nos.fork()")),
    ("error", Program(code="x = bytearray(1 << 30)", memory_mb=512)),
    ("error", Program(code="import socket\nsocket.socket()")),
    ("signal", Program(code="import os\nos.abort()")),
    ("signal", Program(code="import ctypes\nctypes.string_at(0)")),
    ("timeout", Program(code="while True: pass", seconds=0.2)),
    ("timeout", Program(code="import time\ntime.sleep(60)", seconds=0.2)),
    ("output_limit", Program(code="while True: print('x' * 100_000)", seconds=30.0)),
    ("disk_limit", Program(code="for i in range(9999): open(str(i), 'w')", max_files=50, seconds=30.0)),
]
"""What a program does, and the status that it must get."""


async def by_interpreter(code: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-c", code, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    await process.communicate()
    assert process.returncode == 0


async def by_sandbox(sandbox: LocalSandbox, code: str) -> None:
    result = await sandbox.run(Program(code=code, seconds=60.0))
    assert result.status == "ok", result


async def measure(most: int, rounds: int, unsafe: bool) -> dict[str, dict[str, float]]:
    figures: dict[str, dict[str, float]] = {}
    async with LocalSandbox(workers=most, unsafe=unsafe) as sandbox:
        await by_sandbox(sandbox, "print(1)")
        for code, count in PROGRAMS.items():
            interpreter, ours = [], []
            for _ in range(rounds):
                interpreter.append(await at_once(count, most, lambda code=code: by_interpreter(code)))
                more = count * MORE_IN_THE_SANDBOX
                ours.append(await at_once(more, most, lambda code=code: by_sandbox(sandbox, code)))
            figures[code] = {
                "interpreter": median(interpreter),
                "sandbox": median(ours),
                "ratio": median(ours) / median(interpreter),
            }
    return figures


def footprint(room: Path) -> dict[str, float]:
    """What the sandbox holds, here and in its zygote."""
    [root] = room.iterdir()
    found: list[int] = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if str(root) in line.read_text():
                found.append(int(line.parent.name))
    return {
        "directories": len(list(root.iterdir())),
        "processes": len(found),
        "open files": len(os.listdir("/proc/self/fd")),
        "memory": resident_mb("self"),
        "zygote's open files": sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in found),
        "zygote's memory": sum(resident_mb(pid) for pid in found),
    }


def resident_mb(pid: int | str) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20), 1)


async def soak(count: int, most: int, unsafe: bool) -> dict[str, Any]:
    """Run the mixture over and over; what was there after the first tenth, and what is there at the end."""
    wrong: Counter[str] = Counter()
    jobs = (MIXTURE[number % len(MIXTURE)] for number in range(count))
    with tempfile.TemporaryDirectory() as room:
        tempfile.tempdir = room
        async with LocalSandbox(workers=most, unsafe=unsafe) as sandbox:

            async def one() -> None:
                expected, program = next(jobs)
                result = await sandbox.run(program)
                if result.status != expected:
                    wrong[f"{program.code!r}: {result.status}"] += 1

            await at_once(count // 10, most, one)
            before = footprint(Path(room))
            await at_once(count - count // 10, most, one)
            after = footprint(Path(room))
        left = os.listdir(room)
        tempfile.tempdir = None
    return {"programs": count, "wrong": dict(wrong), "before": before, "after": after, "left": left}


def main() -> None:
    parser = argparse.ArgumentParser(description="Programs a second in the sandbox")
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--unsafe", action="store_true", help="without confinement")
    parser.add_argument("--soak", type=int, default=0, metavar="N", help="look for leaks in N programs")
    options = parser.parse_args()
    if options.soak:
        report = asyncio.run(soak(options.soak, options.at_once, options.unsafe))
        print(json.dumps(report))
        for name, value in report["after"].items():
            print(f"{name:20} {report['before'][name]:>8} -> {value}")
        return
    figures = asyncio.run(measure(options.at_once, options.rounds, options.unsafe))
    print(json.dumps({"at_once": options.at_once, "programs_per_second": figures}))
    print(f"{'program':14} {'python -I -c':>12} {'sandbox':>9} {'ratio':>7}")
    for code, row in figures.items():
        print(f"{code:14} {row['interpreter']:12.1f} {row['sandbox']:9.1f} {row['ratio']:7.1f}")


if __name__ == "__main__":
    main()
