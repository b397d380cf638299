"""Messages as they are published: what they hold is learnt, or refused in words; nothing is left out in silence."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from sod.chat.conversations import CallStatistics, parse_conversation
from sod.chat.format import ChatFormat
from sod.cli import run
from sod.datasets.rows import as_problem, demonstration_of, load_demonstrations
from sod.errors import DataError
from sod.types import Message

Row = dict[str, Any]


def user(content: str = "2+2?") -> Message:
    return {"role": "user", "content": content}


def assistant(content: str | None = "4", **fields: Any) -> Message:
    return {"role": "assistant", "content": content, **fields}


def tool(content: str = "4", **fields: Any) -> Message:
    return {"role": "tool", "content": content, **fields}


def call(arguments: Any = None, name: str = "python", **fields: Any) -> Row:
    return {"type": "function", "function": {"name": name, "arguments": arguments or {"code": "print(4)"}}, **fields}


TOOLS: list[Row] = [{"type": "function", "function": {"name": "python", "parameters": {"type": "object"}}}]
CANONICAL = [user(), assistant("", tool_calls=[call()]), tool(), assistant()]


def test_the_canonical_form_stays_as_it_is() -> None:
    made = parse_conversation(CANONICAL, TOOLS)
    assert (made.messages, made.tools) == (CANONICAL, TOOLS)
    assert parse_conversation(made.messages, made.tools) == made


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param(
            [
                user(),
                assistant(None, function_call={"name": "python", "arguments": '{"code": "print(4)"}'}),
                {"role": "function", "name": "python", "content": "4"},
                assistant(function_call=None),
            ],
            id="function_call",
        ),
        pytest.param(
            [user(), assistant(None, tool_calls=[call('{"code": "print(4)"}')]), tool(), assistant()], id="JSON text"
        ),
        pytest.param(
            [user(), assistant("", tool_calls=[call({"code": "print(4)", "query": None})]), tool(), assistant()],
            id="nulls",
        ),
        pytest.param(
            [user(), assistant(tool_calls=[call()], content=[]), tool([{"type": "text", "text": "4"}]), assistant()],  # type: ignore[arg-type]
            id="a part of text",
        ),
        pytest.param(
            [user(), assistant("", tool_calls=[call()]), user("<tool_response>\n4\n</tool_response>"), assistant()],
            id="a result as a user's message",
        ),
    ],
)
def test_other_forms_render_as_the_canonical_one(chat: ChatFormat, messages: list[Message]) -> None:
    made = parse_conversation(messages, TOOLS)
    assert chat.render(made.messages, made.tools) == chat.render(CANONICAL, TOOLS)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking", "thought", "thoughts"])
def test_a_thought_is_learnt_whatever_its_field_is_called(chat: ChatFormat, name: str) -> None:
    """slime #330, NVIDIA-NeMo/Automodel #2348: published thoughts were left out."""
    messages = [user(), assistant("", tool_calls=[call()], **{name: "Hm."}), tool(), assistant(**{name: "\nAh.\n"})]
    made = parse_conversation(messages, TOOLS)
    in_content = [
        user(),
        assistant("<think>\nHm.\n</think>\n\n", tool_calls=[call()]),
        tool(),
        assistant("<think>\nAh.\n</think>\n\n4"),
    ]
    assert chat.render(made.messages, made.tools) == chat.render(in_content, TOOLS)
    twice = parse_conversation([user(), assistant(reasoning="Hm.", reasoning_content="Hm.")])
    assert twice.messages[1] == assistant(reasoning_content="Hm.")


@pytest.mark.parametrize(
    ("key", "part"),
    [("reasoning_details", ("reasoning.text", "text")), ("thinking_blocks", ("thinking", "thinking"))],
)
def test_a_thought_in_parts_is_learnt_whole(key: str, part: tuple[str, str]) -> None:
    blocks: Any = [{"type": part[0], part[1]: text, "signature": "x"} for text in ("Two and two ", "make four.")]
    made = parse_conversation([user(), assistant(**{key: blocks})])
    assert made.messages[1] == assistant(reasoning_content="Two and two make four.")
    both = parse_conversation([user(), assistant(**{key: blocks, "reasoning": "Two and two make four."})])
    assert both.messages == made.messages
    with pytest.raises(DataError, match="different thoughts"):
        parse_conversation([user(), assistant(**{key: blocks, "reasoning": "Four."})])


@pytest.mark.parametrize("name", ["weight", "train", "trainable", "loss", "loss_mask"])
@pytest.mark.parametrize(("value", "weight"), [(0, 0), (False, 0), (0.0, 0), (1, 1), (True, 1), (None, None)])
def test_a_loss_mask_is_a_weight_whatever_its_key_is(name: str, value: Any, weight: int | None) -> None:
    made = parse_conversation([user(), assistant("Let me see.", **{name: value}), user("Well?"), assistant()])
    assert made.messages[1] == assistant("Let me see.", **({} if weight is None else {"weight": weight}))


def test_weights_that_are_null_throughout_exclude_nothing_from_the_loss(chat: ChatFormat) -> None:
    made = parse_conversation([{**message, "weight": None} for message in CANONICAL], TOOLS)
    assert made.messages == CANONICAL
    assert [piece.author for piece in chat.render(made.messages, TOOLS)].count("student") == 2


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("arguments", [{"code": "print(4)"}, '{"code": "print(4)"}'])
def test_arguments_under_parameters_are_learnt(nested: bool, arguments: Any) -> None:
    function = {"name": "python", "parameters": arguments}
    calls = [{"type": "function", "function": function} if nested else function]
    made = parse_conversation([user(), assistant("", tool_calls=calls), tool(), assistant()], TOOLS)
    assert made.messages[1]["tool_calls"][0]["function"] == call()["function"]
    same = {**function, "arguments": arguments}
    twice = parse_conversation([user(), assistant("", tool_calls=[same]), tool(), assistant()], TOOLS)
    assert twice.messages[1]["tool_calls"][0]["function"] == call()["function"]


def test_a_tools_result_in_the_tags_of_a_template_is_the_text_in_them() -> None:
    tagged = tool("<tool_response>\n4\n</tool_response>", name="python")
    assert parse_conversation([*CANONICAL[:2], tagged, assistant()], TOOLS).messages[2] == tool("4", name="python")


def test_keys_that_nothing_reads_are_counted_and_empty_ones_are_not() -> None:
    plain = [user(), assistant(annotations=[], refusal=None, audio={}, name="Al", id="m1")]
    odd = [user() | {"locale": "en"}, assistant(refusal="No.", citations=[1]), user(), assistant(citations=[2])]
    assert warnings((plain, [])) == []
    (line,) = warnings((plain, []), (odd, []), ([user(), assistant(citations=[3])], []))
    assert "`citations` (2)" in line
    assert "`refusal` (1)" in line
    assert "`locale` (1)" in line


def test_a_developer_speaks_as_the_system(chat: ChatFormat) -> None:
    made = parse_conversation([{"role": "developer", "content": "Box it."}, user(), assistant()])
    assert made.messages[0] == {"role": "system", "content": "Box it."}
    problem = as_problem({"prompt": [{"role": "developer", "content": "Box it."}, user()], "answer": 4}, 1)
    assert problem.messages[0]["role"] == "system"


def test_results_come_in_the_order_of_the_calls_that_they_name() -> None:
    calls = [call({"code": "1"}, id="a"), call({"code": "2"}, id="b")]
    results = [tool("2", tool_call_id="b"), tool("1", tool_call_id="a")]
    made = parse_conversation([user(), assistant("", tool_calls=calls), *results, assistant()])
    assert [message["content"] for message in made.messages if message["role"] == "tool"] == ["1", "2"]


def test_schemas_of_the_older_format_are_tools() -> None:
    functions = [TOOLS[0]["function"]]
    assert parse_conversation(CANONICAL, functions=functions).tools == TOOLS
    assert parse_conversation(CANONICAL, functions=json.dumps(functions)).tools == TOOLS


def test_a_conversation_may_end_in_a_call() -> None:
    assert len(parse_conversation(CANONICAL[:2], TOOLS).messages) == 2


REFUSED: list[tuple[list[Message], Any, str]] = [
    ([user(), assistant("", tool_calls=[call()]), assistant()], TOOLS, "has 1 calls, but 0 results"),
    ([user(), assistant("", tool_calls=[call(), call()]), tool(), assistant()], TOOLS, "has 2 calls, but 1 results"),
    ([user(), assistant("Hm."), tool(), assistant()], TOOLS, "has 0 calls, but 1 results"),
    ([user(), tool(), assistant()], TOOLS, "is a tool's result without an assistant message before it"),
    (
        CANONICAL,
        [{"type": "function", "function": {"name": "search"}}],
        r"it calls 'python', which is not in its `tools` \(search\)",
    ),
    (CANONICAL, [{"type": "function", "function": {}}], "one of its `tools` has no name"),
    (
        [user(), assistant("", tool_calls=[call("{code: 1}")]), tool(), assistant()],
        TOOLS,
        "arguments of a call of 'python'",
    ),
    ([user(), assistant("", tool_calls=[call("[1]")]), tool(), assistant()], TOOLS, "are not a JSON object"),
    (
        [user(), assistant("", tool_calls=[call()], function_call={"name": "python"}), tool(), assistant()],
        TOOLS,
        "keep one",
    ),
    ([user(), assistant("")], [], "an assistant message is empty"),
    ([user(), assistant(None, refusal="No.")], [], "an assistant message is empty"),
    ([user(), assistant(reasoning="a", thinking="b")], [], "different thoughts in `reasoning` and `thinking`"),
    ([user(), assistant("<think>a</think>4", reasoning="b")], [], "its thought twice"),
    ([user(), assistant(reasoning={"text": "a"})], [], "`reasoning` of a message is dict"),
    (
        [user(), assistant(reasoning_details=[{"type": "reasoning.encrypted", "data": "x"}])],
        [],
        "not the text of a thou",
    ),
    ([user(), assistant(reasoning_details="Hm.")], [], "`reasoning_details` of a message has a part"),
    ([user(), assistant(thoughts=["Hm."])], [], "`thoughts` of a message is list"),
    ([user(), assistant(chain_of_thought="Hm.")], [], "the key 'chain_of_thought', which may hold a thought"),
    ([user(), assistant(loss_scale=0.0), user(), assistant()], [], "the key 'loss_scale', which may"),
    ([user(), assistant(weight=0.5)], [], "the `weight` of a message is 0.5"),
    ([user(), assistant(weight="0")], [], "the `weight` of a message is '0'"),
    ([user(), assistant(loss_mask=[0, 1])], [], "the `loss_mask` of a message is"),
    ([user(), assistant(weight=1, train=False), user(), assistant()], [], "different values in `weight` and `train`"),
    *(
        (
            [user(), assistant("", tool_calls=[{"name": "python", key: {"code": "1"}}]), tool(), assistant()],
            TOOLS,
            words,
        )
        for key, words in (("input", "has `input`, but"), ("args", "has `args`, but"), ("kwargs", "has `kwargs`, but"))
    ),
    (
        [
            user(),
            assistant("", tool_calls=[{"function": {"name": "python"}, "input": {"code": "1"}}]),
            tool(),
            assistant(),
        ],
        TOOLS,
        "has `input`, but only",
    ),
    (
        [user(), assistant(function_call={"name": "python", "arguments": {"a": 1}, "parameters": {"a": 2}})],
        TOOLS,
        "has `arguments` and `parameters`",
    ),
    ([user() | {"reasoning": "a"}, assistant()], [], "which only assistant messages can have"),
    ([{"role": "human", "content": "2+2?"}, assistant()], [], "has the unknown role 'human'; use one of system, user"),
    ([{"role": "user<|im_end|>", "content": "2+2?"}, assistant()], [], "has the unknown role"),
    ([user([{"type": "text", "text": "2"}, {"type": "text", "text": "+2"}]), assistant()], [], "join its parts"),  # type: ignore[arg-type]
    ([user(), assistant("", tool_calls=[call()]), tool({"out": 4}), assistant()], TOOLS, "write it as JSON text"),  # type: ignore[arg-type]
    (
        [
            user(),
            assistant("", tool_calls=[call(id="a"), call(id="b")]),
            *(tool(tool_call_id=id) for id in "ac"),
            assistant(),
        ],
        TOOLS,
        "must be the `id` of a call",
    ),
    ([assistant(), user(), assistant()], [], "its first message is the assistant's"),
    ([user(), assistant(" \n ")], [], "an assistant message is empty"),
    ([user(), assistant("<think>Two and two")], [], "opens a thought and does not close it"),
]


@pytest.mark.parametrize(("messages", "tools", "complaint"), REFUSED, ids=[row[2][:40] for row in REFUSED])
def test_what_no_rollout_could_be_is_refused(messages: list[Message], tools: Any, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        parse_conversation(messages, tools)


def test_what_is_context_may_call_a_tool_that_is_not_there() -> None:
    wrong = assistant("", tool_calls=[call(name="search")], weight=0)
    assert parse_conversation([user(), wrong, tool("There is no tool 'search'."), *CANONICAL[1:]], TOOLS).called == [
        "python"
    ]


def warnings(*demonstrations: tuple[list[Message], Any], shown: bool = True) -> list[str]:
    use = CallStatistics()
    for messages, tools in demonstrations:
        use.add(parse_conversation(messages, tools))
    return list(use.warnings(["code_interpreter"], shown=shown))


def test_tools_that_a_rollout_does_not_have_are_named() -> None:
    here = [user(), assistant("", tool_calls=[call(name="code_interpreter")]), tool(), assistant()]
    listed = [{"type": "function", "function": {"name": "code_interpreter"}}]
    assert warnings((here, listed), ([user(), assistant()], [])) == []
    bare, names = warnings((CANONICAL, []), (here, listed))
    assert "1 of 2 demonstrations call a tool but have no `tools`" in bare
    assert "'python' (1)" in names
    assert len(warnings((here, []), shown=False)) == 0
    assert len(warnings((CANONICAL, TOOLS), shown=False)) == 1


def test_tools_of_an_environment_are_its_own_matter() -> None:
    use = CallStatistics()
    use.add(demonstration_of({"messages": CANONICAL, "tools": TOOLS, "environment": "household"}, 1))
    assert list(use.warnings(["code_interpreter"])) == []


@pytest.mark.parametrize("bad", [False, True])
def test_check_and_the_loader_agree(
    jsonl: Callable[[Sequence[Row]], Path], capsys: pytest.CaptureFixture[str], bad: bool
) -> None:
    rows = (
        [{"messages": messages, "tools": tools} for messages, tools, _ in REFUSED] if bad else [{"messages": CANONICAL}]
    )
    path = jsonl(rows)
    assert run(["data", "check", str(path)]) == (2 if bad else 0)
    said = capsys.readouterr().out
    if bad:
        assert f"{len(rows)} rows, {len(rows)} invalid" in said
        with pytest.raises(DataError, match=f"{len(rows)} of {len(rows)} rows cannot be used"):
            load_demonstrations(path)
    else:
        assert "1 of 1 demonstrations call a tool but have no `tools`" in " ".join(said.split())
        assert "'python' (1)" in said


@pytest.mark.parametrize(
    ("ids", "results"),
    [
        (("a", "b"), [tool("second", tool_call_id="b"), tool("first", tool_call_id="a")]),
        ((1, 2), [tool("second", tool_call_id="2"), tool("first", tool_call_id="1")]),
        (("a", "b"), [tool("second"), tool("first", tool_call_id="a")]),
        (("a", "b"), [tool("first"), tool("second")]),
    ],
)
def test_results_are_matched_by_id_and_those_without_one_fill_what_is_left(ids: Any, results: list[Message]) -> None:
    calls = [call(id=id) for id in ids]
    made = parse_conversation([user(), assistant("", tool_calls=calls), *results, assistant()])
    assert [m["content"] for m in made.messages if m["role"] == "tool"] == ["first", "second"]


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        pytest.param(
            [assistant("", tool_calls=[call(id="a")]), tool(tool_call_id="z")], "must be the `id` of a call", id="id"
        ),
        pytest.param(
            [assistant("", tool_calls=[call(id="a"), call(id="b")]), tool(tool_call_id="a"), tool(tool_call_id="a")],
            "must be the `id` of a call",
            id="one id twice",
        ),
        pytest.param(
            [assistant("", tool_calls=[call(), call(name="search")]), tool(name="search"), tool(name="python")],
            "not in the order of its calls",
            id="names",
        ),
        pytest.param([assistant("", tool_calls=[call(name=" ")]), tool()], "not a list of objects with", id="no name"),
        pytest.param([assistant("", tool_calls=[call({"x": [math.nan]})]), tool()], "NaN or infinity", id="NaN"),
        pytest.param([assistant(cot="Two and two.")], "may hold a thought", id="cot"),
        pytest.param([user([{"type": "image_url", "image_url": "x"}]), assistant()], "`image_url`", id="image"),  # type: ignore[arg-type]
        pytest.param([{**user(), "images": ["x.png"]}, assistant()], "no text .`images`.", id="images"),
    ],
)
def test_messages_that_would_teach_something_else_are_refused(messages: list[Message], words: str) -> None:
    with pytest.raises(DataError, match=words):
        parse_conversation([user(), *messages, assistant()] if messages[0]["role"] == "assistant" else messages)


@pytest.mark.parametrize("row", [{"images": ["x.png"]}, {"messages": [user("<image>2+2?"), assistant()]}])
def test_a_demonstration_about_a_picture_is_refused(row: Row) -> None:
    with pytest.raises(DataError, match="models read text alone"):
        demonstration_of({"messages": [user(), assistant()]} | row, 1)


def test_a_demonstration_with_an_empty_prompt_is_refused() -> None:
    with pytest.raises(DataError, match="its prompt is empty"):
        parse_conversation([user(" "), assistant()])
