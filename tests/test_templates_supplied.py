"""`chat.template`: a template with tools for a tokenizer without one, which every checkpoint stores."""

import copy
import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from sod.chat.format import ChatFormat
from sod.chat.supplied import FAMILIES
from sod.cli import run
from sod.config import ChatOptions
from sod.errors import OptionError, TemplateError
from sod.model.loading import load_tokenizer
from sod.runs.directory import Run
from sod.tools.python import interpreter_schema
from sod.types import Message

HERMES = ChatOptions(template="hermes")
CALL = {"type": "function", "function": {"name": "code_interpreter", "arguments": {"code": 'print("é")\n'}}}
CONVERSATION: list[Message] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "1+1?"},
    {"role": "assistant", "content": "I run it.", "reasoning_content": "Hm.", "tool_calls": [CALL, CALL]},
    {"role": "tool", "content": "é\n"},
    {"role": "tool", "content": "é"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "And 2+2?"},
    {"role": "assistant", "content": "4", "reasoning_content": "Easy."},
]


def bare(tokenizer: PreTrainedTokenizerBase, *tokens: str, eos: str = "<|im_end|>") -> PreTrainedTokenizerBase:
    """The lab's tokenizer with more tokens and without a template, as a base model's."""
    changed = copy.deepcopy(tokenizer)
    changed.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens], special_tokens=True)
    changed.chat_template = None
    changed.eos_token = eos
    return changed


@pytest.mark.parametrize("eos", ["<|im_end|>", "<|endoftext|>"])
def test_hermes_keeps_every_turn_of_a_conversation(tokenizer: PreTrainedTokenizerBase, eos: str) -> None:
    given = bare(tokenizer, eos=eos)
    chat = ChatFormat.of(given, HERMES)
    pieces = chat.render(CONVERSATION, [interpreter_schema()])
    text = str(chat.tokenizer.decode([token for piece in pieces for token in piece.tokens]))
    assert [piece.author for piece in pieces] == ["prompt", "student", "tool", "student", "tool", "student"]
    assert text.count("<think>") == 2
    assert "code_interpreter" in chat.text(pieces[0].tokens)
    assert given.chat_template is None, "the tokenizer is shared, so it must not change"
    assert given.eos_token == eos


@pytest.mark.parametrize(("end", "turns"), FAMILIES[1:], ids=[end for end, _ in FAMILIES[1:]])
def test_hermes_takes_the_turn_tokens_that_the_tokenizer_has(
    tokenizer: PreTrainedTokenizerBase, end: str, turns: dict[str, tuple[str, str]]
) -> None:
    tokens = [turns[role][0].strip() for role in ("user", "assistant")]
    if not tokens[0].startswith("<｜"):
        tokens = [*tokens, *(token for opening in tokens for token in (opening.partition(">")[0] + ">",))]
    chat = ChatFormat.of(bare(tokenizer, end, *tokens, eos=end), HERMES)
    prompt = chat.text(chat.prompt([{"role": "user", "content": "1+1?"}], [interpreter_schema()]))
    assert prompt.endswith(f"{turns['user'][0]}1+1?{turns['user'][1]}{turns['assistant'][0]}")
    assert chat.tokenizer.convert_ids_to_tokens(chat.end_of_turn) == end
    chat.render(CONVERSATION, [interpreter_schema()])


def test_a_tokenizer_without_turn_tokens_is_refused_in_words(tokenizer: PreTrainedTokenizerBase) -> None:
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend["added_tokens"] = [token for token in backend["added_tokens"] if "im_" not in token["content"]]
    changed = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(backend)), eos_token="<|endoftext|>"
    )
    with pytest.raises(OptionError, match=r"hermes does not fit .* turn tokens .*--chat\.template FILE\.jinja"):
        ChatFormat.of(changed, HERMES)


@pytest.mark.parametrize("name", ["Hermes", "missing.jinja", "."])
def test_a_template_that_is_no_file_is_refused(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    with pytest.raises(OptionError, match=r"chat\.template: .* cannot be read .* Type hermes, or the path"):
        ChatFormat.of(tokenizer, ChatOptions(template=name))


def test_a_users_file_replaces_the_template(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text(str(tokenizer.chat_template).replace("<tool_response>", "<answer>"))
    chat = ChatFormat.of(tokenizer, ChatOptions(template=str(tmp_path / "own.jinja")))
    assert "<answer>" in str(chat.tokenizer.decode(chat.observation(["4"])))
    assert "<answer>" not in str(tokenizer.chat_template)


def test_the_refusal_of_a_template_without_tools_names_the_option(tokenizer: PreTrainedTokenizerBase) -> None:
    silent = bare(tokenizer)
    for template in (None, "{% for m in messages %}{{ m.role + m.content + '<|im_end|>' }}{% endfor %}"):
        silent.chat_template = template
        with pytest.raises(TemplateError, match=r"--chat\.template hermes"):
            ChatFormat(silent, on_drift="append")


def test_a_cold_start_stores_the_template_with_its_checkpoint(
    untrained: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """So a model that was fine-tuned on it needs no option in `sod train`, `sod export` or vLLM."""
    model, data = tmp_path / "model", tmp_path / "data.jsonl"
    model.mkdir()
    for name in ("config.json", "model.safetensors"):
        (model / name).write_bytes((untrained / name).read_bytes())
    bare(tokenizer, eos="<|endoftext|>").save_pretrained(model)
    data.write_text(json.dumps({"messages": CONVERSATION, "tools": [interpreter_schema()]}) + "\n")
    command = ["sft", "--model", str(model), "--data", str(data), "--epochs", "1", "--out", str(tmp_path / "run")]
    assert run([*command, "--network.device", "cpu", "--chat.template", "hermes"]) == 0
    found = Run(tmp_path / "run").newest_checkpoint()
    assert found is not None
    stored = ChatFormat(load_tokenizer(found[1]))
    given = ChatFormat.of(load_tokenizer(model), HERMES)
    assert stored.render(CONVERSATION, [interpreter_schema()]) == given.render(CONVERSATION, [interpreter_schema()])
