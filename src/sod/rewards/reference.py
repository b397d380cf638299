r"""Give the verdicts of the paper's code, for comparison with its numbers.

The paper's code searches a literal `\boxed{` in the last 100 characters of the whole response, including tool calls and
tool output.
It compares the content of the box with the gold answer as a string: `33` differs from `033` and from ` 33 `.
"""

from sod.errors import DataError
from sod.rewards import Verdict
from sod.rewards.golds import check_form

WINDOWS = (300, 100)
"""Characters that two cuts leave of a response."""
_BOX = r"\boxed{"


class StrictBoxJudge:
    """Judge an answer in a box as the reference implementation does."""

    def check(self, gold: str) -> None:
        if not gold:
            raise DataError("The gold answer is empty.")

    async def __call__(self, text: str, gold: str) -> Verdict:
        return strict_box(text, gold)


class StrictMathJudge(StrictBoxJudge):
    """Judge mathematics as the reference implementation does, and refuse golds that are longer texts."""

    def check(self, gold: str) -> None:
        super().check(gold)
        check_form(gold, lambda answer: answer == gold)


def strict_box(text: str, gold: str) -> Verdict:
    """Return the reference's verdict on a whole response."""
    for window in WINDOWS:
        text = text[-window:]
    answer = _last_box(text)
    return Verdict(outcome="right" if answer == gold else "wrong", answer=answer, reason="strict box")


def _last_box(text: str) -> str | None:
    """Return the content of the last box; None if there is no closed box. Escaped braces are counted as well."""
    start = text.rfind(_BOX)
    if start < 0:
        return None
    depth = 0
    for at in range(start + len(_BOX) - 1, len(text)):
        depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return text[start + len(_BOX) : at]
    return None
