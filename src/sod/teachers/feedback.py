"""What went wrong in an attempt, as text for a teacher: errors of tool calls, and why the judge found the answer wrong."""

from collections.abc import Sequence

from sod.chat.format import ChatFormat, Schema
from sod.rewards.kinds import KINDS
from sod.types import Trajectory

LLM_REASON = "llm:"
"""Beginning of the reasons of a model as judge (`sod.rewards.llm`)."""
LONGEST_ERROR = 300
"""Characters of an error that are kept: its end, where the reason is."""


def feedback(trajectory: Trajectory, chat: ChatFormat, tools: Sequence[Schema], *, tell_answer: bool = False) -> str:
    """Return the faults of an attempt, one per paragraph; empty if it has none.

    Without `tell_answer`, it never contains the gold answer: a reason of the judge that contains it is left out, and so are the
    details of a failed test, and the reasons of a model or an environment, which may write the answer in another form. Errors are
    texts that the student has read itself.
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
        reason = verdict.reason if tell_answer else _without_gold(trajectory)
        answer = f"The answer {verdict.answer!r} is wrong" if verdict.answer else "The attempt was judged wrong"
        faults.append(f"{answer} ({reason})." if reason else f"{answer}.")
    return "\n\n".join(faults)


def _without_gold(trajectory: Trajectory) -> str:
    """Return the judge's reason, or as much of it as cannot contain the gold answer."""
    reason, gold = trajectory.judged.reason, trajectory.problem.answer.strip()
    if trajectory.environment_verdict is not None or reason.startswith(LLM_REASON):
        return ""
    if not KINDS[trajectory.problem.kind].gold_is_answer:
        reason = reason.partition(" (")[0]  # the detail of a failed test may hold its expected value
    return "" if gold and gold in reason else reason
