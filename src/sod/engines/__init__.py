"""The interface of an engine, which samples tokens.

An engine takes token ids and returns token ids, with the log-probability of each at the sampling temperature. It never
handles text. Many requests may run at once, and each may start and end while others continue.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from sod.moved import keep_old_field


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTraits:
    """Properties of an engine that option checks, plans and commands read before one is opened."""

    is_remote: bool = False
    """It runs on a server at engine.url, so its weights take no memory here."""
    trains: bool = True
    """It can sample the policy, whose weights change with every update."""
    loads_model: bool = True
    """The model that it samples is loaded here as well. False if only the server has the weights."""
    exchanges_weights: bool = False
    """It holds a copy of the policy's weights, which it receives through files (engine.exchange) after every update."""
    package: str | None = None
    """Python package that it requires in addition to those of sod."""


VLLM_VERSION = "0.32"
"""The version of vLLM that needs the same PyTorch as sod; pyproject.toml has it in the extra `vllm`."""
INSTALL_VLLM = 'pip install ".[vllm]" in a checkout of sod'

ENGINES = {
    "auto": EngineTraits(),  # hf or vllm; `sod.engines.choice` replaces it before a run begins
    "hf": EngineTraits(),
    "vllm": EngineTraits(exchanges_weights=True, package="vllm"),
    "vllm_server": EngineTraits(is_remote=True, exchanges_weights=True),
    "served": EngineTraits(is_remote=True, trains=False, loads_model=False),
}
"""Every engine by its name in `engine.name`. `sod.engines.opening` opens them."""

CANNOT_TRAIN = (
    "engine.name = {name} cannot be used for training, because the server's model does not change. Evaluate it with `sod eval`. "
    "To train a model and sample it on a vLLM server, use --engine.name vllm_server."
)
"""Error for an engine that does not train."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request for one turn."""

    ids: Sequence[int]
    """All tokens so far, up to the start of the student's turn."""
    max_tokens: int
    stops: Sequence[int]
    """Tokens that end a turn, the end of a turn without calls first. The model's other end ids end it as well. The end token is
    kept in the reply. Empty: no token ends the turn."""
    seed: int
    """Determines every sample of this request, independent of other requests."""
    temperature: float = 1.0
    top_p: float = 1.0
    trajectory: int | None = None
    """Number of the trajectory, the same for all its requests, so that an engine can keep its cache between turns."""
    logprobs: bool = True
    """Whether the reply's log-probabilities are used. If not, an engine that was opened for another temperature or top_p may
    return wrong ones."""

    def ends(self, of_model: Set[int]) -> frozenset[int]:
        """Return all tokens that end the turn, with the model's other end ids. Empty if no token ends it."""
        return frozenset(self.stops).union(of_model) if self.stops else frozenset()


# Scripts and engines of users know the one token that ended a turn, below 0 if there was none.
keep_old_field(
    Request,
    "stop",
    "stops",
    as_new=lambda stop: (stop,) if stop >= 0 else (),
    as_old=lambda stops: stops[0] if stops else -1,
)


@dataclass(frozen=True, slots=True)
class Reply:
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    """log pi(token) at the sampling temperature, before top_p; empty if the engine does not have them."""
    stop: Literal["stop", "length"]


class Engine(Protocol):
    async def sample(self, request: Request) -> Reply:
        """Sample one turn. A cancelled call frees its resources."""
        ...

    def release(self, trajectory: int) -> None:
        """Free the cache of a trajectory that has ended."""
        ...

    def take_busy_seconds(self) -> float:
        """Return the seconds of computing since the last call."""
        ...

    async def refresh(self) -> None:
        """Load the policy's changed weights, and drop everything computed with the old ones.

        Only called while no request runs.
        """
        ...

    async def close(self) -> None:
        """Stop the engine and everything it started. The engine is not used afterwards."""
        ...


@runtime_checkable
class SleepingEngine(Protocol):
    """An engine that can free its memory on the GPU."""

    async def sleep(self) -> None:
        """Free the memory until the next `refresh`. Only called while no request runs."""
        ...
