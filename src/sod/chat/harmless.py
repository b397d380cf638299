"""Text of others cannot speak in a tokenizer's own tokens."""

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from sod.chat.calls import COMPLAINT
from sod.errors import TemplateError

TRIES = 8
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""How SentencePiece writes it."""


class Harmless:
    """Text in which no added token of the tokenizer is left, special or not: behind its first character stands a space.

    So it stays readable, is no such token when it is decoded and encoded again, and is left alone the second time. White space
    and single characters, which some tokenizers add as tokens, are ordinary text. What `sod.chat.calls` says of a malformed call
    stays as it is.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise TemplateError(
                f"The tokenizer of {tokenizer.name_or_path!r} has no tokenizer.json. Save it with Transformers' fast class."
            )
        self._encode = tokenizer.backend_tokenizer.encode
        added = tokenizer.added_tokens_decoder.items()
        self._ids = {id for id, token in added if len(str(token.content).strip().strip(SPACE)) > 1}

    def __call__(self, text: str) -> str:
        if COMPLAINT.fullmatch(text):
            return text
        for _ in range(TRIES):
            parted = self._parted(text)
            if parted == text:
                return text
            text = parted
        return " ".join(text)

    def _found(self, text: str) -> list[tuple[int, int]]:
        """Where the text would write an added token."""
        encoded = self._encode(text, add_special_tokens=False)
        return [span for id, span in zip(encoded.ids, encoded.offsets, strict=True) if id in self._ids]

    def _parted(self, text: str) -> str:
        for start, end in reversed(self._found(text)):
            first = start + len(text[start:end]) - len(text[start:end].lstrip()) + 1
            text = f"{text[:first]} {text[first:]}"
        return text
