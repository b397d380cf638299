"""What went wrong in an attempt, as text for a teacher: errors of tool calls, and why the judge found the answer wrong."""

import re
from collections.abc import Sequence
from typing import get_args

from sod.chat.format import ChatFormat, Schema
from sod.rewards.code_tests import TestStatus
from sod.types import Stop, Trajectory

KNOWN_REASON = re.compile(rf"test \d+ of \d+: (?:{'|'.join(get_args(TestStatus))})")
"""The reasons of judges that cannot contain the gold answer, without the details of a failed test in brackets."""
LIMITS: dict[Stop, str] = {
    "max_tokens": "The attempt was cut off by the limit of tokens.",
    "max_turns": "The attempt was cut off by the limit of turns.",
    "repeated": "The attempt was cut off because it repeated its turns.",
}
"""The fault of an attempt that a limit has ended."""
LONGEST_ERROR = 300
"""Characters of an error that are kept: its end, where the reason is."""


def feedback(trajectory: Trajectory, chat: ChatFormat, tools: Sequence[Schema], *, tell_answer: bool = False) -> str:
    """Return the faults of an attempt, one per paragraph; empty if it has none.

    Without `tell_answer`, it never contains the gold answer: of the judge's reason, only the number of the failed test is kept.
    Errors are texts that the student has read itself.
    """
    faults: list[str] = []
    before: tuple[int, ...] = ()
    for piece in trajectory.pieces[1:]:
        if piece.author == "student":
            before = piece.tokens
            continue
        names = [getattr(call, "name", "") for call in chat.calls(before, tools)]
        texts = chat.observed(piece.tokens, len(piece.outcomes), names) if piece.outcomes else None
        for at, outcome in enumerate(piece.outcomes):
            if outcome != "ok":
                error = texts[at] if texts else chat.response(piece.tokens)
                faults.append(f"A tool call failed ({outcome}): {error.strip()[-LONGEST_ERROR:]}")
    verdict = trajectory.judged
    if not verdict.is_right and verdict.is_graded:
        test = KNOWN_REASON.fullmatch(verdict.reason.partition(" (")[0])
        reason = verdict.reason if tell_answer else test[0] if test else ""
        answer = f"The answer {verdict.answer!r} is wrong" if verdict.answer else "The attempt was judged wrong"
        if trajectory.stop in LIMITS:
            faults.append(LIMITS[trajectory.stop])
        faults.append(f"{answer} ({reason})." if reason else f"{answer}.")
    return "\n\n".join(faults)


def has_fault(trajectory: Trajectory) -> bool:
    """Return whether the feedback on a judged attempt is not empty."""
    return trajectory.tool_errors > 0 or (trajectory.judged.is_graded and not trajectory.judged.is_right)
