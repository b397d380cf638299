"""The order of problems, their choice by solve rate, and dynamic sampling."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from timings import untimed

from sod.config import EvalOptions, RolloutOptions, TrainOptions
from sod.datasets.asking import load_asked
from sod.datasets.order import ORDER_FILE, ProblemOrder
from sod.errors import DataError, OptionError, RunError
from sod.evaluation.evaluate import evaluate
from sod.lab import settings
from sod.planning.dry_run import plan
from sod.rollout.contrast import chosen, wanted
from sod.runs.checkpoints import TRAINER
from sod.runs.directory import Run
from sod.training.on_policy import train
from sod.training.problems import problem_order, solve_rates, teacher_rates
from sod.types import Problem


def problems(count: int) -> list[Problem]:
    return [Problem(id=f"p{i}", messages=(), answer=str(i)) for i in range(count)]


def batches(order: ProblemOrder, size: int, count: int) -> list[list[str]]:
    """The ids of the next batches."""
    found: list[list[str]] = []
    for _ in range(count):
        batch, order = order.batch(size)
        found.append([problem.id for problem in batch])
    return found


# The order


def test_the_order_depends_only_on_the_seed_and_the_position() -> None:
    drawn = {seed: batches(ProblemOrder(problems(20), seed), 5, 8) for seed in range(3)}
    assert all(batches(ProblemOrder(problems(20), seed), 5, 8) == found for seed, found in drawn.items())
    assert len({tuple(batch) for found in drawn.values() for batch in found}) == 24


@pytest.mark.parametrize(("size", "count"), [(20, 5), (20, 20), (7, 1)])
@pytest.mark.parametrize("by", ["shuffled", "file"])
def test_an_epoch_holds_every_problem_once(size: int, count: int, by: Any) -> None:
    found = batches(ProblemOrder(problems(size), 4, by), count, 3 * (size // count))
    for epoch in range(3):
        ids = [id for batch in found[epoch * (size // count) : (epoch + 1) * (size // count)] for id in batch]
        assert sorted(ids) == sorted(problem.id for problem in problems(size))


def test_what_does_not_fill_a_batch_is_left_out_of_the_epoch_but_not_of_every_epoch() -> None:
    drawn = Counter(id for batch in batches(ProblemOrder(problems(8), 0), 3, 20) for id in batch)
    assert len(drawn) == 8
    assert all(
        len({id for batch in batches(ProblemOrder(problems(8), 0, taken=8 * e), 3, 2) for id in batch}) == 6
        for e in range(9)
    )


def test_further_problems_follow_the_batch_and_skip_those_of_the_update() -> None:
    batch, order = ProblemOrder(problems(6), 0).batch(4)
    further, after = order.further(2, without=[problem.id for problem in batch])
    assert {problem.id for problem in [*batch, *further]} == {problem.id for problem in problems(6)}
    assert after.epochs == 1
    rest, _ = order.further(5, without=[problem.id for problem in batch])
    assert rest == further  # no other problem remains
    assert order.further(0, without=[problem.id for problem in batch]) == ([], order)


def test_the_next_epoch_gives_no_problem_that_the_update_already_has() -> None:
    for seed in range(20):
        batch, order = ProblemOrder(problems(6), seed, taken=2).batch(3)
        further, _ = order.further(3, without=[problem.id for problem in batch])
        assert len({problem.id for problem in [*batch, *further]}) == 6


def test_easy_and_hard_problems_come_first_and_equal_rates_are_shuffled() -> None:
    rates = (0.0, 0.5, 0.5, 0.5, 1.0)
    easy, hard = (batches(ProblemOrder(problems(5), 0, by, rates), 5, 4) for by in ("easy_first", "hard_first"))
    assert all((batch[0], batch[-1]) == ("p4", "p0") for batch in easy)
    assert all((batch[0], batch[-1]) == ("p0", "p4") for batch in hard)
    assert len({tuple(batch) for batch in easy}) > 1


def test_a_position_is_saved_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / TRAINER).mkdir()
    order = ProblemOrder(problems(6), 0)
    order.batch(4)[1].save(tmp_path)
    assert order.restored(tmp_path, size=4) == order.batch(4)[1]
    (tmp_path / TRAINER / ORDER_FILE).write_text("{")
    with pytest.raises(RunError, match="earlier one"):
        order.restored(tmp_path, size=4)


def test_a_checkpoint_of_an_older_version_has_the_position_of_its_updates(tmp_path: Path) -> None:
    order = ProblemOrder(problems(11), 0)
    for updates in range(9):
        assert order.restored(tmp_path / f"update-{updates:04}", size=3).batch(3)[0] == order.batch(3)[0]
        order = order.batch(3)[1]


# Dynamic sampling


def test_problems_without_contrast_are_replaced_up_to_the_factor() -> None:
    options = RolloutOptions(problems=4, resample=2)
    alike = {"a": True, "b": False, "c": True, "d": True}
    assert wanted(alike, options) == 3
    alike |= {"e": True, "f": False, "g": True}
    assert wanted(alike, options) == 1  # two are missing, one may still be sampled
    alike |= {"h": True}
    assert wanted(alike, options) == 0
    assert chosen(alike, options) == ["a", "b", "c", "f"]  # filled with the first problems without contrast
    assert wanted(dict.fromkeys("abcd", False), options) == 0
    assert wanted(dict.fromkeys("abcd", True), RolloutOptions(problems=4)) == 0


@pytest.fixture(scope="module")
def train_run(
    trembling: Callable[[Path, float], None],
    teacher: Path,
    problem_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Run]:
    """Train the trembling teacher for two updates."""
    student = tmp_path_factory.mktemp("student")
    trembling(student, 0.1)

    def run(**fields: Any) -> Run:
        rollout = settings.ROLLOUT | {"problems": 3, "group": 3} | fields.pop("rollout", {})
        options = {
            "student": student,
            "teacher": teacher,
            "data": problem_file,
            "out": tmp_path_factory.mktemp("train") / "run",
            "updates": 2,
            "save_every": 1,
            "rollout": rollout,
            "learn": {"lr": 1e-3, "minibatches": 2},
            "reward": settings.REWARD,
            "tool": settings.TOOL,
            "sandbox": {"workers": 2},
        }
        return train(TrainOptions.model_validate(options | fields))

    return run


@pytest.fixture(scope="module")
def resampled(train_run: Callable[..., Run]) -> Run:
    return train_run(rollout={"resample": 3.0})


def test_training_replaces_problems_and_counts_them(resampled: Run) -> None:
    rows = resampled.metrics()
    assert any(row["resample/left_out"] > 0 and row["resample/alike"] < 1 for row in rows)
    for update, row in enumerate(rows, 1):
        sampled, left_out = row["resample/problems"], row["resample/left_out"]
        assert 3 <= sampled <= 9
        assert sampled - left_out == 3
        assert row["rollout/attempts"] == 3 * sampled  # rates are of all that was sampled
        lines = resampled.trajectory_file(update).read_text().splitlines()
        verdicts: dict[str, set[bool]] = {}
        for line in map(json.loads, lines):
            verdicts.setdefault(line["problem"], set()).add(line["correct"])
        contrast = sum(len(found) == 2 for found in verdicts.values())
        assert len(verdicts) == 3
        assert contrast == min(3, round(sampled * (1 - row["resample/alike"])))
        assert row["rollout/groups_alike"] == pytest.approx(1 - contrast / 3)
    assert rows[-1]["rollout/epochs"] > rows[0]["rollout/epochs"] > 0


def test_a_resumed_run_takes_the_same_problems(train_run: Callable[..., Run], resampled: Run, tmp_path: Path) -> None:
    fields = {"rollout": {"resample": 3.0}, "out": tmp_path / "run"}
    train_run(**fields, updates=1)
    resumed = train_run(**fields, resume=True)
    for row, other in zip(resumed.metrics(), resampled.metrics(), strict=True):
        ours, theirs = (
            {name: value for name, value in untimed(each).items() if not name.startswith("sampler/")}
            for each in (row, other)
        )
        assert ours == theirs


# Solve rates


@pytest.fixture(scope="module")
def evaluated(teacher: Path, problem_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluated") / "rates"
    fields = {"model": teacher, "data": problem_file, "out": out, "samples": 2}
    evaluate(EvalOptions.model_validate(settings.EVAL | fields | {"tool": settings.TOOL, "sandbox": {"workers": 2}}))
    return out


def options_with(problem_file: Path, rates: Path | None, **chosen: Any) -> TrainOptions:
    fields = {"student": "s", "data": problem_file, "out": "o", "algorithm": {"name": "grpo"}}
    return TrainOptions.model_validate(fields | {"rollout": {"problems": 1}, "problems": {"rates": rates} | chosen})


def test_problems_are_chosen_and_ordered_by_their_measured_rates(evaluated: Path, problem_file: Path) -> None:
    rates = solve_rates(evaluated, problem_file)
    found, _ = load_asked(problem_file)
    assert rates.keys() == {problem.id for problem in found}
    lines = map(json.loads, Run(evaluated).trajectory_file(0).read_text().splitlines())
    right = Counter(line["problem"] for line in lines if line["correct"])
    assert rates == {problem.id: right[problem.id] / 2 for problem in found}
    order = problem_order(options_with(problem_file, evaluated, order="easy_first", lowest=0.1), found)
    assert {problem.id for problem in order.problems} == {id for id, rate in rates.items() if rate >= 0.1}
    ids = batches(order, len(order.problems), 1)[0]
    assert [rates[id] for id in ids] == sorted((rates[id] for id in ids), reverse=True)


def test_a_rule_gets_the_teachers_rates_from_an_evaluation(evaluated: Path, problem_file: Path, tmp_path: Path) -> None:
    given = options_with(problem_file, None)
    assert teacher_rates(given) is None
    algorithm = given.algorithm.model_copy(update={"name": "gats", "teacher_rates": evaluated})
    given = given.model_copy(update={"algorithm": algorithm})
    assert teacher_rates(given) == solve_rates(evaluated, problem_file)
    assert "a finished evaluation of the teacher" in " ".join(plan(given).split())
    other = tmp_path / "other.jsonl"
    other.write_bytes(problem_file.read_bytes() + b"\n")
    with pytest.raises(DataError, match=r"give its --out as algorithm\.teacher_rates"):
        teacher_rates(given.model_copy(update={"data": other}))


def test_rates_of_another_file_or_of_a_part_are_refused(evaluated: Path, problem_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_bytes(problem_file.read_bytes() + b"\n")
    with pytest.raises(DataError, match="not an evaluation of"):
        problem_order(options_with(other, evaluated), load_asked(other)[0])
    with pytest.raises(DataError, match="holds no finished evaluation"):
        problem_order(options_with(problem_file, tmp_path), load_asked(problem_file)[0])
    found = [*load_asked(problem_file)[0], Problem(id="unseen", messages=(), answer="1")]
    with pytest.raises(DataError, match="no solve rate of 1 problems"):
        problem_order(options_with(problem_file, evaluated), found)
    with pytest.raises(OptionError, match="with such a solve rate"):
        problem_order(
            options_with(problem_file, evaluated, lowest=1.0).model_copy(
                update={"rollout": RolloutOptions(problems=10_000)}
            ),
            load_asked(problem_file)[0],
        )


def test_a_dry_run_checks_the_rates(evaluated: Path, problem_file: Path, tmp_path: Path) -> None:
    asked = {"order": "hard_first"}
    assert "is one of other data" not in plan(options_with(problem_file, evaluated, **asked))
    other = tmp_path / "other.jsonl"
    other.write_bytes(problem_file.read_bytes() + b"\n")
    assert "is one of other data" in " ".join(plan(options_with(other, evaluated, **asked)).split())
    assert "finished run of `sod eval`" in " ".join(plan(options_with(problem_file, tmp_path, **asked)).split())
    assert "needs measured solve rates" in " ".join(plan(options_with(problem_file, None, **asked)).split())
