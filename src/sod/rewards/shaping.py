"""Compute the reward of a verdict: +1 or -1, with the two corrections of the paper.

Tool use (arXiv 2605.07725, reward of the training recipe): a wrong answer has reward min(-0.6, -1 + 0.1 (n - 2) / 2) in a
conversation of n messages. With t tool turns, n = 2 t + 2, and the reward is -1, -0.9, ... up to -0.6. `reward.tool_use` selects
the turns that count:

- `ran` (default): turns in which at least one call ran. A call that is malformed, names no tool or has wrong arguments earns
  nothing; a program that fails with an error has run.
- `paper`: every turn with a call, as in the formula. Broken calls then raise the reward of a wrong answer.
- `reference`: the authors' code does not receive n and uses 0, so every wrong answer has reward -1.1.
- `off`: a wrong answer has reward -1.

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
    """Return the reward of a judged trajectory. `max_tokens` is the limit on a response, in tokens."""
    called = [piece for piece in trajectory.observations if piece.author == "tool"]
    ran = sum(not NO_CALL.issuperset(piece.outcomes) for piece in called)
    base = RIGHT if trajectory.judged.is_right else wrong(options.tool_use, called=len(called), ran=ran)
    return base - overlong(trajectory.response_tokens, max_tokens, round(options.overlong * max_tokens))


def wrong(rule: ToolUse, *, called: int, ran: int) -> float:
    """Return the reward of a wrong answer after `called` tool turns; in `ran` of them a call ran."""
    if rule == "off":
        return WRONG
    turns = {"ran": ran, "paper": called, "reference": TURNS_IN_REFERENCE}[rule]
    return min(BEST_WRONG, WRONG + PER_TOOL_TURN * turns)


def overlong(tokens: int, most: int, buffer: int) -> float:
    """Return the penalty: 0 up to `most - buffer` tokens, then linear to 1 at `most`."""
    return max(0.0, tokens - (most - buffer)) / buffer if buffer else 0.0


# Where only the text of a response is known

_TOOL_TURN = re.compile(r"(?:<tool_response>.*?</tool_response>\s*)+", re.DOTALL)
_RAN = re.compile(r"<tool_response>\s*+(?!There is no tool |Wrong arguments for |Error when executing tool: )")
"""A tool result other than the errors of `sod.tools` and of verl's agent loop for a call that did not run."""


def turns_that_ran(response: str) -> int:
    """Return the number of tool turns in which a call ran. The response has the format of Qwen's chat template."""
    return sum(bool(_RAN.search(turn)) for turn in _TOOL_TURN.findall(response))
