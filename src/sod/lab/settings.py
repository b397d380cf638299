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
DEMO_VALIDATE: dict[str, Any] = {"every": 10, "samples": 2, "limit": 25, "top_p": 1.0}
"""250 further trajectories, beside 2,560 to learn from."""
LRS = (1e-4, 2e-4, 4e-4)
"""Learning rates that a comparison chooses from for each method."""
EVAL: dict[str, Any] = {"samples": 4, "rollout": ROLLOUT | {"top_p": 1.0}, "reward": REWARD, "tool": TOOL}

# `sod lab real`: a pretrained model of 135M parameters on word problems. The sizes follow from an hour on two processors
# (docs/start-laptop.md). recipes/laptop/ holds the same values.

REAL_SFT: dict[str, Any] = {
    "batch": 6,
    "save_every": 4,
    "max_tokens": 1024,  # the longest demonstration has 700
    "learn": {"lr": 3e-4, "warmup": 3, "microbatch_tokens": 1024},
    "chat": {"template": "hermes"},
}
REAL_DEMONSTRATIONS = 500
REAL_TEACHER_STEPS = 60
REAL_STUDENT_STEPS = {"weak": 5, "usual": 12}
"""Optimiser steps of the student's cold start. Aims: weak 0 to 10 % of the problems solved, usual 15 to 40 %. Measured: 12 steps
14 %."""
REAL_TOOL: dict[str, Any] = TOOL | {"faults": 0.1}
REAL_ROLLOUT: dict[str, Any] = {
    "max_turns": 8,  # a solution needs 4 at most
    "max_turn_tokens": 80,  # the longest turn of a demonstration has 58
    "max_tokens": 480,
    "max_prompt_tokens": 300,
}
REAL_TRAIN: dict[str, Any] = {
    "rollout": REAL_ROLLOUT | {"problems": 2, "group": 4},
    "learn": {"lr": 5e-5, "warmup": 3, "betas": [0.9, 0.98], "minibatches": 2, "microbatch_tokens": 2048},
    "score": {"student": "sampler"},  # saves a pass over every trajectory
    "tool": REAL_TOOL,
    "updates": 15,
    "save_every": 5,
    "keep": 1,
}
REAL_EVAL: dict[str, Any] = {
    "samples": 2,
    "limit": 50,
    "rollout": REAL_ROLLOUT | {"top_p": 1.0},
    "tool": REAL_TOOL,
}
REAL_NIGHT: dict[str, Any] = {
    "train": {"rollout": {"problems": 4}, "updates": 20, "learn": {"minibatches": 4}},
    "measure": {"limit": 100},
}
"""What `sod compare --preset laptop` changes."""

# `sod lab make --world NAME`

WORLD_SFT: dict[str, Any] = {"batch": 8, "learn": {"lr": 2e-3, "warmup": 30, "betas": [0.9, 0.98]}}
WORLD_STEPS: dict[str, dict[str, int]] = {
    "household": {"teacher": 1500, "cold-start": 500},
    "shop": {"teacher": 4000, "cold-start": 800},
    "maze": {"teacher": 1500, "cold-start": 800},
    "database": {"teacher": 2500, "cold-start": 800},
}
WORLD_ROLLOUT: dict[str, Any] = {
    "max_turns": 16,  # the budget of a world ends an attempt before
    "max_turn_tokens": 40,  # the longest turn of a demonstration has 36
    "max_tokens": 700,
    "max_prompt_tokens": 64,
    "concurrency": 64,
}
WORLD_EVAL: dict[str, Any] = {"samples": 2, "rollout": WORLD_ROLLOUT | {"top_p": 1.0}, "reward": REWARD}
