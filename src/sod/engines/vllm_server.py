"""Samples with a vLLM server, over HTTP: vLLM need not be installed here. The server is started with

    VLLM_SERVER_DEV_MODE=1 PYTHONPATH=FOLDER python -m vllm.entrypoints.openai.api_server --model STUDENT
        --load-format dummy --dtype float32 --max-model-len 23040 --generation-config vllm --host 127.0.0.1
        --worker-extension-cls vllm_worker.WeightSync

where FOLDER holds a copy of `vllm_worker.py` and nothing else (`vllm.py`, beside it here, would hide vLLM itself). Add
`--logprobs-mode processed_logprobs` where the temperature is not 1 and, on a CPU, `--no-enable-chunked-prefill`: there, a
prompt that is read in parts and has a seed makes vLLM crash. `--load-format dummy` can be left out, but makes the first
proof one of every weight. The server must see the folder `exchange`, and belongs to one run alone. In development mode,
whoever reaches it can call any function of its workers: let it listen on this machine only, or on a network of yours.
"""

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import httpx
from transformers import PreTrainedModel

from sod.engines.vllm import VLLM
from sod.errors import InfrastructureError, OptionError

SHOWN_CHARACTERS = 1000
"""Of what a server says about an error."""
TRANSIENT = {408, 425, 429}
"""Statuses below 500 after which another try may succeed."""


class VLLMServerEngine(VLLM):
    """vLLM on a server that somebody else starts and ends."""

    @classmethod
    async def open(
        cls,
        url: str,
        model: PreTrainedModel,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seconds: float = 1800.0,
        start_seconds: float = 300.0,
        exchange: Path | None = None,
    ) -> Self:
        """Wait up to `start_seconds` for the server at `url`, such as http://127.0.0.1:8000; hand weights over; prove.

        Every later answer may take `seconds`. Raises OptionError for what is not such a server, InfrastructureError if it
        does not answer, TrainingError if it does not sample what the policy would.
        """
        engine = cls(model, temperature=temperature, top_p=top_p, exchange=exchange)
        engine._seconds = seconds
        try:
            engine._client = httpx.AsyncClient(
                base_url=url,
                timeout=None,  # there is one for the whole of each answer
                limits=httpx.Limits(
                    max_keepalive_connections=0
                ),  # the server may close an idle one just when it is used
                trust_env=False,  # a proxy of the environment does not lead to this machine
            )
        except (httpx.InvalidURL, TypeError) as error:
            raise OptionError(f"{url!r} is not the address of a vLLM server: {error}.") from error
        try:
            await engine._meet(start_seconds)
            await engine.refresh()
        except BaseException:
            await engine.close()
            raise
        return engine

    _seconds: float
    _client: httpx.AsyncClient
    _name: str

    async def call(self, method: str, *arguments: str) -> None:
        await self._ask("POST", "collective_rpc", {"method": method, "args": arguments})

    async def close(self) -> None:
        """End every request. The server stays."""
        await self._client.aclose()

    async def _meet(self, seconds: float) -> None:
        """Learn the model's name and context, once the server answers."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                answer = await self._ask("GET", "v1/models")
                break
            except InfrastructureError:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(min(1.0, seconds))
        match answer:
            case {"data": [{"id": str(name), "max_model_len": int(context)}, *_]}:
                self._name, self._context = name, context
            case _:
                raise OptionError(f"What answers at {self._client.base_url} is no vLLM server: {_short(str(answer))}")

    async def _generate(self, ids: Sequence[int], parameters: dict[str, Any]) -> tuple[list[int], list[float]]:
        request = {"model": self._name, "prompt": list(ids), "return_token_ids": True, **parameters}
        answer = await self._ask("POST", "v1/completions", request)
        match answer:
            case {"choices": [{"finish_reason": "stop" | "length", "token_ids": [*tokens], "logprobs": {**logprobs}}]}:
                return tokens, logprobs["token_logprobs"]
            case {"choices": [{"finish_reason": "stop" | "length"}]}:
                raise OptionError(f"The server at {self._client.base_url} gives no token ids; it needs a newer vLLM.")
        raise InfrastructureError(f"The vLLM server did not finish a reply: {_short(str(answer))}")

    async def _reset_prefix_cache(self) -> bool:
        return bool((await self._ask("POST", "reset_prefix_cache"))["success"])

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """An answer in JSON. Raises InfrastructureError where another try may help, OptionError where none will."""
        where = f"The vLLM server at {self._client.base_url}"
        try:
            async with asyncio.timeout(self._seconds):
                response = await self._client.request(method, path, json=body)
        except TimeoutError:
            raise InfrastructureError(f"{where} did not answer /{path} in {self._seconds:g} seconds.") from None
        except httpx.UnsupportedProtocol as error:
            raise OptionError(f"{where} has no such address: {error}") from error
        except httpx.HTTPError as error:
            raise InfrastructureError(f"{where} was not reached: {type(error).__name__} {error}") from error
        complaint = f"{where} answered /{path} with status {response.status_code}: {_short(response.text)}"
        if response.status_code == 200:
            try:
                return response.json()
            except ValueError as error:
                raise InfrastructureError(complaint) from error
        if path == "collective_rpc":
            folder = self._exchange or tempfile.gettempdir()
            raise OptionError(f"{complaint} It must be started as {__name__} says, and be able to read {folder}.")
        if response.status_code >= 500 or response.status_code in TRANSIENT:
            raise InfrastructureError(complaint)
        raise OptionError(f"{complaint} Asking again would not help: is it a vLLM server, started as {__name__} says?")


def _short(text: str) -> str:
    return text.strip()[:SHOWN_CHARACTERS]
