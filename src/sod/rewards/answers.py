r"""From what a student wrote to its final answer: the last box of the last turn, and that in one way of writing.

Finding it takes time in proportion to the text, whatever is in it: responses may be hundreds of kilobytes long, and a
student that has lost its mind may write nothing but braces.
"""

import re
import unicodedata

from sod.chat.calls import THOUGHT_OPEN, without_calls

_TAGS = re.compile(r"(</?tool_response>|</?think>|<\|im_start\|>)")
_BRACES = re.compile(
    r"(?P<box>(?P<escape>\\{0,3})\\(?:boxed|fbox)(?![A-Za-z])\s*|\x08oxed(?![A-Za-z])\s*)|\\.|[{}]", re.DOTALL
)
_BARE = re.compile(r"\$?([+-]?\d[\d,]*(?:[./]\d+)?|[A-Z])(?=[\s$.]|\\[)\]]|$)")
_BOX_NAME = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)")
_FONTS = r"text(?:bf|rm|it|sf|tt|normal)|emph|math(?:rm|bf|sf|it|tt|cal)|[mh]box|operatorname"
_STYLED = re.compile(rf"(?:\\(?:text|{_FONTS}|bm|boldsymbol|bf|rm)\s*)?\{{")
_STOP = re.compile(r"(?<!\.)\.$|(?<!\\)[,;]$")
_QUOTES = [(mark, mark) for mark in ("$$", "$", r"\$", "**", "*", "`", "''", "'", '"')]
_QUOTES += [(r"\(", r"\)"), (r"\[", r"\]"), ("‘", "’"), ("“", "”"), ("``", "''"), ("`", "'")]


def final_answer(text: str) -> str | None:
    """What stands in the last box of the last turn; None without a last turn or a box, or if nothing is in it."""
    box = last_box(final_turn(text))
    return box.strip() or None if box is not None else None


def final_turn(text: str) -> str:
    """The last turn's own words: without tool calls, what tools answered, and thoughts.

    A closing tag ends all that came before it, thoughts and tool output alike. Calls leave the words around them: they belong
    to the same turn. A thought that is never closed is still a thought.
    """
    words: list[str] = []
    thinking = False
    for part in _TAGS.split(without_calls(text)):
        if part == THOUGHT_OPEN:
            thinking = True
        elif _TAGS.fullmatch(part):
            words.clear()
            thinking = part == "<tool_response>"
        elif not thinking:
            words.append(part)
    return "".join(words)


def last_box(text: str) -> str | None:
    r"""What stands in the last \boxed{...} or \fbox{...}, braces matched; None without one, or if it is not closed.

    Of boxes in boxes the outermost counts, and boxes are never joined. Escaped braces are text. Read as meant: spaces
    before the brace, a clear value without braces (`\boxed 5`), and the traces of an escape that was lost or doubled
    (a backspace for `\b`; `\\boxed`).
    """
    found: tuple[int, int, bool] | None = None  # where the content starts and ends, and if its escapes are doubled
    begun, complete, at = -1, True, 0  # the last box: where its content starts, and if it has ended
    opened: list[tuple[int, bool] | None] = []  # content and escapes of boxes that are open; None for another brace
    while match := _BRACES.search(text, at):
        at = match.end()
        if match["box"]:
            if text.startswith("{", at):
                at += 1
                begun, complete = at, False
                opened.append((at, len(match["escape"] or "") % 2 == 1))
            elif bare := _BARE.match(text, at):
                found, complete = (*bare.span(1), False), True
        elif match[0] == "{":
            opened.append(None)
        elif match[0] == "}" and opened and (box := opened.pop()) is not None:
            found = (box[0], match.start(), box[1])
            complete = complete or box[0] == begun
    if found is None or not complete:
        return None
    start, end, doubled = found
    return text[start:end].replace("\\\\", "\\") if doubled else text[start:end]


def peel(text: str) -> str:
    r"""An answer without what is wrapped around the whole of it: quotes, dollars, braces, fonts, boxes, a final dot.

    For short texts: takes quadratic time where wrappers are nested.
    """
    text = _BOX_NAME.sub("", text)
    while (inner := _peel_once(text.strip())) != text:
        text = inner
    return text


def _peel_once(text: str) -> str:
    if (opening := _STYLED.match(text)) and _closes_at_end(text, opening.end()):
        return text[opening.end() : -1]
    for left, right in _QUOTES:
        inside = text[len(left) : -len(right)]
        if text.startswith(left) and text.endswith(right) and left not in inside:
            return inside
    return _STOP.sub("", text)


def _closes_at_end(text: str, start: int) -> bool:
    """Whether the brace that is opened just before `start` is closed by the last character."""
    depth = 1
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.end() == len(text)
    return False


# Tidying: one way to write what can be written in many

DEGREE, PERCENT = "°", r"\%"
_CHARACTERS = {
    **dict.fromkeys("−–—‐‑‒﹣－", "-"),
    **dict.fromkeys("º˚", DEGREE),
    **dict.fromkeys("·∙⋅×✕", r"\cdot "),
    DEGREE: DEGREE,
    "÷": "/",
    "∞": r"\infty ",
    "≤": r"\le ",
    "≥": r"\ge ",
    "≠": r"\ne ",
    "≈": r"\approx ",
    "≡": r"\equiv ",
    "∪": r"\cup ",
    "∈": r"\in ",
    "±": r"\pm ",
    "√": r"\sqrt ",
    "∅": r"\{\}",
    "′": "'",
}
_CURRENCIES = {r"€|\\euro": "euros", r"£|\\pounds": "sterling", "¥": "yen"}
_GREEK = re.compile(r"GREEK SMALL LETTER ([A-Z]+)")
_TEXT = r"\\text\{\s*"
_MOD = r"(?:\\b?mod(?![a-z])|\\text\{\s*mod\s*\}|(?<![A-Za-z\\])mod\b)"
_REWRITES = [
    (re.compile(pattern), by)
    for pattern, by in [
        # An escape that was taken for a control character, then all other control characters.
        (r"\x0c(?=rac|box)", r"\\f"),
        (r"\x08(?=inom|egin|eta\b)", r"\\b"),
        (r"\t(?=ext\b|imes\b|heta\b|frac)", r"\\t"),
        (r"\r(?=ight)", r"\\r"),
        (r"[\x00-\x1f\x7f]+", " "),
        # Layout
        (r"(\\\\)\s*\[\s*-?[\d.]+\s*[a-z]{2}\s*\]", r"\1"),
        (r"\\(?:begin|end)\{(?:aligned|gathered|split|(?:align|equation)\*?)\}|&(?=\s*=)", " "),
        (r"\\(?:left|right|[bB]igg?[lrm]?|limits|(?:display|text|script)style)(?![a-zA-Z])", ""),
        (r"\\(?:tiny|small|large|Large|LARGE|huge|Huge|bf|rm|underline|checkmark|square|blacksquare)(?![a-zA-Z])", ""),
        (r"\\(?:textcolor|colorbox|color)\s*\{[^{}]*\}|\\tag\*?\{[^{}]*\}|\\therefore(?![a-z])", ""),
        (r"\\[dtc]frac(?![a-z])", r"\\frac"),
        (r"\\mathrm\s*\{\s*([ei])\s*\}|\\(?:bm|boldsymbol|mathbf)\{(.)\}", r" \1\2"),
        (rf"\\(?:{_FONTS})\s*(?=\{{)", r"\\text"),
        (r"(?<=[^\s\\])\\text\{\s*\}|(?<!\\)\\(?:hspace|vspace|phantom)\*?\{[^{}]*\}", " "),
        (r"\\text\{\s*([-+=.,:]|\\?\$)\s*\}|\{([:.=])\}", r"\1\2"),
        # Thousands: a separator that stands for nothing else
        (r",\\!\s*", "{,}"),
        (r"(?<=\d)(?:\{,\}|\\[,;: ]|~)(?=\d{3}(?!\d))", ""),
        # Space
        (r"(?<!\\)\\[,;:!> ]|~|\\q?quad(?![a-z])", " "),
        # Signs
        (r"\*\*", "^"),
        (rf"\^\s*\{{?\s*\\(?:circ|degree)\s*\}}?|\\deg(?:ree)?(?![a-z])|{_TEXT}degrees?\s*\}}|\bdegrees?$", DEGREE),
        (rf"\\?%|{_TEXT}per\s?cent\s*\}}|\bper\s?cent$", r"\\%"),
        (r"^([^$]*?)\\?\$ ?([\d,.]*\d)([^$]*)$", r"\1\2\\text{ dollars }\3"),
        (r"^\\\$ ?(\\frac ?(?:\{\d+\}|\d) ?(?:\{\d+\}|\d))$", r"\1\\text{ dollars}"),
        (r"\\?\$|\\text\{\s*\}", ""),
        *((rf"(?:{sign})(?![a-z]) ?([\d,.]*\d)", rf"\1\\text{{ {name} }}") for sign, name in _CURRENCIES.items()),
        (r"\\[lr]vert(?![a-z])", "|"),
        (r"\\lbrace(?![a-z])", r"\\{"),
        (r"\\rbrace(?![a-z])", r"\\}"),
        (r"\\leq(?:slant)?(?![a-z])|<=", r"\\le "),
        (r"\\geq(?:slant)?(?![a-z])|>=", r"\\ge "),
        (r"\\neq(?![a-z])|!=", r"\\ne "),
        (r"\\(?:emptyset|varnothing)(?![a-z])", r"\\{\\}"),
        (r"\\lnot(?![a-z])", r"\\neg"),
        (r"\\lt(?![a-z])", "<"),
        (r"\\gt(?![a-z])", ">"),
        (rf"{_TEXT}or\s*\}}|\\(?:lor|vee)(?![a-z])|(?<=\s)or(?=\s)", r"\\lor "),
        (rf"{_TEXT}and\s*\}}|\\(?:land|wedge)(?![a-z])|(?<=\s)and(?=\s)|\s&\s(?!.*\\end)", r"\\land "),
        (r",\s*\\l(?:or|and) ", ", "),
        (r"\{?(\d+)\s*\\choose\s*(\d+)\}?", r"\\binom{\1}{\2}"),
        (r"\\mathbb\s*\{?R\}?(?!\s*\^)", r"(-\\infty,\\infty)"),
        (r"\(\s*(\\text\{[^{}]*\})\s*\)$", r" \1"),
        (r"\\log_\{?e\}?(?![a-z])", r"\\ln "),
        # Remainders: of a number, by \bmod; and congruences
        (r"\\+$", ""),
        (
            rf"\\pmod\s*(?:\{{([^{{}}]*)\}}|(\w+))|(?:{_TEXT})?\(\s*{_MOD}\s*\{{?(\w+)\}}?\s*\)(?:\s*\}})?",
            r"\\pmod{\1\2\3}",
        ),
        (rf"(\\equiv.*){_MOD}\s*\{{?(\w+)\}}?$", r"\1\\pmod{\2}"),
        (rf"{_MOD}\s*\{{?(\w+)\}}?$", r"\\bmod{\1}"),
        (r"\s+", " "),
    ]
]


def tidy(text: str) -> str:
    """LaTeX in which signs, spaces, fonts and wrappers are written in one way; empty if nothing is left."""
    if text.isascii() and text.isdigit():
        return text
    text = re.sub(r"[⁰¹²³⁴-⁹⁺⁻ⁿ]+", lambda run: f"^{{{unicodedata.normalize('NFKC', run[0])}}}", text)
    text = re.sub(r"[₀-₉]+", lambda run: f"_{{{unicodedata.normalize('NFKC', run[0])}}}", text)
    text = peel("".join(_character(character) for character in text).strip(" \0"))
    for pattern, by in _REWRITES:
        text = pattern.sub(by, text)
    return peel(_without_thousands_commas(text))


_THOUSANDS_OR_BRACKET = re.compile(r"\\[{}]|[()\[\]]|(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?!,?\d)")


def _without_thousands_commas(text: str) -> str:
    """`x = 1204` for `x = 1,204`. In brackets a comma separates: `(1,204)` is a pair."""
    depth = 0

    def joined(found: re.Match[str]) -> str:
        nonlocal depth
        depth += (found[0] in ("(", "[", r"\{")) - (found[0] in (")", "]", r"\}"))
        return found[0] if depth else found[0].replace(",", "")

    return _THOUSANDS_OR_BRACKET.sub(joined, text)


def _character(character: str) -> str:
    """ASCII for one character: `√` is `\\sqrt`, `½` is `\\frac{1}{2}`, and full-width digits are digits."""
    if character.isascii():
        return character
    if character in _CHARACTERS:
        return _CHARACTERS[character]
    if unicodedata.category(character) in ("Cf", "Cs"):  # marks without width, and halves of characters
        return ""
    if greek := _GREEK.fullmatch(unicodedata.name(character, "")):
        return rf"\{greek[1].lower()} "
    plain = unicodedata.normalize("NFKC", character).replace("−", "-")
    above, slash, below = plain.partition("⁄")
    return rf"\frac{{{above}}}{{{below}}}" if slash else plain
