"""A whole comparison of tiny models: real processes, resumed and extended."""

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confining import CONFINABLE

from sod.compare.command import compare
from sod.compare.dry_run import plan_comparison
from sod.compare.parts import ComparisonParts
from sod.config import CompareOptions
from sod.config.recipes import read_recipe, to_toml
from sod.errors import OptionError, RunError, TrainingError
from sod.evaluation.results import read_evaluation
from sod.lab import settings
from sod.lab.presets import Setting
from sod.planning.changes import fingerprints_of
from sod.runs.contents import content_digests
from sod.runs.directory import Run

pytestmark = pytest.mark.usefixtures("warm_commands")
Compare = Callable[..., Path]


@pytest.fixture(scope="module")
def recipes(
    untrained: Path, teacher: Path, problem_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """One update of four trajectories from random weights, and two samples of each of eight problems."""
    folder = tmp_path_factory.mktemp("recipes")
    shared: dict[str, Any] = {
        "data": problem_file,
        "teacher": teacher,
        "sandbox": {} if CONFINABLE else {"backend": "unsafe_subprocess"},
    }
    (folder / "train.toml").write_text(
        to_toml(
            shared | {"student": untrained, "updates": 1, "rollout": settings.ROLLOUT | {"problems": 2, "group": 2}}
        )
    )
    (folder / "measure.toml").write_text(to_toml(shared | {"samples": 2, "rollout": settings.ROLLOUT}))
    return {"train": folder / "train.toml", "measure": folder / "measure.toml"}


def options(recipes: dict[str, Path], out: Path, **fields: Any) -> CompareOptions:
    return CompareOptions.model_validate({"out": out, "methods": ("sod", "grpo"), "seeds": (0,)} | recipes | fields)


@pytest.fixture(scope="module")
def compared(recipes: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compare") / "out"
    compare(options(recipes, out))
    return out


def results(out: Path) -> dict[str, Any]:
    return json.loads((out / "results.json").read_text())


def test_every_method_the_control_the_start_and_the_teacher_have_a_row(compared: Path) -> None:
    rows = results(compared)["rows"]
    assert [(row["method"], row["seeds"]) for row in rows] == [
        ("start", 0), ("teacher", 0), ("sod", 1), ("grpo", 1), ("sham", 1),
    ]  # fmt: skip
    assert rows[1]["avg"]["mean"] > rows[0]["avg"]["mean"] == 0
    table = (compared / "table.md").read_text()
    assert "| sham |" in table
    assert "for this one seed" in table


def test_the_runs_are_ordinary_runs_that_differ_in_the_method_alone(compared: Path) -> None:
    first, second = (
        json.loads((compared / "cells" / name / "seed-0" / "train" / "options.json").read_text())
        for name in ("sod", "grpo")
    )
    assert {key for key in first if first[key] != second[key]} == {"algorithm", "out"}
    assert first["algorithm"] | {"name": "grpo"} == second["algorithm"]


def test_what_is_done_is_not_done_again_and_what_is_missing_is(compared: Path, recipes: dict[str, Path]) -> None:
    evaluation = compared / "cells" / "sod" / "seed-0" / "eval"
    kept = compared / "cells" / "grpo" / "seed-0" / "eval" / "results.json"
    before, written = results(compared), kept.stat().st_mtime_ns
    (evaluation / "results.json").unlink()  # as if it had been interrupted
    compare(options(recipes, compared))
    assert kept.stat().st_mtime_ns == written
    after = results(compared)
    assert [row["avg"] for row in after["rows"]] == [row["avg"] for row in before["rows"]]


def test_methods_and_seeds_can_be_added(
    compared: Path, recipes: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    compare(options(recipes, compared, methods=("sod", "opd algorithm.coef=0.5"), seeds=(0, 1), control=False))
    rows = {row["method"]: row for row in results(compared)["rows"]}
    assert rows["sod"]["seeds"] == rows["opd algorithm.coef=0.5"]["seeds"] == 2
    assert "No control was run" in capsys.readouterr().out


def test_other_terms_are_refused(compared: Path, recipes: dict[str, Path]) -> None:
    with pytest.raises(RunError, match="a comparison with other options: train differ"):
        compare(options(recipes, compared, updates=2))


def test_a_run_that_fails_is_left_out_and_named(compared: Path, recipes: dict[str, Path], tmp_path: Path) -> None:
    out = shutil.copytree(compared, tmp_path / "out")
    broken = tmp_path / "broken.py"
    broken.write_text("def rule(d_BK, info):\n    raise ValueError('no idea')\n")
    with pytest.raises(TrainingError, match=r"1 of the runs failed[^$]*no idea"):
        compare(options(recipes, out, methods=("grpo", f"{broken}:rule"), control=False))
    assert [row["method"] for row in results(out)["rows"]] == ["start", "teacher", "grpo"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"methods": ("sodd",)}, "did you mean 'sod'"),
        ({"methods": ("sod", "sod")}, "given twice"),
        ({"methods": ("sod algorithm.epsilom=1",)}, r"method 'sod algorithm.epsilom=1': algorithm.epsilom"),
        ({"methods": ()}, "Name at least one"),
        ({"baseline": "opd"}, "not a method of this comparison"),
        ({"seeds": (1, 1)}, "each only once"),
        ({"lrs": (1e-3,)}, "needs separate problems"),
        ({"train": None}, "--train or --measure is missing"),
        ({"train": Path("none.toml")}, "cannot be read"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_run(
    fields: dict[str, Any], words: str, recipes: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=words):
        compare(options(recipes, tmp_path / "out", **fields))
    assert not (tmp_path / "out").exists()

    with pytest.raises(OptionError, match=words):
        compare(options(recipes, tmp_path / "out", dry_run=True, **fields))
    assert not (tmp_path / "out").exists()


def test_runs_that_could_end_early_are_refused_before_anything_is_run(recipes: dict[str, Path], tmp_path: Path) -> None:
    early = tmp_path / "train.toml"
    early.write_text(to_toml(read_recipe(recipes["train"]) | {"validate": {"stop_after": 2}}))
    for fields in ({"train": early}, {"methods": ("grpo", "sod validate.stop_after=2")}):
        for dry_run in (False, True):
            with pytest.raises(OptionError, match=r"validate.stop_after is 2.*the same number of updates. Remove"):
                compare(options(recipes, tmp_path / "out", dry_run=dry_run, **fields))
    assert not (tmp_path / "out").exists()


def test_every_run_has_a_name_of_its_own_in_trackers_unless_the_recipe_names_it(
    recipes: dict[str, Path], problem_file: Path, tmp_path: Path
) -> None:
    content = read_recipe(recipes["train"]) | {"track": ["tensorboard"], "tracking": {"project": "mine"}}
    wanted = options(recipes, tmp_path / "out", seeds=(0, 1), lrs=(1e-3,), tune=problem_file, control=False)

    def names(**tracking: str) -> list[str | None]:
        setting = Setting(content | {"tracking": content["tracking"] | tracking}, {"data": problem_file}, ("sod",))
        parts = ComparisonParts(wanted, setting, tmp_path / "out")
        folders = [(m, s, folder) for m in parts.methods for s, folder in parts.cells(m).items()]
        folders += [(m, 0, folder) for m in parts.methods for folder in parts.tunings(m).values()]
        trained = [parts.training(method, seed, folder / "train").tracking for method, seed, folder in folders]
        assert {each.project for each in trained} == {"mine"}
        return [each.name for each in trained]

    assert names() == ["sod-seed-0", "sod-seed-1", "grpo-seed-0", "grpo-seed-1", "sod-lr-0.001", "grpo-lr-0.001"]
    assert set(names(name="given")) == {"given"}


def test_a_dry_run_of_tracked_runs_shows_each_method_once(recipes: dict[str, Path], tmp_path: Path) -> None:
    tracked = tmp_path / "train.toml"
    tracked.write_text(to_toml(read_recipe(recipes["train"]) | {"track": ["tensorboard"]}))
    shown = plan_comparison(options(recipes, tmp_path / "out", train=tracked, seeds=(0, 1)))
    assert shown.count(" updates with sham") == 1


def test_a_dry_run_lists_the_runs_and_their_memory_and_writes_nothing(
    recipes: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare(options(recipes, tmp_path / "out", seeds=(0, 1), dry_run=True))
    said = capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert "3 methods x 2 seeds" in said
    assert "6 training runs\n" in said
    assert "8 evaluations\n" in said
    assert "sham, seed 0: 1 updates with sham, each of 2 problems x 2 trajectories" in said
    assert "at the same time, each as large as the largest" in said
    assert said.rstrip().endswith("to do    nothing: all inputs are available")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"rollout": settings.ROLLOUT | {"top_p": 0.9}}, "1. rollout.top_p must be 1 for training"),
        ({"stop_on": ["nonsense"]}, "there is no alarm 'nonsense'"),
        ({"data": "missing.jsonl"}, "Create missing.jsonl"),
    ],
)
def test_a_dry_run_lists_what_the_runs_would_refuse(
    content: dict[str, Any], words: str, recipes: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "train.toml").write_text(to_toml(read_recipe(recipes["train"]) | content))
    assert words in plan_comparison(options(recipes, tmp_path / "out", train=tmp_path / "train.toml"))


def test_a_dry_run_counts_what_is_finished_and_refuses_other_terms(compared: Path, recipes: dict[str, Path]) -> None:
    done = plan_comparison(options(recipes, compared))
    assert "3 training runs, 3 of them finished" in done
    assert "5 evaluations, 5 of them finished" in done
    assert "1. " + str(compared) in plan_comparison(options(recipes, compared, updates=2))


def test_a_dry_run_of_a_preset_needs_no_lab(tmp_path: Path) -> None:
    wanted = CompareOptions.model_validate(
        {"out": tmp_path / "out", "preset": "paper-table1", "sandbox": {"backend": "unsafe_subprocess"}}
    )
    said = plan_comparison(wanted)
    assert "6 methods x 3 seeds" in said
    assert "18 training runs that choose a learning rate" in said
    assert "creates  the lab and the student's cold start" in said
    assert not (tmp_path / "out").exists()


@pytest.fixture
def begun(untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ComparisonParts:
    """Return a comparison whose runs have begun with a student, data and a rule of their own."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(untrained, tmp_path / "student")
    for name in ("data", "held", "tune"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"id": name, "prompt": f"{name}?", "answer": "1"}) + "\n")
    (tmp_path / "own.py").write_text("def rule(d_BK, info):\n    return d_BK\n")
    measure = {"data": tmp_path / "held.jsonl", "sandbox": {"backend": "unsafe_subprocess"}}
    train = measure | {"student": tmp_path / "student", "data": tmp_path / "data.jsonl"}
    wanted = CompareOptions.model_validate(
        {"out": tmp_path / "out", "methods": ("own.py:rule", "grpo"), "seeds": (0,), "control": False}
        | {"lrs": (1e-3,), "tune": tmp_path / "tune.jsonl"}
    )
    parts = ComparisonParts(wanted, Setting(train, measure, ()), tmp_path / "out")
    parts.out.mkdir()
    parts.keep_plan()
    own = parts.methods[0]
    tuning = parts.tunings(own)[1e-3]
    runs: list[Any] = [parts.evaluation(tmp_path / "student", parts.out / "start")]
    runs += [parts.training(own, 0, folder / "train") for folder in (tuning, *parts.cells(own).values())]
    model = tuning / "train" / "checkpoints" / "update-0001"
    runs.append(parts.evaluation(model, tuning / "eval", data=str(tmp_path / "tune.jsonl")))
    for each in runs:
        if each is runs[-1]:
            shutil.copytree(untrained, model)
        Run.open(each, each.out, data=fingerprints_of(each), files=content_digests(each))
    return parts


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("data.jsonl", "tuning/own.py-rule/lr-0.001/train and {out}/cells/own.py-rule/seed-0/train"),
        ("held.jsonl", "start"),
        ("tune.jsonl", "tuning/own.py-rule/lr-0.001/eval"),
        (
            "student/config.json",
            "start and {out}/tuning/own.py-rule/lr-0.001/train and {out}/cells/own.py-rule/seed-0/train",
        ),
        ("own.py", "tuning/own.py-rule/lr-0.001/train and {out}/cells/own.py-rule/seed-0/train"),
        (
            "out/tuning/own.py-rule/lr-0.001/train/checkpoints/update-0001/config.json",
            "tuning/own.py-rule/lr-0.001/eval",
        ),
    ],
)
def test_an_input_of_a_begun_run_that_has_changed_is_refused(
    name: str, place: str, begun: ComparisonParts, tmp_path: Path
) -> None:
    begun.check_plan()
    changed = tmp_path / name
    changed.write_text(changed.read_text() + "\n")
    with pytest.raises(RunError) as refusal:
        begun.check_plan()
    begun_in = f"{begun.out}/{place.format(out=begun.out)}"
    shown = {"config.json": changed.parent, "own.py": "algorithm.name: own.py"}.get(changed.name, changed)
    assert str(refusal.value) == (
        f"{shown} has changed since {begun_in} began, so the table would "
        f"mix two contents. Restore it, or remove {begun_in} to run again."
    )


def test_problems_that_can_no_longer_be_read_have_changed(begun: ComparisonParts, tmp_path: Path) -> None:
    (tmp_path / "held.jsonl").write_text("{")
    with pytest.raises(RunError, match=r"held\.jsonl has changed since"):
        begun.check_plan()


def test_an_input_that_is_gone_is_not_compared(begun: ComparisonParts, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "student")
    (tmp_path / "data.jsonl").unlink()
    begun.check_plan()


def test_a_comparison_also_works_within_a_running_event_loop(compared: Path, recipes: dict[str, Path]) -> None:
    (compared / "start" / "results.json").unlink()  # so that one command runs

    async def cell_of_a_notebook() -> None:
        compare(options(recipes, compared))

    asyncio.run(cell_of_a_notebook())
    assert (compared / "start" / "results.json").exists()


def test_a_damaged_run_is_left_out_and_named_with_the_reason(
    compared: Path, recipes: dict[str, Path], tmp_path: Path
) -> None:
    out = shutil.copytree(compared, tmp_path / "damaged")
    (out / "cells" / "grpo" / "seed-0" / "train" / "options.json").write_text("{")
    with pytest.raises(TrainingError, match=r"grpo, seed 0: .*holds no readable training run .JSONDecodeError.*Move "):
        compare(options(recipes, out))
    assert "grpo" not in [row["method"] for row in results(out)["rows"]]


def test_problems_to_tune_with_must_be_others_than_those_to_measure_with(
    recipes: dict[str, Path], problem_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match="are also evaluation problems"):
        compare(options(recipes, tmp_path / "out", lrs=(1e-3, 1e-4), tune=problem_file))


def test_it_ends_with_the_page_written_and_the_next_command(
    compared: Path, recipes: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (compared / "report.html").unlink()
    compare(options(recipes, compared))
    said = capsys.readouterr().out
    assert (compared / "report.html").stat().st_size > 10_000
    lines = said.strip().splitlines()
    assert lines[-1].startswith("next, with your own data: sod train --student MODEL")
    assert any(line.startswith(f"page: {compared / 'report.html'}") for line in lines[-4:])
    assert any(line.startswith(f"table: {compared / 'table.md'}") for line in lines[-4:])
    solved = read_evaluation(compared / "start").mean["avg"]
    assert ("of the attempts are right before training" in said) == (solved < 0.01)


def test_a_student_that_solves_nothing_at_the_start_is_named(
    compared: Path, recipes: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(compared, tmp_path / "hopeless")
    results = json.loads((out / "start" / "results.json").read_text())
    results["mean"]["avg"] = 0.0
    (out / "start" / "results.json").write_text(json.dumps(results))
    compare(options(recipes, out))
    assert "0.0% of the attempts are right before training: the reward has no right answers" in capsys.readouterr().out
