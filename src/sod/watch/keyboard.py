"""Read keys from a terminal, one at a time, without waiting for Enter."""

import os
import re
import select
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

NAMES = {
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1b[C": "right",
    b"\x1b[D": "left",
    b"\x1b[5~": "page up",
    b"\x1b[6~": "page down",
    b"\x1b[H": "home",
    b"\x1b[1~": "home",
    b"\x1b[F": "end",
    b"\x1b[4~": "end",
    b"\x1b[Z": "back tab",
    b"\x1b": "escape",
    b"\t": "tab",
    b"\r": "enter",
    b"\n": "enter",
    b" ": "page down",
}
"""What a terminal sends for a key, and the key's name. Other keys are named by their character."""
KEY = re.compile(rb"\x1b[\[O][0-9;]*[A-Za-z~]|\x1b|[^\x1b]")


@contextmanager
def keys_of(descriptor: int) -> Iterator[None]:
    """Let a terminal send each key at once, and show none. Ctrl-C still interrupts; Ctrl-Z has no effect."""
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        now = termios.tcgetattr(descriptor)
        now[6][termios.VSUSP] = b"\0"  # a stopped program would leave its screen behind
        termios.tcsetattr(descriptor, termios.TCSANOW, now)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def read_keys(descriptor: int, seconds: float) -> list[str] | None:
    """Wait at most so many seconds for keys. -> their names, or None if the terminal is gone"""
    ready, _, _ = select.select([descriptor], [], [], seconds)
    if not ready:
        return []
    try:
        data = os.read(descriptor, 1024)
    except OSError:
        return None
    return names_of(data) if data else None


def names_of(data: bytes) -> list[str]:
    """Return the names of the keys that a terminal has sent.

    >>> names_of(b"q\\x1b[A\\x1bOB\\t")
    ['q', 'up', 'down', 'tab']
    """
    keys: list[bytes] = [key.replace(b"\x1bO", b"\x1b[") for key in KEY.findall(data)]
    return [NAMES.get(key, key.decode(errors="replace")) for key in keys]
