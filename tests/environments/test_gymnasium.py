"""Gymnasium: environments with text or few actions."""

from typing import Any

import pytest
from playing import REASON, play, text_of, total, writes

pytest.importorskip("gymnasium", reason=REASON)

import gymnasium  # pyright: ignore[reportMissingImports]

from sod.environments.gymnasium import GAMES, Gymnasium
from sod.errors import DataError

LAKE = {"id": "FrozenLake-v1", "arguments": {"is_slippery": False}, "actions": ["left", "down", "right", "up"]}


class Echo(gymnasium.Env):
    """Text in, text out: the student must repeat a word."""

    observation_space = gymnasium.spaces.Dict({"word": gymnasium.spaces.Text(20), "left": gymnasium.spaces.Discrete(4)})
    action_space = gymnasium.spaces.Text(20)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.word, self.left = "".join(map(chr, self.np_random.integers(97, 123, 5))), 3
        return {"word": self.word, "left": self.left}, {}

    def step(self, action: str) -> Any:
        self.left -= 1
        return {"word": self.word, "left": self.left}, 0.5 * (action == self.word), self.left == 1, False, {}


gymnasium.register("Echo-v0", entry_point=Echo)


@pytest.mark.parametrize("row", list(Gymnasium.make([], len(GAMES), 1, 2)), ids=lambda row: row["setting"]["id"])
def test_every_game_of_the_maker_repeats(row: dict[str, Any]) -> None:
    turns = writes(*row["setting"]["actions"], "jump")
    assert play(Gymnasium(), row["setting"], turns) == play(Gymnasium(), row["setting"], turns)


def test_the_way_to_the_goal_is_right_and_a_hole_is_wrong() -> None:
    opening, steps, verdict = play(Gymnasium(), LAKE, writes("down", "down", "Right", "right", "down", "right"))
    assert "Actions: left, down, right, up." in text_of(opening)
    assert verdict.is_right
    assert total(steps) == 1
    _, steps, verdict = play(Gymnasium(), LAKE, writes("down", "right", "right"))
    assert len(steps) == 2
    assert not verdict.is_right


def test_rewards_are_scaled_and_negative_ones_count_at_the_end() -> None:
    cliff: dict[str, Any] = {
        "id": "CliffWalking-v1",
        "actions": ["up", "right", "down", "left"],
        "lowest": -100.0,
        "highest": -13.0,
    }
    _, steps, verdict = play(Gymnasium(), cliff, writes("up", *["right"] * 11, "down"))
    assert [step.reward for step in steps] == [0.0] * 12 + [1.0]
    assert verdict.is_right
    assert not play(Gymnasium(), cliff, writes("up"))[2].is_right


def test_text_spaces_are_played_as_text() -> None:
    opening, steps, _ = play(Gymnasium(), {"id": "Echo-v0"}, writes("wrong", "no"), seed=3)
    word = text_of(opening).rpartition("word: ")[2].split(",")[0]
    assert steps[0].observations[0].text == f"word: {word}, left: 2"
    assert play(Gymnasium(), {"id": "Echo-v0"}, writes(word, word), seed=3)[2].is_right


def test_other_actions_are_errors_of_the_student() -> None:
    _, steps, _ = play(Gymnasium(), LAKE, writes("jump", "7"))
    assert [step.outcome for step in steps] == ["error", "error"]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"id": "Nothing-v0"}, "cannot make 'Nothing-v0'"),
        ({"id": "CartPole-v1"}, "only Text, Discrete"),
        ({"id": "Pendulum-v1"}, "only Text and Discrete"),
        ({"id": "FrozenLake-v1", "actions": ["left"]}, "has 4 actions"),
    ],
)
def test_what_cannot_be_played_is_refused_in_words(setting: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        play(Gymnasium(), setting, writes())
