"""Options `--engine`: what samples the student's tokens."""

from pathlib import Path
from typing import Literal

from sod.config.base import Options, PositiveReal, Rare, ResumeMayChange, Share


class EngineOptions(Options):
    """How the student's tokens are sampled."""

    name: Literal["auto", "hf", "vllm", "vllm_server", "served"] = "auto"
    """auto: vllm on a GPU if it is installed, otherwise hf; a run keeps its engine. hf: Transformers, in the same process, with
    the policy's own weights. vllm: vLLM in a separate process on this machine. vllm_server: the vLLM server at engine.url.
    Weights are synced to vLLM after every update, and its log-probabilities are verified against the policy's. served: any
    model on the OpenAI-compatible server at engine.url; only for `sod eval` and `sod rollout`."""
    url: Rare[ResumeMayChange[str | None]] = None
    """Address of the server, such as http://127.0.0.1:8000. Default: no server."""
    served_name: Rare[str | None] = None
    """engine.name = served: the model's name on the server. Default: the server's only model."""
    key_variable: Rare[ResumeMayChange[str]] = "OPENAI_API_KEY"
    """engine.name = served: environment variable that holds the server's key, if the server needs one."""
    patience: Rare[ResumeMayChange[PositiveReal]] = 600.0
    """engine.name = served: longest wait for a server that does not respond, in seconds. After it, the run stops with exit
    status 75; run the command again to continue."""
    memory_share: Rare[ResumeMayChange[Share]] = 0.4
    """Share of the GPU's memory that vLLM uses, or that keys and values of engine.name = hf use at most. Not used on a CPU."""
    kv_dtype: Rare[Literal["auto", "fp8"]] = "auto"
    """engine.name = vllm: data type of keys and values. fp8: half the memory of bfloat16, with rounding that learn.correction
    weighs. auto: that of the weights."""
    sleep: Rare[ResumeMayChange[bool]] = False
    """engine.name = vllm on a GPU: free vLLM's memory while the student learns. Its weights wait in CPU memory."""
    exchange: Rare[ResumeMayChange[Path | None]] = None
    """Directory through which vLLM receives weights. Both processes must see it. Default: the system's temporary directory."""
