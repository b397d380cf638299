r"""Recognise equations that state the value of one quantity: `AB = 5` and `m+n = 204`, but not the circle `x^2+y^2 = 4`.

A gold answer of this kind equals its bare value. Two kinds remain equations: those in names of coordinates (x, y, z, r, t), and
those that must be solved for a single letter (`2a = 10`, `\log_2 x = 3`).
"""

import re

from sod.rewards.exact import exact
from sod.rewards.structure import NAME_PATTERN, RELATIONS, SEVERAL, split_outside
from sod.rewards.sums import Unreadable, symbols
from sod.rewards.units import without_unit

_GREEK = r"\\(?:alpha|beta|gamma|delta|theta|varphi|phi|omega|lambda|mu)(?![a-z])"
_PLACE = r"[\ue000-\uf8ff]"
"""A placeholder of one number, in the private use area of Unicode: equal numbers have the same."""
_POINTS = r"[A-Z]'*(?:_\{?\d\}?)?"
_INSIDE = r"(?:\\[a-z]+|[^()\\xyzt])*"
_ARGUMENT = (
    rf"(?:\({_INSIDE}\)|\\frac\{{[^{{}}]*\}}\{{\d+\}}|\d*\s*(?:\\angle\s*)?(?:[A-Z]+|{_PLACE}|{_GREEK})(?![A-Za-z]))"
)
_BAR = r"(?:\\[lr]?[vV]ert(?![a-z])|\\\||\|)"
_WHOLES = [
    re.compile(pattern)
    for pattern in (
        r"\\(?:vec|overline|overrightarrow|overleftarrow|widehat|hat|bar)\s*(?:\{[^{}]*\}|[A-Za-z](?![A-Za-z]))",
        rf"\\(?:sin|cos|tan|cot|sec|csc)\s*(?:\^\s*\{{?\d\}}?)?\s*{_ARGUMENT}",
        rf"(?:m\s*)?\\(?:angle|triangle)\s*(?:[A-Z]{{1,3}}|\d|{_GREEK})(?![A-Za-z])",
        rf"(?<![A-Za-z\\])[fghFGHPEDN]'*(?:_\{{?\d\}}?)?\s*\({_INSIDE}\)",
        rf"\[(?:{_POINTS}){{3,}}\]|(?<![A-Za-z\\])(?:{_POINTS})+(?:_\{{(?:[^{{}}]|\{{[^{{}}]*\}})*\}})?(?![A-Za-z(])",
        rf"{_BAR}(?:\s*[+-]?\d*\s*(?:{_PLACE}|[a-duvw]))+\s*{_BAR}|^\s*{_BAR}\s*z\s*{_BAR}\s*$",
    )
]
"""Patterns of one number, regardless of its letters: lengths, angles, areas, function values, absolute values."""
_BY_NAME = re.compile(r"\s*\\(?:max|min|gcd|lcm|det|deg|dim|sup|inf|int|sum|prod|lim)(?![a-z]).*", re.DOTALL)
_OF_TWO = re.compile(
    r"\\frac\{([A-Za-z])\}\{(?!\1)[A-Za-z]\}|([A-Za-z])\s*/\s*(?!\2)[A-Za-z]|[A-Za-z]+(?:\s*:\s*[A-Za-z]+)+"
)
_LETTER = re.compile(rf"(?:[a-dk-npq]|[xy](?=_))(?:_(?:\w|\{{\w+\}}))?|{_GREEK}(?:_(?:\w|\{{\w+\}}))?|\\[A-Za-z]+")
_SIGNS = {r"\frac", r"\cdot", r"\times", r"\sqrt"}
_REST = re.compile(r"[\ue000-\uf8ff\d\s+\-*/^:(){}.]*")
_ALONE = re.compile(rf"\s*{_PLACE}\s*(?:\^\s*(?:\d|\{{\d\}}))?\s*")
_CLOSED = re.compile(
    r"\\(?:frac|sqrt|pi|cdot|times|sin|cos|tan|cot|arcsin|arccos|arctan|ln|log|lg|binom|pm|circ|infty)(?![a-z])"
    r"|(?<![A-Za-z\\])[ei](?![A-Za-z])"
)


def is_quantity(side: str) -> bool:
    """Return whether a side of an equation names one number, or computes a number from several such names."""
    if NAME_PATTERN.fullmatch(side) or _BY_NAME.fullmatch(side) or _OF_TWO.fullmatch(side):
        return True
    places: dict[str, str] = {}
    letters: set[str] = set()

    def placed(found: re.Match[str]) -> str:
        return places.setdefault(found[0], chr(0xE000 + len(places)))

    def letter(found: re.Match[str]) -> str:
        if found[0] in _SIGNS:
            return ""
        letters.add(found[0])
        return placed(found)

    for pattern in (*_WHOLES, *_WHOLES):  # twice: f(f(2))
        side = pattern.sub(placed, side)
    rest = _LETTER.sub(letter, side)
    if not _REST.fullmatch(rest) or any(name.startswith("\\") and not re.match(_GREEK, name) for name in letters):
        return False
    return len(set(re.findall(_PLACE, rest))) > 1 or (not letters and bool(_ALONE.fullmatch(rest)))


def is_constant(side: str) -> bool:
    """Return whether a side of an equation is a number, a ratio or a tuple of numbers. It may have a unit."""
    value = without_unit(side)[0]
    try:
        return not symbols(exact(value))
    except Unreadable:
        return not re.search(r"[A-Za-z\\]", _CLOSED.sub("", value)) and not split_outside(value, RELATIONS | SEVERAL)[1]
