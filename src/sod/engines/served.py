"""Samples whatever model a server with OpenAI's API serves, as it is: to measure it, not to train it.

Prompts are sent as token ids. vLLM gives token ids back; from any other server a reply comes as text, which is encoded
again with the tokenizer here: for a measurement that will do. Which of the two it is, one short reply at the start shows.

A server that vanishes is waited for: whoever has asked it for something asks again when it is back.
"""

import random
from pathlib import Path
from typing import Any, Self

from transformers import PreTrainedTokenizerBase

from sod.concurrency import Occupancy
from sod.config import EngineOptions, SamplingOptions
from sod.engines import Reply, Request
from sod.engines.http import NOT_UNDERSTOOD, Refused, ServedModel, Words, short
from sod.engines.vllm import parameters
from sod.errors import InfrastructureError, OptionError
from sod.forward import ends_beside
from sod.progress import say

NOT_TO_TRAIN = (
    "A served model stays as it is. Measure it with --engine.name served; to train a model here and sample it on a vLLM "
    "server, use --engine.name vllm_server."
)
PROBE = "Ünïcode,  two spaces,\n\n\ttabs; 1234567890 + x**2 <= 'a_b' <tool_call>{\"a\": [1]}</tool_call> 数学 🙂"
"""What tokenizers cut differently."""


class ServedEngine:
    """Use `open` to get one.

    A reply has log-probabilities where vLLM's are those at the sampling temperature, which is at 1; elsewhere it has none.
    """

    @classmethod
    async def open(cls, options: EngineOptions, tokenizer: PreTrainedTokenizerBase, rollout: SamplingOptions) -> Self:
        """Wait for the server at `options.url`; find out what it serves, and how; check that it fits.

        Raises OptionError for what cannot work, ModelError if the server's tokenizer is another one, InfrastructureError
        if nobody answers.
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
        self._model = ServedModel(
            options.url,
            kind="server",
            words=Words(
                name="engine.served_name",
                key=f"{options.key_variable} (engine.key_variable)",
                tokenizer="Give the model that it serves as --model.",
                again="Start it again, then run the same command to continue.",
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
        """Nothing to do: what the server keeps is its own affair."""
        del trajectory

    def take_busy_seconds(self) -> float:
        """Seconds in which at least one request was under way, outages included."""
        return self._occupancy.take_seconds()

    async def refresh(self) -> None:
        raise OptionError(NOT_TO_TRAIN)

    async def close(self) -> None:
        await self._model.close()

    # What is there

    async def _meet(self, rollout: SamplingOptions) -> None:
        await self._model.meet(self._wanted)
        longest = rollout.max_prompt_tokens + rollout.max_tokens
        self._model.check_context(longest, "rollout.max_prompt_tokens + rollout.max_tokens")
        await self._model.check_tokenizer(PROBE, self._encode(PROBE), self._tokenizer.name_or_path)
        await self._find_out_how_it_answers()

    async def _find_out_how_it_answers(self) -> None:
        """In vLLM's words with token ids, or in those of OpenAI's API with text."""
        try:
            answer = await self._model.ask_at_start(self._body(self._probe()))
            if _token_ids(answer) is not None:
                return
            why = "it gives no token ids"
        except Refused as error:
            if error.status not in NOT_UNDERSTOOD:
                raise await self._model.explained(error) from error
            why = f"it refuses vLLM's fields ({short(str(error))})"
        self._gives_ids = False
        say(f"{self._model} is asked in the words of OpenAI's API, for text that is encoded again here: {why}.")
        await self._complete(self._probe())

    def _probe(self) -> Request:
        return Request(ids=self._encode(PROBE), max_tokens=1, stop=-1, seed=0)

    # A reply

    def _body(self, request: Request) -> dict[str, Any]:
        words = self._vllms_words(request) if self._gives_ids else self._openais_words(request)
        return {"model": self._model.name, "prompt": list(request.ids), **words}

    def _vllms_words(self, request: Request) -> dict[str, Any]:
        words = {"return_token_ids": True, **parameters(request, self._ends)}
        if request.temperature != 1:
            del words["logprobs"]
        return words

    def _openais_words(self, request: Request) -> dict[str, Any]:
        return {
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": random.Random(request.seed).getrandbits(31),  # some servers take no more
            **(
                {"stop": self._tokenizer.batch_decode([[id] for id in self._stops(request)])}
                if request.stop >= 0
                else {}
            ),
        }

    def _reply(self, request: Request, answer: Any) -> Reply:
        match answer:
            case {"choices": [{"finish_reason": "stop" | "length" as reason, "text": str(text)} as choice, *_]}:
                ids = _token_ids(answer)
                tokens = self._encode(text) if ids is None else ids
            case _:
                raise InfrastructureError(f"{self._model} did not finish a reply: {short(str(answer))}")
        stops = self._stops(request)
        end = next((at for at, token in enumerate(tokens) if token in stops), None)
        if end is not None:
            tokens = tokens[: end + 1]
        elif reason == "stop" and request.stop >= 0:
            tokens = [*tokens, request.stop]
        if not tokens:
            raise InfrastructureError(f"{self._model} gave an empty reply.")
        logprobs = _logprobs(choice)
        known = tuple(logprobs) if len(logprobs) == len(tokens) else ()
        return Reply(tuple(tokens), known, "stop" if tokens[-1] in stops else "length")

    def _stops(self, request: Request) -> list[int]:
        return sorted(self._ends | {request.stop}) if request.stop >= 0 else []

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False, verbose=False)

    async def _complete(self, request: Request) -> Any:
        """As `ServedModel.ask`."""
        too_long = (
            f"The prompt has {len(request.ids)} tokens, and the reply may have {request.max_tokens}: if that is more than its "
            "context, lower rollout.max_tokens, or start it with a longer one."
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
