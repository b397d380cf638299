"""An agent of the user's own, written with any framework, as an environment: `--environment served:FILE.py:FUNCTION`.

The function receives (problem, url). `url` is the base URL of an OpenAI-compatible endpoint for this attempt; any client can use
it. The messages that it sends are the student's prompt, and the student's turns are the answers. The function returns True,
False, a Verdict, or None: the judge of the problem's kind decides. It may be a coroutine, or a plain function: that runs in a
thread.

A trajectory is one growing conversation. Each request must repeat the conversation so far and add the results of the last calls,
or one user's message. An agent that rewrites, shortens or branches its history is refused in words, because the tokens that the
student has read would differ from those it is trained on.
"""

import asyncio
from typing import Any, ClassVar

from sod.chat.calls import as_arguments
from sod.config.plugins import load
from sod.environments import Environment, Opening, Step, Turn
from sod.environments.endpoint import ChatRequest, Endpoint, assistant_message
from sod.errors import InfrastructureError, OptionError
from sod.processes.concurrency import call_function
from sod.types import Message, Problem, Verdict


class ServedAgent(Environment):
    """The user's agent of one attempt. Its requests become the conversation, and the student's turns their answers."""

    endpoint: ClassVar[Endpoint | None] = None

    def __init__(self, function: str = ""):
        if not function:
            raise OptionError("environment: served needs the agent's function. Type served:FILE.py:FUNCTION.")
        self._function = load(function, option="environment")
        self._requests: asyncio.Queue[ChatRequest] = asyncio.Queue()
        self._pending: ChatRequest | None = None
        self._task: asyncio.Future[Any] | None = None
        self._url = ""
        self._history: list[Message] = []
        self._turns = 0

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
        loop = asyncio.get_running_loop()

        def receive(request: ChatRequest) -> None:
            loop.call_soon_threadsafe(self._requests.put_nowait, request)

        self._url = self.endpoint.register(receive)
        self._task = asyncio.ensure_future(call_function(self._function, problem, self._url))
        request = await self._next()
        if request is None:
            raise InfrastructureError(f"The agent {self._function.__name__} ended without asking the student.")
        self._history = request.messages
        return Opening(request.messages, request.tools)

    async def step(self, turn: Turn) -> Step:
        assert self._pending is not None
        message = assistant_message(turn.text, turn.calls, self._turns)
        self._turns += 1
        self._history = [*self._history, message]
        self._pending.reply.set_result(message)
        request = await self._next()
        if request is None:
            return Step(is_over=True)
        try:
            return Step(self._added(request.messages, len(turn.calls)))
        finally:
            self._history = request.messages

    async def verdict(self, text: str) -> Verdict | bool | None:
        assert self._task is not None
        if self._task.done():
            return self._task.result()
        # A limit has ended the attempt. Without a verdict, problems without an answer would be ungraded and never trained on.
        return None if text else Verdict(outcome="wrong", reason="ended before the agent")

    async def close(self) -> None:
        if self.endpoint is not None and self._url:
            self.endpoint.forget(self._url)
        self._refuse("This attempt has ended.")
        while not self._requests.empty():  # requests that an agent makes at the same time
            self._requests.get_nowait().reply.set_exception(InfrastructureError("This attempt has ended."))
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=1)

    async def _next(self) -> ChatRequest | None:
        """Wait for the agent's next request; None if it has ended. Raises what the agent raises."""
        assert self._task is not None
        asked = asyncio.ensure_future(self._requests.get())
        try:
            await asyncio.wait([asked, self._task], return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                self._pending = asked.result()
                return self._pending
            self._task.result()
            return None
        finally:
            asked.cancel()

    def _added(self, messages: list[Message], calls: int) -> list[str] | str:
        """Return the texts that a request adds to the conversation. Raises InfrastructureError if it changes what was before."""
        before = len(self._history)
        if list(map(_content, messages[:before])) != list(map(_content, self._history)):
            pairs = enumerate(zip(messages, self._history, strict=False))
            at = next((i for i, (a, b) in pairs if _content(a) != _content(b)), len(messages))
            raise self._rewritten(f"message {at + 1} is another one, or missing")
        new = messages[before:]
        if calls:
            if [message["role"] for message in new] != ["tool"] * calls:
                raise self._rewritten(f"{calls} results of tools must follow the calls, and {_roles(new)} do")
            by_id = {message.get("tool_call_id"): message["content"] for message in new}
            ids = [call["id"] for call in self._history[-1]["tool_calls"]]
            return [by_id[id] for id in ids] if by_id.keys() == set(ids) else [message["content"] for message in new]
        if [message["role"] for message in new] != ["user"]:
            raise self._rewritten(f"one user's message must follow a turn of text, and {_roles(new)} do")
        return new[0]["content"]

    def _rewritten(self, how: str) -> InfrastructureError:
        message = f"The agent {self._function.__name__} does not continue its conversation: {how}."
        self._refuse(message)
        return InfrastructureError(message)

    def _refuse(self, message: str) -> None:
        if self._pending is not None and not self._pending.reply.done():
            self._pending.reply.set_exception(InfrastructureError(message))


def _content(message: Message) -> tuple[Any, ...]:
    """Return what the student reads of a message, or has written."""
    calls = [call.get("function", call) for call in message.get("tool_calls") or ()]
    return message["role"], message.get("content") or "", [(f["name"], as_arguments(f["arguments"])) for f in calls]


def _roles(messages: list[Message]) -> str:
    return ", ".join(message["role"] for message in messages) or "no messages"
