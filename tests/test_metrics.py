"""What GRPO learns from, in numbers: right against wrong, or the reward's corrections alone."""

from collections.abc import Callable

import pytest

from sod.runs import metrics
from sod.types import Group, Problem, Trajectory

Make = Callable[..., Trajectory]


def group(make: Make, *attempts: tuple[bool, float]) -> Group:
    """A group of attempts, each right or wrong and worth a reward."""
    trajectories = [make(("student", [1]), correct=right, reward=reward) for right, reward in attempts]
    return Group(Problem(id="p", messages=(), answer="1"), trajectories)


def seen(*groups: Group) -> dict[str, float]:
    found = metrics.of_rollout(groups)
    return {
        name: found[f"rollout/{name}"]
        for name in ("groups_alike", "groups_solved", "groups_shaped", "advantage_shaped")
    }


def shaped_share(advantage: str, *groups: Group) -> float:
    return metrics.of_rollout(groups, advantage)["rollout/advantage_shaped"]


RIGHT, WRONG, WRONG_WITH_CALLS = (True, 1.0), (False, -1.0), (False, -0.6)


@pytest.mark.parametrize(
    ("attempts", "alike", "solved", "shaped"),
    [
        ([WRONG, WRONG], 1, 0, 0),
        ([RIGHT, RIGHT], 1, 1, 0),
        ([RIGHT, WRONG], 0, 1, 0),
        ([RIGHT, WRONG, WRONG_WITH_CALLS], 0, 1, 0),
        ([WRONG, WRONG_WITH_CALLS], 1, 0, 1),
        ([RIGHT, (True, 0.4)], 1, 1, 1),
        ([WRONG], 1, 0, 0),
    ],
)
def test_groups_are_compared_by_their_verdicts_and_not_by_their_shaped_rewards(
    attempts: list[tuple[bool, float]], alike: int, solved: int, shaped: int, trajectory: Make
) -> None:
    assert list(seen(group(trajectory, *attempts)).values()) == [alike, solved, shaped, shaped]


def test_shares_are_of_groups_with_contrast_and_of_the_whole_advantage(trajectory: Make) -> None:
    mixed, by_shaping = group(trajectory, RIGHT, WRONG), group(trajectory, WRONG, WRONG_WITH_CALLS)
    found = seen(mixed, by_shaping, by_shaping, group(trajectory, WRONG, WRONG), group(trajectory))
    assert found == {
        "groups_alike": 3 / 4,
        "groups_solved": 1 / 4,
        "groups_shaped": 2 / 3,
        "advantage_shaped": pytest.approx(2 / 3, abs=1e-5),
    }


def test_the_share_is_of_the_advantage_that_the_run_learns_from(trajectory: Make) -> None:
    mixed = group(trajectory, RIGHT, WRONG, WRONG, WRONG)  # sum of |reward - mean|: 3; deviation of verdicts: 1
    by_shaping = group(trajectory, WRONG, WRONG, WRONG, WRONG_WITH_CALLS)  # 0.6
    both = mixed, by_shaping
    assert shaped_share("grpo", *both) == pytest.approx(0.5, abs=1e-5)
    assert shaped_share("dr_grpo", *both) == pytest.approx(0.6 / 3.6)
    assert shaped_share("rloo", *both) == pytest.approx(0.6 / 3.6)
    assert shaped_share("verdict", *both) == pytest.approx(0.6 / 3.6, abs=1e-5)
