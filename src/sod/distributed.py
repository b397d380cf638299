"""Several processes at one run, as `torchrun` starts them: who does what, and no process waits for a dead one.

What must be known to all goes through `Ranks.gather` and `Ranks.first`, over the processors' network (gloo). Every process
says every few seconds that it lives. Where one fails, it leaves word why; the first process says so, and all end. Where one
falls silent, killed or hung, the others end as well, whatever they are waiting for.

torch is imported when there are processes to join, and not before.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from sod import interrupts
from sod.errors import OptionError, RankError, SodError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

T = TypeVar("T")

BEAT_SECONDS = 1.0
"""Between two signs of life."""
SILENT_SECONDS = 300.0
"""Without one, a process counts as hung. Long, because one that writes a large file may be unable to give any."""
DEAD_SECONDS = 5.0
"""Without one, once it is known that something is wrong."""
GRACE_SECONDS = 10.0
"""For the others to hear why a process fails, and for the first to end when another has."""
LAUNCHERS = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What a launcher must put into the environment beside WORLD_SIZE."""
SHOW_CURSOR = "\x1b[?25h" if sys.stderr is not None and sys.stderr.isatty() else ""
"""A progress bar has hidden it."""
COLLECTIVE = timedelta(days=7)
"""Rollouts differ in length, and whoever is ready waits. What ends a wait in vain is silence, not this."""


EVERY_PROCESS = {"every_process": True}
"""`extra` of a log record that the command line shows from each process, because only one of them may have the problem."""


def place() -> tuple[int, int]:
    """Which process this is, from 0, and of how many, by what `torchrun` has put into the environment."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


class Ranks:
    """The processes of a run, seen by one of them. Alone, every method is what its name says of one."""

    def __init__(self, rank: int = 0, count: int = 1, device: str = "cpu", group: "ProcessGroup | None" = None):
        self.rank, self.count = rank, count
        self._device, self._group = device, group

    @property
    def is_first(self) -> bool:
        """The one that writes to the run directory, and that the user sees."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.count == 1

    def share(self, things: Sequence[T]) -> list[T]:
        """Those that are this process's to deal with; every thing is somebody's."""
        return list(things[self.rank :: self.count])

    def gather(self, thing: T) -> list[T]:
        """What every process has, in their order."""
        if self.alone:
            return [thing]
        import torch.distributed as dist

        everyone: list[Any] = [None] * self.count
        dist.all_gather_object(everyone, thing, group=self._group)
        return everyone

    def first(self, function: Callable[[], T]) -> T:
        """The function's result, from the first process alone. Where it fails there, all end."""
        if self.alone:
            return function()
        import torch.distributed as dist

        result: list[Any] = [function() if self.is_first else None]
        dist.broadcast_object_list(result, src=0, group=self._group)
        return result[0]

    def meet(self) -> None:
        """Wait until all are here."""
        self.gather(None)

    def total(self, values: Sequence[float]) -> list[float]:
        """The sums of what all have, place by place."""
        return [sum(column) for column in zip(*self.gather(values), strict=True)]

    @property
    def group(self) -> "ProcessGroup | None":
        """For PyTorch's own functions that let processes agree."""
        return self._group

    def mesh(self) -> "DeviceMesh":
        """The devices of all processes, in a row, for what is divided among them."""
        from torch.distributed.device_mesh import init_device_mesh

        return init_device_mesh(self._device, (self.count,))


ALONE = Ranks()


@contextmanager
def joined(
    expected: int | None = None, device: str = "auto", *, silent_seconds: float = SILENT_SECONDS
) -> Iterator[Ranks]:
    """All processes of this run, as long as they work together. `device`: where their models live, as in network.device.

    Raises OptionError where their number is not `expected`, or more than there are GPUs; RankError, in words for the user,
    where another process has failed, died or fallen silent.
    """
    rank, count = place()
    if expected is not None and expected != count:
        raise OptionError(
            f"This run was to have {expected} processes, but has {count}. Start it with torchrun --nproc-per-node "
            f"{expected} -m sod ...; other launchers may start one process and not say so."
        )
    if count == 1:
        yield ALONE
        return
    if missing := [name for name in LAUNCHERS if name not in os.environ]:
        raise OptionError(
            f"WORLD_SIZE is {count}, but {', '.join(missing)} missing: start the processes with torchrun."
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
        os.environ.pop("TORCHELASTIC_USE_AGENT_STORE", None)  # what this process starts is no part of the run
        yield Ranks(rank, count, "cuda" if gpu else "cpu", group)
        dist.barrier(group=group)
    except BaseException as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # there is nothing left to interrupt but the message
        watch.explain(error)
    else:
        watch.end()
        dist.destroy_process_group()
        signal.signal(signal.SIGTERM, before)


class _Trouble(BaseException):
    """Another process has failed or fallen silent: this one ends, whatever it is doing."""


def _take_gpu(device: str) -> bool:
    """Work on a GPU of this process's own, the only one that what it starts will see. -> whether there are any"""
    import torch

    here, number = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["LOCAL_RANK"])
    gpus = 0 if device == "cpu" else torch.cuda.device_count()
    if device not in ("auto", "cpu", "cuda") or (device == "cuda" and not gpus):
        raise OptionError(f"network.device is {device}, but {here} processes take a GPU each: give cuda, cpu or auto.")
    if not gpus:
        return False
    if here > gpus:
        raise OptionError(
            f"{here} processes were started on this machine, but it has {gpus} GPUs. Start it with torchrun "
            f"--nproc-per-node {gpus}, or with --network.device cpu."
        )
    torch.cuda.init()  # which reads the variable for the last time
    torch.cuda.set_device(number)
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = names.split(",")[number] if names else str(number)
    return True


class _Watch(threading.Thread):
    """Gives signs of life, and looks for those of the others: the first process looks at all, every other at the first."""

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
        """Until somebody fails or falls silent; then the main thread has some seconds to end, whatever it is waiting for."""
        while not self._ended.wait(BEAT_SECONDS):
            if self._trouble(self._silent_seconds):
                break
        if self._ended.is_set():
            return
        os.kill(os.getpid(), signal.SIGTERM)
        if not self._ended.wait(GRACE_SECONDS):
            if self._speaks:
                print(f"{SHOW_CURSOR}error: {self._failed}", file=sys.stderr, flush=True)
            if os.getpgrp() == os.getpid():  # as torchrun starts it: what it has started itself ends, too
                os.killpg(0, signal.SIGTERM)
            os._exit(1)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGTERM: from `run` above, or from torchrun or a user, which end a run."""
        if self._failed:
            raise _Trouble
        interrupts.receive(number, frame)

    def end(self) -> None:
        self._ended.set()

    def explain(self, error: BaseException) -> NoReturn:
        """Raise what the user should read of an error: this process's own, or what is wrong with another."""
        # A broken connection may have been taken for something else on its way here.
        own = isinstance(error, SodError | KeyboardInterrupt) and not isinstance(error.__cause__, RuntimeError)
        if isinstance(error, interrupts.Terminated):  # by torchrun, perhaps because another process has died
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
        """Why this process fails, for the first one to say; and time for it to hear."""
        words = (
            str(error) if isinstance(error, SodError | interrupts.Terminated) else f"{type(error).__name__}: {error}"
        )
        deadline = time.monotonic() + GRACE_SECONDS
        with suppress(RuntimeError):  # the store is gone, and the first process with it
            if self._rank == 0:
                self._store.set("heard", "")  # it has words of its own
            self._store.set("failed", f"{self._named(self._rank)} failed: {words}")
            while not self._store.check(["heard"]) and time.monotonic() < deadline:
                time.sleep(BEAT_SECONDS / 2)

    def _trouble(self, silent_seconds: float) -> str:
        """What is wrong with another process, in words; nothing if nothing is."""
        with self._lock:
            if not self._failed:
                try:
                    self._failed = self._look(silent_seconds)
                except RuntimeError as error:
                    self._first_is_gone = True
                    self._failed = f"The processes cannot reach each other any more: {error}"
        return self._failed

    def _look(self, silent_seconds: float) -> str:
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
                    f"{self._named(other)} has died or hangs: no sign of life for {now - since:.0f} s. "
                    "`sod train` and `sod sft` continue with --resume; what it printed last may say why."
                )
        return ""

    @property
    def _speaks(self) -> bool:
        """Whether the user is to hear it from this process: from the first, or the next if it is the first that has died."""
        return self._rank == (1 if self._first_is_gone else 0)

    def _named(self, rank: int) -> str:
        return f"Process {rank} (of 0 to {self._count - 1})"
