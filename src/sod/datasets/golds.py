"""Find the kind of a gold, and the form in which it is stored. The kinds are in `sod.rewards.kinds`."""

import math

from sod.errors import DataError
from sod.rewards.answers import repaired
from sod.rewards.kinds import FALLBACK, KINDS, Evidence
from sod.rewards.math import INTEGER

WHOLE = 1 << 53
"""Below this, a binary fraction of 64 bits holds every whole number."""


def kind_of(gold: str, text: str) -> str:
    """Return the kind of a problem whose gold is an answer, from its gold and its text.

    Raises DataError for a letter as the gold of a text that asks for one of several options, but lists none.
    """
    return _recognised(Evidence(gold=gold, text=text), gold_is_answer=True) or FALLBACK


def kind_of_tests(seen: Evidence) -> str:
    """Return the kind of a problem whose gold is not an answer, but tests; empty for an answer."""
    return _recognised(seen, gold_is_answer=False)


def number_text(number: float) -> str:
    """Return a number of a file as text, without the noise of binary fractions: 0.1 + 0.2 is 0.3.

    A binary fraction of 64 bits holds 15 decimal digits, and whole numbers below 2^53. Raise DataError for infinity, and for a
    larger whole number with more digits: the file may have had another one.
    """
    if not math.isfinite(number):
        raise DataError(f"its answer is {number}, which has no value; write the answer as text, or remove the row.")
    if number.is_integer() and abs(number) < WHOLE:
        return repr(number)
    short = float(f"{number:.15g}")
    if number.is_integer() and short != number:
        raise DataError(
            f"its answer is {number}, but a column of fractions keeps 15 digits of such a number; write the answer as text."
        )
    return repr(short)


def canonical(kind: str, gold: str, *, integers: bool = False) -> str:
    """Return a gold in its stored form. Raises DataError for any other value in a set of `integers`."""
    gold = KINDS[kind].stored((repaired(gold) if KINDS[kind].gold_is_answer else gold).strip())
    if not integers or INTEGER.fullmatch(gold):
        return gold
    if not INTEGER.fullmatch(key := vote(kind, gold)):
        raise DataError(f"its answer {gold!r} is not an integer, but all answers of this set are integers.")
    return key


def vote(kind: str, gold: str) -> str:
    """Return the vote of a gold. Golds with the same meaning have equal votes. A gold of a kind without votes is its own."""
    own = KINDS[kind].vote
    return gold if own is None else own(gold)


def _recognised(seen: Evidence, *, gold_is_answer: bool) -> str:
    """Return the first kind of this sort that recognises the row; empty if there is none."""
    own = (name for name, kind in KINDS.items() if kind.gold_is_answer == gold_is_answer and kind.recognises(seen))
    return next(own, "")
