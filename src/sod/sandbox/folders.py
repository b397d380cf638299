"""Create, measure and remove the working directories of programs.

All directories of one zygote are in one root. The processes that own the root hold a lock on it while they live. A root
without a lock was left behind by a killed process; the next zygote in the same place removes it.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import sys
import tempfile

PREFIX = "sod-sandbox-"
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
DEEPEST = 256
"""Levels of directories that are measured. Each level takes a descriptor."""


def make_root() -> tuple[str, int]:
    """Create a root in the temporary directory. Return it and a descriptor that locks it against `sweep`."""
    while True:
        root = tempfile.mkdtemp(prefix=PREFIX)
        lock = hold(root)
        if lock is not None:
            return root, lock


def hold(root: str) -> int | None:
    """Return a descriptor that locks the root against `sweep`; None if the root has already been removed."""
    try:
        fd = os.open(root, FOLDER)
    except FileNotFoundError:
        return None
    fcntl.flock(fd, fcntl.LOCK_SH)  # waits for a running `sweep`
    if os.path.isdir(root):
        return fd
    os.close(fd)
    return None


def sweep(folder: str) -> None:
    """Remove the roots in this directory that belong to this user and are not locked."""
    with contextlib.suppress(PermissionError):  # the directory may not be listable
        for name in os.listdir(folder):
            if name.startswith(PREFIX):
                _remove_if_abandoned(f"{folder}/{name}")


def _remove_if_abandoned(root: str) -> None:
    with contextlib.suppress(OSError):  # not a directory, another user's, locked, or gone
        fd = os.open(root, FOLDER)
        try:
            if os.fstat(fd).st_uid == os.geteuid():
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(root)
        finally:
            os.close(fd)


def remove(folder: str) -> None:
    """Delete a tree of any depth and with any permissions. Links are not followed.

    Only two levels are visited at a time: the contents of a subdirectory are moved up first.
    """
    with contextlib.suppress(OSError):  # it is gone, or the disk failed
        top = _opened_with_rights(folder)
        try:
            while names := os.listdir(top):
                for name in names:
                    _remove_or_move_up(name, top, top)
        finally:
            os.close(top)
        os.rmdir(folder)


def _remove_or_move_up(name: str, parent: int, top: int) -> None:
    """Delete the entry of this name in `parent`. A directory that is not in `top` is only moved to `top`."""
    if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=parent)
        return
    folder = _opened_with_rights(name, parent)
    try:
        if parent != top:
            os.rename(name, f"{PREFIX}{secrets.token_hex(8)}", src_dir_fd=parent, dst_dir_fd=top)
            return
        for inner in os.listdir(folder):
            _remove_or_move_up(inner, folder, top)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=top)


def _opened_with_rights(name: str, parent: int | None = None) -> int:
    """Give the owner all rights over a directory and return a descriptor. Never follows a link."""
    try:
        fd = os.open(name, FOLDER, dir_fd=parent)
    except PermissionError:
        fd = _unlocked(name, parent)
    os.fchmod(fd, 0o700)
    return fd


def _unlocked(name: str, parent: int | None) -> int:
    """Return a descriptor of a directory that its owner has no permission to open."""
    if sys.platform != "linux":
        os.chmod(name, 0o700, dir_fd=parent, follow_symlinks=False)
        return os.open(name, FOLDER, dir_fd=parent)
    place = os.open(name, os.O_PATH | FOLDER, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{place}", 0o700)
        return os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_DIRECTORY)
    finally:
        os.close(place)


def usage(folder: int, most: int) -> tuple[int, int]:
    """Return the bytes and the number of files and directories in a tree. Stops after more than `most` entries.

    The tree may change meanwhile. A file with holes counts with its full size. A tree deeper than DEEPEST counts as too many
    entries. So does a directory that its owner cannot open, because it could hide any amount. Each level is opened from the
    one above, so a link created at any moment is never followed. Nothing is changed.
    """
    size = count = 0
    opened: list[
        tuple[int, list[str]]
    ] = []  # from the top to the current directory: descriptor, unvisited subdirectories
    try:
        opened.append((os.open(".", FOLDER, dir_fd=folder), ["."]))
        while opened:
            outer, names = opened[-1]
            if not names:
                os.close(opened.pop()[0])
                continue
            inner = _inner(names.pop(), outer)
            if inner is None:
                continue
            opened.append((inner, []))
            with os.scandir(inner) as entries:
                for entry in entries:
                    count += 1
                    size += _size(entry, opened[-1][1])
                    if count > most:
                        return size, count
            if len(opened) > DEEPEST:
                return size, most + 1
    except OSError:
        return size, most + 1
    finally:
        for fd, _ in opened:
            os.close(fd)
    return size, count


def _inner(name: str, outer: int) -> int | None:
    """Return a descriptor of a subdirectory; None if it has been removed or replaced since it was listed."""
    try:
        return os.open(name, FOLDER, dir_fd=outer)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise


def _size(entry: os.DirEntry[str], folders: list[str]) -> int:
    """Return the disk space of one entry, in bytes. If it is a directory, add it to `folders`."""
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return 0
    if stat.S_ISDIR(status.st_mode):
        folders.append(entry.name)
    return max(status.st_size, 512 * status.st_blocks)


def unlinked_usage(pid: int, other_disk: int) -> int:
    """Return the bytes of files that a process has deleted and still holds open. Files on `other_disk` do not count."""
    size = 0
    for fd in _descriptors(pid):
        with contextlib.suppress(FileNotFoundError, PermissionError, ProcessLookupError):  # closed, or it has ended
            status = os.stat(f"/proc/{pid}/{fd}")
            if status.st_nlink == 0 and status.st_dev != other_disk and stat.S_ISREG(status.st_mode):
                size += max(status.st_size, 512 * status.st_blocks)
    return size


def _descriptors(pid: int) -> list[str]:
    """Return the open descriptors of a process, as paths below /proc/PID (Linux; empty on other systems)."""
    with contextlib.suppress(FileNotFoundError, PermissionError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{pid}/task"):  # the first thread may have ended while others run
            with contextlib.suppress(FileNotFoundError, PermissionError, ProcessLookupError):
                if fds := os.listdir(f"/proc/{pid}/task/{thread}/fd"):
                    return [f"task/{thread}/fd/{fd}" for fd in fds]
    return []


def threads(pid: int) -> int:
    """Return the number of threads of a process (Linux; 0 on other systems)."""
    with contextlib.suppress(FileNotFoundError, PermissionError, ProcessLookupError):
        return os.stat(f"/proc/{pid}/task").st_nlink - 2
    return 0
