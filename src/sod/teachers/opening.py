"""The teacher that the options name, here or on a server, for as long as a run needs it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from sod.concurrency import Runner
from sod.config import ModelOptions, SamplingOptions, ScoreOptions
from sod.data import fingerprint_model
from sod.hub import model_folder
from sod.teachers import Teacher
from sod.teachers.local import LocalTeacher
from sod.teachers.server import ServerTeacher, holds_weights


def teacher_folder(teacher: Path, options: ScoreOptions) -> Path:
    """Where the teacher is, or, if it is served, its tokenizer: weights are not fetched for that. Raises ModelError."""
    return model_folder(teacher, weights=options.teacher_url is None)


def fingerprint_teacher(folder: Path, options: ScoreOptions) -> str:
    """Of its weights; of a served one whose weights are elsewhere, its name on the server and its tokenizer."""
    found = fingerprint_model(folder)
    if options.teacher_url is None or holds_weights(folder):
        return found
    return f"served {options.teacher_served_name} {found}"


@contextmanager
def open_teacher(
    loop: Runner,
    folder: Path,
    student_tokenizer: PreTrainedTokenizerBase,
    network: ModelOptions,
    options: ScoreOptions,
    rollout: SamplingOptions,
    *,
    microbatch_tokens: int,
) -> Iterator[Teacher]:
    """A teacher for use in this loop: the model in `folder`, or the server's, proved. Raises OptionError and ModelError."""
    if options.teacher_url is None:
        yield LocalTeacher(folder, student_tokenizer, network, options, rollout, microbatch_tokens=microbatch_tokens)
        return
    teacher = loop.run(ServerTeacher.open(folder, student_tokenizer, network, options, rollout))
    try:
        yield teacher
    finally:
        loop.run(teacher.close())
