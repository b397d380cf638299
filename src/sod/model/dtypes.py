"""Resolve network.dtype = auto to the faster data type of the machine. A run stores the type and continues in it."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeVar

import torch

from sod.config import EvalOptions, SftOptions, TrainOptions

SomeOptions = TypeVar("SomeOptions", bound=SftOptions | TrainOptions | EvalOptions)
DataType = Literal["float32", "bfloat16"]

CPU_BFLOAT16 = ("avx512_bf16", "amx_bf16", "sve_bf16", "bf16")
"""Names in PyTorch of the instructions that multiply bfloat16 matrices: x86 and ARM."""


def with_dtype(options: SomeOptions) -> SomeOptions:
    """Return the options with a data type in place of `auto`. A run that has begun keeps its type."""
    network = options.network
    if network.dtype != "auto":
        return options
    found = dtype_here(options.out, network.device)
    return options.model_copy(update={"network": network.model_copy(update={"dtype": found})})


def dtype_here(run: Path, device: str = "auto") -> DataType:
    """Return the type that the run began with. For a new run, return the faster type of the device."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        before = json.loads((run / "options.json").read_bytes())["network"]["dtype"]
        if before in ("float32", "bfloat16"):
            return before
    return faster_type(device)


def faster_type(device: str) -> DataType:
    """Return bfloat16 if the device has instructions for it, else float32, because emulation is slower."""
    return "bfloat16" if _has_bfloat16(device) else "float32"


def _has_bfloat16(device: str) -> bool:
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return any(torch.cpu.get_capabilities().get(name, False) for name in CPU_BFLOAT16)
