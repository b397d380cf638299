"""A small Hugging Face hub on this machine: the endpoints that the real client uses, with real files and real refusals.

The client reads its settings when it is imported, so whoever is to use this hub runs in a process of its own, with
`FakeHub.environment`.
"""

import base64
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
UPLOAD = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/(?P<what>preupload|commit)/main")
LARGE = re.compile(r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch")
MEMBER = "hf_member"
"""The token of somebody who has accepted every repository's terms, and may write to those of `org`."""
READER = "hf_reader"
"""The token of the same person that may only read."""


@dataclass
class _Repository:
    gated: bool
    private: bool = False
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
        self.uploads_left: int | None = None
        """Number of large files that are still taken; further ones are refused with status 507."""
        self.objects: dict[str, bytes] = {}
        """Large files that were uploaded, by SHA-256."""
        hub = self

        class Handler(_Handler):
            def answer(self) -> None:
                hub._answer(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = "http://{}:{}".format(*self._server.server_address[:2])

    def forget(self) -> None:
        """Become as a new hub: empty, without trouble."""
        for held in (self._repositories, self.requests, self.objects):
            held.clear()
        self.breaks_off_after = self.status = self.uploads_left = None

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
        elif token not in ("", MEMBER, READER):
            request.refuse(401, "", message="Invalid credentials in Authorization header")
        elif path in ("/api/whoami-v2", "/api/repos/create", "/api/validate-yaml"):
            self._account(request, path, token)
        elif upload := UPLOAD.fullmatch(path) or LARGE.fullmatch(path):
            self._take(request, upload, token)
        elif path.startswith("/objects/"):
            self._take_object(request, path.rpartition("/")[2])
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
                "private": repository.private,
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

    # Uploads

    def files(self, repo: str) -> dict[str, bytes]:
        """The files of a model's newest commit."""
        repository = self._repositories["model", repo]
        return repository.commits[repository.revisions["main"]]

    def visibility(self, repo: str) -> str | None:
        """None if there is no such model."""
        repository = self._repositories.get(("model", repo))
        return repository and ("private" if repository.private else "public")

    def _account(self, request: "_Handler", path: str, token: str) -> None:
        if not token:
            request.refuse(401, "")
        elif path == "/api/whoami-v2":
            role = "read" if token == READER else "write"
            request.send_json({"name": "member", "orgs": [{"name": "org"}], "auth": {"accessToken": {"role": role}}})
        elif path == "/api/validate-yaml":
            request.send_json({"errors": [], "warnings": []})
        else:
            asked = request.json()
            repo = f"{asked.get('organization') or 'member'}/{asked['name']}"
            if token != MEMBER or asked.get("organization") not in (None, "member", "org"):
                request.refuse(403, "")
            elif ("model", repo) in self._repositories:
                request.refuse(409, "")
            else:
                self.add(repo, {".gitattributes": b""})
                private = asked.get("private") or asked.get("visibility") == "private"
                self._repositories["model", repo].private = bool(private)
                request.send_json({"url": f"{self.url}/{repo}"})

    def _take(self, request: "_Handler", upload: re.Match[str], token: str) -> None:
        found = self._find(request, "model", upload["repo"], "main")
        if found is None:
            return
        if token != MEMBER:
            request.refuse(403, "")
        elif upload.re is LARGE:
            request.send_json(
                {"transfer": "basic", "objects": [self._place(each) for each in request.json()["objects"]]}
            )
        elif upload["what"] == "preupload":
            large = {file["path"]: file["path"].endswith(".safetensors") for file in request.json()["files"]}
            modes = [
                {"path": path, "uploadMode": "lfs" if large[path] else "regular", "shouldIgnore": False}
                for path in large
            ]
            request.send_json({"files": modes, "commitOid": found[1]})
        else:
            self._commit_files(request, upload["repo"], dict(self.files(upload["repo"])))

    def _place(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Where a large file is to be put; nowhere if it is here already."""
        place = {"upload": {"href": f"{self.url}/objects/{wanted['oid']}", "header": {}}}
        return dict(wanted) | ({} if wanted["oid"] in self.objects else {"actions": place})

    def _take_object(self, request: "_Handler", oid: str) -> None:
        content = request.body()
        if self.uploads_left == 0:
            request.refuse(507, "")
            return
        if self.uploads_left is not None:
            self.uploads_left -= 1
        assert hashlib.sha256(content).hexdigest() == oid
        self.objects[oid] = content
        request.send(b"")

    def _commit_files(self, request: "_Handler", repo: str, files: dict[str, bytes]) -> None:
        for line in request.body().decode().splitlines():
            change = json.loads(line)
            value = change["value"]
            if change["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif change["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
            elif change["key"] == "deletedFile":
                del files[value["path"]]
        commit = self.add(repo, files)
        request.send_json({"success": True, "commitOid": commit, "commitUrl": f"{self.url}/{repo}/commit/{commit}"})

    def _find(self, request: "_Handler", kind: str, repo: str, revision: str) -> tuple[_Repository, str] | None:
        """The repository and the commit; None if the request has been refused."""
        repository = self._repositories.get((kind, repo))
        hidden = repository is not None and repository.private and "Authorization" not in request.headers
        if repository is None or hidden:
            request.refuse(401, "RepoNotFound")
            return None
        revision = unquote(revision)
        commit = repository.revisions.get(revision, revision)
        if commit not in repository.commits:
            request.refuse(404, "RevisionNotFound")
            return None
        return repository, commit


class _Handler(BaseHTTPRequestHandler):
    _body: bytes | None = None

    def answer(self) -> None:
        raise NotImplementedError

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()
        self.body()  # what was not read would be the next request

    def do_PUT(self) -> None:
        self.answer()
        self.body()

    def body(self) -> bytes:
        """What the client sends, also in chunks."""
        if self._body is None:
            self._body = b""
            if self.headers.get("Transfer-Encoding") == "chunked":
                while size := int(self.rfile.readline(), 16):
                    self._body += self.rfile.read(size)
                    self.rfile.readline()
            else:
                self._body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return self._body

    def json(self) -> Any:
        return json.loads(self.body())

    def send_json(self, content: Any) -> None:
        self.send(json.dumps(content).encode())

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
        if self.command != "HEAD":
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
