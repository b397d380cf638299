"""The directories that programs work in: made, measured, removed, and never left behind for ever.

All directories of one zygote stand in one root, which its owners hold a lock on for as long as they live. A root that
nobody holds was left by somebody who was killed; the next zygote beside it sweeps it up.
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
"""Levels of directories that are looked into. Each takes a descriptor."""


def make_root() -> tuple[str, int]:
    """A new root in the directory for temporary files, and a descriptor whose lock keeps sweepers away."""
    while True:
        root = tempfile.mkdtemp(prefix=PREFIX)
        lock = hold(root)
        if lock is not None:
            return root, lock


def hold(root: str) -> int | None:
    """A descriptor whose lock keeps sweepers away; None if one of them was faster."""
    try:
        fd = os.open(root, FOLDER)
    except FileNotFoundError:
        return None
    fcntl.flock(fd, fcntl.LOCK_SH)  # waits for a sweeper to finish
    if os.path.isdir(root):
        return fd
    os.close(fd)
    return None


def sweep(folder: str) -> None:
    """Remove the roots in this directory that are ours and that nobody holds."""
    with contextlib.suppress(PermissionError):  # it may be one in which nobody can look around
        for name in os.listdir(folder):
            if name.startswith(PREFIX):
                _remove_if_abandoned(f"{folder}/{name}")


def _remove_if_abandoned(root: str) -> None:
    with contextlib.suppress(OSError):  # not a directory, not ours, held, or gone
        fd = os.open(root, FOLDER)
        try:
            if os.fstat(fd).st_uid == os.geteuid():
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(root)
        finally:
            os.close(fd)


def remove(folder: str) -> None:
    """Delete a tree, however deep it is, and whatever rights were taken from it. Links are not followed.

    Only two levels are ever looked at: what stands in a subdirectory is moved up first.
    """
    with contextlib.suppress(OSError):  # it is gone, or the disk is at fault
        top = _opened_with_rights(folder)
        try:
            while names := os.listdir(top):
                for name in names:
                    _remove_or_move_up(name, top, top)
        finally:
            os.close(top)
        os.rmdir(folder)


def _remove_or_move_up(name: str, parent: int, top: int) -> None:
    """Delete what has this name in `parent`; a directory elsewhere than in `top` is only moved there."""
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
    """A descriptor of a directory over which its owner then has all rights. What is changed is never behind a link."""
    try:
        fd = os.open(name, FOLDER, dir_fd=parent)
    except PermissionError:
        fd = _unlocked(name, parent)
    os.fchmod(fd, 0o700)
    return fd


def _unlocked(name: str, parent: int | None) -> int:
    """A descriptor of a directory that its owner could not look into."""
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
    """Bytes and number of the files and directories in a tree that may be changing. Stops beyond `most` of them.

    A file with holes counts as if it had none. A tree that is deeper than DEEPEST counts as too many, and so does a
    directory that its owner cannot look into: it could hide any amount. Each level is opened from the one above, so that a
    link, put anywhere at any moment, leads nowhere. Nothing is changed.
    """
    size = count = 0
    opened: list[tuple[int, list[str]]] = []  # descriptors of a directory and those above it, and what is left in each
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
    """A descriptor of a directory within another; None if it is gone since it was seen, or replaced."""
    try:
        return os.open(name, FOLDER, dir_fd=outer)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise


def _size(entry: os.DirEntry[str], folders: list[str]) -> int:
    """What one entry takes on the disk; if it is a directory, it is added to the list."""
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return 0
    if stat.S_ISDIR(status.st_mode):
        folders.append(entry.name)
    return max(status.st_size, 512 * status.st_blocks)


def unlinked_usage(pid: int, other_disk: int) -> int:
    """Bytes of the files that a process has deleted and still holds open; those on the other disk are not its own."""
    size = 0
    for fd in _descriptors(pid):
        with contextlib.suppress(FileNotFoundError, PermissionError, ProcessLookupError):  # closed, or it has ended
            status = os.stat(f"/proc/{pid}/{fd}")
            if status.st_nlink == 0 and status.st_dev != other_disk and stat.S_ISREG(status.st_mode):
                size += max(status.st_size, 512 * status.st_blocks)
    return size


def _descriptors(pid: int) -> list[str]:
    """What a process holds open, as paths in its part of /proc (Linux; elsewhere nothing)."""
    with contextlib.suppress(FileNotFoundError, PermissionError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{pid}/task"):  # the first may have ended, and the others go on
            with contextlib.suppress(FileNotFoundError, PermissionError, ProcessLookupError):
                if fds := os.listdir(f"/proc/{pid}/task/{thread}/fd"):
                    return [f"task/{thread}/fd/{fd}" for fd in fds]
    return []


def threads(pid: int) -> int:
    """How many threads a process has (Linux; elsewhere 0)."""
    with contextlib.suppress(FileNotFoundError, PermissionError, ProcessLookupError):
        return os.stat(f"/proc/{pid}/task").st_nlink - 2
    return 0
