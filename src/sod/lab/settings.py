"""The lab's configuration, as options of the ordinary commands. docs/log.md describes how it was found."""

from typing import Any

LENGTH = (3, 4)
"""Smallest and largest number of calls that a problem needs."""
EUCLID_SHARE = 0.2
"""Share of problems that are greatest common divisors; the others are chains of definitions."""

ROLLOUT: dict[str, Any] = {
    "max_turns": 8,  # a clean solution needs 4 at most
    "max_turn_tokens": 36,  # the longest correct turn has 32; a thought and a whole chain in one call take at least 37
    "max_tokens": 300,
    "max_prompt_tokens": 64,
    "concurrency": 64,
}
TOOL: dict[str, Any] = {"seconds": 5.0, "memory_mb": 512, "max_chars": 200, "errors": "last_line", "faults": 0.2}
"""One call in five loses its last character on the way to the tool. The student must learn to recover from errors; it cannot
learn to avoid all of them."""
REWARD: dict[str, Any] = {"tool_use": "off", "overlong": 0.0}  # only +1 and -1

STUDENT_SFT: dict[str, Any] = {"batch": 8, "learn": {"lr": 5e-3, "warmup": 30, "betas": [0.9, 0.98]}}
TEACHER_SFT: dict[str, Any] = {"batch": 8, "learn": {"lr": 4e-3, "warmup": 30, "betas": [0.9, 0.98]}}
TRAIN: dict[str, Any] = {
    "rollout": ROLLOUT | {"problems": 8, "group": 8},
    "learn": {"lr": 2e-4, "warmup": 8, "betas": [0.9, 0.98], "minibatches": 4},
    "reward": REWARD,
    "tool": TOOL,
    "updates": 40,
    "save_every": 20,
    "save_trajectories": 128,
    "opsd": {"template": "{question} {context}"},
}
LRS = (1e-4, 2e-4, 4e-4)
"""Learning rates that a comparison chooses from for each method."""
EVAL: dict[str, Any] = {"samples": 4, "rollout": ROLLOUT | {"top_p": 1.0}, "reward": REWARD, "tool": TOOL}
