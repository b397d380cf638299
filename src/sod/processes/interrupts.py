"""Handle signals that ask a command to end: SIGTERM (scancel, docker stop) and SIGHUP (a closed terminal).

The first signal raises `Terminated`, which is handled like Ctrl-C. During work that must not be interrupted, it is only noted:

    with held_back():                  # noted
        with let_through(): sample()   # raised here, and immediately if one was noted before
        learn()                        # noted

A second signal ends the process immediately. Copies of the first one within `TOGETHER_SECONDS` are ignored: a scheduler
signals every process of a job, and torchrun forwards the signals that it receives.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

TOGETHER_SECONDS = 3.0
COPY_SECONDS = 0.5
"""A person presses Ctrl-C again after a longer time, and programs forward a signal within a shorter one."""
SIGNALS = (signal.SIGTERM, signal.SIGHUP)
RESUMED = ("sft", "train")
"""Commands that continue with --resume."""
CONTINUED = (
    "lab demo",
    "lab real",
    "lab teacher",
    "eval",
    "rollout",
    "run",
    "compare",
    "diagnose",
    "data fetch",
    "serve",
)
"""Commands that continue when they are run again."""


class Terminated(KeyboardInterrupt):
    """A signal has asked this command to end."""

    def __init__(self, number: int, *, agreed: bool = False):
        self.name = signal.Signals(number).name
        super().__init__(f"ended by {self.name}")
        self.number = number
        self.agreed = agreed
        """Whether all processes of the run end for this reason."""


class _State:
    number = 0
    """The first signal received; 0 if there was none."""
    since = 0.0
    held_back = False


_state = _State()


@contextmanager
def obeyed() -> Iterator[None]:
    """Handle both signals, except one that is ignored (nohup). Has no effect outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    _state.number = 0
    for number in SIGNALS:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, receive)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def receive(number: int, frame: FrameType | None = None) -> None:
    """Handle a signal."""
    del frame
    now = time.monotonic()
    if not _state.number:
        _state.number, _state.since = number, now
        if not _state.held_back:
            raise Terminated(number)
    elif now - _state.since > TOGETHER_SECONDS:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


@contextmanager
def calling(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` at the first Ctrl-C, SIGTERM or SIGHUP instead of raising. Only in the main thread.

    A later signal raises. Copies within `COPY_SECONDS` are ignored: `timeout` and `uv run` forward a signal that the terminal has
    sent to this process as well.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *SIGNALS)}
    since: float | None = None

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def called(number: int, frame: FrameType | None) -> None:
        del frame
        nonlocal since
        if since is None:
            since = time.monotonic()
            stop()
        elif time.monotonic() - since > COPY_SECONDS:
            restore()
            signal.raise_signal(number)

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, called)
    try:
        yield
    finally:
        restore()


def noted() -> int:
    """Return the signal that was received; 0 if there was none."""
    return _state.number


@contextmanager
def held_back() -> Iterator[None]:
    """Note a signal instead of raising."""
    before, _state.held_back = _state.held_back, True
    try:
        yield
    finally:
        _state.held_back = before


@contextmanager
def let_through() -> Iterator[None]:
    """Within `held_back`, raise a signal again. Raises immediately if one was noted before."""
    before, _state.held_back = _state.held_back, False
    try:
        if _state.number:
            raise Terminated(_state.number)
        yield
    finally:
        _state.held_back = before
