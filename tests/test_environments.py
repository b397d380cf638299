"""Environments of the user's own: what the student reads, whose fault an error is, and that nothing is left open."""

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import own_environments
import pytest
from judging import REFEREE
from own_environments import Guess

from sod.chat.format import ChatFormat
from sod.config import EvalOptions, RolloutOptions, ToolOptions, TrainOptions
from sod.datasets.rows import load_problems
from sod.engines.scripted import ScriptedEngine
from sod.environments import Opening, Step
from sod.environments.choosing import DEFAULT, ENVIRONMENTS, environment_maker
from sod.environments.games import WorldSetting, read_setting
from sod.environments.guarding import GuardedEnvironment
from sod.environments.gymnasium import GymnasiumSetting
from sod.environments.openenv import OpenEnvSetting
from sod.environments.running import Environments
from sod.environments.verifiers import VerifiersSetting
from sod.errors import DataError, InfrastructureError, OptionError, SandboxError
from sod.evaluation.demonstrations import written_demonstration
from sod.processes.concurrency import Runner
from sod.rollout.agent import Agent
from sod.rollout.groups import beginning_seed, rollout
from sod.rollout.harness import Harness
from sod.runs.records import from_record, to_record
from sod.tools import Toolbox
from sod.types import Group, Piece, Problem, Trajectory

FILE = Path(own_environments.__file__)
SEED = 5 << 16
PROBLEM = Problem(id="p", messages=({"role": "user", "content": "Reach 10."},), answer="10", setting={"secret": 42})


def surroundings(name: str, **options: Any) -> Environments:
    return Environments(Toolbox([]), f"{FILE}:{name}", ToolOptions(**options))


def add(number: object) -> str:
    return f'<tool_call>\n{{"name": "add", "arguments": {{"number": {number}}}}}\n</tool_call>'


Attempt = Callable[..., Trajectory]


@pytest.fixture
def attempt(chat: ChatFormat) -> Attempt:
    """Let a student write the given turns in an environment."""

    def attempt(
        name: str, *turns: str, prefix: tuple[Piece, ...] = (), seconds: float = 60, **limits: Any
    ) -> Trajectory:
        engine = ScriptedEngine(lambda request: chat.turn({"content": turns[request.seed - SEED]}))
        options = RolloutOptions(**limits)
        agent = Agent(engine, chat, surroundings(name, seconds=seconds), REFEREE, options)
        return asyncio.run(agent.attempt(PROBLEM, 0, SEED, 1, prefix))

    return attempt


def authors(trajectory: Trajectory) -> list[str]:
    return [piece.author for piece in trajectory.pieces]


# What happens in an attempt


def test_turns_of_text_are_answered_by_user_messages_until_the_environment_ends(
    attempt: Attempt, chat: ChatFormat
) -> None:
    trajectory = attempt("Guess", "10", "what?", "42")
    assert authors(trajectory) == ["prompt", "student", "user", "student", "user", "student"]
    assert [chat.replied(piece.tokens) for piece in trajectory.observations] == ["Higher.", "Reply with a number."]
    assert trajectory.outcomes == {"ok": 1, "error": 1}
    assert trajectory.stop == "answered"
    assert trajectory.judged.is_right
    assert trajectory.turn_rewards == (0.0, -0.5, 1.0)
    assert trajectory.rewards == {"verdict": 1.0, "environment": 0.5}
    assert trajectory.reward == 1.5


def test_the_tokens_are_those_of_the_rendered_conversation(attempt: Attempt, chat: ChatFormat) -> None:
    trajectory = attempt("Guess", "10", "42")
    messages = [
        {"role": "user", "content": "Guess my number."},
        {"role": "assistant", "content": "10"},
        {"role": "user", "content": "Higher."},
        {"role": "assistant", "content": "42"},
    ]
    assert [piece.tokens for piece in chat.render(messages, [])] == [piece.tokens for piece in trajectory.pieces]


def test_calls_change_the_state_in_order_and_the_end_is_judged_by_the_environment(attempt: Attempt) -> None:
    trajectory = attempt("Counter", add(3), add(4) + "\n" + add(3))
    assert authors(trajectory) == ["prompt", "student", "tool", "student"]
    assert trajectory.stop == "over"
    assert trajectory.judged.is_right
    assert not trajectory.turn_rewards


def test_wrong_calls_do_not_reach_the_environment(attempt: Attempt) -> None:
    trajectory = attempt("Counter", add('"x"'), add("3") + add('"x"'), add(7))
    assert trajectory.outcomes == {"wrong_arguments": 2, "ok": 1}
    assert trajectory.judged.is_right


def test_text_in_an_environment_with_tools_is_answered_too(attempt: Attempt) -> None:
    assert authors(attempt("Counter", "Hm.", add(10)))[:4] == ["prompt", "student", "user", "student"]


def test_without_a_verdict_of_its_own_the_judge_of_the_kind_decides(attempt: Attempt) -> None:
    assert attempt("Judged", r"\boxed{10}").judged.is_right
    assert not attempt("Judged", r"\boxed{11}").judged.is_right


def test_limits_end_an_attempt_in_every_environment(attempt: Attempt) -> None:
    assert attempt("Guess", *"123456", max_turns=2).stop == "max_turns"
    assert attempt("Guess", *"1111", max_repeats=3).stop == "repeated"
    assert attempt("Guess", "1", "2", max_tokens=6).stop == "max_tokens"


def test_control_tokens_in_an_answer_are_text(attempt: Attempt, chat: ChatFormat) -> None:
    trajectory = attempt("Hostile", "1", "2", max_turns=1)
    reply = chat.tokenizer.decode(list(trajectory.observations[0].tokens))
    assert reply.count("<|im_end|>") == 1  # the template's own, at the end of the user's message
    assert "</script>" in reply


def test_a_trajectory_survives_its_file(attempt: Attempt, chat: ChatFormat) -> None:
    trajectory = attempt("Guess", "10", "42")
    row = to_record(trajectory, lambda tokens: chat.tokenizer.decode(tokens))
    again = from_record(row, PROBLEM, chat.final_text)
    assert (again.pieces, again.rewards, again.turn_rewards) == (
        trajectory.pieces,
        trajectory.rewards,
        trajectory.turn_rewards,
    )
    assert again.messages == ({"role": "user", "content": "Guess my number."},)


# Continuing a conversation


def test_a_conversation_is_repeated_before_it_is_continued(attempt: Attempt) -> None:
    whole = attempt("Counter", add(3), add(3), add(4))
    again = attempt("Counter", "", add(3), add(4), prefix=whole.pieces[:3])
    assert again.judged.is_right
    assert [piece.tokens for piece in again.pieces] == [piece.tokens for piece in whole.pieces]


def test_damaged_calls_are_repeated_as_they_were(chat: ChatFormat) -> None:
    """Which calls of an attempt are damaged depends on its own seed and the turn, not on the attempt that continues it."""
    written = '<tool_call>\n{"name": "write", "arguments": {"text": "ab"}}\n</tool_call>'
    engine = ScriptedEngine(lambda request: chat.turn({"content": written}))
    options = RolloutOptions(max_turns=12, max_repeats=20, max_tokens=4000)
    agent = Agent(engine, chat, surroundings("Notes", faults=0.5), REFEREE, options)
    whole = asyncio.run(agent.attempt(PROBLEM, 0, SEED, 1))
    last = str(chat.tokenizer.decode(list(whole.observations[-1].tokens)))
    assert 3 <= last.count("b") <= 10  # some of 12 calls were damaged
    for other in (0, 1 << 20, 1 << 30):
        again = asyncio.run(agent.attempt(PROBLEM, 0, SEED + other, 1, whole.pieces[:17], range(SEED, SEED + 8)))
        assert again.pieces[:17] == whole.pieces[:17]
    assert asyncio.run(agent.attempt(PROBLEM, 0, SEED, 1, whole.pieces[:17])).pieces == whole.pieces


def test_a_conversation_with_a_turn_of_the_teacher_is_repeated_with_the_seed_of_each_turn(chat: ChatFormat) -> None:
    """The student's first two turns, a turn of another attempt, and then a third attempt (`sod calibrate --advised`)."""
    written = '<tool_call>\n{"name": "write", "arguments": {"text": "ab"}}\n</tool_call>'
    engine = ScriptedEngine(lambda request: chat.turn({"content": written}))
    agent = Agent(engine, chat, surroundings("Notes", faults=0.5), REFEREE, RolloutOptions(max_turns=4, max_repeats=20))
    own = asyncio.run(agent.attempt(PROBLEM, 0, SEED, 1))
    for number in range(1, 9):
        other = SEED + (number << 20)
        theirs = asyncio.run(agent.attempt(PROBLEM, 0, other, 1, own.pieces[:5], range(SEED, SEED + 2)))
        advised = (*own.pieces[:5], replace(theirs.pieces[5], author="teacher", logprobs=()), theirs.pieces[6])
        seeds = (SEED, SEED + 1, other + 2)
        ended = asyncio.run(agent.attempt(PROBLEM, 0, other + (1 << 40), 1, advised, seeds))
        assert ended.pieces[:7] == advised
        assert (ended.guided, len(ended.turns)) == (1, 4)


def test_an_environment_that_answers_differently_the_second_time_is_a_failure(attempt: Attempt) -> None:
    whole = attempt("Guess", "10", "42")
    altered = (*whole.pieces[:2], Piece("user", (*whole.pieces[2].tokens[:-1], 5)))
    with pytest.raises(InfrastructureError, match="answers the same turns differently"):
        attempt("Guess", "42", "42", prefix=altered)


# Whose fault it is


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Raising", r"step raised KeyError: 'door' \(.*own_environments.py, line \d+\)"),
        ("WrongSetting", "open raised DataError: its setting has no `task`"),
        ("TooLong", "begins problem 'p' with a prompt of .* tokens, more than rollout.max_prompt_tokens"),
        ("Hanging", r"step did not return within tool.seconds = 0.2 s"),
        ("Sleeping", r"step did not return within tool.seconds = 0.2 s"),
        ("Wordless", "step returned a value of type str; it must return a Step"),
        ("NotANumber", "step returned the reward nan; it must be a finite number or None"),
        ("TwoAnswers", "step returned 2 answers to a turn that needs 1"),
        ("TwoTools", "open returned two tools of the name 'look'"),
        ("Undecided", "verdict returned a value of type str; it must return a Verdict, True, False or None"),
    ],
)
def test_a_mistake_of_the_author_is_an_infrastructure_failure_in_words(
    attempt: Attempt, name: str, message: str
) -> None:
    with pytest.raises(InfrastructureError, match=message):
        attempt(name, "42", "42", seconds=0.2)


def test_an_attempt_that_fails_is_dropped_and_counted_and_its_environment_closed(chat: ChatFormat) -> None:
    maker = environment_maker(f"{FILE}:Raising")
    agent = Agent(
        ScriptedEngine(lambda request: chat.turn({"content": "1"})),
        chat,
        surroundings("Raising"),
        REFEREE,
        RolloutOptions(group=3, retries=1),
    )
    before = maker.opened, maker.closed  # type: ignore[attr-defined]
    [group] = asyncio.run(rollout(agent, [PROBLEM], seed=0, update=0))
    assert (len(group), group.dropped) == (0, 3)
    assert (maker.opened - before[0], maker.closed - before[1]) == (6, 6)  # type: ignore[attr-defined]


def test_a_close_that_fails_loses_no_attempt(attempt: Attempt, caplog: pytest.LogCaptureFixture) -> None:
    assert attempt("LeakingClose", "42").judged.is_right
    assert "close failed" in caplog.text


def test_attempts_of_a_group_begin_alike_and_updates_differ(chat: ChatFormat) -> None:
    agent = Agent(
        ScriptedEngine(lambda request: chat.turn({"content": "50"})),
        chat,
        surroundings("Guess"),
        REFEREE,
        RolloutOptions(group=4, max_turns=1),
    )
    free = Problem(id="free", messages=PROBLEM.messages, answer="")

    def replies(update: int) -> set[Any]:
        groups: list[Group] = asyncio.run(rollout(agent, [free], seed=3, update=update))
        return {tuple(piece.tokens for piece in trajectory.observations) for trajectory in groups[0]}

    assert len({frozenset(replies(update)) for update in range(12)}) == 2
    assert all(len(replies(update)) == 1 for update in range(4))
    assert beginning_seed(3, 0, "free") != beginning_seed(3, 1, "free")


# Files


def test_a_problem_shows_no_file_from_outside_the_folder_of_its_data(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "table.csv").write_text("1")
    (tmp_path / "secret").write_text("key")
    data = tmp_path / "data" / "problems.jsonl"
    row = {"prompt": "Sum it.", "answer": "1"}
    data.write_text(json.dumps(row | {"files": {"table.csv": "table.csv"}}) + "\n")
    [problem] = load_problems(data)
    assert problem.files == {"table.csv": str(tmp_path / "data" / "table.csv")}
    for path in ("../secret", str(tmp_path / "secret")):
        data.write_text(json.dumps(row | {"files": {"table.csv": path}}) + "\n")
        with pytest.raises(DataError, match="outside the folder of the data file"):
            load_problems(data)


# Choosing one


def test_a_wrong_name_names_the_nearest_or_all() -> None:
    with pytest.raises(OptionError, match="there is no environment 'wonderland'; choose tools"):
        environment_maker("wonderland")
    with pytest.raises(OptionError, match=r"has no method step, verdict, close\. Derive it from"):
        environment_maker(f"{FILE}:NoStep")


@pytest.mark.parametrize("options", [TrainOptions, EvalOptions])
def test_every_shipped_environment_is_named_in_the_help(options: type[TrainOptions] | type[EvalOptions]) -> None:
    words = (options.model_fields["environment"].description or "").replace(":", " ").replace(",", " ").split()
    assert {DEFAULT, *ENVIRONMENTS} <= set(words)


def test_an_environment_that_does_not_begin_twice_alike_is_refused(chat: ChatFormat) -> None:
    with (
        pytest.raises(OptionError, match="begins problem 'p' differently with the same seed"),
        asyncio.Runner() as loop,
        surroundings("Forgetful").working_in(loop, [PROBLEM], chat),
    ):
        pass


def test_a_problem_may_have_an_environment_of_its_own(chat: ChatFormat) -> None:
    environments = surroundings("Guess")
    other = Problem(id="q", messages=(), answer="", environment="tools")
    assert environments.name_of(other) == "tools"
    environments.load([other, PROBLEM])


def test_the_beginning_may_be_a_text_or_messages() -> None:
    assert Opening("Hello").conversation == ({"role": "user", "content": "Hello"},)
    assert [each.text for each in Step(["a", "b"]).observations] == ["a", "b"]


def test_counts_of_guesses_are_the_classes_own() -> None:
    assert Guess.opened >= Guess.closed >= 0


# What is recorded


def test_a_plain_attempt_records_no_conversation_and_one_with_files_records_what_the_student_read(
    chat: ChatFormat, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text("1\n")
    engine = ScriptedEngine(lambda request: chat.turn({"content": r"\boxed{10}"}))
    agent = Agent(engine, chat, Environments(Toolbox([])), REFEREE, RolloutOptions())
    assert asyncio.run(agent.attempt(PROBLEM, 0, SEED)).messages == ()
    problem = replace(PROBLEM, files={"t.csv": str(tmp_path / "t.csv")})
    trajectory = asyncio.run(agent.attempt(problem, 0, SEED))
    assert chat.prompt(trajectory.messages, trajectory.tools) == list(trajectory.pieces[0].tokens)
    row = written_demonstration(trajectory, chat, [])
    assert row is not None
    assert "t.csv" in row["messages"][0]["content"]


def test_a_problem_without_answer_and_environment_is_refused(chat: ChatFormat) -> None:
    sandbox: Any = None
    tools = Toolbox([])
    lost = replace(PROBLEM, answer="", kind="environment")
    harness = Harness(sandbox, REFEREE, chat, tools, Environments(tools), [])
    with pytest.raises(DataError, match="no answer and no environment"):
        harness.check([lost], RolloutOptions())
    harness.check([replace(lost, environment=f"{FILE}:Guess")], RolloutOptions())


def test_the_sandbox_is_tried_before_a_run_only_where_a_program_may_run(teacher: Path, tmp_path: Path) -> None:
    down = {"backend": "fusion", "url": "http://127.0.0.1:1", "retries": 0}
    code = replace(PROBLEM, kind="code", answer='["assert f(1) == 1"]')
    world = replace(PROBLEM, environment=f"{FILE}:Guess")

    def begin(problem: Problem, *tools: str) -> None:
        fields = {"model": teacher, "data": tmp_path, "out": tmp_path, "sandbox": down, "tool": {"use": tools}}
        harness = Harness.of(teacher, EvalOptions.model_validate(fields), [problem])
        with Runner() as loop, harness.working_in(loop):
            pass

    begin(PROBLEM)
    begin(world, "code_interpreter")
    for problem, tools in (
        (PROBLEM, ("code_interpreter",)),
        (code, ()),
        (replace(code, environment=f"{FILE}:Guess"), ()),
    ):
        with pytest.raises(SandboxError, match="The sandbox does not work"):
            begin(problem, *tools)


def test_a_weighted_verdict_survives_its_file(attempt: Attempt, chat: ChatFormat) -> None:
    judged = replace(attempt("Judged", r"\boxed{10}"), reward=0.5, rewards={"verdict": 1.0})
    row = to_record(judged, lambda tokens: chat.tokenizer.decode(tokens))
    assert from_record(row, PROBLEM, chat.final_text).rewards == {"verdict": 1.0}


@pytest.mark.parametrize("full_reward", [0, -1.0, float("nan")])
@pytest.mark.parametrize("kind", [OpenEnvSetting, VerifiersSetting])
def test_a_full_reward_that_no_sum_can_reach_is_refused(kind: type[WorldSetting], full_reward: float) -> None:
    problem = Problem(id="p", messages=(), answer="", setting={"full_reward": full_reward})
    with pytest.raises(DataError, match=r"problem .p.: setting\.full_reward: Input should be"):
        read_setting(kind, problem)


@pytest.mark.parametrize(
    ("scale", "reason"),
    [
        ({"lowest": 1.0}, r"highest: .*must be above lowest, 1,"),
        ({"highest": -2.0}, r"highest: .*must be above lowest, 0,"),
        ({"lowest": float("-inf")}, r"lowest: Input should be a finite number"),
    ],
)
def test_a_scale_without_a_score_is_refused(scale: dict[str, float], reason: str) -> None:
    problem = Problem(id="p", messages=(), answer="", setting={"id": "FrozenLake-v1", **scale})
    with pytest.raises(DataError, match=rf"problem .p.: setting\.{reason}"):
        read_setting(GymnasiumSetting, problem)
    assert read_setting(GymnasiumSetting, replace(problem, setting={"id": "FrozenLake-v1"})).highest == 1.0


def test_what_opens_after_its_time_limit_is_closed() -> None:
    class Slow:
        def __init__(self) -> None:
            self.resources: list[str] = []
            self.may_go_on = threading.Event()
            self.closed = threading.Event()

        def open(self, problem: Problem, seed: int) -> Opening:
            self.may_go_on.wait(60)
            self.resources.append("a process")
            return Opening("Go.")

        def close(self) -> None:
            if self.resources:
                self.resources.clear()
                self.closed.set()

    async def attempt(slow: Slow) -> None:
        environment = GuardedEnvironment(cast("Any", slow), "slow", ToolOptions(), seconds=0.05)
        with pytest.raises(InfrastructureError, match=r"open did not return within tool.seconds = 0.05 s"):
            await environment.open(Problem(id="p", messages=(), answer=""), 0)
        await environment.close()
        slow.may_go_on.set()
        assert await asyncio.to_thread(slow.closed.wait, 60)

    slow = Slow()
    asyncio.run(attempt(slow))
    assert not slow.resources
