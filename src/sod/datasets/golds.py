r"""Find the kind of a gold, and its canonical form.

The judges define the canonical form and count votes by it: `033` is 33, and `1,000` is 1000. Only integers are stored in it.
Expressions are stored unchanged, because their canonical form is not LaTeX and cannot be parsed again.
"""

import re
from string import ascii_uppercase

from sod.errors import DataError
from sod.rewards.choice import MOST, USUAL, gold_letter, lettered
from sod.rewards.math import INTEGER, decide

_CANONICAL_INTEGER = re.compile(r"0|-?[1-9]\d{0,17}")
_SPELT_INTEGER = re.compile(r"[-+]?\d[\d,]*(\.0*)?")
_INLINE = re.compile(r"(?<![^\W_])[(（]?\s*([A-Z])\s*[}$]*\s*[.:)\]．、：）]")
_FEWEST = 3
"""Number of options in one line that are a list. `by A. Smith and B. Jones` is none."""
_CHOOSE = re.compile(
    r"\bwhich (?:one )?of the\b|\bof the following\b|\b(?:correct|right|best) (?:option|choice|statement)\b"
    r"|\bmultiple[- ]choice\b",
    re.IGNORECASE,
)
"""Words of a text that asks for one of several options."""
_LONGEST_LETTER = 20
"""Largest number of characters in a gold that is a letter, including brackets and words."""


def kind_of(gold: str, text: str) -> str:
    """Return the kind of a problem without a program, `choice` or `math`, from its gold and its text.

    Raises DataError for a letter as the gold of a text that asks for one of several options, but lists none.
    """
    is_short = len(gold) <= _LONGEST_LETTER and any(map(str.isalpha, gold))
    if not is_short or (letter := gold_letter(gold, MOST)) is None:
        return "math"
    if (options := options_in(text)) and letter in ascii_uppercase[: max(USUAL, options)]:
        return "choice"
    if not options and _CHOOSE.search(text):
        raise DataError(
            f"its answer is the letter {gold!r} and its text asks for one of several options, but the options A, B, ... are not "
            "in the text. Give them in a column `options` and use `sod data convert FILE --out OUT`, or add the column `kind`."
        )
    return "math"


def options_in(text: str) -> int:
    """Return how many options a text lists: each in a line, or three and more in one line, as `A) 1 B) 2 C) 3`; 0 for none."""
    count = 0
    for mark in _INLINE.finditer(text):
        count = count + 1 if mark[1] == ascii_uppercase[min(count, MOST - 1)] else int(mark[1] == "A") or count
    return max(lettered(text), count if count >= _FEWEST else 0)


def canonical(kind: str, gold: str, *, integers: bool) -> str:
    """Return a gold in its stored form. Raises DataError for any other value in a set of `integers`."""
    gold = gold.strip()
    if kind == "choice":
        return gold_letter(gold, MOST) or gold
    if kind == "code":
        return gold
    if _CANONICAL_INTEGER.fullmatch(gold):
        return gold
    key = vote(kind, gold)
    if INTEGER.fullmatch(key) and (integers or _SPELT_INTEGER.fullmatch(gold)):
        return key
    if integers:
        raise DataError(f"its answer {gold!r} is not an integer, but all answers of this set are integers.")
    return gold


def vote(kind: str, gold: str) -> str:
    """Return the vote of a gold. Golds with the same meaning have equal votes."""
    if kind == "choice":
        return gold_letter(gold, MOST) or gold
    return decide(rf"\boxed{{{gold}}}", gold).answer or gold if kind == "math" else gold
