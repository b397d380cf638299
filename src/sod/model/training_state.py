"""Save and load the training state beside the model, as a PyTorch distributed checkpoint for any number of processes.

Each process writes its shards of sharded tensors; other tensors are written once. Names are those of the weights, so a run
can be resumed with another number of processes.
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

from sod.processes.distributed import Ranks
from sod.runs.checkpoints import TRAINER


def save_state(
    checkpoint: Path,
    masters: Mapping[str, Tensor],
    optimizer: Mapping[str, Mapping[str, Any]],
    numbers: Mapping[str, int],
    ranks: Ranks,
) -> None:
    """Write master weights and optimiser state, by the names of the weights, and numbers. All processes must call this."""
    state: dict[str, Any] = {f"masters.{name}": weight.detach() for name, weight in masters.items()}
    for name, values in optimizer.items():
        state |= {f"optimizer.{name}.{key}": value for key, value in values.items()}
    state |= {f"numbers.{name}": number for name, number in numbers.items()}
    with (
        _plain_errors(),
        warnings.catch_warnings(category=UserWarning, action="ignore"),
    ):  # PyTorch warns that there is only one process
        save(state, checkpoint_id=checkpoint / TRAINER, no_dist=ranks.alone, process_group=ranks.group)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise the original error or interruption of any process. PyTorch wraps it in a class that is not an Exception."""
    try:
        yield
    except CheckpointException as error:
        causes = [cause for cause, _ in error.failures.values()]
        raise min(causes, key=lambda cause: isinstance(cause, Exception)) from error


@torch.no_grad()
def load_state(
    checkpoint: Path, weights: Mapping[str, Tensor], ranks: Ranks
) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
    """Load the saved master weights in place. -> optimiser state, by the names of the weights, and numbers

    A tensor with its weight's shape is sharded like the weight.
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
