"""Calls that use the client of a hub, each in a new process, forked from one that has imported the client.

The client reads its variables when it is imported. So there is one server for each set of variables.
"""

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

SECONDS = 120
"""In which a call must end."""
SERVER = """
import json, os, resource, sys
from pathlib import Path
import httpx2
from huggingface_hub import HfApi, errors, hf_hub_download, resolve_revision, snapshot_download, try_to_load_from_cache
from sod.errors import UsageError
from sod.model.hub import download, model_folder

for line in sys.stdin:
    call, folder, file_bytes = json.loads(line)
    if pid := os.fork():
        print(end=f"\\0{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\\n", flush=True)
        continue
    os.chdir(folder)
    if file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    try:
        print(eval(call))
    except UsageError as error:
        print(f"{type(error).__name__}: {error}")
    break
"""


class HubCalls:
    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._servers: dict[tuple[tuple[str, str], ...], subprocess.Popen[bytes]] = {}
        self._errors = tempfile.TemporaryFile()

    def evaluate(self, call: str, folder: Path, *, file_bytes: int | None = None, **variables: str) -> str:
        """Return the value of a call or its error, after what it printed. `file_bytes` limits the size of files."""
        key = tuple(sorted(variables.items()))
        if key not in self._servers:
            self._servers[key] = subprocess.Popen(
                [sys.executable, "-c", SERVER],
                env=self._environment | variables,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
            )
        server = self._servers[key]
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps([call, str(folder), file_bytes]).encode() + b"\n")
        server.stdin.flush()
        answer = b""
        while not (b"\0" in answer and answer.endswith(b"\n")):
            assert select.select([server.stdout], [], [], SECONDS)[0], f"{call} has not ended"
            piece = os.read(server.stdout.fileno(), 1 << 16)
            assert piece, self._said()
            answer += piece
        value, status = answer.split(b"\0")
        assert int(status) == 0, self._said()
        return value.decode().strip()

    def close(self) -> None:
        for server in self._servers.values():
            server.communicate()
        self._errors.close()

    def _said(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode()
