"""Requests and responses of the servers that return log-probabilities of given tokens.

`DIALECTS` has one class for each kind of server, `recognised` finds the kind of a running server by its responses.

Sources, read in November 2026: SGLang's documentation of /generate and its pull request 36213 (input log-probabilities are at
temperature 1); slime's teacher (max_new_tokens 0); strands-sglang issue 34 (no value at logprob_start_len); llama.cpp's
tools/server/README.md and its issue 27174 (no log-probabilities of the prompt); OpenAI's reference of legacy completions.
"""

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, ClassVar, NamedTuple

from transformers import PreTrainedTokenizerBase

from sod.config import ScoreOptions
from sod.config.servers import SERVERS
from sod.engines.http import Refused, short
from sod.engines.served_model import TRIES, Body, ServedModel
from sod.errors import InfrastructureError, ModelError, OptionError

Ask = Callable[[Body], Awaitable[Any]]
"""Send a request for tokens and return the response."""
FORCED = 1e4
"""Added to the logit of a token that must be sampled."""
LARGEST = 2**31
"""Bound of the numbers that a server may report."""
MASS_ERROR = 1e-6
"""Allowed rounding error of the sum of a server's probabilities."""


class ServedRow(NamedTuple):
    """Log-probabilities of the tokens of one trajectory, and the cost of reading it."""

    logprobs: list[float]
    """One for each token, in nats. 0 where none was wanted, NaN where the server returned null."""
    outside: list[bool]
    """True where the token is not among the most likely ones. Its log-probability is then an upper bound."""
    sent: int
    """Tokens sent."""
    cached: int
    """Tokens of these that the server reports to have read from its cache."""
    requests: int
    returned: int = 0
    """Log-probabilities in the responses."""


class Dialect(ABC):
    """One kind of server. `top`: number of most likely tokens to request, if there is no exact value."""

    path = "v1/completions"
    temperature = 1.0
    """Temperature of a request. The log-probabilities are at 1 in any case; the start-up proof checks it."""
    at_once = 4
    """Trajectories sent at once: enough to keep the server busy, few enough for its memory."""
    probe_tokens = 512
    """Largest number of tokens in the text of the start-up proof."""
    name: ClassVar[str]

    def __init__(self, model: ServedModel, tokenizer: PreTrainedTokenizerBase, top: int):
        self._model, self._tokenizer, self.top = model, tokenizer, top

    @property
    def exact(self) -> bool:
        """Whether every log-probability is exact. Otherwise some are upper bounds."""
        return SERVERS[self.name].exact

    @property
    def caches(self) -> bool:
        """Whether a prompt that was scored before is read from the cache."""
        return SERVERS[self.name].caches

    def tokenize(self, text: str) -> Body:
        """Return the body of a request to /tokenize."""
        return {"model": self._model.name, "prompt": text, "add_special_tokens": False}

    @abstractmethod
    def body(self, ids: Sequence[int], first: int, temperature: float | None = None) -> Body:
        """Return the body of a request for the log-probabilities of `ids[first:]`. `first` is at least 1."""

    @abstractmethod
    def read(self, answer: Any, ids: Sequence[int], first: int) -> list[float]:
        """Return the log-probabilities of `ids[first:]` in a response. Raise OptionError or ModelError."""

    def cached(self, answer: Any) -> int:
        """Return the number of tokens that the server reports to have read from its cache."""
        return reported(answer, "usage", "prompt_tokens_details", "cached_tokens") or 0

    async def row(
        self, ask: Ask, ids: Sequence[int], wanted: Sequence[int], temperature: float | None = None
    ) -> ServedRow:
        """Return the log-probabilities of the tokens at the positions `wanted`, which are at least 1.

        Raise InfrastructureError if the server keeps aborting its response.
        """
        if not wanted:
            return ServedRow([0.0] * len(ids), [False] * len(ids), 0, 0, 0)
        first = wanted[0]
        for tried in range(1, TRIES + 1):
            answer = await ask(self.body(ids, first, temperature))
            if not _is_broken_off(answer):
                values = [0.0] * first + self.read(answer, ids, first)
                returned = len(ids) - (1 if SERVERS[self.name].prompt_returned else first)
                return ServedRow(values, [False] * len(ids), tried * len(ids), self.cached(answer), tried, returned)
        raise InfrastructureError(f"{self._model} aborted its response {TRIES} times.")

    def others(self, of: str = "other tokens than the ones that") -> ModelError:
        """Return the error for a response about other tokens than those sent."""
        return ModelError(
            f"{self._model} returned log-probabilities of {of} it received. Update the server, or pass the served model's "
            "tokenizer as --teacher."
        )

    def numbers(self, values: Sequence[Any], answer: Any) -> list[float]:
        """Return the log-probabilities of a response; NaN for null. Raise OptionError if one is no number."""
        try:
            return [math.nan if value is None else float(value) for value in values]
        except (TypeError, ValueError, OverflowError):
            raise self.mute("numbers", answer) from None

    def mute(self, what: str, answer: Any) -> OptionError:
        """Return the error for a response without log-probabilities."""
        return OptionError(
            f"{self._model} does not return the log-probabilities of the tokens that it receives ({what}). Use a server of "
            f"vLLM, SGLang, llama.cpp, or completions with echo and logprobs. It returned: {short(str(answer))}"
        )


class VllmDialect(Dialect):
    """vLLM: `prompt_logprobs`. It samples one more token, and reads a whole prompt again for log-probabilities."""

    name = "vllm"
    temperature = 0.0

    def body(self, ids: Sequence[int], first: int, temperature: float | None = None) -> Body:
        # No seed: on a CPU, vLLM crashes on a prompt that has one and is read in chunks.
        heat = self.temperature if temperature is None else temperature
        asked = {"model": self._model.name, "prompt": list(ids), "max_tokens": 1, "temperature": heat}
        return asked | {"prompt_logprobs": 0}

    def read(self, answer: Any, ids: Sequence[int], first: int) -> list[float]:
        match answer:
            case {"choices": [{"prompt_logprobs": [_, *rest]}, *_]} if all(isinstance(each, dict) for each in rest):
                if len(rest) != len(ids) - 1:
                    raise self.others(f"{len(rest) + 1} tokens, not of the {len(ids)} that")
                try:
                    values = [each[str(token)]["logprob"] for each, token in zip(rest, ids[1:], strict=True)]
                except (LookupError, TypeError):
                    raise self.others() from None
                return self.numbers(values[first - 1 :], answer)
        raise self.mute("prompt_logprobs", answer)


class SglangDialect(Dialect):
    """SGLang: `/generate` with `input_ids`. The prompt of a group is read once: its tokens before the first wanted one may
    come from the cache.
    """

    name = "sglang"
    path = "generate"

    def body(self, ids: Sequence[int], first: int, temperature: float | None = None) -> Body:
        heat = self.temperature if temperature is None else temperature
        return {
            "input_ids": list(ids),
            "sampling_params": {"max_new_tokens": 0, "temperature": heat},
            "return_logprob": True,
            "logprob_start_len": first - 1,  # the token at this position has no log-probability
            "return_text_in_logprobs": False,
        }

    def read(self, answer: Any, ids: Sequence[int], first: int) -> list[float]:
        match answer:
            case {"meta_info": {"input_token_logprobs": [*rows]}} if len(rows) >= len(ids) - first:
                try:
                    found = [(row[0], row[1]) for row in rows[len(rows) - len(ids) + first :]]
                except (LookupError, TypeError):
                    raise self.mute("input_token_logprobs", answer) from None
                if [token for _, token in found] != list(ids[first:]):
                    raise self.others()
                return self.numbers([value for value, _ in found], answer)
        raise self.mute("input_token_logprobs", answer)

    def cached(self, answer: Any) -> int:
        return reported(answer, "meta_info", "cached_tokens") or 0


class OpenAIDialect(Dialect):
    """Completions with `echo` and `logprobs`. The tokens come back as texts, without ids."""

    name = "openai"

    def __init__(self, model: ServedModel, tokenizer: PreTrainedTokenizerBase, top: int):
        super().__init__(model, tokenizer, top)
        self.sampled = 0
        """Tokens to sample: 0, or 1 for a server that refuses 0."""
        self._texts: dict[int, str | None] = {}

    def body(self, ids: Sequence[int], first: int, temperature: float | None = None) -> Body:
        heat = self.temperature if temperature is None else temperature
        asked = {"model": self._model.name, "prompt": list(ids), "max_tokens": self.sampled, "temperature": heat}
        return asked | {"echo": True, "logprobs": 1}

    def read(self, answer: Any, ids: Sequence[int], first: int) -> list[float]:
        match answer:
            case {"choices": [{"logprobs": {"tokens": [*texts], "token_logprobs": [*values]}}, *_]} if (
                len(texts) == len(values) >= len(ids)
            ):
                read = reported(answer, "usage", "prompt_tokens") or len(ids)
                if read != len(ids) or not all(map(self._fits, texts, ids)):
                    raise self.others()
                return self.numbers(values[first : len(ids)], answer)
        raise self.mute("echo and logprobs", answer)

    def _fits(self, text: object, id: int) -> bool:
        """Return False if a returned text is another token's. Texts that are not ASCII have several forms: any fits."""
        if not isinstance(text, str):
            return False
        if text.startswith("token_id:"):
            return text == f"token_id:{id}"
        if id not in self._texts:
            own = _plain(str(self._tokenizer.decode([id])))
            self._texts[id] = own if own.isascii() else None
        own = self._texts[id]
        return own is None or _plain(text) == own


class LlamaCppDialect(Dialect):
    """llama.cpp's server. It returns the most likely tokens after a text, and nothing about the text itself.

    So it reads one more token with each request, and each request is for one position. It keeps the tokens before in its
    cache. A token that is not among the most likely ones gets the upper bound of its log-probability.
    """

    name = "llamacpp"
    path = "completion"
    temperature = -1.0
    """The token with the largest biased logit is sampled; the probabilities are the softmax of the logits without bias."""
    probe_tokens = 48

    def __init__(self, model: ServedModel, tokenizer: PreTrainedTokenizerBase, top: int, slots: int = 1):
        super().__init__(model, tokenizer, top)
        self.at_once = slots
        self._slots: asyncio.Queue[int] = asyncio.Queue()
        for slot in range(slots):
            self._slots.put_nowait(slot)
        self._whole = tokenizer.encode("a", add_special_tokens=False)[-1]
        """A token that is whole characters. The server samples it: after half a character it returns no log-probabilities."""

    def tokenize(self, text: str) -> Body:
        return {"content": text, "add_special": False, "parse_special": True}

    def body(self, ids: Sequence[int], first: int, temperature: float | None = None) -> Body:
        """Return the body of a request for the tokens after `ids[:first]`."""
        return {
            "prompt": list(ids[:first]),
            "n_predict": 1,
            "n_probs": self.top,
            "temperature": self.temperature if temperature is None else temperature,
            "post_sampling_probs": False,  # those of the model, before the bias
            "logit_bias": [[self._whole, FORCED]],
            "cache_prompt": True,
        }

    def read(self, answer: Any, ids: Sequence[int], first: int) -> list[float]:
        """Return the log-probability of the token `ids[first]`, or its upper bound."""
        return [self._find(answer, ids, first)[0]]

    def cached(self, answer: Any) -> int:
        return reported(answer, "timings", "cache_n") or 0

    async def row(
        self, ask: Ask, ids: Sequence[int], wanted: Sequence[int], temperature: float | None = None
    ) -> ServedRow:
        values, outside, sent, cached = [0.0] * len(ids), [False] * len(ids), 0, 0
        slot = await self._slots.get()
        try:
            for at in wanted:
                answer = await ask(self.body(ids, at, temperature) | {"id_slot": slot})
                values[at], outside[at] = self._find(answer, ids, at)
                sent, cached = sent + at, cached + self.cached(answer)
        finally:
            self._slots.put_nowait(slot)
        return ServedRow(values, outside, sent, cached, len(wanted), len(wanted) * self.top)

    def _find(self, answer: Any, ids: Sequence[int], at: int) -> tuple[float, bool]:
        """Return the log-probability of the token at a position, or its upper bound and True."""
        match answer:
            case {"completion_probabilities": [{"top_logprobs": [_, *_] as rows}, *_]}:
                if answer.get("tokens_evaluated", at) != at:
                    raise self.others()
                try:
                    found = {int(row["id"]): row["logprob"] for row in rows}
                    found = dict(zip(found, self.numbers(list(found.values()), answer), strict=True))
                except (LookupError, TypeError, ValueError, OverflowError):
                    raise self.mute("n_probs", answer) from None
                if ids[at] in found:
                    return found[ids[at]], False
                if len(found) < self.top:
                    raise ModelError(
                        f"{self._model} has no token {ids[at]}, which it received. It serves another model."
                    )
                return upper_bound(list(found.values())), True
        raise self.mute("n_probs", answer)


DIALECTS: dict[str, type[Dialect]] = {
    dialect.name: dialect for dialect in (VllmDialect, SglangDialect, LlamaCppDialect, OpenAIDialect)
}


def upper_bound(top: Sequence[float]) -> float:
    """Return the largest possible log-probability of a token that is not among the most likely ones, in nats.

    min(smallest of `top`, log of the mass that `top` leaves). NaN if one of `top` is.
    """
    if any(map(math.isnan, top)):
        return math.nan
    likely = math.fsum(math.exp(min(value, 0.0)) for value in top)  # a value above 0 is refused elsewhere
    return min(min(top), math.log(max(0.0, 1.0 - likely) + MASS_ERROR))


def reported(answer: Any, *keys: str) -> int | None:
    """Return a number that a response holds under these keys, one inside the other; None if there is no possible one."""
    for key in keys:
        answer = answer.get(key) if isinstance(answer, dict) else None
    return answer if isinstance(answer, int) and 0 < answer < LARGEST else None


async def recognised(
    model: ServedModel, tokenizer: PreTrainedTokenizerBase, options: ScoreOptions, ids: list[int]
) -> Dialect:
    """Return the dialect of a server that may still be starting: `options.teacher_server`, or the first that responds as such.

    `ids`: a short text. Raise OptionError for a server that returns no log-probabilities of given tokens.
    """
    vllm = VllmDialect(model, tokenizer, options.teacher_top)
    answer: Any = None
    if options.teacher_server in ("auto", "vllm"):
        try:
            answer = await model.ask_at_start(vllm.body(ids, 1))
            vllm.read(answer, ids, 1)
            return vllm
        except Refused as error:
            if options.teacher_server == "vllm" or error.status in (401, 403):
                raise await model.explained(error) from error
        except OptionError:
            if options.teacher_server == "vllm":
                raise
    if options.teacher_server in ("auto", "llamacpp"):
        props = await model.look("props")
        if slots := reported(props, "total_slots"):
            context = reported(props, "default_generation_settings", "n_ctx")
            return await _met(model, LlamaCppDialect(model, tokenizer, options.teacher_top, slots), ids, context)
        if options.teacher_server == "llamacpp":
            raise OptionError(f"{model} is not llama.cpp's server: it has no /props with total_slots.")
    if options.teacher_server == "sglang" or (
        options.teacher_server == "auto" and isinstance(await model.look("get_model_info"), dict)
    ):
        context = reported(await model.look("get_server_info"), "context_length")
        return await _met(model, SglangDialect(model, tokenizer, options.teacher_top), ids, context)
    echo = OpenAIDialect(model, tokenizer, options.teacher_top)
    with suppress(Refused, OptionError):
        return await _met(model, echo, ids)
    echo.sampled = 1
    return await _met(model, echo, ids)


async def _met(model: ServedModel, dialect: Dialect, ids: list[int], context: int | None = None) -> Dialect:
    """Return the dialect if the server responds in it. `context`: longest context in tokens, if known."""
    model.path = dialect.path
    model.context = context or model.context
    try:
        answer = await model.ask_at_start(dialect.body(ids, 1))
    except Refused as error:
        raise await model.explained(error) from error
    dialect.read(answer, ids, 1)
    return dialect


def _plain(text: str) -> str:
    """Return a token's text without the marks that tokenizers have for spaces and line breaks."""
    return text.replace("Ġ", " ").replace("▁", " ").replace("Ċ", "\n").strip()


def _is_broken_off(answer: Any) -> bool:
    """Return True if the server aborted the response, for example because it is shutting down."""
    match answer:
        case {"choices": [{"finish_reason": "abort" | "error"}, *_]} | {
            "meta_info": {"finish_reason": {"type": "abort"}}
        }:
            return True
    return False
