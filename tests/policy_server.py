"""A server with vLLM's API that samples a real model, by this project's engine, and takes weights as vLLM does.

It runs in a thread of this process, with a copy of the weights of its own: what it samples with is what it was last sent.
"""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from sod.config import ModelOptions
from sod.engines import Request
from sod.engines.hf import HFEngine
from sod.model.loading import load_model


class PolicyServer:
    """What the server has done: `loads` counts the weights that it took."""

    def __init__(self, folder: Path):
        self._model = load_model(folder, ModelOptions(device="cpu"))
        self._engine = HFEngine(self._model, slots=16)
        self.loads = 0
        self.sampled_with: set[int] = set()
        """Values of `loads` while requests of trajectories arrived."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next((int(line[15:]) for line in head.lower().splitlines() if line.startswith("content-length:")), 0)
        body = json.loads(await reader.readexactly(length) or b"null")
        text = json.dumps(await self._answer(head.split()[1], body)).encode()
        writer.write(f"HTTP/1.1 200 .\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)
        writer.close()

    async def _answer(self, path: str, body: Any) -> Any:
        if path == "/v1/models":
            return {"data": [{"id": "policy", "max_model_len": self._model.config.max_position_embeddings}]}
        if path == "/reset_prefix_cache":
            await self._engine.refresh()
            return {"success": True}
        if path == "/collective_rpc":
            if body["method"] == "load_policy":
                self._model.load_state_dict(load_file(Path(body["args"][0], "model.safetensors")), strict=False)
                self.loads += 1
            return {"results": [None]}
        if body["stop_token_ids"]:  # the proof of the weights has none
            self.sampled_with.add(self.loads)
        return await completion(self._engine, body)


async def completion(engine: HFEngine, body: Any) -> Any:
    """Return vLLM's response to a request for tokens."""
    request = Request(
        ids=body["prompt"],
        max_tokens=body["max_tokens"],
        stops=body["stop_token_ids"],
        seed=body["seed"],
        temperature=body["temperature"],
    )
    reply = await engine.sample(request)
    logprobs = {"token_logprobs": reply.logprobs}
    return {"choices": [{"finish_reason": reply.stop, "text": "", "token_ids": reply.tokens, "logprobs": logprobs}]}


@contextmanager
def loop_in_a_thread() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs in a thread of its own, forward passes included."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def serving_policy(folder: Path) -> Iterator[tuple[str, PolicyServer]]:
    """Serve a model on a free port of 127.0.0.1. -> the address, and the server"""
    policy = PolicyServer(folder)
    with loop_in_a_thread() as loop:
        starting = asyncio.run_coroutine_threadsafe(asyncio.start_server(policy.serve, "127.0.0.1", 0), loop)
        server = starting.result()
        try:
            yield "http://{}:{}".format(*server.sockets[0].getsockname()), policy
        finally:
            loop.call_soon_threadsafe(server.close)
