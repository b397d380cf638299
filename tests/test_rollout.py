"""Many agents at once: who waits for whom, what is tried again, what is dropped, and that order changes nothing."""

import asyncio
import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from judging import REFEREE, Nowhere

from sod.chat.format import ChatFormat
from sod.config import ModelOptions, RewardOptions, RolloutOptions
from sod.engines import Engine, Reply, Request
from sod.engines.hf import HFEngine
from sod.engines.scripted import ScriptedEngine
from sod.environments.running import Environments
from sod.errors import OutageError, SandboxError
from sod.lab import settings
from sod.model.loading import load_model
from sod.rewards import Verdict
from sod.rewards.referee import Referee
from sod.rollout.agent import Agent
from sod.rollout.groups import TURN_SEEDS, attempt_seed, rollout
from sod.tools import Toolbox
from sod.types import Group, Observation, Problem, Trajectory

CALL = '<tool_call>\n{{"name": "code_interpreter", "arguments": {{"code": "{}"}}}}\n</tool_call>'


def problem(name: str) -> Problem:
    return Problem(id=name, messages=({"role": "user", "content": name},), answer="1")


PROBLEMS = [problem(name) for name in ("BN=12+3;BN?", "CO=40-2;CO?", "DP=77+1;DP?")]


class Interpreter:
    """A stand-in for the code interpreter: answers with whatever `run` says to the code."""

    schema = {  # noqa: RUF012
        "type": "function",
        "function": {
            "name": "code_interpreter",
            "parameters": {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]},
        },
    }

    async def __call__(self, arguments: Mapping[str, Any]) -> Observation:
        return Observation(text=await self.run(arguments["code"]), outcome="ok")

    async def run(self, code: str) -> str:
        return str(len(code))


class Flaky(Interpreter):
    """Fails through no fault of the student's, `failures` times for each program."""

    def __init__(self, failures: int):
        self.left: dict[str, int] = {}
        self.failures = failures

    async def run(self, code: str) -> str:
        self.left[code] = self.left.get(code, self.failures) - 1
        if self.left[code] >= 0:
            raise SandboxError("no process could be started")
        return await super().run(code)


class Slow(Interpreter):
    """Takes for ever."""

    def __init__(self) -> None:
        self.runs = 0

    async def run(self, code: str) -> str:
        self.runs += 1
        await asyncio.Event().wait()
        raise AssertionError


@pytest.fixture
def student(chat: ChatFormat) -> Callable[..., Agent]:
    """An agent that calls the tool once with its problem's text, then answers with 1."""

    def make(tool: Interpreter | None = None, engine: Engine | None = None, **options: Any) -> Agent:
        def script(request: Request) -> Sequence[int]:
            if request.seed % TURN_SEEDS:
                return chat.turn({"content": "\\boxed{1}"})
            question = chat.response(request.ids).split("\n")[1]
            return chat.turn({"content": CALL.format(question)})

        tools = Environments(Toolbox([tool or Interpreter()]))
        return Agent(engine or ScriptedEngine(script), chat, tools, REFEREE, RolloutOptions(**options))

    return make


def run(agent: Agent, problems: Sequence[Problem] = PROBLEMS, **options: Any) -> list[Group]:
    return asyncio.run(rollout(agent, problems, seed=0, update=0, **options))


def test_groups_come_in_the_problems_order_and_attempts_in_the_samples(chat: ChatFormat) -> None:
    rng = random.Random(0)

    class Jittery(ScriptedEngine):
        async def sample(self, request: Request) -> Reply:
            await asyncio.sleep(rng.uniform(0, 0.01))
            return await super().sample(request)

    engine = Jittery(lambda request: chat.turn({"content": "\\boxed{1}"}))
    ended: list[Trajectory | None] = []
    groups = run(
        Agent(engine, chat, Environments(Toolbox([])), REFEREE, RolloutOptions(group=5)), on_trajectory=ended.append
    )
    assert [group.problem for group in groups] == PROBLEMS
    assert all([t.sample for t in group] == [0, 1, 2, 3, 4] for group in groups)
    assert all(t.problem == group.problem for group in groups for t in group)
    assert ended != [t for group in groups for t in group]  # they did not end in that order


def test_no_more_attempts_are_under_way_than_concurrency_allows(chat: ChatFormat) -> None:
    class Counting(ScriptedEngine):
        now = most = 0

        async def sample(self, request: Request) -> Reply:
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0.001)
            self.now -= 1
            return await super().sample(request)

    engine = Counting(lambda request: chat.turn({"content": "\\boxed{1}"}))
    run(Agent(engine, chat, Environments(Toolbox([])), REFEREE, RolloutOptions(group=6, concurrency=4)))
    assert engine.most == 4
    assert len(engine.requests) == 18


def test_a_slow_tool_delays_its_own_trajectory_only(student: Callable[..., Agent]) -> None:
    class Last(Interpreter):
        """The first problem's program ends only when every other trajectory has ended."""

        others = 2

        def __init__(self) -> None:
            self.all_others_have_ended = asyncio.Event()

        async def run(self, code: str) -> str:
            if code == PROBLEMS[0].id:
                await self.all_others_have_ended.wait()
            return await super().run(code)

        def hear(self, trajectory: Trajectory | None) -> None:
            self.others -= 1
            if self.others == 0:
                self.all_others_have_ended.set()

    tool = Last()
    groups = run(student(tool, group=1, seconds=10.0), on_trajectory=tool.hear)
    assert [len(group) for group in groups] == [1, 1, 1]


def test_a_group_goes_on_as_soon_as_it_is_whole_while_others_are_under_way(student: Callable[..., Agent]) -> None:
    class AfterTheOthers(Interpreter):
        """The first problem's programs end only when both other groups have been handed on."""

        def __init__(self) -> None:
            self.others_went_on = asyncio.Event()

        async def run(self, code: str) -> str:
            if code == PROBLEMS[0].id:
                await self.others_went_on.wait()
            return await super().run(code)

    tool = AfterTheOthers()
    seen: list[tuple[str, list[int]]] = []

    async def hand_on(group: Group) -> None:
        seen.append((group.problem.id, [t.sample for t in group]))
        if len(seen) == 2:
            tool.others_went_on.set()

    groups = run(student(tool, group=3, seconds=10.0), on_group=hand_on)
    assert sorted(seen[:2]) == sorted((p.id, [0, 1, 2]) for p in PROBLEMS[1:])
    assert seen[2] == (PROBLEMS[0].id, [0, 1, 2])
    assert [len(group) for group in groups] == [3, 3, 3]


def test_no_attempt_waits_for_a_group_that_takes_its_time_but_the_end_does(student: Callable[..., Agent]) -> None:
    ended: list[Trajectory | None] = []
    all_have_ended = asyncio.Event()
    handed_on = 0

    def hear(trajectory: Trajectory | None) -> None:
        ended.append(trajectory)
        if len(ended) == 6:
            all_have_ended.set()

    async def hand_on(group: Group) -> None:
        nonlocal handed_on
        await all_have_ended.wait()  # would wait for ever, if an attempt waited for this
        handed_on += 1

    run(student(group=2, concurrency=1, seconds=10.0), on_trajectory=hear, on_group=hand_on)
    assert handed_on == 3


def test_what_has_not_ended_by_the_updates_deadline_is_dropped_and_the_rest_kept(
    student: Callable[..., Agent], capsys: pytest.CaptureFixture[str]
) -> None:
    class SlowOnce(Slow):
        async def run(self, code: str) -> str:
            return await super().run(code) if code == PROBLEMS[1].id else "1"

    tool = SlowOnce()
    agent = student(tool, group=2, update_seconds=0.5)
    whole: list[Group] = []

    async def hand_on(group: Group) -> None:
        whole.append(group)

    groups = run(agent, on_group=hand_on)
    assert [(len(group), group.dropped) for group in groups] == [(2, 0), (0, 2), (2, 0)]
    assert sorted(group.dropped for group in whole) == [0, 0, 2]
    assert tool.runs == 2  # not tried again
    assert "not ended within rollout.update_seconds = 0.5 s" in capsys.readouterr().out
    assert isinstance(agent.engine, ScriptedEngine)
    assert len(agent.engine.released) == 6


def test_attempts_that_never_had_their_turn_by_the_updates_deadline_are_dropped_too(
    student: Callable[..., Agent],
) -> None:
    tool = Slow()
    groups = run(student(tool, group=2, concurrency=1, update_seconds=0.3))
    assert [(len(group), group.dropped) for group in groups] == [(0, 2)] * 3
    assert tool.runs == 1


def test_our_own_failures_are_tried_again_with_the_same_seeds(student: Callable[..., Agent]) -> None:
    agent, healthy = student(Flaky(failures=1), group=1), student(group=1)
    assert pieces(run(agent)) == pieces(run(healthy))
    assert isinstance(agent.engine, ScriptedEngine)
    seeds = [request.seed for request in agent.engine.requests]
    assert sorted(set(seeds)) == sorted(request.seed for request in healthy.engine.requests)  # type: ignore[attr-defined]
    assert len(seeds) == len(set(seeds)) + len(PROBLEMS)  # each first turn was written twice


def test_what_fails_again_and_again_is_dropped_and_counted_and_never_in_a_group(student: Callable[..., Agent]) -> None:
    class Picky(Flaky):
        async def run(self, code: str) -> str:
            return await super().run(code) if code == PROBLEMS[1].id else "1"

    ended: list[Trajectory | None] = []
    groups = run(student(Picky(failures=99), group=2, retries=1), on_trajectory=ended.append)
    assert [len(group) for group in groups] == [2, 0, 2]
    assert [group.dropped for group in groups] == [0, 2, 0]
    assert ended.count(None) == 2


def test_retries_say_how_often_it_is_tried_again(student: Callable[..., Agent]) -> None:
    once, twice = Flaky(failures=1), Flaky(failures=2)
    assert [len(group) for group in run(student(once, group=1, retries=0))] == [0, 0, 0]
    assert [len(group) for group in run(student(twice, group=1, retries=1))] == [0, 0, 0]
    assert set(twice.left.values()) == {0}


def test_an_attempt_that_outlives_its_deadline_is_dropped_at_once(student: Callable[..., Agent]) -> None:
    tool = Slow()
    agent = student(tool, group=2, seconds=0.3, retries=2)
    groups = run(agent)
    assert [(len(group), group.dropped) for group in groups] == [(0, 2)] * 3
    assert tool.runs == 6  # not tried again
    assert isinstance(agent.engine, ScriptedEngine)
    assert len(agent.engine.released) == 6


def test_what_no_judge_can_decide_is_neither_in_a_group_nor_lost(student: Callable[..., Agent]) -> None:
    undecided = Verdict(outcome="ungraded", answer="1", reason="the judge gave up")

    class Unsure(Referee):
        async def judge(self, trajectory: Trajectory, response: Callable[[], str]) -> Verdict:
            if trajectory.problem == PROBLEMS[1]:
                return undecided
            return await super().judge(trajectory, response)

    agent = replace(student(group=2), referee=Unsure(Nowhere(), RewardOptions(), max_tokens=99))
    ended: list[Trajectory | None] = []
    groups = run(agent, on_trajectory=ended.append)
    assert [(len(group), len(group.ungraded), group.dropped) for group in groups] == [(2, 0, 0), (0, 2, 0), (2, 0, 0)]
    assert [t.verdict for t in groups[1].ungraded] == [undecided] * 2
    assert len(ended) == 6
    assert None not in ended


def test_a_reward_of_the_users_own_reads_the_attempt_and_one_that_fails_drops_it(
    student: Callable[..., Agent], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "def told(attempt):\n"
        "    roles = [message['role'] for message in attempt.messages]\n"
        "    assert roles == ['user', 'assistant', 'tool', 'assistant'], roles\n"
        "    assert '<tool_call>' in attempt.messages[1]['content']\n"
        f"    return float('nan') if attempt.problem.id == {PROBLEMS[1].id!r} else 0.5\n"
    )
    options = RewardOptions(own=(f"{tmp_path}/mine.py:told",), tool_use="off", overlong=0, weights=("told=0.1",))
    agent = replace(student(group=2, retries=1), referee=Referee(Nowhere(), options, max_tokens=99))
    groups = run(agent)
    assert [(len(group), group.dropped) for group in groups] == [(2, 0), (0, 2), (2, 0)]
    for attempt in (attempt for group in groups for attempt in group):
        verdict = 1.0 if attempt.judged.is_right else -1.0
        assert attempt.rewards == {"verdict": verdict, "told": 0.5}
        assert attempt.reward == pytest.approx(verdict + 0.05)
    assert isinstance(agent.engine, ScriptedEngine)
    assert len(agent.engine.requests) == 2 * 2 * 2 + 2 * 2 * 2  # what failed was tried again once


def test_an_outage_ends_the_rollout_at_once(student: Callable[..., Agent]) -> None:
    class Down(Interpreter):
        runs = 0

        async def run(self, code: str) -> str:
            self.runs += 1
            raise OutageError("the sandbox is down")

    tool = Down()
    with pytest.raises(OutageError):
        run(student(tool, group=2, concurrency=1, retries=5))
    assert tool.runs == 1


def test_the_user_is_told_once_why_attempts_are_dropped(
    student: Callable[..., Agent], capsys: pytest.CaptureFixture[str]
) -> None:
    run(student(Flaky(failures=9), group=2, retries=0), PROBLEMS)
    run(student(Slow(), group=1, seconds=0.05), PROBLEMS[:1])
    name = repr(PROBLEMS[0].id)
    dropped = f"attempt 0 at problem {name} was dropped; further drops for the same reason are only counted"
    assert capsys.readouterr().out.splitlines() == [
        f"{dropped}: no process could be started",
        f"{dropped}: longer than 0.05 s",
    ]


def test_a_time_out_of_our_own_machinery_is_no_deadline(student: Callable[..., Agent]) -> None:
    class Unreachable(Flaky):
        async def run(self, code: str) -> str:
            try:
                return await super().run(code)
            except SandboxError as error:
                raise TimeoutError("the sandbox's server did not answer") from error

    assert [len(group) for group in run(student(Unreachable(failures=1), group=1))] == [1, 1, 1]


def test_a_mistake_in_our_own_code_is_not_hidden(student: Callable[..., Agent]) -> None:
    class Wrong(Interpreter):
        async def run(self, code: str) -> str:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(student(Wrong(), group=1))


# Seeds


def test_every_attempt_has_a_seed_of_its_own_with_room_for_its_turns() -> None:
    keys = list(itertools.product(range(3), range(20), ["a", "b", "1", "a/1", "a/1/0"], range(20)))
    seeds = {attempt_seed(*key) for key in keys}
    assert len(seeds) == len(keys)
    assert all(seed % TURN_SEEDS == 0 and 0 <= seed < 1 << 63 for seed in seeds)
    assert TURN_SEEDS == 1 << 16


def test_an_attempts_seed_never_changes() -> None:
    assert attempt_seed(0, 0, "p0", 0) == 0x6943A424AF160000
    assert attempt_seed(1, 23, "problem", 4) == 0x53A5575CA6C50000


def test_the_rollout_asks_with_these_seeds(student: Callable[..., Agent]) -> None:
    agent = student(group=2)
    asyncio.run(rollout(agent, PROBLEMS, seed=5, update=9))
    assert isinstance(agent.engine, ScriptedEngine)
    asked = {request.trajectory for request in agent.engine.requests}
    assert asked == {attempt_seed(5, 9, p.id, sample) for p in PROBLEMS for sample in range(2)}


# Order changes nothing


def pieces(groups: Sequence[Group]) -> list[list[tuple[str, tuple[int, ...]]]]:
    return [[(piece.author, piece.tokens) for piece in t.pieces] for group in groups for t in group]


def test_concurrency_changes_no_trajectory_of_a_scripted_engine(chat: ChatFormat) -> None:
    def script(request: Request) -> list[int]:
        rng = random.Random(request.seed)
        return chat.turn({"content": CALL.format(rng.random()) if rng.random() < 0.7 else "\\boxed{1}"})

    def groups(concurrency: int) -> list[Group]:
        tools = Environments(Toolbox([Interpreter()]))
        options = RolloutOptions(group=8, concurrency=concurrency)
        return run(Agent(ScriptedEngine(script), chat, tools, REFEREE, options))

    one, many = groups(1), groups(64)
    assert pieces(one) == pieces(many)
    assert [t.stop for group in one for t in group] == [t.stop for group in many for t in group]


def test_concurrency_changes_no_trajectory_of_a_model(chat: ChatFormat, teacher: Path) -> None:
    model = load_model(teacher, ModelOptions(device="cpu"))

    def groups(concurrency: int) -> list[Group]:
        engine = HFEngine(model, slots=concurrency)
        options = settings.ROLLOUT | {"group": 2, "max_tokens": 100, "concurrency": concurrency}
        return run(
            Agent(engine, chat, Environments(Toolbox([Interpreter()])), REFEREE, RolloutOptions.model_validate(options))
        )

    one, many = groups(1), groups(64)
    assert pieces(one) == pieces(many)
    assert max(len(t.turns) for group in one for t in group) > 1
    for a, b in zip(*[[t for group in each for t in group] for each in (one, many)], strict=True):
        for turn, other in zip(a.turns, b.turns, strict=True):
            assert turn.logprobs == pytest.approx(other.logprobs, abs=1e-4)
