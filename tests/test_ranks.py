"""Several processes at one run: the same numbers as one, checkpoints for any number of them, and nobody waits for the dead."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from timings import untimed
from warm import DEADLINE, launch, ranks, run_warm, warm_python

from sod.batching import balanced_parts
from sod.config import TrainOptions
from sod.config.recipes import to_toml
from sod.errors import OptionError
from sod.lab import settings
from sod.lab.demonstrations import STUDENT_STYLE
from sod.lab.make import write_demonstrations
from sod.processes.distributed import Ranks
from sod.runs.directory import Run
from sod.runs.ends import End, read_end
from sod.training.on_policy import TrainingSession

UPDATE = {
    "rollout": settings.ROLLOUT | {"problems": 5, "group": 2, "max_tokens": 100},
    "learn": {"lr": 1e-3, "minibatches": 2, "microbatch_tokens": 300},
    "reward": settings.REWARD,
    "tool": settings.TOOL,
    "sandbox": {"workers": 2},
    "network": {"device": "cpu"},
    "updates": 2,
}
"""Five groups for two processes: one has more than the other."""
NUMBERS = ("rollout/", "steps/", "learn/", "stop/", "outcome/", "tools/", "pattern/")
"""Metrics that do not depend on who did what, or when."""
CLOSE = 1e-5
VLLM_ON_A_CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_HOST_IP": "127.0.0.1"}


@pytest.fixture(scope="module")
def student(trembling: Callable[[Path, float], None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student")
    trembling(folder, 0.1)
    return folder


@pytest.fixture(scope="module")
def recipe(
    student: Path, teacher: Path, problem_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Write a recipe of a training run, with changes to the above."""

    def write(out: Path, **changes: Any) -> Path:
        files = {"student": str(student), "teacher": str(teacher), "data": str(problem_file), "out": str(out)}
        options = json.loads(json.dumps(UPDATE | files))
        for name, value in changes.items():
            options[name] = options.get(name, {}) | value if isinstance(value, dict) else value
        path = tmp_path_factory.mktemp("recipe") / "train.toml"
        path.write_text(to_toml(options))
        return path

    return write


def torchrun(count: int, *arguments: str | Path) -> list[str]:
    """A command line that starts so many processes on this machine."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    return [*start, *map(str, arguments)]


@pytest.fixture(scope="module")
def warm_ranks() -> Iterator[dict[str, str]]:
    """Environment in which the real launcher starts its processes warm."""
    with warm_python() as python:
        yield os.environ | {"PYTHON_EXEC": str(python)}


def by_torchrun(*arguments: str | Path, env: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    """Run a command in two processes, started by the real launcher: cold, unless the environment is `warm_ranks`."""
    return subprocess.run(torchrun(2, *arguments), capture_output=True, text=True, timeout=DEADLINE, env=env)


def several(count: int, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """`sod` with so many processes, which start warm."""
    words = ["-m", "sod", *map(str, arguments)]
    return run_warm(words) if count == 1 else launch(count, words)


def trained(count: int, recipe: Path, out: Path, *arguments: str) -> Run:
    result = several(count, "train", recipe, "--processes", str(count), *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    return Run(out)


def numbers(run: Run) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if key.startswith(NUMBERS)} for row in run.metrics()]


def assert_close(run: Run, other: Run) -> None:
    """The same numbers in every update, the same trajectories, the same weights in the newest checkpoint."""
    ours, theirs = numbers(run), numbers(other)
    assert len(ours) == len(theirs) > 0
    for one, two in zip(ours, theirs, strict=True):
        assert one.keys() == two.keys()
        assert one == pytest.approx(two, abs=CLOSE, rel=CLOSE)
    for file in sorted((run.folder / "trajectories").iterdir()):
        assert tokens(file) == tokens(other.folder / "trajectories" / file.name)
    weights, expected = newest_weights(run), newest_weights(other)
    assert weights.keys() == expected.keys()
    assert all(torch.allclose(weights[name], expected[name], atol=CLOSE, rtol=0) for name in weights)


def tokens(file: Path) -> list[Any]:
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [(row["problem"], row["sample"], [piece["tokens"] for piece in row["pieces"]]) for row in rows]


def newest_weights(run: Run) -> dict[str, torch.Tensor]:
    newest = run.newest_checkpoint()
    assert newest is not None
    return load_file(newest[1] / "model.safetensors")


@pytest.fixture(scope="module")
def alone(recipe: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two updates by one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    return trained(1, recipe(out), out)


# The same as one process


def test_two_processes_with_a_sharded_teacher_learn_what_one_learns(
    alone: Run, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """The start is cold. The teacher is not sharded in the tests of resumed runs, which end at the same weights."""
    run = Run(tmp_path / "run")
    path = recipe(run.folder, score={"shard_teacher": True})
    result = by_torchrun("-m", "sod", "train", path, "--processes", "2")
    assert result.returncode == 0, result.stdout + result.stderr
    assert_close(run, alone)
    assert run.metrics()[0]["sandbox/programs"] == alone.metrics()[0]["sandbox/programs"]


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_run_goes_on_with_another_number_of_processes(
    alone: Run, recipe: Callable[..., Path], tmp_path: Path, before: int, after: int
) -> None:
    out = tmp_path / "run"
    trained(before, recipe(out, updates=1, save_every=1), out)
    run = trained(after, recipe(out, updates=2, save_every=1), out, "--resume")
    assert_close(run, alone)


def test_another_loss_and_advantage_give_two_processes_what_one_gets(
    recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """Minibatches whose divisor, sequence ratios and divergence are of rows that the processes share unevenly."""
    learn = {
        "loss": "gspo",
        "clip_low": 0.01,
        "clip_high": 0.01,
        "aggregation": "sequence_mean",
        "kl": 0.1,
        "entropy": 0.01,
    }
    changes = {"learn": learn, "algorithm": {"advantage": "verdict", "kl_in_reward": 0.01}}
    runs = [trained(count, recipe(tmp_path / str(count), **changes), tmp_path / str(count)) for count in (1, 2)]
    assert_close(*runs)
    assert runs[0].metrics()[-1]["learn/kl"] > 0


def test_in_bfloat16_and_with_checkpointing_two_processes_learn_as_one(
    recipe: Callable[..., Path], tmp_path: Path
) -> None:
    changes = {"updates": 1, "network": {"dtype": "bfloat16"}, "learn": {"checkpointing": True}}
    runs = [trained(count, recipe(tmp_path / str(count), **changes), tmp_path / str(count)) for count in (1, 2)]
    one, two = (run.metrics()[0] for run in runs)
    assert two["rollout/tokens_sampled"] == one["rollout/tokens_sampled"]
    assert two["learn/loss"] == pytest.approx(one["learn/loss"], abs=1e-3)
    assert two["learn/grad_norm"] == pytest.approx(one["learn/grad_norm"], rel=0.02)


@pytest.mark.parametrize(
    ("dtype", "reduce"), [("float32", "microbatch"), ("bfloat16", "microbatch"), ("float32", "step")]
)
def test_fine_tuning_by_two_processes_is_that_of_one(untrained: Path, tmp_path: Path, dtype: str, reduce: str) -> None:
    demonstrations = tmp_path / "demonstrations.jsonl"
    write_demonstrations(demonstrations, STUDENT_STYLE, 24, seed=0)
    shared = ["--model", untrained, "--data", demonstrations, "--batch", 8, "--save_every", 1]
    shared += [
        "--network.device",
        "cpu",
        "--network.dtype",
        dtype,
        "--learn.reduce",
        reduce,
        "--learn.lr",
        "1e-3",
        "--learn.microbatch_tokens",
        500,
    ]

    def tuned(count: int) -> Run:
        out = tmp_path / str(count)
        result = several(count, "sft", *shared, "--out", out, "--epochs", "2", "--processes", str(count))
        assert result.returncode == 0, result.stdout + result.stderr
        return Run(out)

    one, two = tuned(1), tuned(2)
    close = CLOSE if dtype == "float32" else 0.02
    for ours, expected in zip(two.metrics(), one.metrics(), strict=True):
        assert untimed(ours) == pytest.approx(untimed(expected), abs=close, rel=close)
    weights, expected = newest_weights(two), newest_weights(one)
    assert all(torch.allclose(weights[name], expected[name], atol=close) for name in expected)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed here: make test-vllm")
def test_two_processes_sample_with_a_vllm_each(
    recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in VLLM_ON_A_CPU.items():
        monkeypatch.setenv(name, value)
    changes = {"engine": {"name": "vllm", "memory_share": 0.1}, "updates": 2}
    for row in trained(2, recipe(tmp_path / "run", **changes), tmp_path / "run").metrics():
        assert row["sampler/gap_max"] < 1e-3
        assert row["rollout/dropped"] == 0


# Shares


@pytest.mark.parametrize("lengths", [[9, 1, 1, 1, 5, 5, 2], [3], [7, 7], [30, 1, 1], list(range(1, 40))])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_shares_hold_every_row_once_in_as_many_parts_for_each(lengths: list[int], count: int) -> None:
    lengths_B = torch.tensor(lengths)
    shares = balanced_parts(lengths_B, 10, count)
    rows = [row for share in shares for part in share for row in part.tolist()]
    assert sorted(rows) == list(range(len(lengths)))
    assert len({len(share) for share in shares}) == 1
    for part in (part for share in shares for part in share):
        assert len(part) <= 1 or lengths_B[part].sum() <= 10


def test_shares_have_about_as_many_tokens() -> None:
    lengths_B = torch.randint(100, 2000, (64,), generator=torch.Generator().manual_seed(0))
    shares = balanced_parts(lengths_B, 8000, 4)
    tokens = [sum(int(lengths_B[part].sum()) for part in share) for share in shares]
    assert max(tokens) < 1.02 * min(tokens)


# What goes wrong


def complaints(result: "subprocess.CompletedProcess[str]") -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith("error: ")]


def test_another_number_of_processes_than_expected_is_an_error(recipe: Callable[..., Path], tmp_path: Path) -> None:
    result = several(1, "train", recipe(tmp_path / "run"), "--processes", "2")
    assert result.returncode == 2
    assert "should have 2 processes, but has 1. Start it with torchrun --nproc-per-node 2" in result.stderr
    result = several(2, "train", recipe(tmp_path / "run"), "--processes", "3")
    assert complaints(result) == [
        "error: This run should have 3 processes, but has 2. Start it with torchrun --nproc-per-node 3 -m sod .... Other "
        "launchers may start a single process without an error."
    ]
    assert not (tmp_path / "run").exists()


def test_what_cannot_work_is_said_once_and_nothing_is_written(recipe: Callable[..., Path], tmp_path: Path) -> None:
    words = ["-m", "sod", "train", recipe(tmp_path / "run", data="/nowhere/problems.jsonl")]
    result = launch(2, words, grace_seconds=3)  # the second waits for the first, which has never come
    assert result.returncode != 0
    (complaint,) = complaints(result)
    assert "/nowhere/problems.jsonl" in complaint
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rollout": {"problems": 1}}, "rollout.problems is 1, too few for 2 processes"),
        ({"learn": {"lora_rank": 4}}, "learn.lora_rank is only supported with a single process, but 2 are"),
        (
            {"learn": {"optimizer": "adamw_8bit"}},
            "learn.optimizer = adamw_8bit is only supported with a single process",
        ),
        (
            {"engine": {"name": "vllm_server", "url": "http://127.0.0.1:9"}},
            "2 processes need a vLLM server each",
        ),
    ],
)
def test_options_of_one_process_are_refused_before_anything_is_loaded(
    teacher: Path, problem_file: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    files = {"student": "nowhere", "teacher": teacher, "data": problem_file, "out": tmp_path / "run"}
    options = TrainOptions.model_validate(files | UPDATE | changes)
    with pytest.raises(OptionError, match=words), TrainingSession.open(options, Ranks(0, 2)):
        pass


def test_commands_of_one_process_refuse_to_be_several(teacher: Path, problem_file: Path, tmp_path: Path) -> None:
    result = several(2, "eval", "--model", teacher, "--data", problem_file, "--out", tmp_path / "run")
    assert complaints(result) == [
        "error: `sod eval` is started by torchrun, but it runs in one process. Start it without torchrun."
    ]


SCRIPT = """
import os, signal, sys, time
from sod.errors import DataError, RankError, SodError
from sod.processes.distributed import joined

def fail(): raise DataError("the file is gone")
def crash(): return 1 / 0
def die(): os.kill(os.getpid(), signal.SIGKILL)
def hang(): os.kill(os.getpid(), signal.SIGSTOP)
def wait(): ranks.gather("whoever comes")
def work():
    while True: time.sleep(0.01)
def write(): ranks.first(fail)

try:
    with joined(2, "cpu", silent_seconds=4.0) as ranks:
        ranks.gather("all are here")
        {"0": FIRST, "1": SECOND}[str(ranks.rank)]()
except SodError as error:
    if ranks.rank == 0 or (isinstance(error, RankError) and error.unsaid):
        print(f"error: {error}", file=sys.stderr)
    sys.exit(1)
"""


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("wait", "fail", "Process 1 (of 0 to 1) failed: the file is gone"),
        ("work", "crash", "Process 1 (of 0 to 1) failed: ZeroDivisionError: division by zero"),
        ("work", "die", "Process 1 (of 0 to 1) has died or hangs: no heartbeat for"),
    ],
)
def test_when_another_process_fails_the_first_says_so_and_all_end(
    warm_ranks: dict[str, str], tmp_path: Path, first: str, second: str, words: str
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("FIRST", first).replace("SECOND", second))
    result = by_torchrun(script, env=warm_ranks) if second == "die" else launch(2, [script])
    assert result.returncode != 0
    (complaint,) = complaints(result)
    assert words in complaint


def test_when_the_first_process_dies_the_next_says_so(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("FIRST", "die").replace("SECOND", "wait"))
    result = launch(2, [script])
    assert result.returncode != 0
    (complaint,) = complaints(result)
    assert "Process 0 (of 0 to 1) has died or hangs" in complaint


def test_a_launcher_that_says_too_little_is_an_error(recipe: Callable[..., Path], tmp_path: Path) -> None:
    command = ["-m", "sod", "train", recipe(tmp_path / "run")]
    result = run_warm(command, env=os.environ | {"RANK": "0", "WORLD_SIZE": "2"})
    assert result.returncode == 2
    assert "MASTER_ADDR, MASTER_PORT missing. Start the processes with torchrun" in result.stderr


@pytest.mark.parametrize("count", [1, 2])
def test_a_disk_that_is_full_is_an_error_and_leaves_nothing_half_written(
    recipe: Callable[..., Path], tmp_path: Path, count: int
) -> None:
    """Full for files of more than 2 MB: the model is smaller, the optimiser's state is larger."""
    words = ["-m", "sod", "train", recipe(tmp_path / "run", updates=1)]
    result = run_warm(words, file_bytes=2000 << 10) if count == 1 else launch(2, words, file_bytes=1600 << 10)
    assert result.returncode != 0
    (complaint,) = complaints(result)
    assert "checkpoints/update-0001 cannot be written" in complaint
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("second", ["work", "write"])
def test_when_the_first_process_fails_it_says_so_and_all_end(
    warm_ranks: dict[str, str], tmp_path: Path, second: str
) -> None:
    script = tmp_path / "script.py"
    first = "write" if second == "write" else "fail"
    script.write_text(SCRIPT.replace("FIRST", first).replace("SECOND", second))
    result = by_torchrun(script, env=warm_ranks) if second == "write" else launch(2, [script])
    assert result.returncode != 0
    assert complaints(result) == ["error: the file is gone"]


ENDING = """
import sys, threading
from pathlib import Path
import sod.trackers.sending as sending
from sod.config import SftOptions
from sod.processes.distributed import joined
from sod.errors import DataError, SodError
from sod.runs.directory import Run
from sod.trackers.sending import tracked
from sod.trackers.tensorboard import TensorBoard

class Stuck(TensorBoard):
    def log(self, update, metrics): threading.Event().wait()

def fail(): raise DataError("the file is gone")
def wait(): ranks.gather("all who come")
def work():
    while True: threading.Event().wait(0.01)

sending.TRACKERS["tensorboard"] = f"{__name__}:Stuck"
sending.HURRIED_SECONDS = 0.1
options = SftOptions.model_validate({"model": "m", "data": "d", "out": Path("OUT"), "track": NAMES})
run = Run(options.out)
try:
    with joined(2, "cpu") as ranks, run.held(ranks):
        ranks.first(lambda: Run.open(options, options.out, data={}))
        with tracked(run, options, ranks) as tracking:
            tracking.log(1, {"learn/loss": 1.0})
            {"0": FIRST, "1": fail}[str(ranks.rank)]()
except SodError:
    sys.exit(1)
"""


@pytest.mark.parametrize("first", ["wait", "work"])
@pytest.mark.parametrize(
    "track",
    [
        (),
        pytest.param(
            ("tensorboard",),
            marks=pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason='pip install ".[track]"'),
        ),
    ],
)
def test_the_end_of_a_run_names_the_error_of_another_process_even_with_a_tracker_that_never_answers(
    tmp_path: Path, first: str, track: tuple[str, ...]
) -> None:
    script = tmp_path / "script.py"
    content = ENDING.replace("OUT", str(tmp_path / "run")).replace("NAMES", repr(track)).replace("FIRST", first)
    script.write_text(content)
    with ranks(2, [script]) as running:  # without torchrun, whose SIGTERM also ends the wait for a tracker
        result = running[0].wait()
    assert result.returncode != 0
    expected = End("failed", "RankError", "Process 1 (of 0 to 1) failed: the file is gone")
    assert read_end(tmp_path / "run") == expected, result.stderr


def test_when_another_process_hangs_the_first_says_so_and_ends(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("FIRST", "wait").replace("SECOND", "hang"))
    # Without torchrun, which takes half a minute to end a process that does not listen.
    with ranks(2, [script]) as running:
        first = running[0].wait()
    assert first.returncode == 1
    (complaint,) = complaints(first)
    assert "Process 1 (of 0 to 1) has died or hangs: no heartbeat for" in complaint


def test_a_run_of_which_a_process_was_killed_goes_on_as_if_nothing_had_happened(
    alone: Run, warm_ranks: dict[str, str], recipe: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    path = recipe(out, save_every=1, updates=200)
    with started(warm_ranks, path, lambda: list(out.glob("checkpoints/update-0001/manifest.json"))) as run:
        os.kill(second_of(run.pid), signal.SIGKILL)
        _, errors = run.communicate(timeout=DEADLINE)
    assert run.returncode != 0
    (complaint,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert "Process 1 (of 0 to 1) has died or hangs" in complaint
    assert "--resume" in complaint
    done = Run(out).newest_checkpoint()
    assert done is not None
    assert_close(trained(2, recipe(out, save_every=1, updates=max(2, done[0])), out, "--resume"), alone)


def test_processes_that_are_told_to_end_save_together_and_go_on_as_if_nothing_had_happened(
    alone: Run, warm_ranks: dict[str, str], recipe: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    path = recipe(out, save_every=1000, updates=1000)
    with started(warm_ranks, path, lambda: Run(out).metrics()) as run:
        run.terminate()
        _, errors = run.communicate(timeout=DEADLINE)
    assert run.returncode != 0
    complaints = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert complaints == [
        f"error: ended by SIGTERM; to continue: torchrun --nproc-per-node 2 -m sod train {path} --resume"
    ]
    done = (Run(out).newest_checkpoint() or (0,))[0]
    assert done == len(Run(out).metrics()) > 0
    assert not (out / "run.lock").exists()
    resumed = trained(1, recipe(out, updates=max(2, done)), out, "--resume")
    if done <= 2:  # on a machine that stalls, the run may be further
        assert_close(resumed, alone)


@contextmanager
def started(env: dict[str, str], recipe: Path, begun: Callable[[], object]) -> Iterator[subprocess.Popen[str]]:
    """`sod train` in two processes, once it has begun; killed at the end if it still runs."""
    command = torchrun(2, "-m", "sod", "train", recipe)
    run = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        while not begun():
            assert run.poll() is None
            time.sleep(0.05)
        yield run
    finally:
        run.kill()


def second_of(launcher: int) -> int:
    """The number of its second process."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return next(int(pid) for pid in children if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes())
