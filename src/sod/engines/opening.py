"""The engine that the options name, open for as long as a run needs it."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sod.concurrency import Runner
from sod.config import EngineOptions, SamplingOptions
from sod.engines import Engine
from sod.engines.hf import HFEngine
from sod.errors import OptionError

WITH_ADDRESS = ("vllm_server", "served")


@contextmanager
def open_engine(
    loop: Runner,
    options: EngineOptions,
    model: PreTrainedModel | None,
    rollout: SamplingOptions,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Iterator[Engine]:
    """An engine that samples `model`, for use in this loop. Raises OptionError where it cannot be had.

    A served model is not here: `model` is None, and `tokenizer` is what the server must have as well.
    """
    engine = loop.run(_open(options, model, rollout, tokenizer))
    try:
        yield engine
    finally:
        loop.run(engine.close())


async def _open(
    options: EngineOptions,
    model: PreTrainedModel | None,
    rollout: SamplingOptions,
    tokenizer: PreTrainedTokenizerBase | None,
) -> Engine:
    if (options.url is None) == (options.name in WITH_ADDRESS):
        raise OptionError(
            "engine.url is the address of a server: give it with --engine.name vllm_server or served, and only then."
        )
    if options.name == "served":
        return await _served(options, model, rollout, tokenizer)
    assert model is not None, "only a served model may be elsewhere"
    context = rollout.max_prompt_tokens + rollout.max_tokens
    if options.name == "hf":
        return HFEngine(model, slots=rollout.concurrency, context=context)
    shared = {"temperature": rollout.temperature, "top_p": rollout.top_p, "exchange": options.exchange}
    if options.url is not None:
        from sod.engines.vllm_server import VLLMServerEngine

        return await VLLMServerEngine.open(options.url, model, **shared)
    from sod.engines.vllm import VLLMEngine

    return await VLLMEngine.open(model, context=context, memory_share=options.memory_share, **shared)


async def _served(
    options: EngineOptions,
    model: PreTrainedModel | None,
    rollout: SamplingOptions,
    tokenizer: PreTrainedTokenizerBase | None,
) -> Engine:
    from sod.engines.served import NOT_TO_TRAIN, ServedEngine

    if model is not None:
        raise OptionError(NOT_TO_TRAIN)
    assert tokenizer is not None, "a served model needs its tokenizer here"
    return await ServedEngine.open(options, tokenizer, rollout)
