"""Open the engine named by the options for the duration of a run."""

import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sod.config import EngineOptions, SamplingOptions
from sod.engines import CANNOT_TRAIN, ENGINES, Engine
from sod.engines.hf import HFEngine
from sod.errors import OptionError
from sod.model.caching import affordable_slots
from sod.model.forward import unused_generation
from sod.processes.concurrency import Runner

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineSetup:
    """The inputs of every kind of engine."""

    options: EngineOptions
    loaded: PreTrainedModel | None
    """The model to sample; None if only a server has its weights."""
    rollout: SamplingOptions
    given_tokenizer: PreTrainedTokenizerBase | None = None
    """The tokenizer of a remote model."""

    @property
    def model(self) -> PreTrainedModel:
        assert self.loaded is not None, f"the engine {self.options.name} samples a model that is loaded here"
        return self.loaded

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        assert self.given_tokenizer is not None, f"the engine {self.options.name} needs a tokenizer"
        return self.given_tokenizer

    @property
    def url(self) -> str:
        assert self.options.url is not None, f"the engine {self.options.name} needs a URL"
        return self.options.url

    @property
    def context(self) -> int:
        """Longest trajectory, in tokens."""
        return self.rollout.max_prompt_tokens + self.rollout.max_tokens


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
    if model is not None and not ENGINES[options.name].loads_model:
        raise OptionError(CANNOT_TRAIN.format(name=options.name))
    if model is not None and (left_out := unused_generation(model)):
        logger.warning(
            f"The model's generation_config.json has {left_out}, which is not applied: samples follow the model alone."
        )
    engine = loop.run(OPENERS[options.name](EngineSetup(options, model, rollout, tokenizer)))
    try:
        yield engine
    finally:
        loop.run(engine.close())


async def _hf(setup: EngineSetup) -> Engine:
    wanted = setup.rollout.concurrency
    slots = wanted
    if setup.model.device.type == "cuda":
        share = setup.options.memory_share * torch.cuda.mem_get_info(setup.model.device)[1]
        slots = affordable_slots(setup.model, wanted, setup.context, share)
    if slots < wanted:
        logger.warning(
            f"careful: {slots} trajectories are sampled at a time, not rollout.concurrency = {wanted}: keys and values of more "
            f"would not fit into engine.memory_share = {setup.options.memory_share:g} of the GPU. --engine.name vllm "
            "samples more at a time, because it holds only the tokens that exist."
        )
    return HFEngine(setup.model, slots=slots, context=setup.context)


async def _vllm(setup: EngineSetup) -> Engine:
    from sod.engines.vllm import VLLMEngine

    if setup.options.sleep and setup.model.device.type != "cuda":
        raise OptionError("engine.sleep frees memory of a GPU, but the model is on a CPU. Leave it out.")
    return await VLLMEngine.open(
        setup.model,
        context=setup.context,
        memory_share=setup.options.memory_share,
        temperature=setup.rollout.temperature,
        top_p=setup.rollout.top_p,
        exchange=setup.options.exchange,
        sleeps=setup.options.sleep,
        options={} if setup.options.kv_dtype == "auto" else {"kv_cache_dtype": setup.options.kv_dtype},
    )


async def _vllm_server(setup: EngineSetup) -> Engine:
    from sod.engines.vllm_server import VLLMServerEngine

    return await VLLMServerEngine.open(
        setup.url,
        setup.model,
        temperature=setup.rollout.temperature,
        top_p=setup.rollout.top_p,
        exchange=setup.options.exchange,
    )


async def _served(setup: EngineSetup) -> Engine:
    from sod.engines.served import ServedEngine

    return await ServedEngine.open(setup.options, setup.tokenizer, setup.rollout)


OPENERS: dict[str, Callable[[EngineSetup], Coroutine[Any, Any, Engine]]] = {
    "auto": _hf,  # for models outside a run; `sod.engines.choice` replaces auto in a run
    "hf": _hf,
    "vllm": _vllm,
    "vllm_server": _vllm_server,
    "served": _served,
}
"""How to open every engine of `sod.engines.ENGINES`. Each function imports its engine, because engines need packages."""
