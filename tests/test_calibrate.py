"""Calibration: AUCs and tables over numbers made by hand, and one calibration from file to file."""

import json
import math
import random
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from other_tokenizers import save_permuted

from sod.config import AlgorithmOptions, CalibrateOptions, EvalOptions, ModelOptions
from sod.core import RULES, StepInfo
from sod.credit.algorithms import step_info
from sod.credit.systems import SOD_RULE, SYSTEMS
from sod.datasets.rows import read_rows, write_jsonl
from sod.errors import DataError, InfrastructureError, OptionError, RunError, SodError
from sod.evaluation.calibration import (
    advice_summary,
    advice_verdict,
    auc,
    bins,
    calibrate,
    calibration_summary,
    verdict,
)
from sod.evaluation.continuations import Start, draw_evenly, starts
from sod.evaluation.evaluate import evaluate
from sod.evaluation.scored import ScoredEvaluation
from sod.lab import settings
from sod.model.loading import load_model, load_tokenizer
from sod.planning.dry_run import plan
from sod.types import Trajectory

# What weights know


def auc_of(scores: Sequence[float], solved: str, times: Sequence[float] | None = None, alike: Any = None) -> float:
    """`solved`: 1 or 0 for each step."""
    times_RN = np.array([times or [1.0] * len(scores)])
    alike_N = None if alike is None else np.array(alike)
    return float(auc(np.array(scores, dtype=float), np.array([c == "1" for c in solved]), times_RN, alike_N)[0])


@pytest.mark.parametrize(
    ("scores", "solved", "expected"),
    [
        ([1, 2, 3, 4], "0011", 1.0),
        ([1, 2, 3, 4], "1100", 0.0),
        ([1, 2, 3, 4], "0101", 3 / 4),
        ([5, 5, 5], "010", 1 / 2),  # ties count half
        ([1, 2, 2, 3], "0101", (1 + 1 / 2 + 1 + 1) / 4),
    ],
)
def test_the_auc_is_the_share_of_pairs_in_the_right_order(scores: list[float], solved: str, expected: float) -> None:
    assert auc_of(scores, solved) == pytest.approx(expected)
    assert auc_of([-score for score in scores], solved) == pytest.approx(1 - expected)


def test_a_step_that_is_counted_twice_is_as_two_of_it() -> None:
    assert auc_of([1, 2, 2, 3], "0101", [2, 0, 1, 3]) == pytest.approx(auc_of([1, 1, 2, 3, 3, 3], "000111"))


def test_of_pairs_that_are_alike_others_do_not_count() -> None:
    scores, solved, errors = [9, 8, 2, 1], "1001", [0, 0, 3, 3]
    assert auc_of(scores, solved, alike=errors) == 1 / 2  # right at 0 errors, wrong at 3
    assert auc_of([-error for error in errors], "1100", alike=errors) != auc_of([0, 0, -3, -3], "1100")


def test_without_both_outcomes_there_is_no_auc() -> None:
    assert math.isnan(auc_of([1, 2], "11"))
    assert math.isnan(auc_of([1, 2], "10", alike=[0, 1]))


def test_bins_hold_about_equally_many_steps_and_never_part_equal_weights() -> None:
    weights = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1.2, 1.2, 1.2, 1.2])
    solved = np.array([0, 0, 1, 0, 1, 1, 1, 1, 1, 0], dtype=bool)
    made = bins(weights, solved)
    assert [(row["low"], row["high"], row["n"]) for row in made] == [
        (0.1, 0.2, 2),
        (0.3, 0.4, 2),
        (0.5, 0.6, 2),
        (1.2, 1.2, 4),
    ]
    assert [row["solved"] for row in made] == [0, 0.5, 1, 0.75]
    assert made[-1]["se"] == pytest.approx(math.sqrt(0.75 * 0.25 / 4))
    assert bins(np.ones(10), solved) == [{"low": 1.0, "high": 1.0, "n": 10, "solved": 0.6, "se": math.sqrt(0.024)}]


def rows_of(count: int, *, problems: int, weight: Callable[[bool, random.Random], float]) -> list[dict[str, Any]]:
    """Steps of which every other is solved, and what `weight` makes of that."""
    rng = random.Random(0)
    solved = [i % 2 == 0 for i in range(count)]
    numbers = {"errors_before": 1, "d": 0.5, "teacher_entropy": 0.1, "w": 1.0}
    return [
        {
            "problem": f"p{i // 2 % problems}",
            "solved": right,
            **numbers,
            "weights": {SOD_RULE: weight(right, rng), "even": 1.0},
        }
        for i, right in enumerate(solved)
    ]


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (lambda solved, rng: solved + rng.gauss(0, 1), "mark steps where the teacher's advice is worse"),
        (lambda solved, rng: -solved + rng.gauss(0, 1), "mark steps where the teacher's advice is better"),
        (lambda solved, rng: rng.gauss(0, 1), "No evidence that SOD's weights identify bad teacher advice"),
    ],
)
def test_the_verdict_is_what_the_interval_of_sod_allows(weight: Any, words: str) -> None:
    results = calibration_summary(rows_of(200, problems=50, weight=weight))
    assert words in verdict(results)
    assert results["rules"]["even"]["auc"] == 0.5
    better = "advice is better" in words
    assert verdict(results).endswith(
        f"{'even, -d, -entropy, -errors' if better else 'nothing'} (4 compared, each on its own)."
    )


def test_where_all_is_solved_nothing_is_told() -> None:
    rows = [row | {"solved": True} for row in rows_of(20, problems=5, weight=lambda solved, rng: rng.random())]
    results = calibration_summary(rows)
    assert "all or none" in verdict(results)
    assert json.loads(json.dumps(results, allow_nan=False))["rules"][SOD_RULE]["auc"] is None


def test_repeating_the_steps_of_the_same_problems_makes_no_interval_shorter() -> None:
    rows = rows_of(80, problems=20, weight=lambda solved, rng: solved + rng.gauss(0, 1))
    once, often = (calibration_summary(rows * times)["rules"][SOD_RULE] for times in (1, 10))
    for name in ("auc", "auc_low", "auc_high"):
        assert once[name] == pytest.approx(often[name])


# Where to continue from


def test_a_step_begins_after_every_observation_and_knows_the_errors_before_it(
    trajectory: Callable[..., Trajectory],
) -> None:
    pieces = [("prompt", [1]), ("student", [2]), ("tool", [3]), ("student", [2]), ("tool", [3]), ("student", [2])]
    one = trajectory(*pieces)
    outcomes = iter([("error", "ok", "malformed"), ("ok",)])
    one = replace(
        one, pieces=tuple(replace(p, outcomes=next(outcomes)) if p.author == "tool" else p for p in one.pieces)
    )
    assert starts([trajectory(("prompt", [1]), ("student", [2])), one]) == [Start(1, 2, 2), Start(1, 3, 2)]
    assert [one.pieces[start.pieces] for start in starts([one])] == one.turns[1:]


def many(*counts: int) -> list[Start]:
    """So many steps with 0, 1, 2, ... errors."""
    return [Start(row, 2, errors) for errors, count in enumerate(counts) for row in range(count)]


@pytest.mark.parametrize(
    ("available", "count", "drawn"),
    [
        ((50, 50, 50, 50), 40, (10, 10, 10, 10)),
        ((50, 50, 2, 50), 41, (13, 13, 2, 13)),  # what one lacks is shared among the others
        ((50, 0, 0, 3), 40, (37, 0, 0, 3)),
        ((50, 50, 20, 10, 10), 80, (20, 20, 20, 20)),  # 3 errors and 4 are counted alike
        ((3, 2, 0, 1), 40, (3, 2, 0, 1)),
    ],
)
def test_steps_are_drawn_evenly_over_errors(available: tuple[int, ...], count: int, drawn: tuple[int, ...]) -> None:
    chosen = draw_evenly(many(*available), count, seed=0)
    assert len(set(chosen)) == len(chosen)
    counts = Counter(min(start.errors, 3) for start in chosen)
    assert tuple(counts[errors] for errors in range(4)) == drawn


def test_the_draw_is_a_function_of_the_seed() -> None:
    available = many(50, 50, 50, 50)
    assert draw_evenly(available, 20, seed=3) == draw_evenly(available, 20, seed=3)
    assert draw_evenly(available, 20, seed=3) != draw_evenly(available, 20, seed=4)


# From file to file


@pytest.fixture(scope="module")
def student(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lab's teacher after some accident."""
    folder = tmp_path_factory.mktemp("student")
    model = load_model(teacher, ModelOptions())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in model.parameters():
            weights += 0.1 * weights.std() * torch.randn(weights.shape, generator=generator)
    model.save_pretrained(folder)
    load_tokenizer(teacher).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def measured(student: Path, teacher: Path, problem_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student measured beside the lab's teacher, with a tool that often fails."""
    out = tmp_path_factory.mktemp("eval") / "run"
    options = {"model": student, "teacher": teacher, "data": problem_file, "out": out, "samples": 3}
    evaluate(EvalOptions.model_validate(settings.EVAL | options))
    return out


@pytest.fixture
def run(measured: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(measured, tmp_path / "run"))


@pytest.fixture
def options(run: Path, teacher: Path, tmp_path: Path) -> CalibrateOptions:
    return CalibrateOptions(run=run, teacher=teacher, out=tmp_path / "calibration", steps=16)


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def edit_rows(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = run / "trajectories" / "update-0000.jsonl"
    rows = read_rows(file)
    for row in rows:
        change(row)
    write_jsonl(file, rows)


def test_what_is_read_back_has_the_d_and_w_that_were_measured(measured: Path) -> None:
    evaluation = ScoredEvaluation.read(measured)
    d_BK, info = step_info(evaluation.batch, AlgorithmOptions())
    rows = read_rows(measured / "trajectories" / "update-0000.jsonl")
    assert [(t.problem.id, t.sample) for t in evaluation.batch.trajectories] == [
        (r["problem"], r["sample"]) for r in rows
    ]
    for b, row in enumerate(rows):
        steps = len(row["steps"])
        assert info.exists_BK[b].sum() == steps
        for found, name in ((d_BK, "d"), (info.entropy_BK, "teacher_entropy"), (evaluation.weights()["drift"], "w")):
            assert found[b, :steps].tolist() == pytest.approx([step[name] for step in row["steps"]], abs=1e-3)
    assert evaluation.batch.groups_B.tolist() == [int(row["problem"][1:]) for row in rows]
    assert evaluation.batch.rewards_B.tolist() == [row["reward"] for row in rows]


UNKNOWN = {"student_entropy", "teacher_rates", "progress"}
"""Inputs of rules that an evaluation does not hold."""
IN_AN_EVALUATION = [
    name for name in RULES if not any(UNKNOWN & each.reads for each in SYSTEMS.values() if each.rule == name)
]


def test_every_rule_weighs_every_step_and_one_that_cannot_is_left_out(
    measured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def demanding(d_BK: torch.Tensor, info: StepInfo) -> torch.Tensor:
        raise KeyError("no such thing")

    evaluation = ScoredEvaluation.read(measured)
    weights = evaluation.weights(RULES | {"demanding": demanding, "endless": lambda d_BK, info: d_BK / 0})
    assert list(weights) == IN_AN_EVALUATION
    assert {w_BK.shape for w_BK in weights.values()} == {evaluation.d_BK.shape}
    said = capsys.readouterr().out
    assert "The rule 'demanding' is left out: KeyError: 'no such thing'" in said
    assert "Rules that read more than an evaluation holds are left out: turn_opd (the share of the updates" in said
    assert "The rule 'endless' is left out: ValueError: some weights are not finite" in said


def test_a_calibration_leaves_what_it_found_and_every_continuation(
    options: CalibrateOptions, measured: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = calibrate(options)
    assert json.loads((options.out / "calibration.json").read_text()) == results
    assert (options.run / "calibration.json").read_text() == (options.out / "calibration.json").read_text()
    assert list(results["rules"]) == IN_AN_EVALUATION
    assert (results["steps"], results["teacher"]) == (16, str(teacher))
    rows = read_rows(options.out / "continuations.jsonl")
    assert len(rows) == 16
    assert {row["solved"] for row in rows} == {True, False}
    begun = {(row["problem"], row["sample"]): row for row in read_rows(measured / "trajectories" / "update-0000.jsonl")}
    for row in rows:
        of_student = begun[row["problem"], row["sample"]]
        assert row["step"] >= 2
        assert row["d"] == pytest.approx(of_student["steps"][row["step"] - 1]["d"])
        assert row["w"] == pytest.approx(of_student["steps"][row["step"] - 1]["w"])
        before = of_student["pieces"][: 2 * row["step"] - 1]
        assert row["errors_before"] == sum(o != "ok" for piece in before for o in piece.get("outcomes", []))
        assert row["text"]
        if row["solved"]:
            assert row["answer"] == of_student["gold"]
    for group in results["by_errors"]:
        alike = [row for row in rows if min(row["errors_before"], 3) == group["errors"]]
        assert (group["n"], group["solved"]) == (len(alike), sum(row["solved"] for row in alike) / len(alike))
    said = capsys.readouterr().out
    assert verdict(results)[:40] in said
    assert all(name in said for name in RULES)  # in the table, or in the line of those that are left out
    with pytest.raises(RunError, match="already holds a run"):
        calibrate(options)

    again = options.model_copy(update={"out": options.out.with_name("again")})
    assert calibrate(again) == results


def test_advice_is_measured_by_what_the_student_then_does() -> None:
    """Eight steps: (the student's own attempt, the advised one, the teacher's)."""
    pairs = ["000", "001", "010", "011", "011", "101", "111", "111"]
    rows = [
        {"student_solved": own == "1", "advised_solved": advised == "1", "solved": taught == "1", "d": float(at)}
        for at, (own, advised, taught) in enumerate(pairs)
    ]
    times_RN = np.vstack([np.ones(8), np.random.default_rng(0).multinomial(8, np.full(8, 1 / 8), size=200)]).astype(
        float
    )
    every, smaller, larger = advice_summary(rows, times_RN)
    assert (every["n"], every["own"], every["advised"]) == (8, 3 / 8, 5 / 8)
    assert (every["rescue"], every["harm"], every["gain"], every["alone"]) == (3 / 8, 1 / 8, 2 / 8, 1 / 8)
    assert (smaller["n"], smaller["rescue"], smaller["harm"]) == (4, 2 / 4, 0)
    assert (larger["n"], larger["rescue"], larger["harm"]) == (4, 1 / 4, 1 / 4)
    assert every["gain_low"] < every["gain"] < every["gain_high"]
    assert "no measured effect on the student: +25 [" in advice_verdict([every])
    assert "A turn of the teacher helps the student" in advice_verdict([every | {"gain_low": 0.1}])


def test_the_student_goes_on_after_the_teachers_turn(
    options: CalibrateOptions, measured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = calibrate(options)
    advised = options.model_copy(update={"advised": True, "out": options.out.with_name("advised")})
    results = calibrate(advised)
    assert {key: results[key] for key in plain} == plain  # the teacher's continuations stay the same
    assert "advice" not in plain
    rows = read_rows(advised.out / "continuations.jsonl")
    assert len(rows) == results["advice"][0]["n"] == 16
    begun = {(row["problem"], row["sample"]): row for row in read_rows(measured / "trajectories" / "update-0000.jsonl")}
    assert all(row["student_solved"] is begun[row["problem"], row["sample"]]["correct"] for row in rows)
    assert any(row["advised_text"] and row["advised_text"] not in row["text"] for row in rows)  # the student's own work
    assert all(row["advised_solved"] is row["solved"] for row in rows if not row["advised_text"])
    assert any(row["advised_solved"] is not row["student_solved"] for row in rows)
    said = capsys.readouterr().out
    assert advice_verdict(results["advice"]) in " ".join(said.split())
    assert "teacher only" in said


def test_a_teacher_with_another_tokenizer_continues_in_its_own_tokens(
    student: Path, teacher: Path, measured: Path, problem_file: Path, tmp_path: Path
) -> None:
    """The same teacher with permuted ids: divergences and weights are the same, and it solves problems."""
    foreign = save_permuted(teacher, tmp_path / "foreign")
    out = tmp_path / "run"
    options = {"model": student, "teacher": foreign, "data": problem_file, "out": out, "samples": 3}
    evaluate(EvalOptions.model_validate(settings.EVAL | options))
    found, plain = ScoredEvaluation.read(out), ScoredEvaluation.read(measured)
    assert found.batch.span_share_BT is not None
    torch.testing.assert_close(found.d_BK, plain.d_BK, atol=1e-4, rtol=0)
    reading = [each.rule for each in SYSTEMS.values() if "teacher" in each.reads]
    weights, expected = found.weights(), plain.weights()
    assert reading
    assert list(weights) == [name for name in IN_AN_EVALUATION if name not in reading]
    torch.testing.assert_close(weights[SOD_RULE], expected[SOD_RULE], atol=2e-2, rtol=0)  # a quotient of small d
    with pytest.raises(OptionError, match="advised lets the student go on after a turn of the teacher"):
        calibrate(CalibrateOptions(run=out, teacher=foreign, out=tmp_path / "calibration", steps=8, advised=True))
    results = calibrate(CalibrateOptions(run=out, teacher=foreign, out=tmp_path / "calibration", steps=8))
    rows = read_rows(tmp_path / "calibration" / "continuations.jsonl")
    assert len(rows) == results["steps"] == 8
    assert any(row["solved"] for row in rows)
    assert all(row["text"].isascii() for row in rows)


def test_each_of_several_teachers_continues_from_the_steps_of_its_problems(
    student: Path, teacher: Path, measured: Path, problem_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lab's teacher for some problems, and the same model with permuted ids for the others."""
    data, out, calibration = tmp_path / "labelled.jsonl", tmp_path / "run", tmp_path / "calibration"
    levels = "aabbbabb"
    write_jsonl(data, [row | {"level": level} for row, level in zip(read_rows(problem_file), levels, strict=True)])
    named = [f"level:a={teacher}", f"*={save_permuted(teacher, tmp_path / 'foreign')}"]
    options = {"model": student, "teachers": named, "data": data, "out": out, "samples": 3}
    text = plan(EvalOptions.model_validate(settings.EVAL | options), width=10_000)
    assert text.count("teacher  /") == 2
    evaluate(EvalOptions.model_validate(settings.EVAL | options))
    found, plain = ScoredEvaluation.read(out), ScoredEvaluation.read(measured)
    torch.testing.assert_close(found.d_BK, plain.d_BK, atol=1e-6, rtol=0)
    given = {"run": out, "out": calibration, "steps": 12}
    with pytest.raises(RunError, match="has teachers with other keys"):
        calibrate(CalibrateOptions(**given, teacher=teacher))
    with pytest.raises(RunError, match="is another model than the teacher of"):
        calibrate(CalibrateOptions(**given, teachers=(named[0], f"*={teacher}")))
    with pytest.raises(OptionError, match="Give the teacher of the evaluation"):
        calibrate(CalibrateOptions(**given))
    results = calibrate(CalibrateOptions(**given, teachers=tuple(named)))
    rows = read_rows(calibration / "continuations.jsonl")
    level = {row["id"]: row["level"] for row in read_rows(data)}
    assert {(level[row["problem"]], row["teacher"]) for row in rows} == {("a", "level_a"), ("b", "rest")}
    by_teacher = {row["teacher"]: row["n"] for row in results["by_teacher"]}
    assert by_teacher == Counter(row["teacher"] for row in rows)
    assert "Continuations by each teacher" in " ".join(capsys.readouterr().out.split())


def test_all_steps_are_taken_where_there_are_fewer_than_asked_for(
    options: CalibrateOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_rows(options.run, lambda row: row.update(graded=row["graded"] and row["sample"] == 0))
    results = calibrate(options.model_copy(update={"steps": 10_000}))
    assert 0 < results["steps"] < 100
    assert "not 10000; all are used" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("top_p", [1.0, 0.6])
def test_samples_that_training_would_not_draw_are_named(
    options: CalibrateOptions, caplog: pytest.LogCaptureFixture, top_p: float
) -> None:
    edit(options.run / "options.json", lambda content: content["rollout"].update(top_p=top_p))
    calibrate(options)
    assert ("was sampled with rollout.top_p = 0.6, and training samples with 1" in caplog.text) == (top_p < 1)


def test_a_calibration_that_was_cut_short_does_not_look_finished(options: CalibrateOptions) -> None:
    edit(options.run / "options.json", lambda content: content["rollout"].update(seconds=1e-6))
    with pytest.raises(InfrastructureError, match="were lost"):
        calibrate(options)
    assert not list(options.out.glob("calibration.json*"))
    assert not (options.run / "calibration.json").exists()


def without_later_steps(row: dict[str, Any]) -> None:
    row["pieces"], row["steps"] = row["pieces"][:2], row["steps"][:1]


Damage = Callable[[Path], object]


@pytest.mark.parametrize(
    ("damage", "kind", "words"),
    [
        (lambda run: shutil.rmtree(run), RunError, "holds no run of `sod eval`"),
        (lambda run: (run / "options.json").write_text("{}"), RunError, "holds no run of `sod eval`"),
        (lambda run: (run / "environment.json").write_text("{}"), RunError, "holds no run of `sod eval`"),
        (lambda run: edit(run / "environment.json", lambda e: e.update(command="train")), RunError, "is a run of `sod train`"),
        (lambda run: edit(run / "options.json", lambda o: o.update(teacher=None)), RunError, "without a teacher"),
        (
            lambda run: edit(run / "options.json", lambda o: o["score"].update(teacher_url="http://127.0.0.1:9")),
            RunError,
            "a remote teacher, which returns no entropies",
        ),
        (lambda run: (run / "results.json").unlink(), DataError, "no finished evaluation"),
        (lambda run: edit(run / "options.json", lambda o: o.update(data="gone.jsonl")), RunError, "gone.jsonl does not exist"),
        (lambda run: edit(run / "environment.json", lambda e: e["data"].update(data="0")), RunError, "have changed"),
        (lambda run: edit(run / "environment.json", lambda e: e["data"].update(teacher="0")), RunError, "another model"),
        (lambda run: (run / "trajectories/update-0000.jsonl").write_text('{"problem":'), DataError, "line 1 of its trajectories"),
        (lambda run: edit_rows(run, lambda row: row["pieces"][1].pop("signal")), DataError, "row 1 .* 'signal' is missing"),
        (lambda run: edit_rows(run, lambda row: row["pieces"][1]["tokens"].pop()), DataError, "row 1 .* differ in length"),
        (lambda run: edit_rows(run, lambda row: row["pieces"].pop()), DataError, "its steps do not match its pieces"),
        (lambda run: edit_rows(run, lambda row: row["steps"][0].update(d=9)), DataError, "is not the mean of"),
        (lambda run: edit_rows(run, lambda row: row["steps"][0].update(d=None)), DataError, "row 1 cannot be used"),
        (lambda run: edit_rows(run, lambda row: row.update(problem="other")), DataError, "nothing to continue from"),
        (lambda run: edit_rows(run, without_later_steps), DataError, "nothing to continue from"),
        (lambda run: edit_rows(run, lambda row: row.update(graded=False)), DataError, "nothing to continue from"),
    ],
)  # fmt: skip
def test_what_cannot_be_calibrated_is_an_error_before_anything_is_written(
    options: CalibrateOptions, damage: Damage, kind: type[SodError], words: str
) -> None:
    damage(options.run)
    with pytest.raises(kind, match=words):
        calibrate(options)
    assert not options.out.exists()


def test_another_teacher_than_was_measured_is_refused(options: CalibrateOptions, student: Path) -> None:
    with pytest.raises(RunError, match="is another model"):
        calibrate(options.model_copy(update={"teacher": student}))


def test_another_student_than_was_measured_is_not_advised(options: CalibrateOptions) -> None:
    edit(options.run / "environment.json", lambda content: content["data"].update(model="another"))
    with pytest.raises(RunError, match="has changed since the evaluation"):
        calibrate(options.model_copy(update={"advised": True}))


def test_a_student_that_an_earlier_version_measured_is_advised(options: CalibrateOptions) -> None:
    def earlier(content: dict[str, Any]) -> None:
        content["data"]["model"] = content["data"]["model"].partition(":")[0]

    edit(options.run / "environment.json", earlier)
    assert "advice" in calibrate(options.model_copy(update={"advised": True, "steps": 2}))


def test_a_copy_of_the_teacher_is_the_same_teacher(options: CalibrateOptions, teacher: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(teacher, tmp_path / "copy"))
    assert calibrate(options.model_copy(update={"teacher": copy, "steps": 2}))["steps"] == 2
