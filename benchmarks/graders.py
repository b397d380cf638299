"""Judges against verdicts by hand: ours, the reference's strict box, and math-verify as it comes.

    python benchmarks/graders.py [--cases tests/golden/grading_cases.jsonl] [--repeat 3]

Prints JSON, then a table. Clear cases only: debatable ones, and those without a box, are counted apart. Accuracy by
domain, false negatives and positives by id, milliseconds a call over all cases, and the slowest hostile case. The cases
are adversarial by design: they rank judges, and estimate no accuracy in the field.
"""

import argparse
import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from math_verify import parse, verify

from sod.rewards.choice import ChoiceJudge
from sod.rewards.math import MathJudge
from sod.rewards.reference import strict_box

CASES = Path(__file__).parents[1] / "tests" / "golden" / "grading_cases.jsonl"
DOMAINS = ("aime", "math", "gpqa", "hostile")

Case = dict[str, Any]
Grader = Callable[[Case], str]
"""Says "right", "wrong" or "ungraded"."""


def graders() -> dict[str, Grader]:
    math, choice = MathJudge(), ChoiceJudge()

    def ours(case: Case) -> str:
        judge = choice if case["domain"] == "gpqa" else math
        return judge.judge(case["response"], case["gold"]).outcome

    def reference(case: Case) -> str:
        return strict_box(case["response"], case["gold"]).outcome

    def math_verify(case: Case) -> str:
        return "right" if verify(parse(f"${case['gold']}$"), parse(case["response"])) else "wrong"

    return {"ours": ours, "strict box": reference, "math-verify": math_verify}


def measure(grader: Grader, cases: Sequence[Case], repeat: int) -> dict[str, Any]:
    """Each case `repeat` times, of which the fastest counts; the first round is there to warm up."""
    outcomes = {case["id"]: grader(case) for case in cases}
    seconds = {case["id"]: min(timed(grader, case) for _ in range(repeat)) for case in cases}
    times = list(seconds.values())
    clear = [case for case in cases if not case["debatable"] and not case["no_box"]]

    def wrong(among: Sequence[Case], truth: bool) -> list[str]:
        verdict = "right" if truth else "wrong"
        return [case["id"] for case in among if case["correct"] == truth and outcomes[case["id"]] != verdict]

    return {
        "accuracy": {name: accuracy(outcomes, clear, name) for name in ("all", *DOMAINS)},
        "debatable accuracy": accuracy(outcomes, [case for case in cases if case["debatable"]], "all"),
        "false negatives": wrong(clear, True),
        "false positives": wrong(clear, False),
        "ungraded": [name for name, outcome in outcomes.items() if outcome == "ungraded"],
        "median ms": round(1e3 * median(times), 3),
        "p95 ms": round(1e3 * quantiles(times, n=20)[-1], 3),
        "slowest hostile ms": round(1e3 * max(seconds[case["id"]] for case in cases if case["domain"] == "hostile"), 3),
    }


def timed(grader: Grader, case: Case) -> float:
    start = time.perf_counter()
    grader(case)
    return time.perf_counter() - start


def accuracy(outcomes: dict[str, str], cases: Sequence[Case], domain: str) -> dict[str, float]:
    chosen = [case for case in cases if domain in ("all", case["domain"])]
    hits = sum(outcomes[case["id"]] == ("right" if case["correct"] else "wrong") for case in chosen)
    return {"cases": len(chosen), "percent": round(100 * hits / len(chosen), 1) if chosen else float("nan")}


def table(results: dict[str, dict[str, Any]]) -> str:
    header = ["judge", "all %", *(f"{name} %" for name in DOMAINS), "FN", "FP", "median ms", "p95 ms", "hostile ms"]
    rows = [
        [
            name,
            *(str(result["accuracy"][domain]["percent"]) for domain in ("all", *DOMAINS)),
            str(len(result["false negatives"])),
            str(len(result["false positives"])),
            *(f"{result[column]:.2f}" for column in ("median ms", "p95 ms", "slowest hostile ms")),
        ]
        for name, result in results.items()
    ]
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, default=CASES)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # math-verify reports its time-outs
    cases = [json.loads(line) for line in options.cases.read_text(encoding="utf-8").splitlines()]
    results = {name: measure(grader, cases, options.repeat) for name, grader in graders().items()}
    print(json.dumps(results, indent=1))
    print(table(results))


if __name__ == "__main__":
    main()
