"""Run one program on a SandboxFusion server and report on it, for `sod.sandbox.fusion`. Standard library, Python >= 3.9.

The client sends this file as the code to run, and the job as a file. The report goes back as a file:

    server ── this script ────────── this script again, with an argument
                │   ▲                  own session, limits, environment; runs the program as `__main__`
      sod_job ──┘   └── pipes ─────────┘
                └────── sod_report

There are two processes, because some facts must outlive the program: its output up to a time-out, a crash or a full pipe,
its exact end, and the reason for killing it. A watcher inside the program's process could be blocked, run out of memory or be
killed with it. The second process is started, not forked. The program therefore gets a new interpreter, with the environment
and the hash seed that the client chose, and nothing of the server's. The report is a file, because servers truncate standard
output without notice.

Job, as JSON: code, stdin, files (name: text), copies (name: base64), environment, limits (name of a resource limit: soft, hard),
seconds, show_last_value, keep_bytes (per stream, head plus tail), most_bytes (per stream), disk_bytes, disk_files.

Report, as JSON: exit_code (-n: killed by signal n), stopped_for (time, disk, or empty), seconds, cpu_seconds, memory_mb,
and for stdout and stderr: head and tail (base64) and bytes (total written, can exceed most_bytes).
"""

from __future__ import annotations

import ast
import base64
import builtins
import contextlib
import ctypes
import io
import json
import linecache
import os
import random
import resource
import selectors
import signal
import subprocess
import sys
import time
import traceback
from types import ModuleType
from typing import IO, Any, NoReturn

JOB, REPORT = "sod_job", "sod_report"
"""Files in the directory where the server runs this script. The program's own directory is next to them."""
NAME = "<program>"
LOOK_SECONDS = 0.1
CLEAN_UP_SECONDS = 2.0
SET_DEATH_SIGNAL, SET_CHILD_SUBREAPER = 1, 36
"""Options of Linux's prctl."""


class Stream:
    """Pipe for the program's output: keeps the head and the tail, and counts all bytes."""

    def __init__(self, pipe: IO[bytes], keep: int) -> None:
        self.pipe = pipe
        self.total = 0
        self.head_room, self.tail_room = keep // 2, keep - keep // 2
        self.head, self.tail = bytearray(), bytearray()
        os.set_blocking(pipe.fileno(), False)

    def read(self) -> bool:
        """Read once; return False at the end. Raises BlockingIOError if the pipe is empty."""
        data = os.read(self.pipe.fileno(), 65_536)
        self.total += len(data)
        room = self.head_room - len(self.head)
        self.head += data[:room]
        self.tail += data[room:]
        if len(self.tail) > self.tail_room + 1_000_000:
            self.trim()
        return bool(data)

    def read_rest(self, most: int) -> None:
        """Read the remaining bytes after the program's end. Another process may still hold the pipe open."""
        with contextlib.suppress(BlockingIOError):
            while self.total <= most and self.read():
                pass

    def trim(self) -> None:
        del self.tail[: max(0, len(self.tail) - self.tail_room)]

    def report(self) -> dict[str, Any]:
        self.trim()
        return {"head": encoded(self.head), "tail": encoded(self.tail), "bytes": self.total}


def encoded(data: bytearray) -> str:
    return base64.b64encode(data).decode()


# The watching process


def watch() -> None:
    """Read the job, run it, write the report."""
    with open(JOB, encoding="utf-8", errors="surrogatepass") as file:
        job = json.load(file)
    report = supervise(job, os.getcwd())
    with open(REPORT + ".part", "w") as file:
        json.dump(report, file)
    os.replace(REPORT + ".part", REPORT)  # atomic


def supervise(job: dict[str, Any], folder: str) -> dict[str, Any]:
    """Run the program until it ends or exceeds a limit. `folder` is the script's; the program gets a subdirectory."""
    box = os.path.join(folder, "box")
    os.mkdir(box)
    for name, text in job["files"].items():
        write(os.path.join(box, name), text)
    for name, data in job["copies"].items():
        with open(os.path.join(box, name), "wb") as file:
            file.write(base64.b64decode(data))
    for name in ("code", "stdin"):
        write(os.path.join(folder, name), job[name])
    adopt_orphans()
    woken = wake_when_a_child_ends()
    started = time.monotonic()
    process = start(job, folder, box)
    assert process.stdout is not None
    assert process.stderr is not None
    out, err = Stream(process.stdout, job["keep_bytes"]), Stream(process.stderr, job["keep_bytes"])
    stopped_for = follow(process, (out, err), woken, job, started + job["seconds"], box)
    end_all(process)
    for stream in (out, err):
        stream.read_rest(job["most_bytes"])
    if process.returncode >= 0:  # it ended before it was killed
        stopped_for = "disk" if holds_too_much(box, job) else ""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "exit_code": process.returncode,
        "stopped_for": stopped_for,
        "seconds": time.monotonic() - started,
        "cpu_seconds": spent.ru_utime + spent.ru_stime,
        "memory_mb": spent.ru_maxrss / (1024 if sys.platform == "linux" else 1024 * 1024),  # macOS counts bytes
        "stdout": out.report(),
        "stderr": err.report(),
    }


def write(path: str, text: str) -> None:
    with open(path, "wb") as file:
        file.write(text.encode("utf-8", "surrogatepass"))


def adopt_orphans() -> None:
    """Become the parent of every process that the program leaves behind (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def wake_when_a_child_ends() -> int:
    """Return a descriptor that becomes readable when a child has ended."""
    reader, writer = os.pipe()
    for fd in (reader, writer):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return reader


def start(job: dict[str, Any], folder: str, box: str) -> subprocess.Popen[bytes]:
    """Start this script again, in a new process and session, to run the program."""
    program = {name: job[name] for name in ("limits", "show_last_value")}
    program["code"] = os.path.join(folder, "code")
    with open(os.path.join(folder, "stdin"), "rb") as stdin:
        return subprocess.Popen(
            [sys.executable, "-s", os.path.abspath(__file__), json.dumps(program)],
            bufsize=0,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=box,
            env={**library_path(), **job["environment"], "HOME": box, "TMPDIR": box},
            start_new_session=True,
        )


def library_path() -> dict[str, str]:
    """Return the only variable passed on from the server: without it some interpreters do not find their library."""
    return {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}


def follow(
    process: subprocess.Popen[bytes],
    streams: tuple[Stream, Stream],
    woken: int,
    job: dict[str, Any],
    deadline: float,
    box: str,
) -> str:
    """Read the program's output until it ends or exceeds a limit. Return "time" or "disk" for these limits, else ""."""
    next_look = 0.0
    with selectors.DefaultSelector() as selector:
        selector.register(woken, selectors.EVENT_READ)
        for stream in streams:
            selector.register(stream.pipe, selectors.EVENT_READ, stream)
        while process.poll() is None:  # checked before the deadline: a program that ended in time is not late
            now = time.monotonic()
            if now >= deadline:
                return "time"
            if any(stream.total > job["most_bytes"] for stream in streams):
                return ""  # the byte counts in the report show the reason
            if now >= next_look:
                next_look = now + LOOK_SECONDS
                if holds_too_much(box, job):
                    return "disk"
            for key, _ in selector.select(max(0.0, min(deadline, next_look) - now)):
                if key.data is None:
                    os.read(woken, 4096)
                elif not key.data.read():
                    selector.unregister(key.fileobj)
    return ""


def holds_too_much(box: str, job: dict[str, Any]) -> bool:
    """Return True if the directory exceeds the job's limit on bytes or files. Holes in files count as bytes."""
    size = count = 0
    for folder, folders, files in os.walk(box):
        count += len(folders) + len(files)
        if count > job["disk_files"]:
            return True
        for name in files:
            with contextlib.suppress(OSError):  # removed since it was listed
                size += os.lstat(os.path.join(folder, name)).st_size
    return size > job["disk_bytes"]


def end_all(process: subprocess.Popen[bytes]) -> None:
    """Kill the program's session, then, for up to CLEAN_UP_SECONDS, escaped children adopted by this process."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # none left; macOS: only zombies left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    patience = time.monotonic() + CLEAN_UP_SECONDS
    while (children := our_children()) and time.monotonic() < patience:
        for pid in children:
            with contextlib.suppress(OSError):  # gone already, or no permission to kill it
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def our_children() -> list[int]:
    """Return the children of this process (Linux; empty on other systems, where the program is the only child)."""
    with contextlib.suppress(OSError), open(f"/proc/self/task/{os.getpid()}/children") as file:
        return [int(pid) for pid in file.read().split()]
    return []


# The program's process


def run_program(code: str, limits: dict[str, list[int]], show_last_value: bool) -> NoReturn:
    """Execute the file `code` as `__main__` and exit as the interpreter would, with threads and `atexit`."""
    prefer_oom_kill()
    die_with_the_watcher()
    main = sys.modules["__main__"] = ModuleType("__main__")
    main.__dict__.update(__builtins__=builtins, __file__=NAME)
    sys.argv, sys.path[0], sys.excepthook = [NAME], "", traceback.print_exception
    as_text(sys.stdin, errors="surrogatepass")
    as_text(sys.stdout, errors="strict", line_buffering=True)  # a killed program keeps its printed lines
    as_text(sys.stderr, errors="backslashreplace", line_buffering=True)
    for name, (soft, hard) in limits.items():
        limit(getattr(resource, f"RLIMIT_{name}"), soft, hard)
    try:
        with open(code, encoding="utf-8", errors="surrogatepass", newline="") as file:
            text = file.read()
        text = text[1:] if text.startswith("\ufeff") else text
        seed(text)
        whole = text if text.endswith(("\n", "\r")) else text + "\n"  # tracebacks need a last line end
        linecache.cache[NAME] = (len(text), None, io.StringIO(whole, newline=None).readlines(), NAME)
        # Not ast.parse: its frame would appear in the traceback of a syntax error.
        program: ast.Module = compile(text, NAME, "exec", ast.PyCF_ONLY_AST, dont_inherit=True)  # pyright: ignore
        ends_in_value = show_last_value and program.body and isinstance(program.body[-1], ast.Expr)
        last = program.body.pop() if ends_in_value else None
        exec(compile(program, NAME, "exec", dont_inherit=True), main.__dict__)
        if last is not None:  # printed through sys.displayhook, as at the interactive prompt
            exec(compile(ast.Interactive([last]), NAME, "single", dont_inherit=True), main.__dict__)
    except SystemExit:
        raise
    except BaseException as error:  # the program may raise anything; print it as the interpreter would
        use_spare_memory()
        if isinstance(error, SyntaxError) and error.filename == NAME and error.text is None and error.lineno:
            error.text = linecache.getline(NAME, error.lineno)  # the compiler only looks in a file
        sys.excepthook(type(error), error, error.__traceback__ and error.__traceback__.tb_next)
        sys.exit(1)
    sys.exit(0)


def prefer_oom_kill() -> None:
    """Make the kernel kill the program first if the machine runs out of memory."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def die_with_the_watcher() -> None:
    """End with the watching process: the server may kill that process, and it does not track this one."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)


def as_text(stream: Any, **how: Any) -> None:
    """Set a standard stream to UTF-8, independent of the server's locale."""
    stream.reconfigure(encoding="utf-8", **how)


def limit(which: int, soft: int, hard: int) -> None:
    """Lower a resource limit. Keep the present limit if it is lower, or if the system refuses the change."""
    most = resource.getrlimit(which)[1]
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(which, (soft, hard))


def seed(text: str) -> None:
    """Seed the global generators of `random` and, if the program mentions it, NumPy."""
    random.seed(0)
    if "numpy" in text:
        with contextlib.suppress(ImportError, MemoryError):  # the program will get the same error
            from numpy import random as numpy_random

            numpy_random.seed(0)


def use_spare_memory() -> None:
    """Raise the memory limits to their hard limits, so that a traceback can be printed."""
    for which in (resource.RLIMIT_DATA, resource.RLIMIT_AS):
        hard = resource.getrlimit(which)[1]
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(which, (hard, hard))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run_program(**json.loads(sys.argv[1]))
    else:
        watch()
