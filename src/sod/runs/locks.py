"""One process per directory: a lock that ends with its process, however that ends."""

import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path

from sod.errors import RunError
from sod.runs.files import cannot_be_written

NAME = "run.lock"


class Lock:
    """`run.lock` in a directory, held through flock and removed when released.

    The directory is created if it is missing, and removed again if nothing else came into it. A lock file that a killed
    process has left locks nothing.
    """

    def __init__(self, folder: Path):
        self._folder, self._path = folder, folder / NAME
        self._descriptor: int | None = None
        self._created: list[Path] = []

    def take(self) -> str:
        """Raises RunError where another process has it. -> a warning where the file system has no locks, else nothing"""
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
            with suppress(OSError):  # it is not empty, and stays
                folder.rmdir()
        self._created = []

    def _create(self, folder: Path) -> None:
        if not folder.is_dir():
            self._create(folder.parent)
            with suppress(FileExistsError):
                folder.mkdir()
                self._created.insert(0, folder)

    def _lock(self, descriptor: int) -> str:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
            raise RunError(f"{self._folder} is in use by {holder}. Wait until that has ended, or end it.") from error
        except OSError as error:
            return f"{self._folder} cannot be locked ({error.strerror}): do not start a second process with this directory."
        return ""

    def _is_current(self, descriptor: int) -> bool:
        """Whether this is still the file of that name: a process that releases the lock removes the file."""
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self._path))
        except FileNotFoundError:
            return False
