"""Lock a directory for one process. The lock ends with its process, even if that is killed."""

import fcntl
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from sod.errors import RunError
from sod.runs.files import cannot_be_written

LOCK_FILE = "run.lock"
PATIENCE_SECONDS, WAIT_SECONDS = 10.0, 0.01
"""Longest wait for processes that only look, and the time between two attempts: `is_held` locks the file for a moment."""


class Lock:
    """A lock on a directory: the file `run.lock`, locked with flock and removed on release.

    A missing directory is created, and removed again on release if it is empty. The lock file of a killed process has no
    effect.
    """

    def __init__(self, folder: Path):
        self._folder, self._path = folder, folder / LOCK_FILE
        self._descriptor: int | None = None
        self._created: list[Path] = []

    def take(self) -> str:
        """Take the lock. -> a warning if the file system has no locks, else ""

        Raise RunError if another process holds it.
        """
        warning = ""
        try:
            self._create(self._folder)
            while self._descriptor is None:
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                try:
                    warning = self._lock(descriptor)
                    if self._is_current(descriptor):
                        self._descriptor, descriptor = descriptor, None
                finally:
                    if descriptor is not None:
                        os.close(descriptor)
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        except OSError as error:
            self.release()
            raise RunError(f"{cannot_be_written(self._folder, error)} Choose another --out.") from error
        return warning

    def release(self) -> None:
        if self._descriptor is not None:
            with suppress(OSError):
                self._path.unlink()
            os.close(self._descriptor)
            self._descriptor = None
        for folder in self._created:
            with suppress(OSError):  # it is not empty and is kept
                folder.rmdir()
        self._created = []

    def _create(self, folder: Path) -> None:
        if not folder.is_dir():
            self._create(folder.parent)
            with suppress(FileExistsError):
                folder.mkdir()
                self._created.insert(0, folder)

    def _lock(self, descriptor: int) -> str:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return ""
            except BlockingIOError as error:
                if _is_only_looked_at(descriptor) and time.monotonic() < deadline:
                    time.sleep(WAIT_SECONDS)
                    continue
                holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
                raise RunError(f"{self._folder} is in use by {holder}. Wait until it has ended, or end it.") from error
            except OSError as error:
                words = f"{self._folder} cannot be locked ({error.strerror})."
                return f"{words} Do not start a second process with this directory."

    def _is_current(self, descriptor: int) -> bool:
        """Return whether the open file is still `run.lock`. A process that releases the lock removes the file."""
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self._path))
        except FileNotFoundError:
            return False


def _is_only_looked_at(descriptor: int) -> bool:
    """Return whether all locks on the file are shared, as that of `is_held` is."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return True


def is_held(folder: Path) -> bool | None:
    """Return whether a living process holds the directory. None: a lock file is left, and no process holds it.

    On a file system without locks, the process that the lock file names is looked up. A process of another machine counts
    as living.
    """
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # another user's
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return True
    except OSError:
        return True if _is_alive(os.pread(descriptor, 200, 0).decode(errors="replace")) else None
    finally:
        os.close(descriptor)


def _is_alive(holder: str) -> bool:
    """Return whether the process that a lock file names is alive, as far as this machine can tell."""
    match holder.split():
        case ["process", number, "on", host] if number.isdecimal() and host == socket.gethostname():
            try:
                os.kill(int(number), 0)
            except ProcessLookupError:
                return False
            except OSError:  # another user's
                return True
    return True
