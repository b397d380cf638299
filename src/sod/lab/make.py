"""Write the lab to a directory, as ordinary files for the ordinary commands, and train its teacher from scratch."""

import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError
from transformers import PreTrainedTokenizerFast

from sod.config import EvalOptions, LabOptions, LabTeacherOptions, SftOptions
from sod.console.progress import echo, slow_bar
from sod.datasets.rows import write_jsonl
from sod.errors import TrainingError
from sod.lab import settings
from sod.lab.demonstrations import STUDENT_STYLE, TEACHER_STYLE, Style, solution_of
from sod.lab.models import STUDENT_SIZE as STUDENT_SIZE
from sod.lab.models import TEACHER_SIZE as TEACHER_SIZE
from sod.lab.models import save_new_model
from sod.lab.tasks import Task, draw_task
from sod.lab.tokenizer import make_tokenizer
from sod.model.loading import load_tokenizer
from sod.runs.directory import Run
from sod.runs.files import in_words
from sod.types import Message

TEACHER_FOLDER = Path(__file__).parent / "teacher"
"""The trained teacher and the tokenizer; `sod lab teacher` builds them again."""
LAST = "train.jsonl"
"""The lab's file that is written last."""
DEMONSTRATIONS = 32_000
"""Demonstrations of the student's cold start, unless another number is given."""
SIZES = {"full": TEACHER_SIZE, "small": STUDENT_SIZE}
TUNE_PROBLEMS = 100
"""Problems to choose learning rates with; used neither for training nor for evaluation."""


def make(options: LabOptions) -> Path:
    """Write the lab to `options.out` and return the directory.

    It contains student/ (random weights), teacher/, demonstrations.jsonl, and problems in train.jsonl, tune.jsonl and
    eval.jsonl. For a world, it also contains cold-start/, and teacher/ is the run of its training.
    """
    folder = options.out
    make_folder(folder)
    if options.world != "sums":
        from sod.lab.worlds.make import make_world

        make_world(options)
        return folder
    with in_words(folder, SafetensorError):
        (folder / LAST).unlink(missing_ok=True)
        save_new_model(STUDENT_SIZE, load_tokenizer(TEACHER_FOLDER), options.seed, folder / "student")
        echo(f"{folder / 'student'}: a model with random weights")
        shutil.copytree(TEACHER_FOLDER, folder / "teacher", dirs_exist_ok=True)
        echo(f"{folder / 'teacher'}: the trained teacher")
    count = options.demonstrations or DEMONSTRATIONS
    write_demonstrations(folder / "demonstrations.jsonl", STUDENT_STYLE, count, options.seed)
    echo(f"{folder / 'demonstrations.jsonl'}: {count:,} demonstrations")
    measured, learnt = problems(options.eval_problems + TUNE_PROBLEMS, options.train_problems, options.seed)
    parts = {"eval": measured[: options.eval_problems], "tune": measured[options.eval_problems :], "train": learnt}
    for name, tasks in parts.items():  # LAST is the last one
        write_problems(folder / f"{name}.jsonl", tasks, name)
        echo(f"{folder / f'{name}.jsonl'}: {len(tasks):,} problems")
    return folder


def is_made(lab: Path) -> bool:
    """Return True if `make` has finished in this directory."""
    return (lab / LAST).exists()


def make_teacher(options: LabTeacherOptions) -> Path:
    """Train the lab's teacher by a cold start only; half of its demonstrations have an error and its recovery. -> the model

    A second call continues the training, because the lab's files are deterministic.
    """
    from sod.evaluation.evaluate import evaluate
    from sod.evaluation.results import show_results
    from sod.sandbox.retries import open_sandbox
    from sod.training.sft import sft

    open_sandbox(options.sandbox)  # raises now, not after training, if there is no sandbox
    lab = options.out.with_name(options.out.name + "-lab")
    make_folder(lab)
    with in_words(lab, SafetensorError):
        save_new_model(SIZES[options.size], tokenizer(), options.seed, lab / "model")
    batch = settings.TEACHER_SFT["batch"]
    write_demonstrations(lab / "demonstrations.jsonl", TEACHER_STYLE, options.steps * batch, options.seed + 1)
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
        raise TrainingError(
            f"The training in {options.out} has not finished. Run the same command again to continue it."
        )
    out = options.out / "eval"
    results = evaluate(
        EvalOptions.model_validate(
            settings.EVAL
            | {"model": checkpoint, "data": lab / "eval.jsonl", "out": out, "samples": 4, "sandbox": options.sandbox}
        )
    )
    show_results(results)
    echo(
        f"The teacher is in {checkpoint}. The project ships its model, config and tokenizer in {TEACHER_FOLDER.name}/."
    )
    return checkpoint


def make_folder(folder: Path) -> None:
    with in_words(folder):
        folder.mkdir(parents=True, exist_ok=True)


def tokenizer() -> PreTrainedTokenizerFast:
    """Build the lab's tokenizer from demonstrations of both styles.

    The trained teacher keeps its own copy. A test fails if the two differ; then train the teacher again.
    """
    return make_tokenizer(_corpus(random.Random(0)))


def _corpus(rng: random.Random) -> Iterator[str]:
    styles = replace(STUDENT_STYLE, slips=0.0), TEACHER_STYLE
    for i in range(3000):
        for message in solution_of(_task(rng), styles[i % 2], rng):
            yield f"{message['role']}\n"
            yield message["content"] + "\n"
            for call in message.get("tool_calls", ()):
                yield json.dumps(call["function"]) + "\n"


def write_demonstrations(path: Path, style: Style, count: int, seed: int) -> None:
    """Write demonstrations in curriculum order. Without this order, the model does not learn to copy names."""
    rng = random.Random(f"demonstrations/{seed}")
    rows = []
    with slow_bar(path.name, "written", count) as at:
        for i in range(count):
            rows.append({"messages": _demonstration(i / count, style, rng)})
            at(i + 1)
    write_jsonl(path, rows)


def _demonstration(done: float, style: Style, rng: random.Random) -> list[Message]:
    """Return a demonstration for the point `done` (0 to 1) of the curriculum.

    The first fifth has one call, the second one to three, the rest the full length. Slips start at `style.slips_from`.
    """
    if done < style.slips_from:
        style = replace(style, slips=0.0)
    length = (1, 1) if done < 0.2 else (1, 3) if done < 0.4 else settings.LENGTH
    return solution_of(_task(rng, length), style, rng)


def problems(measured: int, learnt: int, seed: int) -> tuple[list[Task], list[Task]]:
    """Return problems for evaluation and problems for training; no question is in both."""
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
    return draw_task(rng, length=length, euclid_share=settings.EUCLID_SHARE)
