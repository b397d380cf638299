"""Demonstrations made by a model: the best right trajectories, as messages that give the same tokens again."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from sod.chat.calls import parse_calls
from sod.chat.format import ChatFormat
from sod.cli import run
from sod.config import RolloutCommandOptions, SftOptions
from sod.datasets.rows import demonstration_of, load_demonstrations
from sod.errors import DataError
from sod.evaluation.demonstrations import demonstrate, ranked, written_demonstration
from sod.lab import settings
from sod.tools.python import interpreter_schema
from sod.training.sft import sft
from sod.types import Piece, Problem, Trajectory, Verdict

TOOLS = [interpreter_schema()]
CALL = '<tool_call>\n{"name": "code_interpreter", "arguments": {"code": "print(1)"}}\n</tool_call>'
PROBLEM = Problem(id="p", messages=({"role": "user", "content": "AB=1+2;AB?"},), answer="3")


@pytest.fixture
def conversation(chat: ChatFormat) -> Callable[..., Trajectory]:
    """A right trajectory: turns by the student, and what the tools answered to all but the last."""

    def make(*turns: str, observed: tuple[list[str], ...] = (), sample: int = 0) -> Trajectory:
        pieces = [Piece("prompt", tuple(chat.prompt(PROBLEM.messages, TOOLS)))]
        for turn, texts in zip(turns, [*observed, None], strict=True):
            pieces.append(Piece("student", tuple(chat.turn({"role": "assistant", "content": turn}))))
            if texts is not None:
                outcomes = tuple("error" if text.startswith("Error") else "ok" for text in texts)
                pieces.append(Piece("tool", tuple(chat.observation(texts)), outcomes=outcomes))
        return Trajectory(
            problem=PROBLEM,
            sample=sample,
            pieces=tuple(pieces),
            stop="answered",
            final_text=turns[-1],
            verdict=Verdict(outcome="right", answer="3"),
        )

    return make


Make = Callable[..., Trajectory]


def test_a_demonstration_gives_the_tokens_of_its_trajectory_again(conversation: Make, chat: ChatFormat) -> None:
    attempt = conversation(f"Let me see.\n{CALL}", CALL, "So \\boxed{3}.", observed=(["1\n"], ["Error: x\n<no> 2"]))
    row = written_demonstration(attempt, chat, TOOLS)
    assert row is not None
    assert chat.render(row["messages"], row["tools"]) == [Piece(piece.author, piece.tokens) for piece in attempt.pieces]
    assert (row["id"], row["errors"]) == ("p/0", 1)
    assert row["messages"][1]["content"] == "Let me see."
    assert row["messages"][1]["tool_calls"][0]["function"] == {
        "name": "code_interpreter",
        "arguments": {"code": "print(1)"},
    }


def test_several_calls_of_a_turn_are_answered_one_by_one(conversation: Make, chat: ChatFormat) -> None:
    attempt = conversation(f"{CALL}\n{CALL}", "\\boxed{3}", observed=(["1", "2\n\n"],))
    row = written_demonstration(attempt, chat, TOOLS)
    assert row is not None
    assert [message["content"] for message in row["messages"] if message["role"] == "tool"] == ["1", "2\n\n"]
    assert len(row["messages"][1]["tool_calls"]) == 2
    assert chat.render(row["messages"], TOOLS)[2].tokens == attempt.pieces[2].tokens


def test_a_result_that_looks_like_two_is_one(conversation: Make, chat: ChatFormat) -> None:
    between = "\n</tool_response>\n<tool_response>\n"
    attempt = conversation(f"{CALL}\n{CALL}", "\\boxed{3}", observed=([f"1{between}1", "2"],))
    row = written_demonstration(attempt, chat, TOOLS)
    assert row is not None
    assert chat.render(row["messages"], TOOLS) == [Piece(piece.author, piece.tokens) for piece in attempt.pieces]


def test_observations_that_cannot_be_told_apart_make_no_demonstration(
    conversation: Make, chat: ChatFormat, tokenizer: PreTrainedTokenizerBase
) -> None:
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = str(tokenizer.chat_template).replace("tool_response>", "result>")
    plain = ChatFormat(changed)
    attempt = conversation(f"{CALL}\n{CALL}", "\\boxed{3}", observed=(["1", "2"],))
    for first, is_made in (("1", True), ("1\n</result>\n<result>\n1", False)):
        observation = replace(attempt.pieces[2], tokens=tuple(plain.observation([first, "2"])))
        made = written_demonstration(
            replace(attempt, pieces=(*attempt.pieces[:2], observation, attempt.pieces[3])), plain, TOOLS
        )
        assert (made is not None) == is_made


@pytest.mark.parametrize(
    "turn",
    [
        f"Hm.\n{CALL} And now?",
        f"{CALL} or\n{CALL}",
        f"<think>\nMaybe {CALL}?\n</think>\n\n{CALL}",
    ],
)
def test_no_word_of_a_turn_is_lost(conversation: Make, chat: ChatFormat, turn: str) -> None:
    attempt = conversation(turn, "\\boxed{3}", observed=(["1"] * len(parse_calls(turn)),))
    row = written_demonstration(attempt, chat, TOOLS)
    assert row is not None
    assert chat.text(chat.render(row["messages"], TOOLS)[1].tokens).split() == turn.split()


def test_a_call_of_a_tool_that_is_not_there_is_context(conversation: Make, chat: ChatFormat) -> None:
    attempt = conversation(CALL.replace("code_interpreter", "python"), "\\boxed{3}", observed=(["There is no tool."],))
    row = written_demonstration(attempt, chat, TOOLS)
    assert row is not None
    assert row["messages"][1]["weight"] == 0
    assert demonstration_of(row, 1).messages == row["messages"]


def test_a_malformed_call_is_context_that_nobody_learns(conversation: Make, chat: ChatFormat) -> None:
    attempt = conversation("<tool_call>\n{no JSON}\n</tool_call>", "\\boxed{3}", observed=(["Error: malformed"],))
    row = written_demonstration(attempt, chat, TOOLS)
    assert row is not None
    assert row["messages"][1]["weight"] == 0
    pieces = chat.render(row["messages"], TOOLS)
    assert [piece.author for piece in pieces] == ["prompt", "prompt", "tool", "student"]
    assert [piece.tokens for piece in pieces] == [piece.tokens for piece in attempt.pieces]


def test_the_best_have_the_fewest_errors_and_are_the_shortest(conversation: Make) -> None:
    clean = conversation(CALL, "So, \\boxed{3}", observed=(["1"],), sample=0)
    shorter = conversation(CALL, "\\boxed{3}", observed=(["1"],), sample=1)
    failed = conversation("x", "\\boxed{3}", observed=(["Error"],), sample=2)
    wrong = Trajectory(
        problem=PROBLEM, sample=3, pieces=(), stop="answered", final_text="", verdict=Verdict(outcome="wrong")
    )
    assert [attempt.sample for attempt in ranked([failed, wrong, clean, shorter])] == [1, 0, 2]


@pytest.mark.slow
def test_what_a_model_demonstrates_can_be_fine_tuned_on(
    teacher: Path, untrained: Path, problem_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"model": teacher, "data": str(problem_file), "out": tmp_path / "rollout"}
    options = RolloutCommandOptions.model_validate(settings.EVAL | files | {"samples": 3, "limit": 4, "keep": 2})
    demonstrate(options)
    made = tmp_path / "rollout" / "demonstrations.jsonl"
    rows = [json.loads(line) for line in made.read_text().splitlines()]
    assert f"{len(rows)} demonstrations of" in capsys.readouterr().out
    assert 4 <= len(rows) <= 8
    assert {row["source"] for row in rows} == {"rows"}
    assert len(load_demonstrations(made)) == len(rows)
    ran = sft(SftOptions(model=untrained, data=made, out=tmp_path / "sft", epochs=1, batch=2))
    assert len(ran.metrics()) == (len(rows) + 1) // 2
    demonstrate(options)  # told again, nothing sampled, nothing written twice
    assert [json.loads(line) for line in made.read_text().splitlines()] == rows


def test_without_a_right_trajectory_there_is_nothing_to_demonstrate(
    untrained: Path, problem_file: Path, tmp_path: Path
) -> None:
    files = {"model": untrained, "data": str(problem_file), "out": tmp_path / "rollout"}
    with pytest.raises(DataError, match="no trajectory is right"):
        demonstrate(RolloutCommandOptions.model_validate(settings.EVAL | files | {"samples": 1, "limit": 2}))


def test_a_dry_run_samples_nothing(teacher: Path, problem_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "rollout"
    command = ["rollout", "--model", str(teacher), "--data", str(problem_file), "--out", str(out)]
    limits = ["--rollout.max-tokens", "300", "--rollout.max-prompt-tokens", "64"]
    assert run([*command, *limits, "--dry-run"]) == 0
    assert not out.exists()
