"""What the benchmarks share: functions timed in turn, memory measured in a process of its own, rows with a target."""

import argparse
import json
import multiprocessing
import operator
import os
import platform
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch

from sod.runs.peaks import take_peak_mb

Row = dict[str, Any]


def parser(description: str | None, *, rounds: int = 5) -> argparse.ArgumentParser:
    """The options that all benchmarks have: rounds, threads, --quick and --out."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, default=rounds, help="times that each is measured, in turn")
    made.add_argument("--threads", type=int, default=os.cpu_count(), help="of PyTorch")
    made.add_argument("--quick", action="store_true", help="tiny sizes and one round: does it run at all?")
    made.add_argument("--out", type=Path, help="also write the JSON to this file")
    return made


def parse(made: argparse.ArgumentParser) -> argparse.Namespace:
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    if options.quick:
        options.rounds = 1
    return options


def in_turn(functions: dict[str, Callable[[], object]], rounds: int, *, warm: bool = True) -> dict[str, list[float]]:
    """Seconds of each function, round after round, so that a drift of the machine's speed meets all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for round in range(-1 if warm else 0, rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if round >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def peak_mb(function: Callable[..., object], *arguments: object) -> float:
    """MiB that a function needs at its height beyond what stood there before, in a fresh process. What it returns is a
    function of no arguments: that one is measured, and what came before it is not."""
    context = multiprocessing.get_context("forkserver")  # a fork of a process that has the packages and nothing else
    context.set_forkserver_preload(["sod.evaluation.evaluate", "sod.model.policy"])
    ours, theirs = context.Pipe()
    process = context.Process(target=_measure_peak, args=(theirs, torch.get_num_threads(), function, arguments))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:  # the kernel ended it
        return float("inf")
    finally:
        process.join()


def _measure_peak(pipe: Any, threads: int, function: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    torch.set_num_threads(threads)
    work = function(*arguments)
    take_peak_mb()
    before = take_peak_mb() or 0.0  # of this moment: the mark has just been set back
    work()
    pipe.send((take_peak_mb() or 0.0) - before)


TARGETS: dict[str, Callable[[float, float], bool]] = {">=": operator.ge, "<=": operator.le}


def row(what: str, ours: str, against: str, ratios: Sequence[float], target: str = "", *, note: str = "") -> Row:
    """A line of the table: the ratio's median and spread, and whether the target (such as ">= 5") is met."""
    made: Row = {"what": what, "ours": ours, "against": against, "ratio": median(ratios)}
    made["spread"] = [min(ratios), max(ratios)]
    if target:
        sign, limit = target.split()
        made |= {"target": target, "met": TARGETS[sign](made["ratio"], float(limit))}
    return made | ({"note": note} if note else {})


def pairwise_ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(over, under, strict=True)]


def show(seconds: Sequence[float]) -> str:
    """The median, in a unit that suits it."""
    middle = median(seconds)
    return f"{middle:.2f} s" if middle >= 1 else f"{1e3 * middle:.3g} ms"


def per_second(tokens: int, seconds: Sequence[float]) -> str:
    """The tokens a second of the median round."""
    return f"{tokens / median(seconds):,.0f} tokens/s"


def report(options: argparse.Namespace, rows: Sequence[Row], **details: Any) -> None:
    """Print everything as JSON, and keep it if asked."""
    print(keep(options, rows, **details))


def keep(options: argparse.Namespace, rows: Sequence[Row], **details: Any) -> str:
    """Write everything as JSON if asked, over an earlier state. -> the JSON"""
    result = {
        "benchmark": Path(__import__("__main__").__file__).stem,
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, PyTorch {torch.__version__}",
        "threads": options.threads,
        "rounds": options.rounds,
        "rows": list(rows),
        **details,
    }
    text = json.dumps(result, indent=2)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n")
    return text


@contextmanager
def within(seconds: float, name: str, failures: dict[str, str]) -> Iterator[None]:
    """Run a part of a benchmark. An error, or the end of its time, is noted, and the next part goes on."""

    def late(*_: object) -> None:
        raise TimeoutError(f"not ended after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, max(1e-3, seconds))
    try:
        yield
    except Exception as error:  # of whatever kind: the other parts are still worth their time
        traceback.print_exc()
        failures[name] = f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
