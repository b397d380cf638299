"""What an evaluation came to: tables, the paper's row, reading back, two of them side by side."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluated import benchmark, results

from sod.config import CompareEvaluationsOptions
from sod.errors import DataError
from sod.evaluation.paired import compare_evaluations, differences
from sod.evaluation.results import read_evaluation, results_markdown
from sod.report import paper
from sod.runs.directory import Run
from sod.runs.results import read_results


def measured(avg: float, **more: float) -> dict[str, float]:
    return {
        "problems": 30,
        "samples": 32,
        "avg": avg,
        "avg_se": 0.05,
        "avg_sampling_se": 0.01,
        "pass@32": 0.8,
        "maj": 0.6,
        "no_answer": 0.1,
        "truncated": 0.02,
        "tools/calls": 3.0,
        "tools/errors": 0.5,
        "rollout/tokens": 5000.0,
        "rollout/ungraded": 0,
        "rollout/dropped": 0,
        "problems_lost": 0,
    } | more


# Tables


def lines(table: str, sheet: int = 0) -> list[str]:
    """The rows of one of the tables, without head."""
    return [line for line in table.split("\n\n**")[sheet].splitlines() if line.startswith("|")][2:]


def test_a_benchmark_is_a_line_with_both_of_its_errors_and_a_line_of_how() -> None:
    table = results_markdown(results({"aime2024": benchmark(measured(0.5))}))
    assert lines(table) == ["| aime2024 | 30 | 50.0 | 1.0 | 5.0 | 80.0 | 60.0 |"]
    assert lines(table, 1) == ["| aime2024 | 10.0 | 2.0 | 3.00 | 0.50 | 5000 |"]


def test_no_table_is_wider_than_a_terminal() -> None:
    names = ("aime2024", "aime2025", "gpqa_diamond", "livecodebench_v6_2502")
    content = results({name: benchmark(measured(1.0)) for name in names}, paper="opsd-hint-0.6b")
    assert max(len(line) for sheet in range(2) for line in lines(results_markdown(content), sheet)) <= 80


def test_several_benchmarks_have_their_mean_below_them() -> None:
    table = results_markdown(results({"aime2024": benchmark(measured(0.5)), "math500": benchmark(measured(0.7))}))
    assert [line.split(" | ")[0] for line in lines(table)] == ["| aime2024", "| math500", "| mean"]


def test_lost_attempts_have_a_line_with_the_problems_that_count_and_the_bounds() -> None:
    lost = {"rollout/ungraded": 40, "avg_low": 0.45, "avg_high": 0.575, "problems@32": 21}
    table = results_markdown(results({"aime2024": benchmark(measured(0.5, **lost))}))
    assert (
        "aime2024: avg@32 would be 45.0 % if all attempts that are not counted were wrong, and 57.5 % if all" in table
    )
    assert "aime2024: pass@32 and maj@32 are over the 21 of 30 problems with 32 graded attempts." in table
    table = results_markdown(results({"aime2024": benchmark(measured(0.5, **{"problems@32": 0}))}))
    assert "aime2024: pass@32 and maj@32 are not known: no problem has 32 graded attempts." in table


def test_a_benchmark_without_a_graded_attempt_has_no_rate_and_takes_the_mean_with_it() -> None:
    nothing = {"problems": 0, "problems_lost": 3, "samples": 0, "rollout/ungraded": 96, "rollout/dropped": 0}
    benchmarks = {"aime2024": benchmark(measured(0.5)), "math500": benchmark(nothing)}
    table = results_markdown(results(benchmarks, mean={"problems": 30}))
    assert lines(table)[1:] == ["| math500 | 0 |  |  |  |  |  |", "| mean | 30 |  |  |  |  |  |"]
    assert "math500: no attempt was graded" in table


def test_the_papers_own_figures_stand_beside_them() -> None:
    benchmarks = {"aime2024": benchmark(measured(0.5)), "math500": benchmark(measured(0.7))}
    table = results_markdown(results(benchmarks, paper="sod-1.7b"))
    assert [line.rsplit(" | ", 1)[1] for line in lines(table)] == ["50.83 |", " |", " |"]
    assert "The paper's figures are those of sod-1.7b" in table
    alone = results({"math500": benchmark(measured(0.7))}, paper="sod-1.7b")
    assert "The paper has no figures for sod-1.7b on these benchmarks" in results_markdown(alone)


def test_the_papers_mean_is_told_beside_the_mean_of_the_same_benchmarks_alone() -> None:
    names = ("aime2024", "aime2025", "gpqa_diamond", "livecodebench_v6_2502")
    content = results({name: benchmark(measured(0.5)) for name in names}, paper="sod-0.6b")
    assert lines(results_markdown(content))[-1].endswith(" | 24.22 |")


def test_programs_have_no_majority() -> None:
    of = measured(0.5)
    del of["maj"]
    assert lines(results_markdown(results({"livecodebench_v6": benchmark(of)}))) == [
        "| livecodebench_v6 | 30 | 50.0 | 1.0 | 5.0 | 80.0 |"
    ]


def test_labels_and_other_judges_have_tables_of_their_own() -> None:
    hard = {"problems": 10, "avg": 0.2, "avg_se": 0.06}
    by = {"difficulty": {"easy": hard | {"avg": 0.8}, "hard": hard}, "source": {"one": hard}}
    aime = benchmark(measured(0.5), by=by, judges={"reference": measured(0.4)})
    table = results_markdown(results({"aime2024": aime}))
    assert "| aime2024, difficulty hard | 10 | 20.0 | 6.0 |" in table
    assert "source one" not in table  # nothing to compare
    assert "| aime2024, by reference | 30 | 40.0 | 1.0 | 5.0 | 60.0 |" in table


def test_what_must_be_known_beside_a_number_is_said() -> None:
    lost = measured(0.5, **{"rollout/ungraded": 2, "rollout/dropped": 3})
    code = benchmark(lost, notes=["public tests only: no LiveCodeBench score"])
    table = results_markdown(results({"livecodebench_v6": code}, partial=True))
    assert "PARTIAL" in table
    assert "livecodebench_v6: public tests only: no LiveCodeBench score" in table
    assert "2 attempts that no judge could decide" in table
    assert "3 attempts were lost" in table


def test_the_papers_table_has_its_rows_and_no_others() -> None:
    for size in ("0.6b", "1.7b"):
        for system in ("vanilla", "sft", "grpo", "opd", "opsd-gt", "opsd-hint", "sod"):
            assert paper.refusal(f"{system}-{size}") is None
    assert paper.refusal("teacher-4b") is None
    assert paper.refusal("sod-0.6") == "paper: there is no row 'sod-0.6'; did you mean 'sod-0.6b'?"


# On disk


def write_evaluation(folder: Path, rows: list[dict[str, Any]], **more: Any) -> Path:
    (folder / "trajectories").mkdir(parents=True)
    (folder / "trajectories" / "update-0000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = dict.fromkeys(row["benchmark"] for row in rows)
    ids = {name: sorted({row["problem"] for row in rows if row["benchmark"] == name}) for name in names}
    found = results({name: benchmark(measured(0.5), ids=ids[name]) for name in names}, **more)
    (folder / "results.json").write_text(json.dumps(found.record()))
    (folder / "environment.json").write_text(json.dumps({"data": {"data": "print"}}))
    return folder


WRITTEN = """{
  "partial": false,
  "model": "student",
  "folder": "student",
  "prompts": "clean",
  "samples": 2,
  "seed": 0,
  "temperature": 1.0,
  "top_p": 0.6,
  "max_turns": 16,
  "max_tokens": 20480,
  "judge": "exact",
  "faults": 0.0,
  "paper": null,
  "benchmarks": {
    "aime2024": {
      "measured": {
        "problems": 1,
        "avg": 0.5
      },
      "file": "data/aime2024.jsonl",
      "sha256": "00",
      "source": {
        "repo": "HuggingFaceH4/aime_2024",
        "rows": 30
      },
      "notes": [],
      "private": false,
      "by": {
        "difficulty": {
          "hard": {
            "problems": 1
          }
        }
      },
      "judges": {
        "reference": {
          "avg": 0.0
        }
      },
      "ids": [
        "aime2024/0"
      ]
    }
  },
  "mean": {
    "problems": 1,
    "avg": 0.5
  }
}
"""
"""results.json of the first version with this format."""


def test_results_are_read_and_written_again_byte_for_byte(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(WRITTEN)
    found = read_results(tmp_path)
    (tmp_path / "results.json").unlink()
    Run(tmp_path).write_results(found, "")
    assert (tmp_path / "results.json").read_text() == WRITTEN
    assert found.benchmarks["aime2024"].by["difficulty"]["hard"] == {"problems": 1}


def sample(problem: str, number: int, *, correct: bool, graded: bool = True, of: str = "aime2024") -> dict[str, Any]:
    return {"problem": problem, "sample": number, "correct": correct, "graded": graded, "benchmark": of}


def samples(problem: str, right: int, tried: int, of: str = "aime2024") -> list[dict[str, Any]]:
    return [sample(problem, i, correct=i < right, of=of) for i in range(tried)]


def test_an_evaluation_is_counted_by_problem(tmp_path: Path) -> None:
    rows = [sample("a", 0, correct=True), sample("b", 0, correct=False), sample("a", 1, correct=False, graded=False)]
    read = read_evaluation(write_evaluation(tmp_path / "eval", rows))
    assert read.verdicts == {"a": {0: True}, "b": {0: False}}


def test_samples_beyond_those_that_were_asked_for_last_do_not_count(tmp_path: Path) -> None:
    rows = [sample("a", 0, correct=True), sample("a", 1, correct=False)]
    read = read_evaluation(write_evaluation(tmp_path / "eval", rows, samples=1))
    assert read.verdicts == {"a": {0: True}}


def test_problems_beyond_those_that_were_asked_for_last_do_not_count(tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path / "eval", samples("a", 1, 1) + samples("b", 1, 1))
    content = json.loads((folder / "results.json").read_text())
    content["benchmarks"]["aime2024"]["ids"] = ["a"]
    (folder / "results.json").write_text(json.dumps(content))
    assert read_evaluation(folder).verdicts == {"a": {0: True}}


def test_an_evaluation_that_is_not_finished_is_said_to_be_none(tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path / "eval", samples("a", 1, 1), partial=True)
    with pytest.raises(DataError, match="results are partial"):
        read_evaluation(folder)
    (folder / "results.json").unlink()
    with pytest.raises(DataError, match="no finished evaluation"):
        read_evaluation(folder)


@pytest.mark.parametrize("content", ["[]", "{}", '{"avg": 0.5}', "no JSON"])
def test_results_of_another_form_are_no_evaluation(tmp_path: Path, content: str) -> None:
    folder = write_evaluation(tmp_path / "eval", samples("a", 1, 1))
    (folder / "results.json").write_text(content)
    with pytest.raises(DataError, match="no finished evaluation"):
        read_evaluation(folder)


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_number_that_is_not_defined_is_as_good_as_none(tmp_path: Path, value: float | None) -> None:
    mean = measured(0.5) | {"steps/d": value, "avg": value}
    read = read_evaluation(write_evaluation(tmp_path / "eval", samples("a", 1, 2), mean=mean))
    assert read.mean == {name: number for name, number in measured(0.5).items() if name != "avg"}


def test_a_corrupt_line_is_named(tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path / "eval", samples("a", 1, 1))
    with (folder / "trajectories" / "update-0000.jsonl").open("a") as file:
        file.write('{"problem": "b", ')
    with pytest.raises(DataError, match="line 2"):
        read_evaluation(folder)


# Two evaluations


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """B solves every problem of one benchmark a little more often; of the other, it is the same."""
    draw = np.random.default_rng(0)
    rates = draw.integers(2, 22, size=30).tolist()
    first = [row for i, right in enumerate(rates) for row in samples(f"p{i}", right, 32)]
    second = [row for i, right in enumerate(rates) for row in samples(f"p{i}", right + 4 + i % 3, 32)]
    alike = [row for i in range(10) for row in samples(f"q{i}", 3 * (i % 2), 4, of="math500")]
    return write_evaluation(tmp_path / "a", first + alike), write_evaluation(tmp_path / "b", second + alike)


def test_differences_are_paired_by_problem(two: tuple[Path, Path]) -> None:
    aime, math500 = differences(*map(read_evaluation, two))
    assert (aime.benchmark, aime.problems, aime.verdict) == ("aime2024", 30, "B is better")
    assert aime.new_problems.mean == pytest.approx(5 / 32)
    assert aime.new_problems.high - aime.new_problems.low < 0.03  # unpaired, it would be some 0.2
    assert (math500.new_problems.mean, math500.verdict) == (0.0, "not told apart")


@pytest.mark.parametrize("renamed", [True, False], ids=["one file under two names", "two files"])
def test_problems_of_different_sets_are_not_paired_because_their_ids_are_equal(tmp_path: Path, renamed: bool) -> None:
    """Ids are numbers of rows where a file has none."""
    folders = [
        write_evaluation(tmp_path / of, [row for id in "12" for row in samples(id, 1, 2, of=of)])
        for of in ("old", "new")
    ]
    for number, folder in enumerate(folders):
        sha256 = str(0 if renamed else number)
        content = json.loads((folder / "results.json").read_text())
        content["benchmarks"] = {name: each | {"sha256": sha256} for name, each in content["benchmarks"].items()}
        (folder / "results.json").write_text(json.dumps(content))
    evaluations = [read_evaluation(folder) for folder in folders]
    if renamed:
        assert [each.problems for each in differences(*evaluations)] == [2]
    else:
        with pytest.raises(DataError, match="have no problem in common"):
            differences(*evaluations)


def drawn(folder: Path, rates: list[float], seed: int, shared: np.ndarray | None = None) -> Path:
    """8 samples a problem, each right with its problem's rate; by random numbers of its own, or by those that are shared."""
    numbers = np.random.default_rng(seed).random((len(rates), 8)) if shared is None else shared
    rows = [sample(f"p{i}", j, correct=bool(numbers[i, j] < rate)) for i, rate in enumerate(rates) for j in range(8)]
    return write_evaluation(folder, rows, samples=8, seed=seed if shared is None else 0)


@pytest.mark.parametrize("shared", [False, True], ids=["seeds of their own", "the same seed"])
def test_of_these_problems_the_interval_is_as_wide_as_other_samples_would_differ(tmp_path: Path, shared: bool) -> None:
    rates = np.linspace(0.2, 0.8, 30)
    means, told = [], []
    for seed in range(60):
        numbers = np.random.default_rng(1000 + seed).random((30, 8)) if shared else None
        one = drawn(tmp_path / f"a{seed}", (rates - 0.05).tolist(), seed, numbers)
        other = drawn(tmp_path / f"b{seed}", (rates + 0.05).tolist(), 500 + seed, numbers)
        (found,) = differences(read_evaluation(one), read_evaluation(other))
        assert found.same_problems is not None
        means.append(found.same_problems.mean)
        told.append((found.same_problems.high - found.same_problems.mean) / 1.96)
    assert np.mean(means) == pytest.approx(0.1, abs=0.02)
    assert np.sqrt(np.mean(np.square(told))) == pytest.approx(np.std(means), rel=0.3)


def test_a_comparison_is_shown_and_written(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare_evaluations(CompareEvaluationsOptions(first=two[0], second=two[1], out=tmp_path / "difference.json"))
    out = capsys.readouterr().out
    assert "| aime2024 | 30 |" in out
    assert "B is better" in out
    assert "careful" not in out
    assert [each["verdict"] for each in json.loads((tmp_path / "difference.json").read_text())] == [
        "B is better",
        "not told apart",
    ]


def test_of_one_problem_there_is_no_verdict(tmp_path: Path) -> None:
    first = write_evaluation(tmp_path / "a", samples("p", 0, 4))
    second = write_evaluation(tmp_path / "b", samples("p", 4, 4))
    out = tmp_path / "new" / "difference.json"
    (found,) = compare_evaluations(CompareEvaluationsOptions(first=first, second=second, out=out))
    assert (found.new_problems.mean, found.verdict) == (1.0, "not told apart")
    assert json.loads(out.read_text())[0]["new_problems"]["low"] is None


def test_whatever_makes_two_evaluations_unlike_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write_evaluation(tmp_path / "a", samples("p", 1, 2) + samples("q", 1, 2))
    other = {"aime2024": benchmark(measured(0.5), sha256="1" * 64, ids=["p"])}
    second = write_evaluation(tmp_path / "b", samples("p", 2, 2), temperature=0.6, faults=0.2, benchmarks=other)
    (difference,) = compare_evaluations(CompareEvaluationsOptions(first=first, second=second))
    assert difference.problems == 1
    out = capsys.readouterr().out
    assert "temperature is 1.0 in A and 0.6 in B" in out
    assert "faults is 0.0 in A and 0.2 in B" in out
    assert "different files" in out
    assert "1 problems are in only one of the two" in out


def test_evaluations_of_different_problems_cannot_be_compared(tmp_path: Path) -> None:
    first = write_evaluation(tmp_path / "a", samples("p", 1, 2))
    second = write_evaluation(tmp_path / "b", samples("q", 1, 2))
    with pytest.raises(DataError, match="no problem in common"):
        compare_evaluations(CompareEvaluationsOptions(first=first, second=second))
