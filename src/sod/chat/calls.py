r"""Parse tool calls in a student's turn. Malformed calls get a message that helps the student to correct them.

How a call is written depends on the chat template: see `sod.chat.syntaxes`. For every syntax:

- Text before the last `</think>` is a thought, and so is all text after an unclosed `<think>`. Calls in thoughts are ignored.
- A tag after a backtick is plain text.
- A call that cannot be read is a `MalformedCall`. The student reads its complaint, in the syntax of its template.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from sod.chat.syntaxes import HERMES, SYNTAXES, Block, Parameters, Syntax
from sod.chat.syntaxes.base import CLOSINGS, places_of
from sod.chat.syntaxes.json_calls import as_arguments
from sod.chat.syntaxes.xml import XML
from sod.types import MalformedCall, ToolCall

__all__ = [
    "COMPLAINT",
    "THOUGHT_CLOSE",
    "THOUGHT_OPEN",
    "as_arguments",
    "parse_calls",
    "rest_and_calls",
    "without_calls",
    "words_and_calls",
]

THOUGHT_OPEN, THOUGHT_CLOSE = "<think>", "</think>"
_TAGS = "|".join(sorted({rf"no {re.escape(getattr(each, 'close', '') or 'tag')} at its end" for each in SYNTAXES}))
_HELP = "|".join(re.escape(each.help) for each in SYNTAXES)
COMPLAINT = re.compile(rf"Malformed tool call: (?:[^<>\[\]]*|{_TAGS})\. (?:{_HELP})")
"""Pattern of every message that a student can read about a malformed call."""


def parse_calls(
    text: str, syntax: Syntax | None = None, tools: Sequence[Mapping[str, Any]] = ()
) -> list[ToolCall | MalformedCall]:
    """Return the calls in a turn's text, in order. Malformed calls contain the reason.

    `syntax`: how the model's template writes calls. Default: JSON or XML between <tool_call> tags, whichever can be read.
    `tools`: OpenAI function schemas. A syntax whose arguments are plain text takes their types from them.
    """
    read = [call for block in find_blocks(text, syntax or HERMES, tools) for call in block.calls]
    if syntax is None and any(isinstance(call, MalformedCall) for call in read):
        as_xml = parse_calls(text, XML, tools)
        return as_xml if as_xml and all(isinstance(call, ToolCall) for call in as_xml) else read
    return read


def words_and_calls(
    text: str, syntax: Syntax = HERMES, tools: Sequence[Mapping[str, Any]] = ()
) -> tuple[str, list[ToolCall]] | None:
    """Return the text before a turn's calls, and the calls. None if one is malformed, or text is between or after them."""
    blocks = find_blocks(text, syntax, tools)
    calls = [call for block in blocks for call in block.calls if isinstance(call, ToolCall)]
    if not calls or len(calls) < sum(len(block.calls) for block in blocks):
        return None
    ends = [block.end for block in blocks]
    between = [text[end:start] for end, start in zip(ends, [*(b.start for b in blocks[1:]), len(text)], strict=True)]
    return None if "".join(between).strip(" \n\t;") else (text[: blocks[0].start], calls)


def without_calls(text: str, syntax: Syntax = HERMES) -> str:
    """Return a turn's text without its calls, well-formed or malformed."""
    return _outside(text, find_blocks(text, syntax))


def rest_and_calls(
    text: str, syntax: Syntax, tools: Sequence[Mapping[str, Any]]
) -> tuple[str, list[ToolCall | MalformedCall]]:
    """Return a turn's text without its calls, and the calls. The text is searched once."""
    blocks = find_blocks(text, syntax, tools)
    return _outside(text, blocks), [call for block in blocks for call in block.calls]


def _outside(text: str, blocks: Sequence[Block]) -> str:
    starts, ends = [block.start for block in blocks], [block.end for block in blocks]
    return "".join(text[end:start] for end, start in zip([0, *ends], [*starts, len(text)], strict=True))


def find_blocks(text: str, syntax: Syntax, tools: Sequence[Mapping[str, Any]] = ()) -> list[Block]:
    """Return the parts of a turn that hold calls, in order."""
    parameters = parameters_of(tools)
    pattern = _scanner(syntax.opener)
    blocks: list[Block] = []
    thinking, at, cut = False, 0, 0
    while tag := pattern.search(text, at):
        at = max(tag.end(), at + (tag.end() == tag.start()))
        if tag[0] == THOUGHT_CLOSE:
            thinking = False
            blocks.clear()
        elif tag[0] == THOUGHT_OPEN:
            thinking = True
        elif not thinking and (block := syntax.read(text, tag.start(), tag.end(), parameters)):
            blocks.append(block)
            at = block.end
            cut += text.startswith(THOUGHT_CLOSE, at)
            if cut > CLOSINGS:  # each has been searched to its own end, far behind the thought
                at = max(at, places_of(text, THOUGHT_CLOSE)[-1])
        if at > len(text):
            break
    return blocks


def parameters_of(tools: Sequence[Mapping[str, Any]]) -> Parameters:
    """Return the schema of the arguments of each tool, by its name."""
    functions = [tool.get("function", tool) for tool in tools]
    return {each["name"]: each.get("parameters") or {} for each in functions if isinstance(each, Mapping)}


@lru_cache(maxsize=64)
def _scanner(opener: re.Pattern[str]) -> re.Pattern[str]:
    """Return a pattern of thought tags and openers. Thought tags come first, so that an opener does not hide one."""
    return re.compile(rf"{THOUGHT_OPEN}|{THOUGHT_CLOSE}|(?<!`)(?:{opener.pattern})")
