"""A reward and a judge of your own: no change to the package.

sod train ... --reward.own examples/own_reward.py:brevity examples/own_reward.py:shows_work
              --reward.weights brevity=0.2 shows_work=0.1
sod eval  ... --reward.judge examples/own_reward.py:same_words

A reward returns a number (True is 1, False is 0) or a Verdict (+1 or -1). A judge returns True, False, a Verdict, or None for an
attempt that it cannot decide. Both run in the process of sod, many at a time: keep nothing between two calls. A function that
asks a server is an `async def`. An exception, NaN or a call over reward.own_seconds drops the attempt; it is never a reward of 0.
"""

import re

from sod.rewards import Attempt, Verdict
from sod.types import Problem


def brevity(attempt: Attempt) -> float:
    """Return 1 for an empty response and 0 for 2,000 tokens or more. Only right answers are paid for."""
    return max(0.0, 1 - attempt.response_tokens / 2000) if attempt.verdict.is_right else 0.0


def shows_work(attempt: Attempt) -> bool:
    """Return whether the student ran a program without an error."""
    called = any(message["role"] == "tool" for message in attempt.messages)
    return called and attempt.tool_errors == 0


def same_words(text: str, problem: Problem) -> Verdict | None:
    """Compare the last line with the gold answer, without regard to case, punctuation and order of the words."""
    gold = sorted(re.findall(r"\w+", problem.answer.casefold()))
    if not gold:
        return None  # ungraded: neither right nor wrong, never trained on
    last = text.strip().splitlines()[-1]
    found = sorted(re.findall(r"\w+", last.casefold()))
    return Verdict(outcome="right" if found == gold else "wrong", answer=" ".join(found), reason="same words")


if __name__ == "__main__":
    whale = Problem(
        id="whale", messages=({"role": "user", "content": "Who wrote Moby-Dick?"},), answer="Herman Melville"
    )
    for answer in ("It was a novelist.\nMelville, Herman", "Mark Twain"):
        print(repr(answer), same_words(answer, whale))
