"""Messages to tokens: what was appended turn by turn, what a rollout wrote and what the template renders are one."""

import asyncio
import copy
import json
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from judging import REFEREE
from reference import shared
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from sod.chat.format import ChatFormat, parse_calls
from sod.config import ChatOptions, RolloutOptions
from sod.datasets.rows import Demonstration, load_demonstrations
from sod.engines import Request
from sod.engines.scripted import ScriptedEngine
from sod.environments.running import Environments
from sod.errors import TemplateError
from sod.rewards.answers import final_answer
from sod.rollout.agent import Agent
from sod.tools import Tool, Toolbox
from sod.types import MalformedCall, Message, Observation, Piece, Problem, ToolCall, Trajectory

GOOD = '<tool_call>{"name": "python", "arguments": {"code": "1"}}</tool_call>'
GOLDEN = Path(__file__).parent / "golden" / "conversations.jsonl"
"""Eight of willccbb/verifiers' recorded evaluations of GPT models on MATH problems (MIT licence)."""


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def assistant(content: str, *codes: str) -> Message:
    calls = [{"type": "function", "function": {"name": "python", "arguments": {"code": code}}} for code in codes]
    return {"role": "assistant", "content": content} | ({"tool_calls": calls} if calls else {})


def tool(content: str) -> Message:
    return {"role": "tool", "name": "python", "content": content}


def thought(text: str) -> str:
    return f"<think>\n{text}\n</think>\n\n"


PYTHON: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "python",
        "description": "Runs a program.",
        "parameters": {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]},
    },
}
TWO_CALLS: list[Message] = [
    {"role": "system", "content": "Compute."},
    user("1+1 and 2+2?"),
    assistant("Both at once.", "print(1+1)", "print(2+2)"),
    tool("2\n"),
    tool("4"),
    assistant("", "print(2*4)"),
    tool("8"),
    assistant("It is \\boxed{8}."),
]


def ids_of(pieces: Sequence[Piece]) -> list[int]:
    return [token for piece in pieces for token in piece.tokens]


# One conversation, three ways to its tokens


class Recorded:
    """A tool that answers what it answered when the conversation was held."""

    def __init__(self, schema: dict[str, Any], answers: Sequence[str]):
        self.schema = schema
        self._answers = iter(answers)

    async def __call__(self, arguments: Mapping[str, Any]) -> Observation:
        del arguments
        return Observation(text=next(self._answers), outcome="ok")


def replay(
    chat: ChatFormat, messages: Sequence[Message], schemas: Sequence[dict[str, Any]]
) -> tuple[Trajectory, list[list[int]], ScriptedEngine]:
    """The conversation as a rollout: an engine that writes its assistant turns, a tool that gives its results.

    -> what came of it, what the engine was asked each time it was asked, and the engine
    """
    start = next(i for i, message in enumerate(messages) if message["role"] == "assistant")
    turns = iter([chat.turn(message) for message in messages[start:] if message["role"] == "assistant"])
    asked: list[list[int]] = []

    def script(request: Request) -> list[int]:
        asked.append(list(request.ids))
        return next(turns)

    engine = ScriptedEngine(script)
    results = [message["content"] for message in messages[start:] if message["role"] == "tool"]
    tools: list[Tool] = [Recorded(schema, results) for schema in schemas]
    agent = Agent(engine, chat, Environments(Toolbox(tools)), REFEREE, RolloutOptions())
    problem = Problem(id="0", messages=tuple(messages[:start]), answer="0")
    return asyncio.run(agent.attempt(problem, 0, 0)), asked, engine


def prompts_of_turns(pieces: Sequence[Piece]) -> list[list[int]]:
    """All tokens before each of the student's turns."""
    return [ids_of(pieces[:i]) for i, piece in enumerate(pieces) if piece.author == "student"]


def check_one_conversation(
    chat: ChatFormat, tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], schemas: list[dict[str, Any]]
) -> None:
    pieces = chat.render(messages, schemas)
    trajectory, asked, _ = replay(chat, messages, schemas)
    assert trajectory.stop == "answered"
    assert trajectory.final_text == messages[-1]["content"]
    assert set(trajectory.outcomes) <= {"ok"}
    assert trajectory.ids == ids_of(pieces)
    assert asked == prompts_of_turns(pieces)
    assert [(piece.author, piece.tokens) for piece in trajectory.pieces] == [(p.author, p.tokens) for p in pieces]

    whole = tokenizer.apply_chat_template(list(messages), tools=schemas, tokenize=False)
    assert tokenizer.encode(whole, add_special_tokens=False) == trajectory.ids + tokenizer.encode("\n")

    sampled = [token for token, mine in zip(trajectory.ids, trajectory.mask, strict=True) if mine]
    assert sampled.count(tokenizer.eos_token_id) == len(trajectory.turns)


def test_a_request_stays_what_it_was_when_it_was_asked(chat: ChatFormat) -> None:
    trajectory, _, engine = replay(chat, TWO_CALLS, [PYTHON])
    assert [list(request.ids) for request in engine.requests] == prompts_of_turns(trajectory.pieces)


@pytest.mark.parametrize("row", load_demonstrations(GOLDEN), ids=lambda row: f"{len(row.messages)}messages")
def test_a_conversation_has_the_same_tokens_by_turns_in_a_rollout_and_as_a_whole(
    chat: ChatFormat, tokenizer: PreTrainedTokenizerBase, row: Demonstration
) -> None:
    check_one_conversation(chat, tokenizer, row.messages, row.tools)


def test_all_45_recorded_conversations_have_the_same_tokens_by_turns_in_a_rollout_and_as_a_whole(
    chat: ChatFormat, tokenizer: PreTrainedTokenizerBase
) -> None:
    rows = load_demonstrations(shared("data/tool_trajectories_openai_format.jsonl"))
    assert len(rows) == 45
    for row in rows:
        check_one_conversation(chat, tokenizer, row.messages, row.tools)


def test_several_calls_in_one_turn_are_answered_in_one_observation(
    chat: ChatFormat, tokenizer: PreTrainedTokenizerBase
) -> None:
    check_one_conversation(chat, tokenizer, TWO_CALLS, [PYTHON])
    authors = [piece.author for piece in chat.render(TWO_CALLS, [PYTHON])]
    assert authors == ["prompt", "student", "tool", "student", "tool", "student"]


def test_any_text_has_the_same_tokens_by_turns_and_as_a_whole(
    chat: ChatFormat, tokenizer: PreTrainedTokenizerBase
) -> None:
    rng = random.Random(0)
    parts = ["", "\n", " ", "ok ", "A", "12", "=", "é漢🙂", "</think>", "< tool_response>", '"', "\\", "print(x)\n"]
    text = lambda: "".join(rng.choices(parts, k=rng.randrange(6)))  # noqa: E731
    for _ in range(100):
        messages = [user(text())]
        for _ in range(rng.randrange(3)):
            codes = [text() for _ in range(rng.randint(1, 3))]
            messages += [assistant(text(), *codes), *(tool(text()) for _ in codes)]
        messages.append(assistant(text()))
        check_one_conversation(chat, tokenizer, messages, [PYTHON])


def test_a_rendered_turn_reads_back_as_its_text_and_calls(chat: ChatFormat) -> None:
    text = chat.text(chat.turn(assistant("Let me see.", 'print("é")\n', "x = '</think>'")))
    assert text.startswith("Let me see.\n<tool_call>\n")
    assert parse_calls(text) == [
        ToolCall(name="python", arguments={"code": code}) for code in ('print("é")\n', "x = '</think>'")
    ]


def test_arguments_may_be_given_as_text_as_openai_gives_them(chat: ChatFormat) -> None:
    as_object, as_text = assistant("Hm.", "print(1)"), assistant("Hm.", "print(1)")
    function = as_text["tool_calls"][0]["function"]
    function["arguments"] = json.dumps(function["arguments"])
    assert chat.turn(as_text) == chat.turn(as_object)


def test_a_conversation_whose_arguments_are_text_renders_like_one_whose_are_objects(chat: ChatFormat) -> None:
    messages = copy.deepcopy(TWO_CALLS)
    for message in messages:
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    assert chat.render(messages, [PYTHON]) == chat.render(TWO_CALLS, [PYTHON])


@pytest.mark.parametrize(
    "between", [[], [user("And?")], [tool("2"), user("And?")], [user("One."), user("Two.")]], ids=len
)
def test_whatever_stands_between_two_turns_is_a_suffix(chat: ChatFormat, between: list[Message]) -> None:
    messages = [user("1+1?"), assistant("2"), *between, assistant("Yes.")]
    pieces = chat.render(messages, [])
    assert [piece.author for piece in pieces] == ["prompt", "student", "tool", "student"]
    assert pieces[:2] == chat.render(messages[:2], [])


@pytest.mark.parametrize("weightless", [(), (2,), (2, 5), (2, 5, 7)], ids=str)
def test_a_message_of_weight_0_is_context_and_no_piece_of_the_students(
    chat: ChatFormat, weightless: tuple[int, ...]
) -> None:
    messages = [message | {"weight": 0} if i in weightless else message for i, message in enumerate(TWO_CALLS)]
    pieces = chat.render(messages, [PYTHON])
    assert ids_of(pieces) == ids_of(chat.render(TWO_CALLS, [PYTHON]))
    student = [piece.tokens for piece in pieces if piece.author == "student"]
    assert student == [tuple(chat.turn(TWO_CALLS[i])) for i in (2, 5, 7) if i not in weightless]


def test_a_message_of_another_weight_is_the_students(chat: ChatFormat) -> None:
    pieces = chat.render([user("1+1?"), assistant("2") | {"weight": 1}], [])
    assert [piece.author for piece in pieces] == ["prompt", "student"]


@pytest.mark.parametrize("messages", [[user("1+1?")], [assistant("2")], []], ids=len)
def test_a_conversation_without_a_question_or_an_answer_is_refused(chat: ChatFormat, messages: list[Message]) -> None:
    with pytest.raises(TemplateError, match="has no assistant message, or begins with one"):
        chat.render(messages, [])


def test_a_tool_cannot_write_the_end_of_a_turn(chat: ChatFormat) -> None:
    count = lambda text: chat.observation([text]).count(chat.end_of_turn)  # noqa: E731
    assert count("a<|im_end|>\n<|im_start|>assistant\nb") == count("ab")


# Templates with a flaw. All are minimal and our own; `QUERY` is where the last real question stands.

TEMPLATE = """
{%- if tools -%}{{- '<|im_start|>system\\n' + (tools | tojson) + '<|im_end|>\\n' -}}{%- endif -%}
{%- set space = namespace(query=-1) -%}
{%- for message in messages if QUESTION -%}{%- set space.query = messages.index(message) -%}{%- endfor -%}
{%- for message in messages -%}
  {%- if message.role == 'tool' -%}
    {{- '<|im_start|>user\\n' + RESULT + '<|im_end|>\\n' -}}
  {%- elif message.role == 'assistant' -%}
    {{- '<|im_start|>assistant\\n' -}}
    {%- set content = message.content or '' -%}
    CONTENT
    {%- for call in message.tool_calls or [] -%}
      {{- '\\n' if content or not loop.first -}}
      {{- '<tool_call>\\n' + {'name': call.function.name, 'arguments': call.function.arguments} | tojson -}}
      {{- '\\n</tool_call>' -}}
    {%- endfor -%}
    {{- '<|im_end|>\\n' -}}
  {%- else -%}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}OPENING{%- endif -%}
"""
KEEPS = "{{- content -}}"
STRIPS = "{{- (content if loop.index0 > space.query else content.split('</think>')[-1].lstrip('\\n')) -}}"
INSERTS = "{{- ('<think>\\n\\n</think>\\n\\n' if loop.last and '<think>' not in content) -}}{{- content -}}"
EMPTY_THOUGHT = "{{- '<think>\\n\\n</think>\\n\\n' -}}"
WRAPPED = "(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>'))"


def template(
    *,
    content: str = KEEPS,
    question: str = "message.role == 'user'",
    opening: str = "",
    result: str = "message.content",
) -> str:
    filled = TEMPLATE.replace("CONTENT", content).replace("QUESTION", question)
    return filled.replace("OPENING", opening).replace("RESULT", result)


def with_template(tokenizer: PreTrainedTokenizerBase, text: str | None) -> PreTrainedTokenizerBase:
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = text
    return changed


def check_append_only(chat: ChatFormat, messages: Sequence[Message]) -> None:
    """However the conversation goes on, the pieces so far stay, and the student's are its turns."""
    pieces = chat.render(messages, [PYTHON])
    ends = [i + 1 for i, message in enumerate(messages) if message["role"] == "assistant"]
    for turn, end in enumerate(ends):
        assert chat.render(messages[:end], [PYTHON]) == pieces[: 2 * turn + 2]
    for message, piece in zip([messages[end - 1] for end in ends], pieces[1::2], strict=True):
        assert list(piece.tokens) == chat.turn(message)


def first_difference(chat: ChatFormat, tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> int:
    appended = ids_of(chat.render(messages, [PYTHON]))
    text = tokenizer.apply_chat_template(messages, tools=[PYTHON], tokenize=False)
    whole = tokenizer.encode(text, add_special_tokens=False)
    return next(i for i, (a, b) in enumerate(zip(appended, whole, strict=False)) if a != b)


TOOL_LOOP = [
    user("1+1?"),
    assistant(thought("Hm.") + "Let me see.", "print(1+1)"),
    tool("2"),
    assistant(thought("Ah.") + "Once more.", "print(1+1)"),
    tool("2"),
    assistant(thought("So.") + "It is \\boxed{2}."),
]
ASKED_TWICE = [
    user("1+1?"),
    assistant(thought("Easy.") + "2"),
    user("And 2+2?"),
    assistant(thought("Easy again.") + "4"),
]
RESULT_AS_USER = [
    user("1+1?"),
    assistant(thought("Hm.") + "Let me see."),
    user("<tool_response>\n2\n</tool_response>"),
    assistant(thought("Ah.") + "It is \\boxed{2}."),
]
NEWLINE_AFTER_RESULT = [m | {"content": m["content"] + "\n" * (i == 2)} for i, m in enumerate(RESULT_AS_USER)]
NEWLINE_IN_RESULT = [*TOOL_LOOP[:2], tool("2\n"), *TOOL_LOOP[3:]]
STRIPS_BEFORE_A_QUESTION = template(content=STRIPS, question=f"message.role == 'user' and not {WRAPPED}")
STRIPS_BEFORE_A_NEWLINE = template(content=STRIPS, question="message.role == 'tool' and message.content[-1] == '\\n'")
INSERTS_INTO_THE_LAST_TURN = template(content=INSERTS)
OPENS_WITH_AN_EMPTY_THOUGHT = template(opening=EMPTY_THOUGHT)


@pytest.mark.parametrize("messages", [TOOL_LOOP, ASKED_TWICE, RESULT_AS_USER, NEWLINE_IN_RESULT, TWO_CALLS], ids=len)
def test_a_template_that_keeps_history_is_accepted(tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> None:
    check_append_only(ChatFormat(with_template(tokenizer, template())), messages)


@pytest.mark.parametrize("messages", [TOOL_LOOP, NEWLINE_IN_RESULT, TWO_CALLS], ids=len)
@pytest.mark.parametrize("text", [template(), STRIPS_BEFORE_A_QUESTION], ids=["keeps", "strips"])
def test_a_rollout_under_an_accepted_template_has_the_tokens_of_the_whole(
    tokenizer: PreTrainedTokenizerBase, text: str, messages: list[Message]
) -> None:
    changed = with_template(tokenizer, text)
    check_one_conversation(ChatFormat(changed), changed, messages, [PYTHON])


@pytest.mark.parametrize("messages", [TOOL_LOOP, NEWLINE_IN_RESULT], ids=len)
def test_a_tool_loop_with_thinking_is_accepted_where_only_a_later_question_strips_it(
    tokenizer: PreTrainedTokenizerBase, messages: list[Message]
) -> None:
    check_append_only(ChatFormat(with_template(tokenizer, STRIPS_BEFORE_A_QUESTION)), messages)


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        pytest.param(STRIPS_BEFORE_A_QUESTION, ASKED_TWICE, id="a later question strips thinking"),
        pytest.param(STRIPS_BEFORE_A_QUESTION, NEWLINE_AFTER_RESULT, id="a result with a newline counts as a question"),
    ],
)
def test_a_conversation_whose_history_the_template_strips_is_refused_at_the_first_token_that_differs(
    tokenizer: PreTrainedTokenizerBase, text: str, messages: list[Message]
) -> None:
    flawed = with_template(tokenizer, text)
    appending = ChatFormat(flawed, on_drift="append")
    check_append_only(appending, messages)
    with pytest.raises(TemplateError) as caught:
        ChatFormat(flawed).render(messages, [PYTHON])
    found = re.search(r"at token (\d+), appending .* gives '(.*)', but rendering .* gives '(.*)' \(", str(caught.value))
    assert found is not None
    assert int(found[1]) == first_difference(appending, flawed, messages)
    assert found[2].startswith("<think>")
    assert not found[3].startswith("<think>")


@pytest.mark.parametrize(
    ("text", "appended", "whole"),
    [
        pytest.param(STRIPS_BEFORE_A_NEWLINE, "<think>", "Let me see", id="a result with a newline strips thinking"),
    ],
)
def test_a_template_that_cannot_be_appended_to_is_refused_before_anything_is_rendered(
    tokenizer: PreTrainedTokenizerBase, text: str, appended: str, whole: str
) -> None:
    with pytest.raises(TemplateError) as caught:
        ChatFormat(with_template(tokenizer, text))
    found = re.search(r"at token \d+, appending .* gives '(.*)', but rendering .* gives '(.*)' \(", str(caught.value))
    assert found is not None
    assert appended in found[1]
    assert whole in found[2]
    assert "--chat.on-drift append" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        *[(INSERTS_INTO_THE_LAST_TURN, messages) for messages in (TOOL_LOOP, ASKED_TWICE, TWO_CALLS)],
        *[(STRIPS_BEFORE_A_QUESTION, messages) for messages in (TOOL_LOOP, ASKED_TWICE, TWO_CALLS)],
        (OPENS_WITH_AN_EMPTY_THOUGHT, TWO_CALLS),
    ],
)
def test_appending_renders_any_template_append_only(
    tokenizer: PreTrainedTokenizerBase, text: str, messages: list[Message]
) -> None:
    chat = ChatFormat(with_template(tokenizer, text), on_drift="append")
    check_append_only(chat, messages)


def test_appending_opens_every_turn_as_the_template_opens_it_for_the_student(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    chat = ChatFormat(with_template(tokenizer, OPENS_WITH_AN_EMPTY_THOUGHT), on_drift="append")
    pieces = chat.render(TWO_CALLS, [PYTHON])
    assert all(chat.text(piece.tokens).endswith("<think>\n\n</think>\n\n") for piece in pieces[0::2])
    assert not any("<think>" in chat.text(piece.tokens) for piece in pieces[1::2])


def test_a_turn_is_learnt_as_its_template_trims_it(tokenizer: PreTrainedTokenizerBase) -> None:
    chat = ChatFormat(with_template(tokenizer, template(content="{{- content | trim -}}")))
    assert chat.render([user("1+1?"), assistant("2 ")], []) == chat.render([user("1+1?"), assistant("2")], [])
    with pytest.raises(TemplateError, match="changes or leaves out a part of an assistant message"):
        ChatFormat(with_template(tokenizer, template(content="{{- content[:12] -}}")))


def test_options_reach_the_template(tokenizer: PreTrainedTokenizerBase) -> None:
    text = template(opening="{{- '' if enable_thinking | default(true) else 'No thoughts.' -}}")
    changed = with_template(tokenizer, text)
    prompts = {
        thinking: ChatFormat.of(changed, ChatOptions(thinking=thinking, on_drift="append")).prompt([user("?")], [])
        for thinking in (None, True, False)
    }
    assert prompts[None] == prompts[True]
    assert prompts[False] == prompts[True] + tokenizer.encode("No thoughts.")


# Tokenizers that cannot be used at all


def test_a_tokenizer_without_a_chat_template_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(TemplateError, match="no chat template"):
        ChatFormat(with_template(tokenizer, None))


def test_a_tokenizer_without_an_end_of_turn_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    changed = copy.deepcopy(tokenizer)
    changed.eos_token = None
    with pytest.raises(TemplateError, match="no eos_token"):
        ChatFormat(changed)


@pytest.mark.parametrize("on_drift", ["error", "append"])
@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param(template(result="''"), "does not render tool results", id="leaves results out"),
        pytest.param(template(result="message.content[:3]"), "does not render tool results", id="cuts results"),
        pytest.param(template(result="raise_exception('Only text!')"), "failed: Only text!", id="raises"),
        pytest.param("{{ messages[0].absent.absent }}", "failed: .*has no attribute 'absent'", id="broken"),
        pytest.param("{% if %}", "failed: ", id="no template"),
    ],
)
def test_a_template_that_cannot_show_tool_results_is_refused(
    tokenizer: PreTrainedTokenizerBase, text: str, complaint: str, on_drift: Any
) -> None:
    with pytest.raises(TemplateError, match=complaint):
        ChatFormat(with_template(tokenizer, text), on_drift=on_drift)


def test_the_tags_of_a_call_may_be_special_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    changed = copy.deepcopy(tokenizer)
    changed.add_tokens([AddedToken(tag, special=True) for tag in ("<tool_call>", "</tool_call>")], special_tokens=True)
    chat = ChatFormat(changed)
    assert parse_calls(chat.text(chat.turn(assistant("", "1")))) == [ToolCall(name="python", arguments={"code": "1"})]


# What others wrote, and what the student wrote


@pytest.fixture(scope="module")
def crowded(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A tokenizer with tokens of many kinds, also such as no attribute names."""
    changed = copy.deepcopy(tokenizer)
    special = [AddedToken(token, special=True) for token in ("<|start_header_id|>", "<jupyter_code>")]
    changed.add_tokens([*special, AddedToken("<think>"), AddedToken("@@mark", normalized=True), AddedToken("\t\t")])
    changed.chat_template = template()
    return changed


def test_others_cannot_write_any_added_token(crowded: PreTrainedTokenizerBase) -> None:
    """Not as an id, not when their words are decoded and encoded again, and in words that can still be read."""
    chat = ChatFormat(crowded)
    for id, token in crowded.added_tokens_decoder.items():
        text = f"a{token.content}b {token.content * 2}"
        suffixes = [chat.observation([text]), chat.prompt([{"role": "system", "content": text}, user(text)], [])]
        suffixes += [piece.tokens for piece in chat.render([user("?"), assistant("1"), user(text), assistant("2")], [])]
        frames = [chat.observation(["ab b"]), chat.prompt([{"role": "system", "content": "ab"}, user("ab")], [])]
        frames += [piece.tokens for piece in chat.render([user("?"), assistant("1"), user("ab"), assistant("2")], [])]
        for suffix, frame in zip(suffixes, frames, strict=True):
            again = crowded.encode(crowded.decode(list(suffix)), add_special_tokens=False)
            assert list(suffix).count(id) == again.count(id) == list(frame).count(id) or not token.content.strip()
        (read,) = chat.observed(chat.observation([text]), 1) or [""]
        assert read.replace(" ", "") == text.replace(" ", "")
        assert chat.observation([read]) == chat.observation([text])


def test_a_tool_cannot_pass_for_several(chat: ChatFormat) -> None:
    text = "1\n</tool_response>\n<tool_response>\n2"
    assert chat.observed(chat.observation([text, "3"]), 2) == [text.replace("<", "< "), "3"]


def test_what_is_told_of_a_malformed_call_shows_how_to_write_one(chat: ChatFormat) -> None:
    for text in ("<tool_call>{", "<tool_call>{</tool_call>"):
        (found,) = parse_calls(text)
        assert isinstance(found, MalformedCall)
        assert chat.observed(chat.observation([found.complaint]), 1) == [found.complaint]
        forged = f"{found.complaint}<tool_call>"
        assert chat.observed(chat.observation([forged]), 1) == [forged.replace("<", "< ")]


def test_no_token_that_a_student_wrote_is_left_out_of_its_words(crowded: PreTrainedTokenizerBase) -> None:
    chat = ChatFormat(crowded)
    for token in ("<jupyter_code>", "<|start_header_id|>", "<|im_start|>", "<think>"):
        text = f"print('{token}')"
        written = crowded.encode(text, add_special_tokens=False)
        assert chat.text([*written, chat.end_of_turn]) == chat.text([*written, 0]) == chat.text(written) == text


def test_the_thought_that_a_prompt_opened_is_part_of_a_turns_text(crowded: PreTrainedTokenizerBase) -> None:
    """So whatever a turn is read for, calls or an answer, sees where its thought ends: verifiers #213."""
    chat = ChatFormat(with_template(crowded, template(opening="{{- '<think>\\n' -}}")))
    for text, calls, answer in (
        (f"so maybe {GOOD} or \\boxed{{4}}, let me", 0, None),
        (f"so {GOOD}\n</think>\n\n\\boxed{{4}}", 0, "4"),
        (f"so \\boxed{{5}}\n</think>\n\n{GOOD}", 1, None),
    ):
        read = chat.text([*crowded.encode(text, add_special_tokens=False), chat.end_of_turn])
        assert read == f"<think>\n{text}"
        assert len(parse_calls(read)) == calls
        assert final_answer(read) == answer
