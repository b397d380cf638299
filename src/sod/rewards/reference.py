r"""What the paper's own code says of an answer, for comparison: its scores are not ours.

It looks for a literal `\boxed{` in the last 300, then 100 characters of the whole response, tool calls and tool output
included, and compares what is in the box with the gold answer as it is written: `33` is not `033`, nor ` 33 `.
"""

from sod.errors import DataError
from sod.rewards import Verdict

WINDOWS = (300, 100)
"""Characters that are left of a response, cut twice."""
_BOX = r"\boxed{"


class StrictBoxJudge:
    """Judges as the reference implementation does, where answers are mathematics or letters."""

    def check(self, gold: str) -> None:
        if not gold:
            raise DataError("The gold answer is empty.")

    async def __call__(self, text: str, gold: str) -> Verdict:
        return strict_box(text, gold)


def strict_box(text: str, gold: str) -> Verdict:
    """The reference's verdict on a whole response."""
    for window in WINDOWS:
        text = text[-window:]
    answer = _last_box(text)
    return Verdict(outcome="right" if answer == gold else "wrong", answer=answer, reason="strict box")


def _last_box(text: str) -> str | None:
    """What the last box holds, by counting braces, escaped ones as well; None without a box that is closed."""
    start = text.rfind(_BOX)
    if start < 0:
        return None
    depth = 0
    for at in range(start + len(_BOX) - 1, len(text)):
        depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return text[start + len(_BOX) : at]
    return None
