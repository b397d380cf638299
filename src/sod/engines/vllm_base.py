"""What both vLLM engines share: sampling parameters, the transfer of the policy's weights, and its check.

A transfer of weights can go wrong without an error: an output head keeps its old weights, keys and values of the old weights
are reused, or the server computes in another precision. Every `refresh` therefore ends with a check. vLLM continues a long
prompt in the same way as it serves requests. Its log-probabilities must equal those of a full forward pass of the policy.
"""

import asyncio
import random
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sod.engines import Reply, Request
from sod.errors import InfrastructureError, OptionError, TrainingError
from sod.model.forward import end_ids, head
from sod.model.lora import save_weights
from sod.processes.concurrency import Occupancy, compute

PROBE_TOKENS, PROBE_REPLY = 640, 32
"""The prompt is longer than a block of the prefix cache (16 tokens, 128 on a CPU): a shorter one is never reused."""
TOLERANCE, COARSE_TOLERANCE = 1e-3, 0.1
"""Allowed mean difference over the probe's reply, in nats, in float32 and in coarser types. Rounding causes about 1e-6 and
about 1e-2."""
NEVER = -100.0
"""Logit bias, the lowest that vLLM accepts. It multiplies a probability by about 1e-43."""
RESET_TRIES = 50
"""Tenths of a second to wait until cancelled requests have left the prefix cache."""


def logprobs_mode(temperature: float, top_p: float, *, padded: bool = False) -> str:
    """Return the mode in which vLLM's log-probabilities are at the sampling temperature, before top_p. Raises OptionError.

    `padded`: the head has ids without a token. Processed log-probabilities exclude them. Raw ones include them, and differ by
    the probability of these ids, which `prove` bounds.
    """
    if temperature < 0.01:
        raise OptionError(
            f"temperature {temperature} is too low for vLLM, which silently replaces it by 0.01. Use at least 0.01."
        )
    if temperature == 1 and not (padded and top_p == 1):
        return "raw_logprobs"
    if top_p == 1:
        return "processed_logprobs"
    raise OptionError(
        f"vLLM returns log-probabilities before temperature or after top_p; with temperature {temperature} and top_p {top_p} "
        "neither equal the policy's. Set one of the two to 1, or sample with Transformers (--engine.name hf)."
    )


class VLLM(ABC):
    """Base of both vLLM engines: limits, sampling parameters, the transfer of weights and its check.

    `model` is the policy, in this process. Weights are written to the directory `exchange` for vLLM to read. Default: the
    system's temporary directory (/dev/shm is faster if it is large enough). All requests must have the temperature and top_p
    given here, unless their log-probabilities are not used. Create an engine with `open`.
    """

    def __init__(self, model: PreTrainedModel, *, temperature: float, top_p: float, exchange: Path | None):
        self.gap = float("nan")
        """Mean difference of log-probabilities in the latest check, in nats."""
        self._model = model
        self._temperature, self._top_p = temperature, top_p
        self._exchange = exchange
        self._context = 0  # the longest sequence, in tokens
        self._ends = end_ids(model)
        self._unused = range(len(head(model)), model.config.get_text_config().vocab_size)
        """Ids of the head without a token."""
        self._mode = logprobs_mode(temperature, top_p, padded=bool(self._unused))
        self._occupancy = Occupancy()

    async def sample(self, request: Request) -> Reply:
        """Sample one turn. Raises InfrastructureError if vLLM failed, OptionError if further tries are useless."""
        if request.logprobs and (request.temperature, request.top_p) != (self._temperature, self._top_p):
            raise OptionError(
                f"This vLLM engine was opened for temperature {self._temperature} and top_p {self._top_p}; it cannot return "
                f"log-probabilities for {request.temperature} and {request.top_p}. Open another engine for these."
            )
        if len(request.ids) + request.max_tokens > self._context:
            raise OptionError(
                f"{len(request.ids)} tokens and a reply of up to {request.max_tokens} do not fit vLLM's context of "
                f"{self._context} tokens. Use a longer context (server: --max-model-len), or lower rollout.max_tokens."
            )
        with self._occupancy:
            asked = parameters(request, self._ends, self._unused)
            tokens, logprobs = await self._generate(request.ids, asked)
        ended = bool(tokens) and tokens[-1] in asked["stop_token_ids"]
        if not ended and len(tokens) != request.max_tokens:
            raise OptionError(
                f"vLLM ended a reply after {len(tokens)} of {request.max_tokens} tokens without an end token. If it is a server, "
                "start it with --generation-config vllm."
            )
        return Reply(tuple(tokens), tuple(logprobs), "stop" if ended else "length")

    def release(self, trajectory: int) -> None:
        """Do nothing: vLLM's prefix cache drops the least recently used entries."""
        del trajectory

    def take_busy_seconds(self) -> float:
        """Return the seconds since the last call with at least one running request."""
        return self._occupancy.take_seconds()

    async def refresh(self) -> None:
        """Send the policy's weights to vLLM, and verify that it samples with them. Raises TrainingError."""
        assert not self._occupancy.under_way, "weights may only change while no request runs"
        await self.sample(self._probe(1))  # fills the cache, so that `prove` detects reused old keys and values
        check_room(self._exchange, self._model.get_memory_footprint(return_buffers=False))
        with tempfile.TemporaryDirectory(prefix="sod-weights-", dir=self._exchange) as folder:
            await compute(save_weights, self._model, Path(folder))
            await self.call("load_policy", folder)
        await self.call("renew_tied_head")
        await self.forget()
        await self.prove()

    async def forget(self) -> None:
        """Empty the prefix cache."""
        for _ in range(RESET_TRIES):
            if await self._reset_prefix_cache():
                return
            await asyncio.sleep(0.1)
        raise InfrastructureError(
            "vLLM's prefix cache cannot be emptied, because other requests are running. Use a server that only this run uses."
        )

    async def prove(self) -> None:
        """Raises TrainingError unless vLLM's log-probabilities equal the policy's."""
        probe = self._probe(PROBE_REPLY)
        reply = await self.sample(probe)
        whole, last = [*probe.ids, *reply.tokens], len(reply.tokens)
        expected_T = await compute(_full_forward, self._model, whole, last, self._temperature)
        self.gap = (torch.tensor(reply.logprobs) - expected_T).abs().mean().item()
        tolerance = TOLERANCE if self._model.dtype == torch.float32 else COARSE_TOLERANCE
        if not self.gap <= tolerance:
            raise TrainingError(
                f"vLLM received the policy's weights, but its log-probabilities differ from the policy's by {self.gap:.2g} nats "
                f"(allowed: {tolerance}). Either it still samples with other weights, or a server was started without "
                f"--dtype {name_of_type(self._model.dtype)} or --logprobs-mode {self._mode}. Start a server with both options."
            )

    @abstractmethod
    async def call(self, method: str, *arguments: str) -> None:
        """Call a method of `vllm_worker.WeightSync` in every worker."""

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    async def _generate(self, ids: Sequence[int], parameters: dict[str, Any]) -> tuple[list[int], list[float]]:
        """Return tokens and the log-probability of each. A cancelled call frees its resources."""

    @abstractmethod
    async def _reset_prefix_cache(self) -> bool:
        """Empty the prefix cache. Return True if it is empty now."""

    def _probe(self, max_tokens: int) -> Request:
        draw = random.Random(0)
        vocabulary = len(head(self._model))
        length = max(1, min(PROBE_TOKENS, self._context - PROBE_REPLY))
        ids = [draw.randrange(vocabulary) for _ in range(length)]
        most = min(max_tokens, self._context - length)
        return Request(ids=ids, max_tokens=most, stops=(), seed=0, temperature=self._temperature, top_p=self._top_p)


def check_room(exchange: Path | None, needed: int) -> None:
    """Raise OptionError unless the directory for the weights has room for them."""
    folder = exchange or Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free
    if free < needed:
        docker = (
            " Docker gives it 64 MB; docker run --shm-size 16g gives it more." if folder == Path("/dev/shm") else ""
        )
        raise OptionError(
            f"{folder} has {free / 2**20:,.0f} MiB free, but vLLM receives {needed / 2**20:,.0f} MiB of weights "
            f"through it.{docker} Give a directory with more room as --engine.exchange."
        )


def parameters(request: Request, ends: Set[int], unused: Sequence[int] = ()) -> dict[str, Any]:
    """Return vLLM's sampling parameters for a request. Sets all of them, because server and model may change defaults.

    `ends`: ids that end a turn in addition to the request's own. `unused`: ids that are never sampled.
    """
    return {
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        # On a CPU, torch's generator only uses the low 32 bits: make them depend on all bits of the seed.
        "seed": random.Random(request.seed).getrandbits(63),
        "stop_token_ids": sorted(request.ends(ends)),
        "ignore_eos": True,
        "logprobs": 0,
        **({"logit_bias": dict.fromkeys(unused, NEVER)} if unused else {}),
    }


@torch.no_grad()
def _full_forward(model: PreTrainedModel, ids: list[int], last: int, temperature: float) -> Tensor:
    """Return log pi of the last tokens. -> (last,)"""
    ids_BT = torch.tensor([ids], device=model.device)
    logits_TV = model(input_ids=ids_BT, use_cache=False, logits_to_keep=last + 1).logits[0, :-1].float()
    logits_TV = logits_TV[:, : len(head(model))]
    return (logits_TV / temperature).log_softmax(-1).gather(1, ids_BT[0, -last:, None])[:, 0].cpu()


def name_of_type(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
