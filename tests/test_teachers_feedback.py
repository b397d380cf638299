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
from sod.credit.systems import traits
from sod.errors import DataError
from sod.teachers.feedback import feedback
from sod.teachers.local import LocalTeacher
from sod.teachers.privileged import FEEDBACK_TOKENS, PrivilegedTeacher
from sod.tools.python import interpreter_schema
from sod.types import Group, Trajectory, Verdict

TOOLS = [interpreter_schema()]


def wrong(trajectory: Trajectory, *, gold: str = "41", kind: str = "math", **fields: str) -> Trajectory:
    problem = replace(trajectory.problem, answer=gold, kind=kind)
    verdict = Verdict(outcome="wrong", **{"answer": "42", "reason": "value"} | fields)
    return replace(trajectory, problem=problem, verdict=verdict)


@pytest.fixture
def privileged(chat: ChatFormat, random_model: Callable[..., Qwen3ForCausalLM], tmp_path: Path) -> PrivilegedTeacher:
    random_model(2, vocabulary=len(chat.tokenizer)).save_pretrained(tmp_path)
    chat.tokenizer.save_pretrained(tmp_path)
    given = replace(setup(tmp_path, chat), rollout=setup(tmp_path, chat).rollout.model_copy(update={"max_tokens": 150}))
    return PrivilegedTeacher(given, chat, [], context="feedback", template="{question} Mistakes: {context} Avoid them.")


def test_the_teacher_is_told_the_errors_and_the_judges_reason(chat: ChatFormat) -> None:
    told = feedback(wrong(conversation(chat)), chat, [])
    assert told == "A tool call failed (error): SyntaxError\n\nThe answer '42' is wrong (value)."


def test_a_right_attempt_without_an_error_has_no_fault(chat: ChatFormat) -> None:
    trajectory = conversation(chat)
    clean = replace(trajectory, pieces=(*trajectory.pieces[:3], trajectory.pieces[-1]))
    assert feedback(clean, chat, []) == ""
    assert "SyntaxError" in feedback(trajectory, chat, []), "an error of a right attempt is a fault"


@pytest.mark.parametrize(
    ("kind", "gold", "reason", "shown"),
    [
        ("math", "41", "expected 41", "The answer '42' is wrong."),
        ("code", "[tests]", "test 2 of 5: wrong (expected 41)", "The answer '42' is wrong (test 2 of 5: wrong)."),
        ("math", "41", "", "The answer '42' is wrong."),
    ],
)
def test_the_gold_answer_is_never_told(chat: ChatFormat, kind: str, gold: str, reason: str, shown: str) -> None:
    told = feedback(wrong(conversation(chat), gold=gold, kind=kind, reason=reason), chat, [])
    assert told.endswith(shown)
    assert "41" not in told


def test_tokens_are_scored_behind_the_feedback_of_their_own_attempt(
    privileged: PrivilegedTeacher, chat: ChatFormat, tmp_path: Path
) -> None:
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


def test_a_prompt_has_room_for_the_longest_feedback(privileged: PrivilegedTeacher, chat: ChatFormat) -> None:
    room = 512 - 150 - FEEDBACK_TOKENS
    short = len(privileged.prompt(PROBLEM, ""))
    privileged.check([PROBLEM])
    extra = (room - short) + 1
    long = replace(PROBLEM, messages=({"role": "user", "content": PROBLEM.messages[0]["content"] + "7" * extra},))
    with pytest.raises(DataError, match="prompts of the privileged teacher are too long"):
        privileged.check([long])


def test_the_system_needs_no_other_model() -> None:
    system = traits("opsd_feedback")
    assert not system.needs_teacher
    assert system.context == "feedback"
