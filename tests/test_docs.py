"""The documentation site builds without a broken link, and its reference of the commands is complete."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from shown import blocks, named, parsed

from sod import config
from sod.cli import COMMANDS
from sod.credit.systems import SYSTEMS

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


def test_the_page_of_the_rules_is_that_of_their_docstrings() -> None:
    spec = importlib.util.spec_from_file_location("rules_page", ROOT / "docs" / "rules.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (ROOT / "docs" / "rules.md").read_text(encoding="utf-8")
    assert page == module.page(), "python docs/rules.py writes it"
    assert all(f"`{name}`" in page for name in SYSTEMS)


PAGES = sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")])


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_are_understood(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for arguments in [line for block in blocks((ROOT / page).read_text(encoding="utf-8")) for line in block]:
        if any(word.startswith("runs/") and word.endswith(".toml") for word in arguments):
            assert not named(arguments).startswith("no command")  # a recipe that an earlier command has written
        else:
            assert parsed(arguments), arguments
