r"""Find the kind of a gold, and its canonical form.

The judges define the canonical form and count votes by it: `033` is 33, and `1,000` is 1000. Only integers are stored in it.
Expressions are stored unchanged, because their canonical form is not LaTeX and cannot be parsed again.
"""

import re

from sod.errors import DataError
from sod.rewards.choice import MOST, USUAL, gold_letter, lettered
from sod.rewards.math import INTEGER, decide

_CANONICAL_INTEGER = re.compile(r"0|-?[1-9]\d{0,17}")
_SPELT_INTEGER = re.compile(r"[-+]?\d[\d,]*(\.0*)?")
_LONGEST_LETTER = 20
"""Largest number of characters in a gold that is a letter, including brackets and words."""


def kind_of(gold: str, text: str) -> str:
    """Return the kind of a problem without a program, `choice` or `math`, from its gold and its text."""
    if len(gold) <= _LONGEST_LETTER and gold_letter(gold, max(USUAL, options := lettered(text))) and options:
        return "choice"
    return "math"


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
