"""Python commands in processes that start warm: forked from a server that has imported PyTorch, Transformers and sod.

Starting Python and importing these takes several seconds of a processor; a fork takes none. The process is otherwise like any
other: it has its own environment, folder, output, signals and exit status. A test about the start itself, or about a variable
that a package reads when it is imported, uses `subprocess` instead.
"""

import multiprocessing
import multiprocessing.connection
import os
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch.distributed import TCPStore

DEADLINE = 900.0
"""Seconds in which a command must end here, however slow the machine."""
LAUNCHER_SECONDS = 30.0
"""Seconds between SIGTERM and SIGKILL for processes that remain when another has failed, as in torchrun."""
HEAD_START = 3.0
"""Seconds before this SIGTERM, in which the other processes can report the same failure."""
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["sod.training.on_policy", "sod.training.sft", "sod.evaluation.evaluate", "torch.distributed.device_mesh"]
)


class Warm:
    """A running `python ARGUMENTS`, where the arguments are `-m MODULE ...`, `-c CODE ...` or `SCRIPT ...`."""

    def __init__(
        self,
        arguments: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        file_bytes: int | None = None,
        session: bool = False,
    ):
        """`file_bytes` limits the size of files that the process writes; `session` makes it the leader of a session."""
        self.args = [str(argument) for argument in arguments]
        self._folder = Path(tempfile.mkdtemp())
        self._files = [self._folder / name for name in ("stdout", "stderr")]
        for file in self._files:
            file.touch()
        given = (self.args, dict(os.environ if env is None else env), str(cwd or Path.cwd()), file_bytes, session)
        self._process = CONTEXT.Process(target=_execute, args=([str(file) for file in self._files], *given))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Return the exit status: negative if a signal ended the process, None if it runs."""
        return self._process.exitcode

    @property
    def sentinel(self) -> int:
        """Descriptor that becomes readable at the end."""
        return self._process.sentinel

    def send(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self, seconds: float = DEADLINE) -> "subprocess.CompletedProcess[str]":
        """Wait for the end and return status and output. Raises TimeoutExpired, after SIGKILL."""
        self._process.join(seconds)
        if self.poll() is None:
            self.send(signal.SIGKILL)
            self._process.join()
            raise subprocess.TimeoutExpired(self.args, seconds, *(file.read_bytes() for file in self._files))
        stdout, stderr = (file.read_text() for file in self._files)
        shutil.rmtree(self._folder)
        status = self.poll()
        assert status is not None
        return subprocess.CompletedProcess(self.args, status, stdout, stderr)


def _execute(
    files: Sequence[str],
    arguments: list[str],
    env: dict[str, str],
    cwd: str,
    file_bytes: int | None,
    session: bool,
) -> None:
    """Become `python ARGUMENTS`."""
    for number, file in enumerate(files, start=1):
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    if session:
        os.setsid()
    if file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    first, *rest = arguments
    if first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(rest[0], {"__name__": "__main__"})
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(first).parent))
        runpy.run_path(first, run_name="__main__")


def run_warm(
    arguments: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    file_bytes: int | None = None,
) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end, as `subprocess.run` with `capture_output` and `text`."""
    return Warm(arguments, env=env, cwd=cwd, file_bytes=file_bytes).wait()


@contextmanager
def ranks(count: int, arguments: Sequence[str | Path], *, file_bytes: int | None = None) -> Iterator[list[Warm]]:
    """Start a command in so many processes, with the store and the variables that torchrun gives them; kill what is left."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = os.environ | {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    running = [
        Warm(arguments, env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, file_bytes=file_bytes, session=True)
        for rank in range(count)
    ]
    try:
        yield running
    finally:
        for each in running:
            each.send(signal.SIGKILL)


def launch(
    count: int,
    arguments: Sequence[str | Path],
    *,
    file_bytes: int | None = None,
    grace_seconds: float = LAUNCHER_SECONDS,
) -> "subprocess.CompletedProcess[str]":
    """Run a command in so many processes as torchrun does. -> the first status that is not 0; the output of all

    When one fails, the others get SIGTERM, and SIGKILL if they have not ended after `grace_seconds`.
    """
    with ranks(count, arguments, file_bytes=file_bytes) as running:
        deadline, told = time.monotonic() + DEADLINE, False
        while None in (statuses := [each.poll() for each in running]):
            if not told and any(statuses):
                told, deadline = True, time.monotonic() + grace_seconds
                time.sleep(HEAD_START)  # forked processes fail within milliseconds of each other
                for each in running:
                    each.send(signal.SIGTERM)
            if time.monotonic() > deadline:
                for each in running:
                    each.send(signal.SIGKILL)
            multiprocessing.connection.wait([each.sentinel for each in running if each.poll() is None], timeout=0.5)
        done = [each.wait() for each in running]
    status = next((each.returncode for each in done if each.returncode), 0)
    return subprocess.CompletedProcess(
        done[0].args, status, "".join(each.stdout for each in done), "".join(each.stderr for each in done)
    )
