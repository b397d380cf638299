r"""Split an answer at separators and relations outside brackets, into sides of equations and named values."""

import re

from sod.rewards.exact import exact
from sod.rewards.sums import Unreadable, symbols

_SUBSCRIPT = r"(?:_(?:\{\\text\{[^{}]*\}\}|\{\\?[\w,]+\}|\\?\w+))?"
NAME_PATTERN = re.compile(rf"(?!\\(?:pi|infty)$)(?:[A-Za-z]|\\[a-z]+){_SUBSCRIPT}")
LABEL = re.compile(r"\\text\{.*|[A-Za-z]{3,}|[A-Za-z](?:_\w+|\^\{-1\}|')*\s*\([^()]*\)|\(.*,.*\)")
RELATIONS = {"=", "<", ">", r"\le", r"\ge", r"\ne", r"\equiv", r"\approx", r"\in"}
SEVERAL = {",", ";", r"\lor", r"\land", r"\cup"}
BRACKET = re.compile(r"\\[{}]|\\[lr]angle(?![a-z])|\\(?:begin|end)\{\w+\}|\\[a-zA-Z]+|\\.|.", re.DOTALL)
OPENING = {"(", "[", "{", r"\{", r"\langle"}
CLOSING = {")", "]", "}", r"\}", r"\rangle"}
_MODULUS = re.compile(r"\s*\\pmod\{[^{}]*\}$")
_RATIO = re.compile(r"\\frac\{(\w)\}\{(\w)\}|(\w)/(\w)")
_ENCLOSED = re.compile(r"(?:\\\{|\()(.*)(?:\\\}|\))", re.DOTALL)


def split_outside(text: str, separators: set[str]) -> tuple[list[str], list[str]]:
    """Return the parts between the separators outside brackets, and these separators."""
    parts, found, depth = [""], [], 0
    for token in BRACKET.findall(text):
        depth += (token in OPENING or token.startswith(r"\begin")) - (token in CLOSING or token.startswith(r"\end"))
        if depth == 0 and token in separators:
            parts.append("")
            found.append(token)
        else:
            parts[-1] += token
    return parts, found


def relations(text: str) -> bool:
    """Return whether a text is more than one value: a relation, or several values."""
    return bool(split_outside(text, RELATIONS | SEVERAL)[1])


def is_balanced(tokens: list[str]) -> bool:
    depth = 0
    for token in tokens:
        depth += (token in OPENING) - (token in CLOSING)
        if depth < 0:
            return False
    return depth == 0


# Equations


def sides(text: str) -> tuple[str, str] | None:
    """Return the first and the last side of an equation or a chain; None for other text, `Area = 5` and `2^2 = 4`."""
    pair = _ends(text)
    if pair is None or not re.search("[a-zA-Z]", pair[0]) or LABEL.fullmatch(pair[0]):
        return None
    return pair if NAME_PATTERN.fullmatch(pair[0]) or not is_number(pair[0]) else None


def _ends(text: str) -> tuple[str, str] | None:
    """Return the first and the last side of a chain of equations, the value last; None for other text."""
    parts, found = split_outside(text, RELATIONS | SEVERAL)
    parts = value_last([part.strip() for part in parts])
    return (parts[0], parts[-1]) if set(found) == {"="} and all(parts) else None


def value_last(parts: list[str]) -> list[str]:
    """Return the sides of an equation, in reverse order if the value comes first: `5 = x`, `204 = m + n`."""
    return parts[::-1] if is_number(parts[0]) and not is_number(parts[-1]) else parts


def is_number(text: str) -> bool:
    try:
        return not symbols(exact(_MODULUS.sub("", text)))
    except Unreadable:
        return False


def sum_of_named(parts: list[str]) -> str | None:
    """Return the value of a last equation whose left side is built from the names before it; None for other parts.

    The value of `m = 200, n = 4, m+n = 204` and of `m/n = 200/4, m+n = 204` is 204.
    """
    pairs = [sides(part) for part in parts]
    if None in pairs or len(pairs) < 2:
        return None
    *names, (asked, value) = [pair for pair in pairs if pair]
    letters = {letter for name, _ in names for letter in _RATIO.sub(r"\1\3 \2\4", name).split()}
    return value if asked not in letters and len(asked) > 1 and set(re.findall("[A-Za-z]", asked)) <= letters else None


# Names


def named_values(text: str) -> list[tuple[str, str]]:
    """Return (name, value) of each part of `x = 1, y = 2` or `(x, y) = (1, 2)`, in the order written; [] for other text."""
    if "=" not in text:
        return []
    if (inner := _ENCLOSED.fullmatch(text.strip())) and is_balanced(BRACKET.findall(inner[1])):
        text = inner[1]
    pairs = [_ends(part) for part in split_outside(text, {",", ";", r"\land"})[0]]
    found = [(re.sub(r"\s", "", pair[0]), pair[1]) for pair in pairs if pair and not is_number(pair[0])]
    if len(found) == len(pairs) == 1:
        names, values = (elements(side) for side in found[0])
        if len(names) == len(values) > 1 and all(map(NAME_PATTERN.fullmatch, names)):
            found = list(zip(names, values, strict=True))
    return found if len(found) >= len(pairs) and len({name for name, _ in found}) > 1 else []


def elements(text: str) -> list[str]:
    """Return the elements of a tuple, or of a list without brackets."""
    text = text.strip()
    if text.startswith("(") and text.endswith(")") and is_balanced(BRACKET.findall(text[1:-1])):
        text = text[1:-1]
    return [part.strip() for part in split_outside(text, {",", ";", r"\land"})[0]]


def in_order(pairs: list[tuple[str, str]]) -> str:
    """Return `(6, 31, -1)` for `x = 6, y = 31, z = -1`. Letters are sorted; other names keep their order."""
    if all(re.fullmatch(rf"[A-Za-z]{_SUBSCRIPT}", name) for name, _ in pairs):
        pairs = sorted(pairs)
    return f"({','.join(value for _, value in pairs)})"


def with_names(text: str, pairs: list[tuple[str, str]]) -> str:
    """Return `x = 1, y = 2` for `(1, 2)`, with the names of the gold answer. Other text, such as named values, is unchanged."""
    values = elements(text)
    if len(values) != len(pairs) or any(relations(value) or not value for value in values):
        return text
    return ",".join(f"{name}={value}" for (name, _), value in zip(pairs, values, strict=True))


# Systems, and solutions for every integer

_SYSTEM = re.compile(
    r"(?:\\\{)?\s*(?:\\begin\{(?P<name>cases|array)\}(?:\s*\{[lcr]+\})?)?(.*?)(?:\\end\{(?P=name)\})?\s*\.?\s*",
    re.DOTALL,
)
_INTEGERS = re.compile(
    r"(.*?)\s*[,;(]?\s*(?:\\text\{\s*(?:where|for|with|for any|for all|for some)\s*\}\s*|(?<=[,;( ]))"
    r"([a-z])\s*(?:\\in\s*(?:\\(?:mathbb|text)\s*)?(?:\{\s*Z\s*\}|Z)|\\text\{\s*(?:is )?an(?:y)? integer\s*\})\s*\)?",
    re.DOTALL,
)
_LETTERS = re.compile(r"\\[A-Za-z]+|[A-Za-z]")


def in_a_line(text: str) -> str:
    r"""Return `x=1,y=2` for `\begin{cases} x=1 \\\\ y=2 \end{cases}`. A function in two parts and other text are unchanged."""
    if r"\\" not in text or not (system := _SYSTEM.fullmatch(text)):
        return text
    rows = [re.sub(r"&\s*(?==)|(?<==)\s*&|[,;.\s]+$", "", row.strip()) for row in system[2].split(r"\\")]
    joined = ",".join(row for row in rows if row)
    pairs = named_values(joined)
    is_solved = len(pairs) == len(split_outside(joined, {","})[1]) + 1 and all(
        NAME_PATTERN.fullmatch(name) for name, _ in pairs
    )
    return joined if is_solved and "&" not in joined else text


def of_integers(gold: str, answer: str) -> tuple[str, str]:
    r"""Return both without a last `k \in \mathbb{Z}`. The answer has the letter of the gold if both have one."""
    (gold, letter), (answer, other) = (_without_integers(text) for text in (gold, answer))
    if letter and other and letter not in _LETTERS.findall(answer) and other not in _LETTERS.findall(gold):
        answer = _LETTERS.sub(lambda found: letter if found[0] == other else found[0], answer)
    return gold, answer


def _without_integers(text: str) -> tuple[str, str]:
    found = _INTEGERS.fullmatch(text) if "Z" in text or "integer" in text else None
    return (found[1], found[2]) if found and found[2] in _LETTERS.findall(found[1]) else (text, "")
