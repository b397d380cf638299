"""Results of evaluations, as `sod eval` writes them, for the tests of what reads them."""

from typing import Any

from sod.runs.results import BenchmarkResults, Numbers, Results


def benchmark(measured: Numbers, **more: Any) -> BenchmarkResults:
    fields: dict[str, Any] = {
        "measured": measured,
        "file": "data/aime2024.jsonl",
        "sha256": "0" * 64,
        "source": {},
        "notes": [],
        "private": False,
        "by": {},
        "judges": {},
        "ids": [],
    }
    return BenchmarkResults(**fields | more)


def results(benchmarks: dict[str, BenchmarkResults], /, **more: Any) -> Results:
    """Results on these benchmarks; their mean is the first one's unless given."""
    fields: dict[str, Any] = {
        "partial": False,
        "model": "runs/sod",
        "folder": "runs/sod/checkpoints/update-0002",
        "prompts": "clean",
        "samples": 32,
        "seed": 0,
        "temperature": 1.0,
        "top_p": 0.6,
        "max_turns": 16,
        "max_tokens": 20480,
        "judge": "exact",
        "faults": 0.0,
        "paper": None,
        "benchmarks": benchmarks,
        "mean": next(iter(benchmarks.values())).measured,
    }
    return Results(**fields | more)
