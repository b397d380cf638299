"""Which teachers the adapters for TRL and verl support: models with the student's vocabulary, loaded by the trainer itself."""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from sod.config.teachers import PAIR
from sod.errors import ModelError, OptionError
from sod.model.loading import check_same_vocabulary, load_tokenizer

HERE_INSTEAD = (
    "Use `sod train`, which has teachers on servers, with another tokenizer, and several teachers (docs/teachers.md)."
)


def check_teacher_kind(teacher: object, *, option: str) -> None:
    """Raise OptionError for an address of a server, several teachers, or KEY=MODEL. `option`: the name of the argument."""
    if isinstance(teacher, Mapping | list | tuple):
        raise OptionError(f"{option} names several teachers, but this adapter has one. {HERE_INSTEAD}")
    if not isinstance(teacher, str | Path) or Path(teacher).exists():
        return
    if urlsplit(str(teacher)).scheme in ("http", "https"):
        raise OptionError(
            f"{option} = {teacher} is the address of a server, but the teacher must be a model. {HERE_INSTEAD}"
        )
    if PAIR.fullmatch(str(teacher)):
        raise OptionError(
            f"{option} = {teacher} names a teacher for a kind of problems, but here it is a model. {HERE_INSTEAD}"
        )


def check_teachers(student: str, teachers: Mapping[str, str]) -> None:
    """Raise OptionError or ModelError for a teacher that an adapter does not support.

    `teachers`: name of the option -> model. Vocabularies are compared if both models are directories on this machine.
    """
    for option, teacher in teachers.items():
        check_teacher_kind(teacher, option=option)
        if not Path(student).is_dir() or not Path(teacher).is_dir():
            continue
        try:
            check_same_vocabulary(load_tokenizer(Path(student)), load_tokenizer(Path(teacher)))
        except ModelError as error:
            raise ModelError(f"{option}: {error} {HERE_INSTEAD}") from error
