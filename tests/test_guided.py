"""Turns of the teacher in the student's trajectories: context, never trained on; fewer from update to update."""

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import own_environments
import pytest
import torch
from judging import REFEREE
from safetensors.torch import load_file
from test_teachers_server import CPU, Serving, in_the_background
from timings import TIMINGS

from sod.batching import collate
from sod.chat.format import ChatFormat
from sod.cli import run as sod
from sod.config import GuidedOptions, RewardOptions, RolloutOptions, ToolOptions, TrainOptions
from sod.engines import Request
from sod.engines.scripted import ScriptedEngine
from sod.environments.running import Environments
from sod.environments.worlds import Household
from sod.lab import settings
from sod.model.loading import load_model, load_tokenizer
from sod.rewards.shaping import reward
from sod.rollout.agent import Agent
from sod.rollout.guide import TEACHER_SEEDS, Guide
from sod.runs.directory import Run
from sod.runs.metrics import of_rollout
from sod.runs.records import from_record, to_record
from sod.tools import Toolbox
from sod.training.on_policy import train
from sod.types import Group, Piece, Problem, Trajectory, Verdict

FILE = Path(own_environments.__file__)
SEED = 5 << 16
PROBLEM = Problem(id="p", messages=({"role": "user", "content": "Reach 10."},), answer="10", setting={"secret": 42})


def add(number: object) -> str:
    return f'<tool_call>\n{{"name": "add", "arguments": {{"number": {number}}}}}\n</tool_call>'


def turns_of(chat: ChatFormat, *turns: str, first: int = SEED) -> ScriptedEngine:
    """Return an engine whose k-th turn of the attempt is the k-th text."""
    return ScriptedEngine(lambda request: chat.turn({"content": turns[request.seed - first]}))


def attempt(
    chat: ChatFormat, name: str, student: ScriptedEngine, teacher: ScriptedEngine | None, **limits: Any
) -> Trajectory:
    agent = Agent(
        student,
        chat,
        Environments(Toolbox([]), f"{FILE}:{name}", ToolOptions()),
        REFEREE,
        RolloutOptions(**limits),
        guide=None if teacher is None else Guide(teacher, probability=1.0),
    )
    return asyncio.run(agent.attempt(PROBLEM, 0, SEED, 1))


def authors(trajectory: Trajectory) -> str:
    return " ".join(piece.author for piece in trajectory.pieces)


# Who writes


def test_the_teacher_writes_turns_that_are_context(chat: ChatFormat) -> None:
    student = turns_of(chat, add(1), "-", add(7))
    teacher = turns_of(chat, "-", add(2), first=SEED + TEACHER_SEEDS)
    limits = {"max_turns": 2}  # the last turn that it allows is the student's
    trajectory = attempt(chat, "Counter", student, teacher, **limits)
    assert authors(trajectory) == "prompt student tool teacher tool student"
    assert trajectory.stop == "max_turns"
    assert [request.seed for request in teacher.requests] == [SEED + TEACHER_SEEDS + 1]
    assert list(student.requests[1].ids) == trajectory.ids[: -len(trajectory.pieces[-1].tokens)]
    assert (student.released, teacher.released) == ([SEED], [SEED])
    guided = trajectory.pieces[3]
    assert guided.logprobs == ()
    start = sum(len(piece.tokens) for piece in trajectory.pieces[:3])
    assert not any(trajectory.mask[start : start + len(guided.tokens)])
    assert (trajectory.guided, len(trajectory.turns)) == (1, 2)
    batch = collate([Group(PROBLEM, [trajectory])])
    assert set(batch.steps_BT[0].tolist()) == {0, 1, 2}
    assert batch.steps_BT[0][batch.mask_BT[0]].unique().tolist() == [1, 2]


def test_the_answer_is_the_students_own(chat: ChatFormat) -> None:
    student = turns_of(chat, add(1), add(9))
    for answer in ("I say 10.", "x" * 400):  # a turn without a call, and one that is cut
        teacher = turns_of(chat, "-", answer, first=SEED + TEACHER_SEEDS)
        trajectory = attempt(chat, "Counter", student, teacher, max_turn_tokens=200)
        assert authors(trajectory) == "prompt student tool student"
        assert trajectory.judged.is_right


def test_a_turn_of_the_teacher_may_end_an_attempt_in_which_every_turn_is_text(chat: ChatFormat) -> None:
    trajectory = attempt(chat, "Guess", turns_of(chat, "7"), turns_of(chat, "-", "42", first=SEED + TEACHER_SEEDS))
    assert authors(trajectory) == "prompt student user teacher"
    assert trajectory.judged.is_right
    assert trajectory.turn_rewards == (0.0,)  # of the student's turn; the teacher's has 1


def test_the_seed_decides_who_writes_and_never_what_the_student_writes(chat: ChatFormat) -> None:
    def request(seed: int) -> Request:
        return Request(ids=[1], max_tokens=4, stops=(), seed=seed)

    async def writers(probability: float) -> list[bool]:
        guide = Guide(ScriptedEngine(lambda _: [1]), probability)
        return [await guide.write(request(seed)) is not None for seed in range(2000)]

    drawn = asyncio.run(writers(0.3))
    assert drawn == asyncio.run(writers(0.3))
    assert 0.25 < sum(drawn) / len(drawn) < 0.35
    more = asyncio.run(writers(0.6))
    assert all(after for before, after in zip(drawn, more, strict=True) if before)
    assert not any(asyncio.run(writers(0.0)))
    assert all(asyncio.run(writers(1.0)))


def test_the_probability_falls_to_zero() -> None:
    guided = GuidedOptions(probability=0.8, until=0.5)
    assert [guided.at(update / 8) for update in range(8)] == pytest.approx([0.8, 0.6, 0.4, 0.2, 0, 0, 0, 0])
    assert GuidedOptions().at(0) == 0


# What reads such a trajectory


def guided_trajectory(sample: int = 0, *, right: bool = False) -> Trajectory:
    """The student errs, then the teacher errs; the student's last call works."""
    pieces = (
        Piece("prompt", (1, 2)),
        Piece("student", (3, 4), (-0.1, -0.2)),
        Piece("tool", (5,), outcomes=("ok",)),
        Piece("teacher", (6, 4)),
        Piece("tool", (7, 8), outcomes=("error", "error")),
        Piece("student", (9, 4), (-0.3, -0.4)),
        Piece("tool", (5,), outcomes=("malformed",)),
        Piece("student", (10, 4), (-0.5, -0.6)),
    )
    verdict = Verdict(outcome="right" if right else "wrong")
    return Trajectory(PROBLEM, sample, pieces, "answered", "x", verdict=verdict)


def test_errors_and_calls_of_the_teacher_are_not_the_students() -> None:
    trajectory = guided_trajectory()
    assert dict(trajectory.outcomes) == {"ok": 1, "malformed": 1}
    assert trajectory.tool_errors == 1
    assert reward(trajectory, RewardOptions(), max_tokens=1000) == pytest.approx(-0.9)  # one turn with a call that ran
    assert trajectory.sampler_logprobs[5:7] == [0.0, 0.0]


def test_steps_failures_and_what_was_read_before_them_belong_together() -> None:
    alone = Trajectory(PROBLEM, 1, (Piece("prompt", (1, 2)), Piece("student", (3, 4))), "answered", "x")
    batch = collate([Group(PROBLEM, [guided_trajectory(), alone])])
    assert batch.failed_BK.tolist() == [[False, True, False], [False, False, False]]
    first, second, third = batch.anchors_BK[0].tolist()
    assert (first, second, third) == (0, hash((7, 8)), hash((5,)))  # the second step follows the answer to the teacher


def test_metrics_count_the_teachers_turns_and_what_is_solved_without_them() -> None:
    alone = Trajectory(
        PROBLEM,
        1,
        (Piece("prompt", (1, 2)), Piece("student", (3, 4))),
        "answered",
        "x",
        verdict=Verdict(outcome="wrong"),
    )
    found = of_rollout([Group(PROBLEM, [guided_trajectory(right=True), alone])])
    assert found["guided/turns"] == 0.5
    assert found["guided/trajectories"] == 0.5
    assert found["guided/solved_alone"] == 0
    assert found["rollout/solved"] == 0.5
    assert found["rollout/turns"] == 2
    assert found["rollout/tokens_sampled"] == 8
    assert not any(name.startswith("guided/") for name in of_rollout([Group(PROBLEM, [alone])]))


def test_a_row_holds_the_author_and_reads_back() -> None:
    trajectory = guided_trajectory()
    row = json.loads(json.dumps(to_record(trajectory, str)))
    assert row["pieces"][3]["author"] == "teacher"
    assert from_record(row, PROBLEM, lambda _: "x").pieces == trajectory.pieces


# Whole runs

UPDATE = {
    "rollout": settings.ROLLOUT
    | {"problems": 4, "group": 2, "max_turns": 6, "max_prompt_tokens": 400}
    | {"max_tokens": 600, "max_turn_tokens": 40},
    "learn": {"lr": 1e-3, "minibatches": 2},
    "reward": settings.REWARD,
    "tool": settings.TOOL,
    "sandbox": {"workers": 2},
    "network": {"device": "cpu"},
    "save_every": 1,
    "keep": 9,
    "updates": 4,
}
RunOf = Callable[..., Run]


@pytest.fixture(scope="module")
def household(jsonl: Callable[..., Path]) -> Path:
    """Problems of a world with a state, in which every turn is text."""
    problems = [Household.problem(1, number) for number in range(4)]
    return jsonl(
        [
            {
                "id": each.id,
                "prompt": list(each.messages),
                "answer": each.answer,
                "kind": each.kind,
                "environment": each.environment,
                "setting": dict(each.setting),
            }
            for each in problems
        ]
    )


@pytest.fixture(scope="module")
def run_of(
    teacher: Path,
    trembling: Callable[[Path, float], None],
    problem_file: Path,
    household: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> RunOf:
    student = tmp_path_factory.mktemp("student")
    trembling(student, 0.1)

    def run_of(data: str, rollout: dict[str, Any], **other: Any) -> Run:
        files = {"tools": problem_file, "household": household}
        given = {"student": student, "teacher": teacher, "data": files[data]}
        given |= {"out": tmp_path_factory.mktemp("guided") / "run"} | other
        merged = UPDATE | given | {"rollout": UPDATE["rollout"] | rollout}
        return train(TrainOptions.model_validate(merged))

    return run_of


@pytest.fixture(scope="module", params=["tools", "household"])
def guided(request: pytest.FixtureRequest, run_of: RunOf) -> tuple[str, Run]:
    """A run whose first two updates have turns of the teacher."""
    return request.param, run_of(request.param, {"guided": {"probability": 1.0}})


def rows_of(run: Run, update: int) -> list[dict[str, Any]]:
    text = (run.folder / "trajectories" / f"update-{update:04}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def weights_of(run: Run) -> dict[str, torch.Tensor]:
    checkpoint = run.newest_checkpoint()
    assert checkpoint is not None
    return load_file(checkpoint[1] / "model.safetensors")


def same(ours: Run, theirs: Run) -> bool:
    """Whether two runs have the same metrics, without timings, and the same weights."""

    def known(run: Run) -> list[dict[str, float]]:
        return [{k: v for k, v in row.items() if not k.startswith((*TIMINGS, "sampler/"))} for row in run.metrics()]

    ends = weights_of(ours), weights_of(theirs)
    return known(ours) == known(theirs) and all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_run_learns_from_the_students_turns_alone(guided: tuple[str, Run]) -> None:
    _, run = guided
    rows = run.metrics()
    assert [row["guided/probability"] for row in rows] == [1.0, 0.5, 0.0, 0.0]
    turns = [row["guided/turns"] for row in rows]
    assert turns[0] > turns[1] > 0 == turns[2] == turns[3]
    assert max(row["sampler/gap_max"] for row in rows) < 1e-3  # the student's cache has read the teacher's turns
    trajectories = rows_of(run, 1)
    authors = [[piece["author"] for piece in row["pieces"]] for row in trajectories]
    assert all(each[1] == "student" for each in authors)
    count = sum(each.count("teacher") for each in authors)
    assert count / len(authors) == pytest.approx(turns[0])
    for row in trajectories:
        assert len(row["steps"]) == sum(piece["author"] == "student" for piece in row["pieces"])
        assert all("signal" not in piece for piece in row["pieces"] if piece["author"] != "student")
    assert rows[0]["rollout/tokens_sampled"] == sum(
        len(piece["tokens"]) for row in trajectories for piece in row["pieces"] if piece["author"] == "student"
    )


def test_a_teacher_on_a_server_writes_turns(guided: tuple[str, Run], run_of: RunOf, teacher: Path) -> None:
    data, run = guided
    server = Serving(load_model(teacher, CPU), load_tokenizer(teacher))
    server.models[0]["max_model_len"] = 1024
    with in_the_background(server) as url:
        served = run_of(data, {"guided": {"probability": 1.0}}, score={"teacher_url": url})
    rows, here = rows_of(served, 1), rows_of(run, 1)
    firsts = [[row["pieces"][1]["tokens"] for row in each] for each in (rows, here)]
    assert firsts[0] == firsts[1], "the student's first turns do not depend on the teacher"
    turns = sum(piece["author"] == "teacher" for row in rows for piece in row["pieces"])
    assert served.metrics()[0]["guided/turns"] * len(rows) == turns > 0
    assert server.written >= turns
    assert max(row["sampler/gap_max"] for row in served.metrics()) < 1e-3


def test_a_run_continues_where_it_was_killed(guided: tuple[str, Run], run_of: RunOf, tmp_path: Path) -> None:
    name, run = guided
    shutil.copytree(run.folder, tmp_path / "run")
    for update in (2, 3, 4):  # as if killed in update 2, while the teacher still writes turns
        shutil.rmtree(tmp_path / "run" / "checkpoints" / f"update-{update:04}")
    again = run_of(name, {"guided": {"probability": 1.0}}, out=tmp_path / "run", resume=True)
    assert same(run, again)


def test_without_it_a_run_is_the_same_bit_for_bit(run_of: RunOf) -> None:
    """A probability so small that the teacher never writes leaves the samples and the weights as they are."""
    plain, idle = run_of("tools", {}, updates=2), run_of("tools", {"guided": {"probability": 1e-12}}, updates=2)
    assert not any(name.startswith("guided/") for row in plain.metrics() for name in row)
    ends = weights_of(plain), weights_of(idle)
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_the_report_shows_the_teachers_turns(guided: tuple[str, Run], tmp_path: Path) -> None:
    _, run = guided
    assert sod(["report", str(run.folder), "--out", str(tmp_path / "page.html")]) == 0
    assert "turns per trajectory" in (tmp_path / "page.html").read_text()
