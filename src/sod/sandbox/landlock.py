"""Limit a program's file access with Landlock: a Linux process gives up rights permanently, without being root.

Needs Linux 5.13. Later kernels support more rights. Rights that the running kernel does not support are left out; each of
them is covered by `sod.sandbox.seccomp`, which refuses sockets, signals, most of ioctl, and truncation by path.
"""

import ctypes
import os
import struct
from collections.abc import Iterable

from sod.sandbox.libc import syscall

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same on every machine
VERSION_FLAG, PATH_BENEATH = 1, 1
RULESET = struct.Struct("=QQQ")  # rights over files, over the network, over processes outside
RULE = struct.Struct("=Qi")  # rights, descriptor

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = (1 << bit for bit in range(6, 13))
REFER, TRUNCATE, IOCTL_DEV = (1 << bit for bit in range(13, 16))
FILE_RIGHTS_BITS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""Number of file rights that each version of the interface supports, from bit 0; later versions added none."""
NETWORK = 0b11
"""Rights to bind and connect by TCP, since version 4."""
OUTSIDE = 0b11
"""Rights to use abstract sockets and signals of processes outside, since version 6."""

READ = READ_FILE | READ_DIR
DEVICE = READ_FILE | WRITE_FILE | TRUNCATE
OWN = READ | WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_FIFO | MAKE_SYM | REFER | TRUNCATE
"""Rights of a program in its own directory: all except executing, and creating sockets or device files."""
OF_A_FILE = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV


def version() -> int:
    """Return the version of the kernel's interface. Raises OSError if it is missing or disabled."""
    return syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(VERSION_FLAG))


def rights(version: int) -> tuple[int, int, int]:
    """Return all rights that a kernel of this version can remove: over files, the network, processes outside."""
    files = (1 << FILE_RIGHTS_BITS[min(version, 5)]) - 1
    return files, NETWORK if version >= 4 else 0, OUTSIDE if version >= 6 else 0


def open_all(paths: Iterable[str], granted: int) -> list[tuple[int, int]]:
    """Open the existing paths. Return their descriptors and the rights granted beneath them."""
    grants: list[tuple[int, int]] = []
    for path in paths:
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError, PermissionError):  # the program could not read it anyway
            continue
        grants.append((fd, granted if os.path.isdir(path) else granted & OF_A_FILE))
    return grants


def restrict(version: int, grants: Iterable[tuple[int, int]]) -> None:
    """Permanently give up all rights except those granted, in this thread and all that it starts. Raises OSError."""
    known = rights(version)
    ruleset = syscall(CREATE_RULESET, RULESET.pack(*known), ctypes.c_size_t(RULESET.size), ctypes.c_uint32(0))
    try:
        for fd, granted in grants:
            rule = RULE.pack(granted & known[0], fd)
            syscall(ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(PATH_BENEATH), rule, ctypes.c_uint32(0))
        syscall(RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)
