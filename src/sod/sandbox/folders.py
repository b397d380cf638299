"""The directories that programs work in: made, measured, removed, and never left behind for ever.

All directories of one zygote stand in one root, which its owners hold a lock on for as long as they live. A root that
nobody holds was left by somebody who was killed; the next zygote beside it sweeps it up.
"""

import contextlib
import fcntl
import os
import secrets
import stat
import tempfile

PREFIX = "sod-sandbox-"
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


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
        os.chmod(folder, 0o700)
        top = os.open(folder, FOLDER)
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
    os.chmod(name, 0o700, dir_fd=parent)
    if parent != top:
        os.rename(name, f"{PREFIX}{secrets.token_hex(8)}", src_dir_fd=parent, dst_dir_fd=top)
        return
    folder = os.open(name, FOLDER, dir_fd=top)
    try:
        for inner in os.listdir(folder):
            _remove_or_move_up(inner, folder, top)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=top)


def usage(folder: str, most: int) -> tuple[int, int]:
    """Bytes and number of the files and directories in a tree that may be changing. Stops beyond `most` of them.

    A file with holes counts as if it had none. A tree too deep to be named counts as too many.
    """
    size = count = 0
    waiting = [folder]
    while waiting and count <= most:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    count += 1
                    size += _size(entry, waiting)
                    if count > most:
                        break
        except (FileNotFoundError, PermissionError):  # gone since it was seen
            continue
        except OSError:
            return size, most + 1
    return size, count


def _size(entry: os.DirEntry[str], folders: list[str]) -> int:
    """What one entry takes on the disk; if it is a directory, it is added to the list."""
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return 0
    if stat.S_ISDIR(status.st_mode):
        folders.append(entry.path)
    return max(status.st_size, 512 * status.st_blocks)


def unlinked_usage(pid: int, folder: str) -> int:
    """Bytes of the files on the folder's disk that a process has deleted and still holds open (Linux)."""
    size = 0
    with contextlib.suppress(FileNotFoundError, PermissionError, ProcessLookupError):  # it has ended
        disk = os.stat(folder).st_dev
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(f"/proc/{pid}/fd/{fd}")
                if status.st_nlink == 0 and status.st_dev == disk and stat.S_ISREG(status.st_mode):
                    size += max(status.st_size, 512 * status.st_blocks)
    return size
