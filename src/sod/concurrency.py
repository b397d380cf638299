"""Things done at the same time."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results, in order. When one fails, the others are cancelled and awaited, and its own error is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in work]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    return [task.result() for task in tasks]


class Occupancy:
    """Seconds during which at least one of several things is under way: `with occupancy: ...` around each."""

    def __init__(self) -> None:
        self._under_way = 0
        self._since = 0.0
        self._seconds = 0.0

    def __enter__(self) -> None:
        if not self._under_way:
            self._since = time.monotonic()
        self._under_way += 1

    def __exit__(self, *_: object) -> None:
        self._under_way -= 1
        if not self._under_way:
            self._seconds += time.monotonic() - self._since

    def take_seconds(self) -> float:
        """Seconds since this was last asked, of what has ended."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


async def compute(function: Callable[..., T], *arguments: Any) -> T:
    """The function's result, from the one thread that does the arithmetic while trajectories are under way.

    So a forward pass keeps nobody waiting for a tool, a file or a socket; and two computations come one after the other
    instead of fighting over the same processors.
    """
    return await asyncio.get_running_loop().run_in_executor(_arithmetic, function, *arguments)


_arithmetic = ThreadPoolExecutor(max_workers=1, thread_name_prefix="arithmetic")
