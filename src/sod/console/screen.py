"""The user's screen or log: what cannot be written there is dropped, and does not end the command.

A pipe may be closed (`| head`), a terminal gone, the disk of a log full.
"""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from typing import TextIO


class Screen(TextIOWrapper):
    """Text to a file descriptor, or to nowhere once that has failed."""

    reports = False
    """Whether a failure is reported at once, and the command goes on for what else it does."""
    failure: OSError | None = None
    """Why the text goes nowhere."""

    def write(self, text: str, /) -> int:
        with self._dropping():
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with self._dropping():
            super().flush()

    @contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = error
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # what is still in the buffer goes there, too
            os.close(nowhere)
            if self.reports:
                with suppress(OSError):
                    os.write(2, f"sod: the output is dropped ({error.strerror}); the command continues.\n".encode())


def install() -> None:
    """Make stdout and stderr such screens."""
    sys.stdout, sys.stderr = _over(sys.stdout, 1), _over(sys.stderr, 2)


def _over(stream: TextIO | None, descriptor: int) -> TextIO:
    if stream is None:  # the command was started without one
        return open(os.devnull, "w", encoding="utf-8")
    buffer = open(descriptor, "wb", closefd=False)
    lines = stream.isatty() or descriptor == 2
    return Screen(buffer, encoding=stream.encoding, errors=stream.errors, line_buffering=lines)


def report_failures() -> None:
    """Report to stderr, from now on, that stdout has failed: the command goes on without it."""
    if isinstance(sys.stdout, Screen):
        sys.stdout.reports = True


def lost() -> str:
    """Why output was lost that was all that a command is for; nothing if it was not, or its reader has closed the pipe."""
    sys.stdout.flush()
    screen = sys.stdout
    if not isinstance(screen, Screen) or screen.failure is None or screen.reports:
        return ""
    return "" if screen.failure.errno == errno.EPIPE else f"the output cannot be written: {screen.failure.strerror}"
