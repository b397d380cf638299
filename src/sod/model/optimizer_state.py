"""What a resumed run needs beside its model, on disk: PyTorch's distributed checkpoint, read by any number of processes.

Each process writes its shares of what is divided; what is whole is written once. Names are those of weights, so that it does
not matter how they were divided.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from sod.distributed import Ranks
from sod.runs.checkpoints import TRAINER


def save_state(
    checkpoint: Path,
    masters: Mapping[str, Tensor],
    optimizer: Mapping[str, Mapping[str, Any]],
    numbers: Mapping[str, int],
    ranks: Ranks,
) -> None:
    """Write weights and the optimiser's state by the names of weights, and numbers. All processes must do so."""
    state: dict[str, Any] = {f"masters.{name}": weight.detach() for name, weight in masters.items()}
    for name, values in optimizer.items():
        state |= {f"optimizer.{name}.{key}": value for key, value in values.items()}
    state |= {f"numbers.{name}": number for name, number in numbers.items()}
    with (
        _plain_errors(),
        warnings.catch_warnings(category=UserWarning, action="ignore"),
    ):  # that there is one process alone
        save(state, checkpoint_id=checkpoint / TRAINER, no_dist=ranks.alone, process_group=ranks.group)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """What went wrong, in whichever process, or who interrupted it: PyTorch wraps both into something that is no Exception."""
    try:
        yield
    except CheckpointException as error:
        causes = [cause for cause, _ in error.failures.values()]
        raise min(causes, key=lambda cause: isinstance(cause, Exception)) from error


@torch.no_grad()
def load_state(
    checkpoint: Path, weights: Mapping[str, Tensor], ranks: Ranks
) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
    """Overwrite the weights that were saved. -> the optimiser's state by the names of weights, and the numbers

    A tensor of a weight's shape is divided as the weight is.
    """
    reader = FileSystemReader(checkpoint / TRAINER)
    state: dict[str, Any] = {}
    for key, entry in reader.read_metadata().state_dict_metadata.items():
        kind, _, rest = key.partition(".")
        name = rest if kind == "masters" else rest.rpartition(".")[0]
        if kind == "masters":
            state[key] = weights[name].detach()
        elif not isinstance(entry, TensorStorageMetadata):
            state[key] = None
        elif entry.size == weights[name].shape:
            state[key] = torch.zeros_like(weights[name], dtype=entry.properties.dtype)
        else:
            state[key] = torch.zeros(entry.size, dtype=entry.properties.dtype)
    with _plain_errors(), warnings.catch_warnings(category=UserWarning, action="ignore"):  # as above
        load(state, storage_reader=reader, no_dist=ranks.alone, process_group=ranks.group)
    optimizer: dict[str, dict[str, Any]] = {}
    for key, value in state.items():
        kind, _, rest = key.partition(".")
        name, _, what = rest.rpartition(".")
        if kind == "optimizer":
            optimizer.setdefault(name, {})[what] = value
    numbers = {key.partition(".")[2]: value for key, value in state.items() if key.startswith("numbers.")}
    return optimizer, numbers
