"""A small Hugging Face hub on this machine: the endpoints that the real client uses, with real files and real refusals.

The client reads its settings when it is imported, so whoever is to use this hub runs in a process of its own, with
`FakeHub.environment`.
"""

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

API = re.compile(r"/api/(?P<kind>model|dataset)s/(?P<repo>[^/]+/[^/]+)(/(?P<what>revision|tree)/(?P<revision>[^/]+))?")
FILE = re.compile(r"/(?P<dataset>datasets/)?(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
MEMBER = "hf_member"
"""The token of somebody who has accepted every repository's terms."""


@dataclass
class _Repository:
    gated: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """The files of each."""
    revisions: dict[str, str] = field(default_factory=dict)
    """Branches and tags: the commit of each."""


class FakeHub:
    """`with FakeHub() as hub: hub.add("org/name", {"a.jsonl": b"..."}, kind="dataset")`."""

    def __init__(self) -> None:
        self._repositories: dict[tuple[str, str], _Repository] = {}
        self.requests: list[str] = []
        """Method and path of everything that was asked, in order."""
        self.breaks_off_after: int | None = None
        """Bytes of a file after which the connection is cut."""
        self.status: int | None = None
        """Answer everything with this instead."""
        hub = self

        class Handler(_Handler):
            def answer(self) -> None:
                hub._answer(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = "http://{}:{}".format(*self._server.server_address[:2])

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(
        self,
        repo: str,
        files: Mapping[str, bytes],
        *,
        kind: str = "model",
        revision: str = "main",
        gated: bool = False,
    ) -> str:
        """A commit, which becomes that revision. -> its hash"""
        repository = self._repositories.setdefault((kind, repo), _Repository(gated))
        listing = json.dumps({name: _oid(content) for name, content in sorted(files.items())})
        commit = _oid(listing.encode())
        repository.commits[commit] = dict(files)
        repository.revisions[revision] = commit
        return commit

    def add_folder(self, repo: str, folder: Path, **options: Any) -> str:
        """A commit of a folder's files."""
        files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        return self.add(repo, files, **options)

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Variables under which the client uses this hub, and `home` as its cache."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"} | more

    def _answer(self, request: "_Handler") -> None:
        path = urlsplit(request.path).path
        self.requests.append(f"{request.command} {unquote(path)}")
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.status is not None:
            request.refuse(self.status, "")
        elif token not in ("", MEMBER):
            request.refuse(401, "", message="Invalid credentials in Authorization header")
        elif api := API.fullmatch(path):
            self._tell(request, api, token)
        elif wanted := FILE.fullmatch(path):
            self._send(request, wanted, token)
        else:
            request.refuse(404, "")

    def _tell(self, request: "_Handler", api: re.Match[str], token: str) -> None:
        found = self._find(request, api["kind"], api["repo"], api["revision"] or "main")
        if found is None:
            return
        repository, commit = found
        files = repository.commits[commit]
        if api["what"] == "tree":
            rows = [
                {"type": "file", "path": name, "size": len(content), "oid": _oid(content)}
                for name, content in files.items()
            ]
            request.send(json.dumps(rows).encode())
        else:
            about = {
                "id": api["repo"],
                "sha": commit,
                "private": False,
                "gated": "auto" if repository.gated else False,
                "siblings": [{"rfilename": name} for name in files],
            }
            request.send(json.dumps(about).encode())

    def _send(self, request: "_Handler", wanted: re.Match[str], token: str) -> None:
        found = self._find(request, "dataset" if wanted["dataset"] else "model", wanted["repo"], wanted["revision"])
        if found is None:
            return
        repository, commit = found
        content = repository.commits[commit].get(unquote(wanted["file"]))
        if repository.gated and token != MEMBER:
            request.refuse(401, "GatedRepo")
        elif content is None:
            request.refuse(404, "EntryNotFound", headers={"X-Repo-Commit": commit})
        else:
            headers = {"X-Repo-Commit": commit, "ETag": f'"{_oid(content)}"'}
            request.send(content, headers, breaks_off_after=self.breaks_off_after)

    def _find(self, request: "_Handler", kind: str, repo: str, revision: str) -> tuple[_Repository, str] | None:
        """The repository and the commit; None if the request has been refused."""
        repository = self._repositories.get((kind, repo))
        if repository is None:
            request.refuse(401, "RepoNotFound")
            return None
        revision = unquote(revision)
        commit = repository.revisions.get(revision, revision)
        if commit not in repository.commits:
            request.refuse(404, "RevisionNotFound")
            return None
        return repository, commit


class _Handler(BaseHTTPRequestHandler):
    def answer(self) -> None:
        raise NotImplementedError

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def send(
        self, content: bytes, headers: Mapping[str, str] | None = None, *, breaks_off_after: int | None = None
    ) -> None:
        """All of it, or what is asked for (Range: bytes=N-)."""
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "GET":
            end = None if breaks_off_after is None else start + breaks_off_after
            self.wfile.write(content[start:end])

    def refuse(self, status: int, code: str, *, message: str = "", headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})}.items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        del format, args


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
