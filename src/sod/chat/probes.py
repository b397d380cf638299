"""Conversations that are rendered to find out what a chat template does, and the parts of what it writes."""

from collections.abc import Sequence
from typing import Any

from sod.errors import TemplateError
from sod.types import Message, Schema, ToolCall

QUESTION, WORDS, NAME, PARAMETER = "PROBE-QUESTION?", "PROBE-WORDS", "probe_tool", "probe_key"
VALUE, RESULT, QUOTED = 'a "quoted" \\n\nline', "PROBE-RESULT-{}", ' a "quoted"\nline\n'
TOOL: Schema = {
    "type": "function",
    "function": {
        "name": NAME,
        "description": "A probe.",
        "parameters": {
            "type": "object",
            "properties": {
                PARAMETER: {"type": "string", "description": "A text."},
                "probe_count": {"type": "integer", "description": "A number."},
            },
            "required": [PARAMETER],
        },
    },
}
USER: Message = {"role": "user", "content": QUESTION}
ANSWERED: list[Message] = [USER, {"role": "assistant", "content": WORDS}]
CALLED = ToolCall(name=NAME, arguments={PARAMETER: VALUE, "probe_count": 7})
"""The call of the message CALL."""


def after_question(text: str) -> str:
    """Return the text after the probe's question."""
    return text.partition(QUESTION)[2]


def _call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


CALL: Message = {
    "role": "assistant",
    "content": WORDS,
    "tool_calls": [_call(NAME, probe_key=VALUE, probe_count=7)],
}


def ending_in_results(names: Sequence[str], kind: str) -> list[Message]:
    """Return a conversation that ends in results, in which a number stands for each text."""
    called = names if kind == "many" else names[:1]
    shown = names[:1] if kind == "joined" else names
    results = [{"role": "tool", "name": name, "content": RESULT.format(at)} for at, name in enumerate(shown)]
    return [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [_call(n, probe_key="1") for n in called]},
        *results,
    ]


def around_results(text: str, count: int) -> list[str]:
    """Return the parts of a text around the results of `ending_in_results`."""
    parts: list[str] = []
    for at in range(count):
        before, found, text = text.partition(RESULT.format(at))
        if not found:
            raise TemplateError(f"The chat template leaves out one of {count} results.")
        parts.append(before)
    return [*parts, text]


def message_with_calls(content: str, *values: str) -> Message:
    calls = [_call(NAME, probe_key=value) for value in values]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def _result(content: str) -> Message:
    return {"role": "tool", "name": NAME, "content": content}


def unchanging(calls: int, *, words: bool) -> list[list[Message]]:
    """Return conversations that a template must not change. `calls` limits the calls of a turn; `words`: text before them."""
    results = [_result(" 2"), _result("error: x < 3 && y > 4")]
    thinking = "<think>\nHm.\n</think>\n\nLet me see." if words else ""
    question: Message = {"role": "user", "content": "A question?"}
    return [
        [
            question,
            message_with_calls("Let me see." if words else "", 'a "quoted"\nline'),
            _result("1\n"),
            message_with_calls("", *("é", "2")[:calls]),
            *results[:calls],
            {"role": "assistant", "content": "So it is \\boxed{2}."},
        ],
        [
            question,
            message_with_calls(thinking, "1"),
            _result("1\n"),
            {"role": "assistant", "content": "<think>\nAh.\n</think>\n\nSo it is \\boxed{1}."},
        ],
    ]
