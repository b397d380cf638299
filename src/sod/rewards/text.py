"""Judge answers in words by exact match: the same words in the same order.

Case, punctuation and the articles a, an, the do not count. Other words for the same thing need another judge
(`reward.judge`).
"""

import json
import re
import unicodedata

from sod.errors import DataError
from sod.rewards import NO_ANSWER, Verdict
from sod.rewards.answers import final_answer, peel

ARTICLES = {"a", "an", "the"}
LONGEST_ANSWER = 1000
"""Longest answer that is compared, in characters."""
_TOKEN = re.compile(r"(?<!\w)-?\d+(?:[.,]\d+)*|\w+|[^\w\s]")
_PUNCTUATION = set(".,;:!?\"'`()[]{}-–—…‘’“”«»/\\")


def plain_words(text: str) -> str:
    """Return the words that are compared, in lower case.

    Example:
        >>> plain_words("The  Wright-Brothers, -1.5 C#!")
        'wright brothers -1.5 c #'
    """
    words = [
        word
        for word in _TOKEN.findall(unicodedata.normalize("NFKC", peel(text)).casefold())
        if word not in _PUNCTUATION
    ]
    return " ".join([word for word in words if word not in ARTICLES] or words)


def accepted(gold: str) -> list[str]:
    """Return the forms of a gold answer: the text, or each text of a JSON list. Raises DataError if one has no word."""
    texts = [gold]
    if gold.lstrip().startswith("["):
        try:
            texts = json.loads(gold)
        except (ValueError, RecursionError):
            texts = [gold]
    if not texts or not all(isinstance(text, str) and plain_words(text) for text in texts):
        raise DataError(
            f"The gold answer {gold!r} has no words. Give a text, or a JSON list of texts that are all right."
        )
    return texts


class TextJudge:
    """Judge an answer in a box by its words."""

    def check(self, gold: str) -> None:
        accepted(gold)

    async def __call__(self, text: str, gold: str) -> Verdict:
        answer = final_answer(text)
        if answer is None or not (words := plain_words(answer[:LONGEST_ANSWER])):
            return Verdict(outcome="wrong", reason=NO_ANSWER)
        is_right = words in map(plain_words, accepted(gold))
        return Verdict(outcome="right" if is_right else "wrong", answer=words, reason="words")
