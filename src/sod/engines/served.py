"""Sample a remote model on a server with OpenAI's API. For evaluation only; it cannot be trained.

Prompts are sent as token ids. vLLM returns token ids. Other servers return text, which is encoded again with the local
tokenizer; this is good enough for an evaluation. A short request at the start detects the kind of server.

During an outage, pending requests wait for the server and are then sent again.
"""

import logging
import random
from pathlib import Path
from typing import Any, Self

from transformers import PreTrainedTokenizerBase

from sod.config import EngineOptions, SamplingOptions
from sod.engines import CANNOT_TRAIN, Reply, Request
from sod.engines.http import Refused, short
from sod.engines.served_model import NOT_UNDERSTOOD, ServedModel, Words
from sod.engines.vllm_base import parameters
from sod.errors import InfrastructureError, OptionError
from sod.model.forward import ends_beside, id_count, unused_beside
from sod.processes.concurrency import Occupancy

logger = logging.getLogger(__name__)

PROBE_TEXT = "Ünïcode,  two spaces,\n\n\ttabs; 1234567890 + x**2 <= 'a_b' <tool_call>{\"a\": [1]}</tool_call> 数学 🙂"
"""Text that different tokenizers split differently."""


class ServedEngine:
    """Engine on a remote model. Create it with `open`.

    A reply has log-probabilities only from vLLM at temperature 1, where they equal those at the sampling temperature.
    """

    @classmethod
    async def open(cls, options: EngineOptions, tokenizer: PreTrainedTokenizerBase, rollout: SamplingOptions) -> Self:
        """Wait for the server at `options.url`, detect its model and API, and check that they fit.

        Raises OptionError for options that cannot work, ModelError if the server's tokenizer differs, InfrastructureError if
        the server does not respond.
        """
        engine = cls(options, tokenizer, rollout)
        try:
            await engine._meet(rollout)
        except BaseException:
            await engine.close()
            raise
        return engine

    def __init__(self, options: EngineOptions, tokenizer: PreTrainedTokenizerBase, rollout: SamplingOptions):
        assert options.url is not None
        self._wanted = options.served_name
        self._tokenizer = tokenizer
        self._ends = ends_beside(Path(tokenizer.name_or_path))
        self._tokens = id_count(tokenizer)
        self._unused = unused_beside(Path(tokenizer.name_or_path), self._tokens)
        self._model = ServedModel(
            options.url,
            kind="server",
            words=Words(
                name="engine.served_name",
                key=f"{options.key_variable} (engine.key_variable)",
                tokenizer="Pass the model that it serves as --model.",
                again="Restart it, then run the same command to continue.",
            ),
            variable=options.key_variable,
            seconds=rollout.seconds,
            patience=options.patience,
            probe=lambda: self._body(self._probe()),
        )
        self._gives_ids = True
        self._occupancy = Occupancy()

    async def sample(self, request: Request) -> Reply:
        with self._occupancy:
            return self._reply(request, await self._complete(request))

    def release(self, trajectory: int) -> None:
        """Do nothing: the server manages its own cache."""
        del trajectory

    def take_busy_seconds(self) -> float:
        """Return the seconds since the last call with at least one running request, outages included."""
        return self._occupancy.take_seconds()

    async def refresh(self) -> None:
        raise OptionError(CANNOT_TRAIN.format(name="served"))

    async def close(self) -> None:
        await self._model.close()

    # Checks at the start

    async def _meet(self, rollout: SamplingOptions) -> None:
        await self._model.meet(self._wanted)
        longest = rollout.max_prompt_tokens + rollout.max_tokens
        self._model.check_context(longest, "rollout.max_prompt_tokens + rollout.max_tokens")
        await self._model.check_tokenizer(PROBE_TEXT, self._encode(PROBE_TEXT), self._tokenizer.name_or_path)
        await self._detect_api()

    async def _detect_api(self) -> None:
        """Detect whether the server has vLLM's API with token ids, or only OpenAI's with text."""
        try:
            answer = await self._model.ask_at_start(self._body(self._probe()))
            if _token_ids(answer) is not None:
                return
            why = "it returns no token ids"
        except Refused as error:
            if error.status not in NOT_UNDERSTOOD:
                raise await self._model.explained(error) from error
            why = f"it refuses vLLM's fields ({short(str(error))})"
        self._gives_ids = False
        logger.info(
            f"{self._model} is used through OpenAI's API, and its text is encoded again here, because {why}. "
            "The server's own top_k, min_p and penalties apply."
        )
        await self._complete(self._probe())

    def _probe(self) -> Request:
        return Request(ids=self._encode(PROBE_TEXT), max_tokens=1, stops=(), seed=0)

    # Requests and replies

    def _body(self, request: Request) -> dict[str, Any]:
        fields = self._vllm_fields(request) if self._gives_ids else self._openai_fields(request)
        return {"model": self._model.name, "prompt": list(request.ids), **fields}

    def _vllm_fields(self, request: Request) -> dict[str, Any]:
        fields = {"return_token_ids": True, **parameters(request, self._ends, self._unused)}
        if request.temperature != 1:
            del fields["logprobs"]
        return fields

    def _openai_fields(self, request: Request) -> dict[str, Any]:
        ends = [[id] for id in sorted(request.ends(self._ends))]
        return {
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": random.Random(request.seed).getrandbits(31),  # some servers accept no larger seed
            **({"stop": self._tokenizer.batch_decode(ends)} if ends else {}),
        }

    def _reply(self, request: Request, answer: Any) -> Reply:
        match answer:
            case {"choices": [{"finish_reason": "stop" | "length" as reason, "text": str(text)} as choice, *_]}:
                ids = _token_ids(answer)
                tokens = self._encode(text) if ids is None else ids
            case _:
                raise InfrastructureError(f"{self._model} did not finish a reply: {short(str(answer))}")
        if strange := [id for id in tokens if id >= self._tokens]:
            raise InfrastructureError(
                f"{self._model} wrote id {strange[0]}, but the tokenizer here has {self._tokens} ids. The reply is not used."
            )
        stops = request.ends(self._ends)
        end = next((at for at, token in enumerate(tokens) if token in stops), None)
        if end is not None:
            tokens = tokens[: end + 1]
        elif reason == "stop" and request.stops:
            tokens = [*tokens, request.stops[0]]
        if not tokens:
            raise InfrastructureError(f"{self._model} returned an empty reply.")
        logprobs = _logprobs(choice)
        known = tuple(logprobs) if len(logprobs) == len(tokens) else ()
        return Reply(tuple(tokens), known, "stop" if tokens[-1] in stops else "length")

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False, verbose=False)

    async def _complete(self, request: Request) -> Any:
        """Send a request with `ServedModel.ask`."""
        too_long = (
            f"The prompt has {len(request.ids)} tokens, and the reply may have {request.max_tokens}. If their sum exceeds the "
            "server's context, lower rollout.max_tokens, or start the server with a longer context."
        )
        return await self._model.ask(self._body(request), too_long=too_long)


def _token_ids(answer: Any) -> list[int] | None:
    match answer:
        case {"choices": [{"token_ids": [*ids]}, *_]}:
            return ids
    return None


def _logprobs(choice: dict[str, Any]) -> list[float]:
    match choice:
        case {"logprobs": {"token_logprobs": [*logprobs]}}:
            return logprobs
    return []
