"""Give a tokenizer the chat template of `chat.template`: a file of the user, or `hermes`, which is a part of this package.

`hermes` is for models whose own template shows no tools, and for models without a template. It surrounds each message with the
turn tokens that the tokenizer already has, so no embedding is added.
"""

import copy
import json
from collections.abc import Iterable
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from sod.config.chat import BUILT_IN_TEMPLATE as BUILT_IN
from sod.errors import OptionError

Turns = dict[str, tuple[str, str]]
"""By role: the text before a message, and the text after it."""


def _turns(opening: str, closing: str, assistant: str = "assistant") -> Turns:
    names = {"system": "system", "user": "user", "assistant": assistant}
    return {role: (opening.replace("ROLE", name), closing) for role, name in names.items()}


FAMILIES: tuple[tuple[str, Turns], ...] = (
    ("<|im_end|>", _turns("<|im_start|>ROLE\n", "<|im_end|>\n")),
    ("<|eot_id|>", _turns("<|start_header_id|>ROLE<|end_header_id|>\n\n", "<|eot_id|>")),
    ("<end_of_turn>", _turns("<start_of_turn>ROLE\n", "<end_of_turn>\n", assistant="model")),
    ("<turn|>", _turns("<|turn>ROLE\n", "<turn|>\n", assistant="model")),
    ("<|end_of_text|>", _turns("<|start_of_role|>ROLE<|end_of_role|>", "<|end_of_text|>\n")),
    ("<|end|>", _turns("<|ROLE|>", "<|end|>")),
    (
        "<｜end▁of▁sentence｜>",
        {
            "system": ("", "\n\n"),
            "user": ("<｜User｜>", ""),
            "assistant": ("<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
        },
    ),
)
"""The token that ends an assistant's turn, and the turns: ChatML, Llama 3, Gemma 3, Gemma 4, Granite, Phi, DeepSeek."""


def with_template(tokenizer: PreTrainedTokenizerBase, template: str) -> PreTrainedTokenizerBase:
    """Return a copy of the tokenizer with the template of `chat.template`. The given object is not changed.

    Raises OptionError for a file that cannot be read, and for a tokenizer without turn tokens.
    """
    made = copy.deepcopy(tokenizer)
    if template == BUILT_IN:
        made.eos_token, made.chat_template = _hermes(tokenizer)
    else:
        made.chat_template = _read(Path(template))
    return made


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(
            f"chat.template: {str(file)!r} cannot be read as a Jinja file ({error}). Type {BUILT_IN}, or the path of a chat "
            "template."
        ) from error


def _hermes(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """Return the token that ends a turn, and the template with the tokenizer's turn tokens."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    fitting = [(end, turns) for end, turns in FAMILIES if end in added and _has(added, turns, end)]
    if not fitting:
        tried = ", ".join(end for end, _ in FAMILIES)
        raise OptionError(
            f"chat.template: {BUILT_IN} does not fit the tokenizer of {tokenizer.name_or_path!r}, because it has none of the "
            f"known sets of turn tokens (those with {tried}). Write a template for its tokens, and type "
            "--chat.template FILE.jinja."
        )
    end, turns = next((each for each in fitting if each[0] == tokenizer.eos_token), fitting[0])
    begins = tokenizer.encode("x")[:1] == [tokenizer.bos_token_id] and str(tokenizer.bos_token) not in turns["user"][0]
    text = (Path(__file__).parent / "hermes.jinja").read_text(encoding="utf-8").rstrip("\n")
    return end, f"{{%- set turns = {json.dumps(turns)} -%}}{{%- set begin = {str(begins).lower()} -%}}\n{text}"


def _has(added: Iterable[str], turns: Turns, end: str) -> bool:
    """Return whether every opening of a user's and an assistant's turn begins with an added token."""
    return all(
        any(turns[role][0].startswith(token) for token in added if token != end) for role in ("user", "assistant")
    )
