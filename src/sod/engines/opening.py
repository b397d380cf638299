"""The engine that the options name, open for as long as a run needs it."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel

from sod.concurrency import Runner
from sod.config import EngineOptions, RolloutOptions
from sod.engines import Engine
from sod.engines.hf import HFEngine
from sod.errors import OptionError


@contextmanager
def open_engine(
    loop: Runner, options: EngineOptions, model: PreTrainedModel, rollout: RolloutOptions
) -> Iterator[Engine]:
    """An engine that samples `model`, for use in this loop. Raises OptionError where it cannot be had."""
    engine = loop.run(_open(options, model, rollout))
    try:
        yield engine
    finally:
        loop.run(engine.close())


async def _open(options: EngineOptions, model: PreTrainedModel, rollout: RolloutOptions) -> Engine:
    if (options.url is None) == (options.name == "vllm_server"):
        raise OptionError(
            "engine.url is the address of a vLLM server: give it with --engine.name vllm_server, and only then."
        )
    if options.name == "hf":
        return HFEngine(model, slots=rollout.concurrency)
    shared = {"temperature": rollout.temperature, "top_p": rollout.top_p, "exchange": options.exchange}
    if options.url is not None:
        from sod.engines.vllm_server import VLLMServerEngine

        return await VLLMServerEngine.open(options.url, model, **shared)
    from sod.engines.vllm import VLLMEngine

    context = rollout.max_prompt_tokens + rollout.max_tokens
    return await VLLMEngine.open(model, context=context, memory_share=options.memory_share, **shared)
