"""JSON in tool calls: decode it, and turn objects into calls."""

import json
from typing import Any

from sod.types import ToolCall

DECODER = json.JSONDecoder(strict=False)
"""Accepts raw line breaks inside strings."""
SHORTEST_PART = 256
"""Characters of the first part of a text that is decoded."""
LONGEST_WORD = 16
"""More characters than any word or escape of JSON has."""
NAMES, ARGUMENTS = ("name", "tool_name"), ("arguments", "parameters")
TOO_DEEP = "invalid JSON (too deep a nesting)"
_BESIDE = {"id", "type", "tool_call_id"}
"""Keys of a call that are unrelated to its arguments."""


def call_of(value: Any) -> ToolCall | str:
    """Return the call in a JSON value, or the reason why it is malformed."""
    name = next((key for key in NAMES if isinstance(value, dict) and key in value), None)
    if name is None:
        return '"name" or "arguments" is missing'
    key = next((key for key in ARGUMENTS if key in value), None)
    if key is None and value.keys() - _BESIDE > {name}:
        return '"name" or "arguments" is missing'
    arguments = as_arguments(value[key]) if key else {}
    if not isinstance(value[name], str) or arguments is None:
        return '"name" must be a string and "arguments" an object'
    return ToolCall(name=value[name], arguments=arguments)


def as_arguments(given: Any) -> dict[str, Any] | None:
    """Return arguments as an object. Accept an object, JSON text of one, null and empty text. Return None for other values."""
    if given is None or (isinstance(given, str) and not given.strip()):
        return {}
    if isinstance(given, str):
        try:
            given = json.loads(given, strict=False)
        except (ValueError, RecursionError):
            return None
    return given if isinstance(given, dict) else None


def decode(text: str, at: int) -> tuple[Any, int] | str:
    """Return the JSON value that begins at `at`, and its end. Return the reason if there is none."""
    try:
        return decode_at(text, at)
    except (ValueError, RecursionError) as error:
        return json_error(error)


def decode_at(text: str, at: int) -> tuple[Any, int]:
    """Return the JSON value that begins at `at`, and its end. Raise what `DECODER` raises.

    Parts of the text are decoded, each twice as long as the one before: an error of the library counts the lines before it, and
    very many broken calls must be read in linear time.
    """
    size = SHORTEST_PART
    while True:
        part, is_rest = text[at : at + size], at + size >= len(text)
        try:
            value, end = DECODER.raw_decode(part)
            if is_rest or end < len(part):
                return value, at + end
        except json.JSONDecodeError as error:
            is_cut = error.pos > len(part) - LONGEST_WORD or error.msg.startswith("Unterminated string")
            if is_rest or not is_cut:
                raise
        size *= 2


def json_error(error: ValueError | RecursionError) -> str:
    """Return the reason for a failure of `DECODER`. ValueError is also raised for integers with thousands of digits."""
    if isinstance(error, json.JSONDecodeError):
        return f"invalid JSON ({error.msg})"
    return TOO_DEEP if isinstance(error, RecursionError) else "invalid JSON (too long a number)"
