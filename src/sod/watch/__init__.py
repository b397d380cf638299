"""`sod watch`: follow runs on a terminal or in a browser. `sod runs`: list them. Only reads run directories.

status.py     derive state and progress from a directory   listing.py   the table of `sod runs`
following.py  read again what has changed                   plots.py     curves of characters
views.py      what the screen shows, as lines of text       keyboard.py  read keys
serving.py    the page in a browser                         follow.js    lets the page follow
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.live import Live

from sod.config import WatchOptions
from sod.console.progress import console
from sod.processes.interrupts import Terminated
from sod.report.reading import check_run, names
from sod.watch.following import Follower
from sod.watch.keyboard import keys_of, read_keys
from sod.watch.panes import join_lines
from sod.watch.views import Viewer, snapshot

SECONDS = 1.0
"""Seconds between two looks at the directories."""


def watch(options: WatchOptions) -> None:
    """Follow the runs until the user quits. Without a terminal, print them once.

    Raises RunError for a path that is not a run, unless a run may begin there later.
    """
    folders = list({folder.resolve(): folder for folder in options.runs}.values())
    live = console.is_terminal or options.page
    for folder in folders:
        if not (live and _may_begin(folder)):
            check_run(folder)
    try:
        if options.page:
            from sod.watch.serving import serve  # http.server is needed for nothing else

            serve(folders, options)
            return
        followers = [Follower(folder, name) for folder, name in zip(folders, names(folders), strict=True)]
        if live:
            _follow(Viewer(followers, options.curves))
            return
    except Terminated:
        raise
    except KeyboardInterrupt:  # the usual end
        return
    for follower in followers:
        console.print(join_lines(snapshot(follower, options.curves, console.width, time.time())), soft_wrap=True)


def _may_begin(folder: Path) -> bool:
    """Return whether the path is free for a run: missing, or a directory without runs in it."""
    if not folder.is_dir():
        return not folder.exists()
    return next(folder.rglob("options.json"), None) is None


def _follow(viewer: Viewer) -> None:
    """Draw after each change and each key, until the user quits or the terminal is gone."""
    keyboard = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
    with Live(console=console, screen=True, auto_refresh=False) as live:
        if keyboard is None:
            while True:
                _draw(live, viewer)
                time.sleep(SECONDS)
                _refresh(viewer.followers)
        with keys_of(keyboard):
            looked = time.monotonic()
            while not viewer.ended:
                _draw(live, viewer)
                left = max(0.0, looked + SECONDS - time.monotonic())
                keys = read_keys(keyboard, left)
                if keys is None:
                    return
                for key in keys:
                    viewer.press(key)
                if time.monotonic() - looked >= SECONDS:
                    _refresh(viewer.followers)
                    looked = time.monotonic()


def _draw(live: Live, viewer: Viewer) -> None:
    width, height = console.size
    live.update(join_lines(viewer.lines(width, height, time.time())), refresh=True)


def _refresh(followers: Sequence[Follower]) -> None:
    for follower in followers:
        follower.refresh(time.time())
