"""Attempts in which an agent asks the student: its requests are the prompt, and the student's turns are the answers.

A trajectory is one growing conversation. Each request must repeat the conversation so far and add the results of the last calls,
or messages of a user. An agent that rewrites, shortens or branches its history, or changes its tools, is refused in words: the
tokens that the student has read would differ from those it is trained on.
"""

import asyncio
from typing import Any

from sod.chat.calls import as_arguments
from sod.environments import Environment, Opening, Step, Turn
from sod.environments.endpoint import ENDED, ChatReply, ChatRequest, EndedError, assistant_message
from sod.errors import InfrastructureError
from sod.types import Message, Schema


class AskedStudent(Environment):
    """An attempt whose texts are the requests of an agent. A subclass starts the agent and returns `begin` from `open`.

    `agent`: name of the agent in messages. `patience`: seconds without a request after which the attempt is over.
    """

    def __init__(self, agent: str, *, patience: float | None = None):
        self._agent = agent
        self._patience = patience
        self._requests: asyncio.Queue[ChatRequest] = asyncio.Queue()
        self._pending: ChatRequest | None = None
        self._ended: asyncio.Future[Any] | None = None
        self._history: list[Message] = []
        self._prompt = 0
        """Number of messages before the student's first turn."""
        self._tools: list[Schema] = []
        self._turns = 0

    @property
    def owes(self) -> bool:
        """Whether the agent's last request has no answer yet."""
        return self._pending is not None and not self._pending.reply.done()

    @property
    def waits(self) -> bool:
        """Whether all requests of the agent have an answer."""
        return self._requests.empty() and not self.owes

    def receive(self, request: ChatRequest) -> None:
        """Accept a request of the agent."""
        self._requests.put_nowait(request)

    async def begin(self, ended: "asyncio.Future[Any]") -> Opening:
        """Return the first request. `ended` is done when the agent asks no more, and raises what the agent raises."""
        self._ended = ended
        request = await self._next()
        if request is None:
            raise InfrastructureError(f"{self._agent} ended without asking the student.")
        self._history, self._tools = request.messages, request.tools
        self._prompt = len(request.messages)
        return Opening(request.messages, request.tools)

    async def step(self, turn: Turn) -> Step:
        message = assistant_message(turn.text, turn.calls, self._turns)
        self._turns += 1
        self._history = [*self._history, message]
        self.reply(ChatReply(message, turn.prompt_tokens, turn.tokens))
        request = await self._next()
        if request is None:
            return Step(is_over=True)
        try:
            answer = self.added(request)
        except InfrastructureError as error:
            request.refuse(str(error))
            raise
        self._history = request.messages
        return Step(answer)

    async def close(self) -> None:
        self.refuse(EndedError(ENDED))

    def reply(self, reply: ChatReply) -> None:
        """Answer the agent's last request."""
        assert self._pending is not None, "the agent has not asked"
        self._pending.reply.set_result(reply)

    def refuse(self, error: Exception) -> None:
        """Refuse all requests that have no answer."""
        waiting = [self._pending] if self._pending is not None else []
        while not self._requests.empty():  # requests that an agent makes at the same time
            waiting.append(self._requests.get_nowait())
        for request in waiting:
            if not request.reply.done():
                request.reply.set_exception(error)

    def concerns(self, request: ChatRequest) -> bool:
        """Return whether a request goes beyond the prompt of this conversation, or holds a turn that the student wrote here."""
        if not self._prompt:  # its first request is still waiting
            return False
        asked, known = (list(map(_content, messages)) for messages in (request.messages, self._history))
        prompt, written = known[: self._prompt], [each for each in known[self._prompt :] if each[0] == "assistant"]
        return (asked[: self._prompt] == prompt and asked != prompt) or any(each in written for each in asked)

    def added(self, request: ChatRequest) -> list[str] | str:
        """Return the texts that a request adds to the conversation. Raises InfrastructureError if it changes what was before."""
        messages, before = request.messages, len(self._history)
        if list(map(_content, messages[:before])) != list(map(_content, self._history)):
            pairs = enumerate(zip(messages, self._history, strict=False))
            at = next((i for i, (a, b) in pairs if _content(a) != _content(b)), len(messages))
            raise self._rewritten(f"message {at + 1} is another one, or missing")
        if request.tools != self._tools:
            raise self._rewritten("its tools have changed")
        new = messages[before:]
        if calls := self._history[-1].get("tool_calls"):
            if [message["role"] for message in new] != ["tool"] * len(calls):
                raise self._rewritten(f"{len(calls)} results of tools must follow the calls, and {_roles(new)} do")
            by_id = {message.get("tool_call_id"): message["content"] for message in new}
            ids = [call["id"] for call in calls]
            return [by_id[id] for id in ids] if by_id.keys() == set(ids) else [message["content"] for message in new]
        if not new or any(message["role"] != "user" for message in new):
            raise self._rewritten(f"a user's message must follow a turn of text, and {_roles(new)} do")
        return "\n\n".join(message["content"] for message in new)

    async def _next(self) -> ChatRequest | None:
        """Wait for the agent's next request; None if it asks no more. Raises what the agent raises."""
        assert self._ended is not None
        asked = asyncio.ensure_future(self._requests.get())
        try:
            await asyncio.wait([asked, self._ended], timeout=self._patience, return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                self._pending = asked.result()
                return self._pending
            if self._ended.done():
                self._ended.result()
            return None
        finally:
            asked.cancel()

    def _rewritten(self, how: str) -> InfrastructureError:
        return InfrastructureError(f"{self._agent} does not continue its conversation: {how}.")


def same_messages(a: list[Message], b: list[Message]) -> bool:
    """Return whether the student reads the same in both."""
    return list(map(_content, a)) == list(map(_content, b))


def _content(message: Message) -> tuple[Any, ...]:
    """Return what the student reads of a message, or has written."""
    calls = [call.get("function", call) for call in message.get("tool_calls") or ()]
    return message["role"], message.get("content") or "", [(f["name"], as_arguments(f["arguments"])) for f in calls]


def _roles(messages: list[Message]) -> str:
    return ", ".join(message["role"] for message in messages) or "no messages"
