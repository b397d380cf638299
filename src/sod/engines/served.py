"""Samples whatever model a server with OpenAI's API serves, as it is: to measure it, not to train it.

Prompts are sent as token ids. vLLM gives token ids back; from any other server a reply comes as text, which is encoded
again with the tokenizer here: for a measurement that will do. Which of the two it is, one short reply at the start shows.

A server that vanishes is waited for: whoever has asked it for something asks again when it is back.
"""

import asyncio
import os
import random
import time
from typing import Any, Self

from transformers import PreTrainedTokenizerBase

from sod.concurrency import Occupancy
from sod.config import EngineOptions, RolloutOptions
from sod.engines import Reply, Request
from sod.engines.http import Refused, Server, short
from sod.engines.vllm import parameters
from sod.errors import InfrastructureError, ModelError, OptionError, OutageError
from sod.progress import say

NOT_TO_TRAIN = (
    "A served model stays as it is. Measure it with --engine.name served; to train a model here and sample it on a vLLM "
    "server, use --engine.name vllm_server."
)
PROBE = "Ünïcode,  two spaces,\n\n\ttabs; 1234567890 + x**2 <= 'a_b' <tool_call>{\"a\": [1]}</tool_call> 数学 🙂"
"""What tokenizers cut differently."""
START_SECONDS = 300.0
"""For which a server may still be starting."""
PROBE_SECONDS = 60.0
TRIES = 3
"""How often a reply is asked for that the server fails to give, though it gives others."""
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.25, 15.0
"""Between two questions to a server that has vanished."""
NOT_UNDERSTOOD = {400, 422}
"""Statuses by which servers refuse a field that they do not know."""


class ServedEngine:
    """Use `open` to get one.

    A reply has log-probabilities where vLLM's are those at the sampling temperature, which is at 1; elsewhere it has none.
    """

    @classmethod
    async def open(cls, options: EngineOptions, tokenizer: PreTrainedTokenizerBase, rollout: RolloutOptions) -> Self:
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

    def __init__(self, options: EngineOptions, tokenizer: PreTrainedTokenizerBase, rollout: RolloutOptions):
        assert options.url is not None
        self._options = options
        self._tokenizer = tokenizer
        key = os.environ.get(options.key_variable)
        self._server = Server(options.url, kind="server", seconds=rollout.seconds, key=key)
        self._name = ""
        self._gives_ids = True
        self._recovery: asyncio.Task[None] | None = None
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
        if self._recovery is not None:
            self._recovery.cancel()
        await self._server.close()

    # What is there

    async def _meet(self, rollout: RolloutOptions) -> None:
        try:
            models = _models(await self._ask_at_start("GET", "v1/models"))
        except Refused as error:
            raise await self._explained(error) from error
        if not models:
            raise OptionError(f"{self._server} does not say which models it serves. Is it a server with OpenAI's API?")
        self._name = self._choose(models)
        self._check_context(models[self._name], rollout)
        await self._check_tokenizer()
        await self._find_out_how_it_answers()

    def _choose(self, models: dict[str, int | None]) -> str:
        wanted = self._options.served_name
        if wanted is None and len(models) == 1:
            return next(iter(models))
        if wanted is None or wanted not in models:
            lacks = "serves more than one model" if wanted is None else f"serves no model named {wanted!r}"
            raise OptionError(
                f"{self._server} {lacks}. Give one of its own as --engine.served_name: {', '.join(models)}."
            )
        return wanted

    def _check_context(self, context: int | None, rollout: RolloutOptions) -> None:
        longest = rollout.max_prompt_tokens + rollout.max_tokens
        if context is not None and longest > context:
            raise OptionError(
                f"{self._server} serves {self._name} with a context of {context} tokens, but rollout.max_prompt_tokens + "
                f"rollout.max_tokens is {longest}. Lower one of them, or start the server with a longer context (vLLM: "
                "--max-model-len)."
            )

    async def _check_tokenizer(self) -> None:
        """vLLM can be asked how it tokenizes; that must be as it is done here."""
        question = {"model": self._name, "prompt": PROBE, "add_special_tokens": False}
        try:
            answer = await self._server.ask("POST", "tokenize", question, seconds=PROBE_SECONDS)
        except (Refused, InfrastructureError):
            answer = None
        match answer:
            case {"tokens": [int(), *_] as theirs}:
                if theirs != self._encode(PROBE):
                    raise ModelError(
                        f"{self._server} tokenizes otherwise than the tokenizer in {self._tokenizer.name_or_path}: "
                        f"{theirs[:12]} ... instead of {self._encode(PROBE)[:12]} ... Give the model that it serves as --model."
                    )
            case _:
                say(
                    f"{self._server} cannot be asked how it tokenizes: it is not checked that it does so like the tokenizer "
                    f"in {self._tokenizer.name_or_path}."
                )

    async def _find_out_how_it_answers(self) -> None:
        """In vLLM's words with token ids, or in those of OpenAI's API with text."""
        try:
            answer = await self._ask_at_start("POST", "v1/completions", self._body(self._probe()))
            if _token_ids(answer) is not None:
                return
            why = "it gives no token ids"
        except Refused as error:
            if error.status not in NOT_UNDERSTOOD:
                raise await self._explained(error) from error
            why = f"it refuses vLLM's fields ({short(str(error))})"
        self._gives_ids = False
        say(f"{self._server} is asked in the words of OpenAI's API, for text that is encoded again here: {why}.")
        await self._complete(self._probe())

    async def _ask_at_start(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        seconds = min(START_SECONDS, self._options.patience)
        return await self._server.ask_at_start(method, path, body, seconds=seconds)

    def _probe(self) -> Request:
        return Request(ids=self._encode(PROBE), max_tokens=1, stop=-1, seed=0)

    # A reply

    def _body(self, request: Request) -> dict[str, Any]:
        words = self._vllms_words(request) if self._gives_ids else self._openais_words(request)
        return {"model": self._name, "prompt": list(request.ids), **words}

    def _vllms_words(self, request: Request) -> dict[str, Any]:
        words = {"return_token_ids": True, **parameters(request)}
        if request.temperature != 1:
            del words["logprobs"]
        return words

    def _openais_words(self, request: Request) -> dict[str, Any]:
        return {
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": random.Random(request.seed).getrandbits(31),  # some servers take no more
            **({"stop": [self._tokenizer.decode([request.stop])]} if request.stop >= 0 else {}),
        }

    def _reply(self, request: Request, answer: Any) -> Reply:
        match answer:
            case {"choices": [{"finish_reason": "stop" | "length" as reason, "text": str(text)} as choice, *_]}:
                ids = _token_ids(answer)
                tokens = self._encode(text) if ids is None else ids
            case _:
                raise InfrastructureError(f"{self._server} did not finish a reply: {short(str(answer))}")
        if request.stop in tokens:
            tokens = tokens[: tokens.index(request.stop) + 1]
        elif reason == "stop" and request.stop >= 0:
            tokens = [*tokens, request.stop]
        if not tokens:
            raise InfrastructureError(f"{self._server} gave an empty reply.")
        logprobs = _logprobs(choice)
        known = tuple(logprobs) if len(logprobs) == len(tokens) else ()
        return Reply(tuple(tokens), known, "stop" if tokens[-1] == request.stop else "length")

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False, verbose=False)

    # Trouble

    async def _complete(self, request: Request) -> Any:
        """The server's answer to a request, when it is there again if it is not.

        Raises InfrastructureError for a reply that it fails to give while it gives others, OutageError when it has been
        away for too long, OptionError where asking again would not help.
        """
        body = self._body(request)
        for tried in range(TRIES):
            if self._recovery is not None:
                await asyncio.shield(self._recovery)
            try:
                return await self._server.ask("POST", "v1/completions", body)
            except Refused as error:
                raise await self._explained(error, request) from error
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
        """Ask for one short reply, until there is one."""
        patience = self._options.patience
        end = time.monotonic() + patience
        wait, said = FIRST_WAIT_SECONDS, False
        while True:
            try:
                await self._server.ask("POST", "v1/completions", self._body(self._probe()), seconds=PROBE_SECONDS)
                break
            except Refused as error:
                raise await self._explained(error) from error
            except InfrastructureError as error:
                if not said:
                    say(f"{error} Waiting up to {patience:g} s for it.")
                    said = True
                left = end - time.monotonic()
                if left <= 0:
                    raise OutageError(
                        f"{error} It has been away for {patience:g} s. Start it again, then run the same command to continue."
                    ) from error
            await asyncio.sleep(min(left, wait * random.uniform(0.5, 1.0)))
            wait = min(2 * wait, LONGEST_WAIT_SECONDS)
        if said:
            say(f"{self._server} answers again; the run goes on.")
        self._recovery = None

    async def _explained(self, error: Refused, request: Request | None = None) -> OptionError:
        """A refusal, with what to do about it."""
        variable = self._options.key_variable
        if error.status in (401, 403):
            given = "it is not the right one" if os.environ.get(variable) else "it is not set"
            return OptionError(
                f"{error} It wants a key in the environment variable {variable} (engine.key_variable): {given}."
            )
        if error.status == 404 and self._name:
            models = _models(await self._server.ask("GET", "v1/models"))
            return OptionError(f"{error} It serves {', '.join(models) or 'no model'}; asked for was {self._name}.")
        if error.status in NOT_UNDERSTOOD and request is not None:
            return OptionError(
                f"{error} The prompt has {len(request.ids)} tokens, and the reply may have {request.max_tokens}: if that is "
                "more than its context, lower rollout.max_tokens, or start it with a longer one."
            )
        return OptionError(f"{error} Is it a server with OpenAI's API?")


def _models(answer: Any) -> dict[str, int | None]:
    """Names of the models that a server has, with the longest context of each where it is told."""
    match answer:
        case {"data": [*rows]}:
            return {str(row["id"]): row.get("max_model_len") for row in rows}
    return {}


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
