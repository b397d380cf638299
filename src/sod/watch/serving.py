"""Serve the report of runs to a browser on this machine, and let the page follow the runs.

The server listens on 127.0.0.1 only. It answers two paths, the page and its changes. No path of a request reaches the file
system. A request must name this machine as its host, so that a page of another site cannot read the runs by a domain name
that leads to 127.0.0.1.
"""

import hashlib
import time
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from threading import Lock
from typing import ClassVar

from sod.config import WatchOptions
from sod.console.progress import clock, echo
from sod.errors import OptionError
from sod.report import reading
from sod.report.drawing import render
from sod.report.figures import FIGURES
from sod.report.packing import Packer
from sod.report.page import page
from sod.runs.files import to_json
from sod.watch.status import RunStatus, signature, status_of

HOST = "127.0.0.1"
COST, LONGEST_SECONDS = 5, 30.0
"""The page is not made again before this many times the duration of making it have passed, at most so many seconds: training
needs the processor."""


class LivePage:
    """The page of some runs. It is made again when a run has changed and a browser asks for it."""

    def __init__(self, folders: Sequence[Path], limit: int):
        self._folders, self._limit = folders, limit
        self._names = reading.names(folders)
        self._lock = Lock()
        self._version, self._content = "", b""
        self._not_before = 0.0

    def content(self) -> bytes:
        """Return the document."""
        with self._lock:
            version = self._newest_version()
            if version != self._version:
                began = time.monotonic()
                self._content = self._make(version).encode(errors="replace")
                self._version = version
                self._not_before = time.monotonic() + min(LONGEST_SECONDS, COST * (time.monotonic() - began))
            return self._content

    def changes(self) -> bytes:
        """Return the version of the document that `content` would return, and the states of the runs, as JSON."""
        now = time.time()
        states = [status_of(folder, name, now) for folder, name in zip(self._folders, self._names, strict=True)]
        with self._lock:
            version = self._newest_version()
        return to_json({"version": version, "words": " · ".join(map(_words, states))}, ascii=True).encode()

    def _newest_version(self) -> str:
        """Return a text that differs after each change, or the present one if it is too early for another page."""
        if self._version and time.monotonic() < self._not_before:
            return self._version
        return hashlib.sha256(repr([signature(folder) for folder in self._folders]).encode()).hexdigest()

    def _make(self, version: str) -> str:
        packer = Packer()
        runs = [
            reading.read_run(folder, name, limit=self._limit, keep=packer.add, advance=lambda: None)
            for folder, name in zip(self._folders, self._names, strict=True)
        ]
        drawn = [render(drawing, runs, png=False) for drawing in FIGURES]
        script = files("sod.watch").joinpath("follow.js").read_text(encoding="utf-8")
        follow = f'let version = "{version}";\n{script}'
        return page(f"sod watch: {', '.join(self._names)}", runs, drawn, packer.chunks(), follow=follow)


def serve(folders: Sequence[Path], options: WatchOptions) -> None:
    """Serve the page until Ctrl-C. Raise OptionError if the port is in use."""
    with open_server(LivePage(folders, options.trajectories), options.port) as server:
        echo(f"The page is at http://{HOST}:{server.server_port}/ on this machine. Ctrl-C ends it.")
        server.serve_forever()


def open_server(live: LivePage, port: int) -> ThreadingHTTPServer:
    """Return a server of the page."""

    class Handler(_Handler):
        page = live

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise OptionError(
            f"--port is {port}, but it cannot be used: {error.strerror}. Type another one, or --port 0 for any free port."
        ) from error


class _Handler(BaseHTTPRequestHandler):
    page: ClassVar[LivePage]

    def do_GET(self) -> None:
        if self.headers.get("Host", "").rpartition(":")[0] not in (HOST, "localhost"):
            self.send_error(HTTPStatus.FORBIDDEN, "Use the address that sod watch prints")
            return
        match self.path:
            case "/":
                self._answer("text/html; charset=utf-8", self.page.content())
            case "/changes":
                self._answer("application/json", self.page.changes())
            case _:
                self.send_error(HTTPStatus.NOT_FOUND)

    def _answer(self, kind: str, data: bytes) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing: the terminal shows the address."""
        del format, args


def _words(status: RunStatus) -> str:
    parts = [f"{status.name}: {status.words}", status.progress, clock(status.left) + " left" if status.left else ""]
    return ", ".join(filter(None, parts))
