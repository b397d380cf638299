"""Compare expressions, as the worker process of `sod.rewards.symbolic`. Run by path, never imported.

One request a line on standard input, one reply a line on standard output, both JSON:

    {"pairs": [[gold, answer], ...], "by_value": bool}  ->  {"equal": bool} (all of the pairs), or {"failure": reason}

The process ends when its input ends, and by SIGPROF when a request exceeds its processor time. An alarm ends it when a request
takes far longer by the clock, because the parent has then ended.
"""

import json
import os
import resource
import signal
import sys
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify
from sympy import Basic, Expr, FiniteSet, Integer, MatrixBase, N, Rational, expand, expand_log, log
from sympy.concrete.expr_with_intlimits import ExprWithIntLimits
from sympy.functions.combinatorial.factorials import CombinatorialFunction

_DIGITS = 100
"""Digits of computed values. Two values are equal if all but the last ten digits agree."""
_FEW_DIGITS = 40
_SHIFTS = (1, -3, 4, -6, 7, 9, 2)
"""Points of `agree`: on both sides of 0, and positive integers for sums up to n."""
_OF_INTEGERS = (ExprWithIntLimits, CombinatorialFunction)
"""Sums, products, factorials and binomials."""
_FULL = 0.75
"""Share of the memory limit. Beyond it, sympy may have run out of memory unnoticed, so "not equal" is not trusted."""


def main(memory_bytes: int, cpu_s: float, alarm_s: float) -> None:
    if sys.platform == "linux":  # other systems refuse or ignore it
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # output of libraries must not mix with replies
    print(
        json.dumps(reply({"pairs": [[r"\sqrt{2}+x", r"x+\frac{2}{\sqrt{2}}"]], "by_value": False}, memory_bytes)),
        file=replies,
        flush=True,
    )
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        signal.setitimer(signal.ITIMER_REAL, alarm_s)
        print(json.dumps(reply(json.loads(line), memory_bytes)), file=replies, flush=True)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def reply(request: dict[str, Any], memory_bytes: int) -> dict[str, Any]:
    """Return the reply to a request. Every exception becomes a "failure", because it does not decide about the answer."""
    try:
        compare = agree if request["by_value"] else same
        equal = all(compare(*map(expression, pair)) for pair in request["pairs"])
    except BaseException as error:
        return {"failure": f"{type(error).__name__}: {error}"[:200]}
    if not equal and peak_bytes() > _FULL * memory_bytes:
        return {"failure": "out of memory"}
    return {"equal": equal}


def expression(latex: str) -> Basic | MatrixBase | None:
    """Return the expression that math-verify parses from LaTeX; None if it cannot parse the text."""
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
    except Exception:  # the parser raises various exceptions for text that is not an expression
        return None
    return found[0] if found and not isinstance(found[0], str) else None


def same(gold: Basic | MatrixBase | None, answer: Basic | MatrixBase | None) -> bool:
    """Return whether both are equal: by value if the values at a point differ, and by math-verify if they agree.

    Math-verify alone compares 15 digits, and needs long to find out that expressions differ.
    """
    if gold is None or answer is None:
        return False
    if isinstance(gold, Expr) and isinstance(answer, Expr):
        symbols = sorted(gold.free_symbols | answer.free_symbols, key=str)
        point: dict[Basic, Expr] = {symbol: Rational(7 * i + 10, 11) for i, symbol in enumerate(symbols)}
        alike = close(gold, answer, point, _DIGITS)
        if alike is False or (alike and not gold.free_symbols | answer.free_symbols):
            return alike
        if alike and gold.has(log) and answer.has(log) and expand(expand_log(gold - answer, force=True)) == 0:
            return True  # log(xy) is log(x) + log(y) wherever both exist
    return verify(gold, answer, allow_set_relation_comp=True, timeout_seconds=None)


def agree(gold: Basic | MatrixBase | None, answer: Basic | MatrixBase | None) -> bool:
    """Return whether both have the same values at several points; raises ValueError if either has no values."""
    if gold is None or answer is None:
        return False
    if isinstance(gold, FiniteSet) and isinstance(answer, FiniteSet):
        return len(gold) == len(answer) and all(any(agree(one, other) for other in answer.args) for one in gold.args)
    if not (isinstance(gold, Expr) and isinstance(answer, Expr)):
        if gold == answer:
            return True
        raise ValueError("no expressions")
    symbols = sorted(gold.free_symbols | answer.free_symbols, key=str)
    found = []
    for shift in _SHIFTS if symbols else _SHIFTS[:1]:
        whole = gold.has(*_OF_INTEGERS) or answer.has(*_OF_INTEGERS)
        values = [Integer(abs(shift) + i) if whole else Rational(7 * i + 10 * shift, 11) for i in range(len(symbols))]
        found.append(close(gold, answer, dict(zip(symbols, values, strict=True)), _FEW_DIGITS))
        if found[-1] is False:
            return False
    if None in found:
        raise ValueError("no values")
    return True


def close(gold: Expr, answer: Expr, point: dict[Basic, Expr], digits: int) -> bool | None:
    """Return whether two values agree at a point in all but the last ten digits; None if either has no value there."""
    one, other = (
        N(form.subs(list(point.items())) if form.has(*_OF_INTEGERS) else form.xreplace(point), digits)
        for form in (gold, answer)
    )
    sizes = [abs(one), abs(other), abs(one - other)]
    if not all(size.is_comparable and size.is_finite for size in sizes):
        return None
    if max(sizes) < 10 ** (10 - digits):
        return None
    return bool(sizes[2] < max(sizes) * 10 ** (10 - digits))


def peak_bytes() -> int:
    """Return the largest address space that this process has had."""
    if sys.platform != "linux":
        return 0
    with open("/proc/self/status", encoding="ascii") as status:
        return next((int(line.split()[1]) * 1024 for line in status if line.startswith("VmPeak:")), 0)


if __name__ == "__main__":
    main(int(sys.argv[1]), *map(float, sys.argv[2:]))
