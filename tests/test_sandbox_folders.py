"""The directories of programs: removed whatever stands in them, measured while they change."""

import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from sod.sandbox import folders
from sod.sandbox.libc import drop_capabilities, syscall

RENAMEAT2 = {"x86_64": 316, "aarch64": 276}.get(os.uname().machine) if sys.platform == "linux" else None
EXCHANGE = 2


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
    (tmp_path / "folder").chmod(0o750)
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    folders.remove(str(tmp_path / "link"))
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o750


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


def as_user(do: Callable[[], bool]) -> bool:
    """What it returns in a fork: as root, only without what makes it more than a user."""
    pid = os.fork()
    if pid == 0:
        try:
            if sys.platform == "linux":
                drop_capabilities()
            os._exit(0 if do() else 1)
        finally:
            os._exit(2)
    return os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("mode", [0o300, 0o600, 0o000])
def test_a_directory_that_its_owner_cannot_look_into_counts_as_too_many_and_stays_as_it_is(
    mode: int, tmp_path: Path
) -> None:
    (tmp_path / "room/a/b").mkdir(parents=True)
    (tmp_path / "room/a").chmod(mode)
    folder = os.open(tmp_path / "room", os.O_RDONLY)
    assert as_user(lambda: folders.usage(folder, 100)[1] == 101)
    assert (tmp_path / "room/a").stat().st_mode & 0o777 == mode
    os.close(folder)
    assert as_user(lambda: folders.remove(str(tmp_path / "room")) is None)
    assert not (tmp_path / "room").exists()


def test_strange_entries_are_counted_and_not_opened(tmp_path: Path) -> None:
    (tmp_path / "new\nline").mkdir()
    (tmp_path / "new\nline" / "file").write_text("")
    os.link(tmp_path / "new\nline" / "file", tmp_path / "hard")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to("circle")
    with socket.socket(socket.AF_UNIX) as server:
        place = os.getcwd()
        os.chdir(tmp_path)  # the name of a socket is short
        server.bind("socket")
        os.chdir(place)
    folder = os.open(tmp_path, os.O_RDONLY)
    assert folders.usage(folder, 100)[1] == 6
    os.close(folder)


def test_a_tree_that_is_too_deep_counts_as_too_many(tmp_path: Path) -> None:
    (tmp_path / "/".join("d" * (folders.DEEPEST + 1))).mkdir(parents=True)
    folder = os.open(tmp_path, os.O_RDONLY)
    before = len(os.listdir("/dev/fd"))
    assert folders.usage(folder, 10_000)[1] == 10_001
    assert len(os.listdir("/dev/fd")) == before
    os.close(folder)


@pytest.mark.skipif(RENAMEAT2 is None, reason="only Linux exchanges two names at once")
def test_a_link_put_in_the_way_while_a_tree_is_measured_leads_nowhere(tmp_path: Path) -> None:
    outside, room = tmp_path / "outside", tmp_path / "room"
    for place, count in ((outside, 7), (room / "d", 20)):  # of other sizes, so that a count shows which was entered
        for i in range(count):
            (place / f"{i}/inner").mkdir(parents=True)
            (place / f"{i}").chmod(0o600 if place == outside else 0o700)
    (room / "link").symlink_to(outside)
    folder = os.open(room, os.O_RDONLY)
    done = threading.Event()

    def exchange() -> None:
        while not done.is_set():
            syscall(RENAMEAT2 or 0, folder, b"d", folder, b"link", EXCHANGE)

    thread = threading.Thread(target=exchange)
    thread.start()
    counts = {folders.usage(folder, 100)[1] for _ in range(2000)}
    done.set()
    thread.join()
    os.close(folder)
    assert counts <= {2, 22, 42, 82}  # 82: the directory was met under both of its names
    assert {(outside / f"{i}").stat().st_mode & 0o777 for i in range(7)} == {0o600}


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
