"""What options name must be there, before anything heavy is imported."""

import subprocess
import sys
from pathlib import Path

import pytest

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
