"""An agent of the user's own, written with any framework, as an environment: `--environment served:FILE.py:FUNCTION`.

The function receives (problem, url). `url` is the base URL of an OpenAI-compatible endpoint for this attempt; any client can use
it (`sod.environments.asking`). The function returns True, False, a Verdict, or None: the judge of the problem's kind decides. It
may be a coroutine, or a plain function: that runs in a thread.
"""

import asyncio
from typing import ClassVar

from sod.config.plugins import load
from sod.environments import Opening
from sod.environments.asking import AskedStudent
from sod.environments.endpoint import Endpoint
from sod.errors import OptionError
from sod.processes.concurrency import call_function
from sod.types import Problem, Verdict


class ServedAgent(AskedStudent):
    """The user's agent of one attempt. Its requests become the conversation, and the student's turns their answers."""

    endpoint: ClassVar[Endpoint | None] = None

    def __init__(self, function: str = ""):
        if not function:
            raise OptionError("environment: served needs the agent's function. Type served:FILE.py:FUNCTION.")
        self._function = load(function, option="environment")
        super().__init__(f"The agent {self._function.__name__}")
        self._url = ""

    @classmethod
    async def start(cls) -> None:
        cls.endpoint = Endpoint()

    @classmethod
    async def stop(cls) -> None:
        if cls.endpoint is not None:
            cls.endpoint.close()
            cls.endpoint = None

    async def open(self, problem: Problem, seed: int) -> Opening:
        assert self.endpoint is not None, "start it first"
        self._url = self.endpoint.register(self.receive)
        return await self.begin(asyncio.ensure_future(call_function(self._function, problem, self._url)))

    async def verdict(self, text: str) -> Verdict | bool | None:
        assert self._ended is not None
        if self._ended.done():
            return self._ended.result()
        # A limit has ended the attempt. Without a verdict, problems without an answer would be ungraded and never trained on.
        return None if text else Verdict(outcome="wrong", reason="ended before the agent")

    async def close(self) -> None:
        if self.endpoint is not None and self._url:
            self.endpoint.forget(self._url)
        await super().close()
        if self._ended is not None:
            self._ended.cancel()
            await asyncio.wait([self._ended], timeout=1)
