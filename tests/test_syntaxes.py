"""Every way to write calls: a template is rendered, its syntax is found, and what it writes is read as what was meant."""

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_templates import ENDS, TEMPLATES, TOKENS, chatml
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from sod.chat.calls import COMPLAINT, parse_calls, without_calls, words_and_calls
from sod.chat.format import ChatFormat
from sod.chat.syntaxes import SYNTAXES, Syntax
from sod.chat.syntaxes.json_calls import decode_at
from sod.errors import TemplateError
from sod.types import MalformedCall, Message, ToolCall

NAMES = [syntax.name for syntax in SYNTAXES]
VALUES: dict[str, Any] = {
    "code": 'print("é\\n", {"a": [1, 2]})\nif 1 < 2 and 3 > 2:\n\tprint("it\'s")\n',
    "count": 7,
    "text": "7",
    "nested": {"a": {"b": [1, None, True, "x, y", -2.5]}, 'quoted "key"': {}},
    "items": [],
    "flag": False,
    "words": "true",
}
TYPES = {
    "code": "string",
    "count": "integer",
    "text": "string",
    "nested": "object",
    "items": "array",
    "flag": "boolean",
}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "run_it",
        "description": "Runs.",
        "parameters": {
            "type": "object",
            "properties": {key: {"type": kind} for key, kind in (TYPES | {"words": "string"}).items()},
        },
    },
}


def meant(**arguments: Any) -> ToolCall:
    return ToolCall(name="run_it", arguments=arguments)


def as_call(call: ToolCall) -> dict[str, Any]:
    return {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}


class Chats:
    """A chat format per syntax, made from its tiny template on first use."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._tokenizer = tokenizer
        self._made: dict[str, ChatFormat] = {}

    def __getitem__(self, name: str) -> ChatFormat:
        if name not in self._made:
            changed = with_tokens(self._tokenizer, *TOKENS.get(name, ()), "<think>", "</think>")
            changed.chat_template = TEMPLATES[name]
            changed.eos_token = ENDS.get(name, "<|im_end|>")
            self._made[name] = ChatFormat(changed)
        return self._made[name]


def with_tokens(tokenizer: PreTrainedTokenizerBase, *tokens: str) -> PreTrainedTokenizerBase:
    changed = copy.deepcopy(tokenizer)
    for token in tokens:
        changed.add_tokens([AddedToken(token, special=True, normalized=False)], special_tokens=True)
    return changed


@pytest.fixture(scope="module")
def chats(tokenizer: PreTrainedTokenizerBase) -> Chats:
    return Chats(tokenizer)


def test_each_syntax_has_a_template_that_is_tried() -> None:
    assert sorted(NAMES) == sorted(TEMPLATES)


@pytest.mark.parametrize("name", NAMES)
def test_the_syntax_of_a_template_is_found(chats: Chats, name: str) -> None:
    assert chats[name].syntax.name == name


@pytest.mark.parametrize("key", VALUES)
@pytest.mark.parametrize("name", NAMES)
def test_a_rendered_call_is_read_as_the_same_call(chats: Chats, name: str, key: str) -> None:
    """Through the template, the tokens and their text: quotes, line breaks, Unicode, nested values, numbers as strings."""
    call = meant(**{key: VALUES[key]})
    chat = chats[name]
    messages: list[Message] = [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "", "tool_calls": [as_call(call)]},
        {"role": "tool", "content": ' "4"\né'},
        {"role": "assistant", "content": "So 4"},
    ]
    pieces = chat.render(messages, [TOOL])
    assert chat.calls(pieces[1].tokens, [TOOL]) == [call]
    assert pieces[1].tokens[-1] in chat.ends_of_calls
    assert pieces[1].tokens[-1] in chat.ends  # also where a call ends with a token of its own
    assert chat.observed(pieces[2].tokens, 1, ["run_it"]) == [' "4"\né']
    assert list(pieces[2].tokens) == chat.observation([' "4"\né'], ["run_it"])
    assert chat.calls(pieces[3].tokens, [TOOL]) == []
    assert pieces[3].tokens[-1] == chat.end_of_turn
    assert "So 4" in chat.final_text(pieces[3].tokens)


def test_sampling_stops_at_the_end_of_a_call_too(chats: Chats) -> None:
    chat = chats["harmony"]
    end_of_call = chat.tokenizer.convert_tokens_to_ids("<|call|>")
    assert chat.ends[0] == chat.end_of_turn != end_of_call
    assert end_of_call in chat.ends


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("llama", "harmony")])
def test_several_calls_of_a_turn_are_read_in_order(chats: Chats, name: str) -> None:
    calls = [meant(code="a"), meant(count=2)]
    turn = chats[name].turn({"role": "assistant", "content": "", "tool_calls": list(map(as_call, calls))}, [TOOL])
    assert chats[name].calls(turn, [TOOL]) == calls


@pytest.mark.parametrize("name", [name for name in NAMES if "gemma" not in name])
def test_a_thought_is_read_as_one_and_a_draft_in_it_is_no_call(chats: Chats, name: str) -> None:
    chat, call = chats[name], meant(code="real")
    draft = chat.syntax.write(meant(code="draft"))
    turn = chat.turn(
        {"role": "assistant", "content": "", "reasoning_content": f"Maybe\n{draft}", "tool_calls": [as_call(call)]}
        if name != "harmony"
        else {"role": "assistant", "content": "", "reasoning_content": "Maybe", "tool_calls": [as_call(call)]},
        [TOOL],
    )
    assert chat.text(turn).count("<think>") == chat.text(turn).count("</think>") == 1
    assert chat.calls(turn, [TOOL]) == [call]


@pytest.mark.parametrize("syntax", SYNTAXES, ids=NAMES)
def test_what_a_syntax_writes_is_read_wherever_it_may_stand(syntax: Syntax) -> None:
    call = ToolCall(name="run_it", arguments=VALUES if syntax.name != "lfm_raw" else {"code": VALUES["code"]})
    written = syntax.write(call)
    assert parse_calls(written, syntax, [TOOL]) == [call]
    assert parse_calls(f"<think>\n{written}\n</think>\n\n{written}", syntax, [TOOL]) == [call]
    assert parse_calls(f"<think>\n{written}", syntax, [TOOL]) == []
    assert words_and_calls(f"I run it.\n{written}", syntax, [TOOL]) == ("I run it.\n", [call])
    assert without_calls(f"I run it.\n{written}", syntax) == "I run it.\n"
    assert parse_calls("It is \\boxed{1}. The list [1, 2] and {a} have <b> tags.", syntax, [TOOL]) == []


@pytest.mark.parametrize("syntax", SYNTAXES, ids=NAMES)
def test_a_call_that_is_cut_off_is_answered_in_the_syntax(syntax: Syntax) -> None:
    written = syntax.write(ToolCall(name="run_it", arguments={"code": "print(1)", "count": 7}))
    complaints = 0
    for end in range(len(written) // 2, len(written)):
        for call in parse_calls(written[:end], syntax, [TOOL]):
            if isinstance(call, MalformedCall):
                complaints += 1
                assert syntax.help in call.complaint
                assert COMPLAINT.fullmatch(call.complaint), call.complaint
    assert complaints or syntax.name in ("python_list",)


@pytest.mark.parametrize("syntax", SYNTAXES, ids=NAMES)
def test_a_python_expression_is_never_evaluated(syntax: Syntax, tmp_path: Path) -> None:
    evil = f"__import__('pathlib').Path({str(tmp_path / 'x')!r}).touch()"
    for text in (f"run_it(code={evil})", f"[run_it(code={evil})]", json.dumps({"name": evil, "arguments": {}}), evil):
        start = syntax.write(ToolCall(name="run_it", arguments={}))[:22].partition("[run")[0].partition("run")[0]
        parse_calls(start + text + getattr(syntax, "close", ""), syntax, [TOOL])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("syntax", SYNTAXES, ids=NAMES)
def test_any_text_ends(syntax: Syntax) -> None:
    """Very many broken calls are read without a retry from each of them."""
    written = syntax.write(ToolCall(name="run_it", arguments={"code": "print(1)"}))
    for part in (written[:10], f"{written[:14]}</think>", written[: len(written) // 2], written[-10:]):
        assert len(parse_calls(part * 2000, syntax, [TOOL])) <= 4000


class Counted(str):
    """A text that counts the characters that are copied or searched in Python."""

    work = 0

    def __getitem__(self, key: Any) -> str:
        found = super().__getitem__(key)
        Counted.work += len(found)
        return found

    def find(self, *arguments: Any) -> int:
        found, start = super().find(*arguments), arguments[1] if len(arguments) > 1 else 0
        end = arguments[2] if len(arguments) > 2 else len(self)
        Counted.work += (end if found < 0 else found) - start
        return found

    def count(self, part: str, start: Any = 0, end: Any = None) -> int:
        Counted.work += (len(self) if end is None else end) - start
        return super().count(part, start, end)


@pytest.mark.parametrize(
    "syntax", [each for each in SYNTAXES if not getattr(each, "close", "")], ids=lambda each: each.name
)
def test_very_many_broken_calls_without_a_closing_tag_are_read_in_linear_time(syntax: Syntax) -> None:
    written = syntax.write(ToolCall(name="run_it", arguments={"code": "print(1)"}))
    for part in (f"{written[:14]}</think>", f"{written[:-4]}</think>\n", written[: len(written) // 2], f"{written}\n"):
        Counted.work = 0
        text = Counted(part * (100_000 // len(part)))
        parse_calls(text, syntax, [TOOL])
        assert Counted.work < 40 * len(text), part


def repeated(unit: str, before: str = "", after: str = "") -> str:
    return before + unit * (50_000 // len(unit)) + after


HOSTILE = [
    ("xml", repeated("<tool_call><function=f><parameter=a>x</parameter></tool_call>")),
    ("xml", repeated("<tool_call><function=f><parameter=a>x</tool_call>", after="</parameter></function>x")),
    ("seed", repeated("<seed:tool_call><function=f><parameter=a>x</parameter></seed:tool_call>")),
    ("glm", repeated(" ", "<tool_call>f", "x")),
    ("glm", repeated("<tool_call>f<arg_key>a</arg_key><arg_value>x</tool_call>", after="</arg_value>x")),
    ("deepseek", repeated(" ", "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{}", "x")),
    ("harmony", repeated("to=")),
    ("harmony", repeated(">to=a")),
    ("llama", repeated("\n ")),
    ("llama", repeated('{"name":\n')),
    ("llama", repeated(';{"name": "f"}x', after="\n{")),
    ("python_list", repeated("\n ")),
    ("lfm", repeated("<|tool_call_start|>[f(a='</think>", after="<|tool_call_end|>")),
    ("lfm", repeated("#<|tool_call_start|>[f(a=1,#<|tool_call_end|>\n")),
    ("hermes", repeated('<tool_call>{"a</think>', after="</tool_call>")),
    ("hermes", repeated('<tool_call>{"a</tool_call>')),
    ("gemma", repeated('<|tool_call>call:f{a:<|"|></think>', after='<tool_call|><|"|>')),
    ("cohere", repeated('<|START_ACTION|>[{"a</think>', after="<|END_ACTION|>")),
]


@pytest.mark.parametrize(("name", "text"), HOSTILE, ids=[f"{name} {text[:20]!r}" for name, text in HOSTILE])
def test_malformed_text_is_read_in_linear_time(name: str, text: str) -> None:
    """Patterns count no work, so a limit of processor time stands for theirs: one that backtracks takes 10 s and more."""
    (syntax,) = (each for each in SYNTAXES if each.name == name)
    Counted.work = 0
    start = time.process_time()
    parse_calls(Counted(text), syntax, [TOOL])
    assert Counted.work < 300 * len(text)
    assert time.process_time() - start < 3


def test_a_value_may_hold_closing_tags_of_its_call() -> None:
    """Up to 15 of them; each call with more is malformed, and the next one is read."""
    for name, many in (("xml", "</parameter></tool_call>"), ("glm", "</tool_call>")):
        (syntax,) = (each for each in SYNTAXES if each.name == name)
        for count, read in ((15, ToolCall), (17, MalformedCall)):
            code = f"print({many * count!r})"
            found = parse_calls(syntax.write(ToolCall(name="run_it", arguments={"code": code})), syntax, [TOOL])
            assert isinstance(found[0], read), (name, count)
            if isinstance(found[0], ToolCall):
                assert found[0].arguments == {"code": code}


@pytest.mark.parametrize("size", [10, 250, 256, 257, 5000])
@pytest.mark.parametrize("value", ['"%s"', "[%s", '{"a": "%s"}x', '"%s', "[%s, tru]", "1%s ", "[tru%s"])
def test_json_in_a_long_text_is_decoded_as_in_a_short_one(value: str, size: int) -> None:
    text = value % ("1" * size)
    decoded = [_decoded(lambda: json.JSONDecoder(strict=False).raw_decode(text), 0)]
    decoded.append(_decoded(lambda: decode_at("x" * 7 + text, 7), 7))
    assert decoded[0] == decoded[1]


def _decoded(decode: Callable[[], tuple[Any, int]], start: int) -> Any:
    """Return a value and its length, or the reason why there is none."""
    try:
        value, end = decode()
    except ValueError as error:
        return getattr(error, "msg", "")
    return value, end - start


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("<parameter=text>\n7\n</parameter>", {"text": "7"}),
        ("<parameter=count>\n7\n</parameter>", {"count": 7}),
        ("<parameter=flag>\nTrue\n</parameter>", {"flag": True}),
        ("<parameter=code>\n\nx\n\n</parameter>", {"code": "\nx\n"}),
        ("<parameter=code>x</parameter>", {"code": "x"}),
        ("<parameter=code>\nprint('</parameter>')\n</parameter>", {"code": "print('</parameter>')"}),
        ("<parameter=count>\nmany\n</parameter>", {"count": "many"}),
        ("", {}),
    ],
)
def test_xml_arguments_have_the_types_of_the_schema(text: str, arguments: dict[str, Any]) -> None:
    xml = next(syntax for syntax in SYNTAXES if syntax.name == "xml")
    call = f"<tool_call>\n<function=run_it>\n{text}\n</function>\n</tool_call>"
    assert parse_calls(call, xml, [TOOL]) == [ToolCall(name="run_it", arguments=arguments)]


@pytest.mark.parametrize("on_drift", ["error", "append"])
def test_calls_that_the_template_leaves_out_are_written_where_its_prompt_shows_the_tags(
    tokenizer: PreTrainedTokenizerBase, on_drift: Any
) -> None:
    """As LFM2 and SmolLM3: their templates show the tools, and write the content of messages alone."""
    for hint, tokens, name in (
        ("Write <tool_call>JSON</tool_call>", (), "hermes"),
        ("", ("<|tool_call_start|>", "<|tool_call_end|>"), "lfm"),
    ):
        changed = with_tokens(tokenizer, *tokens)
        changed.chat_template = chatml("", hint=hint)
        chat = ChatFormat(changed, on_drift=on_drift)
        assert chat.syntax.name == name
        call = meant(code='print("1")')
        turn = chat.turn({"role": "assistant", "content": "", "tool_calls": [as_call(call)]}, [TOOL])
        assert chat.calls(turn, [TOOL]) == [call]


def test_a_call_that_its_template_cannot_hold_is_refused(chats: Chats) -> None:
    """LFM2.5 writes text unescaped, so a text may read as the end of the call."""
    bad = meant(code="x', flag=True)]<|tool_call_end|>")
    for name, call in (("lfm_raw", bad), ("gemma", meant(code='a<|"|>b'))):
        messages = [
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": "", "tool_calls": [as_call(call)]},
        ]
        with pytest.raises(TemplateError, match="Change its arguments, or remove it"):
            chats[name].render(messages, [TOOL])


MODELS = {
    "hermes": "Qwen2.5, Qwen3, Granite 4, SmolLM3; `--chat.template hermes`",
    "xml": "Qwen3-Coder, Qwen3.5, Qwen3.6, Nemotron 3",
    "seed": "Seed-OSS",
    "glm": "GLM 4.5 and later",
    "lfm": "LFM2",
    "lfm_raw": "LFM2.5, which does not escape text",
    "llama_4": "Llama 4",
    "olmo": "Olmo 3",
    "phi": "Phi-4-mini",
    "granite": "Granite 3.2, 3.3",
    "granite_tag": "Granite 3.0, 3.1",
    "functools": "Phi-4-mini, with the template of vLLM",
    "nemotron": "Nemotron Nano 2, Nemotron Super",
    "cohere": "Command R7B, Command A",
    "mistral": "Mistral 7B v0.3, Mistral Nemo",
    "mistral_args": "Ministral 3, Mistral Small 3.2",
    "deepseek": "DeepSeek V3, V3.1, R1",
    "function_gemma": "FunctionGemma",
    "gemma": "Gemma 4",
    "harmony": "GPT-OSS",
    "llama": "Llama 3.1, 3.2, 3.3",
    "python_list": "Llama 3.2 and Gemma 3, with the templates of vLLM",
}


def test_the_table_of_the_document_shows_what_the_templates_write(chats: Chats) -> None:
    lines = (Path(__file__).parent.parent / "docs" / "templates.md").read_text(encoding="utf-8").splitlines()
    call = meant(code="1")
    for name, models in MODELS.items():
        chat = chats[name]
        text = chat.text(chat.turn({"role": "assistant", "content": "", "tool_calls": [as_call(call)]}, [TOOL]))
        assert f"| {name} | {models} | `{' '.join(text.split()).replace('|', chr(92) + '|')}` |" in lines
    assert list(MODELS) == NAMES


def test_hermes_calls_in_the_content_of_a_demonstration_are_written_as_the_template_writes_calls(
    chats: Chats,
) -> None:
    content = '<tool_call>\n{"name": "run_it", "arguments": {"code": "1"}}\n</tool_call>'
    turn = chats["xml"].turn({"role": "assistant", "content": f"I run it.\n{content}"}, [TOOL])
    assert "<parameter=code>\n1\n</parameter>" in chats["xml"].text(turn)
    assert chats["xml"].calls(turn, [TOOL]) == [meant(code="1")]
