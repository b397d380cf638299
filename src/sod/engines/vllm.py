"""Sample with vLLM in a child process, with a copy of the policy's weights (`sod.engines.vllm_base`)."""

import itertools
import logging
import multiprocessing
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Self

import torch
from transformers import PreTrainedModel

from sod.engines import INSTALL_VLLM
from sod.engines.vllm_base import VLLM, name_of_type
from sod.errors import InfrastructureError, OptionError, OutageError

SHOWN_CHARACTERS = 1000
"""Characters shown of the end of vLLM's output before it failed."""


class VLLMEngine(VLLM):
    """vLLM in a child process."""

    @classmethod
    async def open(
        cls,
        model: PreTrainedModel,
        *,
        context: int,
        memory_share: float = 0.4,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seconds: float = 600.0,
        exchange: Path | None = None,
        sleeps: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> Self:
        """Start vLLM in the event loop that will use it, send the weights and verify them.

        Sequences may have `context` tokens. vLLM takes `memory_share` of the device's memory and must be ready within
        `seconds`. `sleeps`: it can free its memory (`sleep`). `options` are further arguments of its engine, such as
        `{"tensor_parallel_size": 2}`. Raises OptionError if vLLM is missing or does not start, TrainingError if its
        log-probabilities differ from the policy's.
        """
        engine = cls(model, temperature=temperature, top_p=top_p, exchange=exchange)
        engine._context = context
        arguments = {"max_model_len": context, "gpu_memory_utilization": memory_share} | dict(options or {})
        arguments |= {"enable_sleep_mode": True} if sleeps else {}
        try:
            with _without_expandable_segments() if sleeps else nullcontext():
                engine._start(arguments, seconds)
            await engine.refresh()
        except BaseException as error:
            await engine.close()
            if isinstance(error, OutageError):
                raise OptionError(
                    f"vLLM starts, but cannot run this model here. Use --engine.name hf instead. {error}"
                ) from error
            raise
        return engine

    def __init__(self, model: PreTrainedModel, *, temperature: float, top_p: float, exchange: Path | None):
        super().__init__(model, temperature=temperature, top_p=top_p, exchange=exchange)
        self._numbers = itertools.count()
        self._llm: Any = None
        self._is_asleep = False
        self._end = ExitStack()

    def _start(self, arguments: dict[str, Any], seconds: float) -> None:
        try:
            from vllm import AsyncEngineArgs  # pyright: ignore[reportMissingImports]
            from vllm.platforms import current_platform  # pyright: ignore[reportMissingImports]
            from vllm.v1.engine.async_llm import AsyncLLM  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise OptionError(
                f"vLLM cannot be imported ({error}). Type {INSTALL_VLLM}, or run it as a server from its own "
                "environment (--engine.name vllm_server)."
            ) from error
        folder = self._end.enter_context(tempfile.TemporaryDirectory(prefix="sod-vllm-"))
        self._log = Path(folder, "output.txt")
        self._model.config.architectures = [type(self._model).__name__]  # the value that saving the model would set
        self._model.config.save_pretrained(folder)
        defaults = {
            "model": folder,
            "skip_tokenizer_init": True,
            "load_format": "dummy",  # so that the first check covers every weight
            "dtype": name_of_type(self._model.dtype),
            "logprobs_mode": self._mode,
            "generation_config": "vllm",
            "enable_prefix_caching": True,
            "disable_log_stats": True,
            "worker_extension_cls": "sod.engines.vllm_worker.WeightSync",
        }
        if current_platform.is_cpu():  # there, vLLM crashes on a prompt that is read in chunks and has a seed
            defaults["enable_chunked_prefill"] = False
        deadline = time.monotonic() + seconds
        try:
            with _output_to(self._log), _children_until(deadline):
                self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**(defaults | arguments)))
        except Exception as error:  # vLLM raises any type for problems with the machine or the options
            late = f" within {seconds:g} seconds" if time.monotonic() > deadline else ""
            raise OptionError(f"vLLM does not start{late}: {error} Its output:\n{self._output()}") from error
        self._end.callback(self._llm.shutdown)
        logging.getLogger("vllm").setLevel(logging.ERROR)  # in this process; the child's output goes to the file

    async def sleep(self) -> None:
        """Free vLLM's memory on the GPU: weights move to CPU memory, keys and values are dropped (its level 1)."""
        with self._failures():
            await self._llm.sleep(level=1)
        self._is_asleep = True

    async def refresh(self) -> None:
        """Wake vLLM if it sleeps, send the policy's weights, and verify that it samples with them. Raises TrainingError."""
        if self._is_asleep:
            torch.cuda.empty_cache()  # learning has freed this memory, but this process still holds it
            with self._failures():
                await self._llm.wake_up()
            self._is_asleep = False
        await super().refresh()

    async def call(self, method: str, *arguments: str) -> None:
        with self._failures():
            await self._llm.collective_rpc(method, args=arguments)

    async def close(self) -> None:
        self._llm = None
        self._end.close()

    async def _generate(self, ids: Sequence[int], parameters: dict[str, Any]) -> tuple[list[int], list[float]]:
        from vllm import SamplingParams  # pyright: ignore[reportMissingImports]
        from vllm.sampling_params import RequestOutputKind  # pyright: ignore[reportMissingImports]

        prompt = {"type": "token", "prompt_token_ids": list(ids)}
        wanted = SamplingParams(**parameters, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY)
        with self._failures():
            async for reply in self._llm.generate(prompt, wanted, str(next(self._numbers))):
                output = reply.outputs[0]
                if output.finish_reason in ("stop", "length"):
                    tokens = list(output.token_ids)
                    return tokens, [step[token].logprob for step, token in zip(output.logprobs, tokens, strict=True)]
        raise InfrastructureError("vLLM did not finish a reply.")

    async def _reset_prefix_cache(self) -> bool:
        with self._failures():
            return await self._llm.reset_prefix_cache()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Convert vLLM's errors to sod's."""
        from vllm.v1.engine import exceptions  # pyright: ignore[reportMissingImports]

        try:
            yield
        except exceptions.EngineDeadError as error:
            raise OutageError(f"vLLM has died. Its output:\n{self._output()}") from error
        except exceptions.EngineGenerateError as error:
            raise InfrastructureError(f"vLLM failed: {error.__cause__ or error}") from error

    def _output(self) -> str:
        """Return the output of vLLM's processes: its errors, then its end."""
        text = self._log.read_text(encoding="utf-8", errors="replace")
        errors = dict.fromkeys(re.findall(r"\w+Error: .+", text))
        return "\n".join([*errors, "...", text[-SHOWN_CHARACTERS:]])


@contextmanager
def _without_expandable_segments() -> Iterator[None]:
    """Start children without PyTorch's expandable segments, which vLLM's memory pool for sleep excludes.

    vLLM switches them off itself only under the variable's older name, PYTORCH_CUDA_ALLOC_CONF.
    """
    name = "PYTORCH_ALLOC_CONF"
    kept = os.environ.get(name)
    if kept is not None:
        os.environ[name] = ",".join(part for part in kept.split(",") if not part.startswith("expandable_segments"))
    try:
        yield
    finally:
        if kept is not None:
            os.environ[name] = kept


@contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Redirect stdout and stderr to a file. Processes started inside the block keep writing there."""
    kept = os.dup(1), os.dup(2)
    with path.open("ab") as file:
        _redirect(file.fileno(), file.fileno())
    try:
        yield
    finally:
        _redirect(*kept)
        for number in kept:
            os.close(number)


def _redirect(stdout: int, stderr: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)


@contextmanager
def _children_until(deadline: float) -> Iterator[None]:
    """Kill the children started inside the block if it has not ended by the deadline. vLLM would wait for them forever."""
    before = {child.pid for child in multiprocessing.active_children()}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(max(0.1, deadline - time.monotonic())):
            for child in multiprocessing.active_children():
                if child.pid not in before:
                    child.kill()

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        ended.set()
