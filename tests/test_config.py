"""The options: what their help looks like on a real screen, and the markers that stand on them."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import cast

import pytest

from sod import config
from sod.cli import COMMANDS, parse
from sod.errors import OptionError
from sod.runs.directory import Run

NEEDED = ["--student", "s", "--data", "d", "--out", "o"]
MODELS = sorted({getattr(config, name) for name, _, _ in COMMANDS.values()}, key=lambda model: model.__name__)
SHOW_EVERY_HELP = """
from sod.cli import COMMANDS, run
for command in ["", *COMMANDS]:
    for flag in ("--help", "--help-all"):
        print("COMMAND", command, flag)
        try:
            run([*command.split(), flag])
        except SystemExit:
            pass
"""


def sod(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a command on a screen of 80 columns."""
    command = [sys.executable, "-m", "sod", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "80"}, check=False)


def paragraphs(text: str) -> list[list[str]]:
    """The folded texts in the boxes of a help: lines that follow each other at the same indentation."""
    found: list[list[str]] = []
    before = -1
    for line in text.splitlines():
        inner = line[2:-2] if line.startswith("│") else ""
        option = re.match(
            r"(\S(?:.*?\S)?)(\s{2,})(\S.*)", inner.rstrip()
        )  # an option and the beginning of its text on one line
        words, indent = (option[3], option.start(3)) if option else (inner.strip(), len(inner) - len(inner.lstrip()))
        if not words or (words[0] in "-─" and not option):
            before = -1
        elif indent == before and not option:
            found[-1].append(words)
        else:
            found.append([words])
            before = indent
    return found


def test_every_help_is_folded_at_80_columns() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", SHOW_EVERY_HELP],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "80"},
        check=True,
    )
    assert not shown.stderr
    assert "Undefined" not in shown.stdout
    assert not [line for line in shown.stdout.splitlines() if len(line) > 80]
    folded = paragraphs(shown.stdout)
    assert sum(len(lines) > 1 for lines in folded) > 300
    for lines in folded:
        for line, following in pairwise(lines):
            assert len(line) + 1 + len(following.split()[0]) > max(map(len, lines)), f"a short line: {lines}"
    whole = {" ".join(lines) for lines in folded}
    for model in MODELS:
        for key, field, _ in config.options_of(model):  # a word that is broken in two would make another text
            assert any(text.startswith(field.description or "") for text in whole), key


def test_no_description_keeps_a_line_break_of_the_source() -> None:
    for model in MODELS:
        for key, field, _ in config.options_of(model):
            assert field.description, key
            assert field.description == " ".join(field.description.split()), key


def groups_of(model: type[config.Options], outermost: str = "") -> Iterator[tuple[str, type[config.Options]]]:
    """The outermost name and the class of every group of options."""
    for name, field in model.model_fields.items():
        if config.is_group(field):
            group = cast("type[config.Options]", field.annotation)
            yield outermost or name, group
            yield from groups_of(group, outermost or name)


def test_the_name_of_a_group_is_that_of_its_module() -> None:
    found = {(name, group.__module__) for model in MODELS for name, group in groups_of(model)}
    assert len(found) > 10
    assert not [f"--{name} is in {module}" for name, module in found if module != f"sod.config.{name}"]


def test_a_missing_value_is_explained_in_words_and_never_as_none() -> None:
    for model in MODELS:
        for key, field, _ in config.options_of(model):
            assert field.description is not None
            assert "None" not in field.description, key
            assert field.is_required() or field.default is not None or "Default: " in field.description, key


def test_the_help_of_training_shows_the_common_options_and_counts_the_others() -> None:
    out = sod("train", "--help").stdout
    shown = re.findall(r"^│ (--\S+?),? ", out, re.M)
    assert 20 <= len(shown) <= 30
    rest = sum(config.RARE in marks for _, _, marks in config.options_of(config.TrainOptions))
    assert len(shown) + rest == len(list(config.options_of(config.TrainOptions)))
    assert out.endswith(f"\n{rest} more options: sod train --help-all\n")
    every = sod("train", "--help-all").stdout
    assert "--algorithm.epsilon" in every
    assert "--algorithm.epsilon" not in out
    assert "more options" not in every


def test_a_rare_option_is_read_like_any_other() -> None:
    assert parse("train", "TrainOptions", [*NEEDED, "--algorithm.epsilon", "0.5"]).algorithm.epsilon == 0.5


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["train", "--studnt", "x"], "--student"),
        (["train", "--lr", "1"], "--learn.lr"),
        (["train", "--rollout.grop", "3"], "--rollout.group"),
        (["eval", "--sampels=3"], "--samples"),
        (["train", "--chat.no-thinkin"], "--chat.no-thinking"),
    ],
)
def test_an_unknown_option_names_the_nearest_though_required_ones_are_missing(arguments: list[str], near: str) -> None:
    done = sod(*arguments)
    assert done.returncode == 2
    assert done.stderr.endswith(f"; did you mean {near}?\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("flag", ["--rollout.group", "--rollout.problems", "--rollout.update-seconds"])
@pytest.mark.parametrize("command", ["eval", "rollout"])
def test_an_option_without_effect_on_an_evaluation_is_unknown(command: str, flag: str) -> None:
    with pytest.raises(OptionError, match=f"{flag} is not an option of `sod {command}`"):
        parse(command, COMMANDS[command][0], [flag, "3"])


@pytest.mark.parametrize(
    "flag", ["--learn.minibatches", "--learn.clip-low", "--learn.clip-high", "--learn.loss", "--learn.kl"]
)
def test_an_option_without_effect_on_a_cold_start_is_unknown(flag: str) -> None:
    with pytest.raises(OptionError, match=f"{flag} is not an option of `sod sft`"):
        parse("sft", "SftOptions", [flag, "1"])


def test_many_wrong_values_are_three_lines() -> None:
    wrong = ["--updates", "0", "--seed", "x", "--rollout.group", "1.5", "--learn.lr", "-1", "--network.device", "cpu"]
    with pytest.raises(OptionError) as caught:
        parse("train", "TrainOptions", [*NEEDED, *wrong])
    lines = str(caught.value).splitlines()
    assert [line.split()[0] for line in lines] == ["--updates", "--seed", "2"]
    assert lines[-1] == "2 more values are wrong."


def test_a_wrong_value_of_a_recipe_names_the_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text("[rollout]\ngroup = 0")
    with pytest.raises(OptionError, match=r"r\.toml: rollout\.group is 0\. It must be a whole number of at least 1"):
        parse("train", "TrainOptions", [str(recipe), *NEEDED])
    assert parse("train", "TrainOptions", [str(recipe), *NEEDED, "--rollout.group", "3"]).rollout.group == 3


def test_none_takes_a_value_of_a_recipe_back(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text('teacher = "t"')
    assert parse("train", "TrainOptions", [str(recipe), *NEEDED]).teacher == Path("t")
    assert parse("train", "TrainOptions", [str(recipe), *NEEDED, "--teacher", "None"]).teacher is None


def test_a_group_that_is_given_in_part_keeps_its_commands_defaults() -> None:
    assert parse("lab demo", "DemoOptions", ["--sandbox.retries", "1"]).sandbox.workers == 4


def test_what_may_change_when_a_run_continues_stands_on_the_options(tmp_path: Path) -> None:
    free = config.resume_may_change(config.TrainOptions)
    assert {"updates", "student", "engine.url", "sandbox.workers", "learn.checkpointing"} <= free
    assert not free & {
        "seed",
        "learn.lr",
        "rollout.group",
        "algorithm.name",
        "learn.microbatch_tokens",
        "network.dtype",
    }
    assert {"samples", "limit", "data_dir"} <= config.resume_may_change(config.EvalOptions)
    options = config.TrainOptions(student=Path("s"), data=Path("d"), out=tmp_path)
    run = Run.open(options, tmp_path, data={})
    run.check(options.model_copy(update={"updates": 7, "resume": True}), resume=True)
    with pytest.raises(Exception, match=r"other options \(seed\)"):
        run.check(options.model_copy(update={"seed": 7}), resume=True)
