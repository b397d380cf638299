"""The documentation site builds without a broken link, and its reference of the commands is complete."""

import subprocess
import sys
from pathlib import Path

import pytest

from sod import config
from sod.cli import COMMANDS

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    commands = (tmp_path / "site/reference/commands/index.html").read_text(encoding="utf-8")
    for command, (name, _, _) in COMMANDS.items():
        assert f">sod {command}<" in commands
        for option, field in getattr(config, name).model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, config.Options):
                assert f"--{option}.*" in commands
    assert "--learn.lora-rank" in commands
    api = (tmp_path / "site/reference/api/index.html").read_text(encoding="utf-8")
    assert 'id="sod.core.step_weights"' in api
