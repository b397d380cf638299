r"""Parse an answer into a form: a value, or a set, tuple, interval or matrix of several forms."""

import re
from dataclasses import replace
from itertools import pairwise
from math import pi

from sod.rewards.answers import DEGREE, peel
from sod.rewards.exact import exact
from sod.rewards.structure import (
    BRACKET,
    CLOSING,
    LABEL,
    NAME_PATTERN,
    OPENING,
    RELATIONS,
    is_balanced,
    is_number,
    named_values,
    split_outside,
    sum_of_named,
    value_last,
)
from sod.rewards.sums import Unreadable, approximate, is_linear, symbols
from sod.rewards.units import UNTRUE
from sod.rewards.values import FORMULA, IN_BASE, Form, leaf, opaque, rational_of, several, value_or_nothing

_VERBS = """is are was were be has have had makes? made earns? earned gets? got needs? needed takes? took costs? pays? paid
    spends? spent weighs? sells? sold contains? saves? saved leaves eats? ate reads? buys? bought travels? drives? drove
    runs? walks? walked uses? used receives? received gives? becomes? remains? collects? collected holds? scores? scored
    finds? found produces? picks? picked bakes? baked"""
_LEAD_IN = re.compile(
    r"\\text\{([^{}]*)\}\s*:?\s*(?=[^\s_^])"
    rf"|([A-Za-z][A-Za-z ,']*(?:\b(?:{'|'.join(_VERBS.split())}|equals)\s|:\s*))(?=\S)",
    re.IGNORECASE,
)
_LEADING = re.compile(
    rf"(?:\b(?:{'|'.join(_VERBS.split())}|equals?|answer|therefore|thus|so|hence)|:)\W*$", re.IGNORECASE
)
_ABOUT = re.compile(r"\s*(?:\\(?:approx|simeq|sim)(?![a-z])|~)\s*")
LETTER_OF_CHOICE = re.compile(r"(?:\\text\{\s*)?\(([A-J])\)\s*\}?\s*(?=-?\.?\d|\\frac|\\sqrt)")
_JOINED = re.compile(r"(?:\\neg\s*)?(?:[A-Za-z]|\\[a-z]+)")
_EQUAL = {"=", r"\equiv", r"\approx"}
_MATRIX = re.compile(r"[(\[]?\\begin\{(?:[pbB]?matrix|array)\}(?:\{[lcr|]*\})?(.*)\\end\{\w+\}[)\]]?", re.DOTALL)
_PLUS_MINUS = re.compile(r"\\pm(?![a-z])")
_DISTANCE = re.compile(rf"\|\s*({NAME_PATTERN.pattern})\s*([-+][^|]*)?\|")
_ALL_WITHOUT = re.compile(r"\(-\\infty,\\infty\)\s*\\(?:setminus|backslash)\s*\\\{([^{}]*)\\\}")
_LOWEST, _HIGHEST = r"-\infty", r"\infty"
_INTERVALS = {"()", "[)", "(]", "[]"}


def read_form(text: str) -> Form:
    """Return the form of a normalised answer."""
    text = without_lead_in(text)
    for separators in ({r"\Rightarrow", r"\implies", r"\rightarrow", r"\to"}, {r"\cup", r"\lor"}, {",", ";", r"\land"}):
        parts, found = split_outside(text, separators)
        if len(parts) == 1:
            continue
        if r"\to" in separators:
            return read_form(parts[-1])
        if not all(part.strip() for part in parts):
            return opaque(text)
        if "," in separators:
            if asked := sum_of_named(parts):
                return read_form(asked)
            if names := named_values(text):
                return named(names)
            if points := _left_out(parts):
                return points
        forms = [form for part in parts for form in _alternatives(part)]
        both = len(forms) == 2 and r"\land" in text and all(split_outside(part, RELATIONS)[1] for part in parts)
        form = _both(*forms) if both else set_of(forms, text)
        joint = found[0] if all(_JOINED.fullmatch(part.strip()) for part in parts) else ""
        return replace(form, name=joint) if joint in (r"\lor", r"\land") else form
    return forms[0] if len(forms := _alternatives(text)) == 1 else set_of(forms, text)


def without_lead_in(text: str) -> str:
    r"""Remove what introduces the value: "the answer is", "Answer:", "(C)", `\approx`."""
    text = re.sub(r"^(?:\s*\\(?:Rightarrow|implies|rightarrow|to)(?![a-z]))+", "", text)
    while True:
        if (lead := _LEAD_IN.match(text)) and not _announces(lead[0]):
            lead = None
        if not (lead := lead or LETTER_OF_CHOICE.match(text) or _ABOUT.match(text)) or lead.end() == len(text):
            return text
        text = peel(text[lead.end() :])


def _announces(lead: str) -> bool:
    """Return whether words introduce the answer."""
    words = lead.replace(r"\text{", "").replace("}", " ")
    return bool(_LEADING.search(words)) and not UNTRUE.search(words) and not FORMULA.fullmatch(words.strip())


def named(pairs: list[tuple[str, str]]) -> Form:
    """Return the form of named values in any order; a set if one name has several values."""
    pairs = sorted(pairs)
    forms = [read_form(value) for _, value in pairs]
    keys = [f"{name} = {form.key}" for (name, _), form in zip(pairs, forms, strict=True)]
    names = [name for name, _ in pairs]
    if len(set(names)) == len(names):
        return Form(f"named {', '.join(names)}", ", ".join(keys), "", tuple(forms))
    return set_of([Form(f"named {n}", k, "", (f,)) for n, k, f in zip(names, keys, forms, strict=True)], "")


def _of_another_value(side: str) -> bool:
    """Return whether the variable in this side of an equation has another value: true for `2x` and `x + 3`.

    False for `x`, `P(4)` and `m + n`.
    """
    if NAME_PATTERN.fullmatch(side) or LABEL.fullmatch(side):
        return False
    try:
        value = exact(side)
    except Unreadable:
        return False
    return len(symbols(value)) == 1 and is_linear(value)


def _alternatives(text: str) -> list[Form]:
    r"""Return the forms of one part: two forms for a `\pm`, the elements for a set."""
    text = text.strip()
    if "," in text and (names := named_values(text)) and len(split_outside(text, {","})[0]) > 1:
        return [named(names)]
    if len(_PLUS_MINUS.findall(text)) == 1 and r"\{" not in text and not split_outside(text, RELATIONS - _EQUAL)[1]:
        plus = _PLUS_MINUS.sub("+", text).replace(r"\mp", "-")
        minus = _PLUS_MINUS.sub("-", text).replace(r"\mp", "+")
        return [*_alternatives(plus), *_alternatives(minus)]
    form = _clause(text)
    return list(form.parts) if form.kind == "set" and not form.name else [form]


def _clause(text: str) -> Form:
    parts, found = split_outside(text, RELATIONS)
    parts = [part.strip() for part in parts]
    if not found:
        return _brackets(text) or leaf(text)
    if parts[0] == "" and found[0] in _EQUAL:
        parts, found = parts[1:], found[1:]
    if not all(parts):
        return opaque(text)
    if contradicts(parts, found):
        return replace(opaque(text), kind="words")  # never compared by value
    if found[-1:] == [r"\approx"] and not (len(parts) == 2 and NAME_PATTERN.fullmatch(parts[0])):
        parts, found = parts[:-1], found[:-1]  # the exact value precedes the rounded one
    if set(found) <= _EQUAL:
        parts = value_last(parts)
        if len(parts) > 1 and (_of_another_value(parts[0]) or UNTRUE.search(parts[0])):
            return opaque(text)
        return read_form(parts[-1])
    if (
        found == [r"\in"]
        and (NAME_PATTERN.fullmatch(parts[0]) or LABEL.fullmatch(parts[0]))
        and r"\text" not in parts[0]
    ):
        return replace(
            form := read_form(parts[1]), name=form.name or (parts[0] if NAME_PATTERN.fullmatch(parts[0]) else "")
        )
    return _inequality(parts, found) or opaque(text)


_ROUNDING = 0.02
"""Largest difference of two numbers that an answer calls equal, as a share of the larger one: `1/3 = 0.33`."""


def contradicts(parts: list[str], found: list[str]) -> bool:
    r"""Return whether an answer calls two different values equal: `17 = 204`, `(1, 2) \approx 17.5`."""
    for one, sign, other in zip(parts, found, parts[1:], strict=False):
        if sign in ("=", r"\approx") and (right := _size(other)) is not None:
            left = None if NAME_PATTERN.fullmatch(one.strip()) else _size(one)  # e = 1/2 is an eccentricity
            if left is None and sign == r"\approx" and _several_values(one):
                return True
            if left is not None and not any(_is_close(left, size) for size in _readings_of_angle(one, other, right)):
                return True
    return False


def _readings_of_angle(one: str, other: str, size: complex) -> list[complex]:
    """Return the sizes that the second value may have: an angle in degrees may be equal to one in radians."""
    return [size, size * pi / 180, size * 180 / pi] if (DEGREE in one) != (DEGREE in other) else [size]


def _is_close(one: complex, other: complex) -> bool:
    return abs(one - other) <= _ROUNDING * max(abs(one), abs(other))


def _size(text: str) -> complex | None:
    """Return the value of a text that is a number and has no unit."""
    if (based := IN_BASE.fullmatch(text)) and (base := based[2].strip("{}")).isdigit() and 2 <= int(base) <= 36:
        return int(based[1], int(base)) if max(int(digit, 36) for digit in based[1]) < int(base) else None
    try:
        return approximate(exact(text))
    except Unreadable:
        return None


def _several_values(text: str) -> bool:
    """Return whether a text has parts, or symbols that may have any value."""
    form = _brackets(text) or leaf(text)
    return bool(form.parts) or (
        form.kind == "exact" and not NAME_PATTERN.fullmatch(text) and bool(symbols(value_or_nothing(text)))
    )


def _inequality(parts: list[str], found: list[str]) -> Form | None:
    """Return the interval of `a < x`, `x < a`, `a < x < b` or `|x| < a`; None for other inequalities. `x` must be a name."""
    names = [bool(NAME_PATTERN.fullmatch(part)) for part in parts]
    if names == [True, False] and found == [r"\ne"]:
        return _all_but(parts[1:], parts[0])
    if not set(found) <= {"<", r"\le"}:
        flipped = {">": "<", r"\ge": r"\le"}
        if not set(found) <= set(flipped):
            return None
        parts, found, names = parts[::-1], [flipped[sign] for sign in reversed(found)], names[::-1]
    ends = ["(["[sign == r"\le"] + ")]"[sign == r"\le"] for sign in found]
    if names == [True, False]:
        return _interval(_LOWEST, parts[1], "(" + ends[0][1], parts[0])
    if names == [False, True]:
        return _interval(parts[0], _HIGHEST, ends[0][0] + ")", parts[1])
    if names == [False, True, False]:
        return _interval(parts[0], parts[2], ends[0][0] + ends[1][1], parts[1])
    return _around(parts, ends[0]) if len(parts) == 2 else None


def _around(parts: list[str], ends: str) -> Form | None:
    """Return the interval of `|x - a| < b`, or the two intervals of `b < |x - a|`; None unless `b` is positive."""
    inside = _DISTANCE.fullmatch(parts[0])
    if not (distance := inside or _DISTANCE.fullmatch(parts[1])):
        return None
    name, offset, radius = distance[1], distance[2] or "0", parts[1] if inside else parts[0]
    if not ((size := rational_of(radius)) and size > 0 and is_number(offset)):
        return None
    low, high = f"-({offset})-({radius})", f"-({offset})+({radius})"
    if inside:
        return _interval(low, high, ends, name)
    return set_of([_interval(_LOWEST, low, "(" + ends[1], name), _interval(high, _HIGHEST, ends[0] + ")", name)], "")


def _interval(low: str, high: str, ends: str, name: str = "") -> Form:
    return replace(several(ends, [leaf(low), leaf(high)]), name=name)


def _both(one: Form, other: Form) -> Form:
    """Return the interval of a lower and an upper bound; the set for any other two conditions."""
    for low, high in ((one, other), (other, one)):
        if {low.kind, high.kind} <= {"()", "[)", "(]"} and low.parts[-1].key == "oo" and high.parts[0].key == "-oo":
            name = low.name if low.name == high.name else f"{low.name} and {high.name}"
            return replace(several(low.kind[0] + high.kind[1], [low.parts[0], high.parts[1]]), name=name)
    return set_of([one, other], "")


def _all_but(points: list[str], name: str = "", interval: Form | None = None) -> Form | None:
    r"""Return the intervals of `x \ne 1`, `x \ne \pm 1`, `\mathbb{R} \setminus \{1, 2\}`; None for several irrational points.

    `interval`: the numbers from which the points are left out; default: all. None for points outside it.
    """
    points = [_PLUS_MINUS.sub(sign, point) for point in points for sign in ("+-" if r"\pm" in point else "+")]
    interval = interval or _interval(_LOWEST, _HIGHEST, "()")
    low, high = (end.latex for end in interval.parts)
    sizes = {rational_of(point): point for point in points}
    found = sorted(size for size in sizes if size is not None)
    if None in sizes:
        if len(points) > 1 or interval.key != "(-oo, oo)":
            return None
        return set_of([_interval(low, points[0], "()"), _interval(points[0], high, "()")], "")
    bounds = rational_of(low), rational_of(high)
    if (bounds[0] is None and low != _LOWEST) or (bounds[1] is None and high != _HIGHEST):
        return None
    if any(
        (bounds[0] is not None and size <= bounds[0]) or (bounds[1] is not None and size >= bounds[1]) for size in found
    ):
        return None
    ends = list(pairwise([low, *(sizes[size] for size in found), high]))
    left, right = interval.kind
    forms = [
        _interval(one, other, (left if at == 0 else "(") + (right if at == len(ends) - 1 else ")"), name)
        for at, (one, other) in enumerate(ends)
    ]
    return forms[0] if len(forms) == 1 else set_of(forms, "")


def _left_out(parts: list[str]) -> Form | None:
    r"""Return all numbers but 1 and 2 for `x \ne 1, x \ne 2` or `x \ne 1, 2`; None for other lists.

    An interval may precede: `x \in \mathbb{R}, x \ne 1` and `x > -2, x \ne 1`.
    """
    points, names, interval = [], set(), None
    for at, part in enumerate(parts):
        clause, found = split_outside(part, RELATIONS)
        if found == [r"\ne"] or (not found and points):
            names |= {clause[0].strip()} if found else set()
            points.append(clause[-1].strip())
        elif not (at == 0 and found and (interval := read_form(part)).kind in _INTERVALS):
            return None
    one = next(iter(names)) if len(names) == 1 else ""
    if not (NAME_PATTERN.fullmatch(one) and all(points)) or (interval and interval.name not in ("", one)):
        return None
    return _all_but(points, one, interval)


def _brackets(text: str) -> Form | None:
    """Return the form of a text that is a matrix, a set or a tuple; None for other text."""
    if matrix := _MATRIX.fullmatch(text):
        rows = [row.split("&") for row in re.split(r"\\\\", matrix[1]) if row.strip()]
        if len({len(row) for row in rows}) != 1:
            return None
        kind = "()" if len(rows[0]) == 1 else f"matrix of {len(rows)} rows"
        return several(kind, [_clause(cell.strip()) for row in rows for cell in row], text)
    if without := _ALL_WITHOUT.fullmatch(text):
        return _all_but(split_outside(without[1], {","})[0])
    tokens = BRACKET.findall(text)
    if len(tokens) < 2 or tokens[0] not in OPENING - {"{"} or tokens[-1] not in CLOSING - {"}"}:
        return None
    inside = "".join(tokens[1:-1]).strip()
    if len(split_outside(f"{text},", {","})[0]) != 2 or not is_balanced(tokens[1:-1]):
        return None
    if tokens[0] == r"\{":
        for bar in (r"\mid", "|", ":"):
            if len(condition := split_outside(inside, {bar})[0]) == 2:
                return replace(read_form(condition[1].strip()), name="")
        elements = split_outside(inside, {",", ";"})[0] if inside else []
        forms = [form for part in elements for form in _inner_set(part.strip()) or _alternatives(part)]
        return set_of(list({form.key: form for form in forms}.values()), text, braces=True)
    parts = split_outside(inside, {",", ";"})[0]
    if len(parts) == 1 or not all(part.strip() for part in parts):
        return None
    ends = "()" if tokens[0] == r"\langle" else tokens[0] + tokens[-1]
    return several(ends, [_clause(part.strip()) for part in parts])


def _inner_set(text: str) -> list[Form]:
    r"""Return the form of a set that is an element: `\{1\}` in `\{\{1\}\}` is not 1. Empty for any other element."""
    if not text.startswith(r"\{") or (form := _brackets(text)) is None:
        return []
    key, parts = (form.key, form.parts) if form.kind == "set" else (f"{{{form.key}}}", (form,))
    return [Form("inner set", f"set {key}", text, parts)]


def set_of(parts: list[Form], text: str, *, braces: bool = False) -> Form:
    if braces and len(parts) == 1 and parts[0].kind not in ("opaque", "inner set"):
        return parts[0]
    parts = sorted(parts, key=lambda part: part.key)
    return Form("set", "{" + ", ".join(part.key for part in parts) + "}", text, tuple(parts))
