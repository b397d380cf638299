r"""What an answer says: a value, words, or several of them in a set, a tuple, an interval, a matrix or an equation."""

import re
from dataclasses import dataclass, replace

from sod.rewards.answers import DEGREE, PERCENT, peel
from sod.rewards.exact import FUNCTIONS, Unreadable, add, exact, is_linear, scaled, symbols, written


@dataclass(frozen=True, slots=True)
class Form:
    """An answer that was read."""

    kind: str
    """"exact", "words" or "opaque"; of several parts: "set" (in any order), "matrix" or brackets, such as "[)"."""
    key: str
    """Canonical: forms with equal keys are equal."""
    latex: str
    """For math-verify: no unit, no name, and decimals written as fractions, which it does not round."""
    parts: tuple["Form", ...] = ()
    unit: str = ""


def readings(gold: str, answer: str) -> tuple[list[Form], Form]:
    """The forms that the gold answer allows, the proper one first, and the form of the answer, read in its light."""
    if equation := sides(gold):
        answer = _without_lead_in(answer)
        if _NAME.fullmatch(equation[0]):
            answer = _named(answer, equation[0])
        other = sides(answer)
        return [read_equation(*equation)], read_equation(*other) if other else read(answer)
    golds = [read(gold)]
    if _LETTER.fullmatch(golds[0].key) and (chosen := _LETTER_OF_CHOICE.match(answer)):
        answer = chosen[1]
    if PERCENT in gold and PERCENT not in answer:
        golds.append(read(gold.replace(PERCENT, "")))
    if based := _IN_BASE.fullmatch(gold):
        golds.append(read(based[1]))
    elif (based := _IN_BASE.fullmatch(answer)) and based[2].strip("{}") == "10":
        answer = based[1]
    if golds[0].kind == "()":
        answer = _in_order_of_names(answer)
    if r"\pi" in gold and DEGREE not in gold:
        answer = _in_radians(answer)
    elif r"\pi" in answer and DEGREE in gold:
        golds.append(read(_in_radians(gold)))
    return golds, read(answer)


def _named(answer: str, name: str) -> str:
    """`y = 2x` for `2x` and `f(x) = 2x`, where y is the name."""
    if called := _CALL.match(answer):
        return f"{name}={answer[called.end() :]}"
    return answer if relations(answer) else f"{name}={answer}"


def _in_order_of_names(answer: str) -> str:
    """`(6, 31, -1)` for `x = 6, y = 31, z = -1`."""
    named = [sides(part) for part in split(answer, {",", ";", r"\land"})[0]]
    names = [pair[0] for pair in named if pair]
    if len(names) < 2 or len(names) < len(named) or names != sorted(set(names)) or not all(map(_NAME.fullmatch, names)):
        return answer
    return f"({','.join(pair[1] for pair in named if pair)})"


# Structure

_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(?: \d{3})+(?:\.\d+)?")
_IN_BASE = re.compile(r"\(?\s*([0-9A-F]+)\s*\)?\s*_\s*(\{[^{}]*(?:\{[^{}]*\})?\}|\d+)")
_NAME = re.compile(r"(?!\\(?:pi|infty)$)(?:[A-Za-z]|\\[a-z]+)(?:_\{?\w+\}?)?")
_CALL = re.compile(r"\s*[A-Za-z](?:\^\{-1\})?\s*\(\s*[a-z]\s*\)\s*=")
_LEAD_IN = re.compile(
    r"\\text\{([^{}]*)\}\s*:?\s*(?=\S)|([A-Za-z][A-Za-z ,']*(?:\b(?:is|are|equals|be)\s|:\s*))(?=\S)", re.IGNORECASE
)
_LEADING = re.compile(r"(?:\b(?:is|are|equals?|be|answer|therefore|thus|so|hence)|:)\W*$", re.IGNORECASE)
_HEDGES = re.compile(
    r"\b(?:or|and|to|not|no|nor|if|when|least|most|more|less|fewer|than|greater|base|mod|between|unless|either|except"
    r"|plus|minus|times|factorial|over|divided|for|where|with)\b|n't|\\l(?:or|and)\b",
    re.IGNORECASE,
)
_ABOUT = re.compile(
    r"\s*(?:\\(?:approx|simeq|sim)(?![a-z])|~|(?:\\text\{\s*)?(?:about|approximately|roughly)\b\s*\}?)\s*"
)
_LETTER = re.compile("[A-J]")
_LETTER_OF_CHOICE = re.compile(r"(?:\\text\{\s*)?\(([A-J])\)\s*\}?\s*(?=-?[\d.]|\\frac|\\sqrt)")
_BRACKET = re.compile(r"\\[{}]|\\[lr]angle(?![a-z])|\\(?:begin|end)\{\w+\}|\\[a-zA-Z]+|\\.|.", re.DOTALL)
_OPENING = {"(", "[", "{", r"\{", r"\langle"}
_CLOSING = {")", "]", "}", r"\}", r"\rangle"}
_RELATIONS = {"=", "<", ">", r"\le", r"\ge", r"\ne", r"\equiv", r"\approx", r"\in"}
_EQUAL = {"=", r"\equiv", r"\approx"}
_SEVERAL = {",", ";", r"\lor", r"\land", r"\cup"}
_RATIO = re.compile(r"\\frac\{(\w)\}\{(\w)\}|(\w)/(\w)")
_LABEL = re.compile(r"\\text\{.*|[A-Za-z]{3,}|[A-Za-z](?:_\w+|\^\{-1\}|')*\s*\([^()]*\)|\(.*,.*\)")
_MATRIX = re.compile(r"\\begin\{(?:[pbB]?matrix|array)\}(?:\{[lcr|]*\})?(.*)\\end\{\w+\}", re.DOTALL)
_PLUS_MINUS = re.compile(r"\\pm(?![a-z])")
_LOWEST, _HIGHEST = r"-\infty", r"\infty"


def read(text: str) -> Form:
    """What a tidy answer says."""
    text = _without_lead_in(text)
    for separators in ({r"\Rightarrow", r"\implies", r"\rightarrow", r"\to"}, {r"\cup", r"\lor"}, {",", ";", r"\land"}):
        parts = split(text, separators)[0]
        if len(parts) == 1:
            continue
        if r"\to" in separators:
            return read(parts[-1])
        if not all(part.strip() for part in parts):
            return _opaque(text)
        if "," in separators and (asked := _sum_of_named(parts)):
            return read(asked)
        forms = [form for part in parts for form in _alternatives(part)]
        both = len(forms) == 2 and r"\land" in text and all(split(part, _RELATIONS)[1] for part in parts)
        return _both(*forms) if both else _set(forms, text)
    return forms[0] if len(forms := _alternatives(text)) == 1 else _set(forms, text)


def _without_lead_in(text: str) -> str:
    """Without words before a value that say that it is coming: the answer is, Answer:, (C), approximately."""
    while True:
        if lead := _LEAD_IN.match(text):
            words = lead[1] or lead[2] or ""
            if not _LEADING.search(words) or _HEDGES.search(words):
                lead = None
        if not (lead := lead or _LETTER_OF_CHOICE.match(text) or _ABOUT.match(text)) or lead.end() == len(text):
            return text
        text = peel(text[lead.end() :])


def split(text: str, separators: set[str]) -> tuple[list[str], list[str]]:
    """The parts between separators that stand in no brackets, and the separators."""
    parts, found, depth = [""], [], 0
    for token in _BRACKET.findall(text):
        depth += (token in _OPENING or token.startswith(r"\begin")) - (token in _CLOSING or token.startswith(r"\end"))
        if depth == 0 and token in separators:
            parts.append("")
            found.append(token)
        else:
            parts[-1] += token
    return parts, found


def relations(text: str) -> bool:
    """Whether anything but one value is said: a relation, or several values."""
    return bool(split(text, _RELATIONS | _SEVERAL)[1])


def sides(text: str) -> tuple[str, str] | None:
    """The first and the last side of an equation, or of a chain of them; None for anything else, as for `Area = 5`."""
    parts, found = split(text, _RELATIONS | _SEVERAL)
    parts = _value_last(parts)
    first, last = parts[0].strip(), parts[-1].strip()
    named = re.search("[a-zA-Z]", first) and not _LABEL.fullmatch(first)
    return (first, last) if set(found) == {"="} and named and all(part.strip() for part in parts) else None


def _sum_of_named(parts: list[str]) -> str | None:
    """Of `m = 200, n = 4, m+n = 204` or `m/n = 200/4, m+n = 204` the last value: of what was named what is asked is made."""
    named = [sides(part) for part in parts]
    if None in named or len(named) < 2:
        return None
    *names, (asked, value) = [pair for pair in named if pair]
    letters = {letter for name, _ in names for letter in _RATIO.sub(r"\1\3 \2\4", name).split()}
    return value if asked not in letters and len(asked) > 1 and set(re.findall("[A-Za-z]", asked)) <= letters else None


def _value_last(parts: list[str]) -> list[str]:
    """The sides of an equation, turned round if the value comes first: `5 = x`, `204 = m + n`."""
    return parts[::-1] if _is_number(parts[0]) and not _is_number(parts[-1]) else parts


def _is_number(text: str) -> bool:
    try:
        return not symbols(exact(text))
    except Unreadable:
        return False


def _of_another_value(side: str) -> bool:
    """Whether an equation with this side gives the variable in it another value: `2x` and `x + 3`, not `x`, `P(4)` or `m + n`."""
    if _NAME.fullmatch(side) or _LABEL.fullmatch(side):
        return False
    try:
        value = exact(side)
    except Unreadable:
        return False
    return len(symbols(value)) == 1 and is_linear(value)


def _alternatives(text: str) -> list[Form]:
    r"""The forms of one part: two if there is a `\pm` in it, and the elements if it is a set of several."""
    text = text.strip()
    if len(_PLUS_MINUS.findall(text)) == 1 and r"\{" not in text and not split(text, _RELATIONS - _EQUAL)[1]:
        plus = _PLUS_MINUS.sub("+", text).replace(r"\mp", "-")
        minus = _PLUS_MINUS.sub("-", text).replace(r"\mp", "+")
        return [*_alternatives(plus), *_alternatives(minus)]
    form = _clause(text)
    return list(form.parts) if form.kind == "set" else [form]


def _clause(text: str) -> Form:
    parts, found = split(text, _RELATIONS)
    parts = [part.strip() for part in parts]
    if not found:
        return _brackets(text) or _leaf(text)
    if parts[0] == "" and found[0] in _EQUAL:
        parts, found = parts[1:], found[1:]
    if not all(parts):
        return _opaque(text)
    if found[-1:] == [r"\approx"] and not (len(parts) == 2 and _NAME.fullmatch(parts[0])):
        parts, found = parts[:-1], found[:-1]  # the exact value stands before the rounded one
    if set(found) <= _EQUAL:
        parts = _value_last(parts)
        if len(parts) > 1 and _of_another_value(parts[0]):
            return _opaque(text)
    if set(found) <= _EQUAL | {r"\in"}:
        return read(parts[-1]) if len(found) < 2 or "\\in" not in found else _opaque(text)
    return _inequality(parts, found) or _opaque(text)


def _inequality(parts: list[str], found: list[str]) -> Form | None:
    """An interval, for `a < x`, `x < a` or `a < x < b`, in which only `x` is a name."""
    names = [bool(_NAME.fullmatch(part)) for part in parts]
    if names == [True, False] and found == [r"\ne"]:
        low, high = _interval(_LOWEST, parts[1], "()"), _interval(parts[1], _HIGHEST, "()")
        return _set([low, high], "")
    if not set(found) <= {"<", r"\le"}:
        flipped = {">": "<", r"\ge": r"\le"}
        if not set(found) <= set(flipped):
            return None
        parts, found, names = parts[::-1], [flipped[sign] for sign in reversed(found)], names[::-1]
    ends = ["(["[sign == r"\le"] + ")]"[sign == r"\le"] for sign in found]
    if names == [True, False]:
        return _interval(_LOWEST, parts[1], "(" + ends[0][1])
    if names == [False, True]:
        return _interval(parts[0], _HIGHEST, ends[0][0] + ")")
    if names == [False, True, False]:
        return _interval(parts[0], parts[2], ends[0][0] + ends[1][1])
    return None


def _interval(low: str, high: str, ends: str) -> Form:
    return _several(ends, [_leaf(low), _leaf(high)])


def _both(one: Form, other: Form) -> Form:
    """Of two conditions, one from below and one from above, the interval; of anything else the set."""
    for low, high in ((one, other), (other, one)):
        if {low.kind, high.kind} <= {"()", "[)", "(]"} and low.parts[-1].key == "oo" and high.parts[0].key == "-oo":
            return _several(low.kind[0] + high.kind[1], [low.parts[0], high.parts[1]])
    return _set([one, other], "")


def _brackets(text: str) -> Form | None:
    """A matrix, a set or a tuple, if the whole text is one; None otherwise."""
    if matrix := _MATRIX.fullmatch(text):
        rows = [row.split("&") for row in re.split(r"\\\\", matrix[1]) if row.strip()]
        if len({len(row) for row in rows}) != 1:
            return None
        kind = "()" if len(rows[0]) == 1 else f"matrix of {len(rows)} rows"
        return _several(kind, [_clause(cell.strip()) for row in rows for cell in row], text)
    tokens = _BRACKET.findall(text)
    if len(tokens) < 2 or tokens[0] not in _OPENING - {"{"} or tokens[-1] not in _CLOSING - {"}"}:
        return None
    inside = "".join(tokens[1:-1]).strip()
    if len(split(f"{text},", {","})[0]) != 2 or not _balanced(tokens[1:-1]):
        return None
    if tokens[0] == r"\{":
        for bar in (r"\mid", "|", ":"):
            if len(condition := split(inside, {bar})[0]) == 2:
                return read(condition[1].strip())
        forms = [form for part in split(inside, {",", ";"})[0] for form in _alternatives(part)] if inside else []
        return _set(list({form.key: form for form in forms}.values()), text, braces=True)
    parts = split(inside, {",", ";"})[0]
    if len(parts) == 1 or not all(part.strip() for part in parts):
        return None
    ends = "()" if tokens[0] == r"\langle" else tokens[0] + tokens[-1]
    return _several(ends, [_clause(part.strip()) for part in parts])


def _balanced(tokens: list[str]) -> bool:
    depth = 0
    for token in tokens:
        depth += (token in _OPENING) - (token in _CLOSING)
        if depth < 0:
            return False
    return depth == 0


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

_TO_TWENTY = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen twenty"""
_TENS = "ten twenty thirty forty fifty sixty seventy eighty ninety"
NUMBER_WORDS = {word: number for number, word in enumerate(_TO_TWENTY.split())}
NUMBER_WORDS |= {word: 10 * tens for tens, word in enumerate(_TENS.split(), 1)}
SAYINGS = dict.fromkeys(["all real numbers", "all reals", "real numbers"], r"(-\infty,\infty)")
MULTIPLES = {"dozen": 12, "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_UNIT_NAMES = """
    mm millimeter millimeters millimetres
    cm centimeter centimeters centimetres
    m meter meters metre metres
    km kilometer kilometers kilometres
    in inch inches
    ft foot feet
    yd yard yards
    mi mile miles
    g gram grams
    kg kilogram kilograms
    lb lbs pound pounds
    oz ounce ounces
    s sec second seconds
    min mins minute minutes
    h hr hrs hour hours
    day days
    week weeks
    year years
    cent cents
    dollar dollars usd
    mph
    rad radian radians
"""
UNITS = {name: line.split()[0] for line in _UNIT_NAMES.strip().splitlines() for name in line.split()}
"""Units that are known to differ, under their first names; of any other unit it is not asked which."""
_SHORT_WORDS = {"no", "up", "ne", "nw", "se", "sw", "am", "pm", "go"}
_WORDS = re.compile(r"[^\W\d_][^\d\\{}^_=<>+*/()\[\]|]*")
_TEXT_UNIT = re.compile(r"(.*[^\s\\/^_({])[\s/]*(?:\\cdot\s*)?\\text\{([^{}]*)\}\s*(?:\^\s*(?:\{\s*-?\d\s*\}|\d))?")
_NO_UNIT = re.compile(r"\b(?:is|are|was|wrong|false|true|[ap]\.?m)\b", re.IGNORECASE)
_UNIT_SIGN = re.compile(r"(?:\s|/|\\cdot)+$")
_WORD_UNIT = re.compile(r"(.*[\d)}%°!])(\s*)([A-Za-z]+(?:[\s/.]+[A-Za-z]+)*\.?)\s*(?:\^\s*(?:\{\s*-?\d\s*\}|\d))?")
_FULL_STOP = re.compile(r"(?<!\.)\.$")
_REPEATING = re.compile(r"(\d*)\.(\d*)(?:\\(?:overline|bar|dot)\s*\{(?P<over>\d+)\}|\((?P<in>\d+)\))")
_DECIMAL = re.compile(r"(?<![\d.])(\d*)\.(\d+)(?!\.?\d)")


def _leaf(text: str) -> Form:
    """One value: words, a number or an expression, which may have a unit."""
    text = text.strip()
    if words := _words(text):
        if words in NUMBER_WORDS:
            return _leaf(str(NUMBER_WORDS[words]))
        return read(SAYINGS[words]) if words in SAYINGS else Form("words", words, rf"\text{{{words}}}")
    value, unit = _without_unit(text)
    if based := _IN_BASE.fullmatch(value):
        base = re.sub(r"\\text|[^\w]", "", based[2]).casefold()
        return Form("exact", f"{based[1]}_{NUMBER_WORDS.get(base, base)}", value)
    if _THOUSANDS.fullmatch(value):
        value = value.replace(" ", "")
    value = _REPEATING.sub(_repeating, value)
    try:
        return Form("exact", written(exact(value)), _symbolic(value), unit=unit)
    except Unreadable:
        return replace(_opaque(value), unit=unit)


def _opaque(text: str) -> Form:
    plain = _FULL_STOP.sub("", " ".join(re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text).split()))
    return Form("opaque", re.sub(r"(?<!\w)\s+|\s+(?!\w)", "", plain), _symbolic(text))


def _repeating(decimal: re.Match[str]) -> str:
    """0.1666..., with a line over the 6 or as 0.1(6), as a fraction."""
    whole, start, period = decimal[1], decimal[2], decimal["over"] or decimal["in"]
    nines = (10 ** len(period) - 1) * 10 ** len(start)
    return rf"\frac{{{int(whole + start + period or 0) - int(whole + start or 0)}}}{{{nines}}}"


def _symbolic(text: str) -> str:
    """For math-verify: decimals as fractions, degrees as radians, percent as hundredths."""
    text = _DECIMAL.sub(lambda number: rf"\frac{{{int(number[1] + number[2])}}}{{1{'0' * len(number[2])}}}", text)
    return _in_radians(text).replace(PERCENT, r"\cdot\frac{1}{100}")


def _in_radians(text: str) -> str:
    return re.sub(rf"(\d+(?:\.\d+)?)\s*{DEGREE}", r"(\1\\cdot\\frac{\\pi}{180})", text).replace(DEGREE, "")


def _words(text: str) -> str:
    """Lower-case words, without article and full stop, of an answer that is in words; empty if it is not."""
    plain, styled = re.subn(r"\\text\{([^{}]*)\}", r" \1 ", text)
    if not _WORDS.fullmatch(plain := " ".join(plain.split())):
        return ""
    words = plain.casefold().strip(" .,;:!?'\"").split()
    runs = re.findall(r"[^\W\d_]+", plain.casefold())  # of p-q, p and q
    if (not styled and not any(len(run) > 2 or run in _SHORT_WORDS for run in runs)) or FUNCTIONS & set(words):
        return ""
    if [len(word) for word in words] == [1]:
        return ""
    return " ".join(words[words[0] in ("a", "an", "the") and len(words) > 1 :])


def _without_unit(text: str) -> tuple[str, str]:
    """(the value, its unit if it is known); multiples such as "million" become a factor."""
    unit, factor = "", 1
    while True:
        if (found := _TEXT_UNIT.fullmatch(text)) and not (_HEDGES.search(found[2]) or _NO_UNIT.search(found[2])):
            words = found[2]
        elif (found := _WORD_UNIT.fullmatch(text)) and _is_unit(found[3], spaced=bool(found[2])):
            words = found[3]
        else:
            return text if factor == 1 else rf"({text})\cdot {factor}", unit
        first, *_ = [*re.findall("[a-z]+", words.casefold()), ""]
        factor *= MULTIPLES.get(first, 1)
        unit = UNITS.get(first, unit)
        text = _UNIT_SIGN.sub("", found[1])


def _is_unit(words: str, *, spaced: bool) -> bool:
    parts = re.findall("[a-z]+", words.casefold())
    known = all((len(part) > 1 and part in UNITS) or part in MULTIPLES or part == "per" for part in parts)
    return known or (
        spaced
        and not (_HEDGES.search(words) or _NO_UNIT.search(words))
        and all(len(part) > 2 and part not in FUNCTIONS for part in parts)
    )


def read_equation(left: str, right: str) -> Form:
    """An equation, as what is zero, up to a factor."""
    try:
        zero = add(exact(left), exact(_without_unit(right)[0]), -1)
        return Form("exact", f"0 = {written(scaled(zero))}", _symbolic(f"{left}={right}"))
    except Unreadable:
        return _opaque(f"{left}={right}")
