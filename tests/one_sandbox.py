"""One sandbox for the programs of a file of tests: starting one takes half a second of a processor."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from confining import CONFINABLE

from sod.sandbox.local import LocalSandbox

Work = Callable[[LocalSandbox], Coroutine[Any, Any, Any]]


class OneSandbox:
    """A sandbox and its event loop, from the first use to `close`, which a file calls in `teardown_module`."""

    def __init__(self, *, workers: int | None = None) -> None:
        self._workers = workers
        self._runner: asyncio.Runner | None = None

    def run(self, work: Work) -> Any:
        """Return the result of a coroutine that uses the sandbox."""
        if self._runner is None:
            self._runner = asyncio.Runner()
            self._sandbox = LocalSandbox(workers=self._workers, unsafe=not CONFINABLE)
        return self._runner.run(work(self._sandbox))

    def close(self) -> None:
        if self._runner is not None:
            self._runner.run(self._sandbox.close())
            self._runner.close()
            self._runner = None
