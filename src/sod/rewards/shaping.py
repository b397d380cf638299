"""Verdict to reward: +1 or -1, and two corrections of the paper's.

Tool use (arXiv 2605.07725, reward of the training recipe): a wrong answer is worth min(-0.6, -1 + 0.1 (n - 2) / 2), n being
the messages of the conversation. With t tool turns, n = 2 t + 2, so a wrong answer is worth -1, -0.9, ... up to -0.6. Which
turns count is `reward.tool_use`:

- `ran` (default): turns in which at least one call ran. A call that is malformed, names no tool or has wrong arguments earns
  nothing; a program that fails with an error has run.
- `paper`: every turn that called, as the formula stands. A student that solves nothing is then paid for broken calls.
- `reference`: in the authors' code n never arrives and is taken for 0, so that every wrong answer is worth -1.1.
- `off`: a wrong answer is worth -1.

Overlong (DAPO, arXiv 2503.14476, Eq. 13): over the last B of L_max tokens, the reward falls linearly by 1.
"""

import re

from sod.config import RewardOptions, ToolUse
from sod.types import NO_CALL, Trajectory

RIGHT, WRONG = 1.0, -1.0
PER_TOOL_TURN, BEST_WRONG = 0.1, -0.6
TURNS_IN_REFERENCE = -1
"""(n - 2) / 2 for n = 0."""


def reward(trajectory: Trajectory, options: RewardOptions, *, max_tokens: int) -> float:
    """What a judged trajectory is worth; `max_tokens` is the budget of a response, in tokens."""
    called = trajectory.observations
    ran = sum(not NO_CALL.issuperset(piece.outcomes) for piece in called)
    base = RIGHT if trajectory.correct else wrong(options.tool_use, called=len(called), ran=ran)
    return base - overlong(trajectory.response_tokens, max_tokens, round(options.overlong * max_tokens))


def wrong(rule: ToolUse, *, called: int, ran: int) -> float:
    """What a wrong answer is worth after `called` tool turns, in `ran` of which a call ran."""
    if rule == "off":
        return WRONG
    turns = {"ran": ran, "paper": called, "reference": TURNS_IN_REFERENCE}[rule]
    return min(BEST_WRONG, WRONG + PER_TOOL_TURN * turns)


def overlong(tokens: int, most: int, buffer: int) -> float:
    """The penalty, from 0 at `most - buffer` tokens to 1 at `most`."""
    return max(0.0, tokens - (most - buffer)) / buffer if buffer else 0.0


# Where only the text of a response is known

_TOOL_TURN = re.compile(r"(?:<tool_response>.*?</tool_response>\s*)+", re.DOTALL)
_RAN = re.compile(r"<tool_response>\s*+(?!There is no tool |Wrong arguments for |Error when executing tool: )")
"""A result that is none of the complaints of `sod.tools` and of verl's agent loop about a call that ran nothing."""


def turns_that_ran(response: str) -> int:
    """Tool turns of a response, as Qwen's chat template writes them, in which a call ran."""
    return sum(bool(_RAN.search(turn)) for turn in _TOOL_TURN.findall(response))
