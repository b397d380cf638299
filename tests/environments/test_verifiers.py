"""verifiers: its own loop, its own rubrics; the student answers its model requests."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from playing import REASON, Played, play_async, total, writes

pytest.importorskip("verifiers", reason=REASON)

from sod.environments.verifiers import Verifiers
from sod.errors import DataError


def played(taskset: str, *attempts: tuple[int, Sequence[str]]) -> list[Played]:
    """Play attempts at tasks of a taskset, all at once."""

    async def play() -> list[Played]:
        await Verifiers.start()
        try:
            return await asyncio.gather(
                *(play_async(Verifiers(taskset), {"task": task}, writes(*texts)) for task, texts in attempts)
            )
        finally:
            await Verifiers.stop()

    return asyncio.run(play())


def test_a_single_turn_is_scored_by_the_tasksets_weighted_rewards() -> None:
    right, short, wrong = played("sums_taskset", (0, ["1"]), (1, ["7"]), (2, ["I do not know this."]))
    opening, steps, verdict = right
    assert [(message["role"], message["content"]) for message in opening.conversation] == [
        ("system", "Be short."),
        ("user", "What is 0 + 1?"),
    ]
    assert not opening.tools
    assert steps[-1].is_over
    assert verdict.is_right
    assert [total(steps) for _, steps, _ in (right, short, wrong)] == [1.0, 0.25, 0.0]
    assert not short[2].is_right


def test_a_user_of_the_environment_answers_turns_of_text() -> None:
    turns = ["3", "8", "5"]
    first, again = played("guessing_taskset", (0, turns), (0, turns))
    assert first == again
    _, steps, verdict = first
    assert [step.answer for step in steps] == ["Higher.", "Lower.", ()]
    assert verdict.is_right


def test_an_attempt_that_is_broken_off_leaves_nothing_behind() -> None:
    async def attempt() -> None:
        await Verifiers.start()
        environment = Verifiers("guessing_taskset")
        await play_async(environment, {}, writes("3"))
        assert environment._ended is not None
        assert environment._ended.done()
        assert Verifiers.endpoint is not None
        assert not Verifiers.endpoint.registered
        await Verifiers.stop()

    asyncio.run(attempt())


def test_an_environment_that_raises_is_a_failure_in_words() -> None:
    """The taskset reads the student's turn as a number; whatever it then raises is the environment's failure."""
    with pytest.raises(RuntimeError, match=r"verifiers: .*invalid literal"):
        played("guessing_taskset", (0, ["x"]))


@pytest.mark.parametrize(
    ("taskset", "setting", "words"),
    [
        ("nothing", {}, "cannot load the taskset 'nothing'"),
        ("sums_taskset", {"task": 7}, "has 3 tasks"),
        ("", {}, "names no"),
    ],
)
def test_what_does_not_exist_is_an_error_in_words(taskset: str, setting: dict[str, Any], words: str) -> None:
    async def attempt() -> None:
        await Verifiers.start()
        try:
            await play_async(Verifiers(taskset), setting, writes())
        finally:
            await Verifiers.stop()

    with pytest.raises(DataError, match=words):
        asyncio.run(attempt())
