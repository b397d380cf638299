"""Which judge a problem goes to, and what an attempt is worth."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from confining import CONFINABLE
from judging import REFEREE, Nowhere

from sod.config import RewardOptions
from sod.errors import DataError
from sod.rewards import Verdict
from sod.rewards.choice import USUAL
from sod.rewards.math import MathJudge
from sod.rewards.referee import Referee
from sod.sandbox import Sandbox
from sod.sandbox.local import LocalSandbox
from sod.types import Piece, Problem, Trajectory

SQUARE = '{"inputs": ["2\\n", "3\\n"], "outputs": ["4\\n", "9\\n"]}'


def problem(kind: str, gold: str) -> Problem:
    return Problem(id="p", messages=(), answer=gold, kind=kind)


def attempt(kind: str, gold: str, final: str) -> Trajectory:
    pieces = (Piece("prompt", (1,)), Piece("student", (2, 3)))
    return Trajectory(problem=problem(kind, gold), sample=0, pieces=pieces, stop="answered", final_text=final)


def verdict(
    trajectory: Trajectory, response: Callable[[], str] = str, sandbox: Sandbox | None = None, **options: str
) -> Verdict:
    async def work() -> Verdict:
        used = sandbox or LocalSandbox(workers=1, unsafe=not CONFINABLE)
        try:
            referee = Referee(used, RewardOptions.model_validate(options), max_tokens=100)
            return await referee.judge(trajectory, response)
        finally:
            await used.close()

    return asyncio.run(work())


@pytest.mark.parametrize(
    ("kind", "gold", "right", "wrong"),
    [
        ("math", "025", r"\boxed{25}", r"\boxed{26}"),
        ("choice", "C", r"\boxed{\text{(C)}}", r"\boxed{B}"),
        ("code", SQUARE, "```python\nprint(int(input()) ** 2)\n```", "```python\nprint(int(input()) * 2)\n```"),
    ],
)
def test_every_kind_has_its_judge(kind: str, gold: str, right: str, wrong: str) -> None:
    assert verdict(attempt(kind, gold, right)).outcome == "right"
    assert verdict(attempt(kind, gold, wrong)).outcome == "wrong"


def test_a_sandbox_that_fails_leaves_a_program_ungraded() -> None:
    found = verdict(attempt("code", SQUARE, "```python\nprint(1)\n```"), sandbox=Nowhere())
    assert found.outcome == "ungraded"
    assert "there is no sandbox here" in found.reason


def test_the_reference_reads_the_whole_response_and_ours_the_last_turn() -> None:
    trajectory = attempt("math", "204", "I do not know.")
    response = r"<tool_call> print('so \boxed{204}') </tool_call> I do not know."
    assert verdict(trajectory, lambda: response).outcome == "wrong"
    assert verdict(trajectory, lambda: response, judge="reference").outcome == "right"


def test_the_reference_rejects_right_answers_that_ours_accepts() -> None:
    for final in (r"\boxed{'204'}", r"\boxed{204.}", r"\boxed{204}" + "." * 101):
        trajectory = attempt("math", "204", final)
        assert verdict(trajectory).outcome == "right"
        assert verdict(trajectory, lambda final=final: final, judge="reference").outcome == "wrong"


def test_the_reference_breaks_programs_that_ours_runs() -> None:
    final = '```python\nprint("\\n".join(["4", ""]))\n```'
    trajectory = attempt("code", '{"inputs": [""], "outputs": ["4\\n"]}', final)
    assert verdict(trajectory).outcome == "right"
    assert verdict(trajectory, lambda: final, judge="reference").outcome == "wrong"


@pytest.mark.parametrize(
    ("kind", "gold", "words"),
    [
        ("poetry", "x", "has kind 'poetry', but judges exist only for math, choice, code"),
        ("math", " ", "'p' cannot be judged: The gold answer ' ' is empty"),
        ("choice", "E or F", "'p' cannot be judged"),
        ("code", '{"inputs": [], "outputs": []}', "'p' cannot be judged"),
    ],
)
def test_a_problem_that_nobody_can_judge_is_named(kind: str, gold: str, words: str) -> None:
    with pytest.raises(DataError) as error:
        REFEREE.check([problem("math", "1"), problem(kind, gold)])
    assert words in str(error.value)


def test_a_reward_is_that_of_the_options() -> None:
    trajectory = replace(attempt("math", "1", ""), verdict=Verdict(outcome="wrong", reason="no answer"))
    assert REFEREE.reward(trajectory) == -1
    assert Referee(Nowhere(), RewardOptions(tool_use="reference"), max_tokens=100).reward(trajectory) == -1.1


def test_a_judge_that_fails_leaves_the_attempt_ungraded_and_costs_no_run(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(MathJudge):
        async def __call__(self, text: str, gold: str) -> Verdict:
            raise ZeroDivisionError("division by zero")

    referee = Referee(Nowhere(), RewardOptions(), max_tokens=100)
    referee._judges["math", USUAL] = Failing()
    attempt = Trajectory(Problem(id="p", messages=(), answer="1"), 0, (), "answered", r"\boxed{0^0}")
    verdict = asyncio.run(referee.judge(attempt, str))
    assert verdict == Verdict(outcome="ungraded", reason="the judge failed: ZeroDivisionError")
    assert "The judge of problem 'p' failed" in caplog.text
