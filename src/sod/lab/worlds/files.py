"""Write problems and demonstrations of a world as ordinary files."""

import random
from pathlib import Path

from sod.datasets.rows import write_jsonl
from sod.environments.worlds.base import LEVELS, SmallWorld
from sod.lab.demonstrations import Style
from sod.lab.worlds.demonstrations import demonstration_at

MOST, PARTS = 1 << 32, 3
"""Most problems of a file, and number of files."""


def write_world_demonstrations(path: Path, kind: type[SmallWorld], style: Style, count: int, seed: str) -> None:
    rng = random.Random(f"{kind.NAME}/{seed}")
    common = {"environment": kind.NAME} | ({"tools": tools} if (tools := kind.schemas()) else {})
    write_jsonl(path, [{"messages": demonstration_at(kind, i / count, style, rng)} | common for i in range(count)])


def write_world_problems(path: Path, kind: type[SmallWorld], count: int, part: tuple[int, int]) -> None:
    """Write problems of all levels in turn. `part`: seed, and number of the file; no two files have a problem in common."""
    seed, file = part
    rows = []
    for i in range(count):
        problem = kind.problem(LEVELS[i % len(LEVELS)], (seed * PARTS + file) * MOST + i)
        rows.append(
            {
                "id": problem.id,
                "prompt": list(problem.messages),
                "answer": problem.answer,
                "kind": problem.kind,
                "environment": problem.environment,
                "setting": dict(problem.setting),
                **problem.labels,
            }
        )
    write_jsonl(path, rows)
