"""BFCL: its questions, its answers, its checkers."""

import ast
import sys
from typing import Any

import pytest
from playing import REASON, Student, play, total

pytest.importorskip("bfcl_eval", reason=REASON)

from sod.environments import Opening, Step, Turn
from sod.environments.bfcl import DIALOGUES, SINGLE, Bfcl, bfcl_question
from sod.errors import DataError, OptionError
from sod.types import ToolCall


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
