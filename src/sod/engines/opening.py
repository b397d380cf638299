"""Open the engine named by the options for the duration of a run."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sod.concurrency import Runner
from sod.config import EngineOptions, SamplingOptions
from sod.engines import Engine
from sod.engines.hf import HFEngine
from sod.errors import OptionError


@contextmanager
def open_engine(
    loop: Runner,
    options: EngineOptions,
    model: PreTrainedModel | None,
    rollout: SamplingOptions,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Iterator[Engine]:
    """Open an engine that samples `model`, for use in this loop. Raises OptionError if it is not available.

    For a remote model, `model` is None, and `tokenizer` must equal the server's.
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
    if options.name == "served":
        return await _served(options, model, rollout, tokenizer)
    assert model is not None, "only the engine `served` works without a model"
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
    assert tokenizer is not None, "the engine `served` needs a tokenizer"
    return await ServedEngine.open(options, tokenizer, rollout)
