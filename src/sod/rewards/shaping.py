"""Verdict to reward: +1 or -1, and the paper's two corrections.

Tool use (arXiv 2605.07725, reward of the training recipe): a wrong answer is worth min(-0.6, -1 + 0.1 (n - 2) / 2), n being
the messages of the conversation. With t tool turns, n = 2 t + 2, so a wrong answer is worth -1, -0.9, ... up to -0.6. In the
authors' code n never arrives and is taken for 0, so that every wrong answer is worth -1.1; `reference` reproduces that.

Overlong (DAPO, arXiv 2503.14476, Eq. 13): over the last B of L_max tokens, the reward falls linearly by 1.
"""

from sod.config import RewardOptions
from sod.types import Trajectory

RIGHT, WRONG = 1.0, -1.0
PER_TOOL_TURN, BEST_WRONG = 0.1, -0.6
MESSAGES_IN_REFERENCE = 0


def reward(trajectory: Trajectory, options: RewardOptions, *, max_tokens: int) -> float:
    """What a judged trajectory is worth; `max_tokens` is the budget of a response, in tokens."""
    base = RIGHT if trajectory.correct else wrong(_messages(trajectory), options.tool_use)
    return base - overlong(trajectory.response_tokens, max_tokens, round(options.overlong * max_tokens))


def wrong(messages: int, rule: str) -> float:
    """What a wrong answer is worth after a conversation of so many messages."""
    if rule == "off":
        return WRONG
    counted = messages if rule == "paper" else MESSAGES_IN_REFERENCE
    return min(BEST_WRONG, WRONG + PER_TOOL_TURN * (counted - 2) / 2)


def overlong(tokens: int, most: int, buffer: int) -> float:
    """The penalty, from 0 at `most - buffer` tokens to 1 at `most`."""
    return max(0.0, tokens - (most - buffer)) / buffer if buffer else 0.0


def _messages(trajectory: Trajectory) -> int:
    """The user's one, the student's turns and the tool's."""
    return 1 + sum(piece.author != "prompt" for piece in trajectory.pieces)
