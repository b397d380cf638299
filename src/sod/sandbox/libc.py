"""Calls into the C library for which Python has no function."""

import ctypes
import os
from functools import cache

PR_SET_PDEATHSIG = 1
PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38
FILTER_MODE = 2
BPF_INSTRUCTION_BYTES = 8
MADV_COLLAPSE = 25
HUGE_PAGE_BYTES = 2 << 20
CAPABILITY_VERSION_3 = 0x20080522


def syscall(number: int, *arguments: object) -> int:
    """Make a system call and return its result. Raises OSError."""
    return _checked(_library().syscall(ctypes.c_long(number), *arguments))


def prctl(option: int, *arguments: object) -> None:
    """Change a property of this process. Raises OSError."""
    words = [value if not isinstance(value, int) else ctypes.c_ulong(value) for value in arguments]
    padding = [ctypes.c_ulong(0)] * (4 - len(words))  # some options require unused arguments to be 0
    _checked(_library().prctl(option, *words, *padding))


def drop_capabilities() -> None:
    """Drop the capabilities of root. For other users nothing changes."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, in two halves
    _checked(_library().capset(header, nothing))


def use_huge_pages(first: int, after: int) -> None:
    """Back these addresses of this process by huge pages if the kernel supports it (Linux 6.1). Raises OSError."""
    start, end = -(-first // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES, after // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES
    if start < end:
        _checked(_library().madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_COLLAPSE))


def install_filter(program: bytes) -> None:
    """Install a classic BPF program that the kernel runs before every system call of this thread. Permanent.

    Requires PR_SET_NO_NEW_PRIVS to be set, or root.
    """
    instructions = ctypes.create_string_buffer(program, len(program))
    length = len(program) // BPF_INSTRUCTION_BYTES
    prctl(PR_SET_SECCOMP, FILTER_MODE, ctypes.byref(_Filter(length, ctypes.addressof(instructions))))


class _Filter(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


@cache
def _library() -> ctypes.CDLL:
    """Return the libraries of this process, the C library included. Cached, because loading is slower than the calls."""
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
