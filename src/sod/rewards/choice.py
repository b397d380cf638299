"""Multiple choice: the one letter, A to D, that the last boxed answer of the last turn commits to.

A closed grammar: a letter, however it is wrapped, perhaps called an option, perhaps followed by what the option says.
Whatever else is in the box, two letters or a word, is no choice: wrong, and no vote.
"""

import re

from sod.errors import DataError
from sod.rewards import Verdict
from sod.rewards.answers import final_answer, last_box, peel, tidy

LONGEST = 1000
"""An option is repeated in fewer characters; a longer box is not read."""

_STYLE = re.compile(r"\\text(?![A-Za-z])|[{}*\s]")
_CALLED = re.compile(
    r"(?:(?:the )?(?:correct |final |best |right )*(?:answer|option|choice|letter)(?: is)?\s*[:=]?\s*)+", re.IGNORECASE
)
_BARE = re.compile(r"([A-Da-d])\s*[.):,]?")
_MARKED = re.compile(r"(?:\(\s*([A-Da-d])\s*\)|\[\s*([A-Da-d])\s*\]|([A-D])(?:\s*[.):]|(?=\s-\s)))\s*(.*)", re.DOTALL)
_JOINT = r"(?:\\l(?:or|and)(?![a-z])|\b(?:or|and|nor|not)\b)"
_ANOTHER = re.compile(
    rf"\(\s*[A-D]\s*\)|^(?:- )?[A-D]\s*(?:[.):,;/&]|$)|^{_JOINT}|(?:{_JOINT}|[,/&])\s*\(?[A-D](?![A-Za-z])"
)
"""In what follows a letter, the sign of another one; an article is none."""


class ChoiceJudge:
    """Judges problems whose answer is one of the letters A to D."""

    def check(self, gold: str) -> None:
        if gold_letter(gold) is None:
            raise DataError(f"The gold answer {gold!r} is not one of the letters A to D.")

    async def __call__(self, text: str, gold: str) -> Verdict:
        return self.judge(text, gold)

    def judge(self, text: str, gold: str) -> Verdict:
        """The same, at once."""
        written = final_answer(text)
        if written is None:
            return Verdict(outcome="wrong", reason="no answer")
        if (chosen := letter(written)) is None:
            return Verdict(outcome="wrong", reason="no single letter")
        return Verdict(outcome="right" if chosen == gold_letter(gold) else "wrong", answer=chosen, reason="letter")


def gold_letter(gold: str) -> str | None:
    """The letter of a gold answer, which may itself be boxed."""
    return letter(last_box(gold) or gold)


def letter(text: str) -> str | None:
    r"""The letter that is meant: of `C`, `c.`, `(C)`, `\text{C}`, `**C**`, `Option C` or `(C) 10^{-8} eV`; or None."""
    if len(text) > LONGEST:
        return None
    text = " ".join(_STYLE.sub(" ", tidy(text)).split())
    text = peel(_CALLED.sub("", text, count=1) if _CALLED.match(text) else text)
    if bare := _BARE.fullmatch(text):
        return bare[1].upper()
    if (marked := _MARKED.fullmatch(text)) and not _ANOTHER.search(marked[4]):
        return (marked[1] or marked[2] or marked[3]).upper()
    return None
