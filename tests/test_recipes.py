"""Options out of a TOML file and back; and every recipe of the project: it loads, says what it claims, and runs dry."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from sod import config
from sod.cli import COMMANDS, parse
from sod.cli import run as sod
from sod.config.recipes import maker_of, over, read_about, read_recipe, to_toml
from sod.errors import OptionError
from sod.lab import settings
from sod.lab.presets import REAL_SYSTEMS

RECIPES = Path(__file__).parents[1] / "recipes"
CLAIMS = sorted(RECIPES.glob("*.toml"))
HARDWARE = sorted((RECIPES / "hardware").glob("*.toml"))
LAPTOP = sorted((RECIPES / "laptop").glob("*.toml"))
SHARED = sorted((RECIPES / "shared").glob("*.toml"))
NAMED = {"eval": ["--model", "runs/sod-1.7b", "--out", "runs/eval"]}
"""What a recipe leaves to its user."""


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


# On top of another, and what they claim


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Path]:
    """Write a recipe."""

    def write(text: str, name: str = "recipe.toml") -> Path:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


ABOUT = {"command": "sft", "what": "w", "expect": "e", "source": "s", "hardware": "h", "hours": "t", "tested": "no: x"}


def about(**changes: str | None) -> str:
    lines = [f'{key} = "{value}"\n' for key, value in (ABOUT | changes).items() if value is not None]
    return "[about]\n" + "".join(lines)


def test_a_recipe_on_top_of_another_has_its_options_and_its_own(recipe: Callable[..., Path]) -> None:
    recipe("epochs = 1\nbatch = 2\n[learn]\nlr = 1e-4\nwarmup = 3\n" + about(), "parts/base.toml")
    top = recipe('extends = "parts/base.toml"\nbatch = 5\n[learn]\nlr = 2e-4\n[chat]\non_drift = "append"\n' + about())
    expected = {"epochs": 1, "batch": 5, "learn": {"lr": 2e-4, "warmup": 3}, "chat": {"on_drift": "append"}}
    assert read_recipe(top) == expected


def test_a_recipe_cannot_extend_what_it_cannot_read(recipe: Callable[..., Path]) -> None:
    recipe('extends = "b.toml"', "a.toml")
    with pytest.raises(OptionError, match=r"b\.toml extends itself"):
        read_recipe(recipe('extends = "a.toml"', "b.toml"))
    with pytest.raises(OptionError, match=r"none\.toml cannot be read"):
        read_recipe(recipe('extends = "none.toml"'))
    with pytest.raises(OptionError, match="must be the path of one recipe"):
        read_recipe(recipe("extends = 3"))


def test_what_a_recipe_claims_is_read(recipe: Callable[..., Path]) -> None:
    claim = read_about(recipe(about(expect="12 ± 3")))
    assert (claim.command, claim.expect, claim.tested) == ("sft", "12 ± 3", "no: x")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epochs = 1", r"has no table \[about\]"),
        (about(hours=None), r"about\.hours is missing"),
        (about() + 'hardwear = "x"', r"about\.hardwear is not known; did you mean hardware\?"),
        (about() + 'xyzzy = "x"', r"about\.xyzzy is not known; there are command, what"),
        (about(hours=" "), r"about\.hours is .* must be a string"),
        (about(hours=None) + "hours = 3", r"about\.hours is 3; it must be a string"),
    ],
)
def test_a_claim_in_other_words_is_an_error(text: str, words: str, recipe: Callable[..., Path]) -> None:
    with pytest.raises(OptionError, match=words):
        read_about(recipe(text))


def test_the_recipe_that_makes_a_run_is_found(recipe: Callable[..., Path], tmp_path: Path) -> None:
    recipe('out = "runs/x"', "a-draft.toml")
    path = recipe('out = "runs/x"\n' + about())
    assert maker_of(Path("runs/x"), tmp_path) == path
    assert maker_of(Path("runs/y"), tmp_path) is None
    assert maker_of(Path("runs/x"), tmp_path / "none") is None


# The project's own


def load(path: Path, *more: Path, flags: tuple[str, ...] = ()) -> config.Options:
    command = read_about(path).command
    arguments = [*map(str, (path, *more)), *NAMED.get(command, []), *flags]
    return parse(command, COMMANDS[command][0], arguments)


def test_there_is_a_recipe_for_every_result_that_is_claimed() -> None:
    students = {
        f"{system}-{size}"
        for system in ("sft", "grpo", "opd", "opsd-gt", "opsd-hint", "sod")
        for size in ("0.6b", "1.7b")
    }
    assert {path.stem for path in CLAIMS} == students | {"sft-4b", "grpo-4b", "eval", "eval-quick", "rollout-sft"}


@pytest.mark.parametrize("path", CLAIMS, ids=lambda path: path.stem)
def test_a_recipe_runs_dry(path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(RECIPES.parent)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    command = read_about(path).command
    status = sod([command, str(path), *NAMED.get(command, []), "--dry-run"])
    out, err = capsys.readouterr()
    assert out.startswith(f"sod {command}, a dry run")
    assert status == (2 if "Create data/" in out else 0), "only data that no command makes are missing"
    assert "total at the peak" in out
    assert bool(err) == (status == 2)


@pytest.mark.parametrize("hardware", HARDWARE, ids=lambda path: path.stem)
def test_hardware_goes_on_top_of_every_recipe_of_its_command(hardware: Path) -> None:
    command, wanted = read_about(hardware).command, read_recipe(hardware)
    for path in [path for path in CLAIMS if read_about(path).command == command]:
        options = load(path, hardware).model_dump(mode="json", exclude_defaults=True)
        for section, values in wanted.items():
            assert (
                values.items() <= options[section].items() if isinstance(values, dict) else options[section] == values
            )


@pytest.mark.parametrize("path", LAPTOP, ids=lambda path: path.stem)
def test_a_recipe_for_a_laptop_is_what_the_lab_runs(path: Path) -> None:
    out, fastest = Path("runs/real"), {"network": {"dtype": "fastest"}}
    match path.stem.split("-"):
        case ["sft", whose]:
            steps = {"teacher": settings.REAL_TEACHER_STEPS, "student": settings.REAL_STUDENT_STEPS["usual"]}[whose]
            files = {"model": out / "base", "data": out / "problems" / f"{whose}-demonstrations.jsonl"}
            made = files | {
                "out": out / {"teacher": "trained-teacher", "student": "student-usual"}[whose],
                "steps": steps,
            }
            expected = config.SftOptions.model_validate(over(settings.REAL_SFT, fastest | made))
        case ["eval"]:
            made = {"model": "runs/sod-1.7b", "data": out / "problems" / "eval.jsonl", "out": "runs/eval"}
            expected = config.EvalOptions.model_validate(over(settings.REAL_EVAL, fastest | made))
        case _:
            made = {
                "student": out / "student-usual",
                "teacher": out / "trained-teacher",
                "algorithm": {"name": path.stem},
            }
            made |= {"data": out / "problems" / "train.jsonl", "out": out / "cells" / path.stem / "seed-1" / "train"}
            expected = config.TrainOptions.model_validate(over(settings.REAL_TRAIN, fastest | made | {"seed": 1}))
    assert load(path) == expected


def test_the_laptop_has_a_recipe_for_every_method_that_the_lab_compares() -> None:
    methods = {*REAL_SYSTEMS, "sham"}
    assert {path.stem for path in LAPTOP} == methods | {"sft-teacher", "sft-student", "eval"}


def test_hardware_for_another_command_is_refused() -> None:
    with pytest.raises(OptionError, match="is not an option"):
        load(RECIPES / "sft-0.6b.toml", RECIPES / "hardware" / "24gb-train.toml")


@pytest.mark.parametrize("path", [*CLAIMS, *HARDWARE, *LAPTOP, *SHARED], ids=lambda path: path.stem)
def test_a_recipe_holds_only_what_differs_and_says_where_from(path: Path) -> None:
    options, _, _ = path.read_text(encoding="utf-8").partition("[about]")
    for line in options.splitlines():
        key, is_option, rest = line.partition(" = ")
        if is_option and not line.startswith("#"):
            value, _, comment = rest.partition(" # ")
            if re.search(r"\d", value) and not value.startswith(('"', "[")):
                assert re.match(r"(ours|paper, section|reference's run script)", comment), (
                    f"{path.name}: {key} has no source"
                )
    if path in [*CLAIMS, *LAPTOP]:
        given = dict(_flat(read_recipe(path)))
        kept = dict(_flat(load(path).model_dump(mode="json", exclude_defaults=True)))
        assert given.keys() <= kept.keys(), "some are the default"


def _flat(content: dict[str, object], prefix: str = "") -> list[tuple[str, object]]:
    pairs: list[tuple[str, object]] = []
    for key, value in content.items():
        pairs += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return pairs


def test_the_scores_to_expect_are_the_papers() -> None:
    """Table 1, read once more: 0.6B and 1.7B, on AIME 2024, AIME 2025, GPQA-Diamond, LiveCodeBench v6."""
    table = {
        "grpo-4b": "67.60 60.42 55.19 63.13",
        "sft-0.6b": "5.67 5.42 15.20 9.61",
        "grpo-0.6b": "4.06 4.90 20.38 15.95",
        "opd-0.6b": "16.82 22.95 17.76 22.65",
        "opsd-gt-0.6b": "12.63 17.04 17.32 16.73",
        "opsd-hint-0.6b": "9.77 14.12 15.98 12.65",
        "sod-0.6b": "20.84 26.13 22.19 27.72",
        "sft-1.7b": "26.77 22.40 29.85 24.63",
        "grpo-1.7b": "25.63 21.67 33.55 20.70",
        "opd-1.7b": "43.86 37.04 31.73 32.45",
        "opsd-gt-1.7b": "33.85 24.69 35.02 22.73",
        "opsd-hint-1.7b": "34.42 21.43 33.46 23.12",
        "sod-1.7b": "50.83 41.72 38.72 40.63",
    }
    for name, scores in table.items():
        assert re.findall(r"\d+\.\d\d(?= ±)", read_about(RECIPES / f"{name}.toml").expect)[:4] == scores.split(), name


def test_the_readme_lists_every_recipe_as_it_says_itself() -> None:
    text = (RECIPES / "README.md").read_text(encoding="utf-8")
    for path in [*CLAIMS, *HARDWARE, *LAPTOP]:
        claim, name = read_about(path), path.relative_to(RECIPES)
        expect = " ".join(claim.expect.split())
        line = f"| [{name.with_suffix('')}]({name}) | `{claim.command}` | {claim.what} | {_short(expect)} | {claim.hardware} |"
        assert f"{line} {claim.tested.partition(':')[0]} |\n" in text, f"recipes/README.md should hold:\n{line}"


def _short(expect: str) -> str:
    """Scores as numbers; other expectations as they stand."""
    scores = re.findall(r"(\d+\.\d\d) ±", expect)
    return " / ".join(scores[:4]) if len(scores) >= 4 else expect
