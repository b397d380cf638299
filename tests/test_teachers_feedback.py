"""`opsd_feedback`: what the teacher is told of an attempt, and what it is never told."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_teachers_translated import PROBLEM, conversation, setup
from transformers import Qwen3ForCausalLM

from sod.batching import collate
from sod.chat.format import ChatFormat
from sod.config import AlgorithmOptions
from sod.credit.systems import traits
from sod.errors import DataError
from sod.teachers.feedback import feedback, has_fault
from sod.teachers.local import LocalTeacher
from sod.teachers.privileged import REJOINED_TOKENS, PrivilegedTeacher
from sod.types import Group, Piece, Stop, Trajectory, Verdict

Make = Callable[..., PrivilegedTeacher]


def wrong(trajectory: Trajectory, *, gold: str = "41", kind: str = "math", **fields: str) -> Trajectory:
    problem = replace(trajectory.problem, answer=gold, kind=kind)
    verdict = Verdict(outcome="wrong", **{"answer": "42", "reason": "value"} | fields)
    return replace(trajectory, problem=problem, verdict=verdict)


@pytest.fixture
def make(chat: ChatFormat, random_model: Callable[..., Qwen3ForCausalLM], tmp_path: Path) -> Make:
    """A random model with 512 positions as its own teacher."""
    random_model(2, vocabulary=len(chat.tokenizer)).save_pretrained(tmp_path)
    chat.tokenizer.save_pretrained(tmp_path)

    def made(*, tell_answer: bool = False, **limits: int) -> PrivilegedTeacher:
        given = setup(tmp_path, chat)
        given = replace(given, rollout=given.rollout.model_copy(update={"max_tokens": 150, **limits}))
        template = "{question} Mistakes: {context} Avoid them."
        return PrivilegedTeacher(given, chat, [], context="feedback", template=template, tell_answer=tell_answer)

    return made


def test_the_teacher_is_told_the_errors_and_the_judges_reason(chat: ChatFormat) -> None:
    told = feedback(wrong(conversation(chat)), chat, [])
    assert told == "A tool call failed (error): SyntaxError\n\nThe answer '42' is wrong."


def test_a_right_attempt_without_an_error_has_no_fault(chat: ChatFormat) -> None:
    trajectory = conversation(chat)
    clean = replace(trajectory, pieces=(*trajectory.pieces[:3], trajectory.pieces[-1]))
    assert feedback(clean, chat, []) == ""
    assert "SyntaxError" in feedback(trajectory, chat, []), "an error of a right attempt is a fault"


@pytest.mark.parametrize(
    ("kind", "gold", "reason", "shown"),
    [
        ("math", "41", "expected 41", "The answer '42' is wrong."),
        (
            "code",
            "[tests]",
            "test 2 of 5: wrong answer (expected 41)",
            "The answer '42' is wrong (test 2 of 5: wrong answer).",
        ),
        ("math", "41", "", "The answer '42' is wrong."),
    ],
)
def test_the_gold_answer_is_never_told(chat: ChatFormat, kind: str, gold: str, reason: str, shown: str) -> None:
    told = feedback(wrong(conversation(chat), gold=gold, kind=kind, reason=reason), chat, [])
    assert told.endswith(shown)
    assert "41" not in told


def test_tokens_are_scored_behind_the_feedback_of_their_own_attempt(
    make: Make, chat: ChatFormat, tmp_path: Path
) -> None:
    privileged = make()
    trajectory = conversation(chat)
    clean = replace(trajectory, pieces=(*trajectory.pieces[:3], trajectory.pieces[-1]))
    batch = collate([Group(PROBLEM, [clean, wrong(trajectory)])])
    found = privileged.score_now(batch)
    plain = LocalTeacher(setup(tmp_path, chat)).score_now(batch)
    torch.testing.assert_close(found.logprobs_BT[0], plain.logprobs_BT[0], atol=1e-5, rtol=0)
    assert ((found.logprobs_BT - plain.logprobs_BT).abs()[1][batch.mask_BT[1]] > 1e-4).all()
    told = privileged.prompt(trajectory.problem, "A tool call failed (error): SyntaxError")
    assert "SyntaxError" in chat.text(told)
    assert "Mistakes" not in chat.text(trajectory.ids), "the student never reads it"


@pytest.mark.parametrize(
    "reason", ["llm: it should be forty-one", "bought the hat, not the shoe", "should be 2,475", "test 1 of 2: 41"]
)
def test_a_reason_that_may_hold_the_answer_in_any_form_is_told_with_the_answer_only(
    chat: ChatFormat, reason: str
) -> None:
    attempt = wrong(conversation(chat), reason=reason)
    assert feedback(attempt, chat, []).endswith("The answer '42' is wrong.")
    assert feedback(attempt, chat, [], tell_answer=True).endswith(f"The answer '42' is wrong ({reason}).")


def prompt_of(teacher: PrivilegedTeacher, trajectory: Trajectory) -> str:
    """The prompt under which a trajectory is scored."""
    return teacher._chat.text(teacher._privileged(trajectory).pieces[0].tokens)


def test_the_answer_is_told_if_asked_and_only_after_a_fault(make: Make, chat: ChatFormat) -> None:
    attempt = wrong(conversation(chat))
    told = "SyntaxError\n\nThe answer '42' is wrong"
    assert f"{told}. Avoid them." in prompt_of(make(), attempt)
    asked = make(tell_answer=True)
    assert f"{told} (value).\n\nThe correct answer is: 41 Avoid them." in prompt_of(asked, attempt)
    clean = replace(attempt, pieces=(*attempt.pieces[:3], attempt.pieces[-1]), verdict=Verdict(outcome="right"))
    assert "41" not in prompt_of(asked, clean)
    code = replace(PROBLEM, kind="code", answer="[tests]", solution="def f(): return 41")
    assert "def f(): return 41 Avoid them." in prompt_of(asked, replace(attempt, problem=code))
    with pytest.raises(DataError, match="has no `solution`"):
        asked.check([replace(code, solution="")])


def test_in_an_environment_the_conversation_is_that_of_the_attempt(make: Make, chat: ChatFormat) -> None:
    tool = {"type": "function", "function": {"name": "go", "parameters": {"type": "object", "properties": {}}}}
    opening = ({"role": "user", "content": "You are in a kitchen."},)
    problem = replace(PROBLEM, environment="household", messages=(), answer="")
    prompt = Piece("prompt", tuple(chat.prompt(opening, [tool])))
    pieces = (prompt, *conversation(chat).pieces[1:])
    attempt = replace(wrong(conversation(chat)), problem=problem, pieces=pieces, messages=opening, tools=(tool,))
    rewritten = {
        "role": "user",
        "content": "You are in a kitchen. Mistakes: A tool call failed (error): SyntaxError\n\nThe answer '42' is wrong. "
        "Avoid them.",
    }
    assert make()._privileged(attempt).pieces == (
        replace(prompt, tokens=tuple(chat.prompt([rewritten], [tool]))),
        *pieces[1:],
    )


def test_where_an_environment_writes_the_prompt_only_what_is_added_must_fit(make: Make, chat: ChatFormat) -> None:
    problem = replace(PROBLEM, environment="household", messages=())
    make(max_prompt_tokens=360).check([problem])
    with pytest.raises(DataError, match="prompts of the privileged teacher are too long"):
        make(max_tokens=509, max_prompt_tokens=3).check([problem])
    long = replace(problem, answer="7" * 400)
    attempt = replace(wrong(conversation(chat), gold="7" * 400), messages=({"role": "user", "content": "6" * 60},))
    make(tell_answer=True, max_tokens=50).check([long])
    with pytest.raises(
        DataError, match=r"The privileged teacher's prompt of problem 'p' has \d+ tokens, and an attempt leaves"
    ):
        make(tell_answer=True)._privileged(attempt)


def test_a_told_answer_is_never_cut(make: Make, chat: ChatFormat) -> None:
    answer = "1234567890" * 28
    attempt = wrong(conversation(chat), gold=answer)
    assert f"The correct answer is: {answer} Avoid them." in prompt_of(make(tell_answer=True), attempt)


@pytest.mark.parametrize(
    ("stop", "told"),
    [
        ("max_tokens", "by the limit of tokens"),
        ("max_turns", "by the limit of turns"),
        ("repeated", "repeated its turns"),
    ],
)
def test_an_attempt_that_a_limit_ended_has_that_as_a_fault(chat: ChatFormat, stop: Stop, told: str) -> None:
    attempt = replace(wrong(conversation(chat), reason="no answer"), stop=stop)
    assert told in feedback(attempt, chat, [])


def test_the_share_of_attempts_with_a_fault_is_a_metric(make: Make, chat: ChatFormat) -> None:
    attempt = conversation(chat)
    clean = replace(attempt, pieces=(*attempt.pieces[:3], attempt.pieces[-1]))
    batch = collate([Group(PROBLEM, [clean, attempt, wrong(attempt), wrong(clean)])])
    assert make().metrics(batch, AlgorithmOptions()) == {"teacher/told_share": 0.75}  # pyright: ignore[reportArgumentType]
    assert [has_fault(each) for each in batch.trajectories] == [bool(feedback(t, chat, [])) for t in batch.trajectories]


@pytest.mark.parametrize("left", [0, 1, 12, 40])
def test_feedback_is_cut_to_the_room_that_a_trajectory_leaves(make: Make, chat: ChatFormat, left: int) -> None:
    teacher = make()
    attempt = wrong(conversation(chat), answer="7" * 100)
    empty = len(teacher.prompt(attempt.problem, ""))
    filler = 512 - left - empty - len(attempt.response)
    last = attempt.pieces[-1]
    long = replace(attempt, pieces=(*attempt.pieces[:-1], replace(last, tokens=last.tokens[:1] * filler + last.tokens)))
    privileged = teacher._privileged(long)
    assert len(privileged.ids) <= 512
    assert privileged.response == long.response
    if left <= REJOINED_TOKENS:
        assert privileged == long, "without room, the attempt is scored under the student's own prompt"
    else:
        assert len(privileged.ids) >= 512 - 2 * REJOINED_TOKENS
        assert "' is wrong. Avoid them." in chat.text(privileged.pieces[0].tokens)


def test_a_prompt_needs_room_without_the_feedback(make: Make) -> None:
    teacher = make()
    extra = 512 - 150 - len(teacher.prompt(PROBLEM, ""))
    for count in (extra, extra + 1):
        long = replace(PROBLEM, messages=({"role": "user", "content": PROBLEM.messages[0]["content"] + "7" * count},))
        if count == extra:
            teacher.check([long])
        else:
            with pytest.raises(DataError, match="prompts of the privileged teacher are too long"):
                teacher.check([long])


def test_the_system_needs_no_other_model() -> None:
    system = traits("opsd_feedback")
    assert not system.needs_teacher
    assert system.context == "feedback"
