"""The user's own tools: make a function with type hints and a docstring callable for the student.

Transformers derives the schema from the function. The function gets the JSON arguments after their types are checked. The
student reads `str` of the returned value, or `Type: message` of a raised exception. Only a `sod.errors.InfrastructureError`
counts as a failure that the student did not cause.

The function runs in this process, outside the sandbox. Calls run concurrently: an async function in the event loop, which it
must not block; any other function in a new thread per call. A thread cannot be stopped; after a time-out it is abandoned.
"""

import asyncio
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from sod.config import ToolOptions
from sod.config.plugins import load
from sod.errors import InfrastructureError, OptionError
from sod.moved import keep_old_names
from sod.processes.concurrency import call_function
from sod.tools import NO_OUTPUT, shorten, what_is_wrong
from sod.types import Observation


def own_tools(options: ToolOptions) -> list["OwnTool"]:
    """Load the tools named in `tool.own`. Raises OptionError if one is not found or cannot be called by keyword."""
    return [OwnTool(_function(name), options) for name in options.own]


class OwnTool:
    """A user's function as a tool, with the code interpreter's limits on time and text."""

    def __init__(self, function: Callable[..., Any], options: ToolOptions):
        self._function = function
        self._options = options
        self.schema = schema_of(function)

    async def __call__(self, arguments: Mapping[str, Any]) -> Observation:
        deadline = asyncio.timeout(self._options.seconds)
        try:
            async with deadline:
                text = str(await call_function(self._function, **arguments))
        except InfrastructureError:
            raise
        except (Exception, SystemExit) as error:  # the user's function may raise anything
            if deadline.expired():
                return Observation(text=f"[stopped: longer than {self._options.seconds:g} s]", outcome="timeout")
            return Observation(text=self._short(f"{type(error).__name__}: {error}"), outcome="error")
        return Observation(text=self._short(text) if text.strip() else NO_OUTPUT, outcome="ok")

    def _short(self, text: str) -> str:
        return shorten(
            text.encode("utf-8", "replace").decode(), self._options.max_chars
        )  # a tokenizer cannot encode a lone surrogate


def _function(name: str) -> Callable[..., Any]:
    function = load(name, option="tool.own")
    if not inspect.isfunction(function):
        raise OptionError(f"tool.own: {name} is a {type(function).__name__}; a tool must be a function.")
    return function


def schema_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the OpenAI function schema of a function, from its type hints and the `Args:` of its docstring (Google style).

    Raises OptionError, with the function and its file, if hints or docstring are missing, or if a default is not a value that
    the student could pass.
    """
    # Imported here, because Transformers takes a second to import and runs without own tools do not need it.
    from transformers.utils.chat_template_utils import (
        DocstringParsingException,
        TypeHintParsingException,
        get_json_schema,
    )

    where = f"tool.own: {function.__name__} in {inspect.getfile(function)}"
    parameters = inspect.signature(function).parameters.values()
    for each in parameters:
        if each.kind not in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY):
            raise OptionError(f"{where} cannot be called by keyword: make {each} an ordinary argument.")
    try:
        made = get_json_schema(function)
    except (DocstringParsingException, TypeHintParsingException, NameError, ValueError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]  # the rest is advice for programmers
        raise OptionError(
            f"{where} cannot be described to the student: {reason}. See examples/your_tool.py for what is needed."
        ) from error
    made["function"].pop("return", None)  # OpenAI's format has no such field
    defaults = {each.name: each.default for each in parameters if each.default is not each.empty}
    if complaint := what_is_wrong(defaults, made["function"]["parameters"] | {"required": ()}):
        raise OptionError(f"{where}: the default of {complaint}")
    return made


keep_old_names(__name__, schema="schema_of")
