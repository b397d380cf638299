r"""Judge answers of mathematics: compare the last box of the last turn with the gold answer by value.

Three layers decide in this order:

1. *exact*: parses sums and products of numbers, roots and symbols, within tuples, sets, intervals and matrices. Each value has
   one canonical string, and equal strings are equal values: `\frac12` = `0.5`, `\sqrt{242}` = `11√2`, `4i+3` = `3+4i`. Nothing is
   rounded: 0.3333 is not 1/3.
2. *text*: compares the text of what the first layer cannot parse.
3. *symbolic*: sends other expressions, such as `\frac{1}{1+\sqrt2}` and `\cot x`, to math-verify in another process.

The first two layers alone decide for a gold that is an integer or words.
"""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass

from sod.errors import DataError, InfrastructureError
from sod.rewards import NO_ANSWER, Verdict
from sod.rewards.answers import final_answer, tidy
from sod.rewards.readings import readings, spelled
from sod.rewards.symbolic import Symbolic
from sod.rewards.values import Form

INTEGER = re.compile(r"-?\d+")
_SPACED_THOUSANDS = re.compile(r"[-+]?(?:\\?\$)?[1-9]\d{0,2}(?:,\\ \d{3})+\.?")
_LISTED = re.compile(r"[1-9]\d{0,2}(?:,\d{3})+")
LONGEST, DEEPEST, MOST_DIGITS = 400, 12, 60
"""Longer answers, deeper nested brackets and longer runs of digits are wrong without being parsed."""


class MathJudge:
    """Judge answers that are numbers, expressions, tuples, sets, intervals, matrices, equations or words."""

    def __init__(self, symbolic: Symbolic | None = None) -> None:
        self._symbolic = symbolic or Symbolic()

    def check(self, gold: str) -> None:
        if not tidy(gold).strip("=. "):
            raise DataError(f"The gold answer {gold!r} is empty.")

    async def __call__(self, text: str, gold: str) -> Verdict:
        verdict = decide(text, gold)
        return verdict if isinstance(verdict, Verdict) else await asyncio.to_thread(self._ask, verdict)

    def judge(self, text: str, gold: str) -> Verdict:
        """Return the verdict on an attempt. May be called from any thread."""
        verdict = decide(text, gold)
        return verdict if isinstance(verdict, Verdict) else self._ask(verdict)

    def close(self) -> None:
        """End the symbolic worker process."""
        self._symbolic.close()

    def _ask(self, question: "Question") -> Verdict:
        try:
            equal = self._symbolic.equal(question.pairs)
        except InfrastructureError:
            return self._ask_by_value(question)
        return question.verdict(equal)

    def _ask_by_value(self, question: "Question") -> Verdict:
        """Return the verdict where expressions are too hard to compare: by values, or wrong if the answer has none.

        Ungraded only if the values of the gold answer alone cannot be computed either.
        """
        try:
            return question.verdict(self._symbolic.equal(question.pairs, by_value=True))
        except InfrastructureError as error:
            reason = str(error)
        try:
            self._symbolic.equal([(gold, gold) for gold, _ in question.pairs], by_value=True)
        except InfrastructureError as error:
            return Verdict(outcome="ungraded", answer=question.answer, reason=str(error))
        return Verdict(outcome="wrong", answer=question.answer, reason=f"too hard to compare: {reason}")


# From two texts to a verdict


@dataclass(frozen=True, slots=True)
class Question:
    """A comparison for the symbolic layer: the answer is right if all pairs (gold, answer) are equal."""

    pairs: list[tuple[str, str]]
    answer: str
    """The canonical answer, for votes."""
    gold: str
    """The canonical gold answer, for votes."""

    def verdict(self, equal: bool) -> Verdict:
        """Return the verdict for a reply of the symbolic layer."""
        answer = self.gold if equal else self.answer
        return Verdict(outcome="right" if equal else "wrong", answer=answer, reason="symbolic")


def decide(text: str, gold: str) -> Verdict | Question:
    """Return the verdict of the first two layers, or the question for the symbolic layer."""
    boxed = final_answer(text)
    if boxed is None:
        return Verdict(outcome="wrong", reason=NO_ANSWER)
    if reason := too_long(boxed):
        same = boxed == gold.strip()
        return (
            Verdict(outcome="right", answer=boxed, reason="same text")
            if same
            else Verdict(outcome="wrong", reason=reason)
        )
    if _SPACED_THOUSANDS.fullmatch(boxed) and INTEGER.fullmatch(tidy(gold)):
        boxed = boxed.replace(r",\ ", "")
    if not (answer_text := tidy(boxed)):
        return Verdict(outcome="wrong", reason="empty answer")
    golds, answer = spelled(gold, answer_text) or readings(tidy(gold), answer_text)
    if len(golds[0].parts) > 1 and len(parts := boxed.split(",")) == len(golds[0].parts) and _LISTED.fullmatch(boxed):
        answer = readings(tidy(gold), ", ".join(parts))[1]  # 60,120 is 60120 only if one number is asked for
    open_pairs = [pairs for form in golds if (pairs := undecided(form, answer)) is not None]
    layer = "text" if answer.kind in ("opaque", "words") else "exact"
    if [] in open_pairs:
        return Verdict(outcome="right", answer=golds[0].key, reason=layer)
    vote = answer.key if answer.key != golds[0].key else answer_text  # the key of 5 km is 5, as that of 5 m
    if not open_pairs or INTEGER.fullmatch(golds[0].key):
        return Verdict(outcome="wrong", answer=vote, reason=layer)
    if reason := next((reason for pair in open_pairs[0] if (reason := not_to_ask(*pair))), ""):
        return Verdict(outcome="wrong", answer=vote, reason=reason)
    return Question(open_pairs[0], vote, golds[0].key)


def undecided(gold: Form, answer: Form) -> list[tuple[str, str]] | None:
    """Return the pairs of LaTeX that must be equal; an empty list if the two forms are equal, None if they differ."""
    if not gold.unit.agrees(answer.unit) or (gold.name and answer.name and gold.name != answer.name):
        return None
    if gold.key == answer.key and not (gold.parts and answer.parts):
        return []
    kinds = {gold.kind, answer.kind}
    if "words" in kinds or ("opaque" not in kinds and (len(kinds) > 1 or len(gold.parts) != len(answer.parts))):
        return None
    if gold.kind != answer.kind or not gold.parts:
        return None if kinds == {"exact"} or not (gold.latex and answer.latex) else [(gold.latex, answer.latex)]
    if gold.kind == "set":
        return _undecided_sets(gold, answer)
    pairs: list[tuple[str, str]] = []
    for one, other in zip(gold.parts, answer.parts, strict=True):
        if (more := undecided(one, other)) is None:
            return None
        pairs += more
    return pairs


def _undecided_sets(gold: Form, answer: Form) -> list[tuple[str, str]] | None:
    golds, answers = _without_equals(gold.parts, answer.parts)
    if len(golds) == len(answers) < 2:
        return undecided(golds[0], answers[0]) if golds else []
    if len(golds) != len(answers) or not any(part.kind == "opaque" for part in (*golds, *answers)):
        return None
    one, other = (rf"\{{{','.join(part.latex for part in parts)}\}}" for parts in (golds, answers))
    return [(one, other)]


def _without_equals(golds: Sequence[Form], answers: Sequence[Form]) -> tuple[list[Form], list[Form]]:
    """Return the parts of each set that have no equal part in the other set."""
    by_key: dict[str, list[Form]] = {}
    for part in answers:
        by_key.setdefault(part.key, []).append(part)
    left = []
    for part in golds:
        alike = by_key.get(part.key, [])
        if (equal := next((other for other in alike if undecided(part, other) == []), None)) is None:
            left.append(part)
        else:
            alike.remove(equal)
    return left, [part for parts in by_key.values() for part in parts]


# Limits


def too_long(text: str) -> str:
    """Return the limit that a text exceeds, or an empty string. Takes linear time."""
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
"""Patterns for which sympy may not end. An answer that matches is wrong unless the first two layers accept it."""


_SMALL_FACTORIAL = re.compile(r"\(\s*(?:\d\s*[a-z]|[a-z])\s*(?:[-+]\s*\d\s*)?\)\s*!(?!\s*!)")
MISREAD = {
    "a ratio": re.compile(":"),
    "a relation": re.compile(r"[<>]|\\(?:[gl]e|ne|in|equiv|approx|to|sim|mid)(?![a-z])"),
    "dots": re.compile(r"\.\.|\\[lcdv]?dots(?![a-z])"),
}
"""Notation that math-verify misreads, such as 1:2 as 1/2. It is only compared if the gold has it as well."""

_KNOWN = """frac over sqrt sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg exp pi infty cdot times div pm
    mp binom cup cap setminus in le ge ne mid begin end lfloor rfloor lceil rceil sum prod int lim to equiv approx ldots
    dots cdots alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau
    upsilon phi varphi chi psi omega Delta Theta Lambda Xi Sigma Phi Psi Omega ell"""
_KEPT = re.compile(
    rf"(?:\\(?:{'|'.join(_KNOWN.split())})(?![A-Za-z])|\\[{{}}\\,;! ]|\{{[bp]?matrix\}}|(?<![A-Za-z])[A-Za-z]{{1,3}}(?![A-Za-z])"
    r"|[\d\s+\-*/^_=().,:<>|!&\[\]{}])*"
)
_DROPPED = re.compile(
    r"(?<![A-Za-z])(?:min|max|gcd|lcm|mod|det|arg|dim|ker|inf|sup|nan)(?![A-Za-z])|\{\}|\d\s+\d|[A-Za-z]\^\{\(|\d\s*\)?\s*_|\^\s*\{?\s*T(?![A-Za-z])|(?<![A-Za-z\\])[fghFGHP]\s*\("
)
"""Notation that math-verify may drop, or parse as a product."""
_NAMES = re.compile(r"\\[A-Za-z]+|\{[bp]?matrix\}|[A-Za-z]")


def _has_equals_sign(latex: str) -> bool:
    """Return whether there is an equals sign outside the limits of a sum."""
    return "=" in re.sub(r"_\s*\{[^{}]*\}", "", latex)


def not_to_ask(gold: str, answer: str) -> str:
    """Return the reason why an answer is wrong without a symbolic comparison; empty if it must be compared."""
    easy = _SMALL_FACTORIAL.sub("n!", answer)
    for reason, pattern in TOO_HARD.items():
        if pattern.search(easy):
            return f"too hard: {reason}"
    if _has_equals_sign(gold) != _has_equals_sign(answer):
        return "an equation"
    if reason := next((n for n, pattern in MISREAD.items() if pattern.search(answer) and not pattern.search(gold)), ""):
        return reason
    names = set(_NAMES.findall(f"{gold} {answer}"))  # math-verify ignores capitals
    kept = len({name.casefold() for name in names}) == len(names)
    kept = kept and all(_KEPT.fullmatch(text) and not _DROPPED.search(text) for text in (gold, answer))
    return "" if kept else "other text"
