"""The benchmarks run, and say what a table needs. What they measure is not tested here."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NAMES = ("weights", "logprobs", "learning", "memory", "scaling", "rollout", "evaluation", "update")


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_runs_and_its_rows_make_a_table(name: str, tmp_path: Path) -> None:
    out = tmp_path / f"{name}.json"
    command = [sys.executable, BENCHMARKS / f"{name}.py", "--quick", "--threads", "1", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(out.read_text())
    assert result["benchmark"] == name
    assert result["rows"]
    for row in result["rows"]:
        assert math.isfinite(row["ratio"])  # a ratio of times, or an exponent: on a busy machine it may be anything
        assert row["spread"][0] <= row["ratio"] <= row["spread"][1]
        assert row.keys() >= {"what", "ours", "against"}
        assert ("target" in row) == ("met" in row)
    table = subprocess.run([sys.executable, BENCHMARKS / "table.py", out], capture_output=True, text=True, check=True)
    assert table.stdout.count("\n| ") == len(result["rows"])
    assert all(row["what"] in table.stdout for row in result["rows"])


def test_make_bench_runs_all_of_them() -> None:
    makefile = (BENCHMARKS.parent / "Makefile").read_text()
    assert f"BENCHMARKS := {' '.join(NAMES)}\n" in makefile
