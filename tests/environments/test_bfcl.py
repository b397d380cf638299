"""BFCL: its questions, its answers, its checkers."""

import ast
import asyncio
import sys
from typing import Any

import pytest
from playing import REASON, Student, play, total

pytest.importorskip("bfcl_eval", reason=REASON)

from sod.config import ToolOptions
from sod.environments import Opening, Step, Turn
from sod.environments.bfcl import DIALOGUES, SINGLE, Bfcl, bfcl_question
from sod.environments.guarding import GuardedEnvironment
from sod.errors import DataError, OptionError
from sod.types import MalformedCall, Problem, ToolCall


def first_of(value: Any) -> Any:
    """The first allowed value, also within nested arguments."""
    if isinstance(value, dict):
        return {key: first_of(each[0]) for key, each in value.items() if each and each[0] != ""}
    return (
        [first_of(each) for each in value]
        if isinstance(value, list) and value and isinstance(value[0], dict)
        else value
    )


def gold_calls(answer: list[dict[str, Any]]) -> tuple[ToolCall, ...]:
    return tuple(
        ToolCall(name=name.replace(".", "_"), arguments=first_of(values))
        for call in answer
        for name, values in call.items()
    )


def call_of(text: str, tools: dict[str, list[str]]) -> ToolCall:
    """The call that a line of Python, such as cd(folder='document'), stands for."""
    call = ast.parse(text, mode="eval").body
    assert isinstance(call, ast.Call)
    assert isinstance(call.func, ast.Name)
    names = tools[call.func.id]
    given = {names[place]: ast.literal_eval(value) for place, value in enumerate(call.args)}
    given |= {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
    return ToolCall(name=call.func.id, arguments=given)


def solves(answer: list[list[str]], skip: int | None = None) -> Student:
    """A student that makes the calls of the answer, and says when it is done with each message. `skip`: a message it ignores."""

    def student(opening: Opening, _: list[Step]) -> Turn:
        tools = {tool["function"]["name"]: list(tool["function"]["parameters"]["properties"]) for tool in opening.tools}
        if not left:
            for number, lines in enumerate(answer):
                calls = tuple(call_of(line, tools) for line in lines)
                left.extend([Turn("", calls)] if calls and number != skip else [])
                left.append(Turn("done"))
        return left.pop(0)

    left: list[Turn] = []
    return student


@pytest.mark.parametrize("category", ["simple_python", "multiple", "parallel", "parallel_multiple", "live_parallel"])
def test_the_answers_of_the_package_are_right_and_others_are_wrong(category: str) -> None:
    rights = wrongs = 0
    rows = list(Bfcl.make([category], 10_000, 0, 1))[:60]
    for row in rows:
        _, answer, _ = bfcl_question(category, row["setting"]["id"])
        calls = gold_calls(answer)
        _, steps, verdict = play(Bfcl(), row["setting"], lambda *_, calls=calls: Turn("", calls))
        assert len(steps) == 1
        assert total(steps) == verdict.is_right
        rights += verdict.is_right
        extra = (*calls, ToolCall(name="more", arguments={}))
        wrongs += not play(Bfcl(), row["setting"], lambda *_, extra=extra: Turn("", extra))[2].is_right
    assert rights >= 0.95 * len(rows)  # in a few answers, the first allowed values do not go together
    assert wrongs == len(rows)


def test_irrelevant_tools_must_not_be_called() -> None:
    row = next(Bfcl.make(["irrelevance"], 1, 0, 1))
    assert play(Bfcl(), row["setting"], lambda *_: Turn("I cannot do this."))[2].is_right
    called = (ToolCall(name="x", arguments={}),)
    assert not play(Bfcl(), row["setting"], lambda *_: Turn("", called))[2].is_right


@pytest.mark.parametrize("category", DIALOGUES)
def test_dialogues_are_judged_by_the_states_that_the_calls_leave(category: str) -> None:
    for row in list(Bfcl.make([category], 15, 1, 1))[:15]:
        _, answer, _ = bfcl_question(category, row["setting"]["id"])
        _, steps, verdict = play(Bfcl(), row["setting"], solves(answer))
        assert verdict.is_right, (row["id"], verdict)
        assert steps[-1].is_over
        first = next(number for number, lines in enumerate(answer) if lines)
        assert not play(Bfcl(), row["setting"], solves(answer, skip=first))[2].is_right


def test_the_states_of_an_attempt_are_deleted() -> None:
    row = next(Bfcl.make(["multi_turn_base"], 1, 0, 1))
    _, answer, _ = bfcl_question("multi_turn_base", row["setting"]["id"])
    play(Bfcl(), row["setting"], solves(answer))
    kept = vars(sys.modules["bfcl_eval.eval_checker.multi_turn_eval.multi_turn_utils"])
    assert not [name for name in kept if name.startswith("sod")]


def test_a_name_of_an_argument_is_never_run(tmp_path: Any) -> None:
    row = next(Bfcl.make(["multi_turn_base"], 1, 0, 1))
    target = tmp_path / "escaped"
    attack = ToolCall(name="ls", arguments={f"a=open({str(target)!r}, 'w') or 1, b": 1})
    play(Bfcl(), row["setting"], lambda _, steps: Turn("", (attack,)) if not steps else None)
    assert not target.exists()


def test_every_supported_category_has_questions_and_tools() -> None:
    for category in (*SINGLE, *DIALOGUES):
        row = next(Bfcl.make([category], 1, 0, 1))
        entry, answer, tools = bfcl_question(category, row["setting"]["id"])
        assert entry["question"]
        assert tools
        assert ("relevance" in category) == (answer is None)


def test_other_categories_are_refused_in_words() -> None:
    with pytest.raises(OptionError, match="'memory_kv' is not a task of bfcl"):
        list(Bfcl.make(["memory_kv"], 1, 0, 1))
    with pytest.raises(DataError, match="can be used offline"):
        bfcl_question("web_search_base", "web_search_base_0")
    with pytest.raises(DataError, match="no question 'simple_python_9999'"):
        bfcl_question("simple_python", "simple_python_9999")


async def guarded_steps(setting: dict[str, Any], *turns: list[Any]) -> list[Any]:
    """Answer turns of calls as a run does."""
    guarded = GuardedEnvironment(Bfcl(), "bfcl", ToolOptions(), seconds=60)
    await guarded.open(Problem(id="p", messages=(), answer="", setting=setting), 0)
    answers = [await guarded.answer("", calls, 0) for calls in turns]
    return [*answers, await guarded.verdict("")]


@pytest.mark.parametrize("bad", ["malformed", "unknown", "argument"])
def test_a_refused_call_of_a_single_turn_is_wrong_at_once(bad: str) -> None:
    (row,) = list(Bfcl.make(["simple_python"], 1, 0, 1))[:1]
    _, answer, _ = bfcl_question("simple_python", row["setting"]["id"])
    (right,) = gold_calls(answer)
    calls = {
        "malformed": MalformedCall(complaint="No JSON."),
        "unknown": ToolCall(name="unknown", arguments=right.arguments),
        "argument": ToolCall(name=right.name, arguments=right.arguments | {"unknown": 1}),
    }
    step, verdict = asyncio.run(guarded_steps(row["setting"], [calls[bad]]))
    assert step.is_over
    assert verdict.outcome == "wrong"
    assert asyncio.run(guarded_steps(row["setting"], [right]))[-1].is_right


def test_a_malformed_call_is_no_call_where_none_is_relevant() -> None:
    row = next(iter(Bfcl.make(["irrelevance"], 1, 0, 1)))
    assert asyncio.run(guarded_steps(row["setting"], [MalformedCall(complaint="No JSON.")]))[-1].is_right
    assert not asyncio.run(guarded_steps(row["setting"], [ToolCall(name="unknown", arguments={})]))[-1].is_right


def test_a_dialogue_refuses_unknown_names_and_executes_no_code() -> None:
    row = next(iter(Bfcl.make(["multi_turn_base"], 1, 0, 1)))
    code = ToolCall(name="__import__('os').getcwd", arguments={})
    answer, _ = asyncio.run(guarded_steps(row["setting"], [code]))
    assert not answer.is_over
    assert answer.observations[0].outcome == "unknown_tool"


def test_an_argument_that_is_no_name_of_python_is_an_error_of_the_student() -> None:
    row = next(each for each in Bfcl.make(["multi_turn_base"], 200, 0, 1))
    environment = Bfcl()
    opening = environment.open(Problem(id="p", messages=(), answer="", setting=row["setting"]), 0)
    name = opening.tools[0]["function"]["name"]
    for key in ("two words", "from"):
        step = environment.step(Turn("", (ToolCall(name=name, arguments={key: 1}),)))
        assert step.observations[0].outcome == "error"
        assert key in step.observations[0].text
