"""The walls around a program, and whether this machine can build them.

A process that shall run a program gives up, for good and without being root: its capabilities, new privileges, every
file but the interpreter's and its own directory's (`sod.sandbox.landlock`), and every system call that a computation
does not need (`sod.sandbox.seccomp`).
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
"""Which `mimetypes` gives up on where it is and cannot be read."""
READABLE_DEVICES = ("/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
NULL_DEVICE = ("/dev/null",)
NO_LANDLOCK = {
    errno.ENOSYS: "the kernel has none (Linux 5.13 is the first that has)",
    errno.EOPNOTSUPP: "it is switched off on this machine (the kernel's lsm= option)",
    errno.EPERM: "the container's own seccomp profile forbids it (engines of 2022 and later allow it)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """What the kernel enforces on programs here, found by trying."""

    landlock: int = 0
    """Version of the kernel's Landlock interface; 0 where there is none."""
    seccomp: str = ""
    """The machine whose system calls are filtered; empty where they are not."""
    missing: tuple[str, ...] = ()
    """What cannot be enforced, and why. Programs are run only where this is empty, unless the user insists."""

    def lines(self) -> list[str]:
        """For people."""
        if self.missing:
            return ["programs cannot be confined", *self.missing]
        return [
            f"files: the interpreter, read-only; an own directory; nothing else (Landlock {self.landlock})",
            f"system calls: no network, no processes, no signals to others (seccomp, {self.seccomp})",
            "privileges: none",
        ]


class Walls:
    """What is the same for every program, made once, by the process that forks them all."""

    def __init__(self) -> None:
        """Gives up this process's own privileges, too. Raises OSError, or KeyError for a machine without a filter."""
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
        """From here on this process touches nothing but what is readable and the folder of this descriptor."""
        landlock.restrict(self._version, [*self._grants, (folder, landlock.OWN)])

    def close_system_calls(self) -> None:
        """From here on this process, which must have one thread, makes no system call that is not on the list."""
        install_filter(seccomp.filter_program(self._machine, os.getpid()))


def readable() -> list[str]:
    """What every program may read: the interpreter, its packages, the libraries they load, time zones, MIME types.

    Of a prefix only `lib`, since a virtual environment may share its folder with other things.
    """
    folders = [f"{prefix}/{name}" for prefix in sorted(prefixes()) for name in ("lib", "lib64")]
    return list(dict.fromkeys((*LIBRARIES, *folders, *packages(), *zoneinfo.TZPATH, MIME_TYPES)))


def die_with(parent: int) -> None:
    """End this process when its parent ends. Raises ProcessLookupError if it has already."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise ProcessLookupError(errno.ESRCH, "the parent is gone")


def lacking(device: str = os.devnull, processes: str = "/proc/self/fd") -> str:
    """What every program needs of this machine and is not here, in a sentence; empty if nothing is missing."""
    if not os.path.exists(device):
        return f"{device} is missing: start the container with a /dev (bubblewrap: --dev /dev)."
    if sys.platform == "linux" and not os.path.isdir(processes):
        return f"{processes} is missing: mount /proc, by which threads and open files are counted (bubblewrap: --proc /proc)."
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        return "No directory for temporary files can be written to: set TMPDIR to one that can, and that is not full."
    return ""


def surroundings() -> dict[str, str]:
    """The probe's environment. It makes a directory, where this process would."""
    return environment() | {"TMPDIR": tempfile.gettempdir()}


@cache
def confinement() -> Confinement:
    """What can be enforced here. Tries it for real, once, in a process that is thrown away. Needs no event loop."""
    if sys.platform != "linux":
        return Confinement(missing=(f"Landlock and seccomp belong to Linux, and this is {sys.platform}",))
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
    """Build the walls around this process and print which of them stand."""
    machine = os.uname().machine
    missing: list[str] = []
    version = 0
    if machine not in seccomp.MACHINES or sys.maxsize < 1 << 32:
        missing.append(f"seccomp: there is no table of system calls for {machine} with this Python")
    try:
        version = landlock.version()
    except OSError as error:
        missing.append(f"Landlock: {NO_LANDLOCK.get(error.errno or 0, error)}")
    if not missing:
        with tempfile.TemporaryDirectory() as folder:
            missing += _probe_walls(folder)
    print(json.dumps({"landlock": version, "seccomp": "" if missing else machine, "missing": missing}))


def _probe_walls(folder: str) -> list[str]:
    """What gets through, tried in a fork, since the walls stay up for as long as a process lives."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        missing = ["the probe was ended"]
        try:
            missing = _try_walls(folder)
        finally:
            os.write(writer, json.dumps(missing).encode())
            os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    with open(reader, encoding="utf-8") as answer:
        return json.loads(answer.read() or '["seccomp: the process was ended by its own filter"]')


def _try_walls(folder: str) -> list[str]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        walls = Walls()
    except OSError as error:
        return [f"giving up privileges: {error}"]
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
        "seccomp: a socket can still be made": socket.socket,
        "seccomp: a signal can still be sent": lambda: os.kill(os.getppid(), 0),
    }
    missing: list[str] = []
    for what, attack in attacks.items():
        with contextlib.suppress(PermissionError):
            attack()
            missing.append(what)
    return missing
