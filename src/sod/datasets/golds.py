r"""Golds: what kind of judge one needs, and the canonical form.

The canonical form is the judges' own, which votes are counted by: `033` is 33, and `1,000` is 1000. Only integers are
written in it; expressions stay as they are, since the canonical form of one is not LaTeX that could be read again.
"""

import re

from sod.errors import DataError
from sod.rewards.choice import MOST, USUAL, gold_letter, lettered
from sod.rewards.math import INTEGER, decide

_CANONICAL_INTEGER = re.compile(r"0|-?[1-9]\d{0,17}")
_SPELT_INTEGER = re.compile(r"[-+]?\d[\d,]*(\.0*)?")
_LONGEST_LETTER = 20
"""Characters of a gold that is a letter, whatever is around it."""


def kind_of(gold: str, text: str) -> str:
    """The judge that a problem without a program needs, by what it asks and by its answer."""
    if len(gold) <= _LONGEST_LETTER and gold_letter(gold, max(USUAL, options := lettered(text))) and options:
        return "choice"
    return "math"


def canonical(kind: str, gold: str, *, integers: bool) -> str:
    """A gold in the form that it is kept in. Raises DataError for what is no integer in a set of `integers`."""
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
        raise DataError(f"its answer {gold!r} is no integer, as all answers of this set are.")
    return gold


def vote(kind: str, gold: str) -> str:
    """A gold as votes count it: equal for golds that mean the same."""
    if kind == "choice":
        return gold_letter(gold, MOST) or gold
    return decide(rf"\boxed{{{gold}}}", gold).answer or gold if kind == "math" else gold
