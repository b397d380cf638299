"""Mathematics: the last boxed answer of the last turn, compared exactly.

Integers are compared as integers (`033` = `33` = `33.` = `1,000` without its comma); anything else by its text without
white space. Boxes are never joined, and a box that is not closed is no answer.
"""

import re

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_WRAPPED = re.compile(r"\\(?:text|mathrm|mathbf|textbf|mbox)\s*\{([^{}]*)\}")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:(?:,|\\,|\{,\})\d{3})+")
_INTEGER = re.compile(r"[+-]?\d+")


def judge(text: str, gold: str) -> tuple[bool, str | None]:
    """(is the last boxed answer in `text` the gold one, that answer in canonical form)"""
    boxed = last_boxed(text.rpartition("</think>")[2])
    answer = canonical(boxed) if boxed is not None else None
    return answer is not None and answer == canonical(gold), answer


def last_boxed(text: str) -> str | None:
    r"""What stands in the last \boxed{...} (or \fbox) that is closed, braces matched; None without one."""
    for opening in reversed(list(_BOX.finditer(text))):
        depth = 1
        for i in range(opening.end(), len(text)):
            if text[i] in "{}" and text[i - 1] != "\\":
                depth += 1 if text[i] == "{" else -1
                if depth == 0:
                    return text[opening.end() : i]
    return None


def canonical(answer: str) -> str | None:
    """The form in which answers are compared and counted as votes; None if nothing is there."""
    text = _WRAPPED.sub(r"\1", answer.strip().strip("$").strip("'\"").strip())
    text = text.rpartition("=")[2].strip().rstrip(".").strip()
    if _THOUSANDS.fullmatch(text):
        text = re.sub(r"\{,\}|\\,|,", "", text)
    if _INTEGER.fullmatch(text):
        # Long digit runs stay text: int() refuses them, and no gold is that long.
        return str(int(text)) if len(text) < 1000 else text
    return re.sub(r"\s+", "", text) or None
