"""Write to the user's screen or log. Output that cannot be written is dropped, and the command continues.

A pipe may be closed (`| head`), a terminal may be gone, the disk of a log may be full.
"""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from typing import TextIO


class Screen(TextIOWrapper):
    """A text stream to a file descriptor. After the first failure, further text is dropped."""

    reports = False
    """Whether a failure is reported immediately, because the command has other work to do."""
    failure: OSError | None = None
    """The failure, if there was one."""

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
            os.dup2(nowhere, self.fileno())  # the buffer is dropped, too
            os.close(nowhere)
            if self.reports:
                with suppress(OSError):
                    os.write(2, f"sod: the output is dropped ({error.strerror}); the command continues.\n".encode())


def guard_output() -> None:
    """Replace stdout and stderr by `Screen` streams."""
    sys.stdout, sys.stderr = _over(sys.stdout, 1), _over(sys.stderr, 2)


def _over(stream: TextIO | None, descriptor: int) -> TextIO:
    if stream is None:  # the command was started without one
        return open(os.devnull, "w", encoding="utf-8")
    buffer = open(descriptor, "wb", closefd=False)
    lines = stream.isatty() or descriptor == 2
    # A name of a file may be in another encoding than the terminal's.
    return Screen(buffer, encoding=stream.encoding, errors="backslashreplace", line_buffering=lines)


def report_failures() -> None:
    """Report later failures of stdout to stderr. The command continues without stdout."""
    if isinstance(sys.stdout, Screen):
        sys.stdout.reports = True


def lost() -> str:
    """Return why a printing command's output was lost, or "" if it was not lost or the reader closed the pipe."""
    sys.stdout.flush()
    screen = sys.stdout
    if not isinstance(screen, Screen) or screen.failure is None or screen.reports:
        return ""
    return "" if screen.failure.errno == errno.EPIPE else f"the output cannot be written: {screen.failure.strerror}"
