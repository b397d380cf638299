"""The circuit breaker: what is tried again, when everybody waits, when the run stops."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from sod.config import SandboxOptions
from sod.errors import OptionError, OutageError, SandboxError
from sod.sandbox import Program, Result
from sod.sandbox.retries import FAILURE_WINDOW, PROBE_PROGRAM, GuardedSandbox, open_sandbox

DOWN = Result(status="sandbox_error", message="nobody is there")
PROGRAM = Program(code="2 + 2")


class Fickle:
    """A sandbox that can run its nth program (from 0) or not, as `works` says; probes are programs too."""

    def __init__(self, works: Callable[[int], bool]):
        self.works = works
        self.programs: list[Program] = []
        self.closed = False

    async def run(self, program: Program) -> Result:
        self.programs.append(program)
        if not self.works(len(self.programs) - 1):
            return DOWN
        return Result(status="ok", stdout="1\n" if program == PROBE_PROGRAM else "4\n")

    async def close(self) -> None:
        self.closed = True


def run(sandbox: Fickle, times: int = 1, **options: Any) -> tuple[list[Result], GuardedSandbox]:
    """So many programs, one after another."""
    guarded = GuardedSandbox(sandbox, SandboxOptions(**options))

    async def work() -> list[Result]:
        return [await guarded.run(PROGRAM) for _ in range(times)]

    return asyncio.run(work()), guarded


def test_a_program_that_could_not_be_run_is_tried_again() -> None:
    sandbox = Fickle(lambda n: n > 1)
    (result,), _ = run(sandbox)
    assert result.stdout == "4\n"
    assert sandbox.programs == [PROGRAM] * 3


def test_what_a_program_does_wrong_is_never_tried_again() -> None:
    class Failing(Fickle):
        async def run(self, program: Program) -> Result:
            self.programs.append(program)
            return Result(status="timeout")

    sandbox = Failing(lambda n: True)
    (result,), guarded = run(sandbox)
    assert (result.status, len(sandbox.programs)) == ("timeout", 1)
    assert guarded.take_statistics().metrics()["sandbox/timeout_rate"] == 1


def test_retries_are_bounded_and_the_last_failure_is_told() -> None:
    sandbox = Fickle(lambda n: False)
    (result,), guarded = run(sandbox, retries=1)
    assert result == DOWN
    assert len(sandbox.programs) == 2
    metrics = guarded.take_statistics().metrics()
    assert (metrics["sandbox/programs"], metrics["sandbox/failure_rate"]) == (2, 1.0)


def test_a_sandbox_that_is_down_holds_everybody_back_and_loses_no_program(capsys: pytest.CaptureFixture[str]) -> None:
    sandbox = Fickle(lambda n: n >= 6)
    guarded = GuardedSandbox(sandbox, SandboxOptions(retries=2))

    async def work() -> list[Result]:
        return await asyncio.gather(*(guarded.run(PROGRAM) for _ in range(8)))

    results = asyncio.run(work())
    assert [result.stdout for result in results] == ["4\n"] * 8
    probes = [n for n, program in enumerate(sandbox.programs) if program == PROBE_PROGRAM]
    assert len(probes) >= 2
    assert probes == list(range(probes[0], probes[-1] + 1))  # nobody else's program was sent in between
    out = capsys.readouterr().out
    assert "(nobody is there); waiting up to 600 s" in " ".join(out.split())
    assert out.count("waiting up to") == out.count("works again") == 1


def test_a_sandbox_that_stays_down_stops_the_run_and_says_how_to_go_on() -> None:
    guarded = GuardedSandbox(Fickle(lambda n: False), SandboxOptions(patience=0.3))

    async def work() -> list[BaseException | Result]:
        return await asyncio.gather(*(guarded.run(PROGRAM) for _ in range(4)), return_exceptions=True)

    errors = asyncio.run(work())
    assert all(isinstance(error, OutageError) for error in errors)
    assert "down for 0.3 s (nobody is there)" in str(errors[0])
    assert "--resume" in str(errors[0])


@pytest.mark.parametrize(("every", "pauses"), [(50, False), (10, True)])
def test_failures_count_by_their_share_of_the_latest_programs(every: int, pauses: bool) -> None:
    sandbox = Fickle(lambda n: n % every != every - 1)
    results, _ = run(sandbox, times=2 * FAILURE_WINDOW)
    assert {result.stdout for result in results} == {"4\n"}
    assert (PROBE_PROGRAM in sandbox.programs) == pauses


def test_one_callers_end_does_not_end_the_waiting_of_the_others() -> None:
    sandbox = Fickle(lambda n: n >= 5)
    guarded = GuardedSandbox(sandbox, SandboxOptions())

    async def work() -> Result:
        impatient, patient = (asyncio.create_task(guarded.run(PROGRAM)) for _ in range(2))
        while PROBE_PROGRAM not in sandbox.programs:
            await asyncio.sleep(0.01)
        impatient.cancel()
        return await patient

    assert asyncio.run(work()).stdout == "4\n"


def test_statistics_begin_anew_when_they_are_taken() -> None:
    _, guarded = run(Fickle(lambda n: True), times=3)
    metrics = guarded.take_statistics().metrics()
    assert metrics["sandbox/programs"] == 3
    assert 0 <= metrics["sandbox/seconds_p50"] <= metrics["sandbox/seconds_p99"]
    assert guarded.take_statistics().metrics() == {}


def test_it_is_tried_before_anything_begins_and_closed_at_the_end() -> None:
    sandbox = Fickle(lambda n: True)
    with asyncio.Runner() as loop, GuardedSandbox(sandbox, SandboxOptions()).working_in(loop):
        assert sandbox.programs == [PROBE_PROGRAM]
        assert not sandbox.closed
    assert sandbox.closed


def test_a_sandbox_that_does_not_work_is_found_out_before_anything_begins() -> None:
    sandbox = Fickle(lambda n: False)
    unusable = pytest.raises(SandboxError, match="does not work: nobody is there")
    with unusable, asyncio.Runner() as loop, GuardedSandbox(sandbox, SandboxOptions()).working_in(loop):
        raise AssertionError
    assert sandbox.closed


def test_a_server_without_an_address_and_an_address_without_a_server_are_refused() -> None:
    with pytest.raises(OptionError, match=r"sandbox.url is not given"):
        open_sandbox(SandboxOptions(backend="fusion"))
    with pytest.raises(OptionError, match=r"--sandbox.backend fusion"):
        open_sandbox(SandboxOptions(url="http://127.0.0.1:8080"))


def test_an_unconfined_sandbox_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    open_sandbox(SandboxOptions(backend="unsafe_subprocess"))
    assert "NOT confined" in capsys.readouterr().out
