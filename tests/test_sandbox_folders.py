"""The directories of programs: removed whatever stands in them, measured while they change."""

import os
import sys
from pathlib import Path

from sod.sandbox import folders
from sod.sandbox.libc import drop_capabilities


def test_a_deep_and_locked_tree_is_removed_without_following_its_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("x")
    room = tmp_path / "room"
    room.mkdir()
    (room / "link").symlink_to(outside)
    (room / "file").write_text("")
    os.mkfifo(room / "pipe")
    here = os.open(room, os.O_RDONLY)
    for depth in range(3000):  # deeper than the stack of Python, and than a path can name
        os.mkdir("d" * 50, dir_fd=here)
        deeper = os.open("d" * 50, os.O_RDONLY, dir_fd=here)
        os.symlink(outside, "link", dir_fd=deeper)
        if depth % 100 == 0:
            os.fchmod(here, 0o300)
        os.close(here)
        here = deeper
    os.close(here)
    folders.remove(str(room))
    assert list(tmp_path.iterdir()) == [outside]
    assert (outside / "file").read_text() == "x"


def test_removing_what_is_not_there_or_not_a_directory_does_nothing(tmp_path: Path) -> None:
    folders.remove(str(tmp_path / "nothing"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    folders.remove(str(tmp_path / "link"))
    assert (tmp_path / "folder").is_dir()


def test_files_directories_and_links_are_counted_and_counting_stops(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").write_bytes(bytes(1 << 20))
    (tmp_path / "link").symlink_to("/")
    with (tmp_path / "hollow").open("wb") as file:
        file.truncate(1 << 30)
    folder = os.open(tmp_path, os.O_RDONLY)
    size, count = folders.usage(folder, 100)
    assert count == 5
    assert (1 << 30) + (1 << 20) <= size < (1 << 30) + (2 << 20)
    assert folders.usage(folder, 3)[1] == 4
    os.close(folder)


def test_what_is_hidden_in_a_locked_directory_is_counted_and_links_lead_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o300)
    room = tmp_path / "room"
    (room / "a/b").mkdir(parents=True)
    (room / "a/b/file").write_bytes(bytes(1 << 20))
    (room / "link").symlink_to(outside)
    for locked, mode in (("a/b", 0o300), ("a", 0o600)):
        (room / locked).chmod(mode)
    folder = os.open(room, os.O_RDONLY)
    pid = os.fork()
    if pid == 0:  # as root, only without what makes it more than a user
        try:
            if sys.platform == "linux":
                drop_capabilities()
            size, count = folders.usage(folder, 100)
            os._exit(0 if count == 4 and size > 1 << 20 else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    os.close(folder)
    assert outside.stat().st_mode & 0o777 == 0o300


def test_only_roots_that_nobody_holds_are_swept_up(tmp_path: Path) -> None:
    for name in ("held", "abandoned"):
        (tmp_path / f"{folders.PREFIX}{name}/0").mkdir(parents=True)
    (tmp_path / "another's").mkdir()
    (tmp_path / f"{folders.PREFIX}link").symlink_to(tmp_path / "another's")
    lock = folders.hold(str(tmp_path / f"{folders.PREFIX}held"))
    assert lock is not None
    folders.sweep(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "another's",
        f"{folders.PREFIX}held",
        f"{folders.PREFIX}link",
    ]
    os.close(lock)
    folders.sweep(str(tmp_path))
    assert not (tmp_path / f"{folders.PREFIX}held").exists()
    assert folders.hold(str(tmp_path / f"{folders.PREFIX}held")) is None
