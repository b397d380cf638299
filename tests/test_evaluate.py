"""Measuring, from file to file: what is written, what is not sampled again, what survives an interruption."""

import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from warm import Warm, run_warm

from sod.config import EvalOptions
from sod.config.recipes import to_toml
from sod.errors import DataError, InfrastructureError, OptionError, RunError
from sod.evaluation.evaluate import EvaluationSession, evaluate
from sod.lab import settings
from sod.processes.concurrency import Runner
from sod.runs.directory import Run
from sod.runs.results import Results, read_results

Jsonl = Callable[[Any], Path]


@pytest.fixture(scope="module")
def measured(
    teacher: Path, untrained: Path, problem_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[EvalOptions, Results]:
    """The lab's teacher, measured on three problems, beside a model that knows nothing."""
    files = {"model": teacher, "data": str(problem_file), "out": tmp_path_factory.mktemp("eval") / "run"}
    options = EvalOptions.model_validate(settings.EVAL | files | {"teacher": untrained, "samples": 2, "limit": 3})
    return options, evaluate(options)


Measured = tuple[EvalOptions, Results]


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Run(run).trajectory_file(0).read_text().split("\n") if line]


def keys_of(run: Path) -> list[tuple[str, int]]:
    return [(row["problem"], row["sample"]) for row in rows_of(run)]


def test_an_evaluation_leaves_its_results_and_every_trajectory(measured: Measured) -> None:
    options, results = measured
    assert json.loads((options.out / "results.json").read_text()) == results.record()
    assert read_results(options.out) == results
    assert [row["update"] for row in Run(options.out).metrics()] == [0]
    rows = rows_of(options.out)
    assert keys_of(options.out) == [(f"p{i}", j) for i in range(3) for j in range(2)]
    (benchmark,) = results.benchmarks.values()
    assert benchmark.measured == results.mean
    mean = results.mean
    assert mean["avg"] == sum(row["correct"] for row in rows) / 6
    assert (mean["problems"], mean["samples"], mean["rollout/dropped"]) == (3, 2, 0)
    assert benchmark.notes == ["the first 3 problems of the file"]
    assert not results.partial
    assert {path.name for path in options.out.iterdir()} == {
        "options.json", "environment.json", "metrics.jsonl", "trajectories", "results.json", "results.md", "end.json",
    }  # fmt: skip


def test_with_a_teacher_the_divergence_is_measured(measured: Measured) -> None:
    options, results = measured
    rows = rows_of(options.out)
    steps = [step for row in rows for step in row["steps"]]
    assert results.mean["steps/d"] > 0.5  # it knows nothing
    assert results.mean["steps/d"] == pytest.approx(fmean(step["d"] for step in steps))
    assert results.mean["steps/d_1"] == pytest.approx(fmean(row["steps"][0]["d"] for row in rows))
    later = [step["w"] for row in rows for step in row["steps"][1:]]
    assert results.mean["steps/w_after_first"] == pytest.approx(fmean(later))
    assert {row["benchmark"] for row in rows} == {"rows"}


def test_a_model_does_not_diverge_from_itself(teacher: Path, problem_file: Path, tmp_path: Path) -> None:
    files = {"model": teacher, "teacher": teacher, "data": str(problem_file), "out": tmp_path / "run"}
    results = evaluate(EvalOptions.model_validate(settings.EVAL | files | {"samples": 1, "limit": 2}))
    assert results.mean["steps/d"] == pytest.approx(0, abs=1e-5)


def test_an_evaluation_may_be_repeated_to_the_letter_elsewhere(measured: Measured, tmp_path: Path) -> None:
    options, results = measured
    again = evaluate(options.model_copy(update={"out": tmp_path / "again", "teacher": None}))
    assert again.mean == {name: results.mean[name] for name in again.mean}


# Taken up again


@pytest.fixture
def quick(teacher: Path, problem_file: Path, tmp_path: Path) -> EvalOptions:
    files = {"model": teacher, "data": str(problem_file), "out": tmp_path / "run"}
    return EvalOptions.model_validate(settings.EVAL | files | {"samples": 2, "limit": 2})


def written(rows: list[dict[str, Any]]) -> list[Any]:
    """What the model wrote, without the seconds that it took, and log-probabilities, which rounding changes."""
    return [(row["problem"], row["sample"], [piece["tokens"] for piece in row["pieces"]]) for row in rows]


def test_a_finished_evaluation_is_told_again_and_nothing_is_sampled(quick: EvalOptions) -> None:
    results, rows = evaluate(quick), rows_of(quick.out)
    assert evaluate(quick) == results
    assert rows_of(quick.out) == rows  # to the second that each took


def test_more_samples_and_problems_are_added_to_those_that_are_there(quick: EvalOptions, tmp_path: Path) -> None:
    few = evaluate(quick)
    rows = rows_of(quick.out)
    more = quick.model_copy(update={"samples": 3, "limit": 3})
    added = evaluate(more)
    assert [row for row in rows_of(quick.out) if (row["problem"], row["sample"]) in keys_of_(rows)] == rows
    at_once = evaluate(more.model_copy(update={"out": tmp_path / "at-once"}))
    assert written(rows_of(quick.out)) == written(rows_of(tmp_path / "at-once"))
    assert added == at_once
    assert (few.mean["samples"], added.mean["samples"]) == (2, 3)


def keys_of_(rows: list[dict[str, Any]]) -> set[tuple[str, int]]:
    return {(row["problem"], row["sample"]) for row in rows}


def test_fewer_samples_lose_none_of_those_that_are_there(quick: EvalOptions) -> None:
    both = evaluate(quick)
    rows = rows_of(quick.out)
    one = evaluate(quick.model_copy(update={"samples": 1}))
    assert one.mean["samples"] == 1
    assert sorted(keys_of(quick.out)) == sorted(keys_of_(rows))
    assert evaluate(quick) == both


def test_what_was_lost_or_damaged_is_sampled_again_and_nothing_else(quick: EvalOptions) -> None:
    results, rows = evaluate(quick), rows_of(quick.out)
    file = Run(quick.out).trajectory_file(0)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text(lines[0] + "damage\n" + lines[3] + lines[2][:-20])  # one is damaged, one cut short by a crash
    assert evaluate(quick) == results
    again = rows_of(quick.out)
    assert written(again) == written(rows)
    assert [again[0]["seconds"], again[3]["seconds"]] == [rows[0]["seconds"], rows[3]["seconds"]]


def test_attempts_that_were_lost_are_counted_and_tried_again(quick: EvalOptions) -> None:
    results = evaluate(quick)
    file = Run(quick.out).trajectory_file(0)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[1:]))
    with Runner() as loop, EvaluationSession.open(quick, loop) as session:
        lost = session.conclude(complete=True)  # as if the missing one had been tried in vain
    assert lost.mean["rollout/dropped"] == 1
    assert not lost.partial
    assert evaluate(quick).mean == results.mean


def test_what_no_judge_could_decide_gets_another_chance(quick: EvalOptions) -> None:
    results = evaluate(quick)
    file = Run(quick.out).trajectory_file(0)
    undecided = {"graded": False, "correct": False, "answer": None, "reason": "ran out of time", "reward": 0.0}
    rows = rows_of(quick.out)
    file.write_text("".join(json.dumps(row | undecided) + "\n" for row in rows))
    assert evaluate(quick) == results
    assert rows_of(quick.out) == rows


def test_the_same_model_and_data_elsewhere_are_the_same(quick: EvalOptions, tmp_path: Path) -> None:
    results = evaluate(quick)
    moved = {"model": tmp_path / "model", "data": (str(tmp_path / "rows.jsonl"),)}
    shutil.copytree(quick.model, moved["model"])
    shutil.copy(quick.data[0], tmp_path / "rows.jsonl")
    assert evaluate(quick.model_copy(update=moved)).mean == results.mean
    template = tmp_path / "model" / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    with pytest.raises(RunError, match=r"The model differs from the one"):
        evaluate(quick.model_copy(update=moved))


def test_an_evaluation_is_not_continued_as_another(quick: EvalOptions, untrained: Path, jsonl: Jsonl) -> None:
    evaluate(quick)
    with pytest.raises(RunError, match=r"other options \(seed\)"):
        evaluate(quick.model_copy(update={"seed": 1}))
    with pytest.raises(RunError, match=r"The model differs from the one that the run in .* was started with"):
        evaluate(quick.model_copy(update={"model": untrained}))
    data = Path(quick.data[0])
    before = data.read_text()
    try:
        data.write_text(before.replace("p7", "p8"))
        with pytest.raises(RunError, match=r"The data differs from the one that the run in .* was started with"):
            evaluate(quick)
    finally:
        data.write_text(before)


WHOLE = {"samples": 25, "limit": 4}


@pytest.fixture(scope="module")
def uninterrupted(teacher: Path, problem_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred samples without any trouble."""
    files = {"model": teacher, "data": str(problem_file), "out": tmp_path_factory.mktemp("uninterrupted") / "run"}
    options = EvalOptions.model_validate(settings.EVAL | files | WHOLE)
    assert evaluate(options).mean["samples"] == 25
    return options.out


@pytest.mark.slow
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_killed_and_run_again_it_measures_the_same_and_samples_nothing_twice(
    quick: EvalOptions, uninterrupted: Path, tmp_path: Path, kill: signal.Signals
) -> None:
    whole = quick.model_copy(update=WHOLE)
    recipe = tmp_path / "eval.toml"
    recipe.write_text(to_toml(whole.model_dump(exclude_defaults=True)))
    command = ["-m", "sod", "eval", str(recipe)]
    file = Run(whole.out).trajectory_file(0)
    process = Warm(command)
    deadline = time.monotonic() + 120
    while (not file.exists() or file.read_bytes().count(b"\n") < 20) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send(kill)
    ended = process.wait()
    said = ended.stdout + ended.stderr
    interrupted = [json.loads(line) for line in file.read_bytes().split(b"\n")[:-1]]
    assert 20 <= len(interrupted) < 100
    if kill != signal.SIGKILL:
        assert ended.returncode == (130 if kill == signal.SIGINT else 75)
        what = "interrupted" if kill == signal.SIGINT else "ended by SIGTERM"
        assert f"error: {what}; to continue: sod eval {recipe}\n" in said
        assert read_results(whole.out).partial
        assert (whole.out / "results.md").read_text().count("PARTIAL") == 1
    else:
        assert not (whole.out / "results.json").exists()
    resumed = run_warm(command)
    assert resumed.returncode == 0, resumed.stderr
    again = resumed.stdout
    assert f"{len(interrupted)} samples exist already; {100 - len(interrupted)} are missing." in again
    rows = {(row["problem"], row["sample"]): row for row in rows_of(whole.out)}
    assert len(rows) == len(rows_of(whole.out)) == 100
    assert all(rows[row["problem"], row["sample"]] == row for row in interrupted)
    kept = {(row["problem"], row["sample"]): row["answer"] for row in rows_of(uninterrupted)}
    same = sum(rows[key]["answer"] == answer for key, answer in kept.items())
    assert same >= 90  # who writes beside whom decides rounding, and rounding now and then a draw


# Several sets, further judges


def test_several_sets_are_measured_by_themselves_and_in_the_mean(
    teacher: Path, problem_file: Path, jsonl: Jsonl, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in problem_file.read_text().splitlines()]
    other = tmp_path / "other.jsonl"
    other.write_text(
        "".join(json.dumps(row | {"difficulty": "hard" if row["id"] == "p0" else "easy"}) + "\n" for row in rows)
    )
    files = {"model": teacher, "data": [str(problem_file), str(other)], "out": tmp_path / "run"}
    results = evaluate(EvalOptions.model_validate(settings.EVAL | files | {"samples": 2, "limit": 2}))
    assert list(results.benchmarks) == ["rows", "other"]
    averages = [each.measured["avg"] for each in results.benchmarks.values()]
    assert results.mean["avg"] == pytest.approx(sum(averages) / 2)
    assert results.mean["problems"] == 4
    assert set(results.benchmarks["other"].by["difficulty"]) == {"hard", "easy"}
    assert [key for key in keys_of(tmp_path / "run") if not key[1]] == [
        ("rows/p0", 0), ("rows/p1", 0), ("other/p0", 0), ("other/p1", 0),
    ]  # fmt: skip
    with pytest.raises(OptionError, match="given twice"):
        evaluate(EvalOptions.model_validate(settings.EVAL | files | {"data": [str(other)] * 2}))


def test_the_same_samples_are_judged_by_the_reference_as_well(
    quick: EvalOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = evaluate(quick)
    rows = rows_of(quick.out)
    both = evaluate(quick.model_copy(update={"judges": ("reference",)}))
    assert both.mean == alone.mean
    judged = both.benchmarks["rows"].judges["reference"]
    assert judged["samples"] == 2
    assert [row["judges"]["reference"]["correct"] for row in rows_of(quick.out)] == [row["correct"] for row in rows]
    assert judged["avg"] == alone.mean["avg"]  # the lab's answers are plain integers in a plain box
    capsys.readouterr()
    evaluate(quick.model_copy(update={"judges": ("reference",)}))
    assert [row["seconds"] for row in rows_of(quick.out)] == [row["seconds"] for row in rows]


# What goes wrong


def test_an_evaluation_that_lost_every_attempt_is_an_error_and_has_no_results(quick: EvalOptions) -> None:
    rollout = quick.rollout.model_copy(update={"seconds": 1e-6})
    hopeless = quick.model_copy(update={"rollout": rollout, "samples": 1, "limit": 1})
    with pytest.raises(InfrastructureError, match="Of 1 attempts, 1 were lost"):
        evaluate(hopeless)
    assert not (quick.out / "results.json").exists()


def test_a_row_that_the_paper_does_not_have_is_refused(quick: EvalOptions) -> None:
    with pytest.raises(OptionError, match=r"no row 'sod-1.8b'; did you mean 'sod-1.7b'"):
        evaluate(quick.model_copy(update={"paper": "sod-1.8b"}))


def test_what_is_neither_a_benchmark_nor_a_file_is_refused_before_anything_is_written(quick: EvalOptions) -> None:
    with pytest.raises(DataError, match="aime2024"):
        evaluate(quick.model_copy(update={"data": ("aime24",)}))
    assert not quick.out.exists()


def test_a_served_model_has_no_divergence(quick: EvalOptions, teacher: Path) -> None:
    served = quick.engine.model_copy(update={"name": "served", "url": "http://127.0.0.1:1"})
    with pytest.raises(OptionError, match=r"does not work with engine\.name = served"):
        evaluate(quick.model_copy(update={"engine": served, "teacher": teacher}))
