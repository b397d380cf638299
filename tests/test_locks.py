"""One process per directory: the others are refused at once, and a killed one is in nobody's way."""

import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from sod.errors import RunError
from sod.runs.locks import Lock

OTHER = """
import sys, time
from pathlib import Path
from sod.errors import RunError
from sod.runs.locks import Lock
try:
    Lock(Path(sys.argv[1])).take()
    print("taken", flush=True)
    time.sleep(float(sys.argv[2]))
except RunError as error:
    print(error)
"""


def other(folder: Path, seconds: float) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", OTHER, str(folder), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_second_process_is_told_who_holds_the_directory(tmp_path: Path) -> None:
    lock = Lock(tmp_path)
    lock.take()
    said, _ = other(tmp_path, 0).communicate()
    assert f"{tmp_path} is in use by process {os.getpid()} on " in said
    assert said.count("\n") == 1
    lock.release()
    assert list(tmp_path.iterdir()) == []
    assert other(tmp_path, 0).communicate()[0] == "taken\n"


def test_the_lock_of_a_killed_process_locks_nothing(tmp_path: Path) -> None:
    process = other(tmp_path, 100)
    assert process.stdout is not None
    assert process.stdout.readline() == "taken\n"
    with pytest.raises(RunError, match=f"in use by process {process.pid}"):
        Lock(tmp_path).take()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / "run.lock").exists()
    Lock(tmp_path).take()


def test_a_directory_is_removed_again_only_if_nothing_came_into_it(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "a" / "b")
    lock.take()
    lock.release()
    assert list(tmp_path.iterdir()) == []
    lock.take()
    (tmp_path / "a" / "b" / "options.json").touch()
    lock.release()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["options.json"]


@pytest.mark.parametrize("place", ["file", "file/run", "x" * 300, "a/" + "x" * 300])
def test_a_place_that_cannot_be_is_refused_in_words(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cannot be written: .*Choose another --out"):
        Lock(tmp_path / place).take()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def _contend(folder: Path, start: Barrier, rounds: int, counter: Path) -> None:
    start.wait()
    lock = Lock(folder)
    won = 0
    while won < rounds:
        try:
            lock.take()
        except RunError:
            continue
        count = int(counter.read_text() or 0)
        counter.write_text(str(count + 1))
        lock.release()
        won += 1


def test_of_processes_that_start_together_one_at_a_time_is_in(tmp_path: Path) -> None:
    """Each adds 1 to a number without care. None is lost, though the file of the lock comes and goes."""
    context = multiprocessing.get_context("fork")
    counter, start = tmp_path / "counter", context.Barrier(3)
    counter.touch()
    processes = [context.Process(target=_contend, args=(tmp_path / "run", start, 100, counter)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert counter.read_text() == "300"
