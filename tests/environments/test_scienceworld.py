"""ScienceWorld: its own package and Java."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playing import REASON, play, text_of, total, writes

pytest.importorskip("scienceworld", reason=REASON)
from sod.environments import Turn
from sod.environments.scienceworld import ScienceWorld
from sod.errors import DataError
from sod.types import Problem

WALK = ("look around", "go to kitchen", "open cupboard", "fly away", "focus on thermometer", "inventory", "wait1")


pytestmark = pytest.mark.skipif(shutil.which("java") is None, reason="ScienceWorld needs Java, and there is none")


@pytest.fixture(scope="module", autouse=True)
def pool() -> Iterator[None]:
    ScienceWorld.start()
    yield
    ScienceWorld.stop()
    assert not ScienceWorld._idle


@pytest.mark.parametrize("task", ["boil", "find-living-thing", "chemistry-mix-paint-secondary-color"])
def test_the_same_turns_give_the_same_answers_in_any_process(task: str) -> None:
    first = play(ScienceWorld(), {"task": task, "variation": 1}, writes(*WALK))
    again = play(ScienceWorld(), {"task": task, "variation": 1}, writes(*WALK))
    ScienceWorld.stop()  # the next attempt starts a new process
    assert first == again == play(ScienceWorld(), {"task": task, "variation": 1}, writes(*WALK))


def test_the_seed_chooses_a_training_variation() -> None:
    begun = [text_of(play(ScienceWorld(), {"task": "melt"}, writes(), seed)[0]) for seed in (1, 1, 2, 3, 4)]
    assert begun[0] == begun[1]
    assert len(set(begun)) > 1


def test_a_correct_solution_gets_the_full_score() -> None:
    """The package's own solution of the task, command by command."""
    from sod.environments.scienceworld import _end, _launch

    simulator = _launch()
    try:
        simulator.load("find-living-thing", 0, "easy", generateGoldPath=True)
        solution = simulator.get_gold_action_sequence()
    finally:
        _end(simulator)
    setting = {"task": "find-living-thing", "variation": 0, "simplifications": "easy", "turns": 100}
    _, steps, verdict = play(ScienceWorld(), setting, writes(*solution))
    assert verdict.is_right
    assert 0.9 < total(steps) <= 1  # the first look has scored already
    assert steps[-1].is_over


def test_a_fatal_mistake_ends_the_attempt_without_score() -> None:
    _, steps, verdict = play(ScienceWorld(), {"task": "boil", "variation": 0}, writes("focus on agent", "wait"))
    assert len(steps) == 1
    assert steps[0].is_over
    assert total(steps) == 0
    assert verdict.outcome == "wrong"


def test_unknown_commands_are_errors_of_the_student() -> None:
    _, steps, _ = play(
        ScienceWorld(), {"task": "boil", "variation": 0}, writes("fly away", "I look.\nAction: look around")
    )
    assert [step.outcome for step in steps] == ["error", "ok"]


def test_the_prompt_lists_the_commands_if_the_setting_asks_for_them() -> None:
    setting: dict[str, Any] = {"task": "boil", "variation": 0, "simplifications": "easy"}
    plain, _, _ = play(ScienceWorld(), setting, writes())
    listed, steps, _ = play(ScienceWorld(), setting | {"commands": True}, writes("inventory"))
    assert "Possible commands:" not in text_of(plain)
    assert "look around" in text_of(listed).partition("Possible commands:")[2]
    assert "Possible commands:" in steps[0].observations[0].text


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"task": "bake"}, "no variation None of the task 'bake'"),
        ({"task": "boil", "variation": 1000}, "Give 0 to 29"),
        ({"task": "boil", "simplifications": "hard"}, "simplifications"),
        ({"tasks": "boil"}, "setting.task: Field required"),
        ({"task": "boil", "varation": 1}, "setting.varation: Extra inputs"),
    ],
)
def test_a_wrong_setting_is_an_error_in_words(setting: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        play(ScienceWorld(), setting, writes())


def test_a_process_that_dies_is_not_used_again() -> None:
    environment = ScienceWorld()
    environment.open(Problem(id="p", messages=(), answer="", setting={"task": "boil", "variation": 0}), 0)
    process = environment._simulator._gateway.java_process
    process.kill()
    process.wait()
    with pytest.raises(Exception, match=r"An error occurred|Error"):
        environment.step(Turn("look around"))
    environment.close()
    assert all(each._gateway.java_process is not process for each in ScienceWorld._idle)
    play(ScienceWorld(), {"task": "boil", "variation": 0}, writes("look around"))


def test_made_rows_repeat_and_can_be_played() -> None:
    rows = list(ScienceWorld.make(["boil", "melt"], 4, 3, 1))
    assert rows == list(ScienceWorld.make(["boil", "melt"], 4, 3, 1))
    assert [row["setting"]["task"] for row in rows] == ["boil", "melt"] * 2
    play(ScienceWorld(), rows[1]["setting"], writes("look around"))
