"""Every example is short, is listed, and runs."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from warm import run_warm

from sod.runs.directory import Run

EXAMPLES = Path(__file__).parents[1] / "examples"
FILES = sorted(file.name for file in EXAMPLES.iterdir() if file.suffix in (".py", ".sh"))
PACKAGES = ("trl", "verl")
"""Packages that some examples need, by the first word of their names. They are skipped where it is not installed."""
LONGER = {"sod_loop.py": 100}
"""Examples that may have more than 60 lines, and how many."""


@pytest.mark.parametrize("name", FILES)
def test_an_example_is_short(name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) < LONGER.get(name, 60)


@pytest.mark.parametrize("name", FILES)
def test_an_example_is_listed(name: str) -> None:
    assert f"| [{name}]({name}) |" in (EXAMPLES / "README.md").read_text()


@pytest.mark.parametrize("name", [name for name in FILES if name != "sod_loop.py"])
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    package = name.partition("_")[0]
    if package in PACKAGES and find_spec(package) is None:
        pytest.skip(f"{package} is not installed here")
    if package in PACKAGES or name.endswith(".sh"):
        words = command(EXAMPLES / name, package)
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    else:
        done = run_warm([EXAMPLES / name], cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_loop_in_one_screen_moves_the_student_towards_its_teacher(tmp_path: Path) -> None:
    done = run_warm([EXAMPLES / "sod_loop.py", "3"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    divergence = [float(value) for value in re.findall(r"divergence ([0-9.]+) nats", done.stdout)]
    assert len(divergence) == 3
    assert sum(divergence[1:]) / 2 < 0.75 * divergence[0]


def command(file: Path, package: str) -> list[str]:
    """Run it; what starts verl, or takes files for it, is only read."""
    if file.suffix == ".sh":
        return ["bash", "-n", str(file)]
    if package == "verl":
        return [sys.executable, "-c", f"import runpy; runpy.run_path({str(file)!r})"]
    return [sys.executable, str(file)]


def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    written = (EXAMPLES / "notebook.ipynb").read_text()
    assert "updates = 4" in written
    notebook = nbformat.reads(written.replace("updates = 4", "updates = 2"), as_version=4)
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    solved = outputs[-1]["data"]["text/plain"]
    assert re.fullmatch(r"\{'start': [0-9.]+, 'sod': [0-9.]+\}", solved)
    assert len(Run(tmp_path / "runs/notebook/sod").metrics()) == 2


def test_the_notebook_holds_no_outputs() -> None:
    cells = json.loads((EXAMPLES / "notebook.ipynb").read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells)
