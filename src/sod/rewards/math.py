r"""Mathematics: the last boxed answer of the last turn, compared with the gold one by what it means.

Three layers decide, each only what it is sure of:

1. *exact*: an answer is read as numbers, roots, symbols and their sums and products, in exact arithmetic, within
   tuples, sets, intervals, matrices. What is read so has one canonical string, and is equal to another if that is:
   `\frac12` = `0.5`, `\sqrt{242}` = `11√2`, `4i+3` = `3+4i`. Nothing is rounded: 0.3333 is no third.
2. *text*: what cannot be read so is equal if it is written alike.
3. *symbolic*: what is left, `\frac{1}{1+\sqrt2}`, `\cot x`, goes to math-verify in another process.

An integer gold, and a gold that is text, are decided by the first two alone.
"""

import asyncio
import re
from dataclasses import dataclass

from sod.errors import DataError, InfrastructureError
from sod.rewards import Verdict
from sod.rewards.answers import final_answer, tidy
from sod.rewards.forms import UNITS, Form, readings
from sod.rewards.symbolic import Symbolic

INTEGER = re.compile(r"-?\d+")
LONGEST, DEEPEST, MOST_DIGITS = 400, 12, 60
"""Answers of more characters, brackets within brackets, or digits in a row than these are wrong without a look."""


class MathJudge:
    """Judges answers that are numbers, expressions, tuples, sets, intervals, matrices, equations or words."""

    def __init__(self, symbolic: Symbolic | None = None) -> None:
        self._symbolic = symbolic or Symbolic()

    def check(self, gold: str) -> None:
        if not tidy(gold).strip("=. "):
            raise DataError(f"The gold answer {gold!r} is empty.")

    async def __call__(self, text: str, gold: str) -> Verdict:
        verdict = decide(text, gold)
        return verdict if isinstance(verdict, Verdict) else await asyncio.to_thread(self._ask, verdict)

    def judge(self, text: str, gold: str) -> Verdict:
        """The same, at once; from any thread."""
        verdict = decide(text, gold)
        return verdict if isinstance(verdict, Verdict) else self._ask(verdict)

    def close(self) -> None:
        """End the process that compares symbolically."""
        self._symbolic.close()

    def _ask(self, question: "Question") -> Verdict:
        try:
            equal = self._symbolic.equal(question.pairs)
        except InfrastructureError as error:
            return Verdict(outcome="ungraded", answer=question.answer, reason=str(error))
        return Verdict(outcome="right" if equal else "wrong", answer=question.answer, reason="symbolic")


# From two texts to a verdict


@dataclass(frozen=True, slots=True)
class Question:
    """What the cheap layers leave open: are both equal in all of these pairs of gold and answer?"""

    pairs: list[tuple[str, str]]
    answer: str


def decide(text: str, gold: str) -> Verdict | Question:
    """The verdict of the cheap layers, or what has to be asked of the symbolic one."""
    boxed = final_answer(text)
    if boxed is None:
        return Verdict(outcome="wrong", reason="no answer")
    if reason := too_long(boxed):
        same = boxed == gold.strip()
        return (
            Verdict(outcome="right", answer=boxed, reason="same text")
            if same
            else Verdict(outcome="wrong", reason=reason)
        )
    if not (answer_text := tidy(boxed)):
        return Verdict(outcome="wrong", reason="empty answer")
    golds, answer = readings(tidy(gold), answer_text)
    open_pairs = [pairs for form in golds if (pairs := undecided(form, answer)) is not None]
    layer = "text" if answer.kind in ("opaque", "words") else "exact"
    if [] in open_pairs:
        return Verdict(outcome="right", answer=golds[0].key, reason=layer)
    if not open_pairs or INTEGER.fullmatch(golds[0].key):
        return Verdict(outcome="wrong", answer=answer.key, reason=layer)
    if reason := next((reason for pair in open_pairs[0] if (reason := not_to_ask(*pair))), ""):
        return Verdict(outcome="wrong", answer=answer.key, reason=reason)
    return Question(open_pairs[0], answer.key)


def undecided(gold: Form, answer: Form) -> list[tuple[str, str]] | None:
    """The pairs of LaTeX that must be equal for the two to be; none if they are for sure, None if they are not."""
    if gold.unit in UNITS and answer.unit in UNITS and UNITS[gold.unit] != UNITS[answer.unit]:
        return None
    if gold.key == answer.key:
        return []
    kinds = {gold.kind, answer.kind}
    if "words" in kinds or ("opaque" not in kinds and (len(kinds) > 1 or len(gold.parts) != len(answer.parts))):
        return None
    if gold.kind != answer.kind or not gold.parts:
        return None if kinds == {"exact"} else [(gold.latex, answer.latex)]
    if gold.kind == "set":
        return _undecided_sets(gold, answer)
    pairs: list[tuple[str, str]] = []
    for one, other in zip(gold.parts, answer.parts, strict=True):
        if (more := undecided(one, other)) is None:
            return None
        pairs += more
    return pairs


def _undecided_sets(gold: Form, answer: Form) -> list[tuple[str, str]] | None:
    gold_keys, answer_keys = {part.key for part in gold.parts}, {part.key for part in answer.parts}
    golds = [part for part in gold.parts if part.key not in answer_keys]
    answers = [part for part in answer.parts if part.key not in gold_keys]
    if len(golds) == len(answers) == 1:
        return undecided(golds[0], answers[0])
    if len(golds) != len(answers) or not any(part.kind == "opaque" for part in (*golds, *answers)):
        return None
    one, other = (rf"\{{{','.join(part.latex for part in parts)}\}}" for parts in (golds, answers))
    return [(one, other)]


# Limits


def too_long(text: str) -> str:
    """Why a text is not worth reading; empty if it is. Found in one pass at most."""
    if len(text) > LONGEST:
        return f"more than {LONGEST} characters"
    if re.search(rf"\d{{{MOST_DIGITS}}}", text):
        return f"{MOST_DIGITS} digits in a row"
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return f"more than {DEEPEST} brackets within brackets" if deepest > DEEPEST else ""


TOO_HARD = {
    "a large exponent": re.compile(r"\^\s*\{?\s*[-+(]*\s*\d{4}|[)}]\s*\^\s*\{?\s*[-+(]*\s*\d{3}"),
    "a tower of powers": re.compile(r"\^[^a-zA-Z+=,^]{0,20}\^[^a-zA-Z+=,^]{0,20}\d|\^\{[^{}]{0,10}\^\{[^{}]{0,10}\^"),
    "a large or repeated factorial": re.compile(r"\d{3}\s*[)}]?\s*!|[)}!]\s*!"),
    "a large binomial": re.compile(r"\\[dt]?binom.{0,40}?(?:\d{4}|\^)|\\choose"),
    "a sum, product or integral": re.compile(r"\\(?:sum|prod|i*nt|oint|lim|bigcup|bigcap)(?![a-z])"),
    "many signs": re.compile(r"(?:[-+]\s*){5}"),
    "many digits": re.compile(r"\d{25}"),
}
"""What sympy could compute for ever: an answer that is so, and that the cheap layers do not know, is wrong."""


MISREAD = {
    "a ratio": re.compile(":"),
    "a relation": re.compile(r"[<>]|\\(?:[gl]e|ne|in|equiv|approx|to|sim|mid)(?![a-z])"),
    "dots": re.compile(r"\.\.|\\[lcdv]?dots(?![a-z])"),
    "words": re.compile(r"\\text"),
    "a number in another base": re.compile(r"\d\s*\)?\s*_"),
}
"""What math-verify takes for something else, such as 1:2 for 1/2: not asked, unless the gold answer has it too."""


def not_to_ask(gold: str, answer: str) -> str:
    """Why an answer is wrong without asking whether it is symbolically equal; empty if it is to be asked."""
    for reason, pattern in TOO_HARD.items():
        if pattern.search(answer):
            return f"too hard: {reason}"
    if ("=" in gold) != ("=" in answer):
        return "an equation"
    return next((name for name, pattern in MISREAD.items() if pattern.search(answer) and not pattern.search(gold)), "")
