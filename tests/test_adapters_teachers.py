"""Which teachers the adapters for TRL and verl refuse, without the packages."""

from pathlib import Path

import pytest
from other_tokenizers import byte_level

from sod.adapters.teachers import check_teacher_kind, check_teachers
from sod.errors import ModelError, OptionError


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ("http://127.0.0.1:8001", "is the address of a server"),
        ("math=runs/math", "names a teacher for a kind of problems"),
        (["A", "B"], "names several teachers"),
        ({"math": "A"}, "names several teachers"),
    ],
)
def test_another_kind_of_teacher_is_refused_with_the_command_that_has_it(teacher: object, message: str) -> None:
    with pytest.raises(OptionError, match=rf"teacher_model .*{message}.* Use `sod train`"):
        check_teacher_kind(teacher, option="teacher_model")


def test_a_model_is_accepted_also_if_its_directory_has_a_strange_name(tmp_path: Path) -> None:
    (tmp_path / "math=A").mkdir()
    for teacher in (str(tmp_path / "math=A"), tmp_path / "math=A", "Qwen/Qwen3-4B", object()):
        check_teacher_kind(teacher, option="teacher_model")


def test_another_vocabulary_is_refused_where_both_tokenizers_are_here(teacher: Path, tmp_path: Path) -> None:
    byte_level().save_pretrained(tmp_path / "other")
    with pytest.raises(
        ModelError, match=r"teacher_models\.one: Student and teacher have different vocabularies.*sod train"
    ):
        check_teachers(str(teacher), {"teacher_models.one": str(tmp_path / "other")})
    check_teachers(str(teacher), {"teacher_models.one": str(teacher), "teacher_models.two": "Qwen/Qwen3-4B"})
