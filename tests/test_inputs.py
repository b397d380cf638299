"""What options name must be there, before anything heavy is imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sod import config
from sod.cli import COMMANDS
from sod.cli import run as sod

PROBE = """
import sys
from sod.cli import run
status = run(sys.argv[1:])
print(status, *sorted({"torch", "transformers", "pyarrow", "datasets"} & sys.modules.keys()))
"""


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            "sft --model {here} --data data/open_agentrl_sft_3k.jsonl --out o",
            "`sod data fetch open_agentrl_sft_3k --out data`",
        ),
        ("sft --model none --data {file} --out o", "There is no directory none"),
        ("train --student {here} --teacher none --data {file} --out o", "There is no directory none"),
        (
            "train --student {here} --teacher {here} --data dapo_math_17k.parquet --out o",
            "`sod data fetch dapo_math_17k --out .`",
        ),
        ("train {recipe} --student {here} --teacher {here} --out o", "absent.jsonl does not exist"),
        ("eval --model {here} --data aime2024 mine.jsonl --out o", "mine.jsonl does not exist"),
        ("eval --model {here} --data aime2O24 --out o", "did you mean aime2024?"),
        ("eval --model {here} --data {file} --teacher none --out o", "There is no directory none"),
        ("rollout --model none --data {file} --out o", "There is no directory none"),
        ("compare --train {recipe} --measure {recipe} --methods sod", "absent.jsonl does not exist"),
        ("calibrate runs/none --teacher {here} --out o", "runs/none is not a directory"),
        ("sft --model {here} --data {here} --out o", "give a .jsonl or .parquet file"),
        ("sft --model {here} --data {recipe} --out o", "`sod data convert FILE` reads .json and .csv"),
        ("eval --model {here} --data {file} --chat.template none.jinja --out o", "there is no file 'none.jinja'"),
    ],
)
def test_what_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "recipe.toml").write_text('data = "absent.jsonl"\n')
    files = {"here": tmp_path, "file": tmp_path / "rows.jsonl", "recipe": tmp_path / "recipe.toml"}
    assert sod([part.format_map(files) for part in command.split()]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_it_is_named_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    command = ["eval", "--model", str(tmp_path), "--data", "aime2024", "none.jsonl", "--out", str(tmp_path / "o")]
    ended = subprocess.run([sys.executable, "-c", PROBE, *command], check=True, capture_output=True, text=True)
    assert ended.stdout == "2\n"
    assert "none.jsonl does not exist" in ended.stderr


DRY = {
    "sft": "sft --model {model} --data {talks} --out o",
    "train": "train --student {model} --teacher {model} --data {problems} --out o --rollout.problems 1",
    "eval": "eval --model {model} --data {problems} --out o",
    "rollout": "rollout --model {model} --data {problems} --out o",
    "compare": "compare --train {train} --measure {measure} --methods grpo --out o",
    "run": "run {stages} --out o",
    "export": "export {model} --out o",
}
RECIPES = {
    "train": 'student = "{model}"\nteacher = "{model}"\ndata = "{problems}"\nsandbox.backend = "unsafe_subprocess"\n{chat}\n'
    "rollout.problems = 1",
    "measure": 'data = "{problems}"\n{chat}',
    "stages": '[stages.mix]\ncommand = "data mix"\nfiles = ["{problems}"]\n[stages.eval]\nmodel = "{model}"\n'
    'data = "@mix"\n{chat}',
}


def test_every_command_with_a_dry_run_is_in_the_table() -> None:
    names = {command for command, (name, *_) in COMMANDS.items() if "dry_run" in getattr(config, name).model_fields}
    assert names - {"lab demo", "lab real"} == DRY.keys(), "those two only take files that they create"


@pytest.mark.parametrize("lost", ["", "model", "problems", "talks", "chat"])
@pytest.mark.parametrize("command", DRY)
def test_a_dry_run_without_an_input_has_the_status_of_a_refusal(
    command: str, lost: str, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("problems.jsonl").write_text('{"id": "1", "prompt": "1 + 1?", "answer": "2"}\n')
    says = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
    Path("talks.jsonl").write_text(json.dumps({"messages": says}) + "\n")
    files = {"model": str(teacher), "problems": "problems.jsonl", "talks": "talks.jsonl", "chat": ""}
    if lost == "chat":
        files["chat"] = 'chat.template = "none.jinja"'
    elif lost:
        files[lost] = "none" if lost == "model" else "none.jsonl"
    for name, text in RECIPES.items():
        Path(f"{name}.toml").write_text(text.format_map(files))
    words = DRY[command].format_map(files | {name: f"{name}.toml" for name in RECIPES}).split()
    if lost == "chat" and command in ("sft", "train", "eval", "rollout"):
        words += ["--chat.template", "none.jinja"]
    reads = {"sft": ("model", "talks", "chat"), "export": ("model",)}.get(command, ("model", "problems", "chat"))
    assert sod([*words, "--dry-run"]) == (2 if lost in reads else 0)
    assert not Path("o").exists()
