"""The process that `sod.rewards.symbolic` asks whether expressions are equal. Run by path, never imported.

One request a line on standard input, one reply a line on standard output, both JSON:

    [[gold, answer], ...] in LaTeX  ->  {"equal": bool} (all of the pairs), or {"failure": reason}

It ends when its input does, and by SIGPROF when a request takes more processor time than it may. Should one last far
longer than that by the clock, the parent is gone, and an alarm ends the process.
"""

import json
import os
import resource
import signal
import sys
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify
from sympy import Basic, Expr, MatrixBase, N, Rational, expand, expand_log, log

_DIGITS = 100
"""Values are computed to so many digits, and are equal if all but the last ten agree."""
_FULL = 0.75
"""A process that came closer than this to its memory limit may have been refused memory, and answered wrongly."""


def main(memory_bytes: int, cpu_s: float, alarm_s: float) -> None:
    if sys.platform == "linux":  # elsewhere it is refused, or means nothing
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no reply
    print(json.dumps(reply([[r"\sqrt{2}+x", r"x+\frac{2}{\sqrt{2}}"]], memory_bytes)), file=replies, flush=True)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        signal.setitimer(signal.ITIMER_REAL, alarm_s)
        print(json.dumps(reply(json.loads(line), memory_bytes)), file=replies, flush=True)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def reply(pairs: list[list[str]], memory_bytes: int) -> dict[str, Any]:
    """Catches everything: what goes wrong here is a failure of the judge, and says nothing about the answer."""
    try:
        equal = all(same(*map(expression, pair)) for pair in pairs)
    except BaseException as error:
        return {"failure": f"{type(error).__name__}: {error}"[:200]}
    if not equal and peak_bytes() > _FULL * memory_bytes:
        return {"failure": "out of memory"}
    return {"equal": equal}


def expression(latex: str) -> Basic | MatrixBase | None:
    """What math-verify makes of one expression; None for what it cannot read."""
    try:
        found = parse(
            f"${latex}$",
            [LatexExtractionConfig()],
            fallback_mode="no_fallback",
            parsing_timeout=None,  # pyright: ignore[reportArgumentType]
            raise_on_error=True,
        )
    except MemoryError:
        raise
    except Exception:  # any: the parser has no error of its own for text that is no expression
        return None
    return found[0] if found and not isinstance(found[0], str) else None


def same(gold: Basic | MatrixBase | None, answer: Basic | MatrixBase | None) -> bool:
    """By value where both have one; and by math-verify where values do not tell them apart."""
    if gold is None or answer is None:
        return False
    if isinstance(gold, Expr) and isinstance(answer, Expr):
        alike = close(gold, answer)
        if alike is False or (alike and not gold.free_symbols | answer.free_symbols):
            return alike
        if alike and gold.has(log) and answer.has(log) and expand(expand_log(gold - answer, force=True)) == 0:
            return True  # log(xy) is log(x) + log(y) wherever both exist
    return verify(gold, answer, allow_set_relation_comp=True, timeout_seconds=None)


def close(gold: Expr, answer: Expr) -> bool | None:
    """Whether two values agree, symbols being some numbers or other; None where there are no two values.

    Math-verify by itself is content with 15 digits, and takes long to find out that expressions differ.
    """
    symbols = sorted(gold.free_symbols | answer.free_symbols, key=str)
    point = {symbol: Rational(7 * i + 10, 11) for i, symbol in enumerate(symbols)}
    one, other = (N(form.xreplace(point), _DIGITS) for form in (gold, answer))
    sizes = [abs(one), abs(other), abs(one - other)]
    if not all(size.is_comparable and size.is_finite for size in sizes) or max(sizes) < 10 ** (10 - _DIGITS):
        return None
    return bool(sizes[2] < max(sizes) * 10 ** (10 - _DIGITS))


def peak_bytes() -> int:
    """The most address space that this process has had."""
    if sys.platform != "linux":
        return 0
    with open("/proc/self/status", encoding="ascii") as status:
        return next((int(line.split()[1]) * 1024 for line in status if line.startswith("VmPeak:")), 0)


if __name__ == "__main__":
    main(int(sys.argv[1]), *map(float, sys.argv[2:]))
