"""Open the teacher named by the options, local or remote, for the duration of a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from sod.concurrency import Runner
from sod.config import ModelOptions, SamplingOptions, ScoreOptions
from sod.datasets.rows import fingerprint_model
from sod.hub import model_folder
from sod.teachers import Teacher
from sod.teachers.local import LocalTeacher
from sod.teachers.server import ServerTeacher, holds_weights


def teacher_folder(teacher: Path, options: ScoreOptions) -> Path:
    """Return the directory of the teacher; for a remote teacher, of its tokenizer, without weights. Raises ModelError."""
    return model_folder(teacher, weights=options.teacher_url is None)


def fingerprint_teacher(folder: Path, options: ScoreOptions) -> str:
    """Return the fingerprint of the teacher's weights.

    If only the server has the weights, use the teacher's name on the server and its tokenizer.
    """
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
    """Open a teacher for use in this loop: the model in `folder`, or the verified remote one.

    Raises OptionError and ModelError.
    """
    if options.teacher_url is None:
        yield LocalTeacher(folder, student_tokenizer, network, options, rollout, microbatch_tokens=microbatch_tokens)
        return
    teacher = loop.run(ServerTeacher.open(folder, student_tokenizer, network, options, rollout))
    try:
        yield teacher
    finally:
        loop.run(teacher.close())
