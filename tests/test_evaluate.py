"""Measuring: numbers over groups made by hand, and one evaluation from file to file."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sod.config import EvalOptions
from sod.errors import InfrastructureError, RunError
from sod.evaluate import evaluate, majority, show, standard_error, summary
from sod.lab import settings
from sod.runs import Run
from sod.types import Group, Problem, Trajectory

Make = Callable[..., Trajectory]


@pytest.fixture
def group(trajectory: Make) -> Callable[..., Group]:
    """A group with these answers; the right one is "1"."""

    def make(*answers: str | None, dropped: int = 0) -> Group:
        attempts = [trajectory(answer=answer, sample=i) for i, answer in enumerate(answers)]
        return Group(Problem(id="p", messages=(), answer="1"), attempts, dropped=dropped)

    return make


MakeGroup = Callable[..., Group]


def test_a_summary_of_three_problems(group: MakeGroup) -> None:
    groups = [group("1", "1", "1", "1"), group("1", "2", "2", None), group("3", "4", None, None)]
    results = summary(groups)
    assert results["problems"] == 3
    assert results["samples"] == 4
    assert results["avg"] == pytest.approx((1 + 1 / 4 + 0) / 3)
    assert results["pass"] == pytest.approx(2 / 3)
    assert results["maj"] == pytest.approx(1 / 3)
    assert results["no_answer"] == pytest.approx(3 / 12)
    mean = 1.25 / 3
    spread = ((1 - mean) ** 2 + (0.25 - mean) ** 2 + mean**2) / 2
    assert results["avg_se"] == pytest.approx(math.sqrt(spread / 3))


def test_a_problem_counts_the_same_however_many_attempts_it_lost(group: MakeGroup) -> None:
    results = summary([group("1", dropped=3), group("2", "2", "2", "2")])
    assert results["avg"] == 0.5
    assert results["samples"] == 4


def test_a_problem_that_lost_every_attempt_is_left_out_and_counted(group: MakeGroup) -> None:
    results = summary([group(dropped=2), group("1", "1")])
    assert (results["problems"], results["problems_lost"], results["avg"]) == (1, 1, 1.0)


def test_a_summary_of_nothing_is_zeros(group: MakeGroup) -> None:
    assert not any(value for name, value in summary([group(dropped=2)]).items() if name != "problems_lost")
    assert not any(summary([]).values())


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["1", "1", "2"], 1.0),
        (["1", "2", "2"], 0.0),
        (["1", "2"], 1 / 2),  # a tie is shared
        (["1", "2", "3"], 1 / 3),
        (["2", "3"], 0.0),
        (["1", None, None, None], 1.0),  # no answer is no vote
        ([None, None], 0.0),
        ([], 0.0),
    ],
)
def test_the_majority_is_right_or_wrong_or_shared(group: MakeGroup, answers: list[str | None], expected: float) -> None:
    assert majority(group(*answers)) == pytest.approx(expected)


def test_the_standard_error_is_the_deviation_over_the_root_of_the_number() -> None:
    assert standard_error([1.0, 0.0, 1.0, 0.0]) == pytest.approx(math.sqrt(1 / 3) / 2)
    assert standard_error([0.3, 0.3, 0.3]) == pytest.approx(0.0)
    assert standard_error([0.3]) == standard_error([]) == 0.0


# From file to file


@pytest.fixture(scope="module")
def measured(
    teacher: Path, untrained: Path, problem_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[EvalOptions, dict[str, float]]:
    """The lab's teacher, measured on three problems, beside a model that knows nothing."""
    files = {"model": teacher, "data": problem_file, "out": tmp_path_factory.mktemp("eval") / "run"}
    options = EvalOptions.model_validate(settings.EVAL | files | {"teacher": untrained, "samples": 2, "limit": 3})
    return options, evaluate(options)


Measured = tuple[EvalOptions, dict[str, float]]


def test_an_evaluation_leaves_its_results_and_every_trajectory(measured: Measured) -> None:
    options, results = measured
    assert json.loads((options.out / "results.json").read_text()) == results
    assert [row["update"] for row in Run(options.out).metrics()] == [0]
    lines = (options.out / "trajectories" / "update-0000.jsonl").read_text().split("\n")
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines if line]
    assert [(row["problem"], row["sample"]) for row in rows] == [(f"p{i}", j) for i in range(3) for j in range(2)]
    assert results["avg"] == sum(row["correct"] for row in rows) / 6
    assert (results["problems"], results["samples"], results["rollout/dropped"]) == (3, 2, 0)
    assert {path.name for path in options.out.iterdir()} == {
        "options.json", "environment.json", "metrics.jsonl", "trajectories", "results.json",
    }  # fmt: skip


def test_with_a_teacher_the_divergence_is_measured(measured: Measured) -> None:
    _, results = measured
    assert results["steps/d"] > 0.5  # it knows nothing
    assert results["steps/d_1"] > 0.5


def test_a_model_does_not_diverge_from_itself(teacher: Path, problem_file: Path, tmp_path: Path) -> None:
    files = {"model": teacher, "teacher": teacher, "data": problem_file, "out": tmp_path / "run"}
    results = evaluate(EvalOptions.model_validate(settings.EVAL | files | {"samples": 1, "limit": 2}))
    assert results["steps/d"] == pytest.approx(0, abs=1e-5)


def test_an_evaluation_may_be_repeated_to_the_letter_but_not_over_itself(measured: Measured, tmp_path: Path) -> None:
    options, results = measured
    again = evaluate(options.model_copy(update={"out": tmp_path / "again", "teacher": None}))
    assert {name: again[name] for name in again} == {name: results[name] for name in again}
    with pytest.raises(RunError, match="already holds a run"):
        evaluate(options)


def test_the_results_are_shown_with_their_errors(measured: Measured) -> None:
    _, results = measured
    shown = show(results | {"avg": 0.5, "avg_se": 0.25, "pass": 0.75})
    assert "avg@2        50.0% ± 25.0%  (standard error over 3 problems)" in shown
    assert "pass@2       75.0%" in shown
    assert "divergence" in shown
    assert "dropped" not in shown
    assert "4 attempts, lost to our own machinery" in show(results | {"rollout/dropped": 4})


def test_an_evaluation_that_lost_every_attempt_is_an_error_and_has_no_results(
    teacher: Path, problem_file: Path, tmp_path: Path
) -> None:
    options = {"model": teacher, "data": problem_file, "out": tmp_path / "run", "samples": 1, "limit": 1}
    rollout = settings.EVAL["rollout"] | {"seconds": 1e-6}
    with pytest.raises(InfrastructureError, match="Of 1 attempts, 1 were lost"):
        evaluate(EvalOptions.model_validate(settings.EVAL | options | {"rollout": rollout}))
    assert not (tmp_path / "run" / "results.json").exists()
