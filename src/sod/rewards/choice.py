"""Judge multiple choice: compare the letter in the last box of the last turn with the gold letter.

A closed grammar accepts one letter of an option, with or without brackets, the word "option" before it, and the option's text
after it. Any other content of the box is wrong and has no vote: two letters, a word, or a letter beyond the last option.
"""

import re
from dataclasses import dataclass
from functools import cache
from string import ascii_uppercase

from sod.errors import DataError
from sod.rewards import Verdict
from sod.rewards.answers import final_answer, last_box, peel, tidy

USUAL, MOST = 4, len(ascii_uppercase)
"""The number of options if a problem does not state it, and the largest number."""
LONGEST = 1000
"""Characters. A longer box is not parsed."""

_STYLE = re.compile(r"\\text(?![A-Za-z])|[{}*\s]")
_CALLED = re.compile(
    r"(?:(?:the )?(?:correct |final |best |right )*(?:answer|option|choice|letter)(?: is)?\s*[:=]?\s*)+", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Grammar:
    """The patterns of an option's letter."""

    bare: re.Pattern[str]
    marked: re.Pattern[str]
    another: re.Pattern[str]
    """A second letter in the text after the first one. The article "a" is not a letter."""


@cache
def _grammar(options: int) -> Grammar:
    last = ascii_uppercase[options - 1]
    upper, both = f"[A-{last}]", f"[A-{last}a-{last.lower()}]"
    joint = r"(?:\\l(?:or|and)(?![a-z])|\b(?:or|and|nor|not)\b)"
    return Grammar(
        re.compile(rf"({both})\s*[.):,]?"),
        re.compile(
            rf"(?:\(\s*({both})\s*\)|\[\s*({both})\s*\]|({upper})(?:\s*[.):]|(?=\s-\s)))\s*(.*)",
            re.DOTALL,
        ),
        re.compile(
            rf"\(\s*{upper}\s*\)|^(?:- )?{upper}\s*(?:[.):,;/&]|$)|^{joint}|(?:{joint}|[,/&])\s*\(?{upper}(?![A-Za-z])"
        ),
    )


@dataclass(frozen=True, slots=True)
class ChoiceJudge:
    """Judge problems with `options` options, named A, B, ..."""

    options: int = USUAL

    def check(self, gold: str) -> None:
        if gold_letter(gold, self.options) is None:
            last = ascii_uppercase[self.options - 1]
            raise DataError(
                f"The gold answer {gold!r} is not one of the letters A to {last}. List all options of the problem in a column "
                "`choices` if there are more."
            )

    async def __call__(self, text: str, gold: str) -> Verdict:
        return self.judge(text, gold)

    def judge(self, text: str, gold: str) -> Verdict:
        """Return the verdict on an attempt."""
        written = final_answer(text)
        if written is None:
            return Verdict(outcome="wrong", reason="no answer")
        if (chosen := letter(written, self.options)) is None:
            return Verdict(outcome="wrong", reason="no single letter")
        is_right = chosen == gold_letter(gold, self.options)
        return Verdict(outcome="right" if is_right else "wrong", answer=chosen, reason="letter")


def gold_letter(gold: str, options: int = USUAL) -> str | None:
    """Return the letter of a gold answer, with or without a box; None if it has none."""
    return letter(last_box(gold) or gold, options)


def letter(text: str, options: int = USUAL) -> str | None:
    r"""Return the letter of `C`, `c.`, `(C)`, `\text{C}`, `**C**`, `Option C` or `(C) 10^{-8} eV`; None for any other text."""
    if len(text) > LONGEST:
        return None
    grammar = _grammar(options)
    text = " ".join(_STYLE.sub(" ", tidy(text)).split())
    text = peel(_CALLED.sub("", text, count=1) if _CALLED.match(text) else text)
    if bare := grammar.bare.fullmatch(text):
        return bare[1].upper()
    if (marked := grammar.marked.fullmatch(text)) and not grammar.another.search(marked[4]):
        return (marked[1] or marked[2] or marked[3]).upper()
    return None


def lettered(text: str) -> int:
    """Return how many options a problem lists, as `(A) ...` or in lines that start with `A.`, `A)` or `A:`; 0 for none."""
    found = {mark for pair in _LISTED.findall(text) for mark in pair if mark}
    count = next((n for n, mark in enumerate(ascii_uppercase) if mark not in found), MOST)
    return count if count > 1 else 0


_LISTED = re.compile(r"\(([A-Z])\)|^\W*([A-Z])\s*[.:)\]]", re.MULTILINE)
