"""A screen that is gone: no traceback, and the command goes on or ends in words."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOD = [sys.executable, "-m", "sod"]

LONG = """
import sys
from sod.console import screen
screen.guard_output()
screen.report_failures()
for number in range(20_000):
    print("line", number)
print("words", file=sys.stderr)
"""


def without_reader(command: list[str], lines: int) -> "subprocess.CompletedProcess[str]":
    """Read some lines and close the pipe, as `| head` does."""
    reader, writer = os.pipe()
    process = subprocess.Popen(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    with open(reader, "rb") as pipe:
        for _ in range(lines):
            pipe.readline()
    _, errors = process.communicate(timeout=60)
    return subprocess.CompletedProcess(command, process.returncode, "", errors)


@pytest.mark.parametrize("lines", [0, 2])
def test_help_that_is_not_read_to_its_end_ends_quietly(lines: int) -> None:
    done = without_reader([*SOD, "train", "--help"], lines)
    assert (done.returncode, done.stderr) == (0, "")


def test_long_work_goes_on_without_its_screen_and_reports_it_once() -> None:
    done = without_reader([sys.executable, "-c", LONG], 1)
    assert done.returncode == 0
    assert done.stderr == "sod: the output is dropped (Broken pipe); the command continues.\nwords\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_output_that_is_all_a_command_is_for_is_not_lost_in_silence() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([*SOD, "--version"], stdout=full, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 1
        assert done.stderr == "error: the output cannot be written: No space left on device\n"
        done = subprocess.run([sys.executable, "-c", LONG], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0
    assert done.stderr.startswith("sod: the output is dropped (No space left on device)")


def test_a_name_in_another_encoding_than_the_screens_is_shown_escaped(tmp_path: Path) -> None:
    name = os.fsdecode(b"gr\xfc\xdfe.jsonl")
    (tmp_path / name).write_text('{"prompt": "1+1?", "answer": "2"}\n')
    done = subprocess.run([*SOD, "data", "check", name], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0
    assert r"gr\udcfc\udcdfe.jsonl: 1 rows, 0 invalid" in done.stdout


@pytest.mark.parametrize("closing", [">&-", "2>&-", ">&- 2>&-"])
def test_a_command_may_be_started_without_a_screen(closing: str) -> None:
    done = subprocess.run(["bash", "-c", f'exec "$@" {closing}', "bash", *SOD, "--version"], capture_output=True)
    assert done.returncode == 0


def test_a_working_directory_that_is_gone_is_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    command = ["bash", "-c", 'rmdir "$PWD"; exec "$@"', "bash", *SOD, "--version"]
    done = subprocess.run(command, cwd=gone, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: The working directory no longer exists. Change to another one.\n"


@pytest.mark.parametrize("command", [["report"], ["data", "check"], ["train"]])
def test_a_name_that_is_too_long_is_an_error_in_one_line(command: list[str]) -> None:
    name = "x" * 300 + (".toml" if command == ["train"] else ".jsonl")
    done = subprocess.run([*SOD, *command, name], capture_output=True, text=True)
    assert done.returncode in (1, 2)
    assert "File name too long" in done.stderr
    assert done.stderr.count("\n") == 1
