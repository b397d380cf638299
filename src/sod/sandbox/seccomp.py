"""Build a filter of the system calls that a program may make. The kernel runs it before each call.

The filter is an allow-list. Other calls fail with EPERM, which Python turns into an exception. Programs cannot start
processes, signal other processes, use a network or change their own rights. Threads, files, pipes, timers and memory work.
The numbers are the kernel's, for the two architectures that have a column in the tables.

This module only builds the filter, as bytes of classic BPF, and runs on any system. `sod.sandbox.confinement` installs it.
"""

import errno
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, slots=True)
class Machine:
    audit: int
    """AUDIT_ARCH_*: the kernel passes it to the filter to identify the architecture of a call."""
    column: int
    """Column of this architecture in the tables below."""


MACHINES = {"x86_64": Machine(0xC000003E, 0), "aarch64": Machine(0xC00000B7, 1)}

# In the tables: name x86_64/aarch64; "-" if an architecture does not have the call.

ALLOWED = """
    read 0/63 write 1/64 readv 19/65 writev 20/66 pread64 17/67 pwrite64 18/68 preadv 295/69 pwritev 296/70
    preadv2 327/286 pwritev2 328/287 lseek 8/62 close 3/57 dup 32/23 dup2 33/- dup3 292/24
    pipe 22/- pipe2 293/59 sendfile 40/71 copy_file_range 326/285 ftruncate 77/46 fsync 74/82 fdatasync 75/83
    fallocate 285/47 fadvise64 221/223 flock 73/32 eventfd 284/- eventfd2 290/19
    epoll_create 213/- epoll_create1 291/20 epoll_ctl 233/21 epoll_wait 232/- epoll_pwait 281/22 epoll_pwait2 441/441
    poll 7/- ppoll 271/73 select 23/- pselect6 270/72

    open 2/- openat 257/56 creat 85/- stat 4/- lstat 6/- fstat 5/80 newfstatat 262/79 statx 332/291
    access 21/- faccessat 269/48 faccessat2 439/439 readlink 89/- readlinkat 267/78 getdents 78/- getdents64 217/61
    getcwd 79/17 chdir 80/49 fchdir 81/50 mkdir 83/- mkdirat 258/34 rmdir 84/- unlink 87/- unlinkat 263/35
    rename 82/- renameat 264/38 renameat2 316/276 link 86/- linkat 265/37 symlink 88/- symlinkat 266/36
    mknod 133/- mknodat 259/33 umask 95/166 statfs 137/43 fstatfs 138/44

    mmap 9/222 munmap 11/215 mremap 25/216 mprotect 10/226 madvise 28/233 brk 12/214 msync 26/227 mincore 27/232
    membarrier 324/283 rseq 334/293 set_robust_list 273/99 get_robust_list 274/100 futex 202/98
    set_tid_address 218/96 arch_prctl 158/-

    getpid 39/172 gettid 186/178 getppid 110/173 getpgrp 111/- getpgid 121/155 getsid 124/156 getuid 102/174
    geteuid 107/175 getgid 104/176 getegid 108/177 getgroups 115/158 getresuid 118/148 getresgid 120/150 uname 63/160
    sysinfo 99/179 times 100/153 getrusage 98/165 getrlimit 97/163 setrlimit 160/164 getpriority 140/141
    sched_yield 24/124 sched_getaffinity 204/123 sched_getscheduler 145/120 sched_getparam 143/121
    sched_get_priority_max 146/125 sched_get_priority_min 147/126 sched_rr_get_interval 148/127 capget 125/90
    getcpu 309/168 getrandom 318/278

    clock_gettime 228/113 clock_getres 229/114 clock_nanosleep 230/115 nanosleep 35/101 gettimeofday 96/169 time 201/-
    setitimer 38/103 getitimer 36/102 alarm 37/- pause 34/-
    rt_sigaction 13/134 rt_sigprocmask 14/135 rt_sigreturn 15/139 rt_sigpending 127/136 rt_sigtimedwait 128/137
    rt_sigsuspend 130/133 sigaltstack 131/132 restart_syscall 219/128
    exit 60/93 exit_group 231/94 wait4 61/260 waitid 247/95

    shutdown 48/210 recvfrom 45/207 recvmsg 47/212 getsockname 51/204 getpeername 52/205 getsockopt 55/209
"""
PRETENDED = """
    chmod 90/- fchmod 91/52 fchmodat 268/53 fchmodat2 452/452 utime 132/- utimes 235/- futimesat 261/- utimensat 280/88
"""
"""Succeed and do nothing: Landlock cannot restrict them to a program's own files, and copying a file needs them."""
WITHOUT_ATTRIBUTES = """
    getxattr 191/8 lgetxattr 192/9 fgetxattr 193/10 setxattr 188/5 lsetxattr 189/6 fsetxattr 190/7
    listxattr 194/11 llistxattr 195/12 flistxattr 196/13 removexattr 197/14 lremovexattr 198/15 fremovexattr 199/16
"""
"""Fail as on a file system without extended attributes; any other error aborts the copying of a file."""
UNKNOWN = """
    clone3 435/435 openat2 437/437 io_uring_setup 425/425 io_uring_enter 426/426 io_uring_register 427/427
    memfd_create 319/279 memfd_secret 447/447
"""
"""Fail as on an older kernel, so that the C library uses the older call. A filter cannot check their arguments, or the
memory limit does not count their memory."""
NEWEST = 452
"""Calls above this number fail in the same way."""
CONDITIONAL = """
    clone 56/220 close_range 436/436 socketpair 53/199 sendto 44/206 ioctl 16/29 fcntl 72/25 prctl 157/167
    kill 62/129 tkill 200/130 tgkill 234/131 prlimit64 302/261
"""

CLONE_OF_A_THREAD = 0x10F00
"""CLONE_VM, CLONE_FS, CLONE_FILES, CLONE_SIGHAND and CLONE_THREAD."""
CLONE_NAMESPACES = 0x7E020080
CLOSE_RANGE_CLOEXEC = 4
AF_UNIX, SOCK_STREAM, SOCK_FLAGS = 1, 1, 0o2004000  # the flags are close-on-exec and non-blocking
IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS and TIOCGWINSZ (whether it is a terminal, and its width), FIONREAD, FIONBIO, FIONCLEX, FIOCLEX."""
FCNTLS = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032)
"""Duplicates, flags, locks, reading the size of a pipe. Excluded: F_SETOWN and F_SETSIG, which signal other processes, and
F_SETPIPE_SZ, which takes memory that no limit counts."""
PRCTLS = (3, 15, 16, 23)
"""PR_GET_DUMPABLE, PR_SET_NAME, PR_GET_NAME, PR_CAPBSET_READ."""

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000  # SECCOMP_RET_*; KILL ends the whole process
X32 = 0x40000000
"""Numbers from here on are x86_64's 32-bit calls; no table contains them."""
ARCHITECTURE_OFFSET, NUMBER_OFFSET, ARGUMENTS_OFFSET = 4, 0, 16  # struct seccomp_data
LOAD, MASK, EQUAL, AT_LEAST, RETURN = 0x20, 0x54, 0x15, 0x35, 0x06  # opcodes
INSTRUCTION = struct.Struct("=HBBI")  # opcode, jump if true, jump if false, constant


@dataclass(frozen=True, slots=True)
class WordTest:
    """Test that one 32-bit word of a call's arguments, after masking, is one of the values."""

    word: int
    """Twice the argument's position, plus one for its upper half. For an int the kernel reads only the lower half."""
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF


CHECKS = {
    # Only threads: they share everything and end with the process. A thread with its own descriptors would multiply the
    # number of open files, and hide them from the measurement.
    "clone": (WordTest(0, (CLONE_OF_A_THREAD,), CLONE_OF_A_THREAD | CLONE_NAMESPACES),),
    "close_range": (WordTest(4, (0, CLOSE_RANGE_CLOEXEC)),),  # not CLOSE_RANGE_UNSHARE, for the same reason
    # Event loops use a stream pair to wake up. A datagram pair could be redirected to a socket of the host.
    "socketpair": (WordTest(0, (AF_UNIX,)), WordTest(2, (SOCK_STREAM,), 0xFFFFFFFF & ~SOCK_FLAGS)),
    "sendto": (WordTest(8, (0,)), WordTest(9, (0,))),  # without an address
    "ioctl": (WordTest(2, IOCTLS),),
    "fcntl": (WordTest(2, FCNTLS),),
    "prctl": (WordTest(0, PRCTLS),),
}


def filter_program(machine: str, pid: int) -> bytes:
    """Return the filter for one process, which may signal and limit only itself. Raises KeyError without a table."""
    itself = {
        "kill": (WordTest(0, (pid,)),),
        "tkill": (WordTest(0, (pid,)),),
        "tgkill": (WordTest(0, (pid,)),),
        "prlimit64": (WordTest(0, (0, pid)),),
    }
    numbers = _numbers(CONDITIONAL, MACHINES[machine].column)
    own = b"".join(_checked(numbers[name], tests) for name, tests in itself.items())
    return _start(machine) + own + _rest(machine)  # jumps are relative, so parts can be concatenated


@cache
def _start(machine: str) -> bytes:
    """Return the first part: kill the process on a call of another architecture, where numbers differ."""
    program = _code(LOAD, ARCHITECTURE_OFFSET) + _code(EQUAL, MACHINES[machine].audit, 1, 0) + _code(RETURN, KILL)
    program += _code(LOAD, NUMBER_OFFSET)
    if machine == "x86_64":
        program += _code(AT_LEAST, X32, 0, 1) + _code(RETURN, KILL)
    return program


@cache
def _rest(machine: str) -> bytes:
    column = MACHINES[machine].column
    conditional = _numbers(CONDITIONAL, column)
    program = b"".join(_checked(conditional[name], tests) for name, tests in CHECKS.items())
    for table, verdict in (
        (ALLOWED, ALLOW),
        (PRETENDED, ERRNO | 0),
        (WITHOUT_ATTRIBUTES, ERRNO | errno.EOPNOTSUPP),
        (UNKNOWN, ERRNO | errno.ENOSYS),
    ):
        for first, last in _ranges(_numbers(table, column).values()):
            program += _code(AT_LEAST, first, 0, 2) + _code(AT_LEAST, last + 1, 1, 0) + _code(RETURN, verdict)
    program += _code(AT_LEAST, NEWEST + 1, 0, 1) + _code(RETURN, ERRNO | errno.ENOSYS)
    return program + _code(RETURN, ERRNO | errno.EPERM)


def _numbers(table: str, column: int) -> dict[str, int]:
    words = table.split()
    numbers = {name: pair.split("/")[column] for name, pair in zip(words[::2], words[1::2], strict=True)}
    return {name: int(number) for name, number in numbers.items() if number != "-"}


def _ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return the first and last number of each run. A short filter is faster: the kernel tries every call at install."""
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        first = runs.pop()[0] if runs and runs[-1][1] == number - 1 else number
        runs.append((first, number))
    return runs


def _checked(number: int, tests: tuple[WordTest, ...]) -> bytes:
    """Return the code that allows the call if every test holds."""
    body = b""
    for test in tests:
        body += _code(LOAD, ARGUMENTS_OFFSET + 4 * test.word) + _code(MASK, test.mask)
        for left, value in zip(range(len(test.values), 0, -1), test.values, strict=True):
            body += _code(EQUAL, value, left, 0)  # jump over the other values and the refusal
        body += _code(RETURN, ERRNO | errno.EPERM)
    return _case(number, body + _code(RETURN, ALLOW))


def _case(number: int, body: bytes) -> bytes:
    """Return code that runs the body for one call and skips it for all others. The body always returns."""
    return _code(EQUAL, number, 0, len(body) // INSTRUCTION.size) + body


def _code(opcode: int, constant: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return INSTRUCTION.pack(opcode, if_true, if_false, constant)
