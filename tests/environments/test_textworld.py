"""TextWorld: games are generated and compiled by its own package."""

from collections.abc import Iterator
from typing import Any

import pytest
from playing import REASON, play, text_of, total, writes

pytest.importorskip("textworld", reason=REASON)

import textworld  # pyright: ignore[reportMissingImports]

from sod.environments import Opening, Step, Turn
from sod.environments.textworld import LARGEST, TextWorld
from sod.errors import DataError, OptionError


@pytest.fixture(scope="module", autouse=True)
def games() -> Iterator[None]:
    TextWorld.start()
    yield
    folder = TextWorld._folder
    TextWorld.stop()
    assert folder is None or not folder.exists()


def test_the_same_seed_and_turns_give_the_same_game() -> None:
    setting = {"task": "quest", "level": 2, "commands": True}
    turns = writes("look", "inventory", "go south", "go north")
    first = play(TextWorld(), setting, turns, seed=5)
    folder, TextWorld._folder = TextWorld._folder, None  # the next attempt compiles the game again
    assert first == play(TextWorld(), setting, turns, seed=5)
    assert folder is not None
    TextWorld._folder = folder
    assert text_of(first[0]) != text_of(play(TextWorld(), setting, turns, seed=6)[0])


@pytest.mark.parametrize("task", LARGEST)
def test_the_games_own_solution_gets_the_full_score(task: str) -> None:
    setting = {"task": task, "level": 2, "game_seed": 3}
    play(TextWorld(), setting, writes())
    assert TextWorld._folder is not None
    game = textworld.start(str(TextWorld._folder / f"{task}-2-3.z8"), textworld.EnvInfos(policy_commands=True))
    solution = list(game.reset().policy_commands)
    game.close()
    opening, steps, verdict = play(TextWorld(), setting, writes(*solution))
    assert verdict.is_right, text_of(opening)
    assert total(steps) == pytest.approx(1)
    assert steps[-1].is_over


def test_every_listed_command_is_understood() -> None:
    def student(opening: Opening, steps: list[Step]) -> Turn | None:
        text = steps[-1].observations[0].text if steps else text_of(opening)
        commands = text.rpartition("Possible commands: ")[2].split(", ")
        return Turn(commands[len(steps) % len(commands)]) if len(steps) < 12 else None

    _, steps, _ = play(TextWorld(), {"task": "quest", "level": 6, "game_seed": 1, "commands": True}, student)
    assert {step.outcome for step in steps} == {"ok"}


def test_unknown_verbs_are_errors_of_the_student_and_the_title_is_not_shown() -> None:
    opening, steps, _ = play(TextWorld(), {"task": "quest", "game_seed": 1}, writes("dance", "> look", ""))
    assert [step.outcome for step in steps] == ["error", "ok", "ok"]
    assert "$$" not in text_of(opening)


def test_an_attempt_ends_after_its_last_turn() -> None:
    _, steps, verdict = play(TextWorld(), {"task": "quest", "game_seed": 1, "turns": 3}, writes(*["look"] * 9))
    assert len(steps) == 3
    assert not verdict.is_right


@pytest.mark.parametrize("setting", [{"task": "chess"}, {"level": 0}, {"level": "2"}, {"commands": 1}])
def test_a_wrong_setting_is_an_error_in_words(setting: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=f"setting.{next(iter(setting))}: "):
        play(TextWorld(), setting, writes())


def test_made_rows_repeat() -> None:
    rows = list(TextWorld.make(["quest", "cooking"], 4, 3, 2))
    assert rows == list(TextWorld.make(["quest", "cooking"], 4, 3, 2))
    assert len({row["id"] for row in rows}) == 4
    with pytest.raises(OptionError, match="'chess' is not a task of textworld"):
        list(TextWorld.make(["chess"], 1, 0, 1))
