"""Agents of other frameworks as environments: what they ask is the prompt, and the student's turns are the answers."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from chat_client import ask, send
from outside import ADD, PROBLEM, attempt_of

from sod.chat.format import ChatFormat
from sod.errors import InfrastructureError
from sod.types import Problem, Trajectory, Verdict


def answers(problem: Problem, url: str) -> None:
    """An agent of one turn. The judge of the problem's kind decides."""
    ask(url, [{"role": "system", "content": "Be brief."}, *problem.messages])


def uses_tools(problem: Problem, url: str) -> bool:
    """An agent with a tool of its own, and a verdict of its own."""
    messages: list[dict[str, Any]] = [dict(message) for message in problem.messages]
    total = 0
    while True:
        message = ask(url, messages, tools=[ADD])
        messages.append(message)
        if not message.get("tool_calls"):
            return total == 3
        for call in message["tool_calls"]:
            total += json.loads(call["function"]["arguments"])["a"]
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": str(total)})


def talks(problem: Problem, url: str) -> bool:
    """An agent that replies to text."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Say stop."}]
    for _ in range(5):
        message = ask(url, messages)
        if message["content"] == "stop":
            return True
        messages += [message, {"role": "user", "content": "No, stop."}]
    return False


def forgets(problem: Problem, url: str) -> bool:
    """An agent that leaves its first message out."""
    message = ask(url, [{"role": "user", "content": "One."}])
    ask(url, [message, {"role": "user", "content": "Two."}])
    return True


def counts(problem: Problem, url: str) -> Verdict:
    """An agent that returns the usage of two requests as its reason."""
    usages: list[dict[str, int]] = []
    messages: list[dict[str, Any]] = [{"role": "user", "content": "One."}]
    for text in ("Two.", "Three."):
        answer = send(f"{url}/chat/completions", {"messages": messages})
        usages.append(answer["usage"])
        messages += [answer["choices"][0]["message"], {"role": "user", "content": text}]
    return Verdict(outcome="right", reason=json.dumps(usages))


def changes_its_tools(problem: Problem, url: str) -> bool:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "One."}]
    message = ask(url, messages, tools=[ADD])
    ask(url, [*messages, message, {"role": "user", "content": "Two."}])
    return True


def lists_a_tool_without_parameters(problem: Problem, url: str) -> bool:
    ask(url, [{"role": "user", "content": "One."}], tools=[{"type": "function", "function": {"name": "now"}}])
    return True


def silent(problem: Problem, url: str) -> bool:
    return True


def fails(problem: Problem, url: str) -> bool:
    raise RuntimeError("no key")


def wants_two(problem: Problem, url: str) -> bool:
    with pytest.raises(ConnectionError, match="only one choice is sampled"):
        ask(url, [{"role": "user", "content": "One."}], n=2)
    return ask(url, [{"role": "user", "content": "One."}])["content"] == "a"


Served = Callable[..., Trajectory]


@pytest.fixture
def served(chat: ChatFormat) -> Served:
    """Let a student write the given turns as answers to an agent of this file."""
    return partial(attempt_of, chat, Path(__file__))


def call(a: int) -> str:
    return f'<tool_call>\n{{"name": "add", "arguments": {{"a": {a}}}}}\n</tool_call>'


def test_its_request_is_the_prompt_and_the_judge_reads_the_answer(served: Served) -> None:
    trajectory = served("answers", r"\boxed{3}")
    assert [message["role"] for message in trajectory.messages] == ["system", "user"]
    assert trajectory.stop == "answered"
    assert trajectory.judged.is_right


def test_its_tools_answer_the_calls_and_the_tokens_are_those_of_the_template(served: Served, chat: ChatFormat) -> None:
    trajectory = served("uses_tools", call(1) + "\n" + call(1), call(1), "done")
    assert [piece.author for piece in trajectory.pieces] == ["prompt", *["student", "tool"] * 2, "student"]
    assert trajectory.judged.is_right
    expected = chat.observation(["1", "2"], ["add", "add"])
    assert list(trajectory.observations[0].tokens) == expected
    assert trajectory.tools[0]["function"]["name"] == "add"


def test_malformed_calls_are_answered_before_it(served: Served) -> None:
    trajectory = served("uses_tools", '<tool_call>\n{"name": "add"\n</tool_call>', call(3), "done")
    assert trajectory.outcomes == {"malformed": 1, "ok": 1}
    assert trajectory.judged.is_right


def test_text_is_answered_by_its_next_user_message(served: Served) -> None:
    assert [piece.author for piece in served("talks", "go", "stop").pieces] == ["prompt", "student", "user", "student"]


def test_a_limit_ends_its_request_in_words(served: Served) -> None:
    assert served("talks", *"abcdef", max_turns=1).stop == "max_turns"


def test_an_attempt_that_a_limit_ends_is_wrong_also_without_an_answer_to_judge_by(served: Served) -> None:
    attempt = served("talks", *"abcdef", max_turns=1, problem=replace(PROBLEM, answer="", kind="environment"))
    assert attempt.judged.outcome == "wrong"


@pytest.mark.parametrize(
    ("agent", "message"),
    [
        ("forgets", "The agent forgets does not continue its conversation: message 1 is another one"),
        ("changes_its_tools", "does not continue its conversation: its tools have changed"),
        ("silent", "The agent silent ended without asking the student"),
        ("fails", "RuntimeError: no key"),
    ],
)
def test_what_it_does_wrong_is_said(served: Served, agent: str, message: str) -> None:
    with pytest.raises(Exception, match=message):
        served(agent, "a", "b")


def test_history_that_is_rewritten_is_an_infrastructure_failure(served: Served) -> None:
    with pytest.raises(InfrastructureError, match="does not continue its conversation"):
        served("forgets", "a", "b")


def test_several_choices_are_refused_and_the_attempt_goes_on(served: Served) -> None:
    assert served("wants_two", "a").judged.is_right


def test_usage_counts_the_tokens_that_the_student_read_and_wrote(served: Served) -> None:
    attempt = served("counts", "a", "b c")
    pieces = attempt.pieces
    assert [piece.author for piece in pieces] == ["prompt", "student", "user", "student"]
    lengths = [len(piece.tokens) for piece in pieces]
    expected = [(lengths[0], lengths[1]), (sum(lengths[:3]), lengths[3])]
    usages = [{"prompt_tokens": p, "completion_tokens": c, "total_tokens": p + c} for p, c in expected]
    assert json.loads(attempt.judged.reason) == usages


def test_a_tool_without_parameters_has_none(served: Served) -> None:
    (tool,) = served("lists_a_tool_without_parameters", "a").tools
    assert tool["function"]["parameters"] == {"type": "object", "properties": {}}
