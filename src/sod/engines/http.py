"""Client for servers: JSON requests, errors for failed responses, and waits for a server that starts."""

import asyncio
import logging
import os
import re
import ssl
import time
from contextlib import suppress
from typing import Any

import httpx

from sod.errors import InfrastructureError, OptionError
from sod.processes.distributed import EVERY_PROCESS

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 30.0
TLS_SECONDS = 5.0
"""Time limit of the handshake that finds https at an http address."""
REMIND_SECONDS = 60.0
"""Time between two messages about an awaited server."""
SHOWN_CHARACTERS = 300
"""Characters shown of a server's error message."""
OK, BUSY = 200, 429
TRANSIENT = {408, 425, BUSY}
"""Statuses below 500 after which another try may succeed."""
CERTIFICATES = "SSL_CERT_FILE"
"""Environment variable with a file of trusted certificates, in place of the usual authorities."""
UNTRUSTED, NO_TLS = "CERTIFICATE_VERIFY_FAILED", "WRONG_VERSION_NUMBER"
"""Parts of the errors of a certificate that is not trusted, and of a server without https."""
HIGHEST_PORT = 65535
TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
"""Title of an HTML page."""
ADDRESS = "Write http://HOST:PORT or https://HOST:PORT."


class Failed(InfrastructureError):
    """The server responded with an error; another try may succeed, at the earliest after `wait` seconds if it says so."""

    def __init__(self, message: str, status: int, wait: float = 0.0):
        super().__init__(message)
        self.is_busy = status == BUSY
        self.is_foreign = status == OK
        """Whether the response is no JSON, although it reports success: a page of another program."""
        self.wait = wait


class Refused(OptionError):
    """The server refuses the request; further tries are useless."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


class Server:
    """A server at `url`, with or without /v1. Messages call it `kind`; each response may take `seconds`.

    It belongs to the event loop of its first request. Raises OptionError for an invalid address.
    """

    def __init__(self, url: str, *, kind: str, seconds: float, key: str | None = None):
        self._kind, self._seconds = kind, seconds
        try:
            self._client = httpx.AsyncClient(
                base_url=url.rstrip("/").removesuffix("/completions").removesuffix("/v1"),
                verify=_trusted(),
                headers={"Authorization": f"Bearer {key}"} if key else {},
                timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),  # `ask` limits the whole response
                # The server may close an idle connection at the moment of its use.
                limits=httpx.Limits(max_keepalive_connections=0),
                trust_env=False,  # a proxy from the environment cannot reach this machine
            )
        except (httpx.InvalidURL, TypeError) as error:
            raise OptionError(f"{url!r} is not a valid address of a {kind}: {error}. {ADDRESS}") from error
        if fault := _fault(self._client.base_url):
            raise OptionError(f"{url!r} is not a valid address of a {kind}: {fault}. {ADDRESS}")

    def __str__(self) -> str:
        shown = str(self._client.base_url.copy_with(userinfo=b"")).rstrip("/")  # a message has no password
        return f"The {self._kind} at {shown}"

    async def ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, seconds: float | None = None
    ) -> Any:
        """Send a request and return the JSON response. `seconds` lowers the time limit. A cancelled call disconnects.

        Raises InfrastructureError if another try may help (Failed, if there was a response). Raises OptionError if no try
        will help (Refused, if there was a response).
        """
        limit = min(self._seconds, seconds or self._seconds)
        try:
            async with asyncio.timeout(limit):
                response = await self._client.request(method, path, json=body)
        except TimeoutError:
            raise InfrastructureError(f"{self} did not respond to /{path} within {limit:g} seconds.") from None
        except httpx.DecodingError as error:
            raise Failed(f"{self} responded to /{path} with bytes that cannot be read: {error}.", OK) from error
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        complaint = f"{self} responded to /{path} with status {response.status_code}: {_shown(response)}."
        if response.status_code == OK:
            try:
                return response.json()
            except (ValueError, RecursionError) as error:
                raise Failed(complaint, OK) from error
        if response.status_code >= 500 or response.status_code in TRANSIENT:
            raise Failed(complaint, response.status_code, _seconds_to_wait(response))
        raise Refused(complaint, response.status_code)

    def _unreachable(self, error: httpx.HTTPError) -> InfrastructureError | OptionError:
        """Return the error of a request without a response. An OptionError: the same would happen again."""
        if UNTRUSTED in str(error):
            return OptionError(
                f"{self} has a certificate that this machine does not trust ({error}). Give a file with its certificate in "
                f"{CERTIFICATES} and the host's name as in the certificate, or an http address."
            )
        if NO_TLS in str(error):
            return OptionError(f"{self} does not use https ({error}). Give its address with http://.")
        cause = ": ".join(filter(None, (type(error).__name__, str(error))))
        return InfrastructureError(f"{self} is unreachable ({cause}).")

    async def ask_at_start(self, method: str, path: str, body: dict[str, Any] | None = None, *, seconds: float) -> Any:
        """Same as `ask`, but retry for up to `seconds`, because the server may still be starting.

        A page with status 200 comes from another program: raise OptionError.
        """
        patience = Patience(seconds)
        while True:
            try:
                return await self.ask(method, path, body)
            except InfrastructureError as error:
                if isinstance(error, Failed) and error.is_foreign:
                    raise OptionError(
                        f"{error} That is no JSON, so another program is at this address, such as a proxy or a login page. Give "
                        "the address of the server itself, up to /v1."
                    ) from error
                if not isinstance(error, Failed) and await self._speaks_tls():
                    raise OptionError(f"{error} The server uses https. Give its address with https://.") from error
                if not patience.left:
                    raise InfrastructureError(
                        f"{error} It gave no usable answer within {seconds:g} s. Check its address and that it has started, "
                        "then run the same command again."
                    ) from error
                patience.wait_for(f"{error} It may still be starting, or the address may be wrong;")
                wait = error.wait if isinstance(error, Failed) else 0.0
            await asyncio.sleep(min(max(1.0, wait), seconds))

    async def _speaks_tls(self) -> bool:
        """Return whether the server at an http address answers with https."""
        url = self._client.base_url
        if url.scheme == "https":
            return False
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(TLS_SECONDS):
                _, writer = await asyncio.open_connection(
                    url.host, url.port or 80, ssl=ssl._create_unverified_context()
                )
                writer.close()
                return True
        return False

    async def close(self) -> None:
        """Cancel every request. The server keeps running."""
        await self._client.aclose()


class Patience:
    """Tracks how long to wait for a server, and prints a message at first and every REMIND_SECONDS."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        self._next = 0.0

    @property
    def left(self) -> float:
        """Remaining seconds."""
        return max(0.0, self._end - time.monotonic())

    def wait_for(self, why: str) -> None:
        if time.monotonic() < self._next:
            return
        begun = f"{why} waiting up to {self._seconds:g} s."
        logger.warning(f"  still waiting, {self.left:.0f} s more" if self._next else begun, extra=EVERY_PROCESS)
        self._next = time.monotonic() + REMIND_SECONDS

    @property
    def tried(self) -> bool:
        """True if `wait_for` was called."""
        return self._next > 0


def _fault(url: httpx.URL) -> str:
    """Return what is wrong with an address; empty if nothing is."""
    if url.scheme not in ("http", "https"):
        return "it does not begin with http:// or https://"
    if not url.host or "%" in url.host:
        return "its host is no name"
    return f"a port is at most {HIGHEST_PORT}" if (url.port or 0) > HIGHEST_PORT else ""


def _trusted() -> ssl.SSLContext | bool:
    """Return the certificates to trust; True for those of the usual authorities. Raise OptionError for an unreadable file."""
    file = os.environ.get(CERTIFICATES)
    if not file:
        return True
    try:
        return ssl.create_default_context(cafile=file)
    except OSError as error:
        raise OptionError(f"The file of certificates {file!r} in {CERTIFICATES} cannot be read: {error}.") from error


def _shown(response: httpx.Response) -> str:
    """Return what a response says, in short."""
    if response.has_redirect_location:
        return f"it redirects to {response.headers['location']}"
    return short(response.text).removesuffix(".") or "(an empty response)"


def _seconds_to_wait(response: httpx.Response) -> float:
    """Return the seconds after which a busy server allows another request; 0 if it names none."""
    text = response.headers.get("retry-after", "")
    return float(text) if response.status_code == BUSY and text.isdecimal() else 0.0


def short(text: str) -> str:
    """Return the beginning of a server's message."""
    text = " ".join(text.split())
    if not text.startswith("<"):
        return text[:SHOWN_CHARACTERS]
    title = TITLE.search(text)
    return f"(an HTML page with the title {title[1].strip()[:SHOWN_CHARACTERS]!r})" if title else "(an HTML page)"
