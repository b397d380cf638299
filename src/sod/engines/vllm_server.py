"""Sample with a vLLM server, over HTTP. vLLM need not be installed here. Start the server with

    VLLM_SERVER_DEV_MODE=1 PYTHONPATH=FOLDER python -m vllm.entrypoints.openai.api_server --model STUDENT
        --load-format dummy --dtype float32 --max-model-len 23040 --generation-config vllm --host 127.0.0.1
        --worker-extension-cls vllm_worker.WeightSync

where FOLDER holds a copy of `vllm_worker.py` and nothing else; `vllm.py` from this package would hide vLLM itself. Add
`--logprobs-mode processed_logprobs` if the temperature is not 1. On a CPU, add `--no-enable-chunked-prefill`: there, vLLM
crashes on a prompt that is read in chunks and has a seed. `--load-format dummy` is optional; with it, the first check covers
every weight. The server must be able to read the directory `exchange`, and must serve only one run. In development mode,
anyone who can reach the server can call any function of its workers: let it listen on this machine or a private network only.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from transformers import PreTrainedModel

from sod.engines.http import Failed, Refused, Server, short
from sod.engines.vllm_base import VLLM
from sod.errors import InfrastructureError, OptionError


class VLLMServerEngine(VLLM):
    """vLLM on a server that the user starts and stops."""

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
        """Wait up to `start_seconds` for the server at `url`, then send the weights and verify them.

        `url` is, for example, http://127.0.0.1:8000. Every later response may take `seconds`. Raises OptionError if it is not
        such a server, InfrastructureError if it does not respond, TrainingError if its log-probabilities differ from the
        policy's.
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
                f"{error} Start it as described in {__name__}, and check that it can read {folder}."
            ) from error

    async def close(self) -> None:
        await self._server.close()

    async def _meet(self, seconds: float) -> None:
        """Wait for the server and read the model's name and context length."""
        with self._refusals():
            answer = await self._server.ask_at_start("GET", "v1/models", seconds=seconds)
        match answer:
            case {"data": [{"id": str(name), "max_model_len": int(context)}, *_]}:
                self._name, self._context = name, context
            case _:
                raise OptionError(f"{self._server} is no vLLM server; it returned: {short(str(answer))}")

    async def _generate(self, ids: Sequence[int], parameters: dict[str, Any]) -> tuple[list[int], list[float]]:
        request = {"model": self._name, "prompt": list(ids), "return_token_ids": True, **parameters}
        answer = await self._ask("v1/completions", request)
        match answer:
            case {"choices": [{"finish_reason": "stop" | "length", "token_ids": [*tokens], "logprobs": {**logprobs}}]}:
                return tokens, logprobs["token_logprobs"]
            case {"choices": [{"finish_reason": "stop" | "length"}]}:
                raise OptionError(f"{self._server} returns no token ids. Update its vLLM.")
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
                f"{error} Retries will not help. Check that it is a vLLM server started as described in {__name__}."
            ) from error
