r"""Golds: what kind of judge one needs, whether that judge can use it, and its canonical form.

The canonical form is the judges' own, which votes are counted by: `033` is 33, and `1,000` is 1000. Only integers are
written in it; expressions stay as they are, since the canonical form of one is not LaTeX that could be read again.
"""

import re
from collections.abc import Callable

from sod.errors import DataError
from sod.rewards.choice import ChoiceJudge, gold_letter
from sod.rewards.code_golds import tests_of
from sod.rewards.math import INTEGER, MathJudge, decide

_CHECKS: dict[str, Callable[[str], object]] = {
    "math": MathJudge().check,
    "choice": ChoiceJudge().check,
    "code": tests_of,
}
_CANONICAL_INTEGER = re.compile(r"0|-?[1-9]\d{0,17}")
_SPELT_INTEGER = re.compile(r"[-+]?\d[\d,]*(\.0*)?")
_OPTIONS = [re.compile(rf"\({letter}\)|^\W*{letter}\s*[.:)\]]", re.MULTILINE) for letter in "AB"]
_LONGEST_LETTER = 20
"""Characters of a gold that is a letter, whatever is around it."""


def check_gold(kind: str, gold: str) -> None:
    """Raises DataError for a kind that has no judge, or a gold that its judge can never judge by."""
    if kind not in _CHECKS:
        raise DataError(f"it is of kind {kind!r}; judges exist for {', '.join(_CHECKS)}.")
    try:
        _CHECKS[kind](gold)
    except DataError as error:
        raise DataError(f"no judge can use its answer: {error}") from error


def kind_of(gold: str, text: str, source: str) -> str:
    """The judge that a problem of a mixed set needs, by where it is from, what it asks, and its answer."""
    if "code" in source.lower():
        return "code"
    if len(gold) <= _LONGEST_LETTER and gold_letter(gold) and all(option.search(text) for option in _OPTIONS):
        return "choice"
    return "math"


def canonical(kind: str, gold: str, *, integers: bool) -> str:
    """A gold in the form that it is kept in. Raises DataError for what is no integer in a set of `integers`."""
    gold = gold.strip()
    if kind == "choice":
        return gold_letter(gold) or gold
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
        return gold_letter(gold) or gold
    return decide(rf"\boxed{{{gold}}}", gold).answer or gold if kind == "math" else gold
