"""What happens in the process of one program: it is confined, it becomes the program, it ends as an interpreter does.

The process is a fork of the zygote, and nothing here may return into the zygote's loop.
"""

import ast
import atexit
import builtins
import contextlib
import io
import linecache
import math
import os
import random
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import NoReturn

from sod.sandbox.confinement import Walls, die_with

FILE_BYTES = 32 << 20
OPEN_FILES = 64
STACK_BYTES = 64 << 20
"""For the main thread: deep recursion through C, as by a cached function, needs more than the usual 8 MiB."""
SPARE_BYTES = 16 << 20
"""Memory that is set free when a program has used up its own, so that its traceback can be printed."""
NAME = "<program>"


@dataclass(frozen=True, slots=True)
class Job:
    """One program as the zygote sees it: limits and descriptors, neither code nor input."""

    seconds: float
    memory: int
    """Bytes of address space."""
    show_last_value: bool
    code: int
    stdin: int
    stdout: int
    stderr: int
    folder: int


def run_job(job: Job, walls: Walls | None, parent: int, give_up: Callable[[OSError], None]) -> NoReturn:
    """Run the program and exit. If it cannot be confined it is not run: `give_up` reports that."""
    exit_code = 1
    try:
        try:
            confine(job, walls, parent)
        except OSError as error:
            give_up(error)
        else:
            take_descriptors(job)
            exit_code = run_program(job.show_last_value)
    finally:
        os._exit(exit_code)


def confine(job: Job, walls: Walls | None, parent: int) -> None:
    """Own session and directory, default signals, resource limits; then the walls. All of it holds for good."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.fchdir(job.folder)
    os.environ["HOME"] = os.environ["TMPDIR"] = os.getcwd()
    cpu = cpu_seconds(job.seconds)
    limit(resource.RLIMIT_CPU, cpu, cpu + 1)  # SIGXCPU, then SIGKILL
    limit(resource.RLIMIT_FSIZE, FILE_BYTES, FILE_BYTES)
    limit(resource.RLIMIT_CORE, 0, 0)
    if sys.platform != "darwin":  # which refuses them
        limit(resource.RLIMIT_STACK, STACK_BYTES, STACK_BYTES)
        limit(resource.RLIMIT_DATA, job.memory, job.memory + SPARE_BYTES)
        limit(resource.RLIMIT_AS, job.memory, job.memory + SPARE_BYTES)
    if walls is not None:
        walls.close_files(job.folder)
        die_with(parent)
        walls.close_system_calls()


def cpu_seconds(seconds: float) -> int:
    """The limit on processor time that goes with a limit on wall-clock time: one that is met later."""
    return math.ceil(seconds) + 1


def limit(which: int, soft: int, hard: int) -> None:
    """Lower a resource limit; where the present one is lower still, keep that."""
    most = resource.getrlimit(which)[1]
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(which, (soft, hard))


def take_descriptors(job: Job) -> None:
    """The program's three streams become 0 to 2 and its code 3; every other descriptor is closed."""
    for target, fd in enumerate((job.stdin, job.stdout, job.stderr, job.code)):  # all above 4: the zygote's come first
        os.dup2(fd, target, inheritable=target < 3)
    os.closerange(4, 256)  # numbers are given lowest first, and the zygote holds a few dozen
    limit(resource.RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES)  # only now: the zygote's own could be more
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", errors="surrogatepass", closefd=False)
    # Line by line, so that a program that is killed keeps what it printed.
    sys.stdout = sys.__stdout__ = open(1, "w", 1, encoding="utf-8", closefd=False)
    sys.stderr = sys.__stderr__ = open(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)


def run_program(show_last_value: bool) -> int:
    """Execute the code in descriptor 3 as `__main__`; the exit code that the interpreter would give."""
    main = sys.modules["__main__"] = ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    sys.argv, sys.path[:0], sys.excepthook = [NAME], [""], traceback.print_exception
    seed()
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
        use_spare_memory()
        sys.excepthook(type(error), error, error.__traceback__ and error.__traceback__.tb_next)
        exit_code = 1
    finish(main)
    return exit_code


def seed() -> None:
    """The global generators of `random` and NumPy start anew for every program, and always the same."""
    random.seed(0)
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed(0)


def use_spare_memory() -> None:
    """Raise the limits on memory by what was kept back."""
    if sys.platform != "darwin":
        for which in (resource.RLIMIT_DATA, resource.RLIMIT_AS):
            hard = resource.getrlimit(which)[1]
            resource.setrlimit(which, (hard, hard))


def finish(main: ModuleType) -> None:
    """What the interpreter does at its end: wait for threads, call `atexit`, drop the globals, flush."""
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
    atexit._run_exitfuncs()
    for name in main.__dict__.keys() - {"__builtins__"}:
        main.__dict__[name] = None
    for stream in filter(None, (sys.stdout, sys.stderr, sys.__stdout__)):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed or replaced by the program
            stream.flush()
