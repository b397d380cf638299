"""Mathematics: the last boxed answer of the last turn, compared exactly.

Integers are compared as integers (`033` = `33` = `33.` = `1,000` without its comma); anything else by its text without
white space. Boxes are never joined, and a box that is not closed is no answer.
"""

import re

_BRACES = re.compile(r"(?P<box>\\(?:boxed|fbox)\s*\{)|\\.|[{}]", re.DOTALL)
_NO_EQUATION = re.compile(r"[<>!,]|\\(?:le|ge|ne|neq|leq|geq)\b|\bor\b")
_WRAPPED = re.compile(r"\\(?:text|mathrm|mathbf|textbf|mbox)\s*\{([^{}]*)\}")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:(?:,|\\,|\{,\})\d{3})+")
_INTEGER = re.compile(r"[+-]?\d+")


def judge(text: str, gold: str) -> tuple[bool, str | None]:
    """(is the last boxed answer in `text` the gold one, that answer in canonical form)"""
    boxed = last_boxed(text.rpartition("</think>")[2])
    answer = canonical(boxed) if boxed is not None else None
    return answer is not None and answer == canonical(gold), answer


def last_boxed(text: str) -> str | None:
    r"""What stands in the last \boxed{...} (or \fbox) that is closed, braces matched; None without one.

    One pass: an escaped brace is text, and each closing brace ends the innermost open one.
    """
    found, begin = None, -1
    opened: list[int | None] = []  # where a box's content starts, None for any other brace
    for match in _BRACES.finditer(text):
        if match["box"]:
            opened.append(match.end())
        elif match[0] == "{":
            opened.append(None)
        elif match[0] == "}" and opened and (start := opened.pop()) is not None and start > begin:
            found, begin = text[start : match.start()], start
    return found


def canonical(answer: str) -> str | None:
    """The form in which answers are compared and counted as votes; None if nothing is there."""
    text = _WRAPPED.sub(r"\1", answer.strip().strip("$").strip("'\"").strip())
    left, _, right = text.rpartition("=")
    if not _NO_EQUATION.search(left):  # x = 5, but not x <= 5, x != 5, or x = 3, y = 5
        text = right
    text = text.strip().rstrip(".").strip()
    if _THOUSANDS.fullmatch(text):
        text = re.sub(r"\{,\}|\\,|,", "", text)
    if _INTEGER.fullmatch(text):
        # Long digit runs stay text: int() refuses them, and no gold is that long.
        return str(int(text)) if len(text) < 1000 else text
    return re.sub(r"\s+", "", text) or None
