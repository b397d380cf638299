"""Calls in what a student wrote: behind the last thought alone, read exactly or answered in words."""

import json
import re

import pytest

from sod.chat.calls import COMPLAINT, parse_calls, words_and_calls
from sod.chat.syntaxes import HERMES
from sod.types import MalformedCall, ToolCall


def call(body: str) -> str:
    return f"<tool_call>{body}</tool_call>"


GOOD = '{"name": "python", "arguments": {"code": "1"}}'
CODE_1 = ToolCall(name="python", arguments={"code": "1"})


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("It is \\boxed{1}.", []),
        ("", []),
        (call(GOOD), [CODE_1]),
        (call(f"\n{GOOD}\n"), [CODE_1]),
        (f"I run it. {call(GOOD)} And now?", [CODE_1]),
        (f"{call(GOOD)}\nand\n{call(GOOD)}", [CODE_1, CODE_1]),
        (call('{"arguments": {}, "name": "clock"}'), [ToolCall(name="clock", arguments={})]),
        (
            call('{"name": "f", "arguments": {"a": {"b": [1, null]}}, "id": 7}'),
            [ToolCall(name="f", arguments={"a": {"b": [1, None]}})],
        ),
        (
            call('{"name": "python", "arguments": {"code": "a = 1\nprint(a)\t"}}'),
            [ToolCall(name="python", arguments={"code": "a = 1\nprint(a)\t"})],
        ),
        (
            call('{"name": "python", "arguments": {"code": "print(\\"<tool_response>\\u00e9\\")"}}'),
            [ToolCall(name="python", arguments={"code": 'print("<tool_response>é")'})],
        ),
        (f"</tool_call> {call(GOOD)}", [CODE_1]),
    ],
)
def test_calls_are_read_in_order_out_of_any_text(text: str, calls: list[ToolCall]) -> None:
    assert parse_calls(text) == calls


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (call("{'name': 'python'}"), r"invalid JSON \(Expecting property name enclosed in double quotes\)"),
        (call('{"name": "python", "arguments": {"code": "1"}'), r"invalid JSON \(Expecting ',' delimiter\)"),
        (call(GOOD + "}"), r"invalid JSON \(Extra data\)"),
        (call(""), r"invalid JSON \(Expecting value\)"),
        (call('{"name": "f", "arguments": {"x": ' + "[" * 100_000 + "}}"), r"invalid JSON \(.*too deep a nesting\)"),
        (call('{"arguments": {"code": "1"}}'), '"name" or "arguments" is missing'),
        (call('{"name": "python", "code": "1"}'), '"name" or "arguments" is missing'),
        (call("[]"), '"name" or "arguments" is missing'),
        (call(f"{GOOD} and so on"), r"invalid JSON \(Extra data\)"),
        (call(f"{GOOD},"), r"invalid JSON \(Extra data\)"),
        (call("```json\n{\n```"), r"invalid JSON \("),
        (call("<function=python><parameter=code>1</parameter></function>"), r"invalid JSON \(Expecting value\)"),
        ("<tool_call>\nprint(1)\n</tool_call>", r"invalid JSON \(Expecting value\)"),
        ("I run it.\n<tool_call>\nprint(1)", "no </tool_call> at its end"),
        (call('{"name": 7, "arguments": {}}'), '"name"'),
        (call('{"name": "python", "arguments": "1"}'), '"arguments"'),
        (call("[1]"), '"name" or "arguments" is missing'),
        (call("null"), '"name" or "arguments" is missing'),
        ("<tool_call>" + GOOD, "no </tool_call> at its end"),
        ("<tool_call>", "no </tool_call> at its end"),
    ],
)
def test_a_call_that_is_none_says_why_and_how_to_write_one(text: str, complaint: str) -> None:
    (found,) = parse_calls(text, HERMES)
    assert isinstance(found, MalformedCall)
    assert re.match(f"Malformed tool call: .*{complaint}", found.complaint)
    assert '<tool_call>{"name": "TOOL", "arguments": {...}}</tool_call>' in found.complaint
    assert len(found.complaint) < 250
    assert COMPLAINT.fullmatch(found.complaint)


def test_without_a_syntax_json_and_xml_are_read_in_the_same_tags() -> None:
    xml = "<tool_call>\n<function=python>\n<parameter=code>\nprint(1)\n</parameter>\n</function>\n</tool_call>"
    assert parse_calls(xml) == [ToolCall(name="python", arguments={"code": "print(1)"})]
    assert isinstance(parse_calls(xml, HERMES)[0], MalformedCall)


@pytest.mark.parametrize("body", ['{"name": "python", "arguments": "print(1)"}', '{"name": 7, "arguments": {}}'])
def test_a_field_of_the_wrong_type_is_not_called_missing(body: str) -> None:
    (found,) = parse_calls(call(body))
    assert isinstance(found, MalformedCall)
    assert "missing" not in found.complaint


def test_a_number_of_thousands_of_digits_is_a_malformed_call() -> None:
    (found,) = parse_calls(call('{"name": "f", "arguments": {"x": ' + "7" * 5000 + "}}"))
    assert isinstance(found, MalformedCall)


def test_a_bad_call_between_good_ones_is_the_only_bad_one() -> None:
    found = parse_calls(call(GOOD) + call("{") + call(GOOD) + "<tool_call>")
    assert [type(each) for each in found] == [ToolCall, MalformedCall, ToolCall, MalformedCall]


def test_very_many_tags_are_read_in_no_time() -> None:
    assert len(parse_calls("<tool_call>" * 20_000)) == 1
    assert len(parse_calls(call("") * 20_000)) == 20_000


NESTED = json.dumps({"name": "python", "arguments": {"code": "s = '</tool_call>'"}})
TEXT = json.dumps({"name": "python", "arguments": '{"code": "1"}'})


@pytest.mark.parametrize(
    ("body", "calls"),
    [
        pytest.param(f"{GOOD}\n{GOOD}", [CODE_1, CODE_1], id="two objects"),
        pytest.param(f"[{GOOD}, {GOOD}]", [CODE_1, CODE_1], id="a list"),
        pytest.param(f"\n```json\n{GOOD}\n```\n", [CODE_1], id="a fence"),
        pytest.param(
            NESTED, [ToolCall(name="python", arguments={"code": "s = '</tool_call>'"})], id="closing tag in a string"
        ),
        pytest.param(TEXT, [CODE_1], id="arguments as text"),
        pytest.param(GOOD.replace("arguments", "parameters"), [CODE_1], id="parameters"),
        pytest.param('{"name": "now"}', [ToolCall(name="now", arguments={})], id="no arguments"),
        pytest.param('{"name": "now", "arguments": null}', [ToolCall(name="now", arguments={})], id="null"),
        pytest.param('{"name": "now", "arguments": ""}', [ToolCall(name="now", arguments={})], id="empty text"),
        pytest.param('{"id": 1, "type": "function", "name": "now"}', [ToolCall(name="now", arguments={})], id="an id"),
    ],
)
def test_what_can_be_meant_in_one_way_is_read_so(body: str, calls: list[ToolCall]) -> None:
    """Forms that public parsers have met: vLLM #45167 and #17790, LangChain #34190."""
    assert parse_calls(call(body)) == calls
    assert parse_calls(f"{call(body)}\n{call(GOOD)}") == [*calls, CODE_1]


@pytest.mark.parametrize(
    "text",
    [
        "I do not need <tool_call> here: 4",
        "The format is <tool_call></tool_call>, but this is easy: 4",
        "<tool_call> and </tool_call> are tags; 4",
        f"One writes `{call(GOOD)}` for that. It is 4",
        "Without `<tool_call>`: 4",
        "</tool_call> is not needed: 4",
    ],
)
def test_a_tag_among_words_is_a_word(text: str) -> None:
    assert parse_calls(text) == []


@pytest.mark.parametrize(
    ("thought", "closed"),
    [
        (f"I could {call(GOOD)}. No.", True),
        ("I could use <tool_call>.", True),
        ('I could <tool_call>{"name": "python"', True),
        (f"I could {call(NESTED)}.", True),
        (call("print('</think>')"), True),
        (f"First </think> then {call(GOOD)}", True),
        (f"I could {call(GOOD)}.", False),
    ],
)
@pytest.mark.parametrize("opened", [True, False])
def test_no_call_is_looked_for_in_a_thought(thought: str, closed: bool, opened: bool) -> None:
    """As in verl #4757: a call that is drafted in a thought is not one, also where the prompt has opened the thought."""
    if closed:
        before = ("<think>" if opened else "") + thought + "</think>"
        assert parse_calls(before + "\n\n4") == []
        assert parse_calls(f"{before}\n\n{call(GOOD)}") == [CODE_1]
    elif opened:
        assert parse_calls("<think>" + thought) == []


def test_a_turn_without_words_among_its_calls_is_taken_apart() -> None:
    draft = f"<think>\n{call(GOOD)}?\n</think>\n\n"
    assert words_and_calls(f"{draft}{call(GOOD)}\n{call(GOOD)}") == (draft, [CODE_1, CODE_1])
    for text in ("4", f"{call(GOOD)} And now?", f"{call(GOOD)} and {call(GOOD)}", call("{")):
        assert words_and_calls(text) is None


@pytest.mark.parametrize("part", ["<tool_call>{</think>", '<tool_call>{"a":"</tool_call>', "<think>", "<tool_call> x"])
def test_any_text_is_read_in_no_time(part: str) -> None:
    parse_calls(part * 20_000)
