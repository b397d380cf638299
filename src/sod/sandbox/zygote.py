"""Preloaded Python process that forks one child per program or session. Started by `sod.sandbox.local`; standard library only.

Its standard input is a stream socket to the sandbox. Records of fixed size travel over it:

    REQUEST   RUN   with the descriptors of code, stdin, stdout, stderr and working directory: fork a child for them
              OPEN  the same for a session (`sod.sandbox.session_child`), with its socket in place of code
              CALL  let the session of that number run for so many seconds
              PAUSE stop the session until its next call
              KILL  kill the child of that number and its whole process group
    REPORT    READY (requests are now served immediately), STARTED (value: pid), FAILED (value: errno; the program
              never ran), PAUSED (the session has stopped), and for a process that has ended (value: wait status):
              ENDED, LATE (it exceeded its time), FULL (its directory exceeded a limit)

Input and output of programs never pass through this process, so a child finds nothing of other programs in its memory. This
process checks deadlines and directories, so a busy trainer does not change a program's time. When the socket is closed, or
the trainer is gone, the zygote kills its children, removes the root directory given as its argument, and exits.
"""

import contextlib
import errno
import gc
import importlib
import os
import resource
import select
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from sod.sandbox.child import Job, run_job, run_program
from sod.sandbox.confinement import Walls
from sod.sandbox.folders import hold, remove, sweep, threads, unlinked_usage, usage
from sod.sandbox.interpreter import forget_package
from sod.sandbox.libc import use_huge_pages
from sod.sandbox.session_child import run_session

REQUEST = struct.Struct("<cQdQ?QQ")
"""Kind, number, seconds, bytes of memory, show_last_value, limits on bytes and files in the directory."""
REPORT = struct.Struct("<cQiddd")
"""Kind, number, value, and for an ended program: seconds since the fork, CPU seconds, peak memory in MiB."""
RUN, OPEN, CALL, PAUSE, KILL, LOAD = b"R", b"O", b"C", b"P", b"K", b"L"
READY, STARTED, PAUSED, ENDED, LATE, FULL, FAILED = b"Y", b"S", b"P", b"E", b"L", b"D", b"F"
CONFINED, UNCONFINED = "confined", "unconfined"

PARENT_CHECK_SECONDS = 5.0
LOOK_SECONDS = 0.1
FEW_DESCRIPTORS = 256
"""More descriptors than the zygote holds without children."""
MOST_THREADS = 1000
"""Limit on the threads of one program. Threads count towards the process limit of the system or the container."""
THREAD_STACK_BYTES = 8 << 20
"""Stack of each thread. Fixed, because a trainer may run with an unlimited stack, which would exceed the address-space
limit of a program."""
OOM_SCORE = "/proc/self/oom_score_adj"
WARM = "bisect collections copy datetime decimal fractions functools heapq itertools json operator re statistics string"
WARM_IF_INSTALLED = "numpy numpy.random"
"""Preloaded packages, which forked children have already."""
LOADED_LATER = "sympy"
"""Loaded for the first program that needs it. It takes longer to load than all the rest, and few programs need it."""
STATM = "/proc/self/statm"


@dataclass(slots=True)
class Child:
    number: int
    started: float
    deadline: float
    disk_bytes: int
    disk_files: int
    folder: int
    """Descriptor of the working directory. Names of directories are not kept in memory, where a fork could find them."""
    memory_disk: int
    """Device of the files that hold code and input."""
    ended_for: bytes = b""
    """Why the zygote killed it: LATE, FULL, or ENDED for too many threads. Empty while it runs."""
    is_paused: bool = False
    """Whether it is a session between two calls. Its limits were checked when it stopped, and it cannot run."""

    @property
    def is_watched(self) -> bool:
        return not self.ended_for and not self.is_paused


class Zygote:
    """Forks, watches and reaps children, in one thread and one loop."""

    def __init__(self, channel: socket.socket, root: str, walls: Walls | None) -> None:
        self.channel = channel
        self.root = root
        self.walls = walls
        self.children: dict[int, Child] = {}
        self.next_look = 0.0
        self.most_descriptors = FEW_DESCRIPTORS
        self.later_bytes = 0
        """Address space of what was loaded later. It is added to the limits, so that every program has the same room."""
        self.parent = os.getppid()
        self.pid = os.getpid()
        self.wake, waker = os.pipe()
        os.set_blocking(waker, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> None:
        """Serve requests until the trainer closes its end of the socket or is gone."""
        self.report(READY)
        while os.getppid() == self.parent:
            ready, _, _ = select.select([self.channel, self.wake], [], [], self.patience())
            if self.wake in ready:
                os.read(self.wake, 4096)
            self.reap()  # before the deadlines: a program that ended in time is not late
            self.kill_late()
            self.kill_over_limits()
            if self.channel in ready and not self.accept():
                return

    def patience(self) -> float:
        """Return the seconds until the next deadline or check."""
        moments = [min(child.deadline, self.next_look) for child in self.children.values() if child.is_watched]
        return max(0.0, min([PARENT_CHECK_SECONDS, *(moment - time.monotonic() for moment in moments)]))

    def accept(self) -> bool:
        """Read and handle one request; return False at the end of the stream."""
        data, fds, _, _ = socket.recv_fds(self.channel, REQUEST.size, 5, socket.MSG_WAITALL)
        if len(data) < REQUEST.size:
            return False
        kind, number, seconds, memory, show_last_value, disk_bytes, disk_files = REQUEST.unpack(data)
        if kind in (RUN, OPEN):
            self.most_descriptors = max(self.most_descriptors, *fds)
            job = Job(seconds, memory + self.later_bytes, show_last_value, *fds, last=self.most_descriptors)
            self.fork(job, number, disk_bytes, disk_files, run_program if kind == RUN else run_session)
        elif kind == LOAD:
            before = address_space()
            load(LOADED_LATER)
            self.later_bytes += address_space() - before
        else:
            self.change(kind, number, seconds)
        return True

    def change(self, kind: bytes, number: int, seconds: float) -> None:
        """Kill, pause or continue the child of this number, if it still runs."""
        for pid, child in self.children.items():
            if child.number != number:
                continue
            if kind == KILL:
                kill(pid)
            elif kind == CALL:
                child.started, child.is_paused = time.monotonic(), False
                child.deadline = child.started + seconds
                signal_group(pid, signal.SIGCONT)
            elif kind == PAUSE and not child.ended_for:
                self.pause(pid, child)

    def pause(self, pid: int, child: Child) -> None:
        """Stop a session: its threads must not run between calls. One that holds too much is killed instead."""
        child.is_paused = True
        signal_group(pid, signal.SIGSTOP)
        if holds_too_much(child, unlinked_usage(pid, child.memory_disk)):
            child.ended_for = FULL
            kill(pid)
        else:
            self.report(PAUSED, child.number, seconds=time.monotonic() - child.started)

    def fork(self, job: Job, number: int, disk_bytes: int, disk_files: int, run: Callable[[Job], int]) -> None:
        """Start a child. Only the directory's descriptor stays open here, until the child's end."""
        started = time.monotonic()
        try:
            pid = os.fork()
        except OSError as error:  # no more processes, or no memory for one
            os.close(job.folder)
            self.report(FAILED, number, error.errno or errno.EAGAIN)
        else:
            if pid == 0:
                run_job(
                    job,
                    self.walls,
                    self.pid,
                    lambda error: self.report(FAILED, number, error.errno or errno.EINVAL),
                    run,
                )
            memory_disk = os.fstat(job.stdin).st_dev
            deadline = started + job.seconds
            self.children[pid] = Child(number, started, deadline, disk_bytes, disk_files, job.folder, memory_disk)
            self.report(STARTED, number, pid)
        for fd in (job.code, job.stdin, job.stdout, job.stderr):
            os.close(fd)

    def reap(self) -> None:
        while self.children:
            pid, status, spent = os.wait4(-1, os.WNOHANG)
            if pid == 0:
                return
            kill_group(pid)
            child = self.children.pop(pid)
            seconds = time.monotonic() - child.started
            kind = child.ended_for if child.ended_for and os.WIFSIGNALED(status) else ENDED
            if kind == ENDED and holds_too_much(child):
                kind = FULL
            os.close(child.folder)
            memory = spent.ru_maxrss / (1024 if sys.platform == "linux" else 1024 * 1024)  # macOS counts bytes
            self.report(kind, child.number, status, seconds, spent.ru_utime + spent.ru_stime, memory)

    def kill_late(self) -> None:
        for pid, child in self.children.items():
            if child.is_watched and time.monotonic() >= child.deadline:
                child.ended_for = LATE
                kill(pid)

    def kill_over_limits(self) -> None:
        """Ten times a second, measure the directories, count the threads, and kill children over a limit."""
        if time.monotonic() < self.next_look:
            return
        self.next_look = time.monotonic() + LOOK_SECONDS
        for pid, child in self.children.items():
            if not child.is_watched:
                continue
            if holds_too_much(child, unlinked_usage(pid, child.memory_disk)):
                child.ended_for = FULL
                kill(pid)
            elif threads(pid) > MOST_THREADS:
                child.ended_for = ENDED
                kill(pid)

    def end_all(self) -> None:
        for pid in self.children:
            kill(pid)
        for pid in self.children:
            os.waitpid(pid, 0)

    def report(
        self, kind: bytes, number: int = 0, value: int = 0, seconds: float = 0.0, cpu: float = 0.0, memory: float = 0.0
    ) -> None:
        self.channel.sendall(REPORT.pack(kind, number, value, seconds, cpu, memory))


def holds_too_much(child: Child, unlinked: int = 0) -> bool:
    size, count = usage(child.folder, child.disk_files)
    return count > child.disk_files or size + unlinked > child.disk_bytes


def kill_group(pid: int) -> None:
    signal_group(pid, signal.SIGKILL)


def signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # none left; macOS: only zombies left
        os.killpg(pid, number)


def kill(pid: int) -> None:
    """Kill a child that is not yet reaped: its group, and the child itself in case it has no own group yet."""
    kill_group(pid)
    os.kill(pid, signal.SIGKILL)


def warm_up() -> None:
    """Preload packages, seed NumPy's global generator for all children, and make children share the memory pages."""
    for name in WARM.split():
        importlib.import_module(name)
    threading.stack_size(THREAD_STACK_BYTES)
    load(WARM_IF_INSTALLED)
    if (numpy_random := sys.modules.get("numpy.random")) is not None:
        numpy_random.seed(0)


def load(packages: str) -> None:
    """Import the packages that are installed, and make children share their memory pages."""
    for name in packages.split():
        with contextlib.suppress(ImportError, OSError):  # OSError: no descriptor is left
            importlib.import_module(name)
    tempfile.tempdir = None  # a package may have set it; each program has its own
    gc.collect()
    gc.freeze()
    collapse_memory()


def address_space() -> int:
    """Return the bytes of this process's address space; 0 where the kernel does not report it."""
    try:
        with open(STATM) as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def collapse_memory() -> None:
    """Move the heap to huge pages: a fork copies one entry per page, and its end frees each."""
    with contextlib.suppress(OSError), open("/proc/self/maps") as maps:
        for line in maps.read().splitlines():
            addresses, rights, *rest = line.split()
            if rights == "rw-p" and rest[3:] in ([], ["[heap]"]):  # no file
                with contextlib.suppress(OSError):  # the kernel has no huge pages, or no memory for one
                    use_huge_pages(*(int(address, 16) for address in addresses.split("-")))


def default_signals() -> None:
    """Reset signals to their defaults: a trainer under nohup or in the background passes on ignored ones."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def prefer_oom_kill() -> None:
    """Make the kernel kill a program, or this process, before the trainer if the machine runs out of memory."""
    with contextlib.suppress(OSError), open(OOM_SCORE, "w") as file:
        file.write("1000")


def allow_files() -> None:
    """Raise the limit on open files to its maximum; every running program costs this process a few descriptors."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(ValueError, OSError):  # macOS allows less than it reports
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main(root: str, mode: str) -> None:
    """Run a zygote from start to exit. `mode` is CONFINED or UNCONFINED."""
    lock = hold(root)
    forget_package()
    default_signals()
    allow_files()
    prefer_oom_kill()
    warm_up()
    channel = socket.socket(fileno=0)
    walls = Walls() if mode == CONFINED else None
    sweep(os.path.dirname(root))
    zygote = Zygote(channel, root, walls)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        zygote.serve()
    zygote.end_all()
    remove(root)
    del lock  # the lock is held until here
