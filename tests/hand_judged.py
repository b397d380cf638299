"""Answers that people judged, and where a judge does not agree with them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sod.rewards import Verdict

GOLDEN = Path(__file__).with_name("golden")
Judge = Callable[[str, str], Verdict]


def rows_of(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (GOLDEN / name).read_text(encoding="utf-8").splitlines()]


CASES = rows_of("grading_cases.jsonl")
"""Whole responses to a gold answer, some of them debatable or without a box."""
MORE = rows_of("more_answers.jsonl") + rows_of("words_and_units.jsonl")
"""More of them, by gold answer: what is right and what is wrong, in a box or, if not `boxed`, as whole responses."""


def clear_cases(*, choice: bool) -> list[dict[str, Any]]:
    """The cases of multiple choice, or all others, that leave no doubt."""
    return [c for c in CASES if (c["domain"] == "gpqa") == choice and not c["debatable"] and not c["no_box"]]


def missed_cases(judge: Judge, cases: list[dict[str, Any]]) -> list[str]:
    """The ids of those that the judge decides otherwise."""
    outcomes = {c["id"]: judge(c["response"], c["gold"]).outcome for c in cases}
    return [c["id"] for c in cases if outcomes[c["id"]] != ("right" if c["correct"] else "wrong")]


def missed_answers(judge: Judge, kind: str, boxed: Callable[[str], str]) -> list[tuple[str, str, str]]:
    """(gold, answer, what it is) of those in `MORE` that the judge decides otherwise."""
    return [
        (row["gold"], answer, outcome)
        for row in MORE
        for outcome in ("right", "wrong")
        for answer in row[outcome]
        if row["kind"] == kind and judge(boxed(answer) if row["boxed"] else answer, row["gold"]).outcome != outcome
    ]
