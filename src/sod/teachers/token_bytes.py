"""The bytes of each token of a tokenizer."""

import json
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from sod.errors import ModelError

UNDERLINE = "▁"
"""SentencePiece's character for a space."""
BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
DECODERS = ("ByteLevel", "Replace", "ByteFallback", "Fuse", "Strip", "Metaspace")


class TokenBytes:
    """A function from token ids to the bytes of each. Supports byte-level BPE and SentencePiece.

    A special token, such as one that ends a turn, is a symbol and no text: it has one placeholder byte. A token without
    known bytes, such as <unk>, has none.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise ModelError(
                f"The tokenizer of {tokenizer.name_or_path!r} has no tokenizer.json, so the bytes of its tokens are unknown. "
                "Save it with Transformers' fast tokenizer class."
            )
        self.tokenizer = tokenizer
        parts = _parts(tokenizer)
        kinds = {str(part.get("type")) for part in parts}
        if not kinds & {"ByteLevel", "Replace", "Metaspace"} or not kinds <= set(DECODERS):
            raise ModelError(
                f"The tokenizer of {tokenizer.name_or_path!r} is neither byte-level BPE nor SentencePiece, so the bytes of its "
                f"tokens are unknown (its decoder: {', '.join(sorted(kinds)) or 'none'}). Choose another teacher, or one with "
                "the student's tokenizer."
            )
        self._is_byte_level = "ByteLevel" in kinds
        self._has_bytes = "ByteFallback" in kinds
        self._strips = any(
            part.get("type") == "Strip" or (part.get("type") == "Metaspace" and part.get("prepend_scheme") != "never")
            for part in parts
        )
        added = tokenizer.added_tokens_decoder
        self.symbols = {id: str(token.content) for id, token in added.items() if token.special}
        """Special tokens: id -> name."""
        self._added = {id: str(token.content) for id, token in added.items()}
        self.ids = {content: id for id, content in self._added.items()}
        """Added tokens: name -> id."""
        self._known: dict[int, bytes] = {}

    def __call__(self, ids: Sequence[int]) -> list[bytes]:
        """Return the bytes of each token of a text."""
        found = [self._bytes(id) for id in ids]
        if self._strips and found and ids[0] not in self._added and found[0].startswith(b" "):
            found[0] = found[0][1:]  # the space that the tokenizer puts before a text
        return found

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without tokens before or after it."""
        return self.tokenizer.encode(text, add_special_tokens=False, verbose=False)

    def check(self, text: str) -> None:
        """Raise ModelError unless the tokens of this text spell it."""
        spelt = b"".join(self(self.encode(text)))
        if spelt != text.encode():
            raise ModelError(
                f"The tokens of the tokenizer of {self.tokenizer.name_or_path!r} do not spell their text: of {text[:40]!r} they "
                f"keep {spelt[:40]!r}. It has no byte fallback, or changes texts. Choose another teacher, or one with the "
                "student's tokenizer."
            )

    def _bytes(self, id: int) -> bytes:
        if id not in self._known:
            self._known[id] = self._read(id)
        return self._known[id]

    def _read(self, id: int) -> bytes:
        if id in self._added:
            if id in self.symbols:
                return b"" if id == self.tokenizer.unk_token_id else b"\0"
            name = self._added[id]  # SentencePiece's runs of spaces are added tokens in some vocabularies
            return (name if self._is_byte_level else name.replace(UNDERLINE, " ")).encode()
        token = self.tokenizer.convert_ids_to_tokens(id)
        if not isinstance(token, str) or id == self.tokenizer.unk_token_id:
            return b""
        if self._is_byte_level:
            table = byte_of_character()
            known = all(character in table for character in token)
            return bytes(table[character] for character in token) if known else token.encode()
        if self._has_bytes and (byte := BYTE.fullmatch(token)):
            return bytes([int(byte[1], 16)])
        return token.replace(UNDERLINE, " ").encode()


def common_ids(ours: TokenBytes, theirs: TokenBytes) -> dict[int, int]:
    """Return their id of each of our ordinary tokens, if both tokenizers split every text alike. Otherwise return {}.

    Such tokenizers differ in ids and in added tokens only, as Qwen2.5's and Qwen3's do. Added tokens that both have are in it;
    special tokens are not.
    """
    if _splitting(ours.tokenizer) != _splitting(theirs.tokenizer):
        return {}
    first, second = _texts(ours), _texts(theirs)
    return {id: second[token] for token, id in first.items() if token in second}


def _texts(tokens: TokenBytes) -> dict[tuple[str, bool], int]:
    """Return the id of each token that is text, by its name and by whether it was added."""
    vocabulary = tokens.tokenizer.get_vocab().items()
    added = tokens.tokenizer.added_tokens_decoder
    unknown = tokens.tokenizer.unk_token_id
    return {(name, id in added): id for name, id in vocabulary if id not in tokens.symbols and id != unknown}


def _splitting(tokenizer: PreTrainedTokenizerFast) -> object:
    """Return all that decides how a text is split into tokens, except added tokens."""
    backend = tokenizer.backend_tokenizer
    model: dict[str, Any] = json.loads(backend.model.__getstate__())
    steps = [part and part.__getstate__() for part in (backend.normalizer, backend.pre_tokenizer, backend.decoder)]
    return model | {"vocab": set(model["vocab"])}, steps


def _parts(tokenizer: PreTrainedTokenizerFast) -> list[dict[str, Any]]:
    """Return the parts of the tokenizer's decoder."""
    decoder = tokenizer.backend_tokenizer.decoder
    if decoder is None:
        return []
    whole: dict[str, Any] = json.loads(decoder.__getstate__())
    return list(whole["decoders"]) if whole["type"] == "Sequence" else [whole]


@cache
def byte_of_character() -> dict[str, int]:
    """Return the byte that each character of a byte-level vocabulary stands for (GPT-2's table)."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + place): byte for place, byte in enumerate(hidden)}
