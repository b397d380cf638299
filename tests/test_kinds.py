"""The one table of kinds of problems: a kind that is only declared there works in every place."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confining import CONFINABLE
from judging import REFEREE
from own_kind import ORDER

from sod.cli import run as sod
from sod.config import EvalOptions
from sod.datasets import open_set
from sod.datasets.asking import silence, unasked
from sod.datasets.identity import items
from sod.datasets.published import SETS
from sod.datasets.rows import load_problems
from sod.datasets.wording import bare, worded
from sod.errors import DataError
from sod.evaluation.evaluate import evaluate
from sod.evaluation.measures import Tally
from sod.lab import settings
from sod.rewards.kinds import ENVIRONMENT_KIND, FALLBACK, KINDS, check_gold
from sod.types import Group, Problem, Trajectory, Verdict

ROWS = [
    {"question": "Sort the planets A, B and C by size.", "answer": "B > A > C"},
    {"question": "Sort the numbers A = 3, B = 1.", "answer": "B, A"},
]


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add the kind, as one entry in the table does."""
    monkeypatch.setitem(KINDS, "order", ORDER)


def attempt(text: str, verdict: Verdict | None = None, gold: str = "B, A, C") -> Trajectory:
    problem = Problem(id="p", messages=(), answer=gold, kind="order")
    return Trajectory(problem=problem, sample=0, pieces=(), stop="answered", final_text=text, verdict=verdict)


def judged(text: str) -> Trajectory:
    return attempt(text, asyncio.run(REFEREE.judge(attempt(text), str)))


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    return " ".join((out + err).split())


def test_a_kind_that_is_not_declared_is_refused() -> None:
    with pytest.raises(DataError, match="its `kind` is 'order', but judges exist only for math, choice, code"):
        check_gold("order", "B, A")


@pytest.mark.usefixtures("order")
def test_a_declared_kind_is_converted_asked_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, out = tmp_path / "raw.jsonl", tmp_path / "ours.jsonl"
    raw.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert sod(["data", "convert", str(raw), "--out", str(out)]) == 0
    assert [json.loads(line) for line in out.read_text().splitlines()] == [
        {
            "id": "1",
            "prompt": f"{ROWS[0]['question']}\n\nGive the order in a last line that begins with `Order:`.",
            "answer": "B, A, C",
            "answer_raw": "B > A > C",
            "kind": "order",
        },
        {
            "id": "2",
            "prompt": f"{ROWS[1]['question']}\n\nGive the order in a last line that begins with `Order:`.",
            "answer": "B, A",
            "kind": "order",
        },
    ]
    assert sod(["data", "check", str(out)]) == 0
    assert "2 rows, 0 invalid" in (said := printed(capsys))
    assert "warning" not in said


@pytest.mark.usefixtures("order")
def test_a_row_with_the_column_kind_is_of_that_kind(jsonl: Callable[..., Path]) -> None:
    (problem,) = load_problems(jsonl([{"prompt": "Sort. Order: ?", "answer": "C, A", "kind": "order"}]))
    assert (problem.kind, problem.answer) == ("order", "C, A")
    with pytest.raises(DataError, match="'ABC' is not an order of letters"):
        load_problems(jsonl([{"prompt": "Sort.", "answer": "ABC", "kind": "order"}]))


@pytest.mark.usefixtures("order")
def test_prompts_that_do_not_ask_for_its_answer_are_counted(jsonl: Callable[..., Path]) -> None:
    problems = load_problems(jsonl([{"prompt": "Sort these planets.", "answer": "C, A", "kind": "order"}]))
    (line,) = unasked(problems)
    assert line.startswith("1 of 1 prompts of kind order do not ask for a line `Order: ...`, but the judge")
    assert unasked(problems, "Write Order: at the end.") == []


@pytest.mark.usefixtures("order")
def test_its_wording_can_be_taken_off_again() -> None:
    for prompts in ("clean", "paper"):
        text = worded("Sort.", "order", prompts)
        assert text != "Sort." == bare(text)


@pytest.mark.usefixtures("order")
def test_equal_golds_have_equal_marks() -> None:
    one, other = items([{"kind": "order", "answer": "B > A"}, {"kind": "order", "answer": "B, A"}])
    assert one == other


@pytest.mark.usefixtures("order")
def test_the_referee_uses_its_judge() -> None:
    REFEREE.check([attempt("").problem])
    assert judged("Order: B, A, C").judged == Verdict(outcome="right", answer="B, A, C", reason="order")
    assert judged(r"\boxed{B, A, C}").judged == Verdict(outcome="wrong", reason="no answer")
    with pytest.raises(DataError, match="cannot be judged: The gold answer 'ABC' is not an order"):
        REFEREE.check([attempt("", gold="ABC").problem])


@pytest.mark.usefixtures("order")
def test_the_scores_of_an_evaluation_count_its_votes_and_its_silence() -> None:
    attempts = [judged(text) for text in ("Order: B > A > C", "Order: B, A, C", "Order: C, A, B", "I give up.")]
    tally = Tally()
    tally.add(Group(attempts[0].problem, attempts))
    measured = tally.measured()
    assert (measured["avg"], measured["maj"], measured["no_answer"]) == (0.5, 1.0, 0.25)
    assert silence(attempts) == {"end without a line `Order: ...` in the last turn": 1}


@pytest.mark.usefixtures("order")
def test_an_evaluation_runs_on_a_file_of_it(untrained: Path, jsonl: Callable[..., Path], tmp_path: Path) -> None:
    path = jsonl([{"prompt": "Sort A and B. End with Order: ...", "answer": "B, A", "kind": "order"}])
    assert open_set(str(path), data_dir=tmp_path, prompts="clean").votes
    files: dict[str, Any] = {"model": untrained, "data": str(path), "out": tmp_path / "run", "samples": 2}
    (benchmark,) = evaluate(EvalOptions.model_validate(settings.EVAL | files)).benchmarks.values()
    assert benchmark.measured["no_answer"] == 1.0
    assert "maj" in benchmark.measured
    assert "without a line `Order: ...`" in benchmark.notes[0] or "were cut off" in benchmark.notes[0]


@pytest.mark.usefixtures("order")
def test_the_doctor_tries_its_examples(capsys: pytest.CaptureFixture[str]) -> None:
    options = [] if CONFINABLE else ["--sandbox.backend", "unsafe_subprocess"]
    assert sod(["doctor", "--programs", "1", *options]) == (0 if CONFINABLE else 1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines if "order: Order:" in line] == [["ok", "right"], ["ok", "wrong"]]


@pytest.mark.parametrize("name", [name for name in KINDS if name not in (ENVIRONMENT_KIND, "reasoning_gym")])
def test_every_kind_declares_a_right_and_a_wrong_example_with_golds_that_it_accepts(name: str) -> None:
    kind = KINDS[name]
    assert {example.outcome for example in kind.examples} == {"right", "wrong"}
    for example in kind.examples:
        check_gold(name, example.gold)
        assert kind.stored(kind.stored(example.gold)) == kind.stored(example.gold)
    for text in (*kind.wording.values(), *(kind.code_wording or {}).values()):
        assert "{problem}" in text
        assert kind.asks_exactly.search(text)
        assert kind.asks.search(text)
    assert (kind.code_wording is None) == (kind.signature is None)


def test_published_sets_and_rows_without_a_kind_name_declared_kinds() -> None:
    assert FALLBACK in KINDS
    assert {published.kind for published in SETS.values()} <= {"", *KINDS}
