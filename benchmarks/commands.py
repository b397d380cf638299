"""What a short command of a comparison takes, forked from a warm server, against a new Python.

    python benchmarks/commands.py

The command is the evaluation of the lab's teacher on a few problems with one sample each. Both sides run it in turn. The start of
the server, once for each comparison, is not timed.
"""

import asyncio
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

from measure import pairwise_ratios, parse, parser, report, row, show

from sod.compare import jobs
from sod.config import LabOptions
from sod.lab import settings
from sod.lab.make import make

PROBLEMS = 20


async def measured(rounds: int, problems: int) -> tuple[list[float], list[float]]:
    """Return the seconds of warm and of cold commands."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    commands = jobs.Commands(1)
    with tempfile.TemporaryDirectory() as folder:
        lab = make(LabOptions(out=Path(folder), demonstrations=1, train_problems=4, eval_problems=problems))
        recipe = settings.EVAL | {"model": lab / "teacher", "data": lab / "eval.jsonl", "samples": 1}
        for number in range(-1, rounds):
            for warm, taken in seconds.items():
                out = Path(folder) / f"{'warm' if warm else 'cold'}-{number}"
                with patch.object(jobs, "can_start_warm", lambda warm=warm: warm):
                    start = time.perf_counter()
                    await commands.run("eval", out.with_suffix(".toml"), recipe | {"out": out})
                    if number >= 0:
                        taken.append(time.perf_counter() - start)
    return seconds[True], seconds[False]


def main() -> None:
    options = parse(parser(__doc__))
    problems = 2 if options.quick else PROBLEMS
    warm, cold = asyncio.run(measured(options.rounds, problems))
    what = f"a command of a comparison: {problems} attempts of the lab's teacher"
    report(options, [row(what, show(warm), f"a new Python: {show(cold)}", pairwise_ratios(warm, cold))])


if __name__ == "__main__":
    main()
