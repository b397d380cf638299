"""The command line: help, recipes and flags, and what it says to a user who got something wrong."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from sod import __version__, config
from sod.cli import COMMANDS, HEADINGS, SECTIONS, parse
from sod.cli import run as sod
from sod.config import SftOptions, TrainOptions
from sod.errors import OptionError


def status(*arguments: object) -> int:
    """The exit status of `sod ARGUMENTS`, in this process."""
    try:
        return sod([str(argument) for argument in arguments])
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else 1


def python(code: str) -> str:
    """What a new interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


# Help


def test_the_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"], ["-h"], ["help"]):
        assert status(*arguments) == 0
        out, err = capsys.readouterr()
        assert all(command in out for command in COMMANDS)
        assert not err


@pytest.mark.parametrize(("group", "other"), [("lab", "data"), ("data", "lab")])
def test_a_group_alone_shows_only_its_commands(group: str, other: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([group], [group, "--help"]):
        assert status(*arguments) == 0
        out = capsys.readouterr().out
        assert all((command in out) == command.startswith(f"{group} ") for command in COMMANDS if " " in command)
        assert f"  {other} " not in out
        assert HEADINGS[group] in out


def test_every_command_stands_under_one_heading() -> None:
    assert sorted(command for commands in SECTIONS.values() for command in commands) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_explains_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(*command.split(), "--help-all") == 0
    out, err = capsys.readouterr()
    model = getattr(config, COMMANDS[command][0])
    keys = [key for key, _, _ in config.options_of(model)]
    for key in keys:
        flag = f"--{key.replace('_', '-')}"
        positional = not key.count(".") and _is_positional(model, key)
        assert flag in out or flag.replace(".", ".no-") in out or positional
    words = " ".join(out.replace("│", " ").split())
    assert words.count("Default: ") + words.count("(required)") == len(keys)
    assert not err


def _is_positional(model: Any, key: str) -> bool:
    return any("Positional" in repr(each) for each in model.model_fields[key].metadata)


def test_every_option_has_words_that_explain_it() -> None:
    def fields(model: Any) -> Sequence[tuple[str, Any]]:
        return [(f"{model.__name__}.{name}", field) for name, field in model.model_fields.items()]

    models = [getattr(config, name) for name in dir(config) if name.endswith("Options") and name != "Options"]
    assert len(models) > 8
    for name, field in (pair for model in models for pair in fields(model)):
        assert field.description or hasattr(field.annotation, "model_fields"), name


def test_every_command_leads_somewhere() -> None:
    for options, target, _ in COMMANDS.values():
        module, function = target.split(":")
        assert callable(getattr(import_module(module), function))
        assert issubclass(getattr(config, options), config.Options)


def test_help_imports_neither_torch_nor_transformers() -> None:
    code = """
import sys
from sod.cli import run
for arguments in ([], ["--help"], ["train", "--help"], ["train"], ["tarin"]):
    try:
        run(arguments)
    except SystemExit:
        pass
print("IMPORTED", [name for name in ("torch", "transformers", "pyarrow", "numpy") if name in sys.modules])
"""
    assert python(code).endswith("IMPORTED []")


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert status("--version") == 0
    assert capsys.readouterr() == (f"sod {__version__}\n", "")


# Unknown words


@pytest.mark.parametrize(
    ("arguments", "near"),
    [(["tarin"], "train"), (["evaluate"], "eval"), (["lab", "demmo"], "lab demo"), (["lab", "teach"], "lab teacher")],
)
def test_an_unknown_command_names_the_nearest(
    arguments: list[str], near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(*arguments) == 2
    assert f"did you mean '{near}'?" in capsys.readouterr().err


def test_a_command_like_no_other_names_them_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert status("xyzzy") == 2
    assert "try one of sft, train, eval" in capsys.readouterr().err


NEEDED = ["--student", "s", "--data", "d", "--out", "o"]


def test_an_unknown_option_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert status("train", *NEEDED, "--rolout.group", 3) == 2
    err = capsys.readouterr().err
    assert "--rolout.group" in err
    assert "--rollout.group" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--rollout.group", "0"],
            "of at least 1. Type for example --rollout.group 16",
        ),
        (["--rollout.top-p", "1.5"], "--rollout.top-p is 1.5. It must be a number above 0 and at most 1."),
        (["--score.teacher-patience", "inf"], "--score.teacher-patience is inf. It must be a finite number above 0."),
        (["--updates", "many"], "--updates is many. It must be a whole number of at least 1."),
        (
            ["--engine.name", "vlm"],
            "--engine.name is vlm. It must be auto, hf, vllm, vllm_server or served. Did you mean vllm?",
        ),
        (["--updates"], "--updates has too few values. It needs a whole number"),
        (["stray"], "'stray' is not a value of any option"),
        (["--algorithm.name", "magic"], "'magic' is unknown; choose one of grpo, opd"),
        (["--algorithm.name", "sodd"], "did you mean 'sod'?"),
        (["--algorithm.name", "none.py:rule"], "there is no Python file"),
        (
            ["--learn.betas", "0.9"],
            "--learn.betas is 0.9. It must be 2 values, each a number of at least 0 and below 1.",
        ),
    ],
)
def test_a_value_that_cannot_be_is_an_error(
    flags: list[str], words: str, teacher: Path, problem_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--student", teacher, "--teacher", teacher, "--data", problem_file]  # missing ones are an error before
    assert status("train", *NEEDED, *files, *flags) == 2
    err = capsys.readouterr().err
    assert words in err
    assert 1 <= len(err.splitlines()) <= 3
    assert "Traceback" not in err


def test_what_is_required_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert status("train", "--student", "s", "--out", "o") == 2
    assert "--data" in capsys.readouterr().err


# Recipes


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str, name: str = "recipe.toml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


Recipe = Callable[..., Path]


def train_options(*arguments: object) -> TrainOptions:
    return parse("train", "TrainOptions", [str(argument) for argument in arguments])


def sft_options(*arguments: object) -> SftOptions:
    return parse("sft", "SftOptions", [*map(str, arguments)])


def test_a_recipe_sets_scalars_lists_booleans_and_sections(recipe: Recipe) -> None:
    path = recipe(
        """
        model = "some/model"
        data = "some data.jsonl"
        out = "runs/out"
        epochs = 0.5
        batch = 3
        shuffle = false
        schedule = "constant"
        [learn]
        lr = 3e-4
        betas = [0.8, 0.95]
        [chat]
        on_drift = "append"
        """
    )
    options = sft_options(path)
    assert options == SftOptions(
        model=Path("some/model"),
        data=Path("some data.jsonl"),
        out=Path("runs/out"),
        epochs=0.5,
        batch=3,
        shuffle=False,
        schedule="constant",
        learn=SftOptions.model_fields["learn"].default.model_copy(update={"lr": 3e-4, "betas": (0.8, 0.95)}),
        chat=config.ChatOptions(on_drift="append"),
    )


@pytest.mark.parametrize("thinking", [True, False])
def test_a_recipe_sets_a_boolean_that_may_also_be_none(recipe: Recipe, thinking: bool) -> None:
    path = recipe(f"[chat]\nthinking = {json.dumps(thinking)}")
    assert train_options(path, *NEEDED).chat.thinking is thinking
    assert train_options(path, *NEEDED, "--chat.thinking").chat.thinking is True
    assert train_options(path, *NEEDED, "--chat.no-thinking").chat.thinking is False
    assert train_options(*NEEDED).chat.thinking is None


def test_dotted_keys_are_sections(recipe: Recipe) -> None:
    assert train_options(recipe("rollout.group = 5\nlearn.lr = 0.1"), *NEEDED).rollout.group == 5


def test_the_command_line_overrides_the_recipe_and_leaves_the_rest(recipe: Recipe) -> None:
    path = recipe(
        'student = "r"\nupdates = 7\nresume = true\n[rollout]\ngroup = 5\nmax_tokens = 99\n[learn]\nbetas = [0.1, 0.2]'
    )
    for flags in (
        ["--rollout.max-tokens", 50, "--updates=9", "--no-resume", "--learn.betas", 0.3, 0.4],
        ["--rollout.max_tokens", 50, "--updates", 9, "--no_resume", "--learn.betas", 0.3, 0.4],
    ):
        options = train_options(path, *NEEDED, *flags)
        assert (options.student, options.updates, options.resume) == (Path("s"), 9, False)
        assert (options.rollout.group, options.rollout.max_tokens, options.learn.betas) == (5, 50, (0.3, 0.4))
    assert train_options(path, *NEEDED).resume
    assert not sft_options(recipe("shuffle = true"), "--no-shuffle", "--model", "m", *NEEDED[2:]).shuffle
    assert sft_options(recipe("shuffle = false"), "--shuffle", "--model", "m", *NEEDED[2:]).shuffle


def test_a_later_recipe_overrides_an_earlier_one(recipe: Recipe) -> None:
    first = recipe("updates = 1\nresume = true\n[learn]\nbetas = [0.1, 0.2]\nlr = 1.0", "first.toml")
    second = recipe("updates = 2\nresume = false\n[learn]\nbetas = [0.3, 0.4]", "second.toml")
    options = train_options(first, second, *NEEDED)
    assert (options.updates, options.resume) == (2, False)
    assert (options.learn.betas, options.learn.lr) == ((0.3, 0.4), 1.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "[rollout]\nmax_token = 3",
            "rollout.max_token is not an option of `sod train`; did you mean rollout.max_tokens?",
        ),
        ("updtaes = 3", "updtaes is not an option of `sod train`; did you mean updates?"),
        ("[xyzzy]\nplugh = 3", "xyzzy.plugh is not an option of `sod train`;"),
        ("learn = 3", "learn is not an option"),
        ("updates = ", "is not valid TOML"),
    ],
)
def test_a_wrong_recipe_is_an_error_that_names_it(recipe: Recipe, text: str, words: str) -> None:
    path = recipe(text)
    with pytest.raises(OptionError) as caught:
        train_options(path, *NEEDED)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)


def test_a_recipe_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"recipe .*none\.toml cannot be read: No such file"):
        train_options(tmp_path / "none.toml", *NEEDED)


def test_a_recipe_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_bytes(b"updates = 3 # \xff")
    with pytest.raises(OptionError, match=r"bad\.toml"):
        train_options(tmp_path / "bad.toml", *NEEDED)


def test_recipes_come_first(recipe: Recipe) -> None:
    with pytest.raises(OptionError, match=r"Recipes come first: sod train .*recipe\.toml --option value"):
        train_options(*NEEDED, recipe("updates = 3"))


# What the specification calls bad input: one or two lines, status 2, and nothing half-written


class World:
    """Files that would do; a test breaks one of them."""

    def __init__(self, folder: Path, teacher: Path, problem_file: Path):
        self.teacher = teacher
        self.problems = problem_file
        self.out = folder / "out"
        self.folder = folder
        self.demonstrations = self.jsonl(
            {"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]}
        )

    def jsonl(self, *rows: dict[str, Any]) -> Path:
        path = self.folder / f"rows-{len(list(self.folder.iterdir()))}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    def text(self, text: str) -> Path:
        path = self.folder / f"text-{len(list(self.folder.iterdir()))}.jsonl"
        path.write_text(text)
        return path

    def model(self) -> Path:
        """A copy of the model, to be broken."""
        return Path(shutil.copytree(self.teacher, self.folder / "model"))

    def command(self, name: str, **changes: object) -> list[object]:
        limits = ["--rollout.max-prompt-tokens", 64, "--rollout.max-tokens", 100, "--sandbox.workers", 1]
        files: dict[str, dict[str, object]] = {
            "sft": {"model": self.teacher, "data": self.demonstrations},
            "train": {"student": self.teacher, "teacher": self.teacher, "data": self.problems},
            "eval": {"model": self.teacher, "data": self.problems},
        }
        flags = files[name] | {"out": self.out} | changes
        if name == "train":
            limits += ["--rollout.problems", 2, "--rollout.group", 2, "--updates", 1]
        if name == "eval":
            limits += ["--limit", 1, "--samples", 1]
        given = [part for flag, value in flags.items() if value is not None for part in (f"--{flag}", value)]
        return [name, *given, *([] if name == "sft" else limits)]


@pytest.fixture
def world(tmp_path: Path, teacher: Path, problem_file: Path) -> World:
    (tmp_path / "files").mkdir()
    return World(tmp_path / "files", teacher, problem_file)


@pytest.fixture
def refused(world: World, capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """The command ends with status 2 and one or two lines that hold all the words, and writes nothing."""

    def check(command: list[object], *words: str) -> None:
        before = sorted(world.folder.rglob("*"))
        assert status(*command) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ")
        assert 1 <= len(err.splitlines()) <= 2
        for word in words:
            assert word in err
        assert sorted(world.folder.rglob("*")) == before

    return check


Refused = Callable[..., None]
LOOPS = ["sft", "train", "eval"]
SAMPLERS = ["train", "eval"]


@pytest.mark.parametrize("loop", LOOPS)
def test_missing_data_is_refused(world: World, refused: Refused, loop: str) -> None:
    refused(world.command(loop, data=world.folder / "none.jsonl"), "none.jsonl does not exist")


@pytest.mark.parametrize("loop", LOOPS)
def test_empty_data_is_refused(world: World, refused: Refused, loop: str) -> None:
    refused(world.command(loop, data=world.text("\n\n")), "is empty: it has no row")


@pytest.mark.parametrize("loop", LOOPS)
def test_data_that_is_no_json_is_refused(world: World, refused: Refused, loop: str) -> None:
    refused(world.command(loop, data=world.text('{"pro\n{"prompt": "1+1?", "answer": "2"}')), "line 1: not JSON")


@pytest.mark.parametrize("loop", LOOPS)
def test_data_of_another_kind_of_file_is_refused(world: World, refused: Refused, loop: str) -> None:
    path = world.folder / "data.csv"
    path.write_text("a,b\n")
    refused(world.command(loop, data=path), "ending '.csv'; only .jsonl and .parquet")


def test_unknown_columns_are_refused(world: World, refused: Refused) -> None:
    data = world.jsonl({"instruction": "1+1?", "output": "2"})
    for loop in SAMPLERS:
        refused(world.command(loop, data=data), "row 1: it has the columns instruction, output", "`prompt`", "`answer`")
    refused(world.command("sft", data=data), "row 1: it has the columns instruction, output", "`messages`")


@pytest.mark.parametrize("loop", LOOPS)
def test_a_tokenizer_without_a_chat_template_is_refused(world: World, refused: Refused, loop: str) -> None:
    model = world.model()
    (model / "chat_template.jinja").unlink()
    refused(world.command(loop, **{"student" if loop == "train" else "model": model}), "has no chat template")


@pytest.mark.parametrize("loop", SAMPLERS)
def test_a_teacher_with_another_vocabulary_needs_a_template_of_its_own(
    world: World, refused: Refused, tokenizer: PreTrainedTokenizerBase, loop: str
) -> None:
    model = world.model()
    vocabulary = json.loads((model / "tokenizer.json").read_text())
    names = vocabulary["model"]["vocab"]
    names["q"], names["z"] = names["z"], names["q"]
    (model / "tokenizer.json").write_text(json.dumps(vocabulary))
    (model / "chat_template.jinja").unlink()
    refused(world.command(loop, teacher=model), "another tokenizer", "no chat template", "--score.teacher-template")


@pytest.mark.parametrize("loop", SAMPLERS)
def test_a_prompt_longer_than_the_limit_is_refused(world: World, refused: Refused, loop: str) -> None:
    data = world.jsonl(*({"id": f"p{i}", "prompt": "1+1?" * (1 + 99 * (i == 0)), "answer": "2"} for i in range(2)))
    refused(world.command(loop, data=data), "'p0'", "rollout.max_prompt_tokens", "64")


@pytest.mark.parametrize("loop", SAMPLERS)
def test_limits_beyond_the_models_positions_are_refused(world: World, refused: Refused, loop: str) -> None:
    command = [1000 if part == 64 else part for part in world.command(loop)]
    refused(command, "1024 positions", "1100")


@pytest.mark.parametrize("loop", LOOPS)
def test_an_unwritable_run_directory_is_refused(world: World, refused: Refused, loop: str) -> None:
    (world.folder / "file").touch()
    refused(world.command(loop, out=world.folder / "file" / "run"), "cannot be written", "--out")


@pytest.mark.parametrize("command", ["make", "demo"])
def test_an_unwritable_directory_for_the_lab_is_refused(world: World, refused: Refused, command: str) -> None:
    (world.folder / "file").touch()
    refused(["lab", command, "--out", world.folder / "file" / "lab"], "cannot be written")


@pytest.mark.parametrize("loop", LOOPS)
def test_an_existing_run_is_refused(world: World, refused: Refused, loop: str) -> None:
    world.out.mkdir()
    (world.out / "options.json").write_text("{}")
    refused(world.command(loop), "options.json is damaged" if loop == "eval" else "already holds a run")


@pytest.mark.parametrize("loop", ["sft", "train"])
def test_an_existing_run_is_refused_before_anything_is_looked_for(world: World, refused: Refused, loop: str) -> None:
    world.out.mkdir()
    (world.out / "options.json").write_text("{}")
    nowhere = {"student" if loop == "train" else "model": world.folder / "none", "data": world.folder / "none.jsonl"}
    refused(world.command(loop, **nowhere), "already holds a run")


@pytest.mark.parametrize("loop", SAMPLERS)
def test_an_engine_that_cannot_be_opened_leaves_no_run_behind(world: World, refused: Refused, loop: str) -> None:
    refused(
        [*world.command(loop), "--engine.name", "vllm_server"], "needs the address of its server. Give --engine.url."
    )
    assert not world.out.exists()


@pytest.mark.parametrize("loop", ["sft", "train"])
def test_a_run_that_is_not_there_is_not_resumed(world: World, refused: Refused, loop: str) -> None:
    refused([*world.command(loop), "--resume"], "holds no run to resume")


@pytest.mark.parametrize("loop", LOOPS)
def test_a_folder_without_a_model_is_refused(world: World, refused: Refused, loop: str) -> None:
    flag = "student" if loop == "train" else "model"
    refused(
        world.command(loop, **{flag: world.folder / "none"}), "There is no directory", "none. Give a model's directory"
    )
    model = world.model()
    (model / "config.json").unlink()
    refused(world.command(loop, **{flag: model}), "holds no model: config.json is missing")


@pytest.mark.parametrize("loop", SAMPLERS)
def test_a_missing_teacher_is_refused(world: World, refused: Refused, loop: str) -> None:
    refused(world.command(loop, teacher=world.folder / "none"), "There is no directory", "none. Give a model's")


def test_distilling_without_a_teacher_is_refused(world: World, refused: Refused) -> None:
    refused(world.command("train", teacher=None), "algorithm.name = sod needs a teacher", "--teacher")


def test_more_problems_than_there_are_is_refused(world: World, refused: Refused) -> None:
    command = [*world.command("train"), "--rollout.problems", 9]
    refused(command, "rollout.problems is 9", "holds 8 problems")


def test_a_nucleus_in_training_is_refused(world: World, refused: Refused) -> None:
    refused([*world.command("train"), "--rollout.top-p", 0.9], "rollout.top_p must be 1 for training")


@pytest.mark.parametrize("loop", SAMPLERS)
def test_a_problem_that_nobody_can_judge_is_refused(world: World, refused: Refused, loop: str) -> None:
    data = world.jsonl(*({"prompt": f"{i}?", "answer": "2", "kind": "poetry"} for i in range(2)))
    refused(world.command(loop, data=data), "`kind` is 'poetry'")


def test_a_demonstration_that_cannot_be_rendered_is_refused_before_anything_is_written(
    world: World, refused: Refused
) -> None:
    good = {"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]}
    data = world.jsonl(good, {"messages": [good["messages"][0], {"role": "assistant", "content": "2<|im_end|>"}]})
    refused([*world.command("sft", data=data), "--batch", 1, "--no-shuffle"], "emonstration 2 cannot be rendered")


def test_in_a_shell_an_error_is_one_line_and_status_2(world: World) -> None:
    command = [sys.executable, "-m", "sod", *map(str, world.command("train", data=world.folder / "none.jsonl"))]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: ")
    assert len(ended.stderr.splitlines()) == 1


def test_what_is_not_the_users_fault_is_short_too_and_a_status_that_says_try_again(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    for loop in SAMPLERS:
        assert status(*world.command(loop, out=world.folder / loop), "--rollout.seconds", 1e-6) == 75
        err = capsys.readouterr().err
        error, *advice = err.splitlines()
        assert "were lost to infrastructure failures and 0 could not be graded. These are too many to continue" in error
        assert [line.partition(": ")[0] for line in advice] == ["to continue"] * (loop == "train")


def test_a_sandbox_that_is_not_there_stops_everything_before_it_begins(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    server = ["--sandbox.backend", "fusion", "--sandbox.url", "http://127.0.0.1:1", "--sandbox.retries", 0]
    for loop in SAMPLERS:
        assert status(*world.command(loop, out=world.folder / loop), *server) == 75
        assert "The sandbox does not work: the sandbox server at http://127.0.0.1:1/" in capsys.readouterr().err
        assert not (world.folder / loop).exists()


# What works


def test_an_evaluation_ends_with_its_numbers_and_its_place(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(*world.command("eval")) == 0
    out, err = capsys.readouterr()
    assert "avg@1" in out
    assert out.rstrip().endswith(f"results and trajectories: {world.out}")
    assert not err


def test_a_training_run_says_a_line_for_each_update(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(*world.command("train")) == 0
    out, err = capsys.readouterr()
    assert out.startswith("legend: ")
    assert "\nupdate 1/1  solved" in out
    assert all(word in out for word in ("reward", "calls", "errors", "d ", "w ", "tok/s"))
    assert not err


def test_a_model_with_a_dot_before_it_is_looked_for_here_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demonstrations.jsonl").write_text("{}\n")
    (tmp_path / "recipe.toml").write_text('model = "./Qwen/x"\n')
    files = ["--data", "demonstrations.jsonl", "--out", "out"]
    for words in (["sft", "--model", "./Qwen/x", *files], ["sft", "recipe.toml", *files]):
        assert status(*words) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert f"error: There is no directory {tmp_path}/Qwen/x." in said
