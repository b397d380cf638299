"""`sod runs`: how real runs end, what their directories tell of it, and the table of them."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_report import ENVIRONMENT, EVAL, update, write_run
from warm import Warm

from sod.cli import run as sod
from sod.config import CalibrateOptions, EvalOptions, RunsOptions, SftOptions
from sod.errors import RunError
from sod.evaluation.calibration import calibrate
from sod.evaluation.evaluate import evaluate
from sod.lab import settings
from sod.lab.demonstrations import STUDENT_STYLE
from sod.lab.make import write_demonstrations
from sod.runs import locks
from sod.runs.directory import Run
from sod.runs.ends import END_FILE, End, read_end
from sod.runs.locks import LOCK_FILE, Lock, is_held
from sod.training.sft import sft
from sod.watch.listing import list_runs, size
from sod.watch.status import RunStatus, status_of

Command = Callable[[Path], list[str]]


def status(folder: Path) -> RunStatus:
    return status_of(folder, folder.name, time.time())


@pytest.fixture(scope="module")
def files(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `sod sft` reads."""
    demonstrations = tmp_path_factory.mktemp("demonstrations") / "demonstrations.jsonl"
    write_demonstrations(demonstrations, STUDENT_STYLE, 8, seed=0)
    return {"model": untrained, "data": demonstrations, "batch": 2, "network": {"device": "cpu"}}


@pytest.fixture
def endless(files: dict[str, Any]) -> Command:
    """A command line of a fine-tuning that does not end before it is killed."""

    def command(out: Path) -> list[str]:
        named = ["--model", files["model"], "--data", files["data"], "--out", out, "--batch", 2, "--steps", 100_000]
        return ["sft", *map(str, named), "--save-every", "100000", "--network.device", "cpu"]

    return command


@pytest.fixture
def running(endless: Command, tmp_path: Path) -> Iterator[tuple[Warm, Path]]:
    """A process that trains, after its second step, and its run."""
    folder = tmp_path / "run"
    process = Warm(["-m", "sod", *endless(folder)])
    deadline = time.monotonic() + 100
    while len(Run(folder).metrics()) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    yield process, folder
    process.send(signal.SIGKILL)


# How runs end


@pytest.mark.parametrize(
    ("number", "state", "words"),
    [
        (signal.SIGTERM, "interrupted", "interrupted (SIGTERM)"),
        (signal.SIGINT, "interrupted", "interrupted (SIGINT)"),
        (signal.SIGKILL, "crashed", "crashed"),
    ],
)
def test_a_run_that_is_stopped_tells_by_what(
    running: tuple[Warm, Path], number: signal.Signals, state: str, words: str
) -> None:
    process, folder = running
    alive = status(folder)
    assert (alive.state, alive.planned) == ("running", 100_000)
    assert alive.done >= 2
    assert alive.left is not None
    process.send(number)
    process.wait()
    ended = status(folder)
    assert (ended.state, ended.words, ended.left) == (state, words, None)
    assert ended.score is not None
    assert ended.score[0] == "loss"
    assert (folder / LOCK_FILE).exists() == (number == signal.SIGKILL)
    assert (folder / END_FILE).exists() == (number != signal.SIGKILL)


def test_a_resumed_run_forgets_how_it_ended_and_a_finished_one_says_so(files: dict[str, Any], tmp_path: Path) -> None:
    options = SftOptions.model_validate(files | {"out": tmp_path / "run", "steps": 2})
    sft(options)
    assert read_end(tmp_path / "run") == End("finished")
    assert (status(tmp_path / "run").state, status(tmp_path / "run").progress) == ("finished", "2/2")
    run = Run(tmp_path / "run")
    with run.held():
        Run.open(
            options, run.folder, data=json.loads((run.folder / "environment.json").read_text())["data"], resume=True
        )
        assert read_end(run.folder) is None
        assert status(run.folder).state == "running"
    assert read_end(run.folder) == End("finished")


def test_an_error_is_written_with_its_text(
    files: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = SftOptions.model_validate(files | {"out": tmp_path / "run", "steps": 3, "save_every": 1})
    monkeypatch.setattr("sod.training.sft.pace", lambda seconds, tokens: {"update": [seconds] * tokens}["no such key"])
    with pytest.raises(KeyError):
        sft(options)
    assert read_end(tmp_path / "run") == End("failed", "KeyError", "'no such key'")
    assert status(tmp_path / "run").words == "failed (KeyError)"


def test_a_command_that_is_refused_leaves_the_end_of_the_run_as_it_was(files: dict[str, Any], tmp_path: Path) -> None:
    options = SftOptions.model_validate(files | {"out": tmp_path / "run", "steps": 1})
    sft(options)
    (tmp_path / "run" / END_FILE).unlink()  # as if it had been killed
    with pytest.raises(RunError, match="already holds a run"):
        sft(options)
    assert not (tmp_path / "run" / END_FILE).exists()


def test_a_training_that_an_alarm_has_stopped_names_it(untrained: Path, problem_file: Path, tmp_path: Path) -> None:
    command = ["train", "--student", str(untrained), "--data", str(problem_file), "--out", str(tmp_path / "run")]
    command += ["--algorithm.name", "grpo", "--updates", "9", "--stop-on", "cold_start", "--network.device", "cpu"]
    command += [
        "--rollout.problems",
        "2",
        "--rollout.group",
        "2",
        "--rollout.max-tokens",
        "8",
        "--rollout.max-prompt-tokens",
        "64",
    ]
    assert sod(command) == 1
    ended = status(tmp_path / "run")
    assert (ended.state, ended.words, ended.progress) == ("alarm", "stopped by alarm cold_start", "3/9")
    assert ended.end is not None
    assert ended.end.message.startswith("Stopped after update 3 by the alarm cold_start; the model is in")


def test_an_evaluation_and_a_calibration_are_finished(teacher: Path, problem_file: Path, tmp_path: Path) -> None:
    measured, calibrated = tmp_path / "eval", tmp_path / "calibrate"
    few = settings.EVAL | {"samples": 1, "limit": 2, "model": teacher, "teacher": teacher, "data": str(problem_file)}
    results = evaluate(EvalOptions.model_validate(few | {"out": measured}))
    calibrate(CalibrateOptions(run=measured, teacher=teacher, out=calibrated, steps=2))
    assert (status(measured).state, status(measured).progress) == ("finished", "2 samples")
    assert status(measured).score == ("avg", results.mean["avg"])
    assert (status(calibrated).state, status(calibrated).command) == ("finished", "calibrate")


def test_a_message_of_another_process_is_an_end_only_if_it_is_whole(tmp_path: Path) -> None:
    for damaged in ("", "{", "[]", "{}", '{"how": "sung", "by": "", "message": ""}', "null", '{"how": []}'):
        (tmp_path / END_FILE).write_text(damaged)
        assert read_end(tmp_path) is None, damaged


# Runs of older versions, and copies: nothing is recorded


@pytest.mark.parametrize(
    ("files", "saved", "state"),
    [
        ({}, 8, "finished"),
        ({}, 6, "unfinished"),
        ({}, None, "unfinished"),
    ],
)
def test_without_an_end_the_newest_checkpoint_tells_whether_a_run_is_finished(
    files: dict[str, Any], saved: int | None, state: str, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", **files)
    if saved is not None:
        (run / "checkpoints" / f"update-{saved:04}").mkdir(parents=True)
    assert status(run).state == state


def test_a_directory_without_a_run_waits_and_a_locked_one_starts(tmp_path: Path) -> None:
    assert status(tmp_path / "none").state == "waiting"
    lock = Lock(tmp_path / "run")
    lock.take()
    assert status(tmp_path / "run").state == "starting"
    lock.release()
    assert status(tmp_path / "run").state == "waiting"


# The lock


def test_looking_at_a_lock_keeps_nobody_out(tmp_path: Path) -> None:
    """Another process looks again and again while this one takes the lock and releases it."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom sod.runs.locks import is_held\nprint(flush=True)\n"
        "while True: is_held(Path(sys.argv[1]))"
    )
    looking = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert looking.stdout is not None
        looking.stdout.readline()
        for _ in range(300):
            lock = Lock(tmp_path)
            lock.take()
            assert is_held(tmp_path)
            lock.release()
            assert is_held(tmp_path) is False
    finally:
        looking.kill()
        looking.communicate()


def test_a_process_that_looks_for_long_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looking = os.open(tmp_path / LOCK_FILE, os.O_RDONLY | os.O_CREAT)
    fcntl.flock(looking, fcntl.LOCK_SH)
    waits = iter(range(20))
    monkeypatch.setattr(locks.time, "sleep", lambda _: os.close(looking) if next(waits) == 19 else None)
    lock = Lock(tmp_path)
    assert lock.take() == ""
    assert next(waits, None) is None
    assert is_held(tmp_path)
    lock.release()


def test_the_lock_of_a_dead_process_is_held_by_nobody(tmp_path: Path) -> None:
    code = "import os, sys, pathlib, sod.runs.locks as locks; locks.Lock(pathlib.Path(sys.argv[1])).take(); os._exit(1)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert (tmp_path / LOCK_FILE).exists()
    assert is_held(tmp_path) is None


# The table


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """Runs at several depths, from old to new: one, deep/two, deep/below/three."""
    names = ("one", "deep/two", "deep/below/three")
    for age, name in zip((3000, 2000, 1000), names, strict=True):
        run = write_run(tmp_path / name, metrics=[update(n) for n in range(1, 4)], trajectories={1: []})
        for file in (*run.rglob("*"), run):
            os.utime(file, (time.time() - age,) * 2)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "data.jsonl").write_text("{}\n")
    return tmp_path


def rows(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return json.loads(capsys.readouterr().out)


def test_all_runs_are_listed_the_newest_first(several: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sod(["runs", str(several), "--json"]) == 0
    found = rows(capsys)
    assert [row["run"] for row in found] == [str(several / name) for name in ("deep/below/three", "deep/two", "one")]
    first = found[0]
    assert (first["state"], first["command"], first["algorithm"]) == ("unfinished", "train", "sod")
    assert (first["done"], first["planned"]) == (3, 8)
    assert (first["score_name"], first["score"]) == ("solved", pytest.approx(0.3))
    assert first["seconds_old"] == pytest.approx(1000, abs=100)
    run = several / "deep/below/three"
    assert first["bytes"] == sum(file.stat().st_size for file in run.rglob("*") if file.is_file())


def test_the_table_says_it_in_words(several: Path, capsys: pytest.CaptureFixture[str]) -> None:
    list_runs(RunsOptions(directory=several))
    shown = capsys.readouterr().out
    line = next(line for line in shown.splitlines() if "deep/two" in line)
    assert " ".join(line.split()).startswith("deep/two unfinished train sod 3/8 solved 30.0% 33m2")


def test_a_run_directory_itself_is_a_list_of_one(several: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sod(["runs", str(several / "one"), "--json"]) == 0
    assert [row["run"] for row in rows(capsys)] == [str(several / "one")]


def test_damaged_files_and_hostile_names_do_not_end_the_list(several: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (several / "one" / "options.json").write_text("{")
    (several / "one" / "metrics.jsonl").write_bytes(b'{"update": 1, "rollout/sol\n\xff\n[1]\n')
    (several / "one" / "environment.json").write_text("[]")
    (several / "deep" / "two").rename(several / "deep" / "two\x1b[31m\n")
    list_runs(RunsOptions(directory=several))
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    name = next(line for line in shown.splitlines() if "command" in line).index("state")  # the width of the names
    assert "deep/two\\x1b[31m\\n" in "".join(line[:name].strip() for line in shown.splitlines())
    assert "one" in shown


def test_an_evaluation_shows_its_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", options=EVAL, environment=ENVIRONMENT, metrics=[], trajectories={0: [{}, {}, {}]})
    with (run / "trajectories" / "update-0000.jsonl").open("a") as file:
        file.write('{"half')
    assert sod(["runs", str(tmp_path), "--json"]) == 0
    assert [(row["command"], row["done"], row["planned"]) for row in rows(capsys)] == [("eval", 3, None)]


def test_no_runs_and_no_directory_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sod(["runs", str(tmp_path)]) == 0
    assert "There is no run below" in capsys.readouterr().out
    assert sod(["runs", str(tmp_path / "none")]) == 2
    assert "is not a directory. Give the directory" in capsys.readouterr().err


def test_a_size_has_a_unit() -> None:
    assert [size(count) for count in (0, 999, 1000, 5_600_000, 7 * 10**12)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "5.6 MB",
        "7000.0 GB",
    ]
