"""Run one command in several processes, as `torchrun` starts them. A failed process ends the run promptly.

`Ranks.gather` and `Ranks.first` exchange Python objects over the CPU backend (gloo). Every process sends a heartbeat to the
store. A process that fails leaves its error there; the first process prints it, and all end. When the heartbeats of a process
stop, because it was killed or hangs, the others end as well, even while they wait in a collective operation.

torch is only imported to join several processes.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from sod.errors import OptionError, RankError, SodError
from sod.processes import interrupts

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

T = TypeVar("T")
K = TypeVar("K")

BEAT_SECONDS = 1.0
"""Seconds between two heartbeats."""
SILENT_SECONDS = 300.0
"""Seconds without a heartbeat after which a process counts as hung. Large, because writing a big file can block it."""
DEAD_SECONDS = 5.0
"""The same limit, once another error has been seen."""
GRACE_SECONDS = 10.0
"""Seconds for the first process to read the error of another, and for a process to end after the failure of another."""
LAUNCHERS = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables that a launcher must set in addition to WORLD_SIZE."""
SHOW_CURSOR = "\x1b[?25h" if sys.stderr is not None and sys.stderr.isatty() else ""
"""Escape sequence that shows the cursor again after a progress bar."""
COLLECTIVE = timedelta(days=7)
"""Timeout of collective operations. Large, because processes wait for the longest rollout; missing heartbeats end a run."""


EVERY_PROCESS = {"every_process": True}
"""`extra` of a log record that the command line shows from every process, because the problem may affect only one of them."""


def place() -> tuple[int, int]:
    """Return the rank of this process, from 0, and the number of processes, from the environment that `torchrun` sets."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


class Ranks:
    """The processes of a run, seen by one of them. With a single process, no method communicates."""

    def __init__(self, rank: int = 0, count: int = 1, device: str = "cpu", group: "ProcessGroup | None" = None):
        self.rank, self.count = rank, count
        self._device, self._group = device, group

    @property
    def is_first(self) -> bool:
        """Whether this process writes the run directory and prints."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.count == 1

    def share(self, things: Sequence[T]) -> list[T]:
        """Return this process's part of the things. The parts of all processes are disjoint and complete."""
        return list(things[self.rank :: self.count])

    def gather(self, thing: T) -> list[T]:
        """Return the things of all processes, in the order of their ranks."""
        if self.alone:
            return [thing]
        import torch.distributed as dist

        everyone: list[Any] = [None] * self.count
        dist.all_gather_object(everyone, thing, group=self._group)
        return everyone

    def union(self, mine: Mapping[K, T]) -> dict[K, T]:
        """Return the entries of all processes as one dictionary. Entries of later processes replace those of earlier ones."""
        return {key: thing for each in self.gather(mine) for key, thing in each.items()}

    def first(self, function: Callable[[], T]) -> T:
        """Return the result of the function, which only the first process runs. An error there ends all processes."""
        if self.alone:
            return function()
        import torch.distributed as dist

        result: list[Any] = [function() if self.is_first else None]
        dist.broadcast_object_list(result, src=0, group=self._group)
        return result[0]

    def meet(self) -> None:
        """Wait until all processes have called this."""
        self.gather(None)

    def total(self, values: Sequence[float]) -> list[float]:
        """Return the sums over all processes, element by element."""
        return [sum(column) for column in zip(*self.gather(values), strict=True)]

    @property
    def group(self) -> "ProcessGroup | None":
        """Process group for functions of PyTorch. None with a single process."""
        return self._group

    def mesh(self) -> "DeviceMesh":
        """Return a one-dimensional mesh of the devices of all processes, for sharded models."""
        from torch.distributed.device_mesh import init_device_mesh

        return init_device_mesh(self._device, (self.count,))


ALONE = Ranks()


@contextmanager
def joined(
    expected: int | None = None, device: str = "auto", *, silent_seconds: float = SILENT_SECONDS
) -> Iterator[Ranks]:
    """Join the processes of this run, and yield them. `device`: the device of the models, as in network.device.

    Raises OptionError if their number is not `expected`, or exceeds the number of GPUs. Raises RankError, with a message for the
    user, if another process has failed, died or hangs.
    """
    rank, count = place()
    if expected is not None and expected != count:
        raise OptionError(
            f"This run should have {expected} processes, but has {count}. Start it with torchrun --nproc-per-node "
            f"{expected} -m sod .... Other launchers may start a single process without an error."
        )
    if count == 1:
        yield ALONE
        return
    if missing := [name for name in LAUNCHERS if name not in os.environ]:
        raise OptionError(
            f"WORLD_SIZE is {count}, but {', '.join(missing)} missing. Start the processes with torchrun."
        )
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    gpu = _take_gpu(device)
    store: Any = next(rendezvous("env://", timeout=timedelta(seconds=silent_seconds)))[0]
    watch = _Watch(store.clone(), rank, count, silent_seconds)
    before = signal.signal(signal.SIGTERM, watch.receive)
    watch.start()
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpu else "gloo", store=store, rank=rank, world_size=count, timeout=COLLECTIVE
        )
        group: Any = dist.new_group(backend="gloo", timeout=COLLECTIVE)
        os.environ.pop("TORCHELASTIC_USE_AGENT_STORE", None)  # processes that this one starts are not part of the run
        yield Ranks(rank, count, "cuda" if gpu else "cpu", group)
        dist.barrier(group=group)
    except BaseException as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # only the error message remains to be written
        watch.explain(error)
    else:
        watch.end()
        dist.destroy_process_group()
        signal.signal(signal.SIGTERM, before)


class OtherFailed(BaseException):
    """Another process has failed or hangs, so this one ends, wherever it is. Its text is the error of the other process.

    `joined` converts it to RankError. Code within `joined` sees this class, and must end within `GRACE_SECONDS`.
    """


def _take_gpu(device: str) -> bool:
    """Select one GPU for this process, and make it the only visible one for child processes. -> whether there are GPUs"""
    import torch

    here, number = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["LOCAL_RANK"])
    gpus = 0 if device == "cpu" else torch.cuda.device_count()
    if device not in ("auto", "cpu", "cuda") or (device == "cuda" and not gpus):
        raise OptionError(
            f"network.device is {device}, but {here} processes need one GPU each. Pass cuda, cpu or auto."
        )
    if not gpus:
        return False
    if here > gpus:
        raise OptionError(
            f"{here} processes were started on this machine, but it has {gpus} GPUs. Start it with torchrun "
            f"--nproc-per-node {gpus}, or with --network.device cpu."
        )
    torch.cuda.init()  # the variable has no effect on this process afterwards
    torch.cuda.set_device(number)
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = names.split(",")[number] if names else str(number)
    return True


class _Watch(threading.Thread):
    """Sends heartbeats and checks those of others: the first process checks all, every other process checks the first."""

    def __init__(self, store: "Store", rank: int, count: int, silent_seconds: float):
        super().__init__(name="watch", daemon=True)
        self._store, self._rank, self._count = store, rank, count
        self._silent_seconds = silent_seconds
        now = time.monotonic()
        others = range(1, count) if rank == 0 else [0]
        self._seen: dict[int, tuple[int, float]] = dict.fromkeys(others, (0, now))
        self._failed = ""
        self._first_is_gone = False
        self._ended = threading.Event()
        self._lock = threading.Lock()

    def run(self) -> None:
        """Watch until a process fails or hangs, then end this process: the main thread first has `GRACE_SECONDS` to end."""
        while not self._ended.wait(BEAT_SECONDS):
            if self._trouble(self._silent_seconds):
                break
        if self._ended.is_set():
            return
        os.kill(os.getpid(), signal.SIGTERM)
        if not self._ended.wait(GRACE_SECONDS):
            if self._speaks:
                print(f"{SHOW_CURSOR}error: {self._failed}", file=sys.stderr, flush=True)
            if os.getpgrp() == os.getpid():  # started by torchrun: child processes end as well
                os.killpg(0, signal.SIGTERM)
            os._exit(1)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGTERM, which comes from `run` above, from torchrun or from a user."""
        if self._failed:
            raise OtherFailed(self._failed)
        interrupts.receive(number, frame)

    def end(self) -> None:
        self._ended.set()

    def explain(self, error: BaseException) -> NoReturn:
        """Raise the error that the user should read: this process's own, or that of another process."""
        # A broken connection may have been converted into another error.
        own = isinstance(error, SodError | KeyboardInterrupt) and not isinstance(error.__cause__, RuntimeError)
        if isinstance(error, interrupts.Terminated):  # torchrun sends it too, when another process has died
            own = error.agreed
        deadline = time.monotonic() + (0 if own else DEAD_SECONDS + 2 * BEAT_SECONDS)
        while not self._trouble(DEAD_SECONDS) and time.monotonic() < deadline:
            time.sleep(BEAT_SECONDS / 2)
        self._ended.set()
        if self._failed and not own:
            raise RankError(self._failed, unsaid=self._speaks and self._rank > 0) from error
        self._leave_word(error)
        raise error

    def _leave_word(self, error: BaseException) -> None:
        """Leave the error of this process in the store, and wait until the first process has read it."""
        words = (
            str(error) if isinstance(error, SodError | interrupts.Terminated) else f"{type(error).__name__}: {error}"
        )
        deadline = time.monotonic() + GRACE_SECONDS
        with suppress(RuntimeError):  # the first process has ended, and the store with it
            if self._rank == 0:
                self._store.set("heard", "")  # the first process prints its own error
            self._store.set("failed", f"{self._named(self._rank)} failed: {words}")
            while not self._store.check(["heard"]) and time.monotonic() < deadline:
                time.sleep(BEAT_SECONDS / 2)

    def _trouble(self, silent_seconds: float) -> str:
        """Return what is wrong with another process, as a sentence; empty if nothing is."""
        with self._lock:
            if not self._failed:
                try:
                    self._failed = self._look(silent_seconds)
                except RuntimeError as error:
                    self._first_is_gone = True
                    self._failed = f"The connection between the processes is lost: {error}"
        return self._failed

    def _look(self, silent_seconds: float) -> str:
        """Send a heartbeat, then check the store for errors and for missing heartbeats."""
        self._store.add(f"alive/{self._rank}", 1)
        if self._store.check(["failed"]):
            words = self._store.get("failed").decode()
            if self._rank == 0:
                self._store.set("heard", "")
            return words
        now = time.monotonic()
        for other, (beats, since) in self._seen.items():
            beat = self._store.add(f"alive/{other}", 0)
            if beat != beats:
                self._seen[other] = (beat, now)
            elif now - since > silent_seconds:
                self._first_is_gone = other == 0
                return (
                    f"{self._named(other)} has died or hangs: no heartbeat for {now - since:.0f} s. Its last output may show the "
                    "cause. `sod train` and `sod sft` continue with --resume."
                )
        return ""

    @property
    def _speaks(self) -> bool:
        """Whether this process prints the error: it is the first, or the second if the first has died."""
        return self._rank == (1 if self._first_is_gone else 0)

    def _named(self, rank: int) -> str:
        return f"Process {rank} (of 0 to {self._count - 1})"
