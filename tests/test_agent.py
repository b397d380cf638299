"""One problem to one trajectory: how it ends, what is remembered of it, and what the student reads on the way."""

import asyncio
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from judging import REFEREE

from sod.chat.format import ChatFormat
from sod.config import RolloutOptions, ToolOptions
from sod.core import step_ids
from sod.engines import Reply, Request
from sod.engines.scripted import ScriptedEngine
from sod.environments.running import Environments
from sod.errors import DataError, SandboxError
from sod.rollout.agent import Agent, check_prompts
from sod.tools import Toolbox
from sod.types import Observation, Piece, Problem, Trajectory

SEED = 7 << 16
PROBLEM = Problem(id="sum", messages=({"role": "user", "content": "1+2?"},), answer="3")
ANSWER = "so \\boxed{3}"


class Adder:
    """add(a, b), and a complaint about numbers above 99."""

    schema = {  # noqa: RUF012
        "type": "function",
        "function": {
            "name": "add",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
                "required": ["a", "b"],
            },
        },
    }

    async def __call__(self, arguments: Mapping[str, Any]) -> Observation:
        if max(arguments.values()) > 99:
            return Observation(text="ValueError: too large", outcome="error")
        return Observation(text=str(sum(arguments.values())), outcome="ok")


class Broken(Adder):
    async def __call__(self, arguments: Mapping[str, Any]) -> Observation:
        raise SandboxError("no process could be started")


class Wordy(Adder):
    async def __call__(self, arguments: Mapping[str, Any]) -> Observation:
        return Observation(text="1234567890" * 10, outcome="ok")


def call(**arguments: Any) -> str:
    return f'<tool_call>\n{{"name": "add", "arguments": {json.dumps(arguments)}}}\n</tool_call>'


Attempt = Callable[..., tuple[Trajectory, ScriptedEngine]]


@pytest.fixture
def attempt(chat: ChatFormat) -> Attempt:
    """Let a student write the given turns. -> the trajectory, and the engine that wrote it"""

    def attempt(*turns: str, tool: Adder | None = None, **limits: Any) -> tuple[Trajectory, ScriptedEngine]:
        engine = ScriptedEngine(lambda request: chat.turn({"content": turns[request.seed - SEED]}))
        agent = Agent(engine, chat, Environments(Toolbox([tool or Adder()])), REFEREE, RolloutOptions(**limits))
        return asyncio.run(agent.attempt(PROBLEM, 0, SEED)), engine

    return attempt


# Why it ends


def test_a_turn_without_a_call_ends_it_as_answered(attempt: Attempt) -> None:
    trajectory, _ = attempt(call(a=1, b=2), ANSWER)
    assert trajectory.stop == "answered"
    assert trajectory.final_text == ANSWER
    assert [piece.author for piece in trajectory.pieces] == ["prompt", "student", "tool", "student"]


def test_one_more_call_than_max_turns_ends_it_and_is_not_run(attempt: Attempt) -> None:
    trajectory, engine = attempt(call(a=1, b=1), call(a=1, b=2), call(a=1, b=3), max_turns=2)
    assert trajectory.stop == "max_turns"
    assert len(trajectory.turns) == len(engine.requests) == 3
    assert trajectory.outcomes == {"ok": 2}
    assert trajectory.pieces[-1].author == "student"


def test_an_answer_may_follow_the_last_call_allowed(attempt: Attempt) -> None:
    trajectory, _ = attempt(call(a=1, b=1), call(a=1, b=2), ANSWER, max_turns=2)
    assert trajectory.stop == "answered"


def test_a_turn_that_does_not_fit_ends_it_as_max_tokens_and_is_kept_as_far_as_it_went(
    attempt: Attempt, chat: ChatFormat
) -> None:
    trajectory, _ = attempt(ANSWER, max_tokens=3)
    assert trajectory.stop == "max_tokens"
    assert trajectory.turns[0].tokens == tuple(chat.turn({"content": ANSWER}))[:3]


def test_a_turn_longer_than_max_turn_tokens_ends_it_as_max_tokens(attempt: Attempt) -> None:
    trajectory, engine = attempt(call(a=1, b=2), "x" * 100, max_turn_tokens=40, max_tokens=1000)
    assert trajectory.stop == "max_tokens"
    assert len(trajectory.turns[-1].tokens) == 40
    assert [request.max_tokens for request in engine.requests] == [40, 40]


def test_an_observation_that_does_not_fit_ends_it_as_max_tokens_and_is_left_out(attempt: Attempt) -> None:
    trajectory, _ = attempt(call(a=1, b=2), ANSWER, tool=Wordy(), max_tokens=80)
    assert trajectory.stop == "max_tokens"
    assert [piece.author for piece in trajectory.pieces] == ["prompt", "student"]


def test_an_observation_that_leaves_no_token_to_write_ends_it_too(attempt: Attempt, chat: ChatFormat) -> None:
    turn, suffix = chat.turn({"content": call(a=1, b=2)}), chat.observation(["3"])
    full = len(turn) + len(suffix)
    trajectory, engine = attempt(call(a=1, b=2), ANSWER, max_tokens=full)
    assert (trajectory.stop, len(trajectory.turns), len(engine.requests)) == ("max_tokens", 1, 1)
    assert len(attempt(call(a=1, b=2), ANSWER, max_tokens=full + 1)[0].turns) == 2


def test_an_answer_of_exactly_the_tokens_left_is_an_answer(attempt: Attempt, chat: ChatFormat) -> None:
    trajectory, _ = attempt(ANSWER, max_tokens=len(chat.turn({"content": ANSWER})))
    assert trajectory.stop == "answered"
    assert trajectory.judged.is_right


def test_the_same_turn_max_repeats_times_in_a_row_ends_it_as_repeated(attempt: Attempt) -> None:
    trajectory, _ = attempt(*[call(a=1, b=2)] * 9, max_repeats=3)
    assert trajectory.stop == "repeated"
    assert len(trajectory.turns) == 3


def test_turns_that_alternate_are_not_repeated(attempt: Attempt) -> None:
    trajectory, _ = attempt(*[call(a=1, b=1), call(a=1, b=2)] * 4, ANSWER, max_repeats=2)
    assert trajectory.stop == "answered"


# What the student reads of its mistakes


@pytest.mark.parametrize(
    ("turn", "outcome", "words"),
    [
        ('<tool_call>\n{"name": "add", "arguments": {"a": 1,}\n</tool_call>', "malformed", "invalid JSON"),
        ('<tool_call>\n{"name": "add"', "malformed", "no </tool_call> at its end"),
        ('<tool_call>\n{"arguments": {"a": 1, "b": 2}}\n</tool_call>', "malformed", '"name" or "arguments" is missing'),
        ('<tool_call>\n{"name": "add", "arguments": "a"}\n</tool_call>', "malformed", '"arguments"'),
        ("<tool_call>\n[1, 2]\n</tool_call>", "malformed", '"name" or "arguments" is missing'),
        (call(a=1, b=2).replace("add", "sub"), "unknown_tool", "There is no tool 'sub'. Available: add."),
        (call(a=1), "wrong_arguments", '"b" is missing'),
        (call(a=1, b=2, c=3), "wrong_arguments", "is unknown; it takes a, b"),
        (call(a=1, b="2"), "wrong_arguments", '"b" must be of type integer'),
        (call(a=1, b=100), "error", "ValueError: too large"),
        (call(a=1, b=2), "ok", "3"),
    ],
)
def test_whatever_a_call_is_it_is_answered_and_counted_by_kind(
    attempt: Attempt, chat: ChatFormat, turn: str, outcome: str, words: str
) -> None:
    trajectory, _ = attempt(turn, ANSWER)
    assert words in chat.text(trajectory.pieces[2].tokens)
    assert trajectory.outcomes == {outcome: 1}
    assert trajectory.tool_errors == (outcome != "ok")
    assert trajectory.stop == "answered"


def test_true_is_no_integer(attempt: Attempt) -> None:
    trajectory, _ = attempt(call(a=True, b=2), ANSWER)
    assert trajectory.outcomes == {"wrong_arguments": 1}


def test_several_calls_of_one_turn_are_answered_in_their_order(attempt: Attempt, chat: ChatFormat) -> None:
    trajectory, _ = attempt("\n".join([call(a=1, b=2), call(a=1), call(a=20, b=30)]), ANSWER)
    observation = chat.text(trajectory.pieces[2].tokens)
    assert trajectory.pieces[2].outcomes == ("ok", "wrong_arguments", "ok")
    assert observation.index("\n3\n") < observation.index('"b" is missing') < observation.index("\n50\n")


def test_the_calls_of_one_turn_run_at_the_same_time(attempt: Attempt) -> None:
    class Meeting(Adder):
        """Nobody goes on before both are there."""

        def __init__(self) -> None:
            self.barrier = asyncio.Barrier(2)

        async def __call__(self, arguments: Mapping[str, Any]) -> Observation:
            async with asyncio.timeout(5):
                await self.barrier.wait()
            return await super().__call__(arguments)

    trajectory, _ = attempt("\n".join([call(a=1, b=2), call(a=2, b=3)]), ANSWER, tool=Meeting())
    assert trajectory.outcomes == {"ok": 2}


# What is remembered


def test_the_mask_is_true_exactly_on_what_was_sampled_the_end_of_turn_included(
    attempt: Attempt, chat: ChatFormat
) -> None:
    turns = [call(a=1, b=2), "oh " + call(a=3, b=4), ANSWER]
    trajectory, _ = attempt(*turns)
    sampled = [token for token, mask in zip(trajectory.ids, trajectory.mask, strict=True) if mask]
    assert sampled == [token for turn in turns for token in chat.turn({"content": turn})]
    assert sampled.count(chat.end_of_turn) == 3


def test_step_ids_number_the_students_turns_from_1(attempt: Attempt) -> None:
    trajectory, _ = attempt(call(a=1, b=2), call(a=3, b=4), ANSWER)
    steps = step_ids(torch.tensor([trajectory.mask]))[0].tolist()
    turn = {i: k for k, i in enumerate([i for i, p in enumerate(trajectory.pieces) if p.author == "student"], 1)}
    assert steps == [turn.get(i, 0) for i, piece in enumerate(trajectory.pieces) for _ in piece.tokens]
    assert max(steps) == 3


def test_every_sampled_token_has_a_log_probability_and_no_other_token_has(attempt: Attempt) -> None:
    trajectory, _ = attempt(call(a=1, b=2), ANSWER)
    for piece in trajectory.pieces:
        assert len(piece.logprobs) == (len(piece.tokens) if piece.author == "student" else 0)


def test_the_next_prompt_is_the_last_one_and_the_reply_and_the_observation(attempt: Attempt, chat: ChatFormat) -> None:
    trajectory, engine = attempt(call(a=1, b=2), call(a=1, b=100), ANSWER)
    prompts = [list(request.ids) for request in engine.requests]
    replies = [list(turn.tokens) for turn in trajectory.turns]
    assert prompts[0] == chat.prompt(PROBLEM.messages, [])
    assert prompts[1] == prompts[0] + replies[0] + chat.observation(["3"])
    assert prompts[2] == prompts[1] + replies[1] + chat.observation(["ValueError: too large"])
    assert trajectory.ids == prompts[2] + replies[2]


def test_a_rollout_has_the_ids_that_fine_tuning_renders(attempt: Attempt, chat: ChatFormat) -> None:
    message = {
        "role": "assistant",
        "content": "well",
        "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1, "b": 2}}}],
    }
    trajectory, _ = attempt("well\n" + call(a=1, b=2), ANSWER)
    pieces = chat.render(
        [*PROBLEM.messages, message, {"role": "tool", "content": "3"}, {"role": "assistant", "content": ANSWER}], []
    )
    assert [(piece.author, piece.tokens) for piece in trajectory.pieces] == [(p.author, p.tokens) for p in pieces]


@pytest.mark.parametrize("seed", range(40))
def test_no_budget_is_ever_exceeded(attempt: Attempt, seed: int) -> None:
    rng = random.Random(seed)
    turns = ["hm " * rng.randrange(20) + call(a=rng.randrange(90), b=rng.randrange(120)) for _ in range(9)] + [ANSWER]
    limits = {"max_tokens": rng.randrange(10, 400), "max_turns": rng.randrange(1, 10)}
    turn_limit = rng.choice([None, 60])
    trajectory, engine = attempt(*turns, max_turn_tokens=turn_limit, tool=rng.choice([Adder, Wordy])(), **limits)
    assert trajectory.response_tokens <= limits["max_tokens"]
    assert sum(len(piece.outcomes) for piece in trajectory.pieces) <= limits["max_turns"]
    assert all(len(turn.tokens) <= (turn_limit or 400) for turn in trajectory.turns)
    spent = 0
    for request in engine.requests:
        assert 1 <= request.max_tokens <= limits["max_tokens"] - spent
        turn = 2 * (request.seed - SEED) + 1
        spent += sum(len(piece.tokens) for piece in trajectory.pieces[turn : turn + 2])


def test_each_turn_has_a_seed_of_its_own_and_all_name_the_same_trajectory(attempt: Attempt) -> None:
    _, engine = attempt(call(a=1, b=2), call(a=2, b=2), ANSWER)
    assert [request.seed for request in engine.requests] == [SEED, SEED + 1, SEED + 2]
    assert {request.trajectory for request in engine.requests} == {SEED}


def test_the_sampling_options_reach_the_engine(attempt: Attempt, chat: ChatFormat) -> None:
    _, engine = attempt(ANSWER, temperature=0.7, top_p=0.9)
    request = engine.requests[0]
    assert (request.temperature, request.top_p, request.stops) == (0.7, 0.9, chat.ends)


# Going on with what another began


@pytest.mark.parametrize("seed", range(20))
def test_from_any_step_on_it_ends_as_if_it_had_never_been_interrupted(chat: ChatFormat, seed: int) -> None:
    rng = random.Random(seed)
    turns = ["hm " * rng.randrange(9) + call(a=rng.randrange(90), b=rng.randrange(120)) for _ in range(6)] + [ANSWER]
    turns = [rng.choice(turns[: i + 1]) for i in range(6)] + [ANSWER]  # some twice
    limits = {"max_tokens": rng.randrange(80, 900), "max_turns": rng.randrange(1, 7), "max_repeats": 2}
    limits |= {"max_turn_tokens": rng.choice([None, 60])}

    def attempt(prefix: tuple[Piece, ...]) -> tuple[Trajectory, list[Request]]:
        engine = ScriptedEngine(lambda request: chat.turn({"content": turns[request.seed - SEED]}))
        agent = Agent(
            engine,
            chat,
            Environments(Toolbox([Adder()]), options=ToolOptions(faults=0.3)),
            REFEREE,
            RolloutOptions.model_validate(limits),
        )
        trajectory = asyncio.run(agent.attempt(PROBLEM, 0, SEED, prefix=prefix))
        assert engine.released == [SEED]
        return replace(trajectory, seconds=0), [replace(request, ids=list(request.ids)) for request in engine.requests]

    whole, requests = attempt(())
    for step in range(1, len(whole.turns) + 1):
        assert attempt(whole.pieces[: 2 * step - 1]) == (whole, requests[step - 1 :])


def test_any_other_end_id_ends_the_trajectory_whatever_the_turn_calls(chat: ChatFormat) -> None:
    """A template goes on behind its own end of turn alone, so a history behind another one is none that it writes."""
    other = 0
    assert other != chat.end_of_turn
    for text, answer in ((ANSWER, "3"), (call(a=1, b=2), None)):
        turn = [*chat.turn({"content": text})[:-1], other]
        engine = ScriptedEngine(lambda request, turn=turn: turn, ends=frozenset({other}))
        agent = Agent(engine, chat, Environments(Toolbox([Adder()])), REFEREE, RolloutOptions())
        trajectory = asyncio.run(agent.attempt(PROBLEM, 0, seed=SEED))
        assert (trajectory.stop, trajectory.judged.answer) == ("answered", answer)
        assert trajectory.ids[-1] == other
        assert trajectory.mask[-1]
        assert len(engine.requests) == 1


# What it is worth


def test_an_answered_trajectory_is_judged_by_its_last_turn(attempt: Attempt) -> None:
    right, _ = attempt(call(a=1, b=2), ANSWER)
    assert (right.judged.outcome, right.reward, right.judged.answer) == ("right", 1.0, "3")
    wrong, _ = attempt("\\boxed{3} " + call(a=1, b=2), "so \\boxed{04}")
    assert (wrong.judged.outcome, wrong.reward, wrong.judged.answer) == ("wrong", -1.0, "4")


@pytest.mark.parametrize(
    ("turn", "limits", "stop"),
    [
        (ANSWER + call(a=1, b=2), {"max_turns": 2}, "max_turns"),
        (ANSWER + call(a=1, b=2), {"max_repeats": 2}, "repeated"),
        (ANSWER + " and so on" * 30, {"max_tokens": 20}, "max_tokens"),
    ],
)
def test_a_right_answer_counts_only_in_an_answered_trajectory(
    attempt: Attempt, chat: ChatFormat, turn: str, limits: dict[str, int], stop: str
) -> None:
    trajectory, _ = attempt(*[turn] * 4, **limits)
    assert ANSWER in chat.text(trajectory.pieces[-1].tokens)
    assert trajectory.stop == stop
    assert (trajectory.judged.outcome, trajectory.reward, trajectory.judged.answer) == ("wrong", -1.0, None)


# What is given back


def test_the_engine_may_forget_the_trajectory_once_it_has_ended(attempt: Attempt) -> None:
    _, engine = attempt(call(a=1, b=2), ANSWER)
    assert engine.released == [SEED]


def test_the_engine_may_forget_the_trajectory_also_after_an_error(chat: ChatFormat) -> None:
    engine = ScriptedEngine(lambda request: chat.turn({"content": call(a=1, b=2)}))
    agent = Agent(engine, chat, Environments(Toolbox([Broken()])), REFEREE, RolloutOptions())
    with pytest.raises(SandboxError):
        asyncio.run(agent.attempt(PROBLEM, 0, SEED))
    assert engine.released == [SEED]


def test_the_engine_may_forget_the_trajectory_also_when_it_is_cancelled(chat: ChatFormat) -> None:
    class Endless(ScriptedEngine):
        async def sample(self, request: Request) -> Reply:
            await asyncio.Event().wait()
            raise AssertionError

    engine = Endless(lambda request: ())

    async def work() -> None:
        agent = Agent(engine, chat, Environments(Toolbox([])), REFEREE, RolloutOptions())
        task = asyncio.create_task(agent.attempt(PROBLEM, 0, SEED))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(work())
    assert engine.released == [SEED]


# Before anything starts


def test_a_prompt_longer_than_the_limit_is_named_before_anything_is_sampled(chat: ChatFormat) -> None:
    long = Problem(id="long", messages=({"role": "user", "content": "1+" * 50},), answer="1")

    def check(*problems: Problem) -> None:
        check_prompts(chat, Toolbox([]), RolloutOptions(max_prompt_tokens=60), problems)

    check(PROBLEM)
    with pytest.raises(DataError, match=r"max_prompt_tokens = 60\. The longest, of problem 'long', has 1\d\d tokens"):
        check(PROBLEM, long, PROBLEM)
