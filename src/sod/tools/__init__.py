"""The interface of a tool, and the messages that the student reads after a wrong call.

A tool returns an `Observation` for every call, also a wrong one. It raises `sod.errors.InfrastructureError` only for failures
that the student did not cause. A tool with a state has `open`, which returns the tool of one attempt.
"""

import copy
import json
import logging
import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Protocol, Self, TypeVar, runtime_checkable

from sod.errors import OptionError
from sod.processes.concurrency import run_concurrently
from sod.types import MalformedCall, Observation, Problem, ToolCall

logger = logging.getLogger(__name__)

T = TypeVar("T")

NO_OUTPUT = "[no output]"
"""What the student reads in place of an empty result."""


class Tool(Protocol):
    @property
    def schema(self) -> dict[str, Any]:
        """The OpenAI function schema that the chat template shows to the student."""
        ...

    async def __call__(self, arguments: Mapping[str, Any]) -> Observation: ...


class OpenTool(Tool, Protocol):
    """A tool of one attempt."""

    async def close(self) -> None:
        """Release what the attempt holds. Always called, also after an error."""
        ...


@runtime_checkable
class StatefulTool(Tool, Protocol):
    """A tool that keeps state between the calls of one attempt, or that uses the problem's files."""

    async def open(self, problem: Problem, seed: int) -> OpenTool:
        """Return the tool of one attempt at this problem, with the same schema. It shares no state with other attempts."""
        ...


@runtime_checkable
class ComplainingTool(Tool, Protocol):
    """A tool that needs something of the problems, such as a file."""

    def complaint(self, problem: Problem) -> str:
        """Return why the tool cannot be used for this problem; empty if it can. Called before the run."""
        ...


_OF_ATTEMPT: ContextVar[dict[Any, Any]] = ContextVar("what the tools of an attempt share")


def shared_in_attempt(key: Hashable, make: Callable[[], T]) -> T:
    """Return what tools of one attempt share. Call it in `open`; the first call with a key makes the object."""
    objects = _OF_ATTEMPT.get()
    if key not in objects:
        objects[key] = make()
    return objects[key]


class Toolbox:
    """The tools of a run, by name. Raises OptionError if two have the same name."""

    def __init__(self, tools: Sequence[Tool]):
        self._tools: dict[str, Tool] = {}
        for tool in tools:
            name = tool.schema["function"]["name"]
            if name in self._tools:
                raise OptionError(
                    f"There are two tools called {name!r}, and the student could not tell them apart. Rename your function or "
                    "tool.name, or leave one out with tool.use or tool.mcp_only."
                )
            self._tools[name] = tool
        self._stateful = {name: tool for name, tool in self._tools.items() if isinstance(tool, StatefulTool)}
        self._opened: list[OpenTool] = []

    @property
    def has_state(self) -> bool:
        """Whether results depend on earlier calls of the attempt."""
        return any(getattr(tool, "has_state", True) for tool in self._stateful.values())

    def complaint(self, problem: Problem) -> str:
        """Return why a tool cannot be opened for this problem; empty if all can. A tool may have a method of this name."""
        complaints = (tool.complaint(problem) for tool in self._tools.values() if isinstance(tool, ComplainingTool))
        return next(filter(None, complaints), "")

    async def open(self, problem: Problem, seed: int) -> Self:
        """Return the toolbox of one attempt, which must be closed. Tools without state are shared."""
        if not self._stateful:
            return self
        own = copy.copy(self)
        own._tools, own._opened = dict(self._tools), []
        _OF_ATTEMPT.set({})
        try:
            for name, tool in self._stateful.items():
                own._tools[name] = opened = await tool.open(problem, seed)
                own._opened.append(opened)
        except BaseException:
            await own.close()
            raise
        return own

    async def close(self) -> None:
        """Close the tools of this attempt. A tool that fails to close is logged; the others are closed as well."""
        while self._opened:
            tool = self._opened.pop()
            try:
                await tool.close()
            except Exception as error:  # a user's tool may raise anything
                name = tool.schema["function"]["name"]
                logger.warning(f"the tool {name!r} could not be closed: {type(error).__name__}: {error}")

    @property
    def schemas(self) -> list[dict[str, Any]]:
        return [tool.schema for tool in self._tools.values()]

    @property
    def names(self) -> list[str]:
        return list(self._tools)

    async def run(self, calls: Sequence[ToolCall]) -> list[Observation]:
        """Run valid calls concurrently and return one observation per call, in order."""
        return await run_concurrently(self._tools[call.name](call.arguments) for call in calls)

    async def answer(self, calls: Sequence[ToolCall | MalformedCall]) -> list[Observation]:
        """Same as `run` for any calls. A call that no tool can run is answered with the reason."""

        async def one(call: ToolCall | MalformedCall) -> Observation:
            if refused := refuse_call(call, self.schemas):
                return refused
            assert isinstance(call, ToolCall)
            return (await self.run([call]))[0]

        return await run_concurrently(map(one, calls))


def refuse_call(call: ToolCall | MalformedCall, tools: Sequence[Mapping[str, Any]]) -> Observation | None:
    """Return what the student reads about a call that none of these tools can run. None for a valid call."""
    if isinstance(call, MalformedCall):
        return Observation(text=call.complaint, outcome="malformed")
    functions = {tool["function"]["name"]: tool["function"] for tool in tools}
    if call.name not in functions:
        names = ", ".join(functions) or "none"
        return Observation(text=f"There is no tool {call.name!a}. Available: {names}.", outcome="unknown_tool")
    if complaint := what_is_wrong(call.arguments, functions[call.name]["parameters"]):
        return Observation(text=f"Wrong arguments for {call.name}: {complaint}", outcome="wrong_arguments")
    return None


def damaged(calls: Sequence[ToolCall | MalformedCall], share: float, seed: int) -> list[ToolCall | MalformedCall]:
    """Return the calls; in a share of them, chosen by the seed, text arguments lose their last character."""
    chance = random.Random(seed)
    return [_cut(call) if chance.random() < share else call for call in calls]


def _cut(call: ToolCall | MalformedCall) -> ToolCall | MalformedCall:
    """Remove the last character of a call's text arguments."""
    if isinstance(call, MalformedCall):
        return call
    cut = {name: value[:-1] if isinstance(value, str) else value for name, value in call.arguments.items()}
    return replace(call, arguments=cut)


_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}


def what_is_wrong(arguments: Mapping[str, Any], parameters: Mapping[str, Any]) -> str | None:
    """Return why the arguments do not match a tool's parameters, as text for the student; None if they match."""
    properties = parameters.get("properties", {})
    for name in parameters.get("required", ()):
        if name not in arguments:
            return f'"{name}" is missing.'
    for name, value in arguments.items():
        if name not in properties:
            if parameters.get("additionalProperties"):
                continue
            return f"{json.dumps(name)} is unknown; it takes {', '.join(properties) or 'none'}."
        if complaint := _wrong_value(value, properties[name]):
            return f'"{name}" must be {complaint}.'
    return None


def _wrong_value(value: Any, wanted: Mapping[str, Any]) -> str | None:
    """Return what the value of an argument must be; None if the value is valid."""
    if value is None and wanted.get("nullable"):
        return None
    expected = wanted.get("type", [])
    types = [expected] if isinstance(expected, str) else expected
    if types and not any(_is_a(value, type) for type in types):
        return f"of type {' or '.join(types)}"
    if "enum" in wanted and value not in wanted["enum"]:
        return f"one of {', '.join(map(json.dumps, wanted['enum']))}"
    return None


def _is_a(value: Any, type: str) -> bool:
    """Return True if a JSON value has a JSON type. Unknown types pass; the tool checks them. Booleans are not numbers."""
    if isinstance(value, bool) and type != "boolean":
        return type not in _TYPES
    return type not in _TYPES or isinstance(value, _TYPES[type])


def shorten(text: str, limit: int) -> str:
    """Shorten text to at most `limit` characters: the head and the tail, with a mark for the omitted part."""
    mark = "\n... [output omitted] ...\n"
    if len(text) <= limit:
        return text
    keep = limit - len(mark)
    if keep <= 0:
        return text[:limit]
    return text[: keep // 2] + mark + text[len(text) - (keep - keep // 2) :]
