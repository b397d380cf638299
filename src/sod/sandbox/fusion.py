"""Run programs on a SandboxFusion server (https://github.com/bytedance/SandboxFusion), over HTTP.

The server runs `sod.sandbox.fusion_driver`, which runs the program and writes a report. The report comes back as a file.
This avoids several limits of the servers: they truncate long output, drop output written before a time-out, corrupt output
that is not UTF-8, and do not report why a program ended. A response without a report is a failure of the server, never a
verdict on the program. This holds for every status of the response.

The server decides how far programs are isolated from each other and from the network: see docs/sandboxes.md.
"""

import asyncio
import base64
import email.utils
import ipaddress
import json
import random
import re
import signal
import time
import warnings
from pathlib import Path
from typing import Any, Self

import httpx

from sod.errors import OptionError, SandboxError
from sod.sandbox import Program, Result, Status, fusion_driver
from sod.sandbox.capture import OUTPUT_LIMIT, shown
from sod.sandbox.child import FILE_BYTES, OPEN_FILES, SPARE_BYTES, STACK_BYTES, cpu_seconds
from sod.sandbox.interpreter import ENVIRONMENT
from sod.sandbox.local import LONGEST_SECONDS, check_names

DRIVER = Path(fusion_driver.__file__).read_text(encoding="utf-8")
SERVER_SECONDS = 5.0
"""Seconds that the server lets the driver run in addition to the program's time limit."""
PING_SECONDS = 10.0
FIRST_WAIT_SECONDS = 0.25
"""Longest wait before the second try, in seconds. It doubles with every further try."""
PLACEHOLDER = re.compile(r"your(host|server|sandbox|company|domain|url|ip)?|placeholder|changeme|x{3,}")
"""Words that mark a host name as a placeholder."""
SHOWN_CHARACTERS = 500
"""Characters shown of a server's error message."""


class FusionSandbox:
    """Runs at most `workers` programs at a time, in order of arrival. The server itself has no limit and gets overloaded.

    One event loop uses it at a time; a new loop gets a new client.
    """

    def __init__(
        self,
        url: str,
        *,
        workers: int = 16,
        tries: int = 3,
        grace_seconds: float = 10.0,
        patience_seconds: float = 30.0,
    ) -> None:
        """Parse the address. `url` is, for example, http://127.0.0.1:8080, with or without /run_code.

        The server may take `grace_seconds` longer than a program's time limit to respond. If it fails to run a program, the
        program is sent up to `tries` times. The waits between tries are random and grow; their sum is at most
        `patience_seconds`. If the server asks for more (Retry-After), no further try is made.

        Raises OptionError for an invalid address, such as a placeholder. Warns of unencrypted traffic.
        """
        address = _server_address(url)
        self._user = httpx.BasicAuth(address.username, address.password) if address.username else None
        self._url = address.copy_with(userinfo=b"")  # messages show it, so it must not hold the password
        self._workers, self._tries = workers, tries
        self._grace, self._patience = grace_seconds, patience_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._session: _Session | None = None
        if self._url.scheme == "http" and not _is_near(self._url.host):
            warnings.warn(
                f"sandbox.url = {self._url}: programs and their output travel unencrypted, and anyone who can reach the "
                "server can run programs on it. Use https or a tunnel, unless only you have access to that network.",
                stacklevel=2,
            )

    async def run(self, program: Program) -> Result:
        """Run one program as soon as a slot is free. No behaviour of a program raises an exception.

        Raises ValueError for a name in `files` that is not a plain name.
        """
        check_names(program.files)
        check_names(program.copies)
        session = self._current_session()
        async with session.slots:
            return await self._try_often(session, program)

    async def ping(self) -> None:
        """Raises SandboxError unless a SandboxFusion server answers."""
        where = f"{self._url}v1/ping (sandbox.url)"
        try:
            response = await self._current_session().client.get("v1/ping", timeout=PING_SECONDS)
        except httpx.HTTPError as error:
            raise SandboxError(
                f"The sandbox at {where} does not respond: {_named(error)}. Check that it is running."
            ) from error
        if response.status_code != 200 or response.text.strip().strip('"') != "pong":
            raise SandboxError(
                f"The server at {where} is no SandboxFusion server: status {response.status_code}, "
                f"{_short(response.text)!r} instead of 'pong'. Check the address."
            )

    async def close(self) -> None:
        """Cancel every request; the server decides about its program. A later `run` opens a new client."""
        if self._session is not None and self._loop is asyncio.get_running_loop():
            await self._session.client.aclose()
        self._session = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _current_session(self) -> "_Session":
        if self._session is None or self._loop is not asyncio.get_running_loop():
            self._loop = asyncio.get_running_loop()
            self._session = _Session(self._url, self._user, self._workers, self._grace)
        return self._session

    async def _try_often(self, session: "_Session", program: Program) -> Result:
        """Send the program until a report arrives, or until no tries or no waiting time are left."""
        try:
            request = _request(program)
        except OSError as error:  # a file of the problem is gone
            return Result(status="sandbox_error", message=str(error))
        failures: list[_Failed] = []
        patience, longest_wait = self._patience, FIRST_WAIT_SECONDS
        while True:
            try:
                return await session.send(request, program)
            except _Refused as error:
                return Result(status="sandbox_error", message=str(error))
            except _Failed as error:
                failures.append(error)
                wait = error.wait + random.uniform(0, longest_wait)
                patience, longest_wait = patience - wait, 2 * longest_wait
                if len(failures) >= self._tries or patience < 0:
                    return _conclusion(failures)
            await asyncio.sleep(wait)


class _Failed(Exception):
    """The server did not run the program; a further try may work."""

    def __init__(self, message: str, wait: float = 0.0, verdict: Result | None = None) -> None:
        super().__init__(message)
        self.wait = wait
        """Seconds to wait before the next try, as requested by the server."""
        self.verdict = verdict
        """The program's result if every try fails in the same way; None if it cannot be the program's doing."""


class _Refused(Exception):
    """The server refuses the program; further tries are useless."""


def _conclusion(failures: list[_Failed]) -> Result:
    """Return the result for a program after all tries have failed."""
    last = failures[-1]
    if last.verdict is not None and len(failures) > 1 and all(each.verdict == last.verdict for each in failures):
        return last.verdict
    return Result(status="sandbox_error", message=str(last))


class _Session:
    """The client and the slots of one event loop."""

    def __init__(self, url: httpx.URL, user: httpx.BasicAuth | None, workers: int, grace: float) -> None:
        self.slots = asyncio.Semaphore(workers)
        self.grace = grace
        # A new connection for every request: the server may close an idle one at the moment of its use, or it may outlive
        # its loop. Compared with the start of a process, a connection costs nothing.
        limits = httpx.Limits(max_keepalive_connections=0)
        self.client = httpx.AsyncClient(
            base_url=url,
            auth=user,
            timeout=None,
            limits=limits,
            trust_env=not _is_near(url.host),  # a proxy from the environment cannot reach this machine
        )

    async def send(self, request: dict[str, Any], program: Program) -> Result:
        """Send the program once. Raises _Failed or _Refused."""
        if self.client.is_closed:
            raise _Refused("the sandbox was closed")
        seconds = _seconds(program) + self.grace
        try:
            async with asyncio.timeout(seconds):
                response = await self.client.post("run_code", json=request)
        except TimeoutError:
            raise _Failed(f"the sandbox server did not respond within {seconds:g} seconds") from None
        except httpx.HTTPError as error:
            raise _Failed(f"the sandbox server at {self.client.base_url} is unreachable: {_named(error)}") from error
        if response.status_code == 429 or response.status_code >= 500:
            raise _Failed(_complaint(response), wait=_asked_wait(response))
        if response.status_code != 200:
            raise _Refused(_complaint(response))
        return _result(_report(response), program)


# The address


def _server_address(text: str) -> httpx.URL:
    """Return the base URL of the server. Raises OptionError."""
    try:
        url = httpx.URL(text.strip())
    except (httpx.InvalidURL, TypeError) as error:
        raise OptionError(_not_an_address(text, str(error))) from error
    if fault := _fault(text, url):
        raise OptionError(_not_an_address(text, fault))
    path = url.path.rstrip("/").removesuffix("/run_code")
    return url.copy_with(path=f"{path}/")


def _not_an_address(text: str, fault: str) -> str:
    return (
        f"sandbox.url = {text!r} is not the address of a server: {fault}. Pass the address of a running SandboxFusion "
        "server, such as --sandbox.url http://127.0.0.1:8080; docs/sandboxes.md describes how to start one."
    )


def _fault(text: str, url: httpx.URL) -> str:
    """Return what is wrong with an address; empty if it is valid."""
    if re.search(r"[<>{}\[\]$*\s]", re.sub(r"//\[[0-9a-fA-F:.]+\]", "//", text.strip())):
        return "it contains a placeholder to fill in"
    if url.scheme not in ("http", "https"):
        return "it does not start with http:// or https://"
    if not url.host:
        return "it has no host"
    if not 0 < (url.port or 1) < 65536:
        return "its port is out of range"
    if url.query or url.fragment:
        return "it has a query or a fragment after the path"
    if _is_placeholder(url.host):
        return f"{url.host} is a placeholder"
    return ""


def _is_placeholder(host: str) -> bool:
    """Return True for a host name from documentation: reserved (RFC 2606), or with a word such as "your"."""
    labels = host.lower().split(".")
    reserved = labels[-1] in ("example", "invalid") or labels[-2:-1] == ["example"]
    words = re.split(r"[._-]", host.lower())
    return reserved or set(words) <= {"x"} or any(map(PLACEHOLDER.fullmatch, words))


def _is_near(host: str) -> bool:
    """Return True if the host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


# Request and response


def _request(program: Program) -> dict[str, Any]:
    """Build the request body. The whole job is in one file, so that the server interprets none of it."""
    memory = program.memory_mb << 20
    cpu = cpu_seconds(_seconds(program))
    job = {
        "code": program.code,
        "stdin": program.stdin,
        "files": dict(program.files),
        "copies": {name: base64.b64encode(Path(path).read_bytes()).decode() for name, path in program.copies.items()},
        "environment": ENVIRONMENT,
        "limits": {
            "AS": (memory, memory + SPARE_BYTES),
            "DATA": (memory, memory + SPARE_BYTES),
            "STACK": (STACK_BYTES, STACK_BYTES),
            "FSIZE": (FILE_BYTES, FILE_BYTES),
            "NOFILE": (OPEN_FILES, OPEN_FILES),
            "CORE": (0, 0),
            "CPU": (cpu, cpu + 1),
        },
        "seconds": _seconds(program),
        "show_last_value": program.show_last_value,
        "keep_bytes": program.output_bytes,
        "most_bytes": OUTPUT_LIMIT,
        "disk_bytes": program.disk_mb << 20,
        "disk_files": program.max_files,
    }
    data = json.dumps(job, ensure_ascii=False).encode(errors="surrogatepass")
    return {
        "language": "python",
        "code": DRIVER,
        "run_timeout": _seconds(program) + SERVER_SECONDS,
        "files": {fusion_driver.JOB: base64.b64encode(data).decode()},
        "fetch_files": [fusion_driver.REPORT],
    }


def _seconds(program: Program) -> float:
    return min(max(program.seconds, 0.0), LONGEST_SECONDS)


def _report(response: httpx.Response) -> str:
    """Return the driver's report, still encoded, from a server's response. Raises _Failed."""
    try:
        answer = response.json()
    except (ValueError, RecursionError) as error:
        raise _Failed(f"the sandbox server's response is not JSON: {_short(response.text)!r}") from error
    match answer:
        case {"status": "SandboxError"}:
            raise _Failed(f"the sandbox server failed: {_short(str(answer.get('message')))}")
        case {"files": {fusion_driver.REPORT: str(report)}}:
            return report
        case {"run_result": {"status": "TimeLimitExceeded"}}:
            raise _Failed("the sandbox server timed out before the program's own time limit; it is overloaded")
        case {"run_result": {"return_code": int(code)}} if code < 0 or code > 128:
            number = -code if code < 0 else code - 128  # a shell's exit code for a signal
            raise _Failed(
                f"sod's driver was killed on the sandbox server by signal {number}",
                verdict=Result(status="signal", signal=number),  # if every try ends so, the program caused it
            )
        case {"run_result": {"return_code": code, "stderr": stderr}}:
            raise _Failed(
                f"sod's driver failed on the sandbox server with exit code {code}: {_short(str(stderr), last=True)}"
            )
        case _:
            raise _Failed(f"the sandbox server's response is not SandboxFusion's: {_short(response.text)!r}")


def _result(encoded: str, program: Program) -> Result:
    """Convert the driver's report to a result. Raises _Failed if it cannot be read."""
    try:
        report = json.loads(base64.b64decode(encoded))
        code = int(report["exit_code"])
        stdout_bytes, stderr_bytes = (int(report[name]["bytes"]) for name in ("stdout", "stderr"))
        cpu = float(report["cpu_seconds"])
        return Result(
            status=_status(program, code, report["stopped_for"], cpu, max(stdout_bytes, stderr_bytes)),
            stdout=_text(report["stdout"]),
            stderr=_text(report["stderr"]),
            exit_code=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            seconds=float(report["seconds"]),
            cpu_seconds=cpu,
            memory_mb=float(report["memory_mb"]),
            stdout_bytes=stdout_bytes,
            stderr_bytes=stderr_bytes,
        )
    except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError) as error:
        raise _Failed(f"the report of sod's driver on the sandbox server cannot be read: {_named(error)}") from error


def _status(program: Program, code: int, stopped_for: str, cpu: float, written: int) -> Status:
    if written > OUTPUT_LIMIT:
        return "output_limit"
    if stopped_for == "disk":
        return "disk_limit"
    # A program that ignores SIGXCPU is killed a second later.
    spent = code == -signal.SIGKILL and cpu > cpu_seconds(_seconds(program))
    if stopped_for == "time" or code == -signal.SIGXCPU or spent:
        return "timeout"
    return "ok" if code == 0 else "error" if code > 0 else "signal"


def _text(stream: dict[str, Any]) -> str:
    """Return the kept part of a stream, with the number of omitted bytes between head and tail."""
    return shown(base64.b64decode(stream["head"]), base64.b64decode(stream["tail"]), int(stream["bytes"]))


# Errors


def _complaint(response: httpx.Response) -> str:
    return f"the sandbox server at {response.url} returned status {response.status_code}: {_short(response.text)}"


def _asked_wait(response: httpx.Response) -> float:
    """Return the seconds to wait from the Retry-After header, which holds a number or a date."""
    text = response.headers.get("Retry-After", "0")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return 0.0


def _short(text: str, *, last: bool = False) -> str:
    """Return the beginning of a text, or its end."""
    text = text.strip()
    return text[-SHOWN_CHARACTERS:] if last else text[:SHOWN_CHARACTERS]


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
