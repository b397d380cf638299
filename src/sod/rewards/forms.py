r"""Parse an answer into a form: a value, words, or a set, tuple, interval, matrix or equation of several forms."""

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from math import pi

from sod.rewards.answers import DEGREE, PERCENT, peel
from sod.rewards.exact import (
    FUNCTIONS,
    Sum,
    Unreadable,
    add,
    approximate,
    exact,
    is_linear,
    rational,
    scaled,
    symbols,
    written,
)
from sod.rewards.quantities import is_constant, is_quantity
from sod.rewards.structure import (
    BRACKET,
    CLOSING,
    LABEL,
    NAME_PATTERN,
    OPENING,
    RELATIONS,
    in_a_line,
    in_order,
    is_balanced,
    is_number,
    named_values,
    of_integers,
    relations,
    sides,
    split_outside,
    sum_of_named,
    value_last,
    with_names,
)
from sod.rewards.units import NO_UNIT, NUMBER_WORDS, UNTRUE, Unit, measured, without_unit


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


def readings(gold: str, answer: str) -> tuple[list[Form], Form]:
    """Return the accepted forms of the gold, the main one first, and the form of the answer in the context of the gold."""
    gold, answer = of_integers(in_a_line(gold), in_a_line(answer))
    if about := _IN_WORDS_ABOUT.match(gold):
        gold, answer = gold[about.end() :], _IN_WORDS_ABOUT.sub("", answer, count=1)
    if equation := sides(gold):
        return _of_equation(gold, *equation, answer)
    names = named_values(gold)
    golds = [_named(names) if names else read_form(gold)]
    if _LETTER.fullmatch(golds[0].key) and (chosen := _LETTER_OF_CHOICE.match(answer) or _OPTION.fullmatch(answer)):
        answer = chosen[1]
    if PERCENT in gold and PERCENT not in answer:
        golds = [_of_a_share(form) for form in (*golds, read_form(gold.replace(PERCENT, "")))]
    if based := _IN_BASE.fullmatch(gold):
        golds.append(read_form(based[1]))
    elif (based := _IN_BASE.fullmatch(answer)) and based[2].strip("{}") == "10":
        answer = based[1]
    if golds[0].kind == "exact" and is_number(without_unit(gold)[0]):
        answer = measured(answer)
    if names:
        if len({name[0] for name, _ in names}) == 1:  # x_1 and x_2: an answer without names may list them in any order
            golds.append(_set(list(golds[0].parts), ""))
        elif not named_values(answer):
            answer = with_names(answer, names)
    elif golds[0].kind == "()" and (found := named_values(answer)):
        answer = in_order(found)
    if r"\pi" in gold and DEGREE not in gold:
        answer = _in_radians(answer)
    elif r"\pi" in answer and DEGREE in gold:
        golds.append(read_form(_in_radians(gold)))
    form = _named(found) if names and (found := named_values(answer)) else read_form(answer)
    return _as_text(golds, gold, form, answer)


def _of_equation(gold: str, left: str, right: str, answer: str) -> tuple[list[Form], Form]:
    """Return the forms of a gold equation, and the form of the answer: its value if it gives the left side a value."""
    plain = _without_lead_in(answer)
    if is_quantity(left) and is_constant(right) and (value := _value_of(left, answer) or _value_of(left, plain)):
        golds, form = readings(right, value)
        return [replace(_equation(left, right), latex=""), *golds], form
    answer = plain
    if NAME_PATTERN.fullmatch(left):
        answer = _called(answer, left)
    other = None if answer != gold and _contradicts(*split_outside(answer, RELATIONS)) else sides(answer)
    return [_equation(left, right)], _equation(*other) if other else read_form(answer)


def _value_of(name: str, answer: str) -> str:
    r"""Return the value of `5`, of `x = 5`, or of `x = 2 \lor x = -2`; empty if the answer is about another name."""
    if not split_outside(answer, RELATIONS)[1]:
        return answer
    values: list[str] = []
    parts = split_outside(answer, {",", ";", r"\lor", r"\land"})[0]
    if sum_of_named(parts):
        parts = parts[-1:]
    for part in parts:
        clause, found = split_outside(part, RELATIONS)
        pair = sides(part) if found else (name, part)
        if pair is None or _contradicts(clause, found):
            return ""
        same = _NUMBERED.sub("", pair[0]) if len(parts) > 1 else pair[0]
        if re.sub(r"[\s{}]", "", same) != re.sub(r"[\s{}]", "", name):
            return ""
        values.append(pair[1])
    return ",".join(values)


def spelled(gold: str, answer: str) -> tuple[list[Form], Form] | None:
    r"""Return both as text if the gold is letters in a text font: `\text{BA}` is not the product AB. None for other golds."""
    letters = _SPELLED.fullmatch(gold)
    if letters is None or letters[1].casefold() in _SHORT_WORDS | FUNCTIONS:
        return None
    one, other = (replace(_opaque(text), latex="") for text in (letters[1], _without_lead_in(answer)))
    return [one], other


def _of_a_share(form: Form) -> Form:
    """Return a gold in percent that accepts a number without a unit only: neither 10 kg nor 0.1 kg is 10 %."""
    parts = tuple(map(_of_a_share, form.parts))
    return replace(form, parts=parts, unit=form.unit or (NO_UNIT if parts else _SHARE))


def _as_text(golds: list[Form], gold: str, form: Form, answer: str) -> tuple[list[Form], Form]:
    """Compare both as text if one of them has no value, such as a chemical formula: H_2O is not a product."""
    if golds[0].kind == "opaque" and r"\text" in gold and form.kind in ("exact", "words"):
        form = _opaque(answer)
    elif form.kind == "opaque" and r"\text" in answer and golds[0].kind == "exact" and symbols(_value_or_nothing(gold)):
        golds.append(_opaque(gold))
    elif (
        form.kind == "words" and form.key == golds[0].key and all(_FORMULA.fullmatch(_plain(t)) for t in (gold, answer))
    ):
        return [_opaque(gold)], _opaque(answer)  # Co is not CO
    if {golds[0].kind, form.kind} == {"words", "exact"} and all(map(_PRODUCT.fullmatch, (gold, answer))):
        return [_product(gold)], _product(answer)  # abc is a word in its first reading
    if golds[0].kind == "set" and form.kind.startswith("named"):
        form = _set(list(form.parts), "")
    return golds, form


def _called(answer: str, name: str) -> str:
    """Return `y = 2x` for `2x` and `f(x) = 2x` if y is the name."""
    if called := _CALL.match(answer):
        return f"{name}={answer[called.end() :]}"
    return answer if relations(answer) else f"{name}={answer}"


# Structure

_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(?: \d{3})+(?:\.\d+)?")
_IN_BASE = re.compile(r"\(?\s*([0-9A-F]+)\s*\)?\s*_\s*(\{[^{}]*(?:\{[^{}]*\})?\}|\d+)")
_CALL = re.compile(r"\s*[A-Za-z](?:\^\{-1\})?\s*\(\s*[a-z]\s*\)\s*=")
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
_IN_WORDS_ABOUT = re.compile(r"(?:\\text\{\s*)?(?:about|approximately|roughly)\b\s*\}?\s*", re.IGNORECASE)
_LETTER = re.compile("[A-J]")
_NUMBERED = re.compile(r"_(?:\d|\{\d\})$")
_PRODUCT = re.compile(r"[A-Za-z]{3}|[A-Za-z](?:\s*(?:\*|\\cdot|\\times)\s*[A-Za-z])+")
_SPELLED = re.compile(r"[\s$]*\\(?:text(?:bf|rm|it)?|math(?:rm|bf)|mbox)\s*\{\s*([A-Z]{2}|[a-z]{2})\s*\}[\s$.]*")
_LETTER_OF_CHOICE = re.compile(r"(?:\\text\{\s*)?\(([A-J])\)\s*\}?\s*(?=-?\.?\d|\\frac|\\sqrt)")
_OPTION = re.compile(r"(?i:(?:the )?(?:correct |right )?(?:answer|option|choice)(?: is)?:?) ?\(?([A-J])\)?")
_JOINED = re.compile(r"(?:\\neg\s*)?(?:[A-Za-z]|\\[a-z]+)")
_EQUAL = {"=", r"\equiv", r"\approx"}
_MATRIX = re.compile(r"[(\[]?\\begin\{(?:[pbB]?matrix|array)\}(?:\{[lcr|]*\})?(.*)\\end\{\w+\}[)\]]?", re.DOTALL)
_PLUS_MINUS = re.compile(r"\\pm(?![a-z])")
_DISTANCE = re.compile(rf"\|\s*({NAME_PATTERN.pattern})\s*([-+][^|]*)?\|")
_ALL_WITHOUT = re.compile(r"\(-\\infty,\\infty\)\s*\\(?:setminus|backslash)\s*\\\{([^{}]*)\\\}")
_LOWEST, _HIGHEST = r"-\infty", r"\infty"
_INTERVALS = {"()", "[)", "(]", "[]"}
_SHARE = Unit(frozenset({("percent", 1)}))


def read_form(text: str) -> Form:
    """Return the form of a normalised answer."""
    text = _without_lead_in(text)
    for separators in ({r"\Rightarrow", r"\implies", r"\rightarrow", r"\to"}, {r"\cup", r"\lor"}, {",", ";", r"\land"}):
        parts, found = split_outside(text, separators)
        if len(parts) == 1:
            continue
        if r"\to" in separators:
            return read_form(parts[-1])
        if not all(part.strip() for part in parts):
            return _opaque(text)
        if "," in separators:
            if asked := sum_of_named(parts):
                return read_form(asked)
            if names := named_values(text):
                return _named(names)
            if points := _left_out(parts):
                return points
        forms = [form for part in parts for form in _alternatives(part)]
        both = len(forms) == 2 and r"\land" in text and all(split_outside(part, RELATIONS)[1] for part in parts)
        form = _both(*forms) if both else _set(forms, text)
        joint = found[0] if all(_JOINED.fullmatch(part.strip()) for part in parts) else ""
        return replace(form, name=joint) if joint in (r"\lor", r"\land") else form
    return forms[0] if len(forms := _alternatives(text)) == 1 else _set(forms, text)


def _without_lead_in(text: str) -> str:
    r"""Remove what introduces the value: "the answer is", "Answer:", "(C)", `\approx`."""
    text = re.sub(r"^(?:\s*\\(?:Rightarrow|implies|rightarrow|to)(?![a-z]))+", "", text)
    while True:
        if (lead := _LEAD_IN.match(text)) and not _announces(lead[0]):
            lead = None
        if not (lead := lead or _LETTER_OF_CHOICE.match(text) or _ABOUT.match(text)) or lead.end() == len(text):
            return text
        text = peel(text[lead.end() :])


def _announces(lead: str) -> bool:
    """Return whether words introduce the answer."""
    words = lead.replace(r"\text{", "").replace("}", " ")
    return bool(_LEADING.search(words)) and not UNTRUE.search(words) and not _FORMULA.fullmatch(words.strip())


def _named(pairs: list[tuple[str, str]]) -> Form:
    """Return the form of named values in any order; a set if one name has several values."""
    pairs = sorted(pairs)
    forms = [read_form(value) for _, value in pairs]
    keys = [f"{name} = {form.key}" for (name, _), form in zip(pairs, forms, strict=True)]
    names = [name for name, _ in pairs]
    if len(set(names)) == len(names):
        return Form(f"named {', '.join(names)}", ", ".join(keys), "", tuple(forms))
    return _set([Form(f"named {n}", k, "", (f,)) for n, k, f in zip(names, keys, forms, strict=True)], "")


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
        return [_named(names)]
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
        return _brackets(text) or _leaf(text)
    if parts[0] == "" and found[0] in _EQUAL:
        parts, found = parts[1:], found[1:]
    if not all(parts):
        return _opaque(text)
    if _contradicts(parts, found):
        return replace(_opaque(text), kind="words")  # never compared by value
    if found[-1:] == [r"\approx"] and not (len(parts) == 2 and NAME_PATTERN.fullmatch(parts[0])):
        parts, found = parts[:-1], found[:-1]  # the exact value precedes the rounded one
    if set(found) <= _EQUAL:
        parts = value_last(parts)
        if len(parts) > 1 and (_of_another_value(parts[0]) or UNTRUE.search(parts[0])):
            return _opaque(text)
        return read_form(parts[-1])
    if (
        found == [r"\in"]
        and (NAME_PATTERN.fullmatch(parts[0]) or LABEL.fullmatch(parts[0]))
        and r"\text" not in parts[0]
    ):
        return replace(
            form := read_form(parts[1]), name=form.name or (parts[0] if NAME_PATTERN.fullmatch(parts[0]) else "")
        )
    return _inequality(parts, found) or _opaque(text)


_ROUNDING = 0.02
"""Largest difference of two numbers that an answer calls equal, as a share of the larger one: `1/3 = 0.33`."""


def _contradicts(parts: list[str], found: list[str]) -> bool:
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
    if (based := _IN_BASE.fullmatch(text)) and (base := based[2].strip("{}")).isdigit() and 2 <= int(base) <= 36:
        return int(based[1], int(base)) if max(int(digit, 36) for digit in based[1]) < int(base) else None
    try:
        return approximate(exact(text))
    except Unreadable:
        return None


def _several_values(text: str) -> bool:
    """Return whether a text has parts, or symbols that may have any value."""
    form = _brackets(text) or _leaf(text)
    return bool(form.parts) or (
        form.kind == "exact" and not NAME_PATTERN.fullmatch(text) and bool(symbols(_value_or_nothing(text)))
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
    if not ((size := _rational(radius)) and size > 0 and is_number(offset)):
        return None
    low, high = f"-({offset})-({radius})", f"-({offset})+({radius})"
    if inside:
        return _interval(low, high, ends, name)
    return _set([_interval(_LOWEST, low, "(" + ends[1], name), _interval(high, _HIGHEST, ends[0] + ")", name)], "")


def _interval(low: str, high: str, ends: str, name: str = "") -> Form:
    return replace(_several(ends, [_leaf(low), _leaf(high)]), name=name)


def _both(one: Form, other: Form) -> Form:
    """Return the interval of a lower and an upper bound; the set for any other two conditions."""
    for low, high in ((one, other), (other, one)):
        if {low.kind, high.kind} <= {"()", "[)", "(]"} and low.parts[-1].key == "oo" and high.parts[0].key == "-oo":
            name = low.name if low.name == high.name else f"{low.name} and {high.name}"
            return replace(_several(low.kind[0] + high.kind[1], [low.parts[0], high.parts[1]]), name=name)
    return _set([one, other], "")


def _all_but(points: list[str], name: str = "", interval: Form | None = None) -> Form | None:
    r"""Return the intervals of `x \ne 1`, `x \ne \pm 1`, `\mathbb{R} \setminus \{1, 2\}`; None for several irrational points.

    `interval`: the numbers from which the points are left out; default: all. None for points outside it.
    """
    points = [_PLUS_MINUS.sub(sign, point) for point in points for sign in ("+-" if r"\pm" in point else "+")]
    interval = interval or _interval(_LOWEST, _HIGHEST, "()")
    low, high = (end.latex for end in interval.parts)
    sizes = {_rational(point): point for point in points}
    found = sorted(size for size in sizes if size is not None)
    if None in sizes:
        if len(points) > 1 or interval.key != "(-oo, oo)":
            return None
        return _set([_interval(low, points[0], "()"), _interval(points[0], high, "()")], "")
    bounds = _rational(low), _rational(high)
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
    return forms[0] if len(forms) == 1 else _set(forms, "")


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


def _rational(text: str) -> Fraction | None:
    try:
        return rational(exact(text))
    except Unreadable:
        return None


def _brackets(text: str) -> Form | None:
    """Return the form of a text that is a matrix, a set or a tuple; None for other text."""
    if matrix := _MATRIX.fullmatch(text):
        rows = [row.split("&") for row in re.split(r"\\\\", matrix[1]) if row.strip()]
        if len({len(row) for row in rows}) != 1:
            return None
        kind = "()" if len(rows[0]) == 1 else f"matrix of {len(rows)} rows"
        return _several(kind, [_clause(cell.strip()) for row in rows for cell in row], text)
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
        forms = (
            [form for part in split_outside(inside, {",", ";"})[0] for form in _alternatives(part)] if inside else []
        )
        return _set(list({form.key: form for form in forms}.values()), text, braces=True)
    parts = split_outside(inside, {",", ";"})[0]
    if len(parts) == 1 or not all(part.strip() for part in parts):
        return None
    ends = "()" if tokens[0] == r"\langle" else tokens[0] + tokens[-1]
    return _several(ends, [_clause(part.strip()) for part in parts])


def _several(kind: str, parts: list[Form], latex: str = "") -> Form:
    left, right = (kind[0], kind[1]) if len(kind) == 2 else (f"{kind}: ", "")
    key = left + ", ".join(part.key for part in parts) + right
    return Form(kind, key, latex or f"{left}{','.join(part.latex for part in parts)}{right}", tuple(parts))


def _set(parts: list[Form], text: str, *, braces: bool = False) -> Form:
    if braces and len(parts) == 1 and parts[0].kind != "opaque":
        return parts[0]
    parts = sorted(parts, key=lambda part: part.key)
    return Form("set", "{" + ", ".join(part.key for part in parts) + "}", text, tuple(parts))


# Values

SAYINGS = dict.fromkeys(["all real numbers", "all reals", "real numbers"], r"(-\infty,\infty)")
_SHORT_WORDS = {"no", "up", "ne", "nw", "se", "sw", "am", "pm", "go"}
_WORDS = re.compile(r"[^\W\d_][^\d\\{}^_=<>+*/()\[\]|]*")
_COUNTED = re.compile(rf"({'|'.join(sorted(NUMBER_WORDS, key=len, reverse=True))}) (\D+)")
_MISSING = re.compile(r"(no (?:\w+ )?(?:solution|root))s?(?: exists?)?")
_FULL_STOP = re.compile(r"(?<!\.)\.$")
_HALF_OF_DAY = re.compile(r"(?<![A-Za-z])([AaPp])\.?\s*[Mm](?![A-Za-z])\.?")
_REMAINDER = re.compile(r"(.*\S)\s*\\bmod\{(.*)\}")
_REPEATING = re.compile(r"(\d*)\.(\d*)(?:\\(?:overline|bar|dot)\s*\{(?P<over>\d+)\}|\((?P<in>\d+)\))")
_DECIMAL = re.compile(r"(?<![\d.])(\d*)\.(\d+)(?!\.?\d)")
_DEGREES = re.compile(rf"(\d+(?:\.\d+)?)\s*{DEGREE}")
_RADIANS = r"(\1\\cdot\\frac{\\pi}{180})"
_BARE_FUNCTION = re.compile(r"(?<![\\A-Za-z])(?:arc)?(?:sin|cos|tan|cot|sec|csc|ln|log|exp)(?![A-Za-z])")
_SPACE = re.compile(r"(\\[A-Za-z]+\s|\d\s(?=\d))\s*|\s+")
_ELEMENTS = """H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr
    Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Nd Sm Eu Gd W Os Ir Pt Au Hg Tl Pb Bi Po At Rn Ra Th U Pu"""
_FORMULA = re.compile(rf"(?!(?:no|as|in|i|he)$)(?:(?:{'|'.join(_ELEMENTS.split())})\d*)+", re.ASCII)
"""A chemical formula. Capitals are significant in it."""


def _leaf(text: str) -> Form:
    """Return the form of one value: words, a number or an expression, with or without a unit."""
    text = text.strip()
    if words := _words(text):
        if words in NUMBER_WORDS:
            return _leaf(str(NUMBER_WORDS[words]))
        if (counted := _COUNTED.fullmatch(words)) and without_unit(
            number := rf"{NUMBER_WORDS[counted[1]]}\text{{ {counted[2]}}}"
        )[1]:
            return _leaf(number)
        if missing := _MISSING.fullmatch(words):
            words = missing[1]
        return read_form(SAYINGS[words]) if words in SAYINGS else Form("words", words, rf"\text{{{words}}}")
    value, unit = without_unit(text)
    if based := _IN_BASE.fullmatch(value):
        base = re.sub(r"\\text|[{}()\s]", "", based[2]).casefold()
        return Form("exact", f"{based[1]}_{NUMBER_WORDS.get(base, base)}", value, unit=unit)
    if _THOUSANDS.fullmatch(value):
        value = value.replace(" ", "")
    value = _REPEATING.sub(_repeating, value)
    try:
        number = _value(value)
    except Unreadable:
        return _opaque(text) if unit.modulus else replace(_opaque(value), unit=unit)
    if unit.modulus and not _is_remainder(number, unit.modulus):
        return _opaque(text)
    return Form("exact", written(number), _symbolic(value), unit=unit)


def _is_remainder(value: Sum, modulus: str) -> bool:
    """Return whether a value can be a remainder: `7 \\pmod 5` and `\\frac12 \\pmod 5` cannot."""
    if not modulus.isdigit():
        return True
    size = approximate(value)
    return not symbols(value) and size is not None and size == int(size.real) and abs(size) < int(modulus)


def _value(text: str) -> Sum:
    if not (remainder := _REMAINDER.fullmatch(text)):
        return exact(text)
    value, modulus = _rational(remainder[1]), _rational(remainder[2])
    if value is None or not modulus or value.denominator != 1 or modulus.denominator != 1:
        raise Unreadable(text)
    return exact(str(value % modulus))


def _value_or_nothing(text: str) -> Sum:
    """Return the value of a text; an empty sum if it has no exact value."""
    try:
        return exact(without_unit(text)[0])
    except Unreadable:
        return {}


def _product(letters: str) -> Form:
    return Form("exact", written(_value_or_nothing(letters)), letters)


def _opaque(text: str) -> Form:
    plain = _HALF_OF_DAY.sub(lambda found: f"{found[1].lower()}m", _FULL_STOP.sub("", _plain(text)))
    return Form("opaque", plain, _symbolic(text))


def _plain(text: str) -> str:
    r"""Return the text to compare: `H_2O` for `\text{H}_{2}\text{O}`, and words without capitals."""
    plain = re.sub(r"\\text\{((?:[^{}]|\{[^{}]*\})*)\}", r" \1 ", text.removeprefix("{}"))
    plain = re.sub(r"([_^])\s*\{\s*(\w|[-+])\s*\}", r"\1\2", " ".join(plain.split()))
    plain = re.sub(r"(?<![^\W_])\s+|\s+(?![^\W_])|(?<=\d)\s+(?=[A-Za-z])", "", plain)
    return re.sub(r"(?<![A-Za-z\\])[A-Z][a-z]{2,}(?![A-Za-z])", lambda word: word[0].lower(), plain)


def _repeating(decimal: re.Match[str]) -> str:
    """Return a repeating decimal as a fraction: 0.1666..., with a line over the 6 or as 0.1(6)."""
    whole, start, period = decimal[1], decimal[2], decimal["over"] or decimal["in"]
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


def _in_radians(text: str) -> str:
    return _DEGREES.sub(_RADIANS, text).replace(DEGREE, r"\cdot\frac{\pi}{180}")


def _words(text: str) -> str:
    """Return an answer in words in lower case, without article and full stop; empty if the answer is not in words."""
    plain, styled = re.subn(r"\\text\{([^{}]*)\}", r" \1 ", text)
    if not _WORDS.fullmatch(plain := " ".join(plain.split())):
        return ""
    words = plain.casefold().strip(" .,;:!'\"").split()
    runs = re.findall(r"[^\W\d_]+", plain.casefold())  # p and q for p-q
    if (not styled and not any(len(run) > 2 or run in _SHORT_WORDS for run in runs)) or FUNCTIONS & set(words):
        return ""
    if [len(word) for word in words] == [1]:
        return ""
    return " ".join(words[words[0] in ("a", "an", "the") and len(words) > 1 :])


def _equation(left: str, right: str) -> Form:
    """Return the form of an equation: left side minus right side equals zero, up to a factor."""
    value, unit = without_unit(right)
    try:
        if not (zero := add(exact(left), exact(value), -1)):
            return replace(_opaque(f"{left}={value}"), latex="", unit=unit)  # an identity
        return Form("exact", f"0 = {written(scaled(zero))}", _symbolic(f"{left}={right}"), unit=unit)
    except Unreadable:
        return replace(_opaque(f"{left}={value}"), unit=unit)
