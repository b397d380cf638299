"""The benchmarks run, and say what a table needs. What they measure is not tested here."""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from warm import run_warm

pytestmark = pytest.mark.usefixtures("warm_commands")
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))
from measure import within  # noqa: E402

NAMES = (
    "weights",
    "logprobs",
    "learning",
    "laptop",
    "memory",
    "scaling",
    "rollout",
    "evaluation",
    "commands",
    "validation",
    "update",
    "processes",
    "tracking",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_runs_and_its_rows_make_a_table(name: str, tmp_path: Path) -> None:
    result = run(name, tmp_path / f"{name}.json", "--quick")
    for row in result["rows"]:
        assert row["spread"][0] <= row["ratio"] <= row["spread"][1]
        assert row.keys() >= {"what", "ours", "against"}
        assert ("target" in row) == ("met" in row)


def test_the_gpus_benchmark_runs_on_a_cpu(tmp_path: Path) -> None:
    result = run("gpu", tmp_path / "gpu.json", "--smoke", "--parts", "hf")
    assert result["failures"] == {}
    phases = result["phases"]["hf"]
    assert list(phases) == ["generate", "score, student", "score, teacher", "learn", "sync"]
    assert all(phase["seconds"][0] > 0 for phase in phases.values())
    assert phases["generate"]["tokens"] == 4 * 8 * 16
    assert phases["learn"]["tokens"] == 4 * (20 + 8 * 16 + 7 * 8)
    assert phases["learn"]["operations"] == 3 * phases["score, student"]["operations"]
    assert phases["learn"]["predicted_bytes"] > phases["generate"]["predicted_bytes"]
    assert result["mfu"]["hf"].keys() == phases.keys() - {"sync"}
    assert all(0 < share < 1 for share in result["mfu"]["hf"].values())


def test_a_part_of_the_gpus_benchmark_that_fails_or_is_late_is_noted_and_the_json_is_written(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    done = start("gpu", "--smoke", "--parts", "trl", "hf", "--seconds", "0.01", "--out", str(out))
    assert done.returncode == 1
    assert "TimeoutError" in json.loads(out.read_text())["failures"]["set-up"]
    failures: dict[str, str] = {}
    with within(60, "one", failures):
        raise ValueError("of some kind")
    with within(0.05, "two", failures):
        time.sleep(30)
    assert failures == {"one": "ValueError: of some kind", "two": "TimeoutError: not ended after 0 s"}


def test_the_gpus_benchmark_says_so_where_there_is_none() -> None:
    done = start("gpu")
    assert done.returncode == 2
    assert "there is no GPU here; --smoke" in done.stderr


def run(name: str, out: Path, *arguments: str) -> dict[str, Any]:
    """The JSON of a benchmark, whose rows also make a table."""
    done = start(name, *arguments, "--threads", "1", "--out", str(out))
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(out.read_text())
    assert result["benchmark"] == name
    assert result["rows"]
    assert all(math.isfinite(row["ratio"]) for row in result["rows"])  # on a busy machine it may be anything
    table = subprocess.run([sys.executable, BENCHMARKS / "table.py", out], capture_output=True, text=True, check=True)
    assert table.stdout.count("\n| ") == len(result["rows"])
    assert all(row["what"] in table.stdout for row in result["rows"])
    return result


def start(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A benchmark where no GPU is seen."""
    return run_warm([BENCHMARKS / f"{name}.py", *arguments], env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})


def test_make_bench_runs_all_of_them() -> None:
    makefile = (BENCHMARKS.parent / "Makefile").read_text()
    assert f"BENCHMARKS := {' '.join(NAMES)}\n" in makefile
