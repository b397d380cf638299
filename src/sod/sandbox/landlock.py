"""Which files a program may touch: Landlock, by which a Linux process gives up rights for good, without being root.

Needs Linux 5.13. Later kernels know more rights; what the running one does not know is left out, and each of those is
held by other means (`sod.sandbox.seccomp` refuses sockets, signals, most of ioctl, and truncation by path).
"""

import ctypes
import os
import struct
from collections.abc import Iterable

from sod.sandbox.libc import syscall

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same on every machine
VERSION_FLAG, PATH_BENEATH = 1, 1
RULESET = struct.Struct("=QQQ")  # rights over files, over the network, over what is outside
RULE = struct.Struct("=Qi")  # rights, descriptor

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = (1 << bit for bit in range(6, 13))
REFER, TRUNCATE, IOCTL_DEV = (1 << bit for bit in range(13, 16))
FILE_RIGHTS_BITS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""Rights over files that a version of the interface knows, counted from bit 0; later versions added none."""
NETWORK = 0b11
"""Binding and connecting by TCP, since version 4."""
OUTSIDE = 0b11
"""Abstract sockets and signals, since version 6."""

READ = READ_FILE | READ_DIR
DEVICE = READ_FILE | WRITE_FILE | TRUNCATE
OWN = READ | WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_FIFO | MAKE_SYM | REFER | TRUNCATE
"""What a program may do in its own directory: all but execute, and make sockets or device files."""
OF_A_FILE = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV


def version() -> int:
    """The version of the kernel's interface. Raises OSError where there is none, or it is switched off."""
    return syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(VERSION_FLAG))


def rights(version: int) -> tuple[int, int, int]:
    """All rights that a kernel of this version can take away: over files, the network, what is outside."""
    files = (1 << FILE_RIGHTS_BITS[min(version, 5)]) - 1
    return files, NETWORK if version >= 4 else 0, OUTSIDE if version >= 6 else 0


def open_all(paths: Iterable[str], granted: int) -> list[tuple[int, int]]:
    """Descriptors of those paths that are there, and what is granted beneath them."""
    grants: list[tuple[int, int]] = []
    for path in paths:
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError, PermissionError):  # nobody could read it anyway
            continue
        grants.append((fd, granted if os.path.isdir(path) else granted & OF_A_FILE))
    return grants


def restrict(version: int, grants: Iterable[tuple[int, int]]) -> None:
    """Give up every right but those granted, in this thread and all that it starts, for ever. Raises OSError."""
    known = rights(version)
    ruleset = syscall(CREATE_RULESET, RULESET.pack(*known), ctypes.c_size_t(RULESET.size), ctypes.c_uint32(0))
    try:
        for fd, granted in grants:
            rule = RULE.pack(granted & known[0], fd)
            syscall(ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(PATH_BENEATH), rule, ctypes.c_uint32(0))
        syscall(RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)
