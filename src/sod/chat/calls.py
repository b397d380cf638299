r"""Parse tool calls in a student's turn. Malformed calls get a message that helps the student to correct them.

A call is `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, as Hermes, Qwen2.5, Qwen3 and Granite 4 write it.

- Text before the last `</think>` is a thought, and so is all text after an unclosed `<think>`. Calls in thoughts are ignored.
- A tag opens a call if one of these follows it: JSON (`{` or `[`), a fence, `<function`, or a word without a space before it.
  It also opens a call if tag and body are on lines of their own. Any other tag, and a tag after a backtick, is plain text.
- Accepted variants: several objects or a list in one tag, a fence around them, a closing tag inside a string, `parameters`
  for `arguments`, arguments as the text of a JSON object, and null or no arguments for a tool without parameters.
- Everything else is a `MalformedCall`. The student reads its complaint.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from sod.types import MalformedCall, ToolCall

CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"
THOUGHT_OPEN, THOUGHT_CLOSE = "<think>", "</think>"
CALL_HELP = (
    f'Write {CALL_OPEN}{{"name": "TOOL", "arguments": {{...}}}}{CALL_CLOSE} '
    "with valid JSON between the tags and try again."
)
COMPLAINT = re.compile(rf"Malformed tool call: (?:[^<>]*|no {CALL_CLOSE} at its end)\. {re.escape(CALL_HELP)}")
"""Pattern of every message that a student can read about a malformed call."""

_TAG = re.compile(rf"{THOUGHT_OPEN}|{THOUGHT_CLOSE}|(?<!`){CALL_OPEN}")
_ATTEMPT = re.compile(r"[\w\\]|\s*(?:[{\[]|```|<function)")
_ALONE = re.compile(rf"[ \t]*(?:\n|\Z)|(?:[^<]|<(?!/?tool_call>))*{CALL_CLOSE}[ \t]*(?:\n|<|\Z)")
_SPACE = re.compile(r"\s*")
_FENCE = re.compile(r"\s*(?:```\w*\s*)?")
_CLOSE = re.compile(rf"\s*(?:```\s*)?{CALL_CLOSE}")
_DECODER = json.JSONDecoder(strict=False)  # accepts raw line breaks inside strings
_BESIDE = {"id", "type"}
"""Keys of a call that are unrelated to its arguments."""


@dataclass(frozen=True, slots=True)
class _Block:
    """One pair of tags and the calls in it."""

    start: int
    end: int
    calls: list[ToolCall | MalformedCall]


def parse_calls(text: str) -> list[ToolCall | MalformedCall]:
    """Return the calls in a turn's text, in order. Malformed calls contain the reason."""
    return [call for block in _blocks(text) for call in block.calls]


def words_and_calls(text: str) -> tuple[str, list[ToolCall]] | None:
    """Return the text before a turn's calls, and the calls. None if one is malformed, or text is between or after them."""
    blocks = _blocks(text)
    calls = [call for block in blocks for call in block.calls if isinstance(call, ToolCall)]
    if not calls or len(calls) < sum(len(block.calls) for block in blocks):
        return None
    ends = [block.end for block in blocks]
    between = [text[end:start] for end, start in zip(ends, [*(b.start for b in blocks[1:]), len(text)], strict=True)]
    return None if "".join(between).strip() else (text[: blocks[0].start], calls)


def without_calls(text: str) -> str:
    """Return a turn's text without its calls, well-formed or malformed."""
    blocks = _blocks(text)
    starts, ends = [block.start for block in blocks], [block.end for block in blocks]
    return "".join(text[end:start] for end, start in zip([0, *ends], [*starts, len(text)], strict=True))


def _blocks(text: str) -> list[_Block]:
    blocks: list[_Block] = []
    last_close = text.rfind(CALL_CLOSE)
    thinking, at = False, 0
    while tag := _TAG.search(text, at):
        at = tag.end()
        if tag[0] == THOUGHT_CLOSE:
            thinking = False
            blocks.clear()
        elif tag[0] == THOUGHT_OPEN:
            thinking = True
        elif not thinking and (_ATTEMPT.match(text, at) or _stands_alone(text, tag)):
            block = _read(text, tag, closed=at <= last_close)
            blocks.append(block)
            at = block.end
    return blocks


def _stands_alone(text: str, tag: re.Match[str]) -> bool:
    """Return whether the tag begins a line, and it or its closing tag ends one. Adjacent tags count as line ends."""
    before = text[max(0, tag.start() - 100) : tag.start()].rstrip(" \t")
    return before[-1:] in ("", "\n", ">") and _ALONE.match(text, tag.end()) is not None


def _read(text: str, tag: re.Match[str], *, closed: bool) -> _Block:
    """Return the block that the tag opens. A malformed block ends at its closing tag, or at the end of a thought."""
    at = tag.end()
    close = text.find(CALL_CLOSE, at) if closed else -1
    if not closed:
        end, reason = len(text), f"no {CALL_CLOSE} at its end"
    else:
        end, body = close + len(CALL_CLOSE), text[at:close]
        read = _values(text[at:end])
        reason = ""
        if read is None and (reason := _what_is_wrong(body)).startswith("invalid JSON (Unterminated"):
            read = _values(text[at:])  # the closing tag may be inside a string
        if read is not None:
            calls = [_call(value) for value in read[0]]
            wrong = [_malformed(each) for each in calls if isinstance(each, str)]
            formed = [each for each in calls if not isinstance(each, str)]
            return _Block(tag.start(), at + read[1], [wrong[0]] if wrong else [*formed])
    thought = text.find(THOUGHT_CLOSE, at, end)
    return _Block(tag.start(), end if thought < 0 else thought, [_malformed(reason)])


def _values(text: str) -> tuple[list[Any], int] | None:
    """Return the JSON values before the closing tag, with lists flattened, and the tag's end. None if there is other text."""
    values: list[Any] = []
    at = _skip(_FENCE, text, 0)
    try:
        while not (close := _CLOSE.match(text, at)):
            at = _skip(_SPACE, text, at)
            if values and not text.startswith(("{", "["), at):
                return None
            value, at = _DECODER.raw_decode(text, at)
            values += value if isinstance(value, list) and value else [value]
    except (ValueError, RecursionError):  # ValueError also for integers with thousands of digits
        return None
    return (values, close.end()) if values else None


def _skip(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at


def _what_is_wrong(body: str) -> str:
    try:
        _DECODER.decode(body)
    except json.JSONDecodeError as error:
        return f"invalid JSON ({error.msg})"
    except (ValueError, RecursionError):
        return "invalid JSON (too long a number or too deep a nesting)"
    return "invalid JSON"


def _malformed(reason: str) -> MalformedCall:
    return MalformedCall(complaint=f"Malformed tool call: {reason}. {CALL_HELP}")


def _call(call: Any) -> ToolCall | str:
    """Return the call in a JSON value, or the reason why it is malformed."""
    if not isinstance(call, dict) or "name" not in call:
        return '"name" or "arguments" is missing'
    key = next((key for key in ("arguments", "parameters") if key in call), None)
    if key is None and call.keys() - _BESIDE > {"name"}:
        return '"name" or "arguments" is missing'
    arguments = as_arguments(call[key]) if key else {}
    if not isinstance(call["name"], str) or arguments is None:
        return '"name" must be a string and "arguments" an object'
    return ToolCall(name=call["name"], arguments=arguments)


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
