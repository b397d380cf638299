r"""Check gold answers of mathematics before the first token is sampled, and find their canonical form.

A gold passes if its own judge accepts the gold itself in a box. Published data sets also mark the answer within a longer gold
(`#### 18`, a box in a sentence, `the answer is 18`); then the judge must accept the marked answer alone as well. A text of
several lines or sentences is refused. The check computes nothing symbolic: it accepts a gold that the exact layers cannot
decide. It cannot find a gold that is the wrong answer to its problem.

The judge defines the canonical form and counts votes by it: `033` is 33, and `1,000` is 1000. Only integers are stored in it.
Expressions are stored unchanged, because their canonical form is not LaTeX and cannot be parsed again.
"""

import re
from collections.abc import Callable

from sod.errors import DataError
from sod.rewards import Verdict
from sod.rewards.answers import last_box, repaired
from sod.rewards.math import INTEGER, MathJudge, Question, decide

CONVERT = "`sod data convert FILE` extracts the answer from many such texts."
FEW_WORDS = 8
"""Words. A shorter text is not split into sentences: `4 p.m. Tuesday`."""
SHOWN = 40
"""Characters of a gold in an error."""

_MARKED = re.compile(r"(.*?)\s*##+\s*([^\n#]+?)\s*", re.DOTALL)
"""GSM8K: a solution, and its answer after a mark."""
_CALCULATION = re.compile(r"<<[^<>]*>>")
"""GSM8K: the input of a calculator, within a solution."""
_STATED = re.compile(
    r".*\banswer\s*(?:is|:|=)\s*:?\s*(\S[^\n]*?)\.?(?:\s*I hope it is correct\.?)?\s*$", re.IGNORECASE | re.DOTALL
)
_ENVIRONMENT = re.compile(r"\\begin\{(\w+\*?)\}.*?\\end\{\1\}", re.DOTALL)
_NEXT_SENTENCE = re.compile(r"[a-z\d)}$%][.!?]\s+[A-Z]")
_STATEMENT = re.compile(r"(?:so|thus|therefore|hence|since|because|we|he|she|they)\b", re.IGNORECASE)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_WORD = re.compile(r"[^\W\d_]+")
_CANONICAL_INTEGER = re.compile(r"0|-?[1-9]\d{0,17}")
_SPELT_INTEGER = re.compile(r"[-+]?\d[\d,]*(\.0*)?")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|[\t\r](?=[A-Za-z])")
"""Characters that no answer has. Line breaks and tabs may be layout."""
_DATE = re.compile(
    r"\d{4}([-/.])\d{1,2}\1\d{1,2}|\d{1,2}([-/.])\d{1,2}\2\d{4}"
    r"|(?:\+?\d{1,3}-)?(?:\d{3}-)?\d{3}-\d{4}|\d+(?:-\d+){3,}"
)
"""A date in numbers, a telephone number, an ISBN."""
_BRACED = re.compile(r"\{\d{1,3}(?:,\d{3})+\}")
"""A set of which JSON has lost the backslashes, or a number with thousands."""
_DECIMAL_COMMA = re.compile(
    r"[-+]?\d{1,3}(?:[. '’]\d{3})+,\d+"
    r"|[-+]?\d+,\d{1,2}(?:\s*(?:[€£₽₹%]|\\%|(?!pi)[a-z]{2,3}\b)|\s+[mgst])"
    r"|[-+]?[1-9]\d{0,2}(?:(?:\.\d{3}){2,}|(?:['’]\d{3})+(?:[.,]\d+)?)"
)
"""A number such as 1.234,56 or 12,50 €, or with points or apostrophes between thousands."""
_OTHER = {
    "a question, so question and answer may be in each other's columns": re.compile(
        r".*(?:[^\W\d_]{2,}\W+[^\W_]|[\u3040-\u9fff]{2}).*[?？؟]\s*\Z", re.DOTALL
    ),
    "a program": re.compile(
        r"\s*(?:```|(?:async )?def \w+\s*\(|class \w+\s*[:(]|import \w+\s*\n|from \w+ import|print\s*\(|#include)"
    ),
    "an object": re.compile(r"\{\s*(['\"]).*?\1\s*:.*\}", re.DOTALL),
    "a text with markup": re.compile(r".*(?:</[A-Za-z]+>|<br ?/?>|&(?:#\d+|nbsp|lt|gt|amp);|```)", re.DOTALL),
    "an address": re.compile(r"https?://\S+"),
    "a refusal or an error": re.compile(
        r"(?:I(?:['’]m| am)? (?:can ?not|can['’]t|unable|not able|do(?: no|n['’])t know)|I apologi[sz]e|(?:I['’]m )?sorry\b"
        r"|As an AI\b|(?:Runtime|Value|Type|Syntax)?Error\s*:|Traceback \().*",
        re.IGNORECASE | re.DOTALL,
    ),
}
"""What a gold may be instead of an answer, and its pattern."""
_LIST = re.compile(r"\[\s*(['\"]).*\1\s*,?\s*\]", re.DOTALL)
_NOTHING = {
    "nan", "null", "<na>", "[]", "{}", "none", "n/a", "-", "--", "?", "...", "unknown", "notfound", "not found", "not_found",
    "proof", "see solution", "see the solution", "see above", "see below", "tbd", "todo", "#n/a", "n.a.", "n.a", "not available",
    "not provided", "not given", "no answer", "blank", "empty", "missing", "pending", "to be added", "omitted", "proof omitted",
    "answer", "answer:", "the answer is", "answers may vary", "answers will vary", "error", "undefined answer",
}  # fmt: skip
"""Golds in lower case that stand for a missing answer."""
_HOLLOW = re.compile(
    r"NA|x{3,}|(?=.*[#?—–_*~])[#?.—–_*~()\s-]+|\(\s*\)|\(?see (?:the )?(?:attached|attachment|figure|graph|image|text)\)?"
)
"""Other golds that stand for a missing answer."""
_MATH = MathJudge()


def prove_math(gold: str) -> None:
    """Raise DataError for a gold that the judge of mathematics cannot use."""
    if INTEGER.fullmatch(gold):
        return
    gold = repaired(gold)
    if control := _CONTROL.search(gold.strip()):
        raise DataError(
            f"The gold answer {_shown(gold)} has the control character {control[0]!r}, as JSON makes of a LaTeX command with a "
            "single backslash. Double the backslashes in the file."
        )
    _check_meaning(gold.strip())
    _MATH.check(gold)
    itself = _verdict(gold, gold)
    if isinstance(itself, Verdict) and itself.outcome != "right":
        raise DataError(f"The gold answer {_shown(gold)} is wrong according to its own judge. {CONVERT}")
    check_form(gold, lambda answer: _is_right(_verdict(answer, gold)))


def _check_meaning(gold: str) -> None:
    """Raise DataError for a gold that would be computed with another meaning: a date, a telephone number, a decimal comma.

    Also for a gold that is something else than an answer: a question, a program, markup.
    """
    if other := next((what for what, pattern in _OTHER.items() if pattern.match(gold)), ""):
        raise DataError(f"The gold answer {_shown(gold)} is {other}. Give the answer alone.")
    if _DATE.fullmatch(gold):
        raise DataError(
            f"The gold answer {gold!r} is a date or a number with hyphens, but would be computed, so another number would be "
            "right. Give the row the kind `text`, which compares words."
        )
    if _BRACED.fullmatch(gold):
        raise DataError(
            f"The gold answer {gold!r} may be a set, and would be read as one number with thousands. Write \\{{...\\}} or the "
            "number."
        )
    if _DECIMAL_COMMA.fullmatch(gold):
        raise DataError(
            f"The gold answer {gold!r} has a decimal comma, which would separate two numbers. Write a decimal point, and no "
            "points between thousands."
        )


def vote_of_math(gold: str) -> str:
    """Return the canonical form of a gold."""
    return _verdict(gold, gold).answer or gold


def stored_math(gold: str) -> str:
    """Return an integer in canonical form, and any other gold unchanged."""
    if _CANONICAL_INTEGER.fullmatch(gold) or not _SPELT_INTEGER.fullmatch(gold):
        return gold
    key = vote_of_math(gold)
    return key if INTEGER.fullmatch(key) else gold


def check_form(gold: str, accepts: Callable[[str], bool]) -> None:
    """Raise DataError for a gold of mathematics that is a longer text with the answer in it.

    `accepts` returns whether an answer is right.
    """
    text = gold.strip()
    if text.casefold() in _NOTHING or _HOLLOW.fullmatch(text):
        raise DataError(
            f"The gold answer {gold!r} is an empty cell or a placeholder, not an answer. Remove the row, or write "
            rf"\text{{{text}}} if this word is the answer."
        )
    if _LIST.fullmatch(text):
        raise DataError(f"The gold answer {_shown(gold)} is a list; give one answer as text.")
    answer = worked(text)[1]
    if answer is not None and not accepts(answer):
        raise DataError(
            f"The gold answer {_shown(gold)} is a text with the answer {answer!r}, and its judge rejects {answer!r}. {CONVERT}"
        )
    if _CALCULATION.search(text) or "\n" in _ENVIRONMENT.sub("", text):
        raise DataError(f"The gold answer {_shown(gold)} is a text with several lines, not an answer. {CONVERT}")
    numbers = _NUMBER.findall(text) if _STATEMENT.match(text) and len(_WORD.findall(text)) > 3 else []
    if numbers and not accepts(numbers[-1]):
        raise DataError(f"The gold answer {_shown(gold)} is a sentence, not an answer. {CONVERT}")
    if _NEXT_SENTENCE.search(text) and len(_WORD.findall(text)) >= FEW_WORDS:
        raise DataError(f"The gold answer {_shown(gold)} is a text with several sentences, not an answer. {CONVERT}")


def worked(text: str) -> tuple[str, str | None]:
    """Return a solution without calculator marks, and the answer marked at its end; None if no answer is marked."""
    if marked := _MARKED.fullmatch(text):
        return _CALCULATION.sub("", marked[1]), marked[2]
    if (box := last_box(text)) is not None:
        return text, repaired(box).strip()
    stated = _STATED.match(text)
    return text, stated[1] if stated else None


def _verdict(answer: str, gold: str) -> Verdict | Question:
    return decide(rf"\boxed{{{answer}}}", gold)


def _is_right(verdict: Verdict | Question) -> bool:
    return isinstance(verdict, Verdict) and verdict.outcome == "right"


def _shown(gold: str) -> str:
    return repr(gold if len(gold) <= SHOWN else f"{gold[:SHOWN]}...")
