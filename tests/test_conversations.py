"""Messages as they are published: what they hold is learnt, or refused in words; nothing is left out in silence."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from sod.chat.conversations import ToolUse, as_demonstration
from sod.chat.format import ChatFormat
from sod.cli import run
from sod.datasets.rows import as_problem, load_demonstrations
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
    made = as_demonstration(CANONICAL, TOOLS)
    assert (made.messages, made.tools) == (CANONICAL, TOOLS)
    assert as_demonstration(made.messages, made.tools) == made


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
    made = as_demonstration(messages, TOOLS)
    assert chat.render(made.messages, made.tools) == chat.render(CANONICAL, TOOLS)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_a_thought_is_learnt_whatever_its_field_is_called(chat: ChatFormat, name: str) -> None:
    """slime #330, NVIDIA-NeMo/Automodel #2348: published thoughts were left out."""
    messages = [user(), assistant("", tool_calls=[call()], **{name: "Hm."}), tool(), assistant(**{name: "\nAh.\n"})]
    made = as_demonstration(messages, TOOLS)
    in_content = [
        user(),
        assistant("<think>\nHm.\n</think>\n\n", tool_calls=[call()]),
        tool(),
        assistant("<think>\nAh.\n</think>\n\n4"),
    ]
    assert chat.render(made.messages, made.tools) == chat.render(in_content, TOOLS)
    twice = as_demonstration([user(), assistant(reasoning="Hm.", reasoning_content="Hm.")])
    assert twice.messages[1] == assistant(reasoning_content="Hm.")


def test_a_developer_speaks_as_the_system(chat: ChatFormat) -> None:
    made = as_demonstration([{"role": "developer", "content": "Box it."}, user(), assistant()])
    assert made.messages[0] == {"role": "system", "content": "Box it."}
    problem = as_problem({"prompt": [{"role": "developer", "content": "Box it."}, user()], "answer": 4}, 1)
    assert problem.messages[0]["role"] == "system"


def test_results_come_in_the_order_of_the_calls_that_they_name() -> None:
    calls = [call({"code": "1"}, id="a"), call({"code": "2"}, id="b")]
    results = [tool("2", tool_call_id="b"), tool("1", tool_call_id="a")]
    made = as_demonstration([user(), assistant("", tool_calls=calls), *results, assistant()])
    assert [message["content"] for message in made.messages if message["role"] == "tool"] == ["1", "2"]


def test_schemas_of_the_older_format_are_tools() -> None:
    functions = [TOOLS[0]["function"]]
    assert as_demonstration(CANONICAL, functions=functions).tools == TOOLS
    assert as_demonstration(CANONICAL, functions=json.dumps(functions)).tools == TOOLS


def test_a_conversation_may_end_in_a_call() -> None:
    assert len(as_demonstration(CANONICAL[:2], TOOLS).messages) == 2


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
]


@pytest.mark.parametrize(("messages", "tools", "complaint"), REFUSED, ids=[row[2][:40] for row in REFUSED])
def test_what_no_rollout_could_be_is_refused(messages: list[Message], tools: Any, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        as_demonstration(messages, tools)


def test_what_is_context_may_call_a_tool_that_is_not_there() -> None:
    wrong = assistant("", tool_calls=[call(name="search")], weight=0)
    assert as_demonstration([user(), wrong, tool("There is no tool 'search'."), *CANONICAL[1:]], TOOLS).called == [
        "python"
    ]


def warnings(*demonstrations: tuple[list[Message], Any], shown: bool = True) -> list[str]:
    use = ToolUse()
    for messages, tools in demonstrations:
        use.add(as_demonstration(messages, tools))
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
        assert f"{len(rows)} rows, {len(rows)} bad" in said
        with pytest.raises(DataError, match=f"{len(rows)} of {len(rows)} rows cannot be used"):
            load_demonstrations(path)
    else:
        assert "1 of 1 demonstrations call a tool but have no `tools`" in " ".join(said.split())
        assert "'python' (1)" in said
