"""What a comparison makes of evaluations: methods, rows, tables."""

from dataclasses import replace
from pathlib import Path

import pytest
from evaluated import benchmark, results

from sod.compare.table import MEANS, Measured, Method, check_same_problems, table_markdown, table_rows, told_apart
from sod.errors import DataError, OptionError
from sod.runs.by_teacher import means_by_teacher

MEAN = dict.fromkeys(MEANS.values(), 0.5) | {"samples": 4.0, "pass@4": 0.9, "tools/errors": 1.0, "rollout/turns": 4.0}


def measured(right: list[int], *, data: str = "same", **more: float) -> Measured:
    problems = [f"p{i}" for i in range(len(right))]
    return Measured(
        folder=Path("runs/x"),
        data=data,
        verdicts={p: {i: i < count for i in range(4)} for p, count in zip(problems, right, strict=True)},
        benchmark=dict.fromkeys(problems, "set"),
        results=results({"set": benchmark(MEAN | more)}),
        seconds=50.0,
        updates=20,
        lr=4e-4,
    )


def test_a_method_is_an_algorithm_and_what_it_does_differently() -> None:
    method = Method.parse("sod algorithm.epsilon=0.1 learn.lr=1e-3 teacher=runs/teacher seed=3")
    assert method.algorithm == "sod"
    assert method.options == {
        "algorithm": {"epsilon": 0.1},
        "learn": {"lr": 1e-3},
        "teacher": "runs/teacher",
        "seed": 3,
    }
    assert method.sets("learn.lr")
    assert not method.sets("learn.warmup")


@pytest.mark.parametrize("name", ["sod epsilon", "sod =1", "sod algorithm.epsilon="])
def test_a_part_that_is_no_option_is_an_error(name: str) -> None:
    with pytest.raises(OptionError, match="not of the form option=value"):
        Method.parse(name)


def test_methods_have_folders_of_their_own() -> None:
    names = ["sod", "sod algorithm.epsilon=0.1", "examples/your_rule.py:impatient", "../x.py:f"]
    slugs = [Method.parse(name).slug for name in names]
    assert len(set(slugs)) == len(names)
    assert not any("/" in slug or slug.startswith(".") or " " in slug for slug in slugs)


def test_a_row_says_how_a_method_differs_from_the_baseline_over_common_seeds() -> None:
    baseline, other = Method.parse("sod"), Method.parse("opd")
    low, high = [1, 1, 1, 1] * 10, [3, 3, 3, 3] * 10
    runs = {
        baseline: {0: measured(low), 1: measured(low)},
        other: {0: measured(high), 1: measured(high), 2: measured(low)},
    }
    start, first, second = table_rows(runs, {"start": measured(low)}, baseline)
    assert (start.method, start.seeds, start.against) == ("start", 0, None)
    assert (first.method, first.verdict) == ("sod", "")
    assert second.against is not None
    assert second.against.mean == pytest.approx(0.5)
    assert second.verdict == "better"
    assert second.seeds == 3
    assert second.avg.mean == pytest.approx((0.75 + 0.75 + 0.25) / 3)


def test_no_verdict_where_the_interval_holds_zero() -> None:
    baseline, other = Method.parse("sod"), Method.parse("opd")
    runs = {baseline: {0: measured([0, 4, 2, 2])}, other: {0: measured([4, 0, 2, 2])}}
    assert table_rows(runs, {}, baseline)[1].verdict == "not told apart"


def test_errors_per_erroneous_trajectory_and_seconds_per_update() -> None:
    row = table_rows(
        {Method.parse("sod"): {0: measured([1], **{"tools/errors": 0.9, "tools/trajectories_with_error": 0.6})}},
        {},
        Method.parse("sod"),
    )[0]
    assert row.chain == pytest.approx(1.5)
    assert row.seconds == pytest.approx(2.5)


def test_nothing_is_averaged_over_different_problems() -> None:
    with pytest.raises(DataError, match="other problems"):
        check_same_problems([measured([1, 2]), measured([1, 2], data="other")])
    with pytest.raises(DataError, match="other problems"):
        check_same_problems([measured([1, 2]), measured([1, 2, 3])])


def test_the_table_has_a_line_for_each_row() -> None:
    sod, opd = Method.parse("sod"), Method.parse("opd")
    made = table_rows(
        {sod: {0: measured([1, 2, 3])}, opd: {0: measured([2, 3, 4])}}, {"start": measured([0, 0, 1])}, sod
    )
    how_well, how = table_markdown(made).split("\n\n")
    assert [line.split(" | ")[0].strip("| ") for line in how_well.splitlines()[2:]] == ["start", "sod", "opd"]
    assert "+25.0 [+25.0, +25.0] | better" in how_well
    assert how_well.count(" | 90.0 | ") == 3  # pass@4
    assert len(how.splitlines()) == 5


def test_several_teachers_have_a_table_of_what_each_did_in_training(tmp_path: Path) -> None:
    """Means over the updates and seeds that have a number. Values that no teacher has get no column."""
    sod, grpo = Method.parse("sod"), Method.parse("grpo")
    rows = [
        {"teacher/solved": 0.9, "teacher/tokens_sent": 7.0, "teacher/rest/share": 0.25, "teacher/math/share": 0.75}
        | {"teacher/rest/d": 1.0, "teacher/math/d": 2.0, "teacher/rest/gain": 0.5},
        {"teacher/rest/share": 0.0, "teacher/math/share": 1.0, "teacher/math/d": 3.0},
    ]
    taught = [replace(measured([1, 2]), teachers=means_by_teacher(kept)) for kept in (rows, rows[1:])]
    made = table_rows({sod: dict(enumerate(taught)), grpo: {0: measured([1, 2])}}, {}, sod)
    assert made[0].to_json()["teachers"]["math"] == {"share": pytest.approx(0.9375), "d": 2.75}
    *_, table = table_markdown(made).split("\n\n")
    assert table.splitlines() == [
        "| method | teacher | share of the trajectories, % | divergence d, nats | solved by it minus by the student, % |",
        "|---|---|--:|--:|--:|",
        "| sod | rest | 6.2 | 1.00 | 50.0 |",
        "| sod | math | 93.8 | 2.75 |  |",
    ]
    assert means_by_teacher([{"teacher/d": 1.0, "steps/d": 2.0}]) == {}


def test_a_sentence_names_what_is_told_apart_and_what_is_not() -> None:
    sod, *others = (Method.parse(name) for name in ("sod", "opd", "grpo", "sham"))
    baseline = measured([2, 2, 2, 2] * 20)
    right = ([2, 2, 2, 2] * 20, [3, 4, 3, 4] * 20, [0, 1, 0, 1] * 20)
    runs = {sod: {0: baseline}} | {method: {0: measured(counts)} for method, counts in zip(others, right, strict=True)}
    said = told_apart(table_rows(runs, {"start": baseline}, sod), "sod")
    assert said == ["Better than sod: grpo. Not told apart from sod: opd. Worse than sod: sham."]
    assert told_apart(table_rows({sod: {0: baseline}}, {}, sod), "sod") == []
