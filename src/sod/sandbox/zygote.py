"""A warm Python process that forks one child for every program: a script started by `sod.sandbox.local`, stdlib only.

Its standard input is a stream socket to the sandbox, over which records of fixed size travel:

    REQUEST   RUN   with the descriptors of code, stdin, stdout, stderr and working directory: fork a child for them
              KILL  end the child of that number and its whole process group
    REPORT    STARTED (value: pid), ENDED and LATE (value: wait status), FAILED (value: errno; the program never ran)

What programs read and write never passes through this process, so a child finds nothing of its siblings in its memory.
Deadlines are kept here, so a busy trainer neither lengthens nor shortens a program's time. When the socket reaches its
end, or the trainer is gone, the zygote kills its children, removes the directory given as its argument, and exits.
"""

import ast
import atexit
import builtins
import contextlib
import errno
import gc
import importlib
import io
import linecache
import math
import os
import random
import resource
import select
import shutil
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from types import ModuleType
from typing import NoReturn

REQUEST = struct.Struct("<cQdQ?")  # kind, number, seconds, bytes of memory, whether to show the last value
REPORT = struct.Struct("<cQid")  # kind, number, value, seconds since the fork
RUN, KILL = b"R", b"K"
STARTED, ENDED, LATE, FAILED = b"S", b"E", b"L", b"F"

FILE_BYTES = 32 << 20
OPEN_FILES = 64
PARENT_CHECK_SECONDS = 5.0
NAME = "<program>"
WARM = "bisect collections copy datetime decimal fractions functools heapq itertools json operator re string typing"


@dataclass(slots=True)
class Child:
    number: int
    started: float
    deadline: float
    late: bool = False


class Zygote:
    """Forks, watches and reaps; one thread, one loop."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.children: dict[int, Child] = {}
        self.parent = os.getppid()
        self.wake, waker = os.pipe()
        os.set_blocking(waker, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> None:
        """Work until the trainer closes its end of the socket or is gone."""
        while os.getppid() == self.parent:
            waits = [child.deadline - time.monotonic() for child in self.children.values() if not child.late]
            wait = max(0.0, min([*waits, PARENT_CHECK_SECONDS]))
            ready, _, _ = select.select([self.channel, self.wake], [], [], wait)
            if self.wake in ready:
                os.read(self.wake, 4096)
            self.reap()  # before the deadlines: who ended in time was not late
            for pid, child in self.children.items():
                if not child.late and time.monotonic() >= child.deadline:
                    child.late = True
                    kill(pid)
            if self.channel in ready and not self.accept():
                return

    def accept(self) -> bool:
        """Take one request; False at the end of the stream."""
        data, fds, _, _ = socket.recv_fds(self.channel, REQUEST.size, 5, socket.MSG_WAITALL)
        if len(data) < REQUEST.size:
            return False
        kind, number, seconds, memory, show_last_value = REQUEST.unpack(data)
        if kind == RUN:
            self.fork(number, seconds, memory, show_last_value, fds)
        for pid, child in self.children.items():
            if kind == KILL and child.number == number:
                kill(pid)
        return True

    def fork(self, number: int, seconds: float, memory: int, show_last_value: bool, fds: list[int]) -> None:
        started = time.monotonic()
        try:
            pid = os.fork()
        except OSError as error:  # no more processes, or no memory for one
            report(self.channel, FAILED, number, error.errno or errno.EAGAIN)
        else:
            if pid == 0:
                be_child(self.channel, number, seconds, memory, show_last_value, fds)
            self.children[pid] = Child(number, started, started + seconds)
            report(self.channel, STARTED, number, pid)
        finally:
            for fd in fds:
                os.close(fd)

    def reap(self) -> None:
        while self.children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            kill_group(pid)
            child = self.children.pop(pid)
            kind = LATE if child.late and os.WIFSIGNALED(status) else ENDED
            report(self.channel, kind, child.number, status, time.monotonic() - child.started)

    def end_all(self) -> None:
        for pid in self.children:
            kill(pid)
        for pid in self.children:
            os.waitpid(pid, 0)


def report(channel: socket.socket, kind: bytes, number: int, value: int, seconds: float = 0.0) -> None:
    channel.sendall(REPORT.pack(kind, number, value, seconds))


def kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # none left; macOS: none but zombies
        os.killpg(pid, signal.SIGKILL)


def kill(pid: int) -> None:
    """End a child that is not yet reaped: its group, and itself in case it has no group of its own yet."""
    kill_group(pid)
    os.kill(pid, signal.SIGKILL)


def be_child(
    channel: socket.socket, number: int, seconds: float, memory: int, show_last_value: bool, fds: list[int]
) -> NoReturn:
    """In the forked child: confine, run the program, exit. Nothing may return into the zygote's loop."""
    exit_code = 1
    try:
        try:
            confine(seconds, memory, folder=fds[4])
        except OSError as error:
            report(channel, FAILED, number, error.errno or errno.EINVAL)
        else:
            channel.detach()  # it is descriptor 0, which the program's standard input now replaces
            take_descriptors(*fds[:4])
            exit_code = run_program(show_last_value)
    finally:
        os._exit(exit_code)


def confine(seconds: float, memory: int, folder: int) -> None:
    """Own session and directory, default signals, resource limits. Kernel hardening belongs at the end of this."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.fchdir(folder)
    os.environ["HOME"] = os.environ["TMPDIR"] = os.getcwd()
    cpu = math.ceil(seconds) + 1
    limit(resource.RLIMIT_CPU, cpu, cpu + 1)  # SIGXCPU, then SIGKILL
    limit(resource.RLIMIT_FSIZE, FILE_BYTES, FILE_BYTES)
    limit(resource.RLIMIT_CORE, 0, 0)
    if sys.platform != "darwin":  # which refuses it
        limit(resource.RLIMIT_AS, memory, memory)


def limit(which: int, soft: int, hard: int) -> None:
    """Lower a resource limit; where the present one is lower still, keep that."""
    most = resource.getrlimit(which)[1]
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(which, (soft, hard))


def take_descriptors(code: int, stdin: int, stdout: int, stderr: int) -> None:
    """The program's three streams become 0 to 2 and its code 3; every other descriptor is closed."""
    for target, fd in enumerate((stdin, stdout, stderr, code)):  # all above 4: the zygote's own come first
        os.dup2(fd, target, inheritable=target < 3)
    os.closerange(4, 256)  # numbers are given lowest first, and the zygote holds a dozen
    limit(resource.RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES)
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", errors="surrogatepass", closefd=False)
    # Line by line, so that a program that is killed keeps what it printed.
    sys.stdout = sys.__stdout__ = open(1, "w", 1, encoding="utf-8", closefd=False)
    sys.stderr = sys.__stderr__ = open(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)


def run_program(show_last_value: bool) -> int:
    """Execute the code in descriptor 3 as `__main__`; the exit code that the interpreter would give."""
    main = sys.modules["__main__"] = ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    sys.argv, sys.path[:0], sys.excepthook = [NAME], [""], traceback.print_exception
    random.seed(0)
    exit_code = 0
    try:
        with open(3, encoding="utf-8", errors="surrogatepass", newline="") as file:
            text = file.read().removeprefix("\ufeff")
        linecache.cache[NAME] = (len(text), None, io.StringIO(text, newline=None).readlines(), NAME)
        # Not ast.parse: its frame would stand in the traceback of a program with a syntax error.
        program: ast.Module = compile(text, NAME, "exec", ast.PyCF_ONLY_AST, dont_inherit=True)  # pyright: ignore
        last = (
            program.body.pop() if show_last_value and program.body and isinstance(program.body[-1], ast.Expr) else None
        )
        exec(compile(program, NAME, "exec", dont_inherit=True), main.__dict__)
        if last is not None:  # as at the interactive prompt: through sys.displayhook
            exec(compile(ast.Interactive([last]), NAME, "single", dont_inherit=True), main.__dict__)
    except SystemExit as stop:
        if stop.code is not None and not isinstance(stop.code, int):
            print(stop.code, file=sys.stderr)
        exit_code = (stop.code or 0) & 0xFF if isinstance(stop.code, int | None) else 1
    except BaseException as error:  # the boundary between the program and us: whatever it raised, it is shown
        sys.excepthook(type(error), error, error.__traceback__ and error.__traceback__.tb_next)
        exit_code = 1
    finish(main)
    return exit_code


def finish(main: ModuleType) -> None:
    """What the interpreter does at its end: wait for threads, call `atexit`, drop the globals, flush."""
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
    atexit._run_exitfuncs()
    for name in main.__dict__.keys() - {"__builtins__"}:
        main.__dict__[name] = None
    for stream in filter(None, (sys.stdout, sys.stderr, sys.__stdout__)):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed or replaced by the program
            stream.flush()


def remove(folder: str) -> None:
    """Delete a tree, also where a program has taken its own rights to a directory away."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # mostly: it is gone
        os.chmod(folder, 0o700)
        for parent, names, _ in os.walk(folder):
            for path in (os.path.join(parent, name) for name in names):
                if not os.path.islink(path):
                    os.chmod(path, 0o700)
        shutil.rmtree(folder, ignore_errors=True)


def main(root: str) -> None:
    for name in WARM.split():
        importlib.import_module(name)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # a trainer under nohup or in the background passes on its own
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.collect()
    gc.freeze()  # children then share these pages
    zygote = Zygote(socket.socket(fileno=0))
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        zygote.serve()
    zygote.end_all()
    remove(root)


if __name__ == "__main__":
    main(sys.argv[1])
