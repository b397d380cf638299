"""Validation while training: the numbers of `sod eval`, the best checkpoint, the early end, an unchanged training."""

import json
import logging
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from timings import untimed
from transformers import AutoModelForCausalLM
from warm import Warm, launch

from sod.chat.format import ChatFormat
from sod.cli import run as sod
from sod.config import EvalOptions, HeldOutOptions, ReportOptions, SftOptions, TrainOptions
from sod.config.recipes import to_toml
from sod.datasets.contamination import count_shared, same_questions
from sod.datasets.overlap import ProblemIdentity
from sod.datasets.rows import demonstration_of, load_demonstrations, load_problems, write_jsonl
from sod.errors import DataError, ModelError, OptionError
from sod.evaluation.evaluate import evaluate
from sod.lab import settings
from sod.lab.demonstrations import STUDENT_STYLE
from sod.lab.make import problems as lab_problems
from sod.lab.make import write_demonstrations
from sod.model.hub import model_folder
from sod.planning.dry_run import plan
from sod.report import report
from sod.report.reading import read_run
from sod.rollout.agent import Agent
from sod.runs.directory import Run
from sod.runs.validations import Validation, add_validation, best_checkpoint, read_validations, rewind_validations
from sod.training.on_policy import train
from sod.training.sft import sft
from sod.types import Problem, Trajectory
from sod.validation import solving
from sod.validation.cold_start import SolveRates, solve_options
from sod.validation.course import Course
from sod.validation.sets import questions_of
from sod.validation.solving import SolveScale

UPDATE: dict[str, Any] = {
    "rollout": settings.ROLLOUT | {"problems": 4, "group": 2, "max_tokens": 100},
    "learn": {"lr": 1e-3, "minibatches": 2},
    "reward": settings.REWARD,
    "tool": settings.TOOL,
    "sandbox": {"workers": 2},
    "network": {"device": "cpu"},
    "algorithm": {"name": "grpo"},
    "updates": 3,
}


@pytest.fixture(scope="module")
def student(trembling: Callable[[Path, float], None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lab's teacher with a tremor: it solves some problems."""
    folder = tmp_path_factory.mktemp("student")
    trembling(folder, 0.06)
    return folder


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six problems that are not in the training file."""
    tasks, _ = lab_problems(6, 0, seed=11)
    path = tmp_path_factory.mktemp("held-out") / "held.jsonl"
    rows = [{"id": f"h{i}", "prompt": task.question, "answer": str(task.answer)} for i, task in enumerate(tasks)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def train_run(student: Path, problem_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    def train_run(**fields: Any) -> Run:
        files = {"student": student, "data": problem_file, "out": tmp_path_factory.mktemp("train") / "run"}
        return train(TrainOptions.model_validate(UPDATE | files | fields))

    return train_run


@pytest.fixture(scope="module")
def validated(train_run: Callable[..., Run], held_out: Path) -> Run:
    """Three updates with validations before, after the second, and at the end."""
    return train_run(validate={"data": held_out, "every": 2, "samples": 2})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(ours: Path, theirs: Path) -> bool:
    one, other = weights(ours), weights(theirs)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def checkpoint(run: Run, update: int) -> Path:
    return run.folder / "checkpoints" / f"update-{update:04}"


def numbers(run: Run) -> list[Any]:
    return [(row.update, row.settings, untimed(row.metrics), row.problems) for row in read_validations(run.folder)]


# What a run with validation leaves behind


def test_it_validates_before_the_first_update_every_n_updates_and_after_the_last(validated: Run) -> None:
    rows = read_validations(validated.folder)
    assert [row.update for row in rows] == [0, 2, 3]
    for row in rows:
        assert row.problems.keys() == {"held"}
        assert len(row.problems["held"]) == 6
        assert all(tried == 2 for _, tried, _ in row.problems["held"].values())
        mean = sum(right / tried for right, tried, _ in row.problems["held"].values()) / 6
        assert row.metrics["validate/held/avg"] == row.metrics["validate/avg"] == pytest.approx(mean)
        assert 0 <= row.metrics["validate/held/avg_half"] < 1
        assert {"validate/held/pass@2", "validate/held/pass@2_half", "validate/held/tools/calls"} <= row.metrics.keys()
    assert 0 < rows[0].metrics["validate/avg"] < 1


def test_the_numbers_are_those_of_an_evaluation_of_the_checkpoint(
    validated: Run, held_out: Path, tmp_path: Path
) -> None:
    row = next(row for row in read_validations(validated.folder) if row.update == 3)
    kept = {key: UPDATE[key] for key in ("reward", "tool", "sandbox", "network")}
    rollout = {key: value for key, value in UPDATE["rollout"].items() if key not in ("problems", "group")}
    files = {"model": checkpoint(validated, 3), "data": held_out, "out": tmp_path / "eval", "samples": 2}
    found = evaluate(EvalOptions.model_validate(kept | files | {"rollout": rollout})).benchmarks["held"].measured
    ours = {key.removeprefix("validate/held/"): value for key, value in row.metrics.items() if "/held/" in key}
    assert found.items() <= (ours | {"truncated": found["truncated"]}).items()
    assert ours.keys() - found.keys() == {"avg_half", "pass@2_half", "maj_half"}


def test_two_validations_of_the_same_weights_give_the_same_numbers(
    train_run: Callable[..., Run], held_out: Path
) -> None:
    run = train_run(validate={"data": held_out, "every": 1, "samples": 2}, learn={"lr": 1e-12}, updates=1)
    first, second = read_validations(run.folder)
    assert (first.update, second.update) == (0, 1)
    assert first.problems == second.problems
    assert untimed(first.metrics) == untimed(second.metrics)


def test_the_training_is_the_same_bit_for_bit_without_validation(validated: Run, train_run: Callable[..., Run]) -> None:
    plain = train_run()
    assert same(checkpoint(plain, 3), checkpoint(validated, 3))
    rows = plain.metrics(), validated.metrics()
    assert [row["update"] for row in rows[1]] == [1, 2, 3]
    for one, other in zip(*rows, strict=True):
        assert one.keys() == other.keys()
        one, other = (untimed({k: v for k, v in row.items() if "sampler/" not in k}) for row in (one, other))
        assert one == other
    assert not (plain.folder / "validation.jsonl").exists()
    assert best_checkpoint(plain.folder) is None
    with pytest.raises(ModelError, match=r"has no best checkpoint, because it had no validation"):
        model_folder(plain.folder / "best")


def test_some_trajectories_of_a_validation_are_kept(validated: Run) -> None:
    lines = (validated.folder / "validation" / "update-0002.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [(row["problem"], row["sample"], row["benchmark"]) for row in rows] == [
        (f"h{i}", 0, "held") for i in range(6)
    ]
    assert all(row["pieces"][1]["author"] == "student" for row in rows)


def test_a_line_shows_the_score_its_noise_and_the_best(
    train_run: Callable[..., Run], held_out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train_run(validate={"data": held_out, "samples": 2}, updates=1)
    first, last = read_validations(run.folder)
    out = capsys.readouterr().out
    mean, half = (100 * first.metrics[f"validate/held/{key}"] for key in ("avg", "avg_half"))
    assert f"validate  update 0  held {mean:.1f} ± {half:.1f}" in out
    assert "best so far" in out
    best = 1 if last.metrics["validate/avg"] > first.metrics["validate/avg"] else 0
    assert f"; the best by validation, after update {best}, is {run.folder / 'best'}" in " ".join(out.split())


def test_a_line_shows_why_pass_has_no_number_if_every_problem_lost_a_sample(
    train_run: Callable[..., Run], held_out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = solving.attempts

    def without_the_first(agent: Agent, jobs: Any, *, seed: int, on_trajectory: Callable[..., None]) -> Any:
        def keep(problem: Problem, sample: int, attempt: Trajectory | None) -> None:
            on_trajectory(problem, sample, attempt if sample else None)

        return whole(agent, jobs, seed=seed, on_trajectory=keep)

    monkeypatch.setattr(solving, "attempts", without_the_first)
    run = train_run(validate={"data": held_out, "samples": 2, "measure": "pass"}, updates=1)
    out = capsys.readouterr().out
    assert "update 0  held: no pass@2, every problem lost a sample" in out
    assert "no attempt was graded" not in out
    assert read_validations(run.folder)[0].metrics["validate/held/rollout/dropped"] == 6
    assert best_checkpoint(run.folder) is None


def test_without_a_score_a_line_names_the_best_so_far_or_that_there_is_none(tmp_path: Path) -> None:
    known, unknown = ({"validate/pass@4": 0.5}, 0), ({"validate/pass@3": 0.5}, 10)
    for rows, note in (((unknown,), "no best yet"), ((known, unknown), "best: update 0")):
        found = Course(Run(tmp_path), HeldOutOptions(data=("held.jsonl",)), SolveScale("pass", 4), {}, keep=1)
        for metrics, update in rows:
            problems = {"held": {"p": [1.0, 3.0, 0.0]}}
            validation = Validation(update, {}, metrics | {"seconds/validate": 1.0}, problems)
            found.add(validation, lambda update: (tmp_path / f"checkpoints/update-{update:04}").mkdir(parents=True))
        assert found.line(validation)[-1][1] == note


# The best checkpoint


def test_the_best_checkpoint_is_kept_and_loads_although_only_the_newest_is_to_be_kept(
    train_run: Callable[..., Run], held_out: Path
) -> None:
    run = train_run(
        validate={"data": held_out, "every": 1, "samples": 2},
        learn={"lr": 0.1, "minibatches": 4},
        updates=4, save_every=1, keep=1,
    )  # fmt: skip
    rows = read_validations(run.folder)
    best = max(rows, key=lambda row: row.metrics["validate/avg"])
    assert best.update < 3, "this learning rate ruins the model"
    assert sorted(path.name for path in (run.folder / "checkpoints").iterdir()) == [
        f"update-{update:04}" for update in sorted({best.update, 3, 4})
    ]
    assert best_checkpoint(run.folder) == checkpoint(run, best.update)
    assert model_folder(run.folder / "best").resolve() == checkpoint(run, best.update).resolve()
    assert model_folder(run.folder) == checkpoint(run, 4)
    AutoModelForCausalLM.from_pretrained(run.folder / "best")


def row(update: int, *right: float, tried: int = 4, **options: Any) -> Validation:
    problems = {"held": {f"p{i}": [count, tried, float(2 * count > tried)] for i, count in enumerate(right)}}
    return Validation(update, options, {"validate/avg": sum(right) / tried / len(right)}, problems)


def course(run: Run, rows: Sequence[Validation], stop_after: int) -> Course:
    for each in rows:
        add_validation(run.folder, each)
    return Course.open(
        run, HeldOutOptions(data=("held.jsonl",), stop_after=stop_after), SolveScale("avg", 4), {}, keep=1
    )


def test_another_measure_chooses_among_the_checkpoints_that_are_left(tmp_path: Path) -> None:
    run = Run(tmp_path)

    def save(update: int) -> None:
        run.save(update, lambda folder: None, keep=1)

    for update, avg, solved in ((0, 0.9, 0.2), (10, 0.3, 0.9), (20, 0.4, 0.6), (30, 0.5, 0.5)):
        metrics = {"validate/avg": avg, "validate/pass@4": solved}
        add_validation(run.folder, Validation(update, {}, metrics, {"held": {}}))
        save(update)
        if update == 0:
            run.choose_best(0, keep=1)
    assert not checkpoint(run, 10).exists()

    def opened(measure: str) -> Course:
        return Course.open(run, HeldOutOptions(data=("held.jsonl",)), SolveScale(measure, 4), {}, keep=1)

    def best(found: Course) -> tuple[int, Path | None]:
        assert found.best is not None
        return found.best.update, best_checkpoint(run.folder)

    assert best(opened("avg")) == (0, checkpoint(run, 0))
    found = opened("pass")
    assert best(found) == (20, checkpoint(run, 20))
    worse = Validation(40, {}, {"validate/pass@4": 0.55, "seconds/validate": 1.0}, {})
    better = Validation(50, {}, {"validate/pass@4": 0.7, "seconds/validate": 1.0}, {})
    for new, expected in ((worse, 20), (better, 50)):
        found.add(new, save)
        assert best(found) == (expected, checkpoint(run, expected))
        assert found.line(new)[-1][1] == ("best so far" if new is better else "best: update 20")


def test_a_run_ends_after_so_many_validations_without_a_gain_outside_the_noise(tmp_path: Path) -> None:
    start, noise = row(0, *[1] * 20), row(10, *[1] * 19, 2)
    gain = row(20, *[2] * 20)
    assert not course(Run(tmp_path), [start, noise], 2).over
    assert course(Run(tmp_path), [row(20, *[1] * 20)], 2).over.startswith(
        "The run ends after update 20: no gain outside"
    )
    assert not course(Run(tmp_path), [gain], 2).over  # replaces the row of the same update
    assert course(Run(tmp_path), [row(30, *[2] * 20)], 1).over
    assert not course(Run(tmp_path), [], 0).over


def test_slow_progress_adds_up_to_a_gain(tmp_path: Path) -> None:
    """Each step is one of 20 problems better, which is noise; eight of them together are not."""
    rows = [row(10 * step, *[1] * (20 - step), *[3] * step) for step in range(9)]
    found = course(Run(tmp_path), rows, 9)
    assert found.anchor is not None
    assert found.anchor.update > 0
    assert found.since < 5


def test_validations_with_other_options_are_not_compared(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [row(0, 4, 4, 4, samples=8), row(0, 1, 1, 1)]
    with caplog.at_level(logging.WARNING):
        found = course(Run(tmp_path), rows, 0)
    assert [each.settings for each in found.done] == [{}]
    assert "1 earlier validations had other options or problems" in caplog.text


def test_a_truncated_row_is_sampled_again_and_later_rows_are_removed_on_resuming(tmp_path: Path) -> None:
    for each in (row(0, 1), row(10, 2), row(20, 3)):
        add_validation(tmp_path, each, [{"update": each.update}])
    file = tmp_path / "validation.jsonl"
    file.write_bytes(file.read_bytes()[:-5])
    assert [each.update for each in read_validations(tmp_path)] == [0, 10]
    rewind_validations(tmp_path, 0)
    assert [each.update for each in read_validations(tmp_path)] == [0]
    assert [path.name for path in (tmp_path / "validation").iterdir()] == ["update-0000.jsonl"]


def test_stop_after_ends_a_run_normally_and_a_resumed_one_goes_on_with_more_patience(
    train_run: Callable[..., Run], student: Path, problem_file: Path, held_out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    validate = {"data": [str(held_out)], "every": 1, "samples": 2, "stop_after": 2}
    run = train_run(validate=validate, learn={"lr": 1e-12}, updates=5)
    assert [row.update for row in read_validations(run.folder)] == [0, 1, 2]
    assert "The run ends after update 2: no gain outside the noise over update 0 in 2 validations" in " ".join(
        capsys.readouterr().out.split()
    )
    assert run.finished() == checkpoint(run, 2)
    files = {"student": student, "data": problem_file, "out": run.folder, "resume": True}
    longer = UPDATE | files | {"learn": {"lr": 1e-12}, "updates": 3, "validate": validate | {"stop_after": 0}}
    train(TrainOptions.model_validate(longer))
    assert [row.update for row in read_validations(run.folder)] == [0, 1, 2, 3]
    assert run.finished() == checkpoint(run, 3)


# A run that is killed


@pytest.mark.parametrize(("rows", "kill"), [(1, signal.SIGKILL), (2, signal.SIGTERM)])
def test_a_killed_run_goes_on_and_repeats_no_finished_validation(
    validated: Run, student: Path, problem_file: Path, held_out: Path, tmp_path: Path, rows: int, kill: signal.Signals
) -> None:
    run = Run(tmp_path / "run")
    recipe = tmp_path / "recipe.toml"
    validate = {"data": [str(held_out)], "every": 2, "samples": 2}
    recipe.write_text(to_toml(UPDATE | {"student": str(student), "data": str(problem_file), "validate": validate}))
    command = ["train", str(recipe), "--out", str(run.folder)]
    process = Warm(["-m", "sod", *command])
    deadline = time.monotonic() + 100
    while len(read_validations(run.folder)) < rows and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send(kill)
    assert process.wait().returncode == (-kill if kill == signal.SIGKILL else 75)
    before = read_validations(run.folder)

    assert sod([*command, "--resume"]) == 0
    assert read_validations(run.folder)[: len(before)] == before  # with the same seconds
    assert numbers(run) == numbers(validated)
    assert same(checkpoint(run, 3), checkpoint(validated, 3))
    assert best_checkpoint(run.folder) is not None
    assert (run.folder / "best").readlink() == (validated.folder / "best").readlink()


# Bad input


def test_a_missing_file_is_named_before_anything_is_loaded(
    student: Path, problem_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--student", str(student), "--data", str(problem_file), "--out", str(tmp_path / "run")]
    assert sod(["train", *files, "--algorithm.name", "grpo", "--validate.data", "nowhere.jsonl"]) == 2
    assert "validate.data: nowhere.jsonl does not exist" in " ".join(capsys.readouterr().err.split())
    assert sod(["train", *files, "--algorithm.name", "grpo", "--validate.data", "aime2042"]) == 2
    assert "validate.data: aime2042 is neither a benchmark nor a file; did you mean" in " ".join(
        capsys.readouterr().err.split()
    )
    assert not (tmp_path / "run").exists()


def test_options_of_a_validation_without_data_are_refused(train_run: Callable[..., Run]) -> None:
    with pytest.raises(OptionError, match=r"validate\.stop_after = 3 has no effect without validate\.data"):
        train_run(validate={"stop_after": 3})


def test_a_set_without_problems_and_one_too_small_for_an_interval_are_refused(
    train_run: Callable[..., Run], held_out: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(DataError, match=r"empty\.jsonl is empty"):
        train_run(validate={"data": empty})
    with pytest.raises(OptionError, match="held has 2 of them, too few for an interval"):
        train_run(validate={"data": held_out, "limit": 2, "stop_after": 1})


def test_problems_that_are_also_trained_on_are_counted_in_a_warning(
    train_run: Callable[..., Run], problem_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        train_run(validate={"data": problem_file, "samples": 1, "limit": 3}, updates=1)
    assert "rows: 3 of 3 held-out questions are also in the training data" in caplog.text


def test_equal_problems_and_similar_ones_are_counted_apart() -> None:
    long = "a train leaves the old station at noon and reaches the next town after three hours of travel"
    held = ["1 + 1?", long, f"{long}, how far is it", "quite another question"]
    assert count_shared(
        list(map(ProblemIdentity, held)), [ProblemIdentity("1 + 1?"), ProblemIdentity(long)], 10, 0.5
    ) == (2, 1)


def test_one_prompt_with_several_settings_or_files_is_several_problems(tmp_path: Path) -> None:
    def asked(setting: dict[str, int] | None = None, table: str = "", name: str = "a") -> ProblemIdentity:
        file = tmp_path / f"{name}.csv"
        file.write_text(table)
        files = {"t.csv": str(file)} if table else {}
        messages = ({"role": "user", "content": "Boil water."}, {"role": "user", "content": "Begin."})
        return ProblemIdentity.of(Problem(id="1", messages=messages, answer="", setting=setting or {}, files=files))

    held = [asked({"variation": number}) for number in range(4)]
    assert count_shared(held, [asked({"variation": 7}), asked({"variation": 2})], 2, 0.5) == (1, 0)
    assert count_shared([asked(table="1,2")], [asked(table="1,3", name="b")], 2, 0.5) == (0, 0)
    assert count_shared([asked(table="1,2")], [asked(table="1,2", name="b")], 2, 0.5) == (1, 0)
    assert count_shared(held, [asked()], 2, 0.5) == (4, 0)  # nothing tells them apart


# What shows it


def test_a_report_draws_the_scores_with_their_intervals_and_shows_some_trajectories(
    validated: Run, tmp_path: Path
) -> None:
    report(ReportOptions(runs=(validated.folder,), out=tmp_path / "page.html", png=tmp_path / "figures"))
    page = (tmp_path / "page.html").read_text()
    assert '<figure id="figure-validation"' in page
    assert (tmp_path / "figures" / "validation.png").stat().st_size > 1000
    first = read_validations(validated.folder)[0].metrics
    mean, half = 100 * first["validate/held/avg"], 100 * first["validate/held/avg_half"]
    assert f'<th scope="row">held, avg, %: first</th><td>{mean:.1f} ± {half:.1f}</td>' in page
    run = read_run(validated.folder, "run", limit=400, keep=lambda _: (0, 0), advance=lambda: None)
    assert {t.problem for t in run.trajectories if t.update == 0} == {f"validation held: h{i}" for i in range(6)}


def test_a_dry_run_counts_what_validation_reads_and_samples(
    student: Path, problem_file: Path, held_out: Path, tmp_path: Path
) -> None:
    files = {"student": student, "data": problem_file, "out": tmp_path / "run"}
    validate = {"data": [str(held_out), "aime2024"], "every": 2, "samples": 2, "limit": 5}
    text = plan(TrainOptions.model_validate(UPDATE | files | {"validate": validate}))
    assert f"validate {held_out}  found, 6 problems" in text
    assert "validate aime2024" in text
    assert "3 validations (at the start, every 2, at the end), each of 10 problems x 2 samples" in text
    assert "4 checkpoints of" in text  # one more, the best


# Several processes


def test_two_processes_share_the_attempts_and_agree_on_the_best(
    validated: Run, student: Path, problem_file: Path, held_out: Path, tmp_path: Path
) -> None:
    recipe, run = tmp_path / "recipe.toml", Run(tmp_path / "run")
    validate = {"data": [str(held_out)], "every": 2, "samples": 2}
    recipe.write_text(to_toml(UPDATE | {"student": str(student), "data": str(problem_file), "validate": validate}))
    result = launch(2, ["-m", "sod", "train", str(recipe), "--out", str(run.folder), "--processes", "2"])
    assert result.returncode == 0, result.stdout + result.stderr
    ours, alone = numbers(run), numbers(validated)
    assert [row[0] for row in ours] == [0, 2, 3]
    assert ours[0][3] == alone[0][3]
    assert ours[0][2] == pytest.approx(alone[0][2])
    assert (run.folder / "best").readlink() == (validated.folder / "best").readlink()


# Cold start


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Demonstrations to learn from, and held-out ones."""
    folder = tmp_path_factory.mktemp("demonstrations")
    paths = folder / "learn.jsonl", folder / "held.jsonl"
    for seed, (path, count) in enumerate(zip(paths, (64, 12), strict=True)):
        write_demonstrations(path, STUDENT_STYLE, count, seed=seed)
    return paths


def cold_start(model: Path, files: tuple[Path, Path], out: Path, **fields: Any) -> SftOptions:
    options: dict[str, Any] = {"model": model, "data": files[0], "out": out, "batch": 16, "epochs": 3}
    validate = {"data": str(files[1]), "every": 4} | fields.pop("validate", {})
    return SftOptions.model_validate(options | {"learn": {"lr": 5e-3}, "validate": validate} | fields)


@pytest.fixture(scope="module")
def cold(untrained: Path, demonstrations: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return sft(cold_start(untrained, demonstrations, tmp_path_factory.mktemp("cold") / "run"))


def test_the_loss_on_held_out_demonstrations_falls_and_its_lowest_checkpoint_is_the_best(cold: Run) -> None:
    rows = read_validations(cold.folder)
    assert [each.update for each in rows] == [0, 4, 8, 12]
    losses = [each.metrics["validate/loss"] for each in rows]
    assert losses[-1] < losses[0] - 0.5
    assert best_checkpoint(cold.folder) == checkpoint(cold, rows[losses.index(min(losses))].update)


def test_the_loss_equals_a_plain_computation_in_transformers(
    cold: Run, demonstrations: tuple[Path, Path], chat: ChatFormat
) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoint(cold, 12))
    whole, tokens = 0.0, 0
    for demonstration in load_demonstrations(demonstrations[1]):
        pieces = chat.render(demonstration.messages, demonstration.tools)
        ids = torch.tensor([[token for piece in pieces for token in piece.tokens]])
        labels = [token if piece.author == "student" else -100 for piece in pieces for token in piece.tokens]
        count = sum(label != -100 for label in labels)
        with torch.no_grad():
            whole += model(ids, labels=torch.tensor([labels])).loss.item() * count
        tokens += count
    row = read_validations(cold.folder)[-1]
    assert row.metrics["validate/held/tokens"] == tokens
    assert row.metrics["validate/loss"] == pytest.approx(whole / tokens, abs=1e-5)
    assert 0 < row.metrics["validate/loss_half"] < 1


def test_a_cold_start_is_the_same_without_validation(
    cold: Run, untrained: Path, demonstrations: tuple[Path, Path], tmp_path: Path
) -> None:
    plain = sft(cold_start(untrained, demonstrations, tmp_path / "run", validate={"data": ()}))
    assert same(checkpoint(plain, 12), checkpoint(cold, 12))
    assert not (plain.folder / "validation.jsonl").exists()


def test_a_cold_start_solves_the_problems_of_a_recipe_as_an_evaluation_does(
    teacher: Path, demonstrations: tuple[Path, Path], problem_file: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "solve.toml"
    recipe.write_text(
        f'data = "{problem_file}"\nsamples = 2\nlimit = 4\n[rollout]\nmax_tokens = 256\nmax_prompt_tokens = 128\n'
    )
    fields: dict[str, Any] = {"validate": {"every": 100, "solve": recipe}, "learn": {"lr": 1e-12}, "steps": 1}
    run = sft(cold_start(teacher, demonstrations, tmp_path / "run", **fields))
    rows = read_validations(run.folder)
    measured = evaluate(solve_options(cold_start(teacher, demonstrations, tmp_path / "eval", **fields)))
    assert measured.mean["avg"] > 0.5
    assert [each.metrics[f"validate/{problem_file.stem}/avg"] for each in rows] == [measured.mean["avg"]] * 2


def test_the_lengths_of_a_recipe_are_those_that_the_model_has(
    untrained: Path, demonstrations: tuple[Path, Path], problem_file: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "solve.toml"
    recipe.write_text(f'data = "{problem_file}"\nlimit = 1\n')
    options = cold_start(untrained, demonstrations, tmp_path / "run", validate={"solve": recipe})
    solver = SolveRates.open(options, untrained)
    assert solver is not None
    assert (solver.options.rollout.max_prompt_tokens, solver.options.rollout.max_tokens) == (512, 512)
    recipe.write_text(f'data = "{problem_file}"\nlimit = 1\n[rollout]\nmax_tokens = 5000\n')
    with pytest.raises(ModelError, match=r"rollout\.max_tokens is \d+, but the model has 1024 positions"):
        sft(options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('samples = "many"\ndata = "x.jsonl"', "is no recipe of `sod eval`: samples"),
        (
            'data = "x.jsonl"\n[engine]\nname = "served"\nurl = "http://127.0.0.1:1"',
            "a model in training is sampled with hf",
        ),
    ],
)
def test_a_recipe_that_cannot_be_solved_is_refused_before_training(
    text: str, words: str, untrained: Path, demonstrations: tuple[Path, Path], tmp_path: Path
) -> None:
    recipe = tmp_path / "solve.toml"
    recipe.write_text(text)
    with pytest.raises(OptionError, match=words):
        sft(cold_start(untrained, demonstrations, tmp_path / "run", validate={"solve": recipe}))
    assert not (tmp_path / "run").exists()


SHOTS = [
    {"role": "user", "content": "What is 1 + 1?"},
    {"role": "assistant", "content": "2", "weight": 0},
]


@pytest.mark.parametrize(
    ("held", "learnt", "shared"),
    [
        ({"ask": "What is 2 + 2?"}, {"ask": "What is 3 + 3?"}, False),  # the examples before them are the same
        ({"ask": "What is 2 + 2?"}, {"ask": "what is  2 + 2 ?"}, True),
        ({"ask": "Act.", "setting": {"level": 1}}, {"ask": "Act.", "setting": {"level": 2}}, False),
        ({"ask": "Act.", "setting": {"level": 1}}, {"ask": "Act.", "setting": '{"level": 1}'}, True),
        ({"ask": "Act.", "environment": "a.py:A"}, {"ask": "Act."}, True),  # unknown for one of the two
    ],
)
def test_demonstrations_are_one_problem_by_their_prompt_and_its_surroundings(
    held: dict[str, Any], learnt: dict[str, Any], shared: bool
) -> None:
    def questions(row: dict[str, Any]) -> list[ProblemIdentity]:
        talk = [*SHOTS, {"role": "user", "content": row["ask"]}, {"role": "assistant", "content": "4"}]
        return questions_of([demonstration_of(row | {"messages": talk}, 1)], Path())

    assert same_questions(questions(held), questions(learnt)) == ({0} if shared else set())


def test_demonstrations_of_a_problem_to_solve_are_reported(
    untrained: Path, problem_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = load_problems(problem_file)[0]
    talk = [*problem.messages, {"role": "assistant", "content": "It is 2."}]
    write_jsonl(tmp_path / "learn.jsonl", [{"messages": talk}])
    write_jsonl(tmp_path / "held.jsonl", [{"messages": [{"role": "user", "content": "Another?"}, talk[-1]]}])
    (tmp_path / "solve.toml").write_text(
        f'data = "{problem_file}"\nsamples = 1\nlimit = 2\nrollout = {{max_tokens = 8, max_prompt_tokens = 512}}\n'
        'sandbox.backend = "unsafe_subprocess"'
    )
    files = (tmp_path / "learn.jsonl", tmp_path / "held.jsonl")
    sft(cold_start(untrained, files, tmp_path / "run", validate={"solve": tmp_path / "solve.toml"}, epochs=1))
    shown = " ".join("".join(capsys.readouterr()).split())
    assert f"careful: {problem_file.stem}: 1 of 2 held-out questions are also in the training data" in shown


def test_a_cold_start_that_no_longer_improves_ends(
    untrained: Path, demonstrations: tuple[Path, Path], tmp_path: Path
) -> None:
    validate = {"every": 1, "stop_after": 2}
    options = cold_start(untrained, demonstrations, tmp_path / "run", validate=validate, learn={"lr": 1e-12})
    run = sft(options)
    assert [each.update for each in read_validations(run.folder)] == [0, 1, 2]
    assert run.finished() == checkpoint(run, 2)


@pytest.mark.parametrize("processes", [2])
def test_two_processes_measure_the_same_loss(
    cold: Run, untrained: Path, demonstrations: tuple[Path, Path], tmp_path: Path, processes: int
) -> None:
    files = ["--model", str(untrained), "--data", str(demonstrations[0]), "--out", str(tmp_path / "run")]
    numbers = ["--batch", "16", "--epochs", "3", "--learn.lr", "5e-3", "--network.device", "cpu"]
    held = ["--validate.data", str(demonstrations[1]), "--validate.every", "4", "--learn.microbatch-tokens", "700"]
    result = launch(processes, ["-m", "sod", "sft", *files, *numbers, *held])
    assert result.returncode == 0, result.stdout + result.stderr
    ours, alone = read_validations(tmp_path / "run"), read_validations(cold.folder)
    assert [each.update for each in ours] == [each.update for each in alone]
    for one, other in zip(ours, alone, strict=True):
        assert one.metrics["validate/loss"] == pytest.approx(other.metrics["validate/loss"], abs=1e-3)
