"""`sod run`: stages from a recipe, in order, each run once."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sod.arguments.parsing import parse_options
from sod.cli import run as sod
from sod.config import RunOptions
from sod.errors import OptionError
from sod.pipeline.forecasting import Forecast
from sod.pipeline.running import seconds_of
from sod.pipeline.stages import ExperimentStage, read_stages
from sod.runs.directory import Run

pytestmark = pytest.mark.usefixtures("warm_commands")
ROOT = Path(__file__).parents[1]
ROLLOUT = "{ problems = 2, group = 2, max_tokens = 60, max_prompt_tokens = 64, max_turn_tokens = 36 }"
TINY = f"""
[stages.lab]
command = "lab make"
demonstrations = 16
train_problems = 8
eval_problems = 4

[stages.start]
command = "sft"
model = "@lab/student"
data = "@lab/demonstrations.jsonl"
steps = 2
batch = 4

[stages.train]
student = "@start"
teacher = "@lab/teacher"
data = "@lab/train.jsonl"
updates = 1
rollout = {ROLLOUT}

[stages.eval]
model = "@train"
data = "@lab/eval.jsonl"
samples = 1
limit = 2
rollout = {{ max_tokens = 60, max_prompt_tokens = 64, max_turn_tokens = 36 }}

[stages.export]
model = "@train"
results = ["@eval"]
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "recipe.toml"
        path.write_text(f'out = "{tmp_path / "out"}"\n{text}')
        return path

    return write


def stages_of(path: Path, *flags: str) -> dict[str, ExperimentStage]:
    options: Any = parse_options("run", RunOptions, [str(path), *flags])
    return {stage.name: stage for stage in read_stages(options)}


# Reading


def test_a_reference_is_what_an_earlier_stage_writes(recipe: Callable[[str], Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    stages = stages_of(recipe(TINY + '[stages.mix]\ncommand = "data mix"\nfiles = ["@lab/train.jsonl", "@eval"]\n'))
    assert list(stages) == ["lab", "start", "train", "eval", "export", "mix"]
    assert stages["start"].content["model"] == str(out / "lab" / "student")
    assert stages["train"].content["student"] == str(out / "start")
    assert stages["export"].content["results"] == [str(out / "eval")]
    assert stages["mix"].out == out / "mix.jsonl"
    assert stages["mix"].content["files"] == [str(out / "lab" / "train.jsonl"), str(out / "eval")]


def test_a_stage_overrides_the_recipes_that_it_names(recipe: Callable[[str], Path], tmp_path: Path) -> None:
    for name, text in {"base": "batch = 7\nepochs = 2\n[learn]\nlr = 1e-3", "top": "epochs = 3"}.items():
        (tmp_path / f"{name}.toml").write_text(text)
    named = f'["{tmp_path / "base.toml"}", "{tmp_path / "top.toml"}"]'
    options: Any = stages_of(recipe(f'[stages.sft]\nrecipe = {named}\nmodel = "m"\ndata = "d.jsonl"\nbatch = 9'))[
        "sft"
    ].options()
    assert (options.batch, options.epochs, options.learn.lr) == (9, 3, 1e-3)
    assert options.out == tmp_path / "out" / "sft"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no stages"),
        ('[stages.sft]\nmodel = "@none"', "'@none' is not an earlier stage"),
        ('[stages.train]\nstudent = "@sft"\n[stages.sft]\nmodel = "m"', "'@sft' is not an earlier stage"),
        ('[stages.trian]\nstudent = "s"', "'trian' is not a command of a stage; did you mean 'train'"),
        ('[stages.sft]\nmodle = "m"', "stage sft: modle is not an option of `sod sft`; did you mean model"),
        ('[stages.sft]\nmodel = "m"\ndata = "d"\nbatch = 0', "stage sft: batch is 0. It must be"),
        ('[stages.sft]\nmodel = "m"', "`sod sft` needs"),
        ("[stages]\nsft = 3", "must be a table"),
        ('stages = "sft"', "stages is 'sft'"),
        ('[stages.sft]\ncommand = ["sft"]', "is not a command of a stage"),
        (
            '[stages.sft]\nmodel = "m"\ndata = "d"\n[stages.eval]\nmodel = "@sft/best"\ndata = ["e"]',
            "stage sft does not validate. Give it validate.data",
        ),
        ('[stages."../x"]\ncommand = "sft"', "also that of a folder"),
        ("[stage.sft]\nmodel = 'm'", "did you mean stages"),
    ],
)
def test_a_recipe_with_a_mistake_is_refused_in_words(text: str, words: str, recipe: Callable[[str], Path]) -> None:
    with pytest.raises(OptionError, match=words.replace("'", "['\"]?").replace(".", r"\.")):
        stages_of(recipe(text))


def test_a_budget_is_a_number_and_a_unit() -> None:
    assert [seconds_of(text) for text in ("90m", "10h", "2d", "1.5s")] == [5400, 36000, 172800, 1.5]
    for text in ("", "10", "h", "-1h", "nanh", "infd", "1 week"):
        with pytest.raises(OptionError, match="number and a unit"):
            seconds_of(text)


@pytest.mark.parametrize("path", sorted((ROOT / "recipes" / "run").glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_of_the_project_can_be_planned(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert sod(["run", str(path), "--out", str(tmp_path), "--dry-run"]) == 0
    out, err = capsys.readouterr()
    for number, name in enumerate(stages_of(path), 1):
        assert f"Stage {number}, {name}: sod" in out
    assert not err


def test_a_dry_run_hides_only_what_earlier_stages_write(
    recipe: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    text = '[stages.mix]\ncommand = "data mix"\nfiles = ["a.jsonl"]\nout = "data/mix.jsonl"\n'
    text += '[stages.sft]\nmodel = "nowhere/model"\ndata = "@mix"\nprocesses = 2\nvalidate = { stop_after = 2 }\n'
    assert sod(["run", str(recipe(text)), "--dry-run"]) == 2
    out = " ".join(capsys.readouterr().out.split())
    assert "a.jsonl does not exist. Correct its path." in out
    assert "Create data/mix.jsonl" not in out
    assert "validate.data" in out
    assert "torchrun" not in out


# Running


def test_stages_run_once_and_in_order(
    recipe: Callable[[str], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, out = recipe(TINY), tmp_path / "out"
    command = ["run", str(path)]
    assert sod([*command, "--budget", "1s"]) == 75
    assert "The budget of 1s is used up" in capfd.readouterr().err
    assert sod(command) == 0
    assert "stage 5 of 5, export: done in" in capfd.readouterr().out
    assert Run(out / "start").finished()
    assert Run(out / "train").finished()
    assert (out / "export" / "README.md").exists()
    assert "update" in (out / "report.html").read_text()
    assert list(json.loads((out / "done.json").read_text())) == ["lab", "start", "train", "eval", "export"]

    before = {file: file.stat().st_mtime_ns for file in (out / "train").rglob("*")}
    assert sod(command) == 0
    assert capfd.readouterr().out.count("done before") == 5
    assert {file: file.stat().st_mtime_ns for file in (out / "train").rglob("*")} == before

    for name, stage, shown in (
        ("lab/train.jsonl", "train", "lab/train.jsonl"),
        ("eval/results.json", "export", "eval"),
    ):
        content = (out / name).read_text()
        (out / name).write_text(content + "\n")
        for flags in ([], ["--dry-run"]):
            assert sod([*command, *flags]) == 2
            assert (
                f"error: {out / shown} has changed since stage {stage} was run. Restore it, or remove {out / stage} to run the "
                "stage again."
            ) in capfd.readouterr().err
        (out / name).write_text(content)
    assert sod(command) == 0

    (out / "start").rename(tmp_path / "moved")
    assert sod(command) == 2
    assert f"Stage start is not done, but stage train, which reads what it writes, is. Remove {out / 'train'}" in (
        capfd.readouterr().err
    )
    (tmp_path / "moved").rename(out / "start")

    changed = recipe(TINY.replace("steps = 2", "steps = 3"))
    assert sod(["run", str(changed)]) == 2
    assert "Stage start was run with other options (steps)" in capfd.readouterr().err


def test_a_stage_that_fails_ends_the_run_and_is_named(
    recipe: Callable[[str], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = recipe('[stages.sft]\nmodel = "none"\ndata = "none.jsonl"\n[stages.train]\nstudent = "@sft"\ndata = "d"\n')
    assert sod(["run", str(path)]) == 1
    out, err = capfd.readouterr()
    assert "Stage sft failed with status 2" in err
    assert "stage 2" not in out
    assert not (tmp_path / "out" / "done.json").exists()


# What fits into a budget


def begun_stage(recipe: Callable[[str], Path], seconds: list[float]) -> ExperimentStage:
    """Return the training stage of a recipe after an update of so many seconds each, of 10 updates."""
    stage = stages_of(recipe(TINY.replace("updates = 1", "updates = 10")))["train"]
    stage.out.mkdir(parents=True)
    (stage.out / "options.json").write_text(json.dumps({"updates": 10}))
    (stage.out / "environment.json").write_text(json.dumps({"updates": 10}))
    rows = [{"update": at, "seconds/update": each} for at, each in enumerate(seconds, 1)]
    (stage.out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return stage


def test_the_pace_of_a_stage_shows_what_fits_into_a_budget(recipe: Callable[[str], Path]) -> None:
    stage = begun_stage(recipe, [90.0, 20.0, 20.0, 20.0])
    forecast = Forecast.of(stage)
    assert forecast is not None
    assert (forecast.left, forecast.pace, forecast.seconds) == (6, 20.0, 120.0)
    assert forecast.against(time.monotonic() + 1000) == ""
    assert "about 3 fit" in forecast.against(time.monotonic() + 70)


def test_a_stage_of_two_updates_has_no_pace_yet(recipe: Callable[[str], Path]) -> None:
    assert Forecast.of(begun_stage(recipe, [90.0, 20.0])) is None


def test_a_dry_run_forecasts_a_stage_that_has_begun(
    recipe: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun_stage(recipe, [20.0] * 4)
    assert sod(["run", str(tmp_path / "recipe.toml"), "--dry-run", "--budget", "1m"]) == 0
    assert "6 updates are left and take about" in " ".join(capsys.readouterr().out.split())
