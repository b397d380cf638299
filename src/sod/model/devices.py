"""The device of a model: which one is used, what is set on it, and its errors in words."""

import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from sod.errors import CapacityError, OutageError

logger = logging.getLogger(__name__)

LEARNING = "--learn.checkpointing, --score.offload-teacher, or a smaller --engine.memory-share"
SAMPLING = "a smaller --engine.memory-share or --rollout.concurrency, or --score.offload-teacher"
FINE_TUNING = "--learn.checkpointing, which a run that has begun may change"
LOADING = "--network.dtype bfloat16, a smaller model, or the set-ups of `sod plan`"
"""Options to try when memory is short, by what was under way. A run that has begun may change them."""


def device_refusal(device: str) -> str:
    """Return why a value of network.device cannot be used, or "" if it can."""
    if re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        return ""
    if device.partition(":")[0] == "mps":
        return (
            "network.device = mps is not supported: sampling adds probabilities in float64, which Apple's GPUs do not have. Type "
            "--network.device cpu."
        )
    return f"network.device = {device} is not a device of sod. Type cpu, cuda, cuda:0 or auto."


def chosen_device(wanted: str) -> str:
    """Return the device that network.device selects. Warn if auto takes the CPU although there is a GPU."""
    import torch

    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "cuda"
    if shutil.which("nvidia-smi"):
        logger.warning(
            f"careful: this machine has nvidia-smi, but PyTorch {torch.__version__} cannot use a GPU, so the CPU is used. Look "
            "at `nvidia-smi`, and install a PyTorch for its driver; --network.device cuda shows PyTorch's reason."
        )
    return "cpu"


def prepare_device(device: str) -> None:
    """Switch off cuDNN's attention. It builds and keeps a plan for every new shape, and every trajectory has another one."""
    import torch

    if device.startswith("cuda"):
        torch.backends.cuda.enable_cudnn_sdp(False)


@contextmanager
def device_errors(doing: str, advice: str) -> Iterator[None]:
    """Raise CapacityError if the GPU's memory is full, and OutageError if the GPU fails. `doing`: what is under way."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise CapacityError(
            f"The GPU's memory is full while {doing}: {_first_sentences(str(error))} Try {advice}. A run that has a checkpoint "
            "continues with --resume."
        ) from error
    except torch.AcceleratorError as error:
        raise OutageError(
            f"The GPU failed while {doing}: {str(error).splitlines()[0]}. Look at `nvidia-smi` and `dmesg`, restart the GPU if "
            "it is lost, then continue with --resume."
        ) from error


def _first_sentences(message: str) -> str:
    """Return PyTorch's message up to the sizes that it tried and found, without its advice."""
    return re.split(r" (?:Of the allocated|If reserved|Including)", message.splitlines()[0])[0]
