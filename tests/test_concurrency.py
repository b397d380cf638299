"""An event loop beside the thread that does the arithmetic: who runs where, and how it ends."""

import asyncio
import queue
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from sod.processes import concurrency
from sod.processes.concurrency import Occupancy, Runner, compute


def test_coroutines_run_in_a_thread_of_their_own_and_what_they_compute_in_the_callers() -> None:
    async def where() -> tuple[int, int]:
        return threading.get_ident(), await compute(threading.get_ident)

    with Runner() as runner:
        loop, arithmetic = runner.run(where())
        assert runner.run(where()) == (loop, arithmetic)
    assert arithmetic == threading.get_ident() != loop


def test_in_any_other_event_loop_one_thread_is_kept_for_arithmetic() -> None:
    async def threads() -> set[int]:
        return set(await asyncio.gather(*(compute(threading.get_ident) for _ in range(8))))

    first, second = asyncio.run(threads()), asyncio.run(threads())
    assert len(first) == 1
    assert first == second != {threading.get_ident()}


def test_arithmetic_is_done_one_thing_after_another_and_keeps_nobody_waiting() -> None:
    running: list[int] = []
    most = 0

    def work(number: int) -> int:
        nonlocal most
        running.append(number)
        most = max(most, len(running))
        time.sleep(0.02)
        running.remove(number)
        return number

    async def main() -> tuple[list[int], int]:
        tasks = asyncio.gather(*(compute(work, number) for number in range(5)))
        others = 0
        while not tasks.done():
            others += 1
            await asyncio.sleep(0.001)
        return await tasks, others

    with Runner() as runner:
        results, others = runner.run(main())
    assert results == list(range(5))
    assert most == 1
    assert others > 5


def test_errors_reach_whoever_waits() -> None:
    async def divide() -> float:
        return await compute(lambda: 1 / 0)

    async def mended() -> str:
        try:
            await divide()
        except ZeroDivisionError:
            return "mended"
        return "not mended"

    with Runner() as runner:
        assert runner.run(mended()) == "mended"
        with pytest.raises(ZeroDivisionError):
            runner.run(divide())
        assert runner.run(mended()) == "mended"


def test_what_is_still_under_way_at_the_end_is_cancelled_and_awaited() -> None:
    ended: list[str] = []

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("tidied up")

    async def start() -> "asyncio.Task[None]":
        task = asyncio.create_task(endless())
        await asyncio.sleep(0)
        return task

    with Runner() as runner:
        task = runner.run(start())
    assert ended == ["tidied up"]
    assert task.cancelled()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Also where these tests were started in the background, by a shell that makes its children deaf to Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("where", ["waiting", "computing"])
@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_cancels_the_coroutine_and_is_raised_when_it_has_ended(where: str) -> None:
    ended: list[str] = []

    def interrupt() -> None:
        signal.raise_signal(signal.SIGINT)

    async def work() -> None:
        try:
            if where == "computing":
                await compute(interrupt)
            else:
                asyncio.get_running_loop().call_later(0.05, signal.pthread_kill, threading.main_thread().ident, 2)
            async with asyncio.timeout(20):
                await asyncio.Event().wait()
        finally:
            ended.append("tidied up")

    async def afterwards() -> str:
        return "works on"

    with Runner() as runner:
        with pytest.raises(KeyboardInterrupt):
            runner.run(work())
        assert ended == ["tidied up"]
        assert runner.run(afterwards()) == "works on"


def test_overlapping_things_count_once() -> None:
    occupancy = Occupancy()
    with occupancy, occupancy:
        time.sleep(0.02)
    once = occupancy.take_seconds()
    assert once >= 0.02
    assert occupancy.take_seconds() == 0
    occupancy.__enter__()
    assert occupancy.take_seconds() == 0  # what has not ended does not count yet
    occupancy.__exit__()


def test_an_interrupt_at_the_end_of_the_coroutine_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(queue.SimpleQueue[Any]):
        def get(self, *_: Any, **__: Any) -> Any:
            if (item := super().get()) is None:
                raise KeyboardInterrupt
            return item

    with Runner() as loop:
        with monkeypatch.context() as patch:
            patch.setattr(concurrency.queue, "SimpleQueue", Interrupted)
            with pytest.raises(KeyboardInterrupt):
                loop.run(asyncio.sleep(0))
        loop.run(asyncio.sleep(0))
