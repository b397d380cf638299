"""The process that compares symbolically: what it answers, and how it fails and ends."""

import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sod.errors import InfrastructureError
from sod.rewards.symbolic import Symbolic, TooHardError

EQUAL = [(r"\frac{1}{1+\sqrt{2}}", r"\sqrt{2}-1")]
DIFFERENT = [(r"\frac{1}{1+\sqrt{2}}", r"\sqrt{2}+1")]
ENDLESS = [(r"\{(x+y+z)^{9000}\}", r"\{1\}")]


@pytest.fixture(scope="module")
def symbolic() -> Iterator[Symbolic]:
    symbolic = Symbolic(limit_s=30)  # what is asked is what counts, not how long it takes
    yield symbolic
    symbolic.close()


def children() -> set[int]:
    """The processes that this one has started and that still run."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = status.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue  # it has ended
        if int(parent) == os.getpid() and state != "Z":
            found.add(int(status.parent.name))
    return found


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def ends(pid: int) -> bool:
    for _ in range(1000):
        if not runs(pid):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [
        (r"\frac{1}{1+\sqrt{2}}", r"\sqrt{2}-1", True),
        (r"\cot x", r"\frac{1}{\tan x}", True),
        (r"\frac{x+1}{x-1}", r"1+\frac{2}{x-1}", True),
        (r"\sqrt{2}", r"\sqrt{2}+10^{-20}", False),
        (r"\sqrt{2}", r"\frac{141421356237309505}{100000000000000000}", False),
        (r"\cot x", r"\tan x", False),
        ("x", "y", False),
        (r"10^{-30}\sqrt{2+\sqrt{2}}", r"10^{-30}\sqrt{2+\sqrt{3}}", False),
        (r"\sin x-\sin x", "0", True),
        ("{{{", "1", False),
        ("", "", False),
        ('__import__("os").system("true")', "1", False),
    ],
)
def test_expressions_are_equal_or_not(symbolic: Symbolic, gold: str, answer: str, equal: bool) -> None:
    assert symbolic.equal([(gold, answer)]) == equal


def test_all_pairs_have_to_be_equal(symbolic: Symbolic) -> None:
    assert symbolic.equal(EQUAL * 2)
    assert not symbolic.equal(EQUAL + DIFFERENT)
    assert not symbolic.equal(DIFFERENT + EQUAL)


def test_threads_take_turns(symbolic: Symbolic) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(symbolic.equal, [EQUAL, DIFFERENT] * 20)) == [True, False] * 20


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [
        (r"\sum_{k=1}^n k", r"\frac{n(n+1)}{2}", True),
        (r"\sum_{k=1}^n k", r"\frac{n(n-1)}{2}", False),
        (r"\sum_{k=0}^{n}\binom{n}{k}", "2^n", True),
        (r"\prod_{k=1}^{n} k", "n!", True),
        (r"\sqrt{x^2}", "x", False),
        (r"\sqrt{x^2}", "|x|", True),
        (r"\cot x", r"\frac{\cos x}{\sin x}", True),
        (r"\sqrt{2}", r"\sqrt{2}+10^{-20}", False),
        (r"\{\sin x, 2\}", r"\{\frac{4}{2}, \cos x \tan x\}", True),
        (r"\{\sin x, 2\}", r"\{\sin x, 3\}", False),
        (r"\{\sin x, 2\}", r"\{\sin x\}", False),
        ("5x-7y=0", "5x-7y=0", True),
        ("{{{", "1", False),
    ],
)
def test_values_at_several_points_are_equal_or_not(symbolic: Symbolic, gold: str, answer: str, equal: bool) -> None:
    assert symbolic.equal([(gold, answer)], by_value=True) == equal


def test_what_has_no_values_is_too_hard(symbolic: Symbolic) -> None:
    with pytest.raises(TooHardError, match="no expressions"):
        symbolic.equal([("5x-7y=0", "7x-5y=0")], by_value=True)
    assert symbolic.equal(EQUAL)


def test_what_takes_too_long_is_a_failure_and_the_next_request_is_not() -> None:
    symbolic = Symbolic(limit_s=0.3)
    with pytest.raises(TooHardError, match="ran out of time"):
        symbolic.equal(ENDLESS)
    symbolic.limit_s = 30
    assert symbolic.equal(EQUAL)
    symbolic.close()


def test_running_out_of_memory_is_a_failure_and_no_verdict() -> None:
    symbolic = Symbolic(limit_s=60, memory_bytes=256 << 20)
    assert symbolic.equal(EQUAL)
    with pytest.raises(InfrastructureError, match="memory"):
        symbolic.equal([(r"\{(x+y+z)^{5000}\}", r"\{1\}")])
    assert symbolic.equal(EQUAL)
    symbolic.close()


def test_a_worker_that_was_killed_is_replaced() -> None:
    before = children()
    symbolic = Symbolic(limit_s=30)
    assert symbolic.equal(EQUAL)
    (worker,) = children() - before
    os.kill(worker, signal.SIGKILL)
    assert ends(worker)
    assert symbolic.equal(EQUAL)
    symbolic.close()


def test_closing_ends_the_process_and_leaves_no_file_open() -> None:
    before, files = children(), set(os.listdir("/proc/self/fd"))
    symbolic = Symbolic(limit_s=30)
    assert symbolic.equal(EQUAL)
    assert len(children() - before) == 1
    symbolic.close()
    symbolic.close()
    assert children() <= before
    assert set(os.listdir("/proc/self/fd")) <= files


def test_failures_leave_no_file_open() -> None:
    symbolic = Symbolic(limit_s=1e-4)
    files = set(os.listdir("/proc/self/fd"))
    for _ in range(2):
        with pytest.raises(InfrastructureError):
            symbolic.equal(EQUAL)
    assert set(os.listdir("/proc/self/fd")) <= files


def test_the_process_ends_with_the_object_that_has_it() -> None:
    before = children()
    symbolic = Symbolic(limit_s=30)
    assert symbolic.equal(EQUAL)
    del symbolic
    gc.collect()
    assert children() <= before


@pytest.mark.parametrize("busy", [False, True])
def test_the_process_ends_when_its_parent_is_killed(busy: bool) -> None:
    program = f"""
import threading, time
from sod.rewards.symbolic import Symbolic
symbolic = Symbolic(limit_s={1 if busy else 30})
symbolic._started()
if {busy}:
    symbolic._worker._process.stdin.write({json.dumps({"pairs": ENDLESS, "by_value": False}).encode()!r} + b"\\n")
    time.sleep(0.2)
print(symbolic._worker._process.pid, flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    assert runs(worker)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert ends(worker)


def test_a_forked_child_has_a_process_of_its_own() -> None:
    program = """
import os
from sod.rewards.symbolic import Symbolic
symbolic = Symbolic(limit_s=30)
pair = [("\\\\cot x", "\\\\frac{1}{\\\\tan x}")]
assert symbolic.equal(pair)
symbolic._lock.acquire()  # as if another thread were asking
child = os.fork()
if child == 0:
    os._exit(0 if symbolic.equal(pair) else 1)
symbolic._lock.release()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert symbolic.equal(pair)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_trainer_that_imports_the_judges_imports_no_sympy() -> None:
    program = """
import sys
import sod.rewards.math, sod.rewards.choice, sod.rewards.reference
print([name for name in ("sympy", "torch", "pydantic", "math_verify", "numpy") if name in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout == "[]\n"
