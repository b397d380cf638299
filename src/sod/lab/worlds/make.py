"""Write a world to a directory, as ordinary files for the ordinary commands, and train its teacher and its cold start."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from sod.config import LabOptions, SftOptions
from sod.console.progress import echo
from sod.environments.worlds import WORLDS, SmallWorld
from sod.errors import TrainingError
from sod.lab import settings
from sod.lab.demonstrations import Style
from sod.lab.models import STUDENT_SIZE, TEACHER_SIZE, Size, save_new_model
from sod.lab.tokenizer import PIECES_OF_WORLDS, WORLDS_VOCABULARY, make_tokenizer
from sod.lab.worlds.demonstrations import WORLD_STUDENT_STYLE, WORLD_TEACHER_STYLE, demonstration_at
from sod.lab.worlds.files import write_world_demonstrations, write_world_problems
from sod.runs.directory import Run
from sod.runs.files import in_words
from sod.training.sft import sft

CORPUS = 4000
"""Demonstrations that the tokenizer of the worlds is trained on."""
TUNE_PROBLEMS = 100


@dataclass(frozen=True, slots=True)
class Training:
    """The training of a model from scratch. `start` and `data` are names in the lab's directory."""

    name: str
    start: str
    data: str
    size: Size
    style: Style


INITIAL = 0.1
"""Standard deviation of the initial weights, about 1 / sqrt(width). With 0.02, copying is learnt late (docs/log.md)."""
TEACHER = Training(
    "teacher",
    "teacher-start",
    "teacher-demonstrations.jsonl",
    replace(TEACHER_SIZE, initial=INITIAL),
    WORLD_TEACHER_STYLE,
)
COLD_START = Training(
    "cold-start", "student", "demonstrations.jsonl", replace(STUDENT_SIZE, initial=INITIAL), WORLD_STUDENT_STYLE
)


def make_world(options: LabOptions) -> None:
    """Write problems and demonstrations to `options.out`, and train teacher/ and cold-start/. A second call continues."""
    kind, folder, batch = WORLDS[options.world], options.out, settings.WORLD_SFT["batch"]
    steps = settings.WORLD_STEPS[kind.NAME]
    cold_steps = -(-options.demonstrations // batch) if options.demonstrations else steps[COLD_START.name]
    (folder / "train.jsonl").unlink(missing_ok=True)
    write_world_problems(folder / "eval.jsonl", kind, options.eval_problems, (options.seed, 0))
    write_world_problems(folder / "tune.jsonl", kind, TUNE_PROBLEMS, (options.seed, 1))
    train_from_scratch(folder, kind, TEACHER, steps[TEACHER.name], options.seed)
    train_from_scratch(folder, kind, COLD_START, cold_steps, options.seed)
    write_world_problems(folder / "train.jsonl", kind, options.train_problems, (options.seed, 2))
    echo(
        f"The world is in {folder}: teacher/, cold-start/ and problems. docs/worlds.md has the commands that use them."
    )


def train_from_scratch(folder: Path, kind: type[SmallWorld], training: Training, steps: int, seed: int) -> Path:
    """Train a model on demonstrations in curriculum order. -> its checkpoint"""
    run = Run(folder / training.name)
    if checkpoint := run.finished():
        return checkpoint
    start, data = folder / training.start, folder / training.data
    if not run.begun:
        with in_words(folder):
            save_new_model(training.size, world_tokenizer(), seed, start)
        write_world_demonstrations(
            data, kind, training.style, steps * settings.WORLD_SFT["batch"], f"{training.name}/{seed}"
        )
    files = {"model": start, "data": data, "out": run.folder, "resume": run.begun}
    sft(SftOptions.model_validate(settings.WORLD_SFT | files | {"epochs": 1, "shuffle": False}))
    if checkpoint := run.finished():
        return checkpoint
    raise TrainingError(f"The training in {run.folder} has not finished. Run the same command again to continue it.")


def world_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer that all worlds share."""
    return make_tokenizer(_corpus(random.Random(0)), PIECES_OF_WORLDS, WORLDS_VOCABULARY)


def _corpus(rng: random.Random) -> Iterator[str]:
    kinds = list(WORLDS.values())
    for i in range(CORPUS):
        for message in demonstration_at(kinds[i % len(kinds)], 1.0, WORLD_STUDENT_STYLE, rng):
            yield f"{message['role']}\n"
            yield message["content"] + "\n"
            for call in message.get("tool_calls", ()):
                yield json.dumps(call["function"]) + "\n"
