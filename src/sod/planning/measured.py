"""The memory of a model of any type, measured on its passes without its weights (`sod.model.tracing`).

Passes over two lengths give a line: bytes that do not depend on the length, and bytes of each token.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from sod.config import OptimiserOptions
from sod.errors import ModelError, SodError
from sod.model.lengths import positions_in

TYPE_NAMES = {4: "float32", 2: "bfloat16"}


@dataclass(frozen=True, slots=True)
class Line:
    fixed: float
    token: float
    """Bytes of a token."""

    @classmethod
    def through(cls, measure: Callable[[int], int], lengths: tuple[int, int]) -> "Line":
        shorter, longer = lengths
        less, more = measure(shorter), measure(longer)
        token = (more - less) / (longer - shorter)
        return cls(less - token * shorter, token)

    def at(self, tokens: float) -> int:
        return max(0, round(self.fixed + self.token * tokens))


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredShape:
    """The sizes of a model, with the interface of `sod.planning.memory.Shape`."""

    folder: Path
    """The folder of its config.json."""
    width: int
    vocabulary: int
    positions: int
    parameters: int
    outside: int
    """Parameters outside the layers."""
    layer: int
    """Parameters of the largest layer."""
    embedding: int
    tied: bool
    linear: int
    """Sum of inputs and outputs of the linear layers that get a LoRA adapter."""
    packs: bool
    """Several sequences can share a pass, as far as its caches show."""

    @classmethod
    def of(cls, config: Path) -> "MeasuredShape | str":
        """Measure the model of a config.json. Return the reason in words if that is impossible."""
        try:
            return _measured(config.parent, config.stat().st_mtime_ns)
        except SodError:
            raise
        except Exception as error:  # a model's code may need real numbers
            return f"a pass without its weights fails ({type(error).__name__})"

    def adapters(self, rank: int) -> int:
        return rank * self.linear

    def held_bytes(self, tokens: int, itemsize: int, learn: OptimiserOptions) -> tuple[int, int]:
        """Return the bytes that a pass keeps for its backward pass, and those that the backward pass adds."""
        options = learn.lora_rank, learn.checkpointing, learn.checkpointing and learn.keep_attention
        kept, most = _training(self.folder, TYPE_NAMES[itemsize], *options)
        return kept.at(tokens), max(0, most.at(tokens) - kept.at(tokens))

    def read_bytes(self, tokens: int, itemsize: int) -> int:
        """Return the bytes of a forward pass without gradients."""
        return _scoring(self.folder, TYPE_NAMES[itemsize]).at(tokens)

    def trajectory_bytes(self, tokens: int, prompt: int, itemsize: int) -> int:
        """Return the bytes of the cache of a trajectory. A model with states also keeps that of the prompt."""
        cache = _cache(self.folder, TYPE_NAMES[itemsize])
        return cache.at(tokens) + (0 if self.packs else cache.at(prompt))


@lru_cache(maxsize=8)
def _measured(folder: Path, changed: int) -> MeasuredShape:
    del changed  # a key of the cache
    from sod.model.tracing import recorded_lengths, sizes_of

    sizes = sizes_of(folder)
    if not sizes.layers:
        raise ValueError("its layers cannot be found")
    recorded_lengths(folder)
    measured = MeasuredShape(
        folder=folder,
        width=sizes.width,
        vocabulary=sizes.embedding // sizes.width,
        positions=positions_in(folder / "config.json") or sys.maxsize,
        parameters=sizes.parameters,
        outside=sizes.outside,
        layer=sizes.layer,
        embedding=sizes.embedding,
        tied=sizes.tied,
        linear=sizes.linear,
        packs=_packed(folder, "bfloat16") is not None,
    )
    _scoring(folder, "bfloat16")
    return measured


def _line(folder: Path, measure: Callable[[int], int]) -> Line:
    from sod.model.tracing import recorded_lengths

    return Line.through(measure, recorded_lengths(folder))


@lru_cache(maxsize=32)
def _training(folder: Path, dtype: str, rank: int, checkpointing: bool, keep_attention: bool) -> tuple[Line, Line]:
    from sod.model.tracing import fake, traced

    passes = {}

    def measure(length: int) -> int:
        with fake():
            model = traced(folder, dtype, rank=rank, checkpointing=checkpointing, keep_attention=keep_attention)
            passes[length] = model.training(length)
        return passes[length].kept

    try:
        kept = _line(folder, measure)
    except SodError:
        raise
    except Exception as error:  # as above
        raise ModelError(
            f"The memory of training the model in {folder} cannot be measured: {type(error).__name__}. Use another model, or run "
            "without --dry-run."
        ) from error
    return kept, _line(folder, lambda length: passes[length].most)


@lru_cache(maxsize=32)
def _scoring(folder: Path, dtype: str) -> Line:
    from sod.model.tracing import fake, traced

    def measure(length: int) -> int:
        with fake():
            return traced(folder, dtype).scoring(length)

    return _line(folder, measure)


@lru_cache(maxsize=32)
def _packed(folder: Path, dtype: str) -> int | None:
    """Return the bytes of a token in the cache of a model that packs."""
    from sod.model.tracing import fake, traced

    try:
        with fake():
            return traced(folder, dtype).packed_cache()
    except Exception:  # a model whose layers do not take a layout
        return None


@lru_cache(maxsize=32)
def _cache(folder: Path, dtype: str) -> Line:
    from sod.model.tracing import fake, traced

    if (token := _packed(folder, dtype)) is not None:
        return Line(0, token)

    def measure(length: int) -> int:
        with fake():
            return traced(folder, dtype).state_cache(length)

    return _line(folder, measure)
