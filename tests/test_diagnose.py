"""`sod diagnose`: advice over findings made by hand, and whole diagnoses of the lab's models against an independent count."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sod.config import DiagnoseOptions
from sod.datasets.rows import read_rows
from sod.errors import OptionError, RunError
from sod.evaluation.advice import ADVISERS, SOD_MINUS_OPD, Findings, choose
from sod.evaluation.diagnosis import diagnose, screen
from sod.evaluation.intervals import Interval
from sod.lab import settings


def around(mean: float, half: float = 0.02) -> Interval:
    return Interval(mean, mean - half, mean + half)


WIDE = Interval(0.05, -0.3, 0.4)
BETTER = Findings(
    problems=40,
    samples=8,
    student=around(0.3),
    teacher=around(0.7),
    ahead=around(0.4),
    contrast=around(0.6),
    first=around(0.5),
    growth=around(0.4),
    clean=(),
    erroneous=(),
    agreement=0.8,
    decisive=0.1,
    rescue=around(0.3),
    harm=around(0.1),
    fall=around(0.3),
)


@pytest.mark.parametrize(
    ("changed", "system"),
    [
        ({}, None),  # SOD's conditions hold; it was better than OPD in one such world, and worse in another
        ({"growth": around(0.0)}, "opd"),  # d is flat
        ({"fall": around(-0.2)}, "opd"),
        ({"fall": WIDE}, None),
        ({"fall": None}, None),
        ({"contrast": around(0.02)}, None),
        ({"contrast": around(0.02), "growth": around(0.0)}, "opd"),  # distillation needs no contrast
        ({"ahead": around(-0.3)}, "grpo"),
        ({"ahead": WIDE}, None),
        ({"ahead": None, "teacher": None}, None),
        ({"ahead": around(-0.3), "contrast": around(0.02)}, None),
        ({"ahead": WIDE, "contrast": Interval(0.1, math.nan, math.nan)}, None),
    ],
)
def test_the_system_follows_from_the_findings(changed: dict[str, Any], system: str | None) -> None:
    found = replace(BETTER, **changed)
    choice = choose(found)
    assert choice.system == system
    assert choice.gain.startswith(("not known", "SOD - OPD elsewhere"))
    lines = screen(found, choice)
    assert len(lines) <= 23
    assert not [line for line in lines if len(line) > 80 or line.endswith("…")]


def test_an_interval_that_permits_both_is_not_known_and_one_that_does_not_is_clear() -> None:
    unclear = replace(BETTER, ahead=WIDE, contrast=WIDE, growth=WIDE, fall=WIDE)
    assert [adviser(BETTER).confidence for adviser in ADVISERS] == ["clear"] * 4
    assert [adviser(unclear).confidence for adviser in ADVISERS] == ["not known"] * 4


def test_what_was_measured_where_the_conditions_of_sod_hold_is_shown() -> None:
    assert choose(BETTER).gain == "SOD - OPD elsewhere: -3.1 to +7.8 in 9 pairs"
    assert [each for each in SOD_MINUS_OPD if each.low > 0]  # with one direction alone, that system would be the advice
    assert [each for each in SOD_MINUS_OPD if each.high < 0]


def options(student: Path, teacher: Path, data: Path, out: Path, **changed: Any) -> DiagnoseOptions:
    lab = {name: settings.EVAL[name] for name in ("rollout", "reward", "tool")}
    given = {"student": student, "teacher": teacher, "data": data, "out": out, "samples": 2, "steps": 12}
    return DiagnoseOptions.model_validate(lab | {"minutes": 60} | given | changed)


def test_a_teacher_that_is_the_student_is_not_shown_to_be_better(
    teacher: Path, problem_file: Path, tmp_path: Path
) -> None:
    content = diagnose(options(teacher, teacher, problem_file, tmp_path / "out", samples=1))
    found = content["findings"]
    assert content["advice"][0]["holds"] is not True
    assert content["choice"]["system"] not in ("sod", "opd")
    assert found["problems"] == 8
    assert found["agreement"] == pytest.approx(1, abs=1e-3)
    assert (found["decisive"], found["first"]["mean"]) == (0, pytest.approx(0, abs=1e-3))


@pytest.mark.slow
def test_the_numbers_are_those_of_the_trajectories_and_an_interrupted_diagnosis_ends_equal(
    untrained: Path, trembling: Any, teacher: Path, problem_file: Path, tmp_path: Path
) -> None:
    trembling(tmp_path / "student", 0.1)
    given = options(tmp_path / "student", teacher, problem_file, tmp_path / "out")
    content = diagnose(given)
    found = content["findings"]
    rows = read_rows(given.out / "student" / "trajectories" / "update-0000.jsonl")
    of_teacher = read_rows(given.out / "teacher" / "trajectories" / "update-0000.jsonl")
    assert (len(rows), len(of_teacher)) == (16, 16)
    assert found["student"]["mean"] == pytest.approx(sum(row["correct"] for row in rows) / 16)
    assert found["teacher"]["mean"] == pytest.approx(sum(row["correct"] for row in of_teacher) / 16)
    right = {f"p{i}": sum(row["correct"] for row in rows if row["problem"] == f"p{i}") for i in range(8)}
    assert found["contrast"]["mean"] == pytest.approx(sum(0 < count < 2 for count in right.values()) / 8)
    assert found["first"]["mean"] == pytest.approx(sum(row["steps"][0]["d"] for row in rows) / 16)
    signals = [s for row in rows for piece in row["pieces"] for s in piece.get("signal", [])]
    assert found["decisive"] == pytest.approx(sum(abs(s) >= 1 for s in signals) / len(signals))
    assert found["agreement"] == pytest.approx(sum(min(1, math.exp(s)) for s in signals) / len(signals))
    failed = [r for r in rows if any(o != "ok" for p in r["pieces"] for o in p.get("outcomes", []))]
    assert found["erroneous"][0]["d"] == pytest.approx(sum(r["steps"][0]["d"] for r in failed) / len(failed))
    assert found["clean"][0]["trajectories"] == 16 - len(failed)
    (continued,) = given.out.glob("continuations-*/continuations.jsonl")
    ended = {(row["problem"], row["sample"]): row["correct"] for row in rows}
    after = [row for row in read_rows(continued) if row["errors_before"]]
    by_problem: dict[str, list[bool]] = {}
    for row in after:
        if not ended[row["problem"], row["sample"]]:
            by_problem.setdefault(row["problem"], []).append(row["solved"])
    expected = sum(sum(each) / len(each) for each in by_problem.values()) / len(by_problem)
    assert found["rescue"]["mean"] == pytest.approx(expected)

    # What a crash within the first round leaves: some trajectories of the student, nothing else.
    again = given.model_copy(update={"out": tmp_path / "again"})
    shutil.copytree(given.out / "student", again.out / "student")
    (again.out / "student" / "results.json").unlink()
    file = again.out / "student" / "trajectories" / "update-0000.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:5]))
    assert diagnose(again) == content
    assert json.loads((again.out / "diagnose.json").read_text()) == json.loads(
        (given.out / "diagnose.json").read_text()
    )

    # The lab's teacher, which is measured already, beside a student that has learnt nothing.
    shutil.copytree(given.out / "teacher", tmp_path / "untrained" / "teacher")
    content = diagnose(options(untrained, teacher, problem_file, tmp_path / "untrained"))
    assert content["findings"]["student"]["mean"] == 0
    assert content["findings"]["student"]["high"] == pytest.approx(1 - 0.025 ** (1 / 8))
    assert content["advice"][0]["holds"] is True


def test_at_the_end_of_the_time_one_round_is_measured_and_more_minutes_continue_it(
    teacher: Path, problem_file: Path, tmp_path: Path
) -> None:
    short = options(teacher, teacher, problem_file, tmp_path / "out", samples=1, minutes=0.001)
    first = diagnose(short)["findings"]
    assert first["problems"] == 3
    assert diagnose(short)["findings"] == first
    with pytest.raises(RunError, match="with another value of student"):
        diagnose(short.model_copy(update={"student": tmp_path}))
    longer = diagnose(short.model_copy(update={"minutes": 60.0}))["findings"]
    assert longer["problems"] == 8


@pytest.mark.parametrize("engine", [{"name": "served", "url": "http://127.0.0.1:1"}, {"name": "vllm_server"}])
def test_a_server_is_refused_because_it_holds_one_model(engine: dict[str, str], tmp_path: Path) -> None:
    given = {"student": "a", "teacher": "b", "data": ["c.jsonl"], "out": tmp_path / "out", "engine": engine}
    with pytest.raises(OptionError, match="A server samples one model"):
        diagnose(DiagnoseOptions.model_validate(given))
    assert not (tmp_path / "out").exists()
