"""An engine that replays given replies, to run the whole loop without a model."""

import asyncio
from collections.abc import Callable, Sequence

from sod.engines import Reply, Request

Script = Callable[[Request], Sequence[int]]


class ScriptedEngine:
    """Replies with the tokens that `script` returns for a request, cut at `max_tokens`.

    Every token has the log-probability `logprob`. `ends`: ids that end a turn in addition to the request's own.
    `latency`: seconds to wait before each reply, so that tests can observe the order of events.
    """

    def __init__(
        self, script: Script, *, latency: float = 0.0, logprob: float = -0.5, ends: frozenset[int] = frozenset()
    ):
        self._script = script
        self._latency = latency
        self._ends = ends
        self._logprob = logprob
        self.requests: list[Request] = []
        """All requests, in order."""
        self.released: list[int] = []
        self.refreshed = 0

    async def sample(self, request: Request) -> Reply:
        self.requests.append(request)
        await asyncio.sleep(self._latency)
        tokens = tuple(self._script(request))[: request.max_tokens]
        ended = bool(tokens) and tokens[-1] in {*request.stops, *self._ends}
        return Reply(tokens, (self._logprob,) * len(tokens), "stop" if ended else "length")

    def release(self, trajectory: int) -> None:
        self.released.append(trajectory)

    def take_busy_seconds(self) -> float:
        return 0.0

    async def refresh(self) -> None:
        self.refreshed += 1

    async def close(self) -> None:
        pass
