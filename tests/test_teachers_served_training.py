"""Whole training updates beside a teacher on a server of each kind: what is learnt, what it costs, and a server that changes.

The servers are real ones on this machine. They follow the documentation of their kind and compute with the lab's teacher.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from other_tokenizers import save_permuted
from safetensors.torch import load_file
from test_teachers_dialects import Other
from test_teachers_server import CPU, Serving, in_the_background
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from warm import launch

from sod.cli import run as sod
from sod.config import ScoreOptions, TrainOptions
from sod.config.recipes import to_toml
from sod.config.servers import SERVERS
from sod.errors import ModelError
from sod.model.loading import load_model, load_tokenizer
from sod.report.reading import read_run
from sod.report.summary import learning_table
from sod.runs.directory import Run
from sod.teachers.dialects import DIALECTS
from sod.teachers.server import COSTS
from sod.training.on_policy import train

Tokenizer = PreTrainedTokenizerBase
PROOF = 4
"""Requests of the start-up proof of a server of vLLM: kind, log-probabilities twice, another last token."""


@pytest.fixture(scope="module")
def model(teacher: Path) -> PreTrainedModel:
    return load_model(teacher, CPU)


@pytest.fixture(scope="module")
def options(small_update: dict[str, Any], teacher: Path) -> dict[str, Any]:
    return small_update | {"teacher": teacher, "network": {"device": "cpu"}, "save_trajectories": 1000}


@pytest.fixture(scope="module")
def here(options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same update beside the teacher in this process."""
    return learnt(options, tmp_path_factory.mktemp("here") / "run")


def attempts_of(options: dict[str, Any]) -> int:
    """Return the number of attempts in an update."""
    return options["rollout"]["problems"] * options["rollout"]["group"]


def learnt(options: dict[str, Any], out: Path, **fields: Any) -> Run:
    return train(TrainOptions.model_validate(options | {"out": out} | fields))


def serving(kind: str, model: PreTrainedModel, tokenizer: Tokenizer) -> Serving:
    server = Serving(model, tokenizer) if kind == "vllm" else Other(model, tokenizer, kind)
    server.models[0]["max_model_len"] = 1024
    return server


def signals(run: Run) -> list[float]:
    rows = [json.loads(line) for line in run.trajectory_file(1).read_text().splitlines()]
    return [value for row in rows for piece in row["pieces"] for value in piece.get("signal") or []]


def weights(run: Run) -> dict[str, torch.Tensor]:
    checkpoint = run.newest_checkpoint()
    assert checkpoint is not None
    return load_file(checkpoint[1] / "model.safetensors")


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return sum(float((weight - other[name]).square().sum()) for name, weight in one.items()) ** 0.5


def test_each_kind_of_server_has_a_dialect_and_a_value_of_the_option() -> None:
    values = ScoreOptions.model_json_schema()["properties"]["teacher_server"]["enum"]
    assert {*SERVERS, "auto"} == {*DIALECTS, "auto"} == set(values)


@pytest.mark.parametrize("kind", SERVERS)
def test_an_update_beside_a_server_of_each_kind_learns_what_one_beside_the_teacher_here_learns(
    model: PreTrainedModel, tokenizer: Tokenizer, options: dict[str, Any], here: Run, tmp_path: Path, kind: str
) -> None:
    """llama.cpp is asked for the whole vocabulary, so that no log-probability is a bound."""
    server = serving(kind, model, tokenizer)
    score = {"teacher_server": kind, "teacher_top": len(tokenizer)}
    with in_the_background(server) as url:
        there = learnt(options, tmp_path / "run", score=score | {"teacher_url": url})
    gaps = [abs(one - other) for one, other in zip(signals(there), signals(here), strict=True)]
    assert len(gaps) > 50
    assert max(gaps) < 2e-4, "a file of trajectories has four decimals"
    start, one, other = load_file(options["student"] / "model.safetensors"), weights(here), weights(there)
    step, off = distance(one, start), distance(one, other)
    assert step > 0.01
    assert off < 0.01 * step, "AdamW makes steps of one size from small gradients, so rounding is visible"
    (row,), (expected,) = there.metrics(), here.metrics()
    names = [name for name in expected if name.startswith(("steps/", "learn/", "rollout/")) and "entropy" not in name]
    assert {name: row[name] for name in names} == pytest.approx({name: expected[name] for name in names}, abs=1e-4)
    assert not [f"teacher/{name}" for name in COSTS if f"teacher/{name}" in expected]


@pytest.fixture(scope="module")
def foreign(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lab's teacher with permuted ids: the same model, with another vocabulary."""
    return save_permuted(teacher, tmp_path_factory.mktemp("foreign"))


@pytest.mark.parametrize("kind", ["vllm", "llamacpp"])
def test_a_served_teacher_with_another_tokenizer_is_learnt_from_as_from_itself(
    options: dict[str, Any], foreign: Path, here: Run, tmp_path: Path, kind: str
) -> None:
    tokenizer = load_tokenizer(foreign)
    server = serving(kind, load_model(foreign, CPU), tokenizer)
    score = {"teacher_server": kind, "teacher_top": len(tokenizer)}
    with in_the_background(server) as url:
        there = learnt(options, tmp_path / "run", teacher=foreign, score=score | {"teacher_url": url})
    assert max(abs(one - other) for one, other in zip(signals(there), signals(here), strict=True)) < 2e-4
    (row,), (expected,) = there.metrics(), here.metrics()
    assert row["teacher/aligned_share"] == 1
    for name in ("steps/d", "steps/d_1", "learn/loss", "learn/grad_norm"):
        assert row[name] == pytest.approx(expected[name], abs=1e-4), name


def test_the_tokens_of_an_update_are_counted_and_shown(
    model: PreTrainedModel, tokenizer: Tokenizer, options: dict[str, Any], tmp_path: Path
) -> None:
    """Those of the repeated proof included, those of the start-up proof not."""
    server = serving("vllm", model, tokenizer)
    with in_the_background(server) as url:
        run = learnt(options, tmp_path / "run", score={"teacher_url": url}, updates=2)
    asked = [len(body["prompt"]) for body in server.asked[PROOF:]]
    each = attempts_of(options) + 1
    assert len(asked) == 2 * each
    for row, lengths in zip(run.metrics(), (asked[:each], asked[each:]), strict=True):
        assert row["teacher/requests"] == each
        assert row["teacher/tokens_sent"] == sum(lengths)
        assert row["teacher/tokens_returned"] == sum(lengths) - each
        assert row["teacher/tokens_cached"] == 0
    table = learning_table([read_run(run.folder, "run", limit=0, keep=lambda _: (0, 0), advance=lambda: None)])
    assert table is not None
    shown = dict(table.rows)["tokens sent to the teacher's server per update"]
    assert shown == [f"{sum(lengths):,}" for lengths in (asked[:each], asked[each:])]


def test_a_request_for_one_token_counts_the_text_before_it_and_what_the_cache_had(
    model: PreTrainedModel, tokenizer: Tokenizer, options: dict[str, Any], tmp_path: Path
) -> None:
    server = serving("llamacpp", model, tokenizer)
    with in_the_background(server) as url:
        run = learnt(options, tmp_path / "run", score={"teacher_url": url, "teacher_top": 7})
    (row,) = run.metrics()
    count = int(row["teacher/requests"])
    asked = server.asked[-count:]
    assert count == row["rollout/tokens_sampled"] + 47, "a request for each sampled token, and for those of the proof"
    assert row["teacher/tokens_sent"] == sum(len(body["prompt"]) for body in asked)
    assert row["teacher/tokens_returned"] == 7 * count


class Changing(Serving):
    """Answers with another model from a request on. No request fails, and its name stays."""

    def __init__(self, model: PreTrainedModel, tokenizer: Tokenizer, other: PreTrainedModel, at: int):
        super().__init__(model, tokenizer)
        self._other, self._at = other, at
        self.models[0]["max_model_len"] = 1024

    def _told(self, ids: list[int]) -> list[Any]:
        if len(self.asked) > self._at:
            self._model = self._other
        return super()._told(ids)


@pytest.mark.parametrize("late", [0, 3, 4])
def test_a_server_that_changes_its_model_in_a_run_is_refused_before_the_student_learns_from_it(
    model: PreTrainedModel, tokenizer: Tokenizer, teacher: Path, options: dict[str, Any], tmp_path: Path, late: int
) -> None:
    """`late`: how many requests of the second update the first model answers. The last one is the proof."""
    other = load_model(teacher, CPU)
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.003)
    each = attempts_of(options) + 1
    server = Changing(model, tokenizer, other, PROOF + each + late)
    with (
        in_the_background(server) as url,
        pytest.raises(ModelError, match=r"has changed its model: .* by \S+ nats \(allowed: 0.001\)"),
    ):
        learnt(options, tmp_path / "run", score={"teacher_url": url}, updates=3, save_every=1)
    assert [row["update"] for row in Run(tmp_path / "run").metrics()] == [1]
    assert len(server.asked) == PROOF + 2 * each
    again = serving("vllm", model, tokenizer)
    with in_the_background(again) as url:
        run = learnt(options, tmp_path / "run", score={"teacher_url": url}, updates=3, save_every=1, resume=True)
    assert [row["update"] for row in run.metrics()] == [1, 2, 3]


@pytest.mark.parametrize(
    ("trouble", "status", "words"), [("drop", 75, "is unreachable"), ("others", 2, "other tokens")]
)
def test_a_server_that_fails_later_costs_no_update_and_the_way_to_go_on_is_named(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    options: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    trouble: str,
    status: int,
    words: str,
) -> None:
    """It fails in the third update, and a checkpoint was due after ten."""
    straight = learnt(options, tmp_path / "straight", updates=3)
    server = serving("vllm", model, tokenizer)
    server.troubles += [""] * (PROOF + 2 * (attempts_of(options) + 1) + 1) + [trouble] * 1000
    recipe = tmp_path / "recipe.toml"
    with in_the_background(server) as url:
        score = {"teacher_url": url, "teacher_patience": 0.5}
        recipe.write_text(to_toml(options | {"score": score, "updates": 3}))
        command = ["train", str(recipe), "--out", str(tmp_path / "run")]
        assert sod(command) == status
        error, advice = capsys.readouterr().err.splitlines()
        assert words in error
        assert advice == f"to continue: sod {' '.join(command)} --resume"
        run = Run(tmp_path / "run")
        assert (run.newest_checkpoint() or (0,))[0] == 2
        server.troubles.clear()
        assert sod([*command, "--resume"]) == 0
    assert [row["update"] for row in run.metrics()] == [1, 2, 3]
    start = load_file(options["student"] / "model.safetensors")
    assert distance(weights(run), weights(straight)) < 0.01 * distance(weights(straight), start)


@pytest.mark.slow
def test_a_server_that_fails_one_of_two_processes_costs_no_update(
    model: PreTrainedModel, tokenizer: Tokenizer, options: dict[str, Any], tmp_path: Path
) -> None:
    """One request of the third update gets too few values; the other process has no reason to end."""
    server = serving("vllm", model, tokenizer)
    server.troubles += [""] * (2 * PROOF + 2 * (attempts_of(options) + 2) + 1) + ["shorter"]
    recipe = tmp_path / "recipe.toml"
    command = ["-m", "sod", "train", recipe, "--out", tmp_path / "run", "--processes", "2"]
    with in_the_background(server) as url:
        recipe.write_text(to_toml(options | {"score": {"teacher_url": url}, "updates": 3}))
        failed = launch(2, command)
        assert failed.returncode != 0
        complaints = [line for line in failed.stderr.splitlines() if line.startswith("error: ")]
        assert len(complaints) == 1
        assert "log-probabilities of" in complaints[0]
        assert f"to continue: torchrun --nproc-per-node 2 -m sod train {recipe}" in failed.stderr, failed.stderr
        run = Run(tmp_path / "run")
        assert (run.newest_checkpoint() or (0,))[0] == 2
        resumed = launch(2, [*command, "--resume"])
        assert resumed.returncode == 0, resumed.stderr
    assert [row["update"] for row in run.metrics()] == [1, 2, 3]


def test_a_resumed_run_refuses_a_server_with_another_model_also_without_local_weights(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    untrained: Path,
    options: dict[str, Any],
    teacher: Path,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "tokenizer"
    tokenizer.save_pretrained(folder)
    given = options | {"teacher": folder, "save_every": 1}
    with in_the_background(serving("vllm", model, tokenizer)) as url:
        learnt(given, tmp_path / "run", score={"teacher_url": url})
    with (
        in_the_background(serving("vllm", load_model(untrained, CPU), tokenizer)) as url,
        pytest.raises(ModelError, match=r"has changed its model: .* \(allowed: 0.02\)"),
    ):
        learnt(given, tmp_path / "run", score={"teacher_url": url}, updates=2, resume=True)
    with in_the_background(serving("vllm", model, tokenizer)) as url:
        run = learnt(given, tmp_path / "run", score={"teacher_url": url}, updates=2, resume=True)
    assert [row["update"] for row in run.metrics()] == [1, 2]
