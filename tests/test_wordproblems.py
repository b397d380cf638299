"""Word problems: right answers, honest demonstrations, and evaluation files that training has not seen."""

import asyncio
import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from confining import CONFINABLE

from sod.chat.format import ChatFormat, parse_calls
from sod.config import ToolOptions, WordProblemOptions
from sod.datasets.rows import load_demonstrations, load_problems
from sod.lab import settings
from sod.lab.demonstrations import STUDENT_STYLE, TEACHER_STYLE, TOOL, Style, solution_of
from sod.lab.wordproblems import LAST, LONGEST, STORIES, Working, are_made, draw, make_word_problems
from sod.rewards.math import MathJudge
from sod.sandbox.local import LocalSandbox
from sod.tools import Toolbox
from sod.tools.python import PythonTool
from sod.types import Observation


def interpret(*turns: str) -> list[Observation]:
    """Return the interpreter's answer to each turn, which makes one call."""

    async def work() -> list[Observation]:
        async with LocalSandbox(workers=2, unsafe=not CONFINABLE) as sandbox:
            tool = PythonTool(sandbox, ToolOptions.model_validate(settings.REAL_TOOL | {"faults": 0.0}))
            answers = await asyncio.gather(*(Toolbox([tool]).answer(parse_calls(turn)) for turn in turns))
            return [answer for (answer,) in answers]

    return asyncio.run(work())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_word_problems(small(tmp_path_factory.mktemp("words")))


def small(out: Path, seed: int = 1) -> WordProblemOptions:
    return WordProblemOptions(
        out=out, seed=seed, demonstrations=60, train_problems=200, tune_problems=20, eval_problems=40
    )


def numbers(text: str) -> list[str]:
    return sorted(re.findall(r"\d+", text))


@pytest.mark.parametrize("name", STORIES)
def test_every_wording_gives_all_numbers_and_the_solution_takes_the_stated_calls(name: str) -> None:
    story, rng = STORIES[name], random.Random(1)
    for _ in range(50):
        work = Working()
        drawn = story.solve(rng, work)
        assert len(work.calls) == story.sums <= LONGEST
        assert all(call.result > 0 for call in work.calls)
        for wording in story.wordings:
            assert numbers(wording.format(who="A", other="B", **drawn)) == sorted(map(str, drawn.values()))
    assert len(set(story.wordings)) == 3


def test_all_stories_and_lengths_are_drawn_and_short_ones_more_often() -> None:
    rng = random.Random(2)
    drawn = [draw(rng) for _ in range(1000)]
    assert {each.case[0] for each in drawn} == STORIES.keys()
    lengths = [len(each.task.calls) for each in drawn]
    assert set(lengths) == {1, 2, 3, 4}
    assert 1.9 < sum(lengths) / len(lengths) < 2.3


def test_every_program_really_prints_its_result_and_the_judge_accepts_the_answer() -> None:
    rng = random.Random(3)
    tasks = [draw(rng, held_out_wording=i % 2 == 1).task for i in range(60)]
    turns = [
        f"<tool_call>{json.dumps({'name': TOOL, 'arguments': {'code': chr(10).join(call.lines)}})}</tool_call>"
        for task in tasks
        for call in task.calls
    ]
    printed = iter(interpret(*turns))
    for task in tasks:
        assert [next(printed).text for _ in task.calls] == [str(call.result) for call in task.calls]
        assert MathJudge().judge(f"the answer is \\boxed{{{task.answer}}}", str(task.answer)).outcome == "right"


@pytest.mark.parametrize("style", [replace(TEACHER_STYLE, slips=1.0), STUDENT_STYLE], ids=["teacher", "student"])
def test_what_a_demonstration_reads_is_what_the_interpreter_really_says(chat: ChatFormat, style: Style) -> None:
    rng = random.Random(4)
    conversations = [solution_of(draw(rng).task, style, rng) for _ in range(40)]
    pairs = [
        (messages[i - 1], message["content"])
        for messages in conversations
        for i, message in enumerate(messages)
        if message["role"] == "tool"
    ]
    said = interpret(*(chat.text(chat.turn(call)) for call, _ in pairs))
    assert [observation for _, observation in pairs] == [really.text for really in said]
    assert {really.outcome for really in said} > {"ok"}, "some calls fail"


def test_no_case_of_the_evaluation_is_trained_on(made: Path) -> None:
    def cases(name: str) -> set[tuple[str, ...]]:
        return {
            tuple(numbers(str(problem.messages[-1]["content"]))) for problem in load_problems(made / f"{name}.jsonl")
        }

    learnt = cases("train") | {
        tuple(numbers(demonstration.messages[0]["content"]))
        for whose in ("teacher", "student")
        for demonstration in load_demonstrations(made / f"{whose}-demonstrations.jsonl")
    }
    for name in ("eval", "wording", "tune"):
        assert not cases(name) & learnt
    assert not cases("eval") & cases("wording")


def test_the_held_out_wordings_are_in_one_file_only(made: Path) -> None:
    openings = [story.wordings[2].partition("{")[0] for story in STORIES.values()]
    starts = [opening for opening in openings if len(opening) > 5]
    assert len(starts) >= 5
    for name in ("eval", "train", "tune"):
        for problem in load_problems(made / f"{name}.jsonl"):
            assert not str(problem.messages[-1]["content"]).startswith(tuple(starts))
    asked = [str(problem.messages[-1]["content"]) for problem in load_problems(made / "wording.jsonl")]
    assert sum(question.startswith(tuple(starts)) for question in asked) > len(asked) / 4


def test_the_files_depend_on_the_seed_alone(made: Path, tmp_path: Path) -> None:
    again, other = make_word_problems(small(tmp_path / "a")), make_word_problems(small(tmp_path / "b", seed=2))
    for file in sorted(made.iterdir()):
        assert (again / file.name).read_bytes() == file.read_bytes()
        assert (other / file.name).read_bytes() != file.read_bytes()


def test_demonstrations_show_the_tool_and_only_the_students_errors_are_learnt(made: Path) -> None:
    for whose, learnt in (("teacher", False), ("student", True)):
        rows = [json.loads(line) for line in (made / f"{whose}-demonstrations.jsonl").read_text().splitlines()]
        assert all(row["tools"][0]["function"]["name"] == TOOL for row in rows)
        silent = [message for row in rows for message in row["messages"] if message.get("weight", 1) == 0]
        assert bool(silent) != learnt


def test_problems_are_unfinished_until_the_last_file_is_there(made: Path, tmp_path: Path) -> None:
    assert are_made(made)
    (tmp_path / "eval.jsonl").write_bytes((made / "eval.jsonl").read_bytes())
    assert not are_made(tmp_path)
    assert are_made(make_word_problems(small(tmp_path)))
    assert (tmp_path / LAST).read_bytes() == (made / LAST).read_bytes()
