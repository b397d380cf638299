"""Default lengths that do not fit a model are capped; given ones are kept."""

import json
from pathlib import Path
from typing import Any

import pytest

from sod.arguments.parsing import parse_options
from sod.config import EvalOptions, RolloutOptions, TrainOptions
from sod.errors import RunError
from sod.model.dtypes import with_dtype
from sod.model.lengths import capped, positions_in, with_lengths
from sod.planning.dry_run import plan
from sod.runs.directory import Run


@pytest.mark.parametrize(
    ("given", "positions", "expected"),
    [
        ({}, [40_960], (2560, 20480)),
        ({}, [40_960, 8192], (2560, 5632)),
        ({}, [2048], (1024, 1024)),
        ({"max_prompt_tokens": 300}, [2048], (300, 1748)),
        ({"max_tokens": 2000}, [2048], (48, 2000)),
        ({"max_tokens": 2000, "max_prompt_tokens": 300}, [2048], (300, 2000)),  # loading refuses it
        ({"max_tokens": 5000}, [2048], (2560, 5000)),  # so does it
        ({}, [], (2560, 20480)),
    ],
)
def test_only_default_lengths_are_capped(
    given: dict[str, int], positions: list[int], expected: tuple[int, int]
) -> None:
    found = capped(RolloutOptions(**given), positions)
    assert (found.max_prompt_tokens, found.max_tokens) == expected


def model(folder: Path, positions: int, nested: bool = False) -> Path:
    config: dict[str, Any] = {"max_position_embeddings": positions, "model_type": "llama"}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"text_config": config} if nested else config))
    (folder / "model.safetensors").touch()
    return folder


@pytest.mark.parametrize("nested", [False, True])
def test_a_run_takes_the_positions_of_student_and_teacher(tmp_path: Path, nested: bool) -> None:
    student, teacher = model(tmp_path / "s", 8192, nested), model(tmp_path / "t", 4096)
    flags = ["--student", str(student), "--data", "d.jsonl", "--out", str(tmp_path / "run"), "--rollout.group", "4"]
    options: Any = parse_options("train", TrainOptions, flags)
    assert with_lengths(options).rollout.max_tokens == 5632
    options = parse_options("train", TrainOptions, [*flags, "--teacher", str(teacher)])
    assert (with_lengths(options).rollout.max_tokens, with_lengths(options).rollout.group) == (2048, 4)
    options = parse_options("train", TrainOptions, [*flags, "--teachers", f"*={teacher}"])
    assert with_lengths(options).rollout.max_tokens == 2048
    options = parse_options("train", TrainOptions, [*flags, "--rollout.max-tokens", "9000"])
    assert with_lengths(options).rollout.max_tokens == 9000


def test_a_run_that_has_begun_keeps_its_lengths(tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "options.json").write_text(json.dumps({"rollout": {"max_tokens": 100, "max_prompt_tokens": 50}}))
    fields = {"model": model(tmp_path / "m", 8192), "data": "d.jsonl", "out": out}
    kept = with_lengths(EvalOptions.model_validate(fields)).rollout
    assert (kept.max_tokens, kept.max_prompt_tokens) == (100, 50)
    given = with_lengths(EvalOptions.model_validate(fields | {"rollout": {"max_tokens": 70}})).rollout
    assert (given.max_tokens, given.max_prompt_tokens) == (70, 50)


def test_a_run_with_chosen_values_is_resumed_without_giving_them(tmp_path: Path) -> None:
    """The first check of a command compares the options as they were given, before the models' positions are known."""
    flags = ["--student", str(model(tmp_path / "s", 8192)), "--data", "d.jsonl", "--out", str(tmp_path / "run")]
    begun: Any = with_lengths(parse_options("train", TrainOptions, [*flags, "--network.dtype", "auto"]))
    begun = begun.model_copy(update={"network": begun.network.model_copy(update={"dtype": "float32"})})
    run = Run.open(begun, tmp_path / "run", data={})
    given: Any = parse_options("train", TrainOptions, [*flags, "--resume", "--network.dtype", "auto"])
    run.check(given, resume=True)
    run.check(with_lengths(with_dtype(given)), resume=True)
    given = parse_options("train", TrainOptions, [*flags, "--resume", "--rollout.max-tokens", "100"])
    with pytest.raises(RunError, match=r"other options \(rollout\.max_tokens\)"):
        run.check(given, resume=True)


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        ({"model_type": "gpt2", "n_positions": 700}, 700),
        ({"model_type": "gpt2"}, 1024),
        ({"model_type": "llama"}, 2048),
        ({"model_type": "mamba"}, None),
        ({"model_type": "no_such_type"}, None),
    ],
)
def test_positions_under_another_name_or_left_out_are_those_of_transformers(
    tmp_path: Path, config: dict[str, Any], positions: int | None
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert positions_in(tmp_path / "config.json") == positions


def test_a_missing_model_changes_nothing(tmp_path: Path) -> None:
    options = EvalOptions.model_validate({"model": tmp_path / "none", "data": "d.jsonl", "out": tmp_path / "run"})
    assert with_lengths(options) is options


def test_a_dry_run_plans_the_capped_lengths(untrained: Path, problem_file: Path, tmp_path: Path) -> None:
    positions = json.loads((untrained / "config.json").read_text())["max_position_embeddings"]
    fields = {"student": untrained, "data": problem_file, "out": tmp_path / "run", "algorithm": {"name": "grpo"}}
    text = " ".join(plan(TrainOptions.model_validate(fields)).split())
    prompt = min(2560, positions // 2)
    assert f"responses of up to {positions - prompt:,} tokens" in text
    assert "Lower rollout.max_tokens" not in text
