"""A model on a server with OpenAI's API: checks at the start, requests with retries, waits during outages."""

import asyncio
import logging
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from sod.engines.http import Failed, Patience, Refused, Server
from sod.errors import InfrastructureError, ModelError, OptionError, OutageError
from sod.processes.distributed import EVERY_PROCESS

logger = logging.getLogger(__name__)

NOT_UNDERSTOOD = {400, 422}
"""Statuses that servers return for an unknown field."""
START_SECONDS = 300.0
"""Time that a server may take to start."""
PROBE_SECONDS = 60.0
TRIES = 3
"""Number of tries for a request that fails while the server answers others."""
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.25, 15.0
"""Waits between two probes of an unreachable server."""

Body = dict[str, Any]


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
