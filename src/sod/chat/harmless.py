"""Make text from tools and files safe for a chat template: no text is encoded as one of the tokenizer's added tokens."""

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from sod.chat.calls import COMPLAINT
from sod.errors import TemplateError

ATTEMPTS = 8
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""SentencePiece's character for a space."""


class Harmless:
    """A function that breaks every added token of the tokenizer in a text, by a space after the token's first character.

    The text stays readable. It does not become such a token when it is decoded and encoded again, and a second call does not
    change it. White space and single characters, which some tokenizers add as tokens, are ordinary text. Messages of
    `sod.chat.calls` about malformed calls are not changed.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise TemplateError(
                f"The tokenizer of {tokenizer.name_or_path!r} has no tokenizer.json, which sod needs. Save it with Transformers' "
                "fast tokenizer class."
            )
        self._encode = tokenizer.backend_tokenizer.encode
        added = tokenizer.added_tokens_decoder.items()
        self._ids = {id for id, token in added if len(str(token.content).strip().strip(SPACE)) > 1}

    def __call__(self, text: str) -> str:
        if COMPLAINT.fullmatch(text):
            return text
        for _ in range(ATTEMPTS):
            parted = self._parted(text)
            if parted == text:
                return text
            text = parted
        return " ".join(text)

    def _found(self, text: str) -> list[tuple[int, int]]:
        """Return the spans of the text that are encoded as an added token."""
        encoded = self._encode(text, add_special_tokens=False)
        return [span for id, span in zip(encoded.ids, encoded.offsets, strict=True) if id in self._ids]

    def _parted(self, text: str) -> str:
        for start, end in reversed(self._found(text)):
            first = start + len(text[start:end]) - len(text[start:end].lstrip()) + 1
            text = f"{text[:first]} {text[first:]}"
        return text
