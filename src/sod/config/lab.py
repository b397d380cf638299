"""Options of `sod lab make`, `sod lab words` and `sod lab teacher`."""

from pathlib import Path
from typing import Literal

from sod.config.base import Options, Positive, Rare
from sod.config.sandbox import SandboxOptions

World = Literal["sums", "household", "shop", "maze", "database"]


class LabOptions(Options):
    """Write the lab's models, tokenizer, problems and demonstrations to a directory."""

    out: Path = Path("runs/lab")
    """Directory to write to."""
    world: World = "sums"
    """World of the problems (docs/worlds.md). sums: the interpreter is the only tool. For the others, a teacher and a cold start
    are also trained; run the command again to continue after an interruption."""
    seed: int = 1
    """Seed of the problems, the demonstrations and the student's initial weights."""
    demonstrations: Positive | None = None
    """Number of demonstrations for the student's cold start, in curriculum order. Default: 32,000 for sums, and as many as the
    cold start of another world needs."""
    train_problems: Positive = 4_000
    """Number of problems for training."""
    eval_problems: Positive = 200
    """Number of problems for evaluation. They differ from the training problems."""


class LabTeacherOptions(Options):
    """Train the lab's teacher from scratch and evaluate it."""

    out: Path = Path("runs/teacher")
    """Run directory to create."""
    size: Literal["full", "small"] = "full"
    """full: the teacher that ships with the project. small: a teacher with as many parameters as the student."""
    steps: Positive = 4_500
    """Optimiser steps."""
    seed: int = 0
    """Seed of the demonstrations and the initial weights."""
    sandbox: Rare[SandboxOptions] = SandboxOptions(workers=4)


class WordProblemOptions(Options):
    """Write word problems that need the interpreter, and demonstrations for the cold start of a pretrained model.

    Files: train.jsonl, tune.jsonl, eval.jsonl (new numbers), wording.jsonl (new numbers in new wordings), and demonstrations of
    a teacher and of a student.
    """

    out: Path = Path("runs/word-problems")
    """Directory to write to."""
    seed: int = 1
    """Seed of the problems and the demonstrations."""
    demonstrations: Positive = 1_000
    """Number of demonstrations of each, teacher and student. The student's contain mistakes that are trained on."""
    train_problems: Positive = 2_000
    """Number of problems for training."""
    tune_problems: Positive = 100
    """Number of problems for choosing learning rates."""
    eval_problems: Positive = 200
    """Number of problems for evaluation, in each of the two files. They differ from the training problems."""
