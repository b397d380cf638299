"""reasoning-gym: its tasks as problems of the default environment, its scorers in the sandbox."""

import asyncio
import json
from pathlib import Path

import pytest
from playing import REASON

pytest.importorskip("reasoning_gym", reason=REASON)

from reasoning_gym.factory import CURRICULA, DATASETS  # pyright: ignore[reportMissingImports]

from sod.cli import run
from sod.config import SandboxOptions
from sod.datasets.rows import load_problems
from sod.errors import DataError, OptionError
from sod.rewards import Verdict
from sod.rewards.reasoning_gym import NOT_SCORED, Gold, ReasoningGym, ReasoningGymJudge
from sod.sandbox.retries import open_sandbox

TASKS = ("chain_sum", "countdown", "gsm_symbolic", "spell_backward", "simple_geometry", "acre", "word_sorting")


def judged(*texts: str, gold: str) -> list[Verdict]:
    async def judge() -> list[Verdict]:
        sandbox = open_sandbox(SandboxOptions())
        try:
            judge = ReasoningGymJudge(sandbox)
            return [await judge(text, gold) for text in texts]
        finally:
            await sandbox.close()

    return asyncio.run(judge())


def entry(gold: str) -> dict[str, str]:
    """The problem as the package itself generates it."""
    found = Gold.model_validate_json(gold)
    made, config = DATASETS[found.task]
    if found.task not in CURRICULA:
        return made(config(seed=found.seed, size=1))[0]
    curriculum = CURRICULA[found.task]()
    curriculum.set_global_level(found.level - 1)
    return made(curriculum.generate_configuration({"seed": found.seed, "size": 1}))[0]


@pytest.mark.parametrize("task", TASKS)
def test_the_answer_of_the_package_is_right_and_another_is_wrong(task: str) -> None:
    row = next(ReasoningGym.make([task], 1, 7, 2))
    problem = entry(row["answer"])
    assert str(row["prompt"]).startswith(problem["question"])
    right, wrong, none = judged(
        f"I think <answer>{problem['answer']}</answer>.",
        "<answer>no idea</answer>",
        str(problem["answer"]),
        gold=row["answer"],
    )
    assert right.outcome == "right", right
    assert wrong.outcome == "wrong", wrong
    assert (none.outcome, none.reason) == ("wrong", "no answer")


def test_another_solution_than_the_packages_is_right() -> None:
    """Countdown has many solutions; its scorer computes the value."""
    row = next(ReasoningGym.make(["countdown"], 1, 3, 1))
    answer = entry(row["answer"])["answer"]
    (verdict,) = judged(f"<answer>({answer}) + 0*1 - 0</answer><answer> ({answer}) </answer>", gold=row["answer"])
    assert verdict.is_right


def test_an_answer_that_is_a_program_runs_confined() -> None:
    row = next(ReasoningGym.make(["countdown"], 1, 3, 1))
    target = Path("/tmp/sod-reasoning-gym-escaped")
    attack = f"<answer>__import__('pathlib').Path('{target}').touch()</answer>"
    hangs = "<answer>9**9**9**9</answer>"
    first, second = judged(attack, hangs, gold=row["answer"])
    assert not target.exists()
    assert not first.is_right
    assert not second.is_right


def test_an_answer_that_prints_a_score_and_ends_the_scorer_is_not_right() -> None:
    row = next(ReasoningGym.make(["countdown"], 1, 3, 1))
    attack = """<answer>print("1.0", flush=True) or __import__("os")._exit(0)</answer>"""
    (verdict,) = judged(attack, gold=row["answer"])
    assert verdict.outcome == "wrong"


def test_rows_repeat_and_are_problems(tmp_path: Path) -> None:
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for file in files:
        command = ["data", "make", "reasoning_gym:chain_sum,countdown", "--rows", "6", "--seed", "3", "--level", "2"]
        assert run([*command, "--out", str(file)]) == 0
    assert files[0].read_bytes() == files[1].read_bytes()
    problems = load_problems(files[0])
    assert [problem.labels["source"] for problem in problems] == ["chain_sum", "countdown"] * 3
    assert {problem.kind for problem in problems} == {"reasoning_gym"}


def test_every_task_can_be_made() -> None:
    slow = ("sokoban", "arc_agi", "figlet_font", "group_anagrams", "codeio", "intermediate_integration")
    names = [name for name in DATASETS if name not in (*NOT_SCORED, *slow)]
    assert len(list(ReasoningGym.make(names, len(names), 0, 1))) == len(names) > 90


def test_unknown_tasks_and_foreign_golds_are_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="'sums' is not a task of reasoning_gym"):
        list(ReasoningGym.make(["sums"], 1, 0, 1))
    file = tmp_path / "rows.jsonl"
    for gold, words in (
        ("25", "no problem of reasoning-gym"),
        (json.dumps({"task": "sums", "level": 1, "seed": 1}), "'sums'"),
    ):
        file.write_text(json.dumps({"prompt": "?", "answer": gold, "kind": "reasoning_gym"}) + "\n")
        with pytest.raises(DataError, match=words):
            load_problems(file)
