"""Files are whole, valid JSON, and a disk without room is named."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sod.errors import RunError
from sod.runs.directory import Run, checkpoints
from sod.runs.files import append_line, to_json, write_json, write_whole
from sod.runs.samples import SampleFile


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (math.nan, "null"),
        ([1.0, -math.inf, {"a": (math.nan,)}], '[1.0, null, {"a": [null]}]'),
        ({"a": 1, "b": "NaN", "c": None, "d": True}, '{"a": 1, "b": "NaN", "c": null, "d": true}'),
        ("\u2028\ud800", '"\u2028\ud800"'),
    ],
)
def test_what_is_written_as_json_is_json(value: Any, text: str) -> None:
    assert to_json(value) == text
    json.loads(text, parse_constant=pytest.fail)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": math.nan})
    assert json.loads(path.read_text()) == {"a": None}
    with pytest.raises(RunError, match=r"a\.json/b cannot be written: Not a directory"):
        write_whole(path / "b", "text")
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


ROOM = 256 * 1024


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk of its own with little room; it is mounted in this process's view alone where that can be."""
    place = tmp_path_factory.mktemp("disk")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture
def full_disk(small_disk: Path) -> Iterator[Path]:
    """The same, with 40 kB left."""
    filler = small_disk / "filler"
    filler.write_bytes(b"\0" * (ROOM - 40 * 1024))
    yield small_disk
    subprocess.run(["find", str(small_disk), "-mindepth", "1", "-delete"], check=True)


LARGE = "x" * 100_000


def room(disk: Path) -> int:
    about = os.statvfs(disk)
    return about.f_bavail * about.f_bsize


def test_a_full_disk_is_named_and_nothing_half_written_takes_the_last_room(full_disk: Path) -> None:
    run = Run(full_disk / "run")
    run.folder.mkdir()
    before = room(full_disk)
    full = rf"cannot be written: there is no space left on {full_disk}\. Free some, then continue\."
    with pytest.raises(RunError, match=r"options\.json " + full):
        write_json(run.folder / "options.json", LARGE)
    with pytest.raises(RunError, match=r"update-0001\.jsonl " + full):
        run.record(1, {}, [{"text": LARGE}])
    append_line(run.metrics_file, '{"update": 1}')
    with pytest.raises(RunError, match=r"metrics\.jsonl " + full):
        append_line(run.metrics_file, LARGE)
    assert run.metrics() == [{"update": 1}]
    with SampleFile.open(run.trajectory_file(0)) as samples:
        samples.hold()
        samples.append({"problem": "p", "sample": 0})
        with pytest.raises(RunError, match=r"update-0000\.jsonl " + full):
            samples.append({"problem": "p", "sample": 1, "text": LARGE})
        with pytest.raises(RunError, match=r"update-0000\.jsonl " + full):
            samples.replace([{"problem": "p", "sample": 1, "text": LARGE}])
        assert list(samples) == [("p", 0)]
    assert before - room(full_disk) <= 5 * 4096  # two directories, two short files, and a page
    assert not list(full_disk.rglob("*.partial"))


@pytest.mark.parametrize("how", ["torch.save", "safetensors", "distributed", "words"])
def test_a_full_disk_is_named_also_by_libraries_that_have_other_words_for_it(full_disk: Path, how: str) -> None:
    """PyTorch raises RuntimeError "[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"."""
    import torch
    from safetensors.torch import save_file
    from torch.distributed.checkpoint.state_dict_saver import save

    large = torch.zeros(50_000)

    def write(folder: Path) -> None:
        match how:
            case "torch.save":
                torch.save(large, folder / "a.pt")
            case "safetensors":
                save_file({"a": large}, folder / "a.safetensors")
            case "distributed":
                save({"a": large}, checkpoint_id=folder / "trainer", no_dist=True)
            case _:
                with (folder / "rest").open("wb", buffering=0) as file:
                    while file.write(b"\0" * 4096):
                        pass

    place = full_disk / "checkpoints" / "update-0001"
    before = room(full_disk)
    with pytest.raises(RunError, match=rf"update-0001 cannot be written: there is no space left on {full_disk}\."):
        checkpoints.write_checkpoint(place, write)
    assert list(place.parent.iterdir()) == []
    assert before - room(full_disk) <= 4096


def test_another_failure_is_not_called_a_full_disk(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")

    with pytest.raises(RunError, match=r"update-0001 cannot be written: \[enforce fail"):
        checkpoints.write_checkpoint(tmp_path / "update-0001", write)


def test_a_limit_for_files_is_named(tmp_path: Path) -> None:
    code = """
import resource, signal, sys
from pathlib import Path
from sod.errors import RunError
from sod.runs.files import append_line
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    append_line(Path(sys.argv[1]), "x" * 5000)
except RunError as error:
    print(error)
"""
    path = tmp_path / "metrics.jsonl"
    said = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True).stdout
    assert "it would exceed the file size limit" in said
    assert path.read_bytes() == b""
