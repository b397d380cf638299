"""Sample the next batch while the student learns from this one: `rollout.ahead`."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from sod.rollout.agent import Agent
from sod.rollout.groups import rollout
from sod.types import Group, Problem


class Ahead:
    """A rollout in the event loop, which goes on while the caller's thread learns.

    The engine must not need that thread: it samples with a copy of the weights, in another process. Groups are scored only in
    `finish`, by the weights that learn from them.
    """

    def __init__(self, update: int, weights: int):
        self.update = update
        """Number of the update that learns from the batch."""
        self.weights = weights
        """Number of the updates after which the engine's weights were taken."""
        self._ready: asyncio.Queue[Group | None] = asyncio.Queue()
        """Complete groups; None after the last one."""
        self._ended = 0
        self._on_trajectory: Callable[[object], None] = self._count

    @classmethod
    async def start(cls, agent: Agent, problems: Sequence[Problem], *, seed: int, update: int, weights: int) -> "Ahead":
        """Begin the rollout and return at once."""
        ahead = cls(update, weights)
        work = rollout(
            agent,
            problems,
            seed=seed,
            update=update,
            on_trajectory=lambda trajectory: ahead._on_trajectory(trajectory),
            on_group=ahead._ready.put,
        )
        ahead._task = asyncio.create_task(ahead._run(work))
        return ahead

    _task: "asyncio.Task[list[Group]]"

    @property
    def is_running(self) -> bool:
        return not self._task.done()

    async def wait(self) -> None:
        """Wait for the end of the rollout. Its errors are raised by `finish`."""
        await asyncio.wait({self._task})

    async def finish(
        self, on_trajectory: Callable[[object], None], on_group: Callable[[Group], Awaitable[None]]
    ) -> list[Group]:
        """Return all groups when they are complete. Calls the functions of `rollout` for what has ended so far, too."""
        for _ in range(self._ended):
            on_trajectory(None)
        self._on_trajectory = on_trajectory
        while (group := await self._ready.get()) is not None:
            await on_group(group)
        return await self._task

    async def stop(self) -> None:
        """Cancel the rollout, and wait until its resources are free."""
        self._task.cancel()
        await self.wait()

    async def _run(self, work: Coroutine[Any, Any, list[Group]]) -> list[Group]:
        try:
            return await work
        finally:
            self._ready.put_nowait(None)

    def _count(self, _: object) -> None:
        self._ended += 1
