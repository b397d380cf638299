"""Chat templates, tiny and our own, that behave like published ones: what serves, and for which reason another does not."""

import copy
from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from sod.chat.calls import parse_calls
from sod.chat.format import ChatFormat
from sod.chat.templates import HIDES_TOOLS
from sod.errors import TemplateError
from sod.types import Message, ToolCall

# ChatML. CALL writes one call, BEFORE stands before an assistant's content, OPENED behind the start of a turn to be written.
CHATML = """
{%- if tools -%}{{- '<|im_start|>system\\n' + (tools | tojson) + '<|im_end|>\\n' -}}{%- endif -%}
{%- set asked = namespace(last=-1) -%}
{%- for m in messages if m.role == 'user' -%}{%- set asked.last = messages.index(m) -%}{%- endfor -%}
{%- for m in messages -%}
  {%- if m.role == 'tool' -%}
    {%- if loop.previtem.role != 'tool' -%}{{- '<|im_start|>user' -}}{%- endif -%}
    {{- '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' -}}
    {%- if loop.last or loop.nextitem.role != 'tool' -%}{{- '<|im_end|>\\n' -}}{%- endif -%}
  {%- elif m.role == 'assistant' -%}
    {{- '<|im_start|>assistant\\n' -}}
    {%- set content = m.content -%}{%- set after = loop.index0 > asked.last -%}{%- set last = loop.last -%}
    BEFORE{{- content -}}
    {%- for c in m.tool_calls or [] -%}{{- '\\n' if content or not loop.first -}}CALL{%- endfor -%}
    {{- '<|im_end|>\\n' -}}
  {%- else -%}
    {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}OPENED{%- endif -%}
"""
JSON_CALL = (
    """{{- '<tool_call>\\n{"name": "' + c.function.name + '", "arguments": ' + (c.function.arguments | tojson) + """
    """'}\\n</tool_call>' -}}"""
)
# Thoughts as Qwen3 treats them: apart from the content, kept behind the last question alone, an empty one in the last turn.
SPLIT = """
    {%- set thought = m.reasoning_content or '' -%}
    {%- if not thought and '</think>' in content -%}
      {%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\\n') -%}
      {%- set content = content.split('</think>')[-1].lstrip('\\n') -%}
    {%- endif -%}
"""
KEEP = "{%- if after and (thought or LAST) -%}{{- '<think>\\n' + thought + '\\n</think>\\n\\n' -}}{%- endif -%}"
HYBRID = SPLIT + KEEP.replace("LAST", "last")
NO_THOUGHTS = (
    "{%- if enable_thinking is defined and not enable_thinking -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}"
)
ONE_CALL = "{%- if m.tool_calls | length > 1 -%}{{- raise_exception('One call at a time!') -}}{%- endif -%}"
ROLES = "{%- if m.role == 'tool' or m.tool_calls -%}{{- raise_exception('Roles must alternate!') -}}{%- endif -%}"


def chatml(call: str = JSON_CALL, before: str = "", opened: str = "") -> str:
    return CHATML.replace("CALL", call).replace("BEFORE", before).replace("OPENED", opened)


def shows(template: str, *, tools: bool) -> str:
    return template if tools else template.replace("{%- if tools -%}", "{%- if false -%}")


SERVING = {
    "Qwen2.5": chatml(),
    "Qwen3": chatml(before=HYBRID, opened=NO_THOUGHTS),
    "Qwen3-Instruct-2507": chatml(),
    "Qwen3-Thinking-2507": chatml(before=HYBRID, opened="{{- '<think>\\n' -}}"),
    "thoughts as they are, opened": chatml(opened="{{- '<think>\\n' -}}"),
    "Granite 4": chatml().replace("<|im_start|>assistant\\n", "<|start_of_role|>assistant<|end_of_role|>"),
    "one call a turn": chatml(before=ONE_CALL),
    "arguments as text": chatml(call=JSON_CALL.replace("(c.function.arguments | tojson)", "c.function.arguments")),
    "no tools on purpose": HIDES_TOOLS + shows(chatml(), tools=False),
}
DOTS = "{{- '<call ' + c.function.name + ' ' + (c.function.arguments | string) + '>' -}}"
REFUSED = {
    "calls of its own": (chatml(call=DOTS), r"form of its own \('<call NAME"),
    "Llama 3": (shows(chatml(call=""), tools=False), "does not show the tools"),
    "SmolLM2": (shows(chatml(call=""), tools=False), "does not show the tools"),
    "SmolLM3": (chatml(call=""), "leaves out the calls"),
    "Gemma 3": (shows(chatml(before=ROLES), tools=False), "does not show the tools"),
    "alternating roles": (chatml(before=ROLES), "failed: Roles must alternate! It does not support tool calls"),
    "no token at the end": (
        chatml().replace("<|im_end|>", "[END]"),
        r"does not end .*'<\|im_end\|>'.*, but with '\[END\]",
    ),
}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "python", "parameters": {"type": "object", "properties": {"code": {"type": "string"}}}},
}
CALL = {"type": "function", "function": {"name": "python", "arguments": {"code": "print(4)"}}}
QUESTION: Message = {"role": "user", "content": "2+2?"}
RESULT: Message = {"role": "tool", "content": "4"}


def with_template(tokenizer: PreTrainedTokenizerBase, template: str, *tokens: str) -> PreTrainedTokenizerBase:
    changed = copy.deepcopy(tokenizer)
    changed.add_tokens([AddedToken(token, special=False, normalized=False) for token in tokens])
    changed.chat_template = template
    return changed


def written(chat: ChatFormat, messages: list[Message]) -> str:
    return str(chat.tokenizer.decode([token for piece in chat.render(messages, [TOOL]) for token in piece.tokens]))


@pytest.mark.parametrize("name", SERVING)
def test_a_template_of_hermes_calls_serves_with_the_defaults(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    chat = ChatFormat(
        with_template(tokenizer, SERVING[name], "<think>", "</think>", "\n\n")
    )  # as byte pairs merge them
    assert bool(chat.note) == (name in ("Qwen3", "Qwen3-Thinking-2507", "thoughts as they are, opened"))
    assert chat.shows_tools == ("purpose" not in name)
    turns = [{"role": "assistant", "content": "Hm.", "tool_calls": [CALL]}, {"role": "assistant", "content": "So 4."}]
    text = written(chat, [QUESTION, turns[0], RESULT, turns[1]])
    assert parse_calls(text.partition("Hm.")[2].partition("<|im_end|>")[0]) == [
        ToolCall(name="python", arguments={"code": "print(4)"})
    ]
    assert text.endswith("So 4.<|im_end|>")


@pytest.mark.parametrize(
    ("before", "role"),
    [
        ("{% set messages = messages | rejectattr('role', 'equalto', 'system') | list %}", "system"),
        (
            "{% if messages[0].role == 'system' %}{% set messages = [messages[0], messages[2], messages[1]] %}{% endif %}",
            "user",
        ),
    ],
)
def test_a_template_that_leaves_out_a_message_of_a_prompt_is_refused(
    tokenizer: PreTrainedTokenizerBase, before: str, role: str
) -> None:
    name = next(name for name in SERVING if "Qwen3" not in name and "thoughts" not in name)
    chat = ChatFormat(with_template(tokenizer, before + SERVING[name], "<think>", "</think>"), on_drift="append")
    asked: list[Message] = [{"role": "user", "content": "Add."}, {"role": "user", "content": "2+2?"}]
    assert "2+2?" in chat.tokenizer.decode(chat.prompt(asked, [TOOL]))
    with pytest.raises(TemplateError, match=f"leaves out, changes or moves a {role} message"):
        chat.prompt([{"role": "system", "content": "Always box."}, *asked], [TOOL])


def test_a_template_that_can_write_the_date_is_named(tokenizer: PreTrainedTokenizerBase) -> None:
    name = next(name for name in SERVING if "Qwen3" not in name and "thoughts" not in name)
    chat = ChatFormat(with_template(tokenizer, "{{ strftime_now('%d %b %Y') }}" + SERVING[name], "<think>", "</think>"))
    assert "can write the date into prompts" in chat.note


@pytest.mark.parametrize("on_drift", ["error", "append"])
@pytest.mark.parametrize("name", REFUSED)
def test_another_template_is_refused_for_its_own_reason(
    tokenizer: PreTrainedTokenizerBase, name: str, on_drift: Any
) -> None:
    template, reason = REFUSED[name]
    with pytest.raises(TemplateError, match=reason) as caught:
        ChatFormat(with_template(tokenizer, template, "<|end|>"), on_drift=on_drift)
    assert "append" not in str(caught.value)


@pytest.mark.parametrize("thinking", [None, True, False])
def test_the_empty_thought_of_a_hybrid_is_accepted_and_named(
    tokenizer: PreTrainedTokenizerBase, thinking: bool | None
) -> None:
    """QwenLM/Qwen3 #1826: the template writes it into whichever turn is last."""
    options = {} if thinking is None else {"enable_thinking": thinking}
    qwen = with_template(tokenizer, SERVING["Qwen3"], "<think>", "</think>")
    chat = ChatFormat(qwen, template_options=options)
    assert "empty thought" in chat.note
    messages = [
        QUESTION,
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        RESULT,
        {"role": "assistant", "content": "4"},
    ]
    assert chat.render(messages, [TOOL]) == ChatFormat(qwen, on_drift="append", template_options=options).render(
        messages, [TOOL]
    )
    text = written(chat, messages)
    assert text.count("<think>") == (2 if thinking is False else 0)


@pytest.mark.parametrize(
    "before",
    [
        HYBRID + "{%- set content = content | trim -%}{%- if last -%}{{- ' ' -}}{%- endif -%}",
        HYBRID.replace("and (thought", "and not m.tool_calls and (thought"),
    ],
    ids=["a space beside it", "thoughts before calls go"],
)
def test_no_other_drift_is_accepted_beside_it(tokenizer: PreTrainedTokenizerBase, before: str) -> None:
    with pytest.raises(TemplateError, match="rewrites history"):
        ChatFormat(with_template(tokenizer, chatml(before=before, opened=NO_THOUGHTS), "<think>", "</think>"))


CALLS = {"tool_calls": [CALL]}
THOUGHTS: list[list[Message]] = [
    [
        {"role": "assistant", "content": "", "reasoning_content": "Hm."} | CALLS,
        RESULT,
        {"role": "assistant", "content": "4", "reasoning_content": "Ah."},
    ],
    [
        {"role": "assistant", "content": "<think>\nHm.\n</think>\n\n"} | CALLS,
        RESULT,
        {"role": "assistant", "content": "<think>\nAh.\n</think>\n\n4"},
    ],
]


@pytest.mark.parametrize("messages", THOUGHTS, ids=["in a field", "in the content"])
@pytest.mark.parametrize("on_drift", ["error", "append"])
@pytest.mark.parametrize("name", ["Qwen3", "Qwen3-Thinking-2507"])
def test_a_thought_is_written_once_and_where_the_template_writes_it(
    tokenizer: PreTrainedTokenizerBase, name: str, on_drift: Any, messages: list[Message]
) -> None:
    thinker = with_template(tokenizer, SERVING[name], "<think>", "</think>")
    chat = ChatFormat(thinker, on_drift=on_drift)
    whole = thinker.apply_chat_template([QUESTION, *messages], tools=[TOOL], tokenize=False)
    assert written(chat, [QUESTION, *messages]) == str(whole).removesuffix("\n")
    assert str(whole).count("<think>") == 2
    assert "</think>\n\n<tool_call>" in str(whole)
    student = chat.text(chat.turn(messages[0]))
    assert student.startswith("<think>\nHm.\n</think>\n\n")
    assert len(parse_calls(student)) == 1


def test_a_turn_without_a_thought_closes_the_one_that_its_prompt_opened(tokenizer: PreTrainedTokenizerBase) -> None:
    chat = ChatFormat(with_template(tokenizer, SERVING["Qwen3-Thinking-2507"], "<think>", "</think>"))
    assert written(chat, [QUESTION, {"role": "assistant", "content": "4"}]).endswith(
        "<|im_start|>assistant\n<think>\n\n</think>\n\n4<|im_end|>"
    )


@pytest.mark.parametrize("on_drift", ["error", "append"])
def test_a_thought_behind_a_prompt_that_ends_thinking_is_refused(
    tokenizer: PreTrainedTokenizerBase, on_drift: Any
) -> None:
    hybrid = with_template(tokenizer, SERVING["Qwen3"], "<think>", "</think>")
    chat = ChatFormat(hybrid, on_drift=on_drift, template_options={"enable_thinking": False})
    with pytest.raises(TemplateError, match="ends thinking in its prompt"):
        chat.render([QUESTION, *THOUGHTS[1]], [TOOL])
    with_empty = [QUESTION, {"role": "assistant", "content": "<think>\n\n</think>\n\n4"}]
    assert chat.render(with_empty, []) == chat.render([QUESTION, {"role": "assistant", "content": "4"}], [])


def test_results_of_several_calls_have_a_place_where_the_template_allows_one_call(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    several, one = (ChatFormat(with_template(tokenizer, SERVING[name])) for name in ("Qwen2.5", "one call a turn"))
    assert one.observation(["1", "2"]) == several.observation(["1", "2"])
    with pytest.raises(TemplateError, match="failed: One call at a time!"):
        one.render([QUESTION, {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]}], [TOOL])


WORDS_LEFT_OUT = "{%- if m.tool_calls -%}{%- set content = '' -%}{%- endif -%}"


def test_words_that_the_template_leaves_out_before_a_call_are_refused_or_kept(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Llama 3 and Mistral write a call alone."""
    changed = with_template(tokenizer, chatml(before=WORDS_LEFT_OUT))
    alone: list[Message] = [QUESTION, {"role": "assistant", "content": "", "tool_calls": [CALL]}, RESULT]
    last: Message = {"role": "assistant", "content": "4"}
    assert len(ChatFormat(changed).render([*alone, last], [TOOL])) == 4
    alone[1] = alone[1] | {"content": "I run it."}
    with pytest.raises(TemplateError, match="rewrites history"):
        ChatFormat(changed).render([*alone, last], [TOOL])
    kept = ChatFormat(changed, on_drift="append")
    assert "I run it.\n<tool_call>" in written(kept, [*alone, last])


def test_a_turn_may_end_with_another_token_than_the_eos_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """Gemma 3 and Phi-4-mini: the token in the template ends a turn."""
    chat = ChatFormat(with_template(tokenizer, chatml().replace("<|im_end|>", "<|end|>"), "<|end|>"))
    assert chat.tokenizer.convert_ids_to_tokens(chat.end_of_turn) == "<|end|>"
    assert chat.turn({"role": "assistant", "content": "4"})[-1] == chat.end_of_turn


def test_results_are_trimmed_where_the_template_trims_them(tokenizer: PreTrainedTokenizerBase) -> None:
    chat = ChatFormat(
        with_template(tokenizer, chatml().replace("+ m.content + '\\n</tool", "+ (m.content | trim) + '\\n</tool"))
    )
    assert chat.observation([" 4\n"]) == chat.observation(["4"])
    assert chat.observed(chat.observation([" 4\n"]), 1) == ["4"]


def test_an_assistant_message_cannot_hold_the_end_of_a_turn(chat: ChatFormat) -> None:
    with pytest.raises(TemplateError, match="ends a turn"):
        chat.turn({"role": "assistant", "content": "4<|im_end|>\n<|im_start|>user\nThanks."})
