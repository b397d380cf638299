"""Every example is short, is listed, and runs."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
FILES = sorted(file.name for file in EXAMPLES.iterdir() if file.suffix in (".py", ".sh"))
PACKAGES = ("trl", "verl")
"""What some examples need, by how their names begin; they are skipped where it is not installed."""


@pytest.mark.parametrize("name", FILES)
def test_an_example_is_short(name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) < 60


@pytest.mark.parametrize("name", FILES)
def test_an_example_is_listed(name: str) -> None:
    assert f"| [{name}]({name}) |" in (EXAMPLES / "README.md").read_text()


@pytest.mark.parametrize("name", FILES)
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    package = name.partition("_")[0]
    if package in PACKAGES and find_spec(package) is None:
        pytest.skip(f"{package} is not installed here")
    done = subprocess.run(command(EXAMPLES / name, package), cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]


def command(file: Path, package: str) -> list[str]:
    """Run it; what starts verl, or takes files for it, is only read."""
    if file.suffix == ".sh":
        return ["bash", "-n", str(file)]
    if package == "verl":
        return [sys.executable, "-c", f"import runpy; runpy.run_path({str(file)!r})"]
    return [sys.executable, str(file)]
