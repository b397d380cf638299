"""Concurrency: run coroutines as a group, and run arithmetic without blocking the event loop."""

import asyncio
import inspect
import queue
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, Self, TypeVar

from sod.moved import keep_old_names

T = TypeVar("T")


async def run_concurrently(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines concurrently and return their results, in order.

    If one fails, the others are cancelled and awaited, and its error is raised.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in work]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    return [task.result() for task in tasks]


def in_a_thread(function: Callable[..., T], *arguments: Any, **named: Any) -> "asyncio.Future[T]":
    """Call the function in a new daemon thread: calls never wait for a free thread, and none blocks the process's exit.

    A thread cannot be stopped; after a time-out it is abandoned.
    """
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # an abandoned call may still end

    def call() -> None:
        try:
            future.set_result(function(*arguments, **named))
        except StopIteration:  # a future cannot hold it
            future.set_exception(RuntimeError(f"{getattr(function, '__name__', function)} raised StopIteration"))
        except BaseException as error:  # raised in the caller that waits for the value
            future.set_exception(error)

    threading.Thread(target=call, name=f"call of {getattr(function, '__name__', function)}", daemon=True).start()
    return asyncio.wrap_future(future)


async def call_function(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Return the value of a user's function. A coroutine runs in the event loop, any other function in a thread."""
    if inspect.iscoroutinefunction(function):
        return await function(*arguments, **named)
    value = await in_a_thread(function, *arguments, **named)
    return await value if inspect.isawaitable(value) else value  # an async function in a plain decorator


class Occupancy:
    """Counts the seconds during which at least one of several activities runs: `with occupancy: ...` around each."""

    def __init__(self) -> None:
        self.under_way = 0
        self._since = 0.0
        self._seconds = 0.0

    def __enter__(self) -> None:
        if not self.under_way:
            self._since = time.monotonic()
        self.under_way += 1

    def __exit__(self, *_: object) -> None:
        self.under_way -= 1
        if not self.under_way:
            self._seconds += time.monotonic() - self._since

    def take_seconds(self) -> float:
        """Return the seconds of ended activities since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


class Runner:
    """Runs coroutines in an event loop on its own thread, and their `compute` calls on the caller's thread.

    A forward pass therefore does not block coroutines that wait for a tool, a file or a socket. One thread, the caller's,
    does all arithmetic: OpenMP gives each computing thread its own team of threads. With more threads than processors,
    every operation waits for some of them to wake up (a third to a half of the time, for small networks).
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="event loop", daemon=True)
        self._caller = _Caller()

    def __enter__(self) -> Self:
        _callers[self._loop] = self._caller
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Cancel all tasks that still run, and close the loop."""
        self.run(_end_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        del _callers[self._loop]

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and return its result. An interrupt cancels it, and is raised after it has ended."""
        work = self._caller.work = queue.SimpleQueue()
        ended = threading.Event()

        async def watched() -> T:
            try:
                return await coroutine
            finally:
                ended.set()
                work.put(None)

        future = asyncio.run_coroutine_threadsafe(watched(), self._loop)
        try:
            while (do := work.get()) is not None:
                do()
        except BaseException:
            future.cancel()
            ended.wait()  # not for None, which may have been taken when the interrupt came
            raise
        return future.result()


class _Caller(Executor):
    """Executor that runs work on the thread that waits in `Runner.run`."""

    work: "queue.SimpleQueue[Callable[[], None] | None]"

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        future: Future[T] = Future()

        def do() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(fn(*args, **kwargs))
                except Exception as error:  # raised in the coroutine that waits for the result
                    future.set_exception(error)

        self.work.put(do)
        return future


async def _end_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    loop = asyncio.get_running_loop()
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()


async def compute(function: Callable[..., T], *arguments: Any) -> T:
    """Return the function's result, computed on the one thread that does all arithmetic, one call at a time.

    Under `Runner` this is the thread that calls `Runner.run`. In any other event loop it is a dedicated thread.
    """
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_callers.get(loop, _arithmetic), function, *arguments)


_callers: dict[asyncio.AbstractEventLoop, Executor] = {}
_arithmetic = ThreadPoolExecutor(max_workers=1, thread_name_prefix="arithmetic")


keep_old_names(__name__, together="run_concurrently")
