"""Results of evaluations, as `sod eval` writes them, for the tests of what reads them."""

import json
from pathlib import Path
from typing import Any

from sod.config import EvalOptions
from sod.datasets.rows import fingerprint_model
from sod.runs.results import BenchmarkResults, Numbers, Results
from sod.runs.resuming import describe_environment

MEASURED = {
    "problems": 30,
    "problems_lost": 0,
    "samples": 4,
    "avg": 0.25,
    "avg_sampling_se": 0.031,
    "avg_se": 0.052,
    "pass@1": 0.25,
    "pass@2": 0.375,
    "pass@4": 0.5,
    "maj": 0.3,
    "no_answer": 0.1,
    "truncated": 0.05,
    "rollout/ungraded": 1,
    "rollout/dropped": 0,
    "rollout/tokens": 812.0,
    "tools/calls": 2.5,
    "tools/errors": 0.75,
}


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


def write_evaluation(folder: Path, model: Path, *, partial: bool = False, network: str = "float32") -> None:
    """Write the run of an evaluation of a model, as `sod eval` leaves it."""
    folder.mkdir()
    options = EvalOptions.model_validate(
        {"model": model, "data": ["aime2024", "/home/somebody/secret/own.jsonl"], "out": folder, "samples": 4}
        | {"rollout": {"max_turns": 8}, "network": {"dtype": network}, "paper": "sod-0.6b"}
    )
    source = {"repo": "HuggingFaceH4/aime_2024", "revision": "2fe88a2f1091d5048c0f36abc874fb997b3dd99a"}
    aime = benchmark(MEASURED, sha256="ab" * 32, source=source, notes=["30 problems of 2024"])
    code = {key: value for key, value in MEASURED.items() if key != "maj"}
    secret = "/home/somebody/secret/own.jsonl"
    own = benchmark(code, sha256="ab" * 32, file=secret, notes=["public tests only"])
    settings = {"partial": partial, "model": str(model), "samples": 4, "max_turns": 8, "paper": "sod-0.6b"}
    found = results({"aime2024": aime, "own": own}, mean=code, **settings)
    facts = describe_environment() | {"data": {"data": "cd" * 32, "model": fingerprint_model(model)}}
    (folder / "options.json").write_text(options.model_dump_json())
    (folder / "environment.json").write_text(json.dumps(facts))
    (folder / "results.json").write_text(json.dumps(found.record()))
