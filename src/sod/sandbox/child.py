"""Code that runs in the process of one program: confine it, run the program, exit as an interpreter does.

The process is a fork of the zygote. Nothing here may return into the zygote's loop.
"""

import ast
import atexit
import builtins
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
from typing import NoReturn, TextIO

from sod.sandbox.confinement import Walls, die_with

FILE_BYTES = 32 << 20
OPEN_FILES = 64
STACK_BYTES = 64 << 20
"""Stack of the main thread. Deep recursion through C, for example of a cached function, needs more than 8 MiB."""
SPARE_BYTES = 16 << 20
"""Memory released after a program has used up its limit, so that its traceback can be printed."""
NAME = "<program>"
NOT_FLUSHED = 120
"""Exit code of the interpreter if its last output cannot be written."""
exit_now = os._exit  # saved before a program can replace it


@dataclass(frozen=True, slots=True)
class Job:
    """One program as the zygote handles it: limits and descriptors, without code and input."""

    seconds: float
    memory: int
    """Address-space limit, in bytes."""
    show_last_value: bool
    code: int
    stdin: int
    stdout: int
    stderr: int
    folder: int
    last: int
    """Highest descriptor number in use in the zygote."""


def run_job(
    job: Job, walls: Walls | None, parent: int, give_up: Callable[[OSError], None], run: Callable[[Job], int]
) -> NoReturn:
    """Confine this process, call `run` and exit with its exit code. If that fails, call `give_up` with the error instead."""
    exit_code = 1
    try:
        try:
            confine(job, walls, parent)
        except OSError as error:
            give_up(error)
        else:
            exit_code = run(job)
    finally:
        exit_now(exit_code)


def confine(job: Job, walls: Walls | None, parent: int) -> None:
    """Set up an own session and directory, default signals and resource limits, then the walls. None can be undone."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.fchdir(job.folder)
    os.environ["HOME"] = os.environ["TMPDIR"] = os.getcwd()
    cpu = cpu_seconds(job.seconds)
    limit(resource.RLIMIT_CPU, cpu, cpu + 1)  # SIGXCPU, then SIGKILL
    limit(resource.RLIMIT_FSIZE, FILE_BYTES, FILE_BYTES)
    limit(resource.RLIMIT_CORE, 0, 0)
    if sys.platform != "darwin":  # macOS refuses these limits
        limit(resource.RLIMIT_STACK, STACK_BYTES, STACK_BYTES)
        limit(resource.RLIMIT_DATA, job.memory, job.memory + SPARE_BYTES)
        limit(resource.RLIMIT_AS, job.memory, job.memory + SPARE_BYTES)
    if walls is not None:
        walls.close_files(job.folder)
        die_with(parent)
        walls.close_system_calls()


def cpu_seconds(seconds: float) -> int:
    """Return the CPU-time limit for a wall-clock limit. It is larger, so the wall-clock limit is reached first."""
    return math.ceil(seconds) + 1


def limit(which: int, soft: int, hard: int) -> None:
    """Lower a resource limit. A limit that is already lower is kept."""
    most = resource.getrlimit(which)[1]
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(which, (soft, hard))


def take_descriptors(job: Job) -> None:
    """Move the program's streams to descriptors 0 to 2 and its code to 3, and close all others."""
    for target, fd in enumerate((job.stdin, job.stdout, job.stderr, job.code)):  # all above 4: the zygote holds 0 to 4
        os.dup2(fd, target, inheritable=target < 3)
    os.closerange(4, job.last + 1)
    limit(resource.RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES)  # not earlier: the zygote may hold more descriptors
    open_streams()


def open_streams() -> None:
    """Make Python's streams of the descriptors 0 to 2."""
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", errors="surrogatepass", closefd=False)
    # Line-buffered, so that the printed lines of a killed program are kept.
    sys.stdout = sys.__stdout__ = open(1, "w", 1, encoding="utf-8", closefd=False)
    sys.stderr = sys.__stderr__ = open(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)


def run_program(job: Job) -> int:
    """Execute the job's code as `__main__`, and return the interpreter's exit code."""
    take_descriptors(job)
    main = make_main()
    exit_code = execute(3, NAME, main, job.show_last_value)
    return exit_code if finish(main) else NOT_FLUSHED


def make_main() -> ModuleType:
    """Return an empty `__main__`, with the interpreter set up as for a program that starts."""
    main = sys.modules["__main__"] = ModuleType("__main__")
    main.__dict__.update(__builtins__=builtins, __file__=NAME)
    sys.argv, sys.path[:0], sys.excepthook = [NAME], [""], traceback.print_exception
    threading.excepthook = show_thread_error
    random.seed(0)  # a fork reseeds `random`; NumPy's global generator keeps the zygote's seed
    return main


def execute(code: int, name: str, main: ModuleType, show_last_value: bool) -> int:
    """Execute the code in a descriptor, which is then closed. Print an exception, and return the exit code.

    `name`: the file name in tracebacks.
    """
    exit_code = 0
    try:
        with open(code, encoding="utf-8", errors="surrogatepass", newline="") as file:
            text = file.read().removeprefix("\ufeff")
        linecache.cache[name] = (len(text), None, lines(text), name)
        program: str | ast.Module = text
        last: ast.stmt | None = None
        if show_last_value:
            # Not ast.parse: its frame would appear in the traceback of a syntax error.
            tree: ast.Module = compile(text, name, "exec", ast.PyCF_ONLY_AST, dont_inherit=True)  # pyright: ignore
            last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
            program = tree
        exec(compile(program, name, "exec", dont_inherit=True), main.__dict__)
        if last is not None:  # printed through sys.displayhook, as at the interactive prompt
            exec(compile(ast.Interactive([last]), name, "single", dont_inherit=True), main.__dict__)
    except SystemExit as stop:
        if stop.code is not None and not isinstance(stop.code, int):
            print(stop.code, file=sys.stderr)
        exit_code = c_long(stop.code or 0) & 0xFF if isinstance(stop.code, int | None) else 1
    except BaseException as error:  # the program may raise anything; print it as the interpreter would
        use_spare_memory()
        show(error, name)
        exit_code = 1
    return exit_code


def lines(text: str) -> list[str]:
    """Return the lines of a program, each with its line end, as `linecache` requires."""
    return io.StringIO(text if text.endswith(("\n", "\r")) else text + "\n", newline=None).readlines()


def c_long(code: int) -> int:
    """Return the exit code as the interpreter reads it: -1 if it does not fit a C long."""
    return code if -sys.maxsize - 1 <= code <= sys.maxsize else -1


def show(error: BaseException, name: str) -> None:
    """Pass an uncaught exception to `sys.excepthook`. If the program's own hook fails, print the exception directly."""
    if isinstance(error, SyntaxError) and error.filename == name and error.text is None and error.lineno:
        error.text = linecache.getline(name, error.lineno)  # the compiler only looks in a file
    shown = type(error), error, error.__traceback__ and error.__traceback__.tb_next
    try:
        sys.excepthook(*shown)
    except BaseException:  # the hook may raise anything
        traceback.print_exception(*shown)


def show_thread_error(error: threading.ExceptHookArgs) -> None:
    """Print a thread's exception with the program's source lines, which the interpreter only looks for in a file."""
    if error.exc_type is not SystemExit:
        print(f"Exception in thread {error.thread and error.thread.name}:", file=sys.stderr)
        traceback.print_exception(error.exc_type, error.exc_value, error.exc_traceback)


def use_spare_memory() -> None:
    """Raise the memory limits by SPARE_BYTES."""
    if sys.platform != "darwin":
        for which in (resource.RLIMIT_DATA, resource.RLIMIT_AS):
            hard = resource.getrlimit(which)[1]
            resource.setrlimit(which, (hard, hard))


def finish(main: ModuleType) -> bool:
    """Shut down as the interpreter does: wait for threads, call `atexit`, flush, drop the globals, flush again.

    Return False if the last output cannot be written.
    """
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
    atexit._run_exitfuncs()
    flushed = flush(sys.stdout, sys.stderr)
    for name in [name for name in main.__dict__ if name != "__builtins__"]:
        main.__dict__[name] = None
    return flush(sys.__stdout__, sys.__stderr__) and flushed


def flush(*streams: TextIO | None) -> bool:
    """Flush the streams. Return False if an open stream cannot be written."""
    flushed = True
    for stream in filter(None, streams):
        if getattr(stream, "closed", False):
            continue
        try:
            stream.flush()
        except Exception:  # the program may have replaced the stream with anything
            flushed = False
    return flushed
