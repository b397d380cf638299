"""Code that runs in the process of a session: execute one program after another in the same `__main__`.

Calls arrive over a socket from the sandbox. Each brings the descriptors of its code, stdin, stdout and stderr; the answer is the
exit code. The process ends when the socket is closed. Between calls the zygote stops it, so its threads do not run.

A program can reach everything here, because it shares the interpreter. It can only mislead its own session, which the zygote
limits from outside.
"""

import atexit
import os
import resource
import signal
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Callable
from os import close, dup2, write  # names of this module: a program may replace those in `os`
from types import ModuleType
from typing import Any

from sod.sandbox.child import NAME, NOT_FLUSHED, OPEN_FILES, Job, execute, flush, limit, make_main, open_streams

CALL = struct.Struct("<Q?")
"""Number of the call, show_last_value."""
ANSWER = struct.Struct("<Qidd")
"""Number of the call, exit code, CPU seconds and peak memory in MiB of the process so far."""
SOCKET_TYPE = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_STREAM
"""Keeps messages apart, so that bytes that a program writes there are not read as part of an answer."""
CHANNEL, NOTHING = OPEN_FILES + 6, OPEN_FILES + 7
"""Descriptors of the socket and of /dev/null: above those that a program can open or usually closes."""
DESCRIPTORS = OPEN_FILES + 8
"""Limit while a call is received. A program gets two fewer than OPEN_FILES, because CHANNEL and NOTHING count as well."""
TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)


def run_session(job: Job) -> int:
    """Answer calls until the socket is closed. Return the exit code of the process."""
    take_channel(job)
    channel = socket.socket(socket.AF_UNIX, SOCKET_TYPE, 0, CHANNEL)
    main = make_main()
    exits = ExitFunctions(main)
    atexit.register, atexit.unregister = exits.register, exits.unregister
    while True:
        limit_descriptors(DESCRIPTORS)
        limit_memory(0)
        data, fds, _, _ = socket.recv_fds(channel, CALL.size, 4)
        if not data:
            return 0
        number, show_last_value = CALL.unpack(data)
        code, *streams = fds  # fewer than four if the program has used up all descriptors; this ends the session
        for target, fd in enumerate(streams):
            dup2(fd, target)
            close(fd)
        name = NAME if number == 1 else f"{NAME[:-1]} {number}>"
        open_streams()
        limit_descriptors(OPEN_FILES - 2)
        limit_memory(job.memory)
        exit_code = execute(code, name, main, show_last_value)
        exit_code = exit_code if finish_call(exits) else NOT_FLUSHED
        spent = resource.getrusage(resource.RUSAGE_SELF)
        memory = spent.ru_maxrss / (1024 if sys.platform == "linux" else 1024 * 1024)
        try:
            for target in range(3):
                dup2(NOTHING, target)  # what threads write from here on is lost
            write(CHANNEL, ANSWER.pack(number, exit_code, spent.ru_utime + spent.ru_stime, memory))
        except OSError:  # the program has closed the descriptors
            return exit_code


def take_channel(job: Job) -> None:
    """Move the socket to its descriptor, and close all others."""
    nothing = os.open(os.devnull, os.O_RDWR)
    dup2(job.code, 3)  # 3 and 4 are the zygote's, and all of the job are above
    dup2(nothing, 4)
    close(nothing)
    os.closerange(5, job.last + 1)
    for source, targets in ((4, (0, 1, 2, NOTHING)), (3, (CHANNEL,))):
        for target in targets:
            dup2(source, target, inheritable=target < 3)
    os.closerange(3, 5)
    limit(resource.RLIMIT_NOFILE, DESCRIPTORS, DESCRIPTORS)


def limit_descriptors(most: int) -> None:
    """Allow descriptors below this number. The program gets fewer than this module."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, hard), hard))


def limit_memory(size: int) -> None:
    """Limit the memory to so many bytes. 0: to the program's limit and the spare memory."""
    if sys.platform != "darwin":
        for which in (resource.RLIMIT_DATA, resource.RLIMIT_AS):
            hard = resource.getrlimit(which)[1]
            resource.setrlimit(which, (min(size, hard) if size else hard, hard))


def finish_call(exits: "ExitFunctions") -> bool:
    """End a program whose process lives on: wait for its threads, call its exit functions, flush, and stop timers and hooks.

    Return False if the last output cannot be written.
    """
    wait_for_threads()
    exits.run()
    for timer in TIMERS:
        signal.setitimer(timer, 0)
    sys.settrace(None)
    sys.setprofile(None)
    flushed = flush(sys.stdout, sys.stderr)
    return flush(sys.__stdout__, sys.__stderr__) and flushed


def wait_for_threads() -> None:
    """Wait for all threads that the interpreter would wait for at its end, except the idle ones of thread pools."""
    pools = sys.modules.get("concurrent.futures.thread")
    waiting = getattr(pools, "_threads_queues", ())
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon and thread not in waiting:
            thread.join()


class ExitFunctions:
    """`atexit` of a session: what a program registers runs at the end of its call, as at the end of a process.

    What packages register never runs, because the process is killed.
    """

    def __init__(self, main: ModuleType) -> None:
        self._main = main.__dict__
        self._registered: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = []
        self._others, self._unregister_others = atexit.register, atexit.unregister

    def register(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Callable[..., Any]:
        if sys._getframe(1).f_globals is not self._main:
            return self._others(function, *arguments, **named)
        if not callable(function):
            raise TypeError("the first argument must be callable")
        self._registered.append((function, arguments, named))
        return function

    def unregister(self, function: Callable[..., Any], /) -> None:
        self._registered[:] = [each for each in self._registered if each[0] != function]
        self._unregister_others(function)

    def run(self) -> None:
        """Call the registered functions, the last one first. Print an exception and go on, as the interpreter does."""
        while self._registered:
            function, arguments, named = self._registered.pop()
            try:
                function(*arguments, **named)
            except BaseException as error:  # the program's function may raise anything
                print(f"Exception ignored in atexit callback: {function!r}", file=sys.stderr)
                traceback.print_exception(error)
