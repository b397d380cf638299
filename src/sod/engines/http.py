"""Asking a server that has OpenAI's API: one question, one answer in JSON, and what it means if there is none."""

import asyncio
import time
from typing import Any

import httpx

from sod.errors import InfrastructureError, OptionError
from sod.progress import say

CONNECT_SECONDS = 30.0
SHOWN_CHARACTERS = 1000
"""Of what a server says about an error."""
TRANSIENT = {408, 425, 429}
"""Statuses below 500 after which another try may succeed."""


class Failed(InfrastructureError):
    """The server answered, but not with what was asked for; another try may succeed."""


class Refused(OptionError):
    """The server will not do it, however often it is asked."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


class Server:
    """A server at `url`, with or without /v1, called `kind` in messages; each answer may take `seconds`.

    It belongs to the event loop that asks first. Raises OptionError for what cannot be an address.
    """

    def __init__(self, url: str, *, kind: str, seconds: float, key: str | None = None):
        self._kind, self._seconds = kind, seconds
        try:
            self._client = httpx.AsyncClient(
                base_url=url.rstrip("/").removesuffix("/v1"),
                headers={"Authorization": f"Bearer {key}"} if key else {},
                timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),  # there is one for the whole of each answer
                # The server may close an idle connection just when it is used.
                limits=httpx.Limits(max_keepalive_connections=0),
                trust_env=False,  # a proxy of the environment does not lead to this machine
            )
        except (httpx.InvalidURL, TypeError) as error:
            raise OptionError(f"{url!r} is not the address of a {kind}: {error}.") from error

    def __str__(self) -> str:
        return f"The {self._kind} at {str(self._client.base_url).rstrip('/')}"

    async def ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, seconds: float | None = None
    ) -> Any:
        """An answer in JSON, within `seconds` if they are fewer. A cancelled call hangs up.

        Raises InfrastructureError where another try may help (Failed, if there was an answer), OptionError where none will
        (Refused, likewise).
        """
        limit = min(self._seconds, seconds or self._seconds)
        try:
            async with asyncio.timeout(limit):
                response = await self._client.request(method, path, json=body)
        except TimeoutError:
            raise InfrastructureError(f"{self} did not answer /{path} in {limit:g} seconds.") from None
        except httpx.UnsupportedProtocol as error:
            raise OptionError(f"{self} has no such address: {error}") from error
        except httpx.HTTPError as error:
            cause = ": ".join(filter(None, (type(error).__name__, str(error))))
            raise InfrastructureError(f"{self} was not reached ({cause}).") from error
        complaint = f"{self} answered /{path} with status {response.status_code}: {short(response.text)}"
        if response.status_code == 200:
            try:
                return response.json()
            except ValueError as error:
                raise Failed(complaint) from error
        if response.status_code >= 500 or response.status_code in TRANSIENT:
            raise Failed(complaint)
        raise Refused(complaint, response.status_code)

    async def ask_at_start(self, method: str, path: str, body: dict[str, Any] | None = None, *, seconds: float) -> Any:
        """Likewise, of a server that may still be starting: again and again, for up to `seconds`."""
        deadline = time.monotonic() + seconds
        waiting = False
        while True:
            try:
                return await self.ask(method, path, body)
            except InfrastructureError as error:
                if time.monotonic() > deadline:
                    raise
                if not waiting:
                    say(f"{error} It may still be starting: waiting up to {seconds:g} s for it.")
                    waiting = True
            await asyncio.sleep(min(1.0, seconds))

    async def close(self) -> None:
        """End every request. The server stays."""
        await self._client.aclose()


def short(text: str) -> str:
    return text.strip()[:SHOWN_CHARACTERS]
