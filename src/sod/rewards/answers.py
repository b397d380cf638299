r"""Find the final answer in a student's text, and normalise its LaTeX.

The final answer is the last box of the last turn. The search takes linear time for every text: a response may have hundreds of
kilobytes, and a degenerate student may write only braces.
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
    """Return the content of the last box of the last turn; None if there is no last turn, no box or no content."""
    box = last_box(final_turn(text))
    return box.strip() or None if box is not None else None


def final_turn(text: str) -> str:
    """Return the text of the last turn without thoughts, tool calls and tool output.

    A closing tag drops all text before it, both thoughts and tool output. The text around a call is kept, because it belongs to
    the same turn. A thought that is never closed extends to the end of the text.
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
    r"""Return the content of the last \boxed{...} or \fbox{...}, braces matched; None if there is none or it is not closed.

    The outermost of nested boxes counts, and boxes are never joined. Escaped braces are text. These forms are accepted as well:
    spaces before the brace, a single value without braces (`\boxed 5`), and an escape that was lost or doubled (a backspace
    character for `\b`; `\\boxed`).
    """
    found: tuple[int, int, bool] | None = None  # start and end of the content, and whether its escapes are doubled
    begun, complete, at = -1, True, 0  # the last box: start of its content, and whether the box is closed
    opened: list[tuple[int, bool] | None] = []  # start and doubled escapes of each open box; None for another brace
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


_ESCAPES = [
    (re.compile(rf"{control}(?=(?:{names})(?![a-zA-Z]))"), f"\\{letter}")
    for control, letter, names in (
        (r"\x0c", "f", "rac|box|orall|lat|loor"),
        (r"\x08", "b", "inom|egin|eta|oxed|ar|f|ig|igl|igr|igg"),
        (r"\t", "t", "ext(?:bf|it|rm)?|imes|heta|frac|an|anh|au|o|riangle|herefore|ilde"),
        (r"\r", "r", "ight|ightarrow|ho|angle|ceil|floor|m|oot"),
        (r"\n", "n", "eq|abla|otin|earrow"),
    )
]
"""Control characters that were the first letter of a LaTeX command in JSON with single backslashes: \f, \b, \t, \r, \n."""


def repaired(text: str) -> str:
    """Return a text in which such control characters are LaTeX commands again. Call it before white space is stripped."""
    for pattern, by in _ESCAPES:
        text = pattern.sub(lambda _, by=by: by, text)
    return text


def peel(text: str) -> str:
    r"""Remove wrappers around the whole answer: quotes, dollars, braces, fonts, boxes and a final dot.

    For short texts only: nested wrappers take quadratic time.
    """
    text = _BOX_NAME.sub("", repaired(text))
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
    """Return whether the last character closes the brace that opens just before `start`."""
    depth = 1
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.end() == len(text)
    return False


# Normalised LaTeX

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
    **{blackboard: rf"\mathbb{{{unicodedata.normalize('NFKC', blackboard)}}}" for blackboard in "ℝℤℚℕℂ"},
    "′": "'",
}
_CURRENCIES = {
    r"€|\\euro|(?<![A-Za-z])EUR": "euros",
    r"£|\\pounds|(?<![A-Za-z])GBP": "sterling",
    r"¥|(?<![A-Za-z])JPY": "yen",
    "₹|(?<![A-Za-z])INR": "rupees",
    "₽|(?<![A-Za-z])RUB": "rubles",
    r"(?<![A-Za-z])USD": "dollars",
}
_COUNTERS = """个 個 元 円 人 名 位 只 本 枚 条 张 匹 台 年 月 日 天 岁 歳 回 次 种 分 秒 小时 時間 米 厘米 公里 克 千克 公斤
    平方米 平方厘米 개 명 원 살 시간"""
"""Words after a number in Chinese, Japanese and Korean that do not change it."""
_GREEK = re.compile(r"GREEK SMALL LETTER ([A-Z]+)")
_TEXT = r"\\text\{\s*"
_MOD = r"(?:\\b?mod(?![a-z])|\\text\{\s*mod\s*\}|(?<![A-Za-z\\])mod\b)"
_REWRITES = [
    (re.compile(pattern), by)
    for pattern, by in [
        (r"[\x00-\x1f\x7f]+", " "),
        # Layout
        (r"(\\\\)\s*\[\s*-?[\d.]+\s*[a-z]{2}\s*\]", r"\1"),
        (r"\\(?:begin|end)\{(?:aligned|gathered|split|(?:align|equation)\*?)\}|&(?=\s*=)", " "),
        (r"\\(?:left|right|[bB]igg?[lrm]?|limits|(?:display|text|script)style)(?![a-zA-Z])", ""),
        (r"\\(?:tiny|small|large|Large|LARGE|huge|Huge|bf|rm|underline|checkmark|square|blacksquare)(?![a-zA-Z])", ""),
        (r"\\(?:textcolor|colorbox|color)\s*\{[^{}]*\}|\\tag\*?\{[^{}]*\}|\\therefore(?![a-z])", ""),
        (r"\\(?:[dtc]|nice|s|t)frac(?![a-z])", r"\\frac"),
        (r"(?<=\d) ?[xX] ?(?=10 ?\^)", r"\\times "),
        (r"\\mathrm\s*\{\s*([ei])\s*\}|\\(?:bm|boldsymbol|mathbf)\{(.)\}", r" \1\2"),
        (rf"\\(?:{_FONTS})\s*(?=\{{)", r"\\text"),
        (r"(?<=[^\s\\])\\text\{\s*\}|(?<!\\)\\(?:hspace|vspace|phantom)\*?\{[^{}]*\}", " "),
        (r"\\text\{\s*([-+=.,:]|\\?\$)\s*\}|\{([:.=])\}", r"\1\2"),
        # Thousands separators that have no other meaning
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
        *((rf"(?:{sign})(?![A-Za-z]) ?([\d,.]*\d)", rf"\1\\text{{ {name} }}") for sign, name in _CURRENCIES.items()),
        *((rf"(?<=\d) ?(?:{sign})$", rf"\\text{{ {name} }}") for sign, name in _CURRENCIES.items()),
        (rf"^(-?[\d.,/]*\d) ?({'|'.join(_COUNTERS.split())})$", r"\1\\text{ \2}"),
        (r"(?<=\d)(?:st|nd|rd|th)(?![A-Za-z])", ""),
        *(
            (
                rf"(?<=\d)(:[0-5]\d)\s*(?:\\text\{{\s*)?[{half}{half.upper()}]\.?\s?[mM]\b\.?\s*\}}?$",
                rf"\1\\text{{ {half}.m.}}",
            )
            for half in "ap"
        ),
        (r"(?<=\d):00(?=\s*(?:\\text\{\s*)?[aApP]\.? ?[mM])", ""),
        (r"^\\text\{\s*(?:negative|minus)\s*\}\s*(?=[\d.\\(])", "-"),
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
        (r"^\](.*,.*)([\[\]])$", r"(\1\2"),  # an open end as ]2, 5], in the notation of Bourbaki
        (r"^([(\[][^\[\]()]*,[^\[\]()]*)\[$", r"\1)"),
        (r"\\mathbb\s*\{?R\}?(?!\s*\^)", r"(-\\infty,\\infty)"),
        (r"\(\s*(\\text\{[^{}]*\})\s*\)$", r" \1"),
        (r"(?<=\d) \(((?:[A-Za-z]{3,}|[ckm]m|kg|ft)(?: [A-Za-z]+)*)\)$", r"\\text{ \1}"),
        (r"\\lg(?![A-Za-z])", r"\\log_{10}"),
        (r"\\log_\{?e\}?(?![a-z])", r"\\ln "),
        # Remainders of a number (\bmod), and congruences (\pmod)
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
    """Return LaTeX with normalised signs, spaces, fonts and wrappers; empty if nothing is left."""
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
    """Return `x = 1204` for `x = 1,204`. A comma in brackets is a separator: `(1,204)` is a pair."""
    depth = 0

    def joined(found: re.Match[str]) -> str:
        nonlocal depth
        depth += (found[0] in ("(", "[", r"\{")) - (found[0] in (")", "]", r"\}"))
        return found[0] if depth else found[0].replace(",", "")

    return _THOUSANDS_OR_BRACKET.sub(joined, text)


def _character(character: str) -> str:
    """Return ASCII for one character: `\\sqrt` for `√`, `\\frac{1}{2}` for `½`, a digit for a full-width digit."""
    if character.isascii():
        return character
    if character in _CHARACTERS:
        return _CHARACTERS[character]
    if unicodedata.category(character) in ("Cf", "Cs"):  # zero-width characters and lone surrogates
        return ""
    if greek := _GREEK.fullmatch(unicodedata.name(character, "")):
        return rf"\{greek[1].lower()} "
    plain = unicodedata.normalize("NFKC", character).replace("−", "-")
    above, slash, below = plain.partition("⁄")
    return rf"\frac{{{above}}}{{{below}}}" if slash else plain
