"""Asking a server that has OpenAI's API: one question, one answer in JSON, and what it means if there is none.

`ServedModel` is one of the models that such a server has: asked again where an answer fails, waited for when the server
vanishes.
"""

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx

from sod.console.progress import say, warn
from sod.errors import InfrastructureError, ModelError, OptionError, OutageError

CONNECT_SECONDS = 30.0
REMIND_SECONDS = 60.0
"""Between two words about a server that is waited for."""
SHOWN_CHARACTERS = 1000
"""Of what a server says about an error."""
TRANSIENT = {408, 425, 429}
"""Statuses below 500 after which another try may succeed."""
NOT_UNDERSTOOD = {400, 422}
"""Statuses by which servers refuse a field that they do not know."""
START_SECONDS = 300.0
"""For which a server may still be starting."""
PROBE_SECONDS = 60.0
TRIES = 3
"""How often an answer is asked for that the server fails to give, though it gives others."""
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.25, 15.0
"""Between two questions to a server that has vanished."""

Body = dict[str, Any]


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
        patience = Patience(seconds)
        while True:
            try:
                return await self.ask(method, path, body)
            except InfrastructureError as error:
                if not patience.left:
                    raise
                patience.wait_for(f"{error} It may still be starting, or the address is another one:")
            await asyncio.sleep(min(1.0, seconds))

    async def close(self) -> None:
        """End every request. The server stays."""
        await self._client.aclose()


class Patience:
    """How long a server is still waited for; says so at first, and now and then."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        self._next = 0.0

    @property
    def left(self) -> float:
        """Seconds."""
        return max(0.0, self._end - time.monotonic())

    def wait_for(self, why: str) -> None:
        if time.monotonic() < self._next:
            return
        warn(
            f"{why} waiting up to {self._seconds:g} s for it."
            if not self._next
            else f"  still waiting, {self.left:.0f} s more"
        )
        self._next = time.monotonic() + REMIND_SECONDS

    @property
    def tried(self) -> bool:
        """Whether it was needed."""
        return self._next > 0


@dataclass(frozen=True, slots=True)
class Words:
    """How messages about a served model name what the user can change."""

    name: str
    """The option with the model's name on the server."""
    key: str
    """The environment variable with the server's key, and where that is said."""
    tokenizer: str
    """What to do where the server's tokenizer is another one."""
    again: str
    """What to do after an outage."""


async def _nothing() -> None: ...


class ServedModel:
    """A model that a server has. `meet` it before it is asked.

    `variable` is the environment's with the server's key, if it wants one; each answer may take `seconds`, and a server that
    vanishes is waited for, for up to `patience` seconds. `probe` makes a short request, to see whether it is there; `proof`
    raises if what is there then is not what was.
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
        self.context: int | None = None
        """Its longest context in tokens, where the server says so."""
        self._words, self._variable = words, variable
        self._server = Server(url, kind=kind, seconds=seconds, key=os.environ.get(variable))
        self._patience = patience
        self._probe, self._proof = probe, proof
        self._recovery: asyncio.Task[None] | None = None

    def __str__(self) -> str:
        return str(self._server)

    async def close(self) -> None:
        if self._recovery is not None:
            self._recovery.cancel()
        await self._server.close()

    # What is there

    async def meet(self, wanted: str | None) -> None:
        """Wait for the server, and find the model of that name; None is the only one. Raises OptionError."""
        try:
            models = _models(await self._ask_at_start("GET", "v1/models"))
        except Refused as error:
            raise await self.explained(error) from error
        if not models:
            raise OptionError(f"{self} does not say which models it serves. Is it a server with OpenAI's API?")
        if wanted is None and len(models) == 1:
            wanted = next(iter(models))
        if wanted is None or wanted not in models:
            lacks = "serves more than one model" if wanted is None else f"serves no model named {wanted!r}"
            raise OptionError(f"{self} {lacks}. Give one of its own as --{self._words.name}: {', '.join(models)}.")
        self.name, self.context = wanted, models[wanted]

    def check_context(self, longest: int, what: str) -> None:
        """`what` is `longest` tokens long, and must fit. Raises OptionError."""
        if self.context is not None and longest > self.context:
            raise OptionError(
                f"{self} serves {self.name} with a context of {self.context} tokens, but {what} is {longest}. Lower one of "
                "them, or start the server with a longer context (vLLM: --max-model-len)."
            )

    async def check_tokenizer(self, text: str, ids: list[int], folder: str) -> None:
        """vLLM can be asked how it tokenizes; that must be as the tokenizer in `folder` does it. Raises ModelError."""
        question = {"model": self.name, "prompt": text, "add_special_tokens": False}
        try:
            answer = await self._server.ask("POST", "tokenize", question, seconds=PROBE_SECONDS)
        except (Refused, InfrastructureError):
            answer = None
        match answer:
            case {"tokens": [int(), *_] as theirs}:
                if theirs != ids:
                    raise ModelError(
                        f"{self} tokenizes otherwise than the tokenizer in {folder}: {theirs[:12]} ... instead of {ids[:12]} "
                        f"... {self._words.tokenizer}"
                    )
            case _:
                say(
                    f"{self} cannot be asked how it tokenizes: it is not checked that it does so like the tokenizer in {folder}."
                )

    async def ask_at_start(self, body: Body) -> Any:
        """Its answer to a first request for tokens: the server may be there before the model is."""
        return await self._ask_at_start("POST", "v1/completions", body)

    async def _ask_at_start(self, method: str, path: str, body: Body | None = None) -> Any:
        return await self._server.ask_at_start(method, path, body, seconds=min(START_SECONDS, self._patience))

    # Answers

    async def ask_now(self, body: Body) -> Any:
        """Its answer to a request for tokens, if it is there."""
        return await self._server.ask("POST", "v1/completions", body, seconds=PROBE_SECONDS)

    async def ask(self, body: Body, *, too_long: str) -> Any:
        """Its answer to a request for tokens, when it is there again if it is not.

        `too_long` is what to say where the request itself is refused, which is most often for its length.

        Raises InfrastructureError for an answer that it fails to give while it gives others, OutageError when it has been
        away for too long, OptionError where asking again would not help.
        """
        for tried in range(TRIES):
            if self._recovery is not None:
                await asyncio.shield(self._recovery)
            try:
                return await self._server.ask("POST", "v1/completions", body)
            except Refused as error:
                raise await self.explained(error, too_long) from error
            except InfrastructureError:
                if tried + 1 == TRIES:
                    raise
            await self._wait_for_it()
            await asyncio.sleep(random.uniform(0, FIRST_WAIT_SECONDS * 4**tried))
        raise AssertionError("the last try returns or raises")

    async def _wait_for_it(self) -> None:
        """All who have failed wait together; the end of one must not end the waiting of the others."""
        if self._recovery is None:
            self._recovery = asyncio.create_task(self._recover())
        await asyncio.shield(self._recovery)

    async def _recover(self) -> None:
        """Ask for one short answer, until there is one."""
        patience, wait = Patience(self._patience), FIRST_WAIT_SECONDS
        while True:
            try:
                await self._server.ask("POST", "v1/completions", self._probe(), seconds=PROBE_SECONDS)
                await self._proof()
                break
            except Refused as error:
                raise await self.explained(error) from error
            except InfrastructureError as error:
                patience.wait_for(f"{error} It has vanished:")
                if not patience.left:
                    raise OutageError(
                        f"{error} It has been away for {self._patience:g} s. {self._words.again}"
                    ) from error
            await asyncio.sleep(min(patience.left, wait * random.uniform(0.5, 1.0)))
            wait = min(2 * wait, LONGEST_WAIT_SECONDS)
        if patience.tried:
            warn(f"{self} answers again; the run goes on.")
        self._recovery = None

    async def explained(self, error: Refused, too_long: str | None = None) -> OptionError:
        """A refusal, with what to do about it."""
        if error.status in (401, 403):
            given = "it is not the right one" if os.environ.get(self._variable) else "it is not set"
            return OptionError(f"{error} It wants a key in the environment variable {self._words.key}: {given}.")
        if error.status == 404 and self.name:
            models = _models(await self._server.ask("GET", "v1/models"))
            return OptionError(f"{error} It serves {', '.join(models) or 'no model'}; asked for was {self.name}.")
        if error.status in NOT_UNDERSTOOD and too_long is not None:
            return OptionError(f"{error} {too_long}")
        return OptionError(f"{error} Is it a server with OpenAI's API?")


def _models(answer: Any) -> dict[str, int | None]:
    """Names of the models that a server has, with the longest context of each where it is told."""
    match answer:
        case {"data": [*rows]}:
            return {str(row["id"]): row.get("max_model_len") for row in rows}
    return {}


def short(text: str) -> str:
    text = text.strip()
    return "(a page for a browser)" if text.startswith("<") else text[:SHOWN_CHARACTERS]
