"""avg@n, pass@k, maj@n and their errors, against closed forms, exhaustive enumeration and simulation."""

import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean, pstdev, stdev

import pytest

from sod.evaluation.measures import Tally, majority, mean_over, pass_at, powers_of_two, question_error, sampling_error
from sod.rewards.math import MathJudge
from sod.rewards.symbolic import Symbolic
from sod.types import Group, Problem, Trajectory

Make = Callable[..., Trajectory]


@pytest.fixture
def attempts(trajectory: Make) -> Callable[..., list[Trajectory]]:
    """Attempts with these answers; the right one is "1"."""
    return lambda *answers: [trajectory(answer=answer, sample=i) for i, answer in enumerate(answers)]


@pytest.fixture
def group(attempts: Callable[..., list[Trajectory]]) -> Callable[..., Group]:
    def make(*answers: str | None, **labels: str) -> Group:
        return Group(Problem(id="p", messages=(), answer="1", labels=labels), attempts(*answers))

    return make


MakeGroup = Callable[..., Group]


# pass@k


@pytest.mark.parametrize("tried", range(1, 8))
def test_pass_at_k_is_the_share_of_all_choices_of_k_samples_with_a_right_one(tried: int) -> None:
    for right in range(tried + 1):
        verdicts = [True] * right + [False] * (tried - right)
        for k in range(1, tried + 1):
            choices = list(itertools.combinations(verdicts, k))
            assert pass_at(k, right, tried) == pytest.approx(sum(map(any, choices)) / len(choices))


@pytest.mark.parametrize(("right", "expected"), [(0, 0.0), (1, 1.0), (16, 1.0), (32, 1.0)])
def test_pass_at_n_of_n_is_whether_any_is_right(right: int, expected: float) -> None:
    assert pass_at(32, right, 32) == expected


def test_pass_at_k_is_unbiased() -> None:
    """Over all outcomes of n samples, each right with probability p, its mean is 1 - (1 - p)^k."""
    p, n, k = 0.05, 32, 16
    mean = sum(math.comb(n, c) * p**c * (1 - p) ** (n - c) * pass_at(k, c, n) for c in range(n + 1))
    assert mean == pytest.approx(1 - (1 - p) ** k)


def test_pass_at_k_is_not_defined_by_fewer_samples() -> None:
    with pytest.raises(ValueError, match=r"pass@4 is not defined by 3 samples"):
        pass_at(4, 1, 3)


@pytest.mark.parametrize(
    ("n", "ks"), [(0, []), (1, [1]), (4, [1, 2, 4]), (6, [1, 2, 4, 6]), (32, [1, 2, 4, 8, 16, 32])]
)
def test_pass_is_given_for_powers_of_two_and_n_itself(n: int, ks: list[int]) -> None:
    assert list(powers_of_two(n)) == ks


# maj@n


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["1", "1", "2"], 1.0),
        (["1", "2", "2"], 0.0),
        (["1", "2"], 1 / 2),  # a tie is shared
        (["1", "2", "3"], 1 / 3),
        (["2", "3"], 0.0),
        (["1", None, None, None], 1.0),  # no answer is no vote
        ([None, None], 0.0),
        ([], 0.0),
    ],
)
def test_the_majority_is_right_or_wrong_or_shared(
    attempts: Callable[..., list[Trajectory]], answers: list[str | None], expected: float
) -> None:
    assert majority(attempts(*answers)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("gold", "right", "wrong"),
    [
        (r"\frac12", ["1/2", "0.5", r"\frac12", r"50\%", r"\sin 30^\circ"], ["2", "2", "2", "2.0", "0.51"]),
        (r"\sqrt2-1", [r"\sqrt2-1", r"\frac{1}{1+\sqrt2}", r"\tan 22.5^\circ"], [r"\sqrt2", r"\frac{2}{\sqrt2}", "1"]),
        ("204", ["204", "x = 204", "204.0", r"204\text{ ways}"], ["205", "205.0", r"205\text{ ways}", "17 = 204"]),
        (r"\{1,2\}", ["1, 2", "2, 1", r"x = 1 \text{ or } x = 2"], ["1", r"\{1\}", "2"]),
    ],
)
def test_right_answers_are_one_vote_however_they_are_written(
    trajectory: Make, gold: str, right: list[str], wrong: list[str]
) -> None:
    judge = MathJudge(Symbolic(limit_s=30))
    verdicts = [judge.judge(rf"\boxed{{{answer}}}", gold) for answer in (*right, *wrong)]
    judge.close()
    assert [verdict.outcome for verdict in verdicts] == ["right"] * len(right) + ["wrong"] * len(wrong)
    assert len({verdict.answer for verdict in verdicts[: len(right)]}) == 1
    group = [trajectory(answer=v.answer, correct=v.outcome == "right", sample=i) for i, v in enumerate(verdicts)]
    assert majority(group) == 1.0


def test_right_answers_are_one_vote_even_if_a_judge_names_them_differently(trajectory: Make) -> None:
    answers = [("1/2", True), ("0.5", True), ("2", False), ("3", False)]
    assert majority([trajectory(answer=a, correct=c, sample=i) for i, (a, c) in enumerate(answers)]) == 1.0


def test_the_majority_does_not_depend_on_the_order(attempts: Callable[..., list[Trajectory]]) -> None:
    answers = ["1", "1", "2", "2", "3", None]
    assert {majority(attempts(*order)) for order in itertools.permutations(answers)} == {0.5}


def test_a_shared_tie_is_what_drawing_one_of_the_tied_gives(attempts: Callable[..., list[Trajectory]]) -> None:
    draw = random.Random(0)
    votes = ["1", "1", "2", "2", "3", "3", "4"]
    drawn = fmean(draw.choice(["1", "2", "3"]) == "1" for _ in range(20_000))
    assert majority(attempts(*votes)) == pytest.approx(drawn, abs=0.02)


# Errors


def test_the_question_error_is_the_deviation_over_the_root_of_the_number() -> None:
    assert question_error([1.0, 0.0, 1.0, 0.0]) == pytest.approx(math.sqrt(1 / 3) / 2)
    assert question_error([0.3, 0.3, 0.3]) == pytest.approx(0.0)
    assert question_error([0.3]) is None


def test_the_sampling_error_is_that_of_other_samples_of_the_same_problems() -> None:
    """Squared, its mean over all outcomes is the variance of the solve rate itself, p (1 - p) / n."""
    p, n = 0.3, 5
    chance = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    squared = sum(weight * (sampling_error([c], [n]) or 0.0) ** 2 for c, weight in enumerate(chance))
    assert squared == pytest.approx(p * (1 - p) / n)


def test_the_sampling_error_of_several_problems_is_that_of_their_mean() -> None:
    draw = random.Random(1)
    rates, n = [0.1, 0.5, 0.9, 0.7], 8
    sample = lambda: [sum(draw.random() < p for _ in range(n)) for p in rates]  # noqa: E731
    repeated = [sample() for _ in range(4000)]
    told = math.sqrt(fmean((sampling_error(right, [n] * 4) or 0.0) ** 2 for right in repeated))
    assert told == pytest.approx(pstdev([sum(right) / n / 4 for right in repeated]), rel=0.05)


def test_a_single_sample_tells_no_sampling_error() -> None:
    assert sampling_error([1, 0], [1, 1]) is None
    assert sampling_error([], []) is None
    assert sampling_error([2, 2, 1], [4, 4, 1]) == pytest.approx(sampling_error([2, 2, 2], [4, 4, 4]))


def test_the_question_error_contains_the_sampling_error() -> None:
    """On simulated sets of 30 problems of which each has a rate of its own, it is the spread of avg@n over new sets."""
    draw = random.Random(2)

    def measure() -> list[float]:
        rates = [draw.betavariate(0.5, 0.5) for _ in range(30)]
        return [sum(draw.random() < p for _ in range(8)) / 8 for p in rates]

    repeated = [measure() for _ in range(2000)]
    told = math.sqrt(fmean((question_error(solved) or 0.0) ** 2 for solved in repeated))
    assert told == pytest.approx(stdev([fmean(solved) for solved in repeated]), rel=0.05)


# Together


def test_three_problems(group: MakeGroup) -> None:
    tally = Tally()
    for each in (group("1", "1", "1", "1"), group("1", "2", "2", None), group("3", "4", None, None)):
        tally.add(each)
    measured = tally.measured()
    assert (measured["problems"], measured["samples"], measured["problems_lost"]) == (3, 4, 0)
    assert measured["avg"] == measured["pass@1"] == pytest.approx((1 + 1 / 4 + 0) / 3)
    assert measured["pass@2"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert measured["pass@4"] == pytest.approx(2 / 3)
    assert measured["maj"] == pytest.approx(1 / 3)
    assert measured["no_answer"] == pytest.approx(3 / 12)
    assert measured["avg_se"] == pytest.approx(stdev([1, 0.25, 0]) / math.sqrt(3))
    assert measured["avg_sampling_se"] == pytest.approx(math.sqrt(1 / 4 * 3 / 4 / 3) / 3)


def test_a_problem_counts_the_same_however_many_attempts_it_lost(group: MakeGroup) -> None:
    tally = Tally()
    tally.add(group("1"))
    tally.add(group("2", "2", "2", "2"))
    assert (tally.measured()["avg"], tally.measured()["samples"]) == (0.5, 4)


def test_pass_and_majority_are_over_the_problems_with_enough_graded_samples(group: MakeGroup) -> None:
    """Three problems of four attempts; the second lost two of them, the third all."""
    tally = Tally()
    tally.add(group("1", "2", "2", "2"))
    tally.add(replace(group("1", "1"), dropped=1, ungraded=[group("1").trajectories[0]]))
    tally.add(replace(group(), dropped=4))
    measured = tally.measured()
    assert (measured["samples"], measured["problems"], measured["problems_lost"]) == (4, 2, 1)
    assert measured["avg"] == measured["pass@1"] == pytest.approx((1 / 4 + 1) / 2)
    assert measured["pass@2"] == pytest.approx((1 / 2 + 1) / 2)
    assert (measured["pass@4"], measured["maj"], measured["problems@4"]) == (1.0, 0.0, 1)
    assert "problems@2" not in measured
    assert measured["avg_low"] == pytest.approx((1 / 4 + 2 / 4 + 0) / 3)
    assert measured["avg_high"] == pytest.approx((1 / 4 + 4 / 4 + 4 / 4) / 3)


def test_without_a_problem_of_enough_graded_samples_pass_and_majority_are_not_known(group: MakeGroup) -> None:
    tally = Tally()
    for _ in range(3):
        tally.add(replace(group("1", "1", "1"), dropped=1))
    measured = tally.measured()
    assert (measured["samples"], measured["pass@2"], measured["problems@4"]) == (4, 1.0, 0)
    assert not {"pass@4", "maj"} & measured.keys()
    assert mean_over([measured, measured])["problems@4"] == 0


def test_a_problem_that_lost_every_attempt_is_left_out_and_counted(group: MakeGroup) -> None:
    tally = Tally()
    tally.add(group())
    tally.add(group("1", "1"))
    measured = tally.measured()
    assert (measured["problems"], measured["problems_lost"], measured["avg"]) == (1, 1, 1.0)


def test_of_nothing_there_are_no_rates() -> None:
    assert Tally().measured() == {"problems": 0, "problems_lost": 0, "samples": 0}


def test_programs_have_no_votes_and_no_answer_where_there_is_no_code(trajectory: Make) -> None:
    tally = Tally(votes=False)
    problem = Problem(id="p", messages=(), answer="", kind="code")
    attempts = [
        replace(trajectory(answer=None, correct=True, reason="all tests passed"), problem=problem),
        replace(trajectory(answer=None, reason="no code"), problem=problem),
    ]
    tally.add(Group(problem, attempts))
    measured = tally.measured()
    assert "maj" not in measured
    assert (measured["avg"], measured["no_answer"]) == (0.5, 0.5)


def test_in_a_set_with_programs_an_attempt_at_mathematics_without_an_answer_counts_as_such(trajectory: Make) -> None:
    tally = Tally(votes=False)
    attempts = [trajectory(answer=None, reason="no answer"), trajectory(answer="1")]
    tally.add(Group(Problem(id="p", messages=(), answer="1"), attempts))
    assert tally.measured()["no_answer"] == 0.5


def test_results_are_broken_down_by_each_label(group: MakeGroup) -> None:
    tally = Tally()
    tally.add(group("1", "1", difficulty="easy", domain="algebra"))
    tally.add(group("1", "2", difficulty="hard", domain="algebra"))
    tally.add(group("2", "2", difficulty="hard"))
    by = tally.by_label()
    assert {value: of["avg"] for value, of in by["difficulty"].items()} == {"easy": 1.0, "hard": 0.25}
    assert {value: of["problems"] for value, of in by["domain"].items()} == {"algebra": 2}


def test_benchmarks_count_alike_in_their_mean() -> None:
    few = {"problems": 30, "avg": 0.2, "avg_se": 0.03, "maj": 0.3}
    many = {"problems": 500, "avg": 0.6, "avg_se": 0.04}
    mean = mean_over([few, many])
    assert mean == {"problems": 530, "avg": pytest.approx(0.4), "avg_se": pytest.approx(0.05 / 2)}
    assert mean_over([]) == {}
    assert "avg" not in mean_over([few, Tally().measured()])  # a mean over a benchmark that was not measured would lie


def enumerate_majority(votes: Sequence[str | None]) -> float:
    """By its definition: draw one of the most frequent answers."""
    given = [vote for vote in votes if vote is not None]
    if not given:
        return 0.0
    most = max(map(given.count, given))
    tied = {vote for vote in given if given.count(vote) == most}
    return ("1" in tied) / len(tied)


def test_all_votes_of_four_samples_and_three_answers(attempts: Callable[..., list[Trajectory]]) -> None:
    for votes in itertools.product(["1", "2", "3", None], repeat=4):
        assert majority(attempts(*votes)) == pytest.approx(enumerate_majority(votes))


def test_a_right_sample_counts_for_the_majority_also_if_its_environment_states_no_answer(
    attempts: Callable[..., list[Trajectory]],
) -> None:
    found = [replace(each, verdict=replace(each.judged, answer=None)) for each in attempts("1", "1", "2")]
    assert majority(found) == 1
    tally = Tally()
    tally.add(Group(found[0].problem, found))
    assert tally.measured()["no_answer"] == pytest.approx(1 / 3)
