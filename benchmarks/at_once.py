"""Repeat a piece of work, many at a time. Without torch, so that the processes that are timed stay small."""

import asyncio
import time
from collections.abc import Awaitable, Callable


async def at_once(count: int, most: int, work: Callable[[], Awaitable[None]]) -> float:
    """Do it `count` times, `most` at a time. Return the times per second."""
    left = iter(range(count))

    async def some() -> None:
        for _ in left:
            await work()

    start = time.perf_counter()
    await asyncio.gather(*(some() for _ in range(most)))
    return count / (time.perf_counter() - start)
