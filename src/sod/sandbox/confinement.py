"""Confine a program's process, and check whether this machine can do so.

Before a process runs a program, it permanently gives up its capabilities and new privileges. It also gives up every file
except the interpreter's and its own directory's (`sod.sandbox.landlock`), and every system call that a computation does not
need (`sod.sandbox.seccomp`). None of this requires root.
"""

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import zoneinfo
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from sod.sandbox import landlock, seccomp
from sod.sandbox.interpreter import command, environment, packages, prefixes
from sod.sandbox.libc import (
    PR_SET_NO_NEW_PRIVS,
    PR_SET_PDEATHSIG,
    drop_capabilities,
    install_filter,
    prctl,
)

PROBE_SECONDS = 60.0
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/nix/store", "/etc/ld.so.cache")
MIME_TYPES = "/etc/mime.types"
"""Must be readable: `mimetypes` fails if this file exists and cannot be read."""
READABLE_DEVICES = ("/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
NULL_DEVICE = ("/dev/null",)
NO_LANDLOCK = {
    errno.ENOSYS: "the kernel does not support it (requires Linux 5.13 or newer)",
    errno.EOPNOTSUPP: "it is disabled on this machine (the kernel's lsm= option)",
    errno.EPERM: "the container's seccomp profile forbids it (container engines from 2022 on allow it)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """What the kernel enforces on programs on this machine, found by trying."""

    landlock: int = 0
    """Version of the kernel's Landlock interface; 0 if it has none."""
    seccomp: str = ""
    """Machine architecture of the system-call filter; empty if system calls are not filtered."""
    missing: tuple[str, ...] = ()
    """What cannot be enforced, and why. If not empty, programs only run with `unsafe=True`."""

    def lines(self) -> list[str]:
        """Describe the confinement for people, line by line."""
        if self.missing:
            return ["programs cannot be confined", *self.missing]
        return [
            f"files: only the interpreter (read-only) and an own directory (Landlock {self.landlock})",
            f"system calls: no network, no new processes, no signals to other processes (seccomp, {self.seccomp})",
            "privileges: none",
        ]


class Walls:
    """The parts of the confinement shared by all programs. Built once, in the process that forks them."""

    def __init__(self) -> None:
        """Drop this process's own privileges as well. Raises OSError, or KeyError for an architecture without a filter."""
        self._machine = os.uname().machine
        seccomp.filter_program(self._machine, 1)
        self._version = landlock.version()
        self._grants = [
            *landlock.open_all(readable(), landlock.READ),
            *landlock.open_all(READABLE_DEVICES, landlock.READ),
            *landlock.open_all(NULL_DEVICE, landlock.DEVICE),
        ]
        drop_capabilities()
        prctl(PR_SET_NO_NEW_PRIVS, 1)

    def close_files(self, folder: int) -> None:
        """Restrict this process to the readable paths and the directory of this descriptor."""
        landlock.restrict(self._version, [*self._grants, (folder, landlock.OWN)])

    def close_system_calls(self) -> None:
        """Restrict this process to the listed system calls. The process must have a single thread."""
        install_filter(seccomp.filter_program(self._machine, os.getpid()))


def readable() -> list[str]:
    """Return the paths that every program may read: interpreter, packages, their libraries, time zones, MIME types.

    Only the `lib` directories of a prefix are included, because a virtual environment may share its directory with other
    files.
    """
    folders = [f"{prefix}/{name}" for prefix in sorted(prefixes()) for name in ("lib", "lib64")]
    return list(dict.fromkeys((*LIBRARIES, *folders, *packages(), *zoneinfo.TZPATH, MIME_TYPES)))


def die_with(parent: int) -> None:
    """Let the kernel kill this process when its parent ends. Raises ProcessLookupError if the parent has already ended."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise ProcessLookupError(errno.ESRCH, "the parent is gone")


def lacking(device: str = os.devnull, processes: str = "/proc/self/fd") -> str:
    """Return a sentence about what this machine lacks to run any program; empty if nothing is missing."""
    if not os.path.exists(device):
        return f"{device} is missing. Start the container with a /dev (bubblewrap: --dev /dev)."
    if sys.platform == "linux" and not os.path.isdir(processes):
        return f"{processes} is missing; it is needed to count threads and open files. Mount /proc (bubblewrap: --proc /proc)."
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        return "No temporary directory is writable. Set TMPDIR to a writable directory with free space."
    return ""


def surroundings() -> dict[str, str]:
    """Return the probe's environment. The probe creates its directory where this process would."""
    return environment() | {"TMPDIR": tempfile.gettempdir()}


@cache
def confinement() -> Confinement:
    """Return what this machine can enforce. Tried once, in a throw-away process. Needs no event loop."""
    if sys.platform != "linux":
        return Confinement(missing=(f"Landlock and seccomp require Linux, and this is {sys.platform}",))
    if cause := lacking():
        return Confinement(missing=(cause,))
    try:
        probe = subprocess.run(
            command(__name__, "print_probe"), capture_output=True, text=True, env=surroundings(), timeout=PROBE_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Confinement(missing=(f"the interpreter could not be started: {error}",))
    if probe.returncode != 0:
        last = probe.stderr.strip().rpartition("\n")[2]
        return Confinement(missing=(f"the probe ended with exit code {probe.returncode}: {last}",))
    found = json.loads(probe.stdout)
    return Confinement(landlock=found["landlock"], seccomp=found["seccomp"], missing=tuple(found["missing"]))


def print_probe() -> None:
    """Confine this process and print which parts of the confinement work."""
    machine = os.uname().machine
    missing: list[str] = []
    version = 0
    if machine not in seccomp.MACHINES or sys.maxsize < 1 << 32:
        missing.append(f"seccomp: sod has no table of system calls for {machine} with this Python")
    try:
        version = landlock.version()
    except OSError as error:
        missing.append(f"Landlock: {NO_LANDLOCK.get(error.errno or 0, error)}")
    if not missing:
        with tempfile.TemporaryDirectory() as folder:
            missing += _probe_walls(folder)
    print(json.dumps({"landlock": version, "seccomp": "" if missing else machine, "missing": missing}))


def _probe_walls(folder: str) -> list[str]:
    """Return what is not enforced. Tried in a fork, because a process cannot undo its confinement."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        missing = ["the probe was killed"]
        try:
            missing = _try_walls(folder)
        finally:
            os.write(writer, json.dumps(missing).encode())
            os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    with open(reader, encoding="utf-8") as answer:
        return json.loads(answer.read() or '["seccomp: the process was killed by its own filter"]')


def _try_walls(folder: str) -> list[str]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        walls = Walls()
    except OSError as error:
        return [f"dropping privileges failed: {error}"]
    try:
        walls.close_files(fd)
    except OSError as error:
        return [f"Landlock: {NO_LANDLOCK.get(error.errno or 0, error)}"]
    try:
        walls.close_system_calls()
    except OSError as error:
        return [f"seccomp: {error}"]
    attacks: dict[str, Callable[[], object]] = {
        "Landlock: the root directory can still be listed": lambda: os.listdir("/"),
        "seccomp: a socket can still be created": socket.socket,
        "seccomp: a signal can still be sent": lambda: os.kill(os.getppid(), 0),
    }
    missing: list[str] = []
    for what, attack in attacks.items():
        with contextlib.suppress(PermissionError):
            attack()
            missing.append(what)
    return missing
