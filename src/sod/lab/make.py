"""Write the lab to a directory, as ordinary files for the ordinary commands; and train its teacher from nothing."""

import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError
from transformers import PreTrainedTokenizerFast

from sod.config import EvalOptions, LabOptions, LabTeacherOptions, SftOptions
from sod.console.progress import say
from sod.datasets.rows import write_jsonl
from sod.errors import TrainingError
from sod.lab import settings
from sod.lab.demonstrations import STUDENT, TEACHER, Style, demonstrate
from sod.lab.models import STUDENT as STUDENT_SIZE
from sod.lab.models import TEACHER as TEACHER_SIZE
from sod.lab.models import save_new_model
from sod.lab.tasks import Task, draw
from sod.lab.tokenizer import make_tokenizer
from sod.model.loading import load_tokenizer
from sod.runs.directory import Run
from sod.runs.files import in_words
from sod.types import Message

TEACHER_FOLDER = Path(__file__).parent / "teacher"
"""The trained teacher and the tokenizer; `sod lab teacher` makes them again."""
LAST = "train.jsonl"
"""Of the lab's files, the one that is written when all others are there."""
SIZES = {"full": TEACHER_SIZE, "small": STUDENT_SIZE}
TUNE_PROBLEMS = 100
"""To choose learning rates with; neither learnt on nor measured with."""


def make(options: LabOptions) -> Path:
    """student/ (random weights), teacher/, demonstrations.jsonl, and problems in train.jsonl, tune.jsonl and eval.jsonl."""
    folder = options.out
    make_folder(folder)
    with in_words(folder, SafetensorError):
        (folder / LAST).unlink(missing_ok=True)
        save_new_model(STUDENT_SIZE, load_tokenizer(TEACHER_FOLDER), options.seed, folder / "student")
        shutil.copytree(TEACHER_FOLDER, folder / "teacher", dirs_exist_ok=True)
    write_demonstrations(folder / "demonstrations.jsonl", STUDENT, options.demonstrations, options.seed)
    measured, learnt = problems(options.eval_problems + TUNE_PROBLEMS, options.train_problems, options.seed)
    write_problems(folder / "eval.jsonl", measured[: options.eval_problems], "eval")
    write_problems(folder / "tune.jsonl", measured[options.eval_problems :], "tune")
    write_problems(folder / LAST, learnt, "train")
    return folder


def is_made(lab: Path) -> bool:
    """Whether `make` has finished there."""
    return (lab / LAST).exists()


def make_teacher(options: LabTeacherOptions) -> Path:
    """Cold start only: demonstrations with an error and its recovery in half of them. -> the model

    Called again, it continues: the files of its lab are the same each time.
    """
    from sod.evaluation.evaluate import evaluate
    from sod.evaluation.results import show
    from sod.sandbox.guarded import open_sandbox
    from sod.sft import sft

    open_sandbox(options.sandbox)  # where there is none, that is said now and not after training
    lab = options.out.with_name(options.out.name + "-lab")
    make_folder(lab)
    with in_words(lab, SafetensorError):
        save_new_model(SIZES[options.size], tokenizer(), options.seed, lab / "model")
    batch = settings.TEACHER_SFT["batch"]
    write_demonstrations(lab / "demonstrations.jsonl", TEACHER, options.steps * batch, options.seed + 1)
    measured, _ = problems(200, 0, seed=0)
    write_problems(lab / "eval.jsonl", measured, "eval")
    run = Run(options.out)
    sft(
        SftOptions.model_validate(
            settings.TEACHER_SFT
            | {
                "model": lab / "model",
                "data": lab / "demonstrations.jsonl",
                "out": options.out,
                "resume": run.begun,
                "epochs": 1,
                "shuffle": False,
            }
        )
    )
    checkpoint = run.finished()
    if checkpoint is None:
        raise TrainingError(f"The training in {options.out} has not finished.")
    out = options.out / "eval"
    results = evaluate(
        EvalOptions.model_validate(
            settings.EVAL
            | {"model": checkpoint, "data": lab / "eval.jsonl", "out": out, "samples": 4, "sandbox": options.sandbox}
        )
    )
    show(results)
    say(
        f"The teacher is in {checkpoint}. Shipped with the project: its model, config and tokenizer, in {TEACHER_FOLDER.name}/."
    )
    return checkpoint


def make_folder(folder: Path) -> None:
    with in_words(folder):
        folder.mkdir(parents=True, exist_ok=True)


def tokenizer() -> PreTrainedTokenizerFast:
    """The lab's tokenizer, made anew from demonstrations of both styles. The trained teacher keeps the one it was
    made with; a test says when they have grown apart, and the teacher must be trained again."""
    return make_tokenizer(_corpus(random.Random(0)))


def _corpus(rng: random.Random) -> Iterator[str]:
    styles = replace(STUDENT, slips=0.0), TEACHER
    for i in range(3000):
        for message in demonstrate(_task(rng), styles[i % 2], rng):
            yield f"{message['role']}\n"
            yield message["content"] + "\n"
            for call in message.get("tool_calls", ()):
                yield json.dumps(call["function"]) + "\n"


def write_demonstrations(path: Path, style: Style, count: int, seed: int) -> None:
    """In the order of a curriculum, which is essential: without it, the circuit that copies names does not form."""
    rng = random.Random(f"demonstrations/{seed}")
    write_jsonl(path, [{"messages": _demonstration(i / count, style, rng)} for i in range(count)])


def _demonstration(done: float, style: Style, rng: random.Random) -> list[Message]:
    """The first fifth: one call. The second: one to three. Then problems of full length; at last the style's slips."""
    if done < style.slips_from:
        style = replace(style, slips=0.0)
    length = (1, 1) if done < 0.2 else (1, 3) if done < 0.4 else settings.LENGTH
    return demonstrate(_task(rng, length), style, rng)


def problems(measured: int, learnt: int, seed: int) -> tuple[list[Task], list[Task]]:
    """Problems to measure with and problems to learn on; no question is in both."""
    rng = random.Random(f"problems/{seed}")
    tasks: dict[str, Task] = {}
    while len(tasks) < measured + learnt:
        task = _task(rng)
        tasks.setdefault(task.question, task)
    drawn = list(tasks.values())
    return drawn[:measured], drawn[measured:]


def write_problems(path: Path, tasks: list[Task], name: str) -> None:
    rows = [
        {"id": f"{name}-{i}", "prompt": task.question, "answer": str(task.answer), "hint": task.hint}
        for i, task in enumerate(tasks)
    ]
    write_jsonl(path, rows)


def _task(rng: random.Random, length: tuple[int, int] = settings.LENGTH) -> Task:
    return draw(rng, length=length, euclid_share=settings.EUCLID_SHARE)
