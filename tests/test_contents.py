"""A run that continues refuses files with another content than before, whichever option names them."""

import json
from pathlib import Path
from typing import Any

import pytest

from sod import config
from sod.config import EvalOptions, RolloutCommandOptions, SftOptions, TrainOptions
from sod.config.base import CONTENT
from sod.datasets.rows import fingerprint_model
from sod.errors import RunError
from sod.runs.contents import content_digests, same_input
from sod.runs.directory import Run
from sod.types import Problem

CASES: dict[str, dict[str, Any]] = {
    "environment": {"environment": "own.py:World"},
    "served agent": {"environment": "served:own.py:agent"},
    "rule": {"algorithm": {"name": "own.py:rule"}},
    "reward": {"reward": {"own": ("own.py:brevity",)}},
    "judge": {"reward": {"judge": "own.py:judge"}},
    "rubric": {"reward": {"llm": {"rubric": "own.py"}}},
    "tool": {"tool": {"own": ("own.py:area",)}},
    "database": {"tool": {"database": "own.py"}},
    "documents": {"tool": {"documents": "."}},
    "server of tools": {"tool": {"mcp": ("python own.py",)}},
    "chat template": {"chat": {"template": "own.py"}},
    "teacher's template": {"score": {"teacher_template": "own.py"}},
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text("old = 1")


def train_options(**other: Any) -> TrainOptions:
    return TrainOptions.model_validate({"student": "s", "data": "d.jsonl", "out": "/run"} | other)


def opened(options: config.Options, folder: Path, *, resume: bool = True, problems: list[Problem] | None = None) -> Run:
    contents = content_digests(options, [(Path("data/d.jsonl"), problems or [])])
    return Run.open(options, folder, data={"data": "a"}, files=contents, resume=resume)


@pytest.mark.parametrize("case", CASES)
def test_a_changed_file_of_an_option_is_named_and_refused(case: str, tmp_path: Path) -> None:
    options, run = train_options(**CASES[case]), tmp_path.with_suffix(".run")
    opened(options, run, resume=False)
    opened(options, run)
    Path("own.py").write_text("new = 1")
    with pytest.raises(RunError, match=r"own\.py has changed since .*--accept-changed"):
        opened(options, run)
    assert opened(options.model_copy(update={"accept_changed": True}), run)
    stored = json.loads((run / "environment.json").read_text())
    assert stored["accepted"] == list(stored["files"])
    opened(options, run)  # the new content is now the run's


def test_every_option_that_names_files_is_covered() -> None:
    """FILE.py, FILE.jinja and text files in its help mean that the option names files."""
    covered = {key for key, _, marks in config.options_of(TrainOptions) if CONTENT in marks}
    for model in (TrainOptions, EvalOptions, RolloutCommandOptions, SftOptions):
        for key, field, marks in config.options_of(model):
            assert "FILE." not in (field.description or "") or CONTENT in marks, key
    assert covered == {
        "algorithm.name",
        "chat.template",
        "environment",
        "reward.judge",
        "reward.llm.rubric",
        "reward.own",
        "score.teacher_template",
        "tool.database",
        "tool.documents",
        "tool.mcp",
        "tool.own",
    }


def test_modules_that_own_code_imports_count(tmp_path: Path) -> None:
    Path("own.py").write_text("import json\nfrom helper import x\nfrom pack.part import y")
    Path("helper.py").write_text("import deeper\nimport own")
    Path("deeper.py").write_text("x = 1")
    Path("pack").mkdir()
    Path("pack/part.py").write_text("y = 1")
    names = [Path(name.removeprefix("tool.own: ")).name for name in content_digests(train_options(**CASES["tool"]))]
    assert sorted(names) == ["deeper.py", "helper.py", "own.py", "part.py"]


def test_the_files_of_problems_count_by_their_place_beside_the_data(tmp_path: Path) -> None:
    run = tmp_path.with_suffix(".run")
    for folder in ("data", "moved"):
        Path(folder).mkdir()
        Path(folder, "table.csv").write_text("1,2")

    def digests(folder: str) -> dict[str, str]:
        table = str(Path(folder, "table.csv").absolute())
        problem = Problem(id="1", messages=(), answer="3", files={"t.csv": table}, environment="own.py:World")
        return content_digests(train_options(), [(Path(folder, "d.jsonl"), [problem])])

    assert list(digests("data")) == ["data: environment own.py", "data: table.csv"]
    Run.open(train_options(), run, data={}, files=digests("data"))
    Run.open(train_options(), run, data={}, files=digests("moved"), resume=True)
    Path("moved/table.csv").write_text("1,3")
    with pytest.raises(RunError, match=r"data: table\.csv has changed"):
        Run.open(train_options(), run, data={}, files=digests("moved"), resume=True)


def test_further_files_are_added_and_runs_of_older_versions_continue(tmp_path: Path) -> None:
    run = tmp_path.with_suffix(".run")
    Run.open(train_options(), run, data={}, files={})
    Run.open(train_options(), run, data={}, files={"data: b": "1"}, resume=True)  # such as a larger --limit
    with pytest.raises(RunError, match="data: b has changed"):
        Run.open(train_options(), run, data={}, files={"data: b": "2"}, resume=True)
    stored = json.loads((run / "environment.json").read_text())
    del stored["files"]
    (run / "environment.json").write_text(json.dumps(stored))
    Run.open(train_options(), run, data={}, files={"data: b": "2"}, resume=True)
    with pytest.raises(RunError, match="data: b has changed"):
        Run.open(train_options(), run, data={}, files={"data: b": "3"}, resume=True)


@pytest.mark.parametrize("named", ["option", "environment", "setting"])
def test_a_taskset_of_verifiers_counts_with_its_modules(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / f"some_{named}_tasks"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('it is not imported')")
    (package / "rubric.py").write_text("old = 1")
    monkeypatch.syspath_prepend(tmp_path)
    options = train_options(**({"environment": f"verifiers:{package.name}"} if named == "option" else {}))
    by_row = {"environment": f"verifiers:{package.name}"} if named == "environment" else {}
    setting = {"taskset": package.name} if named == "setting" else {}
    problems = [Problem(id="p", messages=(), answer="", setting=setting, **by_row)]
    before = content_digests(options, [(Path("data/d.jsonl"), problems)])
    assert sorted(name.split("taskset ")[1] for name in before) == [
        f"{package.name}/__init__.py",
        f"{package.name}/rubric.py",
    ]
    (package / "rubric.py").write_text("new = 1")
    after = content_digests(options, [(Path("data/d.jsonl"), problems)])
    assert [name for name in before if before[name] != after[name]] == [name for name in before if "rubric" in name]


# Models


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with the names and sizes of a model's files."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (folder / name).write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(8 << 20))
    return folder


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json", "merges.txt"])
def test_every_small_file_of_a_model_counts(model: Path, name: str) -> None:
    before = fingerprint_model(model)
    (model / name).write_text('{"eos_token_id": 5}')
    assert not same_input(before, fingerprint_model(model))


def test_a_change_in_the_middle_of_the_weights_counts(model: Path) -> None:
    """LoRA on one projection changes neither the first nor the last MiB of a file."""
    before = fingerprint_model(model)
    with (model / "model.safetensors").open("r+b") as file:
        file.seek(4 << 20)
        file.write(b"x" * (64 << 10))
    assert not same_input(before, fingerprint_model(model))


def test_a_model_is_compared_with_the_fingerprint_of_an_earlier_version(model: Path) -> None:
    now = fingerprint_model(model)
    earlier, _, more = now.partition(":")
    assert same_input(earlier, now)
    assert same_input(now, earlier)
    assert not same_input("0" * 64, now)
    assert not same_input(f"{earlier}:{'0' * 64}", now)
    assert not same_input(more, now)
    assert not same_input("served m", "served m:latest")
    assert same_input(None, None)
    assert not same_input(None, now)


def test_a_run_of_an_earlier_version_continues_with_its_model(model: Path, tmp_path: Path) -> None:
    now = fingerprint_model(model)
    out, options = tmp_path / "run", train_options()
    Run.open(options, out, data={"student": now.partition(":")[0]}, files={})
    Run.open(options, out, data={"student": now}, files={}, resume=True)
    with pytest.raises(RunError, match="The student differs"):
        Run.open(options, out, data={"student": "0" * 64}, files={}, resume=True)
