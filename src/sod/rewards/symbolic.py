"""Compare expressions with math-verify in a separate process.

Sympy may use unlimited time or memory for a short expression, and nothing inside its own process can stop it. The worker process
(`symbolic_worker.py`) has a limit on memory and on the processor time of a request. Processor time does not depend on the load of
the machine. A request that exceeds a limit ends the worker, and the next request starts a new one. If the worker is lost for any
other reason, the request is sent once more to a new worker.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path

from sod.errors import InfrastructureError

_WORKER = Path(__file__).with_name("symbolic_worker.py")
_START_S = 120.0
"""Seconds that a start may take. It imports sympy: about 2 s, and far longer on a loaded machine."""
_ATTEMPTS = 2
_WALL = 6
"""Limit on wall time, as a multiple of the limit on processor time."""


class Symbolic:
    """Own one worker process, which the first request starts. Threads may share this object; their requests are serialised.

    A forked child starts its own worker. The worker ends on `close`, with this object, and with the interpreter, even if that is
    killed.
    """

    def __init__(self, *, limit_s: float = 0.8, memory_bytes: int = 2 << 30) -> None:
        self.limit_s = limit_s
        """Processor time of one request, in seconds, without the start of a worker."""
        self.memory_bytes = memory_bytes
        """Address space of the worker, in bytes."""
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        self._end = lambda: None
        _ALIVE.add(self)

    def equal(self, pairs: Sequence[tuple[str, str]], *, by_value: bool = False) -> bool:
        """Return whether the gold equals the answer in each pair (gold, answer) of LaTeX texts.

        `by_value` puts numbers in place of symbols and only computes, which takes far less time and memory.
        Raises `TooHardError` if the limits are too low, and `InfrastructureError` if the worker is lost twice.
        """
        with self._lock:
            failures: list[str] = []
            while len(failures) < _ATTEMPTS:
                try:
                    return self._started().ask(pairs, self.limit_s, by_value=by_value)
                except TooHardError:
                    self._stop()
                    raise
                except _LostError as error:
                    failures.append(str(error))
                    self._stop()
            raise InfrastructureError(f"The symbolic worker failed twice: {'; '.join(failures)}.")

    def close(self) -> None:
        """End the worker. The next request starts a new one."""
        with self._lock:
            self._stop()

    def _started(self) -> "_Worker":
        if self._worker is None:
            self._worker = _Worker(self.limit_s, self.memory_bytes)
            self._end = weakref.finalize(self, self._worker.end)
        self._worker.be_ready()
        return self._worker

    def _stop(self) -> None:
        self._end()
        self._worker = None


class TooHardError(InfrastructureError):
    """A comparison needs more processor time or memory than it may use, or makes sympy fail."""


class _LostError(Exception):
    """The worker ended for a reason that may not occur again."""


class _Worker:
    """Run one worker process and exchange requests and replies with it."""

    def __init__(self, limit_s: float, memory_bytes: int) -> None:
        self._process = subprocess.Popen(
            # -P: do not import from the worker's folder, because it has a math.py.
            [sys.executable, "-P", str(_WORKER), str(memory_bytes), str(limit_s), str(_WALL * limit_s + 2)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,  # the worker must not receive Ctrl-C
        )
        self._owner = os.getpid()
        self._ready = False

    def be_ready(self) -> None:
        """Wait until the start is complete."""
        if not self._ready:
            self._receive(_START_S)
            self._ready = True

    def ask(self, pairs: Sequence[tuple[str, str]], limit_s: float, *, by_value: bool) -> bool:
        """Send a request and return its reply."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"pairs": pairs, "by_value": by_value}).encode() + b"\n")
        except OSError as error:
            raise _LostError("it had ended before it was asked") from error
        return self._receive(_WALL * limit_s)

    def end(self) -> None:
        """Kill and reap the process. In a forked child, only close the pipes."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if os.getpid() == self._owner:
            self._process.kill()
            self._process.wait()
        else:
            self._process.returncode = 0  # the worker is not a child of this process, so it cannot be waited for
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.stdout.close()

    def _receive(self, limit_s: float) -> bool:
        """Return the next reply; raises `_LostError` or `TooHardError` if there is none."""
        assert self._process.stdout is not None
        end, line, output = time.monotonic() + limit_s, b"", self._process.stdout.fileno()
        waiting = select.poll()
        waiting.register(output, select.POLLIN)
        while not line.endswith(b"\n"):
            if not waiting.poll(max(0.0, end - time.monotonic()) * 1000):
                raise _LostError(f"no answer within {limit_s} s")
            if not (chunk := os.read(output, 1 << 16)):
                if self._process.wait() == -signal.SIGPROF:
                    raise TooHardError("The symbolic worker ran out of time.")
                raise _LostError("it ended")
            line += chunk
        reply = json.loads(line)
        if "failure" in reply:
            raise TooHardError(f"The symbolic worker failed: {reply['failure']}.")
        return reply["equal"]


_ALIVE: weakref.WeakSet[Symbolic] = weakref.WeakSet()


def _start_afresh_in_child() -> None:
    """Drop the worker and the lock in a forked child: a thread of the parent may hold the lock."""
    for symbolic in list(_ALIVE):
        symbolic._lock = threading.Lock()
        symbolic._stop()


os.register_at_fork(after_in_child=_start_afresh_in_child)
