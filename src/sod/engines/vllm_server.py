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

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from transformers import PreTrainedModel

from sod.engines.http import Failed, Refused, Server, short
from sod.engines.vllm import VLLM
from sod.errors import InfrastructureError, OptionError


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
        engine._server = Server(url, kind="vLLM server", seconds=seconds)
        try:
            await engine._meet(start_seconds)
            await engine.refresh()
        except BaseException:
            await engine.close()
            raise
        return engine

    _server: Server
    _name: str

    async def call(self, method: str, *arguments: str) -> None:
        try:
            await self._server.ask("POST", "collective_rpc", {"method": method, "args": arguments})
        except (Failed, Refused) as error:
            folder = self._exchange or tempfile.gettempdir()
            raise OptionError(
                f"{error} It must be started as {__name__} says, and be able to read {folder}."
            ) from error

    async def close(self) -> None:
        await self._server.close()

    async def _meet(self, seconds: float) -> None:
        """Learn the model's name and context, once the server answers."""
        with self._refusals():
            answer = await self._server.ask_at_start("GET", "v1/models", seconds=seconds)
        match answer:
            case {"data": [{"id": str(name), "max_model_len": int(context)}, *_]}:
                self._name, self._context = name, context
            case _:
                raise OptionError(f"{self._server} is no vLLM server: {short(str(answer))}")

    async def _generate(self, ids: Sequence[int], parameters: dict[str, Any]) -> tuple[list[int], list[float]]:
        request = {"model": self._name, "prompt": list(ids), "return_token_ids": True, **parameters}
        answer = await self._ask("v1/completions", request)
        match answer:
            case {"choices": [{"finish_reason": "stop" | "length", "token_ids": [*tokens], "logprobs": {**logprobs}}]}:
                return tokens, logprobs["token_logprobs"]
            case {"choices": [{"finish_reason": "stop" | "length"}]}:
                raise OptionError(f"{self._server} gives no token ids; it needs a newer vLLM.")
        raise InfrastructureError(f"{self._server} did not finish a reply: {short(str(answer))}")

    async def _reset_prefix_cache(self) -> bool:
        return bool((await self._ask("reset_prefix_cache"))["success"])

    async def _ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        with self._refusals():
            return await self._server.ask("POST", path, body)

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except Refused as error:
            raise OptionError(
                f"{error} Asking again would not help: is it a vLLM server, started as {__name__} says?"
            ) from error
