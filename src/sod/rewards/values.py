r"""Parse one value of an answer into a form: a number, an expression, words or an equation, with or without a unit."""

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from math import gcd

from sod.rewards.answers import DEGREE, PERCENT
from sod.rewards.exact import FUNCTIONS, exact
from sod.rewards.sums import Sum, Unreadable, add, approximate, rational, scaled, symbols, written
from sod.rewards.units import NO_UNIT, NUMBER_WORDS, PART_WORDS, Unit, without_unit


@dataclass(frozen=True, slots=True)
class Form:
    """A parsed answer."""

    kind: str
    """"exact", "words" or "opaque"; with several parts "set" (unordered), "matrix ...", "named x, y" or brackets such as "[)"."""
    key: str
    """The canonical string. Forms with equal keys, units and names are equal."""
    latex: str
    """The text for math-verify, without unit and name. Decimals are fractions, because math-verify does not round these."""
    parts: tuple["Form", ...] = ()
    unit: Unit = NO_UNIT
    name: str = ""
    """The variable of an interval, or the connective between names. If both answers have a name, it must be equal."""


def several(kind: str, parts: list[Form], latex: str = "") -> Form:
    left, right = (kind[0], kind[1]) if len(kind) == 2 else (f"{kind}: ", "")
    key = left + ", ".join(part.key for part in parts) + right
    return Form(kind, key, latex or f"{left}{','.join(part.latex for part in parts)}{right}", tuple(parts))


_RATIO = re.compile(r"\d+(?:\s*:\s*\d+)+")
_TIME = re.compile(r"(?:[01]?\d|2[0-4]):[0-5]\d(?::[0-5]\d)?")
_PARTS_IN_WORDS = re.compile(
    rf"({'|'.join(NUMBER_WORDS)})[ -]({'|'.join(PART_WORDS)}|halves|(?:{'|'.join(PART_WORDS)})s)"
)
_WORD = re.compile(r"(?<=\d )[A-Za-z]{3,} \d")
"""A word between two numbers: `2 hours 30`."""
_BELOW_ZERO = re.compile("(?:negative|minus) (.+)")
SAYINGS = {"all real numbers", "all reals", "real numbers"}
"""Words for the interval of all numbers."""
SHORT_WORDS = {"no", "up", "ne", "nw", "se", "sw", "am", "pm", "go"}
_WORDS = re.compile(r"[^\W\d_][^\d\\{}^_=<>+*/()\[\]|]*")
_COUNTED = re.compile(rf"({'|'.join(sorted(NUMBER_WORDS, key=len, reverse=True))}) (\D+)")
_MISSING = re.compile(r"(no (?:\w+ )?(?:solution|root))s?(?: exists?)?")
_FULL_STOP = re.compile(r"(?<!\.)\.$")
_HALF_OF_DAY = re.compile(r"(?<![A-Za-z])([AaPp])\.?\s*[Mm](?![A-Za-z])\.?")
_REMAINDER = re.compile(r"(.*\S)\s*\\bmod\{(.*)\}")
_REPEATING = re.compile(
    r"(\d*)\.(\d*)(?:\\(?:overline|bar|dot)\s*(?:\{(?P<over>\d+)\}|(?P<one>\d))|\((?P<in>\d+)\))(?!\d)"
)
_DECIMAL = re.compile(r"(?<![\d.])(\d*)\.(\d+)(?!\.?\d)")
_DEGREES = re.compile(rf"(\d+(?:\.\d+)?)\s*{DEGREE}")
_RADIANS = r"(\1\\cdot\\frac{\\pi}{180})"
_BARE_FUNCTION = re.compile(r"(?<![\\A-Za-z])(?:arc)?(?:sin|cos|tan|cot|sec|csc|ln|log|exp)(?![A-Za-z])")
_SPACE = re.compile(r"(\\[A-Za-z]+\s|\d\s(?=\d))\s*|\s+")
_ELEMENTS = """H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr
    Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Nd Sm Eu Gd W Os Ir Pt Au Hg Tl Pb Bi Po At Rn Ra Th U Pu"""
FORMULA = re.compile(rf"(?!(?:no|as|in|i|he)$)(?:(?:{'|'.join(_ELEMENTS.split())})\d*)+", re.ASCII)
"""A chemical formula. Capitals are significant in it."""
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(?: \d{3})+(?:\.\d+)?")
IN_BASE = re.compile(r"\(?\s*([0-9A-F]+)\s*\)?\s*_\s*(\{[^{}]*(?:\{[^{}]*\})?\}|\d+)")


def leaf(text: str) -> Form:
    """Return the form of one value: words, a number or an expression, with or without a unit."""
    text = text.strip()
    if words := _words(text):
        if words in NUMBER_WORDS:
            return leaf(str(NUMBER_WORDS[words]))
        if (counted := _COUNTED.fullmatch(words)) and without_unit(
            number := rf"{NUMBER_WORDS[counted[1]]}\text{{ {counted[2]}}}"
        )[1]:
            return leaf(number)
        if missing := _MISSING.fullmatch(words):
            words = missing[1]
        if words in SAYINGS:
            return several("()", [leaf(r"-\infty"), leaf(r"\infty")])
        if part := _PARTS_IN_WORDS.fullmatch(words):
            number = NUMBER_WORDS[part[1]]
            return leaf(rf"\frac{{{number}}}{{{PART_WORDS[part[2].removesuffix('s').replace('halve', 'half')]}}}")
        if (below := _BELOW_ZERO.fullmatch(words)) and below[1] in NUMBER_WORDS:
            return leaf(f"-{NUMBER_WORDS[below[1]]}")
        if words == "empty set":
            return Form("set", "{}", r"\{\}")
        return Form("words", words, rf"\text{{{words}}}")
    if ratio := _ratio(text):
        return ratio
    value, unit = without_unit(text)
    if based := IN_BASE.fullmatch(value):
        base = re.sub(r"\\text|[{}()\s]", "", based[2]).casefold()
        return Form("exact", f"{based[1]}_{NUMBER_WORDS.get(base, base)}", value, unit=unit)
    if _THOUSANDS.fullmatch(value):
        value = value.replace(" ", "")
    value = _REPEATING.sub(_repeating, value)
    try:
        number = _value(value)
    except Unreadable:
        return opaque(text) if unit.modulus or _WORD.search(value) else replace(opaque(value), unit=unit)
    if unit.modulus and not _is_remainder(number, unit.modulus):
        return opaque(text)
    return Form("exact", written(number), _symbolic(value), unit=unit)


def _ratio(text: str) -> Form | None:
    """Return the form of a time such as 5:30, which has no value, or of a ratio of three and more numbers; None for other text.

    Two numbers without a common divisor, such as 12:25, are a time or a ratio, and have the value of the ratio.
    """
    if not _RATIO.fullmatch(text):
        return None
    parts = [int(part) for part in text.split(":")]
    common = gcd(*parts) or 1
    if common > 1 and _TIME.fullmatch(text):
        return replace(opaque(text.removeprefix("0")), latex="")
    if len(parts) < 3:
        return None
    return Form(f"ratio of {len(parts)}", ":".join(str(part // common) for part in parts), "")


def _is_remainder(value: Sum, modulus: str) -> bool:
    """Return whether a value can be a remainder: `7 \\pmod 5` and `\\frac12 \\pmod 5` cannot."""
    if not modulus.isdigit():
        return True
    size = approximate(value)
    return not symbols(value) and size is not None and size == int(size.real) and abs(size) < int(modulus)


def _value(text: str) -> Sum:
    if not (remainder := _REMAINDER.fullmatch(text)):
        return exact(text)
    value, modulus = rational_of(remainder[1]), rational_of(remainder[2])
    if value is None or not modulus or value.denominator != 1 or modulus.denominator != 1:
        raise Unreadable(text)
    return exact(str(value % modulus))


def value_or_nothing(text: str) -> Sum:
    """Return the value of a text; an empty sum if it has no exact value."""
    try:
        return exact(without_unit(text)[0])
    except Unreadable:
        return {}


def product(letters: str) -> Form:
    return Form("exact", written(value_or_nothing(letters)), letters)


def opaque(text: str) -> Form:
    plain = _HALF_OF_DAY.sub(lambda found: f"{found[1].lower()}m", _FULL_STOP.sub("", plain_text(text)))
    return Form("opaque", plain, _symbolic(text))


def plain_text(text: str) -> str:
    r"""Return the text to compare: `H_2O` for `\text{H}_{2}\text{O}`, and words without capitals."""
    plain = re.sub(r"\\text\{((?:[^{}]|\{[^{}]*\})*)\}", r" \1 ", text.removeprefix("{}"))
    plain = re.sub(r"([_^])\s*\{\s*(\w|[-+])\s*\}", r"\1\2", " ".join(plain.split()))
    plain = re.sub(r"(?<![^\W_])\s+|\s+(?![^\W_])|(?<=\d)\s+(?=[A-Za-z])", "", plain)
    return re.sub(r"(?<![A-Za-z\\])[A-Z][a-z]{2,}(?![A-Za-z])", lambda word: word[0].lower(), plain)


def _repeating(decimal: re.Match[str]) -> str:
    """Return a repeating decimal as a fraction: 0.1666..., with a line over the 6 or as 0.1(6)."""
    whole, start, period = decimal[1], decimal[2], decimal["over"] or decimal["one"] or decimal["in"]
    nines = (10 ** len(period) - 1) * 10 ** len(start)
    return rf"\frac{{{int(whole + start + period or 0) - int(whole + start or 0)}}}{{{nines}}}"


def _symbolic(text: str) -> str:
    """Return the text for math-verify.

    Decimals become fractions, degrees radians, percent hundredths. Functions get a backslash.
    """
    if text.isdigit():
        return text
    text = _DEGREES.sub(_RADIANS, text)  # a text with another degree sign is never sent to math-verify
    text = _DECIMAL.sub(lambda found: rf"\frac{{{int(found[1] + found[2])}}}{{1{'0' * len(found[2])}}}", text)
    text = _BARE_FUNCTION.sub(r"\\\g<0>", text).replace(PERCENT, r"\cdot\frac{1}{100}")
    return _SPACE.sub(r"\1", re.sub(r"_(\d+)\s+", r"_{\1}", text))  # math-verify parses only the a of `a b c`


def in_radians(text: str) -> str:
    return _DEGREES.sub(_RADIANS, text).replace(DEGREE, r"\cdot\frac{\pi}{180}")


def _words(text: str) -> str:
    """Return an answer in words in lower case, without article and full stop; empty if the answer is not in words."""
    plain, styled = re.subn(r"\\text\{([^{}]*)\}", r" \1 ", text)
    if not _WORDS.fullmatch(plain := " ".join(plain.split())):
        return ""
    words = plain.casefold().strip(" .,;:!'\"").split()
    runs = re.findall(r"[^\W\d_]+", plain.casefold())  # p and q for p-q
    if (not styled and not any(len(run) > 2 or run in SHORT_WORDS for run in runs)) or FUNCTIONS & set(words):
        return ""
    if [len(word) for word in words] == [1]:
        return ""
    return " ".join(words[words[0] in ("a", "an", "the") and len(words) > 1 :])


def equation_of(left: str, right: str) -> Form:
    """Return the form of an equation: left side minus right side equals zero, up to a factor."""
    value, unit = without_unit(right)
    try:
        if not (zero := add(exact(left), exact(value), -1)):
            return replace(opaque(f"{left}={value}"), latex="", unit=unit)  # an identity
        return Form("exact", f"0 = {written(scaled(zero))}", _symbolic(f"{left}={right}"), unit=unit)
    except Unreadable:
        return replace(opaque(f"{left}={value}"), unit=unit)


def rational_of(text: str) -> Fraction | None:
    try:
        return rational(exact(text))
    except Unreadable:
        return None
