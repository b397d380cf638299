"""The README is short, and its commands work."""

import re
from pathlib import Path

import pytest
from shown import blocks, named, parsed

from sod.cli import run

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
SMALLER = {
    "lab make": ["--demonstrations", "32", "--train-problems", "64", "--eval-problems", "4"],
    "train": ["--updates", "1", "--rollout.problems", "2", "--rollout.group", "2"],
    "eval": ["--samples", "1"],
}
"""What the tests add to the README's commands, so that they take seconds."""


LINES = [arguments for block in blocks(TEXT) for arguments in block]
"""Every command of the README."""


def test_it_is_short() -> None:
    assert len(TEXT.splitlines()) < 120


def test_it_shows_commands() -> None:
    assert {named(line) for line in LINES} >= {"sft", "train", "eval", "report", "export", "compare", "plan", "doctor"}


@pytest.mark.parametrize("arguments", LINES, ids=" ".join)
def test_a_command_is_understood(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert parsed(arguments)


@pytest.mark.slow
def test_the_commands_of_the_lab_run_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (lab,) = [block for block in blocks(TEXT) if block[0][:2] == ["lab", "make"]]
    for arguments in lab:
        assert run([*arguments, *SMALLER.get(named(arguments), [])]) == 0, arguments
    assert (tmp_path / "runs/sod/report.html").exists()
    assert (tmp_path / "my-model/model.safetensors").exists()


def test_the_memory_plan_and_the_dry_run_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    for arguments in LINES:
        if named(arguments) == "plan" or "--dry-run" in arguments:
            assert run(arguments) == 0
    assert "GiB" in capsys.readouterr().out


@pytest.mark.parametrize(
    "page",
    ["README.md", "CONTRIBUTING.md", "examples/README.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))],
)
def test_links_lead_to_files(page: str) -> None:
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert ((ROOT / page).parent / target).exists(), target
