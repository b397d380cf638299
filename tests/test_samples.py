"""Samples on disk: what is written stays, whatever happens after it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sod.runs.samples import SampleFile


def row(problem: str, sample: int, **more: Any) -> dict[str, Any]:
    return {"problem": problem, "sample": sample, **more}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trajectories" / "update-0000.jsonl"


def test_a_sample_is_found_again_by_its_problem_and_number(path: Path) -> None:
    rows = [row("a", 1, text="ä\u2028\ud800"), row("a", 0, text="x"), row("b", 1)]
    with SampleFile.open(path) as samples:
        samples.hold()
        for each in rows:
            samples.append(each)
        assert [samples.read(key) for key in samples] == rows
    with SampleFile.open(path) as samples:
        assert list(samples) == [("a", 1), ("a", 0), ("b", 1)]
        assert samples.read(("a", 0)) == rows[1]
        assert ("b", 0) not in samples


def test_nothing_is_created_before_it_is_held(path: Path) -> None:
    with SampleFile.open(path) as samples:
        assert len(samples) == 0
    assert not path.parent.exists()


@pytest.mark.parametrize("cut", range(1, 25))
def test_a_line_cut_short_anywhere_is_forgotten_and_the_next_one_is_whole(path: Path, cut: int) -> None:
    with SampleFile.open(path) as samples:
        samples.hold()
        samples.append(row("a", 0))
        samples.append(row("b", 0))
    path.write_bytes(path.read_bytes()[:-cut])
    with SampleFile.open(path) as samples:
        assert list(samples) == [("a", 0)]
        samples.append(row("c", 0))
    assert [json.loads(line) for line in path.read_text().splitlines()] == [row("a", 0), row("c", 0)]


def test_a_damaged_line_is_left_out_and_said(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.parent.mkdir()
    path.write_text(json.dumps(row("a", 0)) + '\n{"problem": 1}\nnot JSON\n' + json.dumps(row("b", 0)) + "\n")
    with SampleFile.open(path) as samples:
        assert list(samples) == [("a", 0), ("b", 0)]
        assert samples.read(("b", 0)) == row("b", 0)
    assert "2 damaged lines are ignored" in capsys.readouterr().out


def test_of_two_lines_for_a_sample_the_last_counts(path: Path) -> None:
    with SampleFile.open(path) as samples:
        samples.hold()
        samples.append(row("a", 0, answer="1"))
        samples.append(row("a", 0, answer="2"))
    with SampleFile.open(path) as samples:
        assert samples.read(("a", 0))["answer"] == "2"


def test_all_are_replaced_at_once_or_not_at_all(path: Path) -> None:
    with SampleFile.open(path) as samples:
        samples.hold()
        for number in (2, 0, 1):
            samples.append(row("a", number))
        before = path.read_text()

        def broken() -> Any:
            yield samples.read(("a", 0))
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            samples.replace(broken())
        assert path.read_text() == before
        samples.replace(samples.read(key) for key in sorted(samples))
    assert [json.loads(line)["sample"] for line in path.read_text().splitlines()] == [0, 1, 2]


def test_what_a_killed_process_wrote_is_there(path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from sod.runs.samples import SampleFile
samples = SampleFile(Path(sys.argv[1]))
samples.hold()
for number in range(100):
    samples.append({"problem": "a", "sample": number})
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    with SampleFile.open(path) as samples:
        assert len(samples) == 100


@pytest.mark.parametrize("operation", ["append", "replace"])
def test_a_full_disk_is_told_in_words_and_loses_nothing(path: Path, operation: str) -> None:
    code = """
import resource, sys
from pathlib import Path
from sod.errors import RunError
from sod.runs.samples import SampleFile
samples = SampleFile(Path(sys.argv[1]))
samples.hold()
samples.append({"problem": "a", "sample": 0})
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
large = {"problem": "b", "sample": 0, "text": "x" * 5000}
try:
    samples.append(large) if sys.argv[2] == "append" else samples.replace([large])
except RunError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), operation], capture_output=True, text=True, check=True
    )
    assert "cannot be written" in done.stdout
    with SampleFile.open(path) as samples:
        assert list(samples) == [("a", 0)]
