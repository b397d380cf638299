"""Tools of the user's own: a function with type hints and a docstring becomes something that the student may call.

Its schema is the one that Transformers reads off it. It gets the arguments as JSON has them, once they are of the types that it
asks for, and the student reads `str` of what it returns. Whatever it raises is text for the student as well, `Type: message`;
only a `sod.errors.InfrastructureError` says that the student is not to blame.

It runs in this process, outside the sandbox. Calls run at the same time: an async function in the event loop, which it must not
block, any other in a thread for each call. A thread cannot be stopped: one that is late is left behind.
"""

import asyncio
import inspect
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from sod.config import ToolOptions
from sod.errors import InfrastructureError, OptionError
from sod.plugins import load
from sod.tools import shorten, what_is_wrong
from sod.types import Observation


def own_tools(options: ToolOptions) -> list["OwnTool"]:
    """Those that `tool.own` names. Raises OptionError for one that cannot be found, or be called by name."""
    return [OwnTool(_function(name), options) for name in options.own]


class OwnTool:
    """A function, with the interpreter's limits of time and of text."""

    def __init__(self, function: Callable[..., Any], options: ToolOptions):
        self._function = function
        self._options = options
        self.schema = schema(function)

    async def __call__(self, arguments: Mapping[str, Any]) -> Observation:
        deadline = asyncio.timeout(self._options.seconds)
        try:
            async with deadline:
                text = str(await self._value(arguments))
        except InfrastructureError:
            raise
        except (Exception, SystemExit) as error:  # the user's function may raise anything
            if deadline.expired():
                return Observation(text=f"[stopped: longer than {self._options.seconds:g} s]", outcome="timeout")
            return Observation(text=self._short(f"{type(error).__name__}: {error}"), outcome="error")
        return Observation(text=self._short(text) if text.strip() else "[no output]", outcome="ok")

    async def _value(self, arguments: Mapping[str, Any]) -> Any:
        if inspect.iscoroutinefunction(self._function):
            return await self._function(**arguments)
        value = await _in_a_thread(self._function, arguments)
        return await value if inspect.isawaitable(value) else value  # of an async function under a plain decorator

    def _short(self, text: str) -> str:
        return shorten(
            text.encode("utf-8", "replace").decode(), self._options.max_chars
        )  # half a surrogate has no tokens


def _in_a_thread(function: Callable[..., Any], arguments: Mapping[str, Any]) -> "asyncio.Future[Any]":
    """The function's value, from a thread of its own: nobody waits for a free one, and none keeps the process from ending."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()  # a call that is given up may still end

    def call() -> None:
        try:
            future.set_result(function(**arguments))
        except StopIteration:  # which no future can hold
            future.set_exception(RuntimeError(f"{function.__name__} raised StopIteration"))
        except BaseException as error:  # is the caller's, who waits for the value
            future.set_exception(error)

    threading.Thread(target=call, name=f"tool {function.__name__}", daemon=True).start()
    return asyncio.wrap_future(future)


def _function(name: str) -> Callable[..., Any]:
    function = load(name, option="tool.own")
    if not inspect.isfunction(function):
        raise OptionError(f"tool.own: {name} is a {type(function).__name__}; a tool must be a function.")
    return function


def schema(function: Callable[..., Any]) -> dict[str, Any]:
    """The OpenAI function schema of a function, from its type hints and the `Args:` of its docstring (Google's style).

    Raises OptionError, naming the function and its file, where it has no such hints or docstring, or a default that the
    student could not give itself.
    """
    # Transformers takes a second to import, and a run without tools of its own needs nothing of this.
    from transformers.utils.chat_template_utils import (
        DocstringParsingException,
        TypeHintParsingException,
        get_json_schema,
    )

    where = f"tool.own: {function.__name__} in {inspect.getfile(function)}"
    parameters = inspect.signature(function).parameters.values()
    for each in parameters:
        if each.kind not in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY):
            raise OptionError(f"{where} cannot be called by name alone: {each} must be an ordinary argument.")
    try:
        made = get_json_schema(function)
    except (DocstringParsingException, TypeHintParsingException, NameError, ValueError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]  # what follows is advice to programmers
        raise OptionError(
            f"{where} cannot be told to the student: {reason}. examples/your_tool.py shows what is needed."
        ) from error
    made["function"].pop("return", None)  # OpenAI's format has no such field
    defaults = {each.name: each.default for each in parameters if each.default is not each.empty}
    if complaint := what_is_wrong(defaults, made["function"]["parameters"] | {"required": ()}):
        raise OptionError(f"{where}: the default of {complaint}")
    return made
