r"""Whether a right answer can equal a gold: proved before the first token is sampled.

A perfect student writes the answer in a box and nothing else. Of every gold this proves that its own judge accepts the gold
itself in a box. Of a gold that holds its answer at a place that data sets are published with (`#### 18`, a box within a
sentence, `the answer is 18`), it proves that the judge accepts this answer alone as well. A text of several
lines or sentences is no answer. Nothing symbolic is computed: what the exact layers of the judge leave open counts as
accepted. Whether the gold is the right answer to its problem cannot be proved.
"""

import re
from collections.abc import Callable
from functools import lru_cache

from sod.errors import DataError
from sod.rewards import Verdict
from sod.rewards.answers import last_box
from sod.rewards.choice import USUAL, ChoiceJudge
from sod.rewards.code_golds import tests_of
from sod.rewards.math import INTEGER, MathJudge, Question, decide

KINDS = ("math", "choice", "code")
CACHED = 1 << 16
CONVERT = "`sod data convert FILE` takes the answer out of such texts where it can."
FEW_WORDS = 8
"""Text of fewer words is not taken for sentences: `4 p.m. Tuesday`."""
SHOWN = 40
"""Characters of a gold that an error shows."""

_MARKED = re.compile(r"(.*?)\s*##+\s*([^\n#]+?)\s*", re.DOTALL)
"""GSM8K: a solution, and its answer after a mark."""
_CALCULATION = re.compile(r"<<[^<>]*>>")
"""GSM8K: what a calculator is to be given, within a solution."""
_STATED = re.compile(
    r".*\banswer\s*(?:is|:|=)\s*:?\s*(\S[^\n]*?)\.?(?:\s*I hope it is correct\.?)?\s*$", re.IGNORECASE | re.DOTALL
)
_ENVIRONMENT = re.compile(r"\\begin\{(\w+\*?)\}.*?\\end\{\1\}", re.DOTALL)
_NEXT_SENTENCE = re.compile(r"[a-z\d)}$%][.!?]\s+[A-Z]")
_STATEMENT = re.compile(r"(?:so|thus|therefore|hence|since|because|we|he|she|they)\b", re.IGNORECASE)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_WORD = re.compile(r"[^\W\d_]+")
_LIST = re.compile(r"\[\s*(['\"]).*\1\s*,?\s*\]", re.DOTALL)
_NOTHING = {"nan", "null", "<na>", "[]", "{}"}
_MATH = MathJudge()


def check_gold(kind: str, gold: str, options: int = USUAL) -> None:
    """Raises DataError for a kind that has no judge, or a gold that its judge cannot judge by. `options`: those of a choice."""
    if kind not in KINDS:
        raise DataError(f"it is of kind {kind!r}; judges exist for {', '.join(KINDS)}.")
    try:
        prove(kind, gold, options)
    except DataError as error:
        raise DataError(f"no judge can use its answer: {error}") from error


def prove(kind: str, gold: str, options: int = USUAL) -> None:
    """The same for a known kind, in words of the gold alone."""
    if kind != "math" or not INTEGER.fullmatch(gold):
        _prove(kind, gold, options)


def check_form(gold: str, accepts: Callable[[str], bool]) -> None:
    """Raises DataError for a gold of mathematics that is a text around its answer. `accepts`: whether an answer is right."""
    text = gold.strip()
    if text.casefold() in _NOTHING:
        raise DataError(f"The gold answer {gold!r} is an empty cell.")
    if _LIST.fullmatch(text):
        raise DataError(f"The gold answer {_shown(gold)} is a list; give one answer as text.")
    answer = worked(text)[1]
    if answer is not None and not accepts(answer):
        raise DataError(
            f"The gold answer {_shown(gold)} is a text whose answer is {answer!r}, which its judge would reject. {CONVERT}"
        )
    if _CALCULATION.search(text) or "\n" in _ENVIRONMENT.sub("", text):
        raise DataError(f"The gold answer {_shown(gold)} is a text of several lines, not an answer. {CONVERT}")
    numbers = _NUMBER.findall(text) if _STATEMENT.match(text) and len(_WORD.findall(text)) > 3 else []
    if numbers and not accepts(numbers[-1]):
        raise DataError(f"The gold answer {_shown(gold)} is a sentence, not an answer. {CONVERT}")
    if _NEXT_SENTENCE.search(text) and len(_WORD.findall(text)) >= FEW_WORDS:
        raise DataError(f"The gold answer {_shown(gold)} is a text of several sentences, not an answer. {CONVERT}")


def worked(text: str) -> tuple[str, str | None]:
    """A worked solution without marks for calculators, and the answer that it ends in; None where none is marked."""
    if marked := _MARKED.fullmatch(text):
        return _CALCULATION.sub("", marked[1]), marked[2]
    if (box := last_box(text)) is not None:
        return text, box.strip()
    stated = _STATED.match(text)
    return text, stated[1] if stated else None


@lru_cache(maxsize=CACHED)
def _prove(kind: str, gold: str, options: int) -> None:
    match kind:
        case "math":
            _MATH.check(gold)
            itself = _verdict(gold, gold)
            if isinstance(itself, Verdict) and itself.outcome != "right":
                raise DataError(f"The gold answer {_shown(gold)} is wrong by its own judge. {CONVERT}")
            check_form(gold, lambda answer: _is_right(_verdict(answer, gold)))
        case "choice":
            ChoiceJudge(options).check(gold)
        case _:
            tests_of(gold)


def _verdict(answer: str, gold: str) -> Verdict | Question:
    return decide(rf"\boxed{{{answer}}}", gold)


def _is_right(verdict: Verdict | Question) -> bool:
    return isinstance(verdict, Verdict) and verdict.outcome == "right"


def _shown(gold: str) -> str:
    return repr(gold if len(gold) <= SHOWN else f"{gold[:SHOWN]}...")
