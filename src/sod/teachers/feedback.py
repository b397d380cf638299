"""What went wrong in an attempt, as text for a teacher: errors of tool calls, and why the judge found the answer wrong."""

from collections.abc import Sequence

from sod.chat.format import ChatFormat, Schema
from sod.rewards.kinds import KINDS
from sod.types import Trajectory

LLM_REASON = "llm:"
"""Beginning of the reasons of a model as judge (`sod.rewards.llm`)."""
LONGEST_ERROR = 300
"""Characters of an error that are kept: its end, where the reason is."""


def feedback(trajectory: Trajectory, chat: ChatFormat, tools: Sequence[Schema]) -> str:
    """Return the faults of an attempt, one per paragraph; empty if it has none. Never contains the gold answer.

    A reason of the judge that contains the gold answer is left out, and so are the details of a failed test. Errors are texts
    that the student has read itself.
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
    return "\n\n".join([*faults, *_verdict(trajectory)])


def _verdict(trajectory: Trajectory) -> list[str]:
    """Return why the attempt was judged wrong; nothing for a right one."""
    verdict = trajectory.judged
    if verdict.is_right or not verdict.is_graded:
        return []
    reason, gold = verdict.reason, trajectory.problem.answer.strip()
    if not KINDS[trajectory.problem.kind].gold_is_answer:
        reason = reason.partition(" (")[0]  # the detail of a failed test may hold its expected value
    if (gold and gold in reason) or reason.startswith(LLM_REASON):  # a model may write the answer in another form
        reason = ""
    reason = f" ({reason})" if reason else ""
    answer = f"The answer {verdict.answer!r} is wrong" if verdict.answer else "The attempt was judged wrong"
    return [f"{answer}{reason}."]
