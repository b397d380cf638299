"""Who writes tokens: the contract of an engine.

An engine takes token ids and gives token ids, with the log-probability of each at the sampling temperature. It never
sees text. Many requests may be under way at once, and each may come and go while others go on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What the rest of the project must know of an engine before one is opened."""

    has_address: bool = False
    """It is on a server, at engine.url; its weights take no memory here."""
    trains: bool = True
    """It can sample the policy, whose weights change with every update."""
    exchanges_weights: bool = False
    """It holds a copy of the policy's weights, which it gets through files (engine.exchange) after every update."""
    package: str | None = None
    """The Python package that it needs beside those of sod."""


ENGINES = {
    "hf": Traits(),
    "vllm": Traits(exchanges_weights=True, package="vllm"),
    "vllm_server": Traits(has_address=True, exchanges_weights=True),
    "served": Traits(has_address=True, trains=False),
}
"""Every engine by its name in `engine.name`. `sod.engines.opening` opens them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One turn to be written."""

    ids: Sequence[int]
    """Everything so far, ending where the student starts to write."""
    max_tokens: int
    stop: int
    """The token that ends a turn; it is kept in the reply. So is any other end id of the model, which ends the turn as well.
    Below 0: no token ends it."""
    seed: int
    """Decides every draw of this request, whatever else is under way."""
    temperature: float = 1.0
    top_p: float = 1.0
    trajectory: int | None = None
    """Requests of one trajectory carry the same number, so that an engine can keep its cache between turns."""


@dataclass(frozen=True, slots=True)
class Reply:
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    """log pi(token) at the sampling temperature, before top_p; none where the engine cannot know them."""
    stop: Literal["stop", "length"]


class Engine(Protocol):
    async def sample(self, request: Request) -> Reply:
        """Write one turn. A cancelled call frees what it held."""
        ...

    def release(self, trajectory: int) -> None:
        """The trajectory has ended; whatever was kept for it can go."""
        ...

    def take_busy_seconds(self) -> float:
        """Seconds of computing since this was last asked."""
        ...

    async def refresh(self) -> None:
        """The policy's weights have changed: take them over, and forget everything computed with the old ones.

        Called only while no request is under way.
        """
        ...

    async def close(self) -> None:
        """End what was started. Nothing is asked of the engine afterwards."""
        ...
