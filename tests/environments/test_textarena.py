"""TextArena: games for one player."""

import threading

import pytest
from playing import REASON, Played, play, text_of, total, writes

pytest.importorskip("textarena", reason=REASON)

from sod.environments import Opening, Step, Turn
from sod.environments.textarena import GAMES, TextArena
from sod.errors import DataError, OptionError

MOVES = ("[1 2 3 4]", "[up]", "[5]", "[1 1 left]", "nothing")


@pytest.mark.parametrize("row", list(TextArena.make([], len(GAMES), 1, 1)), ids=lambda row: row["setting"]["game"])
def test_every_game_of_the_maker_repeats_also_beside_others(row: dict[str, dict[str, str]]) -> None:
    first = play(TextArena(), row["setting"], writes(*MOVES))
    found: list[Played] = []
    threads = [
        threading.Thread(target=lambda: found.append(play(TextArena(), row["setting"], writes(*MOVES))))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [first] * 3
    assert text_of(first[0])


def test_a_won_game_is_right() -> None:
    def student(opening: Opening, steps: list[Step]) -> Turn | None:
        low, high = 1, 20
        for step in steps:
            low, high = (
                (middle(low, high) + 1, high) if "higher" in step.observations[0].text else (low, middle(low, high) - 1)
            )
        return Turn(f"I guess [{middle(low, high)}]")

    def middle(low: int, high: int) -> int:
        return (low + high) // 2

    _, steps, verdict = play(TextArena(), {"game": "GuessTheNumber-v0", "game_seed": 4}, student)
    assert verdict.is_right
    assert total(steps) == 1
    assert {step.outcome for step in steps} == {"ok"}


def test_invalid_moves_are_errors_of_the_student_and_end_the_game() -> None:
    _, steps, verdict = play(TextArena(), {"game": "GuessTheNumber-v0"}, writes("five", "six", "seven"))
    assert [step.outcome for step in steps] == ["error", "error"]
    assert steps[-1].is_over
    assert not verdict.is_right


@pytest.mark.parametrize("game", ["Nim-v0", "Wordle-v0", "Chess-v0", "Nothing-v0"])
def test_games_that_cannot_be_played_are_refused_in_words(game: str) -> None:
    with pytest.raises(DataError, match=game):
        play(TextArena(), {"game": game}, writes())


def test_made_rows_repeat_and_have_levels() -> None:
    assert list(TextArena.make([], 5, 1, 1)) == list(TextArena.make([], 5, 1, 1))
    assert [row["setting"]["game"] for row in TextArena.make(["Mastermind"], 1, 0, 2)] == ["Mastermind-v0-hard"]
    with pytest.raises(OptionError, match="Tasks: 2048"):
        list(TextArena.make(["Chess"], 1, 0, 1))
