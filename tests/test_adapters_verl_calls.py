"""verl's parser and the form of a template's calls. verl is not needed."""

from pathlib import Path

import pytest
from test_syntaxes import Chats
from transformers import PreTrainedTokenizerBase

from sod.adapters.verl_calls import check_calls
from sod.errors import OptionError


def test_a_template_with_hermes_calls_is_accepted(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    Chats(tokenizer)["hermes"].tokenizer.save_pretrained(tmp_path)
    assert check_calls(tmp_path, "hermes") == ""


@pytest.mark.parametrize("name", ["xml", "llama", "harmony"])
def test_another_form_is_refused_before_the_run(name: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    Chats(tokenizer)[name].tokenizer.save_pretrained(tmp_path)
    with pytest.raises(OptionError, match=rf"reads Hermes calls, but the chat template of .* in the form {name}"):
        check_calls(tmp_path, "hermes")


def test_what_cannot_be_checked_is_a_warning(tmp_path: Path) -> None:
    assert "not checked" in check_calls(tmp_path / "Qwen3", "hermes")
    assert "not tested with sod" in check_calls(tmp_path, "gpt-oss")
