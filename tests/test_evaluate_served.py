"""An evaluation from end to end, by the command line, of a served model: benchmarks and files, killed and continued."""

import json
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from reference import shared
from scripted_server import Model, right, serving
from transformers import PreTrainedTokenizerBase
from warm import Warm

from sod.cli import run
from sod.datasets import open_set
from sod.evaluation.results import read_evaluation
from sod.runs.directory import Run
from sod.runs.results import read_results
from sod.types import Problem

PUBLISHED = {
    "aime2024": "data/aime2024.jsonl",
    "aime2025": "data/aime2025.jsonl",
    "math500": "data/math500.jsonl",
    "livecodebench_v6": "data/lcb_v6_public_tests_only.jsonl",
}

Write = Callable[[Sequence[dict[str, Any]]], Path]


def command(names: Sequence[str], out: Path, url: str, tokenizer: Path, data_dir: Path, samples: int) -> list[str]:
    return [
        *("eval", "--model", str(tokenizer), "--data", *names, "--data-dir", str(data_dir), "--out", str(out)),
        *("--engine.name", "served", "--engine.url", url, "--samples", str(samples)),
        *("--rollout.max-prompt-tokens", "30000", "--rollout.concurrency", "32"),
    ]


def expected(problems: Sequence[Problem], samples: int) -> float:
    """avg@n, as the script says."""
    return sum(right(problem, sample) for problem in problems for sample in range(samples)) / len(problems) / samples


def kill_after(command: Sequence[str], file: Path, samples: int) -> int:
    """Run a command until so many samples are on disk, and kill it. -> how many there are"""
    process = Warm(["-m", "sod", *command])
    deadline = time.monotonic() + 240
    while (not file.exists() or file.read_bytes().count(b"\n") < samples) and time.monotonic() < deadline:
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.05)
    process.send(signal.SIGKILL)
    process.wait()
    return file.read_bytes().count(b"\n")


@pytest.mark.slow
def test_the_benchmarks_that_can_be_had_here(
    teacher: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    for name, file in PUBLISHED.items():
        assert run(["data", "convert", str(shared(file)), "--name", name, "--out", str(data / f"{name}.jsonl")]) == 0
    sets = {name: open_set(name, data_dir=data, prompts="clean") for name in PUBLISHED}
    problems = [problem for each in sets.values() for problem in each.problems]
    assert len(problems) == 735
    model, out = Model(tokenizer, problems), tmp_path / "run"
    with serving(model, tokenizer) as url:
        wanted = command(list(PUBLISHED), out, url, teacher, data, samples=2)
        there = kill_after(wanted, Run(out).trajectory_file(0), 300)
        before = model.requests
        capsys.readouterr()
        assert run(wanted) == 0
    said = capsys.readouterr().out
    assert f"{there} samples exist already; {1470 - there} are missing." in said
    assert model.requests - before == 2 * (1470 - there)  # a call and an answer each, and nothing twice
    results = read_evaluation(out).results
    for name in ("aime2024", "aime2025", "math500"):
        measured = results.benchmarks[name].measured
        assert measured["avg"] == pytest.approx(expected(sets[name].problems, 2))
        assert measured["no_answer"] == 0
        assert (measured["tools/calls"], measured["tools/errors"]) == (1, 0)
    code = results.benchmarks["livecodebench_v6"]
    assert "maj" not in code.measured
    assert set(code.by["difficulty"]) == {"easy", "medium", "hard"}
    assert any("public tests only" in note for note in code.notes)
    assert (results.mean["problems"], results.mean["rollout/dropped"]) == (735, 0)


def test_files_of_every_kind(
    teacher: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    echo = json.dumps({"inputs": ["5 6\n", "x\n"], "outputs": ["5", "x"]})
    rows = {
        "sums": [{"id": f"s{i}", "prompt": f"What is {i} + {i + 1}?", "answer": f"{2 * i + 1:03}"} for i in range(8)],
        "letters": [
            {"id": f"l{i}", "prompt": f"Which is number {i}?", "answer": "ABCD"[i % 4], "kind": "choice"}
            for i in range(8)
        ],
        "programs": [
            {"id": f"c{i}", "prompt": f"Echo the word, {i}.", "answer": echo, "kind": "code"} for i in range(4)
        ],
    }
    names = []
    for name, each in rows.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in each))
        names.append(str(path))
    sets = [open_set(name, data_dir=tmp_path, prompts="clean") for name in names]
    model, out = Model(tokenizer, [problem for each in sets for problem in each.problems]), tmp_path / "run"
    with serving(model, tokenizer) as url:
        wanted = command(names, out, url, teacher, tmp_path, samples=3)
        assert run([*wanted, "--judges", "reference"]) == 0
    results = read_evaluation(out).results
    averages = {name: each.measured["avg"] for name, each in results.benchmarks.items()}
    assert averages == {
        "sums": pytest.approx(expected(sets[0].problems, 3)),
        "letters": pytest.approx(expected(sets[1].problems, 3)),
        "programs": 1.0,
    }
    by_reference = {name: each.judges["reference"]["avg"] for name, each in results.benchmarks.items()}
    assert by_reference == averages | {"sums": 0.0}  # 3 is not 003 to it
    assert "| mean | 20 |" in capsys.readouterr().out


def test_what_is_not_to_be_published_is_marked_and_kept_out_of_git(
    teacher: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = "Record ID,Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3,Subdomain"
    rows = [f"r{i},Which is number {i}?,right {i},wrong a{i},wrong b{i},wrong c{i},Physics" for i in range(198)]
    raw = tmp_path / "gpqa_diamond.csv"
    raw.write_text("\n".join([head, *rows]) + "\n")
    made = tmp_path / "data" / "gpqa_diamond.jsonl"
    assert run(["data", "convert", str(raw), "--name", "gpqa_diamond", "--out", str(made)]) == 0
    questions = open_set("gpqa_diamond", data_dir=made.parent, prompts="clean").problems[:3]
    out = tmp_path / "run"
    with serving(Model(tokenizer, questions), tokenizer) as url:
        wanted = [*command(["gpqa_diamond"], out, url, teacher, made.parent, samples=2), "--limit", "3"]
        assert run(wanted) == 0
        assert "Which is number" not in capsys.readouterr().out
        trajectories = Run(out).trajectory_file(0)
        assert all(json.loads(line)["private"] for line in trajectories.read_text().splitlines())
        assert trajectories.name in trajectories.with_name(".gitignore").read_text()
        assert run(["rollout", *wanted[1:]]) == 2
    assert "ask not to publish" in capsys.readouterr().err


def test_a_server_that_vanishes_leaves_partial_results_and_the_rest_is_measured_when_it_is_back(
    teacher: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps({"id": i, "prompt": f"What is {i}?", "answer": i}) + "\n" for i in range(20)))
    sums = open_set(str(path), data_dir=tmp_path, prompts="clean")
    out = tmp_path / "run"

    class Vanishing(Model):
        def write(self, body: Any) -> list[int]:
            if self.requests > 40:
                raise ConnectionResetError
            return super().write(body)

    with serving(Vanishing(tokenizer, sums.problems), tokenizer) as url:
        wanted = command([str(path)], out, url, teacher, tmp_path, samples=4)
        assert run([*wanted, "--engine.patience", "1", "--rollout.concurrency", "4"]) == 75
    assert "run the same command to continue" in capsys.readouterr().err
    assert read_results(out).partial
    there = len(Run(out).trajectory_file(0).read_text().splitlines())
    assert 0 < there < 80
    with serving(Model(tokenizer, sums.problems), tokenizer) as url:
        assert run(command([str(path)], out, url, teacher, tmp_path, samples=4)) == 0
    assert f"{there} samples exist already" in capsys.readouterr().out
    assert read_evaluation(out).mean["avg"] == pytest.approx(expected(sums.problems, 4))
