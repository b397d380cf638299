"""Open the teacher named by the options, local or remote, for the duration of a run."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from sod.config import ScoreOptions
from sod.config.teachers import Route, with_servers
from sod.datasets.rows import fingerprint_model
from sod.model.hub import model_folder
from sod.model.loading import load_tokenizer
from sod.processes.concurrency import Runner
from sod.processes.distributed import Ranks
from sod.teachers import Teacher, TeacherSetup
from sod.teachers.local import LocalTeacher
from sod.teachers.proving import holds_weights
from sod.teachers.server import ServerTeacher
from sod.teachers.several import SeveralTeachers
from sod.teachers.sharded import ShardedTeacher
from sod.teachers.translated import TranslatedTeacher


def teacher_folder(teacher: Path, options: ScoreOptions) -> Path:
    """Return the directory of the teacher; for a remote teacher, of its tokenizer, without weights. Raises ModelError.

    Of several teachers, `Route.score` has the options of each. Without it, none needs weights if one is remote.
    """
    return model_folder(teacher, weights=options.teacher_url is None and not options.teacher_urls)


def fingerprint_teacher(folder: Path, options: ScoreOptions) -> str:
    """Return the fingerprint of the teacher's weights.

    If only the server has the weights, use the teacher's name on the server and its tokenizer.
    """
    found = fingerprint_model(folder)
    if options.teacher_url is None or holds_weights(folder):
        return found
    return f"served {options.teacher_served_name} {found}"


def has_same_tokens(folder: Path, student: PreTrainedTokenizerBase) -> bool:
    """Return whether the teacher's vocabulary is the student's, with the same ids."""
    return load_tokenizer(folder).get_vocab() == student.get_vocab()


@contextmanager
def open_teacher(loop: Runner, setup: TeacherSetup, ranks: Ranks) -> Iterator[Teacher]:
    """Open a teacher for use in this loop: the model in `setup.folder`, sharded if requested, or the verified remote one.

    A teacher with another vocabulary than the student's reads the trajectories in its own tokens. Raises OptionError,
    ModelError and TemplateError.
    """
    if setup.score.teacher_url is None:
        if not has_same_tokens(setup.folder, setup.tokenizer):
            yield TranslatedTeacher(setup)
            return
        shard = setup.score.shard_teacher and not ranks.alone
        yield ShardedTeacher(setup, ranks) if shard else LocalTeacher(setup)
        return
    teacher = loop.run(ServerTeacher.open(setup))
    try:
        yield teacher
    finally:
        loop.run(teacher.close())


@contextmanager
def open_teachers(loop: Runner, setup: TeacherSetup, routes: Sequence[Route], ranks: Ranks) -> Iterator[Teacher]:
    """Open the teacher of each route, as `open_teacher` does; one that two routes share is opened once. Ignore `setup.folder`."""
    with ExitStack() as stack:
        teachers: dict[str, Teacher] = {}
        opened: dict[tuple[Path, str | None, str | None], Teacher] = {}
        for route in with_servers(routes, setup.score.teacher_urls):
            place = (route.model, route.url, route.served_name)
            if place not in opened:
                score = route.score(setup.score)
                own = replace(setup, folder=teacher_folder(route.model, score), score=score)
                opened[place] = stack.enter_context(open_teacher(loop, own, ranks))
            teachers[route.key] = opened[place]
        yield SeveralTeachers(routes, teachers)
