"""What prompts ask for, against what the judges read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sod.cli import run as sod
from sod.config import EvalOptions
from sod.datasets import open_set
from sod.datasets.asking import load_asked, silence, unasked, why_silent
from sod.datasets.rows import write_jsonl
from sod.evaluation.evaluate import evaluate
from sod.lab import settings
from sod.types import Problem, Trajectory

DAPO = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: $Answer "
    "(without quotes) where $Answer is the answer to the problem.\n\n{}\n\n"
    'Remember to put your answer on its own line after "Answer:".'
)
"""As DAPO-Math-17k is published."""


def problem(text: str, kind: str = "math", system: str = "") -> Problem:
    messages = ([{"role": "system", "content": system}] if system else []) + [{"role": "user", "content": text}]
    return Problem(id=text, messages=tuple(messages), answer="4", kind=kind)


@pytest.mark.parametrize(
    "asking",
    [
        problem(r"What is 2+2? Put the answer in \boxed{}."),
        problem("What is 2+2? Box the answer."),
        problem("What is 2+2?", system=r"Reason step by step, and put your final answer within \boxed{}."),
        problem("Write a program. Use a ```python block.", "code"),
        problem("Write a program in a fenced block.", "code"),
        problem("gcd(84,36)?"),
        problem("BS=18+30;KP=BS*5;CW=KP-4;CW?"),
    ],
    ids=lambda asking: asking.id,
)
def test_nothing_is_said_of_prompts_that_ask_or_are_formulas(asking: Problem) -> None:
    assert unasked([asking]) == []


@pytest.mark.parametrize("kind", ["math", "choice", "code"])
def test_prompts_that_do_not_ask_are_counted_by_kind(kind: str) -> None:
    asking = problem(r"Put the answer in \boxed{}, or in a ```python block", kind)
    (line,) = unasked([asking, problem("What is 2+2?", kind)])
    assert line.startswith(f"1 of 2 prompts of kind {kind} do not ask for ")
    assert unasked([*[asking] * 19, problem("What is 2+2?", kind)]) == []


def test_a_chat_template_that_asks_is_enough() -> None:
    assert unasked([problem("What is 2+2?")], r"Put your final answer within \boxed{}.") == []


def test_dapo_as_published_is_asked_for_a_box(tmp_path: Path) -> None:
    rows = [
        {
            "data_source": "math_dapo",
            "prompt": [{"role": "user", "content": DAPO.format(f"What is {i}+2?")}],
            "reward_model": {"ground_truth": str(i + 2), "style": "rule-lighteval/MATH_v2"},
            "extra_info": {"index": str(i)},
        }
        for i in range(2)
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    problems, notes = load_asked(tmp_path / "rows.jsonl")
    assert problems[0].messages[0]["content"] == "What is 0+2?\n\nPut the final answer in \\boxed{}."
    assert unasked(problems) == []
    assert notes == (
        r"2 prompts ask for a line `Answer: ...`, but judges read only \boxed{}: their wording is replaced",
    )
    assert open_set(str(tmp_path / "rows.jsonl"), data_dir=tmp_path, prompts="paper").problems == problems


def test_a_check_says_it_and_the_file_is_good_all_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "What is 2+2?", "answer": "4"}])
    assert sod(["data", "check", str(tmp_path / "rows.jsonl")]) == 0
    assert r"warning: 1 of 1 prompts of kind math do not ask for \boxed{}" in " ".join(capsys.readouterr().out.split())


# Samples without an answer


def test_the_causes_of_silence_are_counted(trajectory: Callable[..., Trajectory]) -> None:
    attempts = [
        trajectory(answer=None, reason="no answer"),
        trajectory(answer=None, reason="no answer"),
        trajectory(answer=None, reason="no single letter"),
        trajectory(answer="3", reason="exact"),
    ]
    causes = silence(attempts)
    assert causes == {
        r"end without \boxed{} in the last turn": 2,
        "have an answer that cannot be parsed (no single letter)": 1,
    }
    assert why_silent(causes, 4, []) == []
    (line,) = why_silent(causes, 3, [problem("What is 2+2?")])
    assert line.startswith("3 of 3 samples have no answer: 2 end without")
    assert line.endswith("1 of 1 prompts do not ask for it.")


def test_an_evaluation_without_answers_says_why(
    untrained: Path, jsonl: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = jsonl([{"prompt": "Name 2+2.", "answer": "4"}])
    files: dict[str, Any] = {"model": untrained, "data": str(path), "out": tmp_path / "run", "samples": 2}
    results = evaluate(EvalOptions.model_validate(settings.EVAL | files))
    (benchmark,) = results.benchmarks.values()
    assert benchmark.notes[0].startswith("2 of 2 samples have no answer: ")
    assert benchmark.notes[0].endswith("1 of 1 prompts do not ask for it.")
    assert benchmark.notes[0] in (tmp_path / "run" / "results.md").read_text()
    assert "1 of 1 prompts of kind math do not ask" in " ".join(capsys.readouterr().out.split())
