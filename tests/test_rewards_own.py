"""Rewards and a judge of the user's own: what they read, what becomes of what they return, and what is refused."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from judging import Nowhere

from sod.config import RewardOptions
from sod.errors import InfrastructureError, OptionError, OutageError
from sod.report.reading import RunRecord
from sod.report.summary import Table, learning_table
from sod.rewards import Verdict
from sod.rewards.referee import Referee, reward_refusals
from sod.runs import metrics
from sod.types import Group, Message, Piece, Problem, Trajectory

EXAMPLE = f"{Path(__file__).parent.parent}/examples/own_reward.py"
Write = Callable[[str], str]
PROBLEM = Problem(id="p", messages=({"role": "user", "content": "1 + 2?"},), answer="3")
MESSAGES: list[Message] = [
    *PROBLEM.messages,
    {"role": "assistant", "content": "<think>Hm.</think><tool_call>...</tool_call>"},
    {"role": "tool", "name": "code_interpreter", "content": "3"},
    {"role": "assistant", "content": "\\boxed{3}"},
]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a user's file and return its path."""

    def make(text: str) -> str:
        path = tmp_path / "mine.py"
        path.write_text(
            f"import asyncio, math, threading, time\nfrom sod.rewards import Verdict\nfrom sod.errors import *\n{text}"
        )
        return str(path)

    return make


def referee(*own: str, **options: Any) -> Referee:
    chosen = {"own": own, "tool_use": "off", "overlong": 0} | options
    return Referee(Nowhere(), RewardOptions.model_validate(chosen), max_tokens=100)


def attempt(outcome: Literal["right", "wrong", "ungraded"] = "right", **fields: Any) -> Trajectory:
    pieces = (
        Piece("prompt", (1,)),
        Piece("student", (2, 3)),
        Piece("tool", (4,), outcomes=("ok",)),
        Piece("student", (5, 6)),
    )
    verdict = Verdict(outcome=outcome, answer="3")
    made = Trajectory(PROBLEM, sample=0, pieces=pieces, stop="answered", final_text="\\boxed{3}", verdict=verdict)
    return replace(made, **fields)


def rewarded(judge: Referee, trajectory: Trajectory, messages: Sequence[Message] = MESSAGES) -> Trajectory:
    return asyncio.run(judge.rewarded(trajectory, lambda: messages))


def value(write: Write, returns: str, head: str = "def f(attempt):") -> float:
    """The reward that a function gives."""
    found = rewarded(referee(f"{write(f'{head}{chr(10)}    {returns}')}:f"), attempt())
    return found.rewards["f"]


# What a reward is made of


def test_without_rewards_of_ones_own_the_reward_is_that_of_the_verdict_and_no_conversation_is_made() -> None:
    def no_messages() -> list[Message]:
        raise AssertionError("not needed")

    for made, worth in ((attempt("right"), 1.0), (attempt("wrong"), -1.0)):
        found = asyncio.run(referee().rewarded(made, no_messages))
        assert (found.reward, found.rewards) == (worth, {"verdict": worth})


def test_the_rewards_of_the_environments_turns_are_a_part() -> None:
    found = rewarded(referee(), attempt("wrong", turn_rewards=(0.5, 0.0, 0.25)))
    assert (found.reward, found.rewards) == (-0.25, {"verdict": -1.0, "environment": 0.75})


def test_the_reward_is_the_weighted_sum_of_its_parts(write: Write) -> None:
    path = write("def half(attempt): return 0.5\nasync def minus(attempt): return -2\ndef seen(attempt): return 7")
    own = (f"{path}:half", f"{path}:minus", f"{path}:seen")
    weights = ("half=0.2", "verdict=2", "seen=0", "environment = 1e1")
    found = rewarded(referee(*own, weights=weights), attempt(turn_rewards=(0.1,)))
    assert found.rewards == {"verdict": 1.0, "environment": 0.1, "half": 0.5, "minus": -2.0, "seen": 7.0}
    assert found.reward == pytest.approx(2 * 1 + 10 * 0.1 + 0.2 * 0.5 - 2)


def test_the_examples_functions_read_the_attempt() -> None:
    judge = referee(f"{EXAMPLE}:brevity", f"{EXAMPLE}:shows_work", weights=("brevity=0.2",))
    found = rewarded(judge, attempt())
    assert found.rewards == {"verdict": 1.0, "brevity": 1 - 5 / 2000, "shows_work": 1.0}
    assert found.reward == pytest.approx(1 + 0.2 * (1 - 5 / 2000) + 1)
    assert rewarded(judge, attempt("wrong")).rewards["brevity"] == 0
    assert rewarded(judge, attempt(), MESSAGES[:1]).rewards["shows_work"] == 0


def test_a_function_reads_what_the_attempt_was_and_cannot_change_what_the_next_one_reads(write: Write) -> None:
    path = write(
        "seen = []\n"
        "def first(attempt):\n    seen.append(attempt)\n    attempt.messages.clear()\n    return 0\n"
        "def second(attempt):\n    return len(attempt.messages)\n"
        "def shown(attempt):\n    return len(attempt.messages[1]['content']) + attempt.tool_errors\n"
    )
    messages = list(MESSAGES)
    found = rewarded(referee(f"{path}:first", f"{path}:second", f"{path}:shown"), attempt(), messages)
    assert (found.rewards["second"], found.rewards["shown"]) == (4, len(MESSAGES[1]["content"]))
    assert messages == MESSAGES


@pytest.mark.parametrize(
    ("returns", "worth"),
    [
        ("return 2", 2.0),
        ("return True", 1.0),
        ("return False", 0.0),
        ("return __import__('fractions').Fraction(1, 4)", 0.25),
        ("return __import__('numpy').float32(0.5)", 0.5),
        ("return Verdict(outcome='right')", 1.0),
        ("return Verdict(outcome='wrong')", -1.0),
    ],
)
@pytest.mark.parametrize("head", ["def f(attempt):", "async def f(attempt):", "def f(a, /, *, more=1):"])
def test_a_number_or_a_verdict_is_a_reward(head: str, returns: str, worth: float, write: Write) -> None:
    assert value(write, returns, head) == worth


def test_an_ungraded_verdict_leaves_the_attempt_ungraded_with_its_reason(write: Write) -> None:
    path = write("def taste(attempt): return Verdict(outcome='ungraded', reason='no idea')")
    found = rewarded(referee(f"{path}:taste"), attempt())
    assert found.judged == Verdict(outcome="ungraded", reason="taste: no idea")
    assert found.rewards == {"verdict": 1.0}


def test_an_ungraded_attempt_is_not_shown_to_functions(write: Write) -> None:
    path = write("def f(attempt): raise ValueError")
    found = rewarded(referee(f"{path}:f"), attempt("ungraded"))
    assert "f" not in found.rewards


def test_only_turns_with_calls_raise_the_reward_of_a_wrong_answer() -> None:
    pieces = (
        Piece("prompt", (1,)),
        Piece("student", (2,)),
        Piece("user", (3,), outcomes=("ok",)),
        Piece("student", (4,)),
    )
    for rule in ("ran", "paper"):
        assert rewarded(referee(tool_use=rule), attempt("wrong", pieces=pieces)).reward == -1
        assert rewarded(referee(tool_use=rule), attempt("wrong")).reward == -0.9


# What is our fault


@pytest.mark.parametrize(
    ("returns", "words"),
    [
        ("return math.nan", "reward.own: f returned nan. It must return a finite number"),
        ("return -math.inf", "returned -inf"),
        ("return 10**400", "returned inf"),
        ("return 'good'", "returned a value of type str. It must return a number or a Verdict"),
        ("pass", "type NoneType"),
        ("return 1j", "type complex"),
        ("return [1.0]", "type list"),
        ("raise KeyError('x')", "reward.own: f raised KeyError: 'x'"),
        ("raise SystemExit(3)", "raised SystemExit: 3"),
        ("raise TimeoutError('theirs')", "raised TimeoutError: theirs"),
        ("raise InfrastructureError('the server is down')", "^the server is down"),
        ("f(attempt)", "raised RecursionError"),
    ],
)
@pytest.mark.parametrize("head", ["def f(attempt):", "async def f(attempt):"])
def test_anything_else_is_an_infrastructure_failure_in_words(head: str, returns: str, words: str, write: Write) -> None:
    if head.startswith("async") and returns.startswith("f("):
        returns = f"await {returns}"
    with pytest.raises(InfrastructureError, match=words):
        value(write, returns, head)


def test_a_stop_iteration_is_a_failure_too(write: Write) -> None:
    with pytest.raises(InfrastructureError, match="raised RuntimeError: f raised StopIteration"):
        value(write, "raise StopIteration")


@pytest.mark.parametrize(
    "hang", ["def f(attempt):\n    GATE.wait(20)", "async def f(attempt):\n    await asyncio.sleep(20)"]
)
def test_a_function_that_hangs_is_given_up_at_the_deadline(hang: str, write: Write) -> None:
    path = write(f"GATE = threading.Event()\n{hang}")
    with pytest.raises(InfrastructureError, match=r"reward.own: f returned nothing within reward.own_seconds = 0.1 s"):
        rewarded(referee(f"{path}:f", own_seconds=0.1), attempt())


def test_an_outage_that_a_function_reports_stops_the_run(write: Write) -> None:
    with pytest.raises(OutageError):
        value(write, "raise OutageError('down for an hour')")


def test_an_attempt_that_is_given_up_is_not_a_failure_of_the_function(write: Write) -> None:
    path = write("async def f(attempt): await asyncio.sleep(20)")

    async def work() -> None:
        task = asyncio.create_task(referee(f"{path}:f").rewarded(attempt(), lambda: MESSAGES))
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(work())


def test_parts_that_add_up_to_no_finite_number_are_a_failure(write: Write) -> None:
    path = write("def f(attempt): return 1e308\ndef g(attempt): return 1e308")
    with pytest.raises(InfrastructureError, match="the reward is"):
        rewarded(referee(f"{path}:f", f"{path}:g", weights=("f=10",)), attempt())


# What is refused before a run


@pytest.mark.parametrize(
    ("own", "weights", "words"),
    [
        (["f", "f"], [], "reward.own: two functions have the name f"),
        (["verdict"], [], "has the name of another part of the reward, verdict. Rename your function"),
        (["nothing"], [], "defines no function or class 'nothing'"),
        (["two"], [], r"reward.own: two in .*mine.py cannot be called: .* Write def two\(attempt\)"),
        (["keyword"], [], "cannot be called"),
        (["f"], ["g=1"], "there is no part 'g' of the reward. Its parts are verdict, environment, f"),
        (["f"], ["f"], "reward.weights: 'f' must have the form NAME=NUMBER, such as verdict=0.5"),
        (["f"], ["f=nan"], "must have the form NAME=NUMBER"),
        (["f"], ["f=much"], "must have the form NAME=NUMBER"),
        (["f"], ["f=1", "f=2"], "reward.weights: f has two weights"),
    ],
)
def test_what_cannot_be_a_reward_or_a_weight_is_named(
    own: list[str], weights: list[str], words: str, write: Write
) -> None:
    path = write("def f(a): ...\ndef verdict(a): ...\ndef two(a, b): ...\ndef keyword(*, a): ...")
    options = RewardOptions(own=tuple(f"{path}:{name}" for name in own), weights=tuple(weights))
    with pytest.raises(OptionError, match=words) as raised:
        Referee(Nowhere(), options, max_tokens=1)
    assert str(raised.value) in list(reward_refusals(options))


# A judge


def verdict_of(path: str, text: str = "Melville, Herman", **options: Any) -> Verdict:
    whale = replace(PROBLEM, answer="Herman Melville")
    made = Trajectory(whale, sample=0, pieces=(), stop="answered", final_text=text)
    return asyncio.run(referee(judge=path, **options).judge(made, str))


def test_the_examples_judge_decides() -> None:
    path = f"{EXAMPLE}:same_words"
    assert verdict_of(path, "<think>Twain</think>It is\nMelville, Herman!").outcome == "right"
    assert verdict_of(path, "Mark Twain") == Verdict(outcome="wrong", answer="mark twain", reason="same words")


@pytest.mark.parametrize(
    ("returns", "verdict"),
    [
        ("return text.startswith('M')", Verdict(outcome="right", answer="Melville, Herman", reason="f")),
        ("return problem.answer == text", Verdict(outcome="wrong", answer="Melville, Herman", reason="f")),
        ("return None", Verdict(outcome="ungraded", reason="reward.judge: f returned None")),
        ("return Verdict(outcome='right', answer='x')", Verdict(outcome="right", answer="x")),
    ],
)
@pytest.mark.parametrize("head", ["def", "async def"])
def test_a_judge_gives_a_bool_a_verdict_or_nothing(head: str, returns: str, verdict: Verdict, write: Write) -> None:
    assert verdict_of(write(f"{head} f(text, problem): {returns}") + ":f") == verdict


def test_an_attempt_without_an_answer_is_wrong_whatever_the_judge(write: Write) -> None:
    path = write("def f(text, problem): return True")
    for text in ("", "<think>Melville", " \n"):
        assert verdict_of(f"{path}:f", text) == Verdict(outcome="wrong", reason="no answer")


@pytest.mark.parametrize(
    ("returns", "words"),
    [
        ("return 1", "reward.judge: f returned a value of type int. It must return True, False, a Verdict, or None"),
        ("raise ValueError('no')", "reward.judge: f raised ValueError: no"),
        ("time.sleep(20)", "returned nothing within reward.own_seconds = 0.1 s"),
    ],
)
def test_a_judge_that_fails_is_an_infrastructure_failure_and_is_found_at_the_start(
    returns: str, words: str, write: Write
) -> None:
    path = write(f"def f(text, problem): {returns}") + ":f"
    with pytest.raises(InfrastructureError, match=words):
        verdict_of(path, own_seconds=0.1)
    with pytest.raises(OptionError, match=rf"{words}.*trial with the gold answer of problem 'p'"):
        referee(judge=path, own_seconds=0.1).check([PROBLEM])


def test_a_judge_is_tried_once_on_one_problem_and_takes_golds_that_no_other_judge_can_use(write: Write) -> None:
    count = "calls = []\ndef f(text, problem):\n    calls.append(text)\n    return Verdict(outcome='right', reason=str(calls))"
    path = write(count) + ":f"
    problems = [replace(PROBLEM, answer="either of them, or none"), PROBLEM]
    judge = referee(judge=path)
    judge.check(problems)
    judge.check(problems)
    assert asyncio.run(judge.judge(attempt(), str)).reason == str([r"\boxed{either of them, or none}", r"\boxed{3}"])


def test_a_judge_reads_the_conversation_of_the_environment(write: Write) -> None:
    path = write("def f(text, problem): return problem.messages[0]['content'] == 'You are in a kitchen.'") + ":f"
    said: tuple[Message, ...] = ({"role": "user", "content": "You are in a kitchen."},)
    for messages, outcome in ((said, "right"), ((), "wrong")):
        verdict = asyncio.run(referee(judge=path).judge(attempt(messages=messages), lambda: ""))
        assert verdict.outcome == outcome


def test_a_judge_also_loads_within_a_running_loop(write: Write) -> None:
    async def within() -> None:
        referee(judge=write("async def f(text, problem): return True") + ":f").check([PROBLEM])

    asyncio.run(within())


# Metrics and report


def test_each_part_is_logged_by_its_name_over_the_attempts_that_have_it() -> None:
    made = [
        attempt(rewards={"verdict": 1.0, "f": -0.5}, reward=0.5),
        attempt(rewards={"verdict": -1.0, "f": -1.5, "environment": 2.0}, reward=-0.5),
    ]
    one, two = metrics.RolloutTotals(), metrics.RolloutTotals()
    one.add(Group(PROBLEM, made[:1]))
    two.add(Group(PROBLEM, made[1:]))
    found = (one + two).metrics()
    assert {name: found[name] for name in found if name.startswith("reward/")} == {
        "reward/verdict": 0.0,
        "reward/f": -1.0,
        "reward/environment": 2.0,
    }


def test_the_verdict_alone_is_no_metric_of_its_own() -> None:
    found = metrics.of_rollout([Group(PROBLEM, [attempt(rewards={"verdict": 1.0}, reward=1.0)])])
    assert not [name for name in found if name.startswith("reward/")]


def test_differences_of_own_parts_are_not_corrections() -> None:
    parts: list[dict[str, float]] = [{"verdict": -1.0, "f": 0.0}, {"verdict": -1.0, "f": 1.0}]
    own = [attempt("wrong", rewards=each, reward=sum(each.values())) for each in parts]
    corrections = [attempt("wrong", rewards={"verdict": worth}, reward=worth) for worth in (-1.0, -0.6)]
    shares = [metrics.of_rollout([Group(PROBLEM, group)])["rollout/advantage_shaped"] for group in (own, corrections)]
    assert shares == [0.0, 1.0]


def test_the_report_shows_each_part_by_its_name() -> None:
    rows = [{"update": float(i), "rollout/solved": 0.5, "rollout/reward": 1.0, "reward/f": i / 10} for i in (1, 2)]
    run = RunRecord(name="r", folder=Path(), options={}, environment={}, results=None, calibration={}, metrics=rows)
    table = learning_table([run])
    assert isinstance(table, Table)
    assert [label for label, _ in table.rows] == ["solved", "reward", "reward: f"]
