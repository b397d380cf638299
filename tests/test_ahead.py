"""rollout.ahead: the next batch is sampled while this one is learnt, by earlier weights; corrected, and resumed exactly."""

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from policy_server import PolicyServer, serving_policy

from sod.config import TrainOptions
from sod.datasets.order import ProblemOrder
from sod.datasets.rows import load_problems
from sod.lab import settings
from sod.lab.make import TEACHER_FOLDER
from sod.processes.concurrency import Runner
from sod.runs.directory import Run
from sod.training.ahead import Ahead
from sod.training.on_policy import train


@pytest.fixture(scope="module")
def student(trembling: Callable[[Path, float], None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student")
    trembling(folder, 0.1)
    return folder


@pytest.fixture
def served(student: Path) -> Iterator[tuple[str, PolicyServer]]:
    with serving_policy(student) as served:
        yield served


def options(student: Path, data: Path, out: Path, url: str, **fields: Any) -> TrainOptions:
    rollout = settings.ROLLOUT | {"problems": 2, "group": 2, "max_tokens": 100} | fields.pop("rollout", {})
    return TrainOptions.model_validate(
        {
            "student": student,
            "data": data,
            "out": out,
            "teacher": TEACHER_FOLDER,
            "rollout": rollout,
            "engine": {"name": "vllm_server", "url": url},
            "learn": {"lr": 3e-3, "minibatches": 2},
            "reward": settings.REWARD,
            "tool": settings.TOOL,
            "sandbox": {"workers": 2},
            "save_every": 1,
            "keep": 9,
        }
        | fields
    )


def problems(run: Run, update: int) -> list[str]:
    rows = (run.folder / "trajectories" / f"update-{update:04}.jsonl").read_text().splitlines()
    return sorted({json.loads(row)["problem"] for row in rows})


def taken(run: Run, update: int) -> int:
    [file] = (run.folder / "checkpoints" / f"update-{update:04}").rglob("problems.json")
    return json.loads(file.read_text())["taken"]


@pytest.fixture(scope="module")
def straight(student: Path, problem_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, PolicyServer]:
    """A run of three updates, and the server that sampled for it."""
    out = tmp_path_factory.mktemp("ahead") / "run"
    with serving_policy(student) as (url, policy):
        return train(options(student, problem_file, out, url, updates=3, rollout={"ahead": 1})), policy


def test_a_batch_sampled_ahead_is_one_update_old_and_its_tokens_are_weighed(
    straight: tuple[Run, PolicyServer],
) -> None:
    run, policy = straight
    rows = run.metrics()
    assert [row["rollout/age"] for row in rows] == [0, 1, 1]
    assert rows[0]["sampler/gap_max"] < 1e-3 < rows[1]["sampler/gap_max"]
    assert rows[0]["sampler/weight_max"] == pytest.approx(1, abs=1e-3)
    assert all(abs(row["sampler/weight_max"] - 1) > 1e-2 for row in rows[1:])
    assert all(row["sampler/weight_cut"] < 1 for row in rows)
    assert policy.sampled_with == {1, 2}  # the weights of the start, for two batches, and those after update 1


def test_a_checkpoint_does_not_count_the_batch_that_is_being_sampled_and_a_resumed_run_takes_the_same_problems(
    student: Path,
    problem_file: Path,
    tmp_path: Path,
    served: tuple[str, PolicyServer],
    straight: tuple[Run, PolicyServer],
) -> None:
    run, _ = straight
    assert [taken(run, update) for update in (1, 2, 3)] == [2, 4, 6]
    order, expected = ProblemOrder(load_problems(problem_file), seed=0), []
    for _ in range(3):
        batch, order = order.batch(2)
        expected.append(sorted(problem.id for problem in batch))
    assert [problems(run, update) for update in (1, 2, 3)] == expected
    shutil.copytree(run.folder, tmp_path / "resumed")
    for update in (2, 3):  # as if the run had been killed in update 2, with batch 3 under way
        shutil.rmtree(tmp_path / "resumed" / "checkpoints" / f"update-{update:04}")
    resumed = train(
        options(student, problem_file, tmp_path / "resumed", served[0], updates=3, rollout={"ahead": 1}, resume=True)
    )
    assert [problems(resumed, update) for update in (1, 2, 3)] == expected
    assert [row["rollout/age"] for row in resumed.metrics()] == [0, 0, 1]


def test_a_validation_waits_for_the_batch_and_is_sampled_with_the_weights_it_is_about(
    student: Path, problem_file: Path, tmp_path: Path, served: tuple[str, PolicyServer]
) -> None:
    url, policy = served
    validate = {"data": [str(problem_file)], "every": 1, "samples": 1, "limit": 2, "top_p": 1.0}
    run = train(
        options(student, problem_file, tmp_path / "run", url, updates=2, rollout={"ahead": 1}, validate=validate)
    )
    assert [row["rollout/age"] for row in run.metrics()] == [0, 1]
    assert policy.loads == 3  # the start, after update 1, after update 2
    assert policy.sampled_with == {1, 2, 3}


def test_a_stopped_batch_has_ended_when_the_stop_returns() -> None:
    ended: list[str] = []

    class Attempts:
        class options:
            concurrency, group, retries, seconds = 2, 1, 0, 60.0

        async def attempt(self, *_: Any) -> Any:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.01)
                ended.append("freed")

    async def begin() -> Ahead:
        from sod.types import Problem

        ahead = await Ahead.start(
            Attempts(),  # type: ignore[arg-type]
            [Problem(id="a", messages=(), answer="")],
            seed=0,
            update=1,
            weights=0,
        )
        await asyncio.sleep(0.01)
        return ahead

    with Runner() as loop:
        ahead = loop.run(begin())
        assert ahead.is_running
        loop.run(ahead.stop())
        assert not ahead.is_running
        assert ended == ["freed"]
