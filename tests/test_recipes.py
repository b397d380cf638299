"""Options out of a TOML file and back."""

from pathlib import Path

import pytest

from sod.errors import OptionError
from sod.recipes import read_recipe, to_toml


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    content = {
        "updates": 3,
        "lr": 1e-05,
        "data": Path("a/ü b.jsonl"),
        "on": True,
        "betas": [0.9, 0.98],
        "words": 'a 😀 "quoted"\n line',
        "nothing": None,
        "rollout": {"group": 8, "inner": {"x": 1}},
        "only_sections": {"inner": {"y": 2}},
    }
    (tmp_path / "recipe.toml").write_text(to_toml(content), encoding="utf-8")
    read = read_recipe(tmp_path / "recipe.toml")
    assert read == {key: value for key, value in content.items() if value is not None} | {"data": "a/ü b.jsonl"}


@pytest.mark.parametrize(
    ("content", "words"), [(b"updates = ", "not valid TOML"), (b"\xff = 1", "not valid TOML"), (None, "cannot be read")]
)
def test_what_is_no_recipe_is_an_error(content: bytes | None, words: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "recipe.toml").write_bytes(content)
    with pytest.raises(OptionError, match=words):
        read_recipe(tmp_path / "recipe.toml")
