"""Client for servers with OpenAI's API: JSON requests, and errors for failed responses.

`ServedModel` is one model of such a server. It retries failed requests and waits for the server during outages.
"""

import asyncio
import logging
import os
import random
import re
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx

from sod.errors import InfrastructureError, ModelError, OptionError, OutageError
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
NOT_UNDERSTOOD = {400, 422}
"""Statuses that servers return for an unknown field."""
START_SECONDS = 300.0
"""Time that a server may take to start."""
PROBE_SECONDS = 60.0
ADDRESS = "Write http://HOST:PORT or https://HOST:PORT."
TRIES = 3
"""Number of tries for a request that fails while the server answers others."""
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.25, 15.0
"""Waits between two probes of an unreachable server."""

Body = dict[str, Any]


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


@dataclass(frozen=True, slots=True)
class Words:
    """Names and advice for messages about a remote model."""

    name: str
    """Option with the model's name on the server."""
    key: str
    """Environment variable with the server's key, and the option that names it."""
    tokenizer: str
    """Advice if the server's tokenizer differs."""
    again: str
    """Advice after an outage."""


async def _nothing() -> None: ...


class ServedModel:
    """A remote model on a server. Call `meet` before any request for tokens.

    `variable`: environment variable with the server's key, if it requires one. Each response may take `seconds`. An
    unreachable server is waited for, up to `patience` seconds. `probe` builds a short request that tests whether the server is
    back. `proof` then raises if the server returns with another model.
    """

    def __init__(
        self,
        url: str,
        *,
        kind: str,
        words: Words,
        variable: str,
        seconds: float,
        patience: float,
        probe: Callable[[], Body],
        proof: Callable[[], Awaitable[None]] = _nothing,
    ):
        self.name = ""
        self.path = "v1/completions"
        """Endpoint of requests for tokens."""
        self.context: int | None = None
        """Longest context in tokens, if the server reports it."""
        self._words, self._variable = words, variable
        self._server = Server(url, kind=kind, seconds=seconds, key=self._key())
        self._patience = patience
        self._probe, self._proof = probe, proof
        self._recovery: asyncio.Task[None] | None = None

    def __str__(self) -> str:
        return str(self._server)

    def _key(self) -> str:
        """Return the key in the environment. Raise OptionError for one that no request can have."""
        key = os.environ.get(self._variable, "").strip()
        if not key.isascii() or not key.isprintable():
            raise OptionError(
                f"The environment variable {self._words.key} has characters that no key has. Set it to the server's key."
            )
        return key

    async def close(self) -> None:
        if self._recovery is not None:
            self._recovery.cancel()
        await self._server.close()

    # Checks at the start

    async def meet(self, wanted: str | None) -> None:
        """Wait for the server and select the model named `wanted`; None selects its only model. Raises OptionError."""
        try:
            models = _models(await self._ask_at_start("GET", "v1/models"))
        except Refused as error:
            raise await self.explained(error) from error
        if not models:
            raise OptionError(f"{self} does not list its models. Check that it is a server with OpenAI's API.")
        if wanted is None and len(models) == 1:
            wanted = next(iter(models))
        if wanted is None or wanted not in models:
            lacks = "serves more than one model" if wanted is None else f"serves no model named {wanted!r}"
            raise OptionError(f"{self} {lacks}. Pass one of these as --{self._words.name}: {', '.join(models)}.")
        self.name, self.context = wanted, models[wanted]

    def check_context(self, longest: int, what: str) -> None:
        """Raises OptionError if `longest` tokens do not fit the context. `what` names their number in the message."""
        if self.context is not None and longest > self.context:
            raise OptionError(
                f"{self} serves {self.name} with a context of {self.context} tokens, but {what} is {longest}. Lower one of "
                "these options, or start the server with a longer context (vLLM: --max-model-len)."
            )

    async def check_tokenizer(self, text: str, ids: list[int], folder: str, question: Body | None = None) -> None:
        """Raises ModelError if the server tokenizes `text` differently from the tokenizer in `folder`.

        `question`: body of the request to /tokenize. Default: vLLM's.
        """
        question = question or {"model": self.name, "prompt": text, "add_special_tokens": False}
        try:
            answer = await self._server.ask("POST", "tokenize", question, seconds=PROBE_SECONDS)
        except (Refused, InfrastructureError):
            answer = None
        match answer:
            case {"tokens": [int(), *_] as theirs}:
                if theirs != ids:
                    raise ModelError(
                        f"{self} tokenizes differently from the tokenizer in {folder}: {theirs[:12]} ... instead of "
                        f"{ids[:12]} ... {self._words.tokenizer}"
                    )
            case _:
                logger.warning(
                    f"{self} has no endpoint for its tokenizer, so it is not checked against the tokenizer in {folder}."
                )

    async def ask_at_start(self, body: Body) -> Any:
        """Send a first request for tokens. Waits, because the server may respond before the model is loaded."""
        return await self._ask_at_start("POST", self.path, body)

    async def look(self, path: str) -> Any:
        """Return the response to GET; None if the server has no such endpoint."""
        try:
            return await self._server.ask("GET", path, seconds=PROBE_SECONDS)
        except (Refused, Failed):
            return None

    async def _ask_at_start(self, method: str, path: str, body: Body | None = None) -> Any:
        return await self._server.ask_at_start(method, path, body, seconds=min(START_SECONDS, self._patience))

    # Requests

    async def ask_now(self, body: Body) -> Any:
        """Send a request for tokens once, without retries."""
        return await self._server.ask("POST", self.path, body, seconds=PROBE_SECONDS)

    async def ask(self, body: Body, *, too_long: str) -> Any:
        """Send a request for tokens, with retries; during an outage, or as long as a busy server says, wait for the server.

        `too_long` is the advice if the server refuses the request, most often because of its length.

        Raises InfrastructureError if the request fails while the server answers others, OutageError after a long outage,
        OptionError if retries do not help.
        """
        tried, patience = 0, Patience(self._patience)
        while True:
            if self._recovery is not None:
                await asyncio.shield(self._recovery)
            try:
                return await self._server.ask("POST", self.path, body)
            except Refused as error:
                raise await self.explained(error, too_long) from error
            except InfrastructureError as error:
                if isinstance(error, Failed) and 0 < error.wait <= patience.left:
                    patience.wait_for(f"{error} It allows another request in {error.wait:g} s;")
                    await asyncio.sleep(error.wait + random.uniform(0, FIRST_WAIT_SECONDS))
                    continue
                tried += 1
                if tried == TRIES:
                    raise
            await self._wait_for_it()
            await asyncio.sleep(random.uniform(0, FIRST_WAIT_SECONDS * 4 ** (tried - 1)))

    async def _wait_for_it(self) -> None:
        """Wait for the shared recovery. Cancelling one caller does not cancel it for the others."""
        if self._recovery is None:
            self._recovery = asyncio.create_task(self._recover())
        await asyncio.shield(self._recovery)

    async def _recover(self) -> None:
        """Send a probe until it succeeds."""
        patience, wait = Patience(self._patience), FIRST_WAIT_SECONDS
        while True:
            try:
                await self._server.ask("POST", self.path, self._probe(), seconds=PROBE_SECONDS)
                await self._proof()
                break
            except Refused as error:
                raise await self.explained(error) from error
            except InfrastructureError as error:
                state = "busy" if isinstance(error, Failed) and error.is_busy else "down"
                patience.wait_for(f"{error} It is {state};")
                if not patience.left:
                    raise OutageError(
                        f"{error} It has been {state} for {self._patience:g} s. {self._words.again}"
                    ) from error
            await asyncio.sleep(min(patience.left, wait * random.uniform(0.5, 1.0)))
            wait = min(2 * wait, LONGEST_WAIT_SECONDS)
        if patience.tried:
            logger.warning(f"{self} is back; the run continues.", extra=EVERY_PROCESS)
        self._recovery = None

    async def explained(self, error: Refused, too_long: str | None = None) -> OptionError:
        """Return the error of a refused request with advice for the user."""
        if error.status in (401, 403):
            given = "has another value" if os.environ.get(self._variable) else "is not set"
            return OptionError(
                f"{error} It requires a key, but the environment variable {self._words.key} {given}. Set it to the server's key."
            )
        if error.status == 404 and self.name:
            models = _models(await self._server.ask("GET", "v1/models"))
            return OptionError(f"{error} It serves {', '.join(models) or 'no model'}, not {self.name}.")
        if error.status in NOT_UNDERSTOOD and too_long is not None:
            return OptionError(f"{error} {too_long}")
        return OptionError(f"{error} Check that it is a server with OpenAI's API, and give its address up to /v1.")


def _models(answer: Any) -> dict[str, int | None]:
    """Return the names of a server's models, each with its context length if reported."""
    match answer:
        case {"data": [*rows]}:
            named = [row for row in rows if isinstance(row, dict) and "id" in row]
            lengths = [row.get("max_model_len") for row in named]
            known = [length if isinstance(length, int) else None for length in lengths]
            return {str(row["id"]): length for row, length in zip(named, known, strict=True)}
    return {}


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
