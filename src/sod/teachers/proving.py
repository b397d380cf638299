"""Prove that a server has the teacher's weights: the text, and its log-probabilities on this machine."""

import os
from pathlib import Path

from torch import Tensor

from sod.batching import Batch, collate
from sod.config import ModelOptions
from sod.model.dtypes import dtype_of
from sod.model.loading import load_model
from sod.model.scores import score
from sod.teachers.dialects import Dialect
from sod.types import Group, Piece, Problem, Trajectory

TEXT = """A farmer has 17 sheep and buys 3 pens. Each pen holds at most 8 animals, so the question is whether all of them fit.
Let us count: 3 * 8 = 24 places, and 24 - 17 = 7 of these stay empty. Hence the answer is yes, with \\boxed{7} places to spare.

```python
def places(pens, size, animals):
    free = pens * size - animals
    return free if free >= 0 else None

print(places(3, 8, 17))
```

The program prints 7, as expected. In general, for p pens of size s and n animals, the inequality n <= p * s must hold; when it
does not, at least one animal has no place, by the pigeonhole principle. Was für Schafe gilt, gilt auch für Ziegen. 证毕。
"""
"""Text on which the server and the local weights, if there are any, must agree: prose, a program, other scripts."""


def holds_weights(folder: Path) -> bool:
    """Return True if the directory holds a model with weights, not only a tokenizer."""
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def proof_batch(ids: list[int]) -> Batch:
    """Return a batch of one trajectory in which all tokens except the first are the student's."""
    pieces = (Piece("prompt", (ids[0],)), Piece("student", tuple(ids[1:])))
    problem = Problem(id="probe", messages=(), answer="")
    return collate([Group(problem, [Trajectory(problem, 0, pieces, "answered", "")])])


def mean_gap(one_BT: Tensor, other_BT: Tensor, batch: Batch) -> float:
    """Return the mean absolute difference over the sampled tokens, in nats."""
    return (one_BT - other_BT).abs()[batch.mask_BT].mean().item()


def why_unchecked(folder: Path, network: ModelOptions) -> str:
    """Return why no local forward pass is possible; empty if it is."""
    if not holds_weights(folder):
        return f"{folder} holds no weights"
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors")) * (
        2 if dtype_of(network) == "float32" else 1
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory / 2:
        return f"The weights in {folder} would take more than half of this machine's memory"
    return ""


def local_logprobs(folder: Path, network: ModelOptions, probe: Batch) -> Tensor:
    """Return the log-probabilities of the local weights, computed on the CPU, because the student uses the GPU. -> (B, T)"""
    model = load_model(folder, network.model_copy(update={"device": "cpu"}))
    return score(model, probe, temperature=1.0, microbatch_tokens=Dialect.probe_tokens)[0]
