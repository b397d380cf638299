"""What every call syntax has: the text that opens a call, a function that reads one call, and a sentence for the student."""

import json
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from sod.types import MalformedCall, ToolCall

THOUGHT_CLOSE = "</think>"
CLOSINGS = 16
"""Closing tags of a call that are tried, because its values may contain some. More would take quadratic time."""
_SPACE = re.compile(r"\s*")
Parameters = Mapping[str, Mapping[str, Any]]
"""The JSON schema of each tool's arguments, by the tool's name. Syntaxes whose arguments are plain text need it."""


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a turn that holds calls, from its opening tag to its closing tag."""

    start: int
    end: int
    calls: Sequence[ToolCall | MalformedCall]


class Syntax(Protocol):
    """One way to write tool calls."""

    @property
    def name(self) -> str: ...

    @property
    def opener(self) -> re.Pattern[str]:
        """Pattern of the text that begins a block. It has no capturing groups."""
        ...

    @property
    def help(self) -> str:
        """A sentence that shows the student how to write a call."""
        ...

    def read(self, text: str, start: int, at: int, parameters: Parameters) -> Block | None:
        """Return the block that `opener` found at `start` to `at`. None if the tag is an ordinary word."""
        ...

    def write(self, call: ToolCall) -> str:
        """Return a call as text. Only used for templates that leave out calls."""
        ...


def malformed(syntax: Syntax, start: int, end: int, reason: str, text: str) -> Block:
    """Return a block with one malformed call, which ends at `end` or at the end of a thought before it."""
    thought = text.find(THOUGHT_CLOSE, start, end)
    complaint = f"Malformed tool call: {reason}. {syntax.help}"
    return Block(start, end if thought < 0 else thought, [MalformedCall(complaint=complaint)])


@lru_cache(maxsize=16)
def places_of(text: str, tag: str) -> Sequence[int]:
    """Return where each `tag` begins. Cached, so that a turn with very many tags is read in linear time."""
    places: list[int] = []
    at = text.find(tag)
    while at >= 0:
        places.append(at)
        at = text.find(tag, at + 1)
    return places


def find_close(text: str, tag: str, at: int, number: int = 1) -> int:
    """Return where the next `tag` begins, or -1. `number` = 2: the one after it, and so on."""
    places = places_of(text, tag)
    found = bisect_left(places, at) + number - 1
    return places[found] if found < len(places) else -1


def reach(text: str, tag: str, at: int) -> int:
    """Return how far a call may extend that begins at `at`, because its values may contain `CLOSINGS` of its closing tags."""
    found = find_close(text, tag, at, CLOSINGS)
    return len(text) if found < 0 else found


def end_of_block(text: str, tag: str, at: int) -> int:
    """Return the end of the next closing `tag`, or of the text: where a malformed call ends."""
    close = find_close(text, tag, at)
    return len(text) if close < 0 else close + len(tag)


def skip(text: str, at: int, pattern: re.Pattern[str] = _SPACE) -> int:
    """Return the end of the pattern's match at `at`, or `at` itself. Default: white space."""
    match = pattern.match(text, at)
    return match.end() if match else at


def properties_of(parameters: Parameters, tool: str) -> Mapping[str, Any]:
    """Return the schema of each argument of a tool. Empty for an unknown tool."""
    found = parameters.get(tool, {}).get("properties", {})
    return found if isinstance(found, Mapping) else {}


def typed(text: str, schema: Mapping[str, Any] | None) -> Any:
    """Return an argument that was written as plain text, with the type of its schema.

    A string stays a string, also if it looks like a number. Without a schema, JSON text becomes its value. Text that is no value
    of its type stays text, and the tool reports it.
    """
    if schema is not None and _types(schema) == {"string"}:
        return text
    word = text.strip()
    if word in _LITERALS:
        return _LITERALS[word]
    try:
        return json.loads(word, strict=False)
    except (ValueError, RecursionError):
        return text


_LITERALS = {"True": True, "False": False, "None": None}
"""Values that templates write as Python does."""


def _types(schema: Mapping[str, Any]) -> set[str]:
    given = schema.get("type")
    if isinstance(given, str):
        return {given}
    if isinstance(given, Sequence):
        return {str(each) for each in given}
    parts = [each for key in ("anyOf", "oneOf") for each in schema.get(key) or () if isinstance(each, Mapping)]
    if not parts and "enum" in schema:
        return {"string"} if all(isinstance(value, str) for value in schema["enum"]) else set()
    return {kind for part in parts for kind in _types(part)}
