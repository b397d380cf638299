"""`sod data fetch`: the real client, in a process of its own, against a small hub on this machine."""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from fake_hub import MEMBER, FakeHub
from reference import shared

from sod.datasets.published import SETS
from sod.datasets.rows import read_rows

NOBODY = "http://127.0.0.1:9"
GPQA = SETS["gpqa_diamond"]
NAMES = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")

OPEN = """
from pathlib import Path
from sod.datasets import open_set
found = open_set('gsm8k', data_dir=Path('sets'), prompts='paper')
print(len(found.problems), found.private, found.notes[0], found.source['repo'])
"""

Sod = Callable[..., subprocess.CompletedProcess[str]]


def invented() -> bytes:
    """198 questions in GPQA's columns."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["Record ID", "Question", *NAMES, "Subdomain", "High-level domain"])
    for i in range(198):
        writer.writerow([f"r{i}", f"What is {i} + {i},\nin units?", *range(2 * i, 2 * i + 4), "Sums", "Numbers"])
    return text.getvalue().encode()


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        yield hub


@pytest.fixture
def sod(hub: FakeHub, tmp_path: Path) -> Sod:
    """Run `sod` in a folder of its own, where this hub is the hub."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        hidden = {"HF_TOKEN", "HF_HUB_OFFLINE"}
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        environment |= hub.environment(tmp_path / "home", **variables)
        command = [sys.executable, "-m", "sod", *arguments]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    return run


def test_a_set_is_fetched_converted_and_told_of(hub: FakeHub, sod: Sod, tmp_path: Path) -> None:
    commit = hub.add(GPQA.repo, {GPQA.files[0].path: invented()}, kind="dataset", gated=True)
    done = sod("data", "fetch", "gpqa_diamond", "--revision", "main", HF_TOKEN=MEMBER)
    assert done.returncode == 0, done.stderr
    assert len(read_rows(tmp_path / "data/gpqa_diamond.jsonl")) == 198
    source = json.loads((tmp_path / "data/gpqa_diamond.source.json").read_text())
    assert (source["repo"], source["revision"], source["rows"]) == (GPQA.repo, commit, 198)
    assert "gpqa_diamond.jsonl" in (tmp_path / "data/.gitignore").read_text()


def test_a_gated_set_says_whose_terms_are_to_be_accepted(hub: FakeHub, sod: Sod, tmp_path: Path) -> None:
    hub.add(GPQA.repo, {GPQA.files[0].path: invented()}, kind="dataset", revision=GPQA.revision, gated=True)
    done = sod("data", "fetch", "gpqa_diamond")
    assert done.returncode == 2
    assert f"{hub.url}/datasets/{GPQA.repo}" in done.stderr
    assert "HF_TOKEN" in done.stderr
    assert not (tmp_path / "data").exists()


def test_another_file_at_the_pinned_revision_is_refused(hub: FakeHub, sod: Sod, tmp_path: Path) -> None:
    hub.add(GPQA.repo, {GPQA.files[0].path: invented()}, kind="dataset", revision=GPQA.revision)
    done = sod("data", "fetch", "gpqa_diamond")
    assert done.returncode == 2
    assert "gpqa_diamond.csv has the wrong hash" in done.stderr
    assert not (tmp_path / "data").exists()


def test_without_a_network_it_is_said_what_to_do(sod: Sod) -> None:
    done = sod("data", "fetch", "math500", HF_ENDPOINT=NOBODY)
    assert done.returncode == 2
    assert "sod data convert" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_benchmark_is_fetched_when_it_is_opened(hub: FakeHub, tmp_path: Path) -> None:
    gsm8k = SETS["gsm8k"]
    rows = pa.Table.from_pylist(read_rows(shared("data/gsm8k_test.jsonl")))
    parquet.write_table(rows, tmp_path / "raw.parquet")
    content = (tmp_path / "raw.parquet").read_bytes()
    hub.add(gsm8k.repo, {gsm8k.files[0].path: content}, kind="dataset", revision=gsm8k.revision)
    environment = os.environ | hub.environment(tmp_path / "home")
    command = [sys.executable, "-c", OPEN]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == f"1319 False 1319 problems {gsm8k.repo}", done.stderr
