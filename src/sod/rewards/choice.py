"""Judge multiple choice: compare the letter in the last box of the last turn with the gold letter.

A closed grammar accepts one letter of an option, with or without brackets, the word "option" before it, and the option's text
after it. Any other content of the box is wrong and has no vote: two letters, a word, a letter beyond the last option, or a letter
that is rejected: `(C) is not correct`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from string import ascii_uppercase

from sod.errors import DataError
from sod.rewards import NO_ANSWER, Verdict
from sod.rewards.answers import final_answer, last_box, peel, tidy

USUAL, MOST = 4, len(ascii_uppercase)
"""The number of options if a problem does not state it, and the largest number."""
LONGEST = 1000
"""Characters. A longer box is not parsed."""

_STYLE = re.compile(r"\\text(?![A-Za-z])|[{}*\s]")
_CALLED = re.compile(
    r"(?:(?:the )?(?:correct |final |best |right )*(?:answer|option|choice|letter)(?: is)?\s*[:=]?\s*)+", re.IGNORECASE
)
_ARROW = r"(?:\\(?:[Ll]ong)?[Rr]ightarrow|\\(?:to|implies|mapsto)(?![a-z])|[-=]>|[→⇒])"
_HEDGE = r".*\b(?:or|not|nor|but|n?either|maybe|perhaps|possibly|also|then|options?|choices?|answers?|wrong|correct)\b"
_BEING = r"(?:(?:is|was|be|been|being|has|have|can|ca(?=n)|could|may|might|must|should|would|does|to)\s*)"
_NOT = r"(?:not|never|cannot|n['’]t)\s*"
_SURELY = r"(?:\w+ly\s+)*"
_REJECTED = "incorrect|wrong|invalid|ruled out|eliminated|excluded|rejected|discarded|out|impossible|disproved|refuted"
_CHOSEN = r"correct|right|true|valid|possible|it|this|(?:the |my |an? )?(?:\w+ )?(?:answer|option|choice|letter)|work|fit|hold"
_NEGATED = re.compile(
    rf"\W*(?:(?:that|this|it|which)\s+)?(?:{_BEING}*{_SURELY}(?:{_REJECTED})|{_BEING}+{_SURELY}(?:false|no)"
    rf"|{_BEING}*{_SURELY}{_NOT}{_BEING}*{_SURELY}(?:{_CHOSEN})|[✗✘❌×?]|\\(?:times|cdot))"
    r"(?:\W*|\W+(?:because|since|as|so|here)\b.*)",
    re.IGNORECASE | re.DOTALL,
)
"""The text after a letter that rejects this letter: `C. incorrect`, `(C) cannot be right`."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """The patterns of an option's letter."""

    bare: re.Pattern[str]
    marked: re.Pattern[str]
    another: re.Pattern[str]
    """A second letter in the text after the first one. The article "a" is not a letter."""
    content: re.Pattern[str]
    """The text of an option that lists letters: `vitamins A, B`."""


@cache
def _grammar(options: int) -> Grammar:
    last = ascii_uppercase[options - 1]
    upper, both = f"[A-{last}]", f"[A-{last}a-{last.lower()}]"
    joint = r"(?:\\l(?:or|and)(?![a-z])|\b(?:or|and|nor|not)\b)"
    listed = rf"{upper}(?:\s*(?:,|{joint}|,\s*{joint})\s*{upper})+"
    return Grammar(
        re.compile(rf"({both})\s*[.):,]?"),
        re.compile(
            rf"(?:\(\s*({both})\s*\)|\[\s*({both})\s*\]|({upper})(?:\s*[.):]|(?=\s-\s)|(?=\s*{_ARROW})|(?=\s+\([^()]+\)$)))\s*(.*)",
            re.DOTALL,
        ),
        re.compile(
            rf"\(\s*{upper}\s*\)|^(?:- )?{upper}\s*(?:[.):,;/&]|$)|^{joint}|(?:{joint}|[,/&])\s*\(?{upper}(?![A-Za-z])"
            rf"|{_ARROW}.*(?<![A-Za-z]){upper}(?![A-Za-z])"
        ),
        re.compile(rf"(?!{_HEDGE})(?:[A-Za-z][a-z]{{2,}}\s(?:of\s)?)+{listed}[.]?"),
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
            return Verdict(outcome="wrong", reason=NO_ANSWER)
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
    if not (marked := grammar.marked.fullmatch(text)) or _NEGATED.fullmatch(marked[4]):
        return None
    if grammar.another.search(marked[4]) and not grammar.content.fullmatch(marked[4]):
        return None
    return (marked[1] or marked[2] or marked[3]).upper()


def lettered(text: str) -> int:
    """Return how many options a problem lists, as `(A) ...` or in lines that start with `A.`, `A)` or `A:`; 0 for none."""
    found = {mark for pair in _LISTED.findall(text) for mark in pair if mark}
    count = next((n for n, mark in enumerate(ascii_uppercase) if mark not in found), MOST)
    return count if count > 1 else 0


_LISTED = re.compile(r"\(([A-Z])\)|^\W*([A-Z])\s*[.:)\]]", re.MULTILINE)


# Recognising multiple choice

FEWEST_IN_LINE = 3
"""Number of options in one line that are a list. `by A. Smith and B. Jones` is none."""
LONGEST_LETTER = 20
"""Largest number of characters in a gold that is a letter, including brackets and words."""
_INLINE = re.compile(r"(?<![^\W_])[(（]?\s*([A-Z])\s*[}$]*\s*[.:)\]．、：）]")
_SMALL = re.compile(r"\([a-z]\)|^\W*[a-z]\s*[.:)\]]", re.MULTILINE)
"""The mark of an option in small letters, `(a)`, or `a.` at the start of a line."""
_LINE = re.compile(r"^[ \t*]*\(?([A-Z])[.):][ \t*]+(\S.*?)[ \t*]*$", re.MULTILINE)
"""An option in a line of its own."""
_WORDS = re.compile(r"[^\W\d_]{2,}")
_CHOOSE = re.compile(
    r"\bwhich (?:one )?of the\b|\bof the following\b|\b(?:correct|right|best) (?:option|choice|statement)\b"
    r"|\bmultiple[- ]choice\b",
    re.IGNORECASE,
)
"""Words of a text that asks for one of several options."""


def is_choice(gold: str, text: str) -> bool:
    """Return whether a gold is the letter of an option that the text of the problem lists.

    Raises DataError for a letter as the gold of a text that asks for one of several options, but lists none.
    """
    is_short = len(gold) <= LONGEST_LETTER and any(map(str.isalpha, gold))
    if not is_short or (letter := gold_letter(gold, MOST)) is None:
        _check_no_option(gold, text)
        return False
    options = options_in(text)
    if not options and (len(gold.strip()) > 1 or _CHOOSE.search(text)):  # a single small letter may be a variable
        options = options_in(_SMALL.sub(lambda mark: mark[0].upper(), text))
    if not options and _CHOOSE.search(text):
        raise DataError(
            f"its answer is the letter {gold!r} and its text asks for one of several options, but the options A, B, ... are not "
            "in the text. Give them in a column `options` and use `sod data convert FILE --out OUT`, or add the column `kind`."
        )
    if letter == gold.strip() and letter not in ascii_uppercase[: (listed := len(_in_lines(text))) or MOST]:
        raise DataError(
            f"its answer is the letter {gold!r}, but its text lists {listed} options. Correct one of them, or add the column "
            "`kind`."
        )
    return options > 0 and letter in ascii_uppercase[: max(USUAL, options)]


def _check_no_option(gold: str, text: str) -> None:
    """Raise DataError for a gold that is the text or the number of an option that the text of the problem lists."""
    plain = _plain(gold)
    for name, option in zip(ascii_uppercase, _in_lines(text) or _in_one_line(text), strict=False):
        if plain and _plain(option) == plain and _WORDS.search(gold):
            raise DataError(
                f"its answer {gold!r} is the text of option {name}. Write the letter, or add the column `kind`."
            )
    lines = _in_lines(text)
    if (
        lines
        and re.fullmatch(r"\d", plain)
        and int(plain) <= len(lines)
        and plain not in re.findall(r"\d+", "\n".join(lines))
    ):
        raise DataError(
            f"its answer {gold!r} may be the number of one of its {len(lines)} options, and they have letters. Write the letter, "
            "or add the column `kind`."
        )


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[.,;$*]", " ", text).split()).casefold()


def _in_lines(text: str) -> list[str]:
    """Return the options A, B, ... of a text that has each of them, and nothing else, in a line; [] for any other text."""
    marks = [mark for mark in _LINE.finditer(text) if mark[1]]
    return [mark[2] for mark in marks] if len(marks) > 1 and _are_letters(marks) else []


def _in_one_line(text: str) -> list[str]:
    """Return the options of a text such as `A) 1 B) 2 C) 3`; [] for any other text."""
    marks = list(_INLINE.finditer(text))
    if len(marks) < FEWEST_IN_LINE or not _are_letters(marks):
        return []
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    texts = [text[mark.end() : end] for mark, end in zip(marks, ends, strict=True)]
    return [*texts[:-1], re.split(r"[.\n]", texts[-1])[0]]


def _are_letters(marks: Sequence[re.Match[str]]) -> bool:
    return [mark[1] for mark in marks] == list(ascii_uppercase[: len(marks)])


def options_in(text: str) -> int:
    """Return how many options a text lists: each in a line, or three and more in one line, as `A) 1 B) 2 C) 3`; 0 for none."""
    count = 0
    for mark in _INLINE.finditer(text):
        count = count + 1 if mark[1] == ascii_uppercase[min(count, MOST - 1)] else int(mark[1] == "A") or count
    return max(lettered(text), count if count >= FEWEST_IN_LINE else 0)
