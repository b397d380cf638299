"""Resolve network.dtype = auto or fastest to a data type of the machine. A run stores the type and continues in it."""

from pathlib import Path
from typing import Literal, TypeVar

import torch

from sod.config import EvalOptions, ModelOptions, ServeOptions, SftOptions, TrainOptions
from sod.runs.files import begun_options

SomeOptions = TypeVar("SomeOptions", bound=SftOptions | TrainOptions | EvalOptions | ServeOptions)
DataType = Literal["float32", "bfloat16"]

CPU_BFLOAT16 = ("avx512_bf16", "amx_bf16", "sve_bf16", "bf16")
"""Names in PyTorch of the instructions that multiply bfloat16 matrices: x86 and ARM."""


def with_dtype(options: SomeOptions) -> SomeOptions:
    """Return the options with a data type in place of `auto` or `fastest`. A run that has begun keeps its type."""
    network = options.network
    if network.dtype not in ("auto", "fastest"):
        return options
    found = _dtype_before(options.out) or type_on(network.device, network.dtype)
    return options.model_copy(update={"network": network.model_copy(update={"dtype": found})})


def dtype_of(network: ModelOptions) -> DataType:
    """Return the data type of a network, also where `auto` or `fastest` stands."""
    return type_on(network.device, network.dtype) if network.dtype in ("auto", "fastest") else network.dtype


def dtype_here(run: Path, device: str = "auto") -> DataType:
    """Return the type that the run began with. For a new run, return the faster type of the device."""
    return _dtype_before(run) or faster_type(device)


def _dtype_before(run: Path) -> DataType | None:
    """Return the type that the run began with, or None for a new run."""
    before = begun_options(run, "network").get("dtype")
    return before if before in ("float32", "bfloat16") else None


def type_on(device: str, wanted: str) -> DataType:
    """Return the type of network.dtype = auto or fastest on a device. On a CPU, only `fastest` takes bfloat16."""
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    return faster_type(device) if wanted == "fastest" or on_gpu else "float32"


def faster_type(device: str) -> DataType:
    """Return bfloat16 if the device has instructions for it, else float32, because emulation is slower."""
    return "bfloat16" if _has_bfloat16(device) else "float32"


def _has_bfloat16(device: str) -> bool:
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return any(torch.cpu.get_capabilities().get(name, False) for name in CPU_BFLOAT16)
