"""Multiple choice: the one letter that the last boxed answer of the last turn commits to.

A closed grammar: a letter of one of the problem's options, however it is wrapped, perhaps called an option, perhaps followed
by what the option says. Whatever else is in the box, two letters, a word, or the letter of an option that there is not, is no
choice: wrong, and no vote.
"""

import re
from dataclasses import dataclass
from functools import cache
from string import ascii_uppercase

from sod.errors import DataError
from sod.rewards import Verdict
from sod.rewards.answers import final_answer, last_box, peel, tidy

USUAL, MOST = 4, len(ascii_uppercase)
"""Options of a problem that does not say how many it has; and as many as there are letters."""
LONGEST = 1000
"""An option is repeated in fewer characters; a longer box is not read."""

_STYLE = re.compile(r"\\text(?![A-Za-z])|[{}*\s]")
_CALLED = re.compile(
    r"(?:(?:the )?(?:correct |final |best |right )*(?:answer|option|choice|letter)(?: is)?\s*[:=]?\s*)+", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Grammar:
    """The ways to write the letter of an option."""

    bare: re.Pattern[str]
    marked: re.Pattern[str]
    another: re.Pattern[str]
    """In what follows a letter, the sign of another one; an article is none."""


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
    """Judges problems whose answer is the letter of one of `options` options."""

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
        """The same, at once."""
        written = final_answer(text)
        if written is None:
            return Verdict(outcome="wrong", reason="no answer")
        if (chosen := letter(written, self.options)) is None:
            return Verdict(outcome="wrong", reason="no single letter")
        is_right = chosen == gold_letter(gold, self.options)
        return Verdict(outcome="right" if is_right else "wrong", answer=chosen, reason="letter")


def gold_letter(gold: str, options: int = USUAL) -> str | None:
    """The letter of a gold answer, which may itself be boxed."""
    return letter(last_box(gold) or gold, options)


def letter(text: str, options: int = USUAL) -> str | None:
    r"""The letter that is meant: of `C`, `c.`, `(C)`, `\text{C}`, `**C**`, `Option C` or `(C) 10^{-8} eV`; or None."""
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
    """How many options a problem's text lists, as `(A) ...` or as lines that begin `A.`, `A)` or `A:`; 0 for none."""
    found = {mark for pair in _LISTED.findall(text) for mark in pair if mark}
    count = next((n for n, mark in enumerate(ascii_uppercase) if mark not in found), MOST)
    return count if count > 1 else 0


_LISTED = re.compile(r"\(([A-Z])\)|^\W*([A-Z])\s*[.:)\]]", re.MULTILINE)
