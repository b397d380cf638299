"""The filters for system calls, run as the kernel runs them: by an interpreter of classic BPF."""

import errno
import struct

import pytest

from sod.sandbox import seccomp
from sod.sandbox.seccomp import ALLOW, ERRNO, KILL, MACHINES, filter_program

PID = 4321
REFUSED, UNKNOWN, UNSUPPORTED, PRETENDED = (ERRNO | e for e in (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, 0))


def verdict(program: bytes, number: int, *arguments: int, audit: int) -> int:
    """What the filter returns for a call: numbers and offsets as in linux/filter.h and linux/seccomp.h."""
    padded = (*arguments, *(6 - len(arguments)) * (0,))
    data = struct.pack("<iIQ6Q", number if number < 1 << 31 else number - (1 << 32), audit, 0, *padded)
    code = list(struct.iter_unpack("<HBBI", program))
    accumulator = at = 0
    while True:
        opcode, if_true, if_false, constant = code[at]
        at += 1
        match opcode:
            case 0x20:  # load a word
                accumulator = int.from_bytes(data[constant : constant + 4], "little")
            case 0x54:  # and
                accumulator &= constant
            case 0x15:  # jump if equal
                at += if_true if accumulator == constant else if_false
            case 0x35:  # jump if greater or equal
                at += if_true if accumulator >= constant else if_false
            case 0x06:  # return
                return constant
            case _:
                raise AssertionError(f"unknown instruction {opcode:#x}")


class Filter:
    """The filter of one machine, asked by the numbers of its calls."""

    def __init__(self, machine: str) -> None:
        self.machine = machine
        self.program = filter_program(machine, PID)

    def __call__(self, number: int, *arguments: int) -> int:
        return verdict(self.program, number, *arguments, audit=MACHINES[self.machine].audit)


X86, ARM = Filter("x86_64"), Filter("aarch64")
BOTH = pytest.mark.parametrize(("ask", "column"), [(X86, 0), (ARM, 1)], ids=["x86_64", "aarch64"])

# Written down here a second time, from the kernel's tables, and not read from the module.
COMPUTING = {
    "read": (0, 63),
    "openat": (257, 56),
    "mmap": (9, 222),
    "futex": (202, 98),
    "getrandom": (318, 278),
    "exit_group": (231, 94),
    "unlinkat": (263, 35),
    "newfstatat": (262, 79),
    "clock_nanosleep": (230, 115),
    "rt_sigreturn": (15, 139),
    "wait4": (61, 260),
}
DANGEROUS = {
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "accept": (43, 202),
    "sendmsg": (46, 211),
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "mount": (165, 40),
    "unshare": (272, 97),
    "setns": (308, 268),
    "chroot": (161, 51),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "open_by_handle_at": (304, 265),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "setuid": (105, 146),
    "fchownat": (260, 54),
    "truncate": (76, 45),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "setpriority": (141, 140),
    "personality": (135, 92),
    "seccomp": (317, 277),
    "landlock_restrict_self": (446, 446),
    "reboot": (169, 142),
    "splice": (275, 76),
    "inotify_add_watch": (254, 27),
}
OLDER_KERNEL = {
    "clone3": (435, 435),
    "openat2": (437, 437),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "memfd_create": (319, 279),
    "a call of tomorrow": (600, 600),
}


@BOTH
def test_what_a_computation_needs_is_allowed(ask: Filter, column: int) -> None:
    assert {name: ask(numbers[column]) for name, numbers in COMPUTING.items()} == dict.fromkeys(COMPUTING, ALLOW)


@BOTH
def test_what_reaches_out_of_the_process_is_refused(ask: Filter, column: int) -> None:
    assert {name: ask(numbers[column]) for name, numbers in DANGEROUS.items()} == dict.fromkeys(DANGEROUS, REFUSED)


@BOTH
def test_what_no_filter_can_check_looks_as_on_an_older_kernel(ask: Filter, column: int) -> None:
    assert {name: ask(n[column]) for name, n in OLDER_KERNEL.items()} == dict.fromkeys(OLDER_KERNEL, UNKNOWN)


@BOTH
def test_threads_are_allowed_and_processes_are_not(ask: Filter, column: int) -> None:
    clone = (56, 220)[column]
    assert ask(clone, 0x3D0F00) == ALLOW  # as the C library starts a thread
    assert ask(clone, 0x1200011) == REFUSED  # as it forks
    assert ask(clone, 0x4111) == REFUSED  # as it spawns
    assert ask(clone, 0x3D0F00 & ~0x400) == REFUSED  # a thread with descriptors of its own
    assert [ask(436, 9, 9, flags) for flags in (0, 4, 2, 6)] == [ALLOW, ALLOW, REFUSED, REFUSED]  # which this makes too
    assert ask(clone, 0x3D0F00 | 0x10000000) == REFUSED  # a thread in a user namespace
    assert ask(clone, 0x3D0F00 | 0x40000000) == REFUSED  # in a network namespace
    if column == 0:
        assert (ask(57), ask(58)) == (REFUSED, REFUSED)  # fork, vfork


@BOTH
def test_signals_and_limits_are_for_the_process_itself(ask: Filter, column: int) -> None:
    kill, tkill, tgkill, prlimit = (62, 129)[column], (200, 130)[column], (234, 131)[column], (302, 261)[column]
    everyone = 0xFFFFFFFF
    assert [ask(kill, pid, 9) for pid in (PID, 1, 0, everyone, PID + 1)] == [ALLOW] + 4 * [REFUSED]
    assert [ask(tgkill, pid, 5, 9) for pid in (PID, 1)] == [ALLOW, REFUSED]
    assert [ask(tkill, tid, 9) for tid in (PID, 1)] == [ALLOW, REFUSED]
    assert [ask(prlimit, pid, 7) for pid in (0, PID, 1)] == [ALLOW, ALLOW, REFUSED]


@BOTH
def test_sockets_come_as_connected_pairs_of_streams_alone(ask: Filter, column: int) -> None:
    pair, send = (53, 199)[column], (44, 206)[column]
    unix, inet, stream, datagram, flags = 1, 2, 1, 2, 0o2004000
    assert [ask(pair, unix, stream), ask(pair, unix, stream | flags)] == [ALLOW, ALLOW]
    assert [ask(pair, unix, datagram), ask(pair, inet, stream), ask(pair, unix, 5)] == 3 * [REFUSED]
    assert ask(send, 3, 0x7000, 5, 0, 0, 0) == ALLOW
    assert [ask(send, 3, 0x7000, 5, 0, address) for address in (0x1000, 1 << 32)] == 2 * [REFUSED]


@BOTH
def test_of_ioctl_fcntl_and_prctl_only_the_harmless_part_is_allowed(ask: Filter, column: int) -> None:
    ioctl, fcntl, prctl = (16, 29)[column], (72, 25)[column], (157, 167)[column]
    assert [ask(ioctl, 0, request) for request in (0x5401, 0x5421)] == [ALLOW, ALLOW]  # TCGETS, FIONBIO
    assert [ask(ioctl, 0, request) for request in (0x5412, 0x8901)] == [REFUSED, REFUSED]  # TIOCSTI, FIOSETOWN
    assert [ask(fcntl, 3, command) for command in (0, 1, 2, 3, 4, 6, 1030)] == 7 * [ALLOW]
    assert [ask(fcntl, 3, command) for command in (8, 10, 15, 1024, 1031)] == 5 * [REFUSED]  # F_SETOWN, F_SETSIG, ...
    assert [ask(prctl, option) for option in (15, 16)] == [ALLOW, ALLOW]
    assert [ask(prctl, option) for option in (1, 4, 22, 38)] == 4 * [REFUSED]  # PDEATHSIG, DUMPABLE, SECCOMP, NNP


@BOTH
def test_modes_times_and_attributes_are_not_changed_but_copying_works(ask: Filter, column: int) -> None:
    assert [ask(call) for call in ((91, 268, 280), (52, 53, 88))[column]] == 3 * [PRETENDED]  # fchmod(at), utimensat
    assert [ask(call) for call in ((191, 188, 194), (8, 5, 11))[column]] == 3 * [UNSUPPORTED]  # get, set, list


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_of_another_architecture_end_the_process(machine: str) -> None:
    program = filter_program(machine, PID)
    others = [0x40000003, 0x40000028, 0xC00000F3]  # i386, arm, riscv64
    others += [other.audit for name, other in MACHINES.items() if name != machine]
    assert {verdict(program, 0, audit=audit) for audit in others} == {KILL}


def test_the_32_bit_calls_of_x86_64_end_the_process() -> None:
    assert [X86(0x40000000 + number) for number in (0, 39, 520)] == 3 * [KILL]


@pytest.mark.parametrize("machine", MACHINES)
def test_every_number_below_a_thousand_has_a_verdict_and_the_program_fits_the_kernel(machine: str) -> None:
    ask = Filter(machine)
    assert len(ask.program) // 8 < 4096
    verdicts = {ask(number) for number in range(1000)}
    assert verdicts == {ALLOW, REFUSED, UNKNOWN, UNSUPPORTED, PRETENDED}


def test_no_table_names_a_call_or_a_number_twice() -> None:
    tables = (
        seccomp.ALLOWED,
        seccomp.PRETENDED,
        seccomp.WITHOUT_ATTRIBUTES,
        seccomp.UNKNOWN,
        seccomp.CONDITIONAL,
    )
    words = " ".join(tables).split()
    names, pairs = words[::2], [pair.split("/") for pair in words[1::2]]
    assert len(set(names)) == len(names)
    for column in (0, 1):
        numbers = [pair[column] for pair in pairs if pair[column] != "-"]
        assert len(set(numbers)) == len(numbers)


def test_a_machine_without_a_table_has_no_filter() -> None:
    with pytest.raises(KeyError):
        filter_program("riscv64", PID)
