"""SIGTERM and SIGHUP: raised or noted, in words, and a second one ends at once. Without torch: these are quick."""

import os
import signal
import subprocess
import sys

import pytest

from sod.processes import interrupts
from sod.processes.interrupts import Terminated, calling, held_back, let_through, noted, obeyed


def test_a_signal_is_raised_as_an_interrupt_that_names_it() -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):
        with pytest.raises(KeyboardInterrupt, match=f"ended by {number.name}"), obeyed():
            os.kill(os.getpid(), number)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_signal_is_only_noted_where_work_must_not_be_cut_in_two() -> None:
    done: list[str] = []

    def work() -> None:
        with let_through():
            done.append("sampled")
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("learnt")
        with let_through():
            done.append("sampled again")

    with pytest.raises(Terminated), obeyed(), held_back():
        work()
    assert noted() == signal.SIGTERM
    assert done == ["sampled", "learnt"]


def test_copies_of_a_signal_do_not_count() -> None:
    """A scheduler signals every process of a job, and torchrun signals its processes again."""
    with obeyed(), held_back():
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), number)
        assert noted() == signal.SIGTERM


def test_a_second_signal_ends_at_once() -> None:
    code = """
import os, signal, sys
from sod.processes import interrupts
interrupts.TOGETHER_SECONDS = 0
with interrupts.obeyed(), interrupts.held_back():
    for name in sys.argv[1:]:
        os.kill(os.getpid(), signal.Signals[name])
        print(name, flush=True)
"""
    ended = subprocess.run([sys.executable, "-c", code, "SIGHUP", "SIGTERM", "SIGTERM"], capture_output=True, text=True)
    assert ended.stdout == "SIGHUP\n"
    assert ended.returncode == -signal.SIGTERM


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """nohup ignores SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with obeyed(), held_back():
            os.kill(os.getpid(), signal.SIGHUP)
            assert not noted()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_later_command_of_the_same_process_begins_anew() -> None:
    with obeyed(), held_back():
        os.kill(os.getpid(), signal.SIGTERM)
    with obeyed(), held_back(), let_through():
        assert not noted()


def test_a_command_that_is_stopped_on_purpose_ignores_copies_of_the_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    with calling(lambda: calls.append("stopped")):
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert calls == ["stopped"]
        monkeypatch.setattr(interrupts, "COPY_SECONDS", 0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
