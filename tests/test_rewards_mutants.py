"""The answers of MATH-500 and what is nearly one of them: every changed answer is wrong."""

import random
from collections import defaultdict
from collections.abc import Iterator

import pytest
from hand_judged import GOLDEN
from mutants import MUTATIONS, mutants

from sod.rewards.math import MathJudge
from sod.rewards.symbolic import Symbolic

OF_EACH_KIND = 110
GOLDS = (GOLDEN / "math500_golds.txt").read_text(encoding="utf-8").splitlines()[1:]


@pytest.fixture(scope="module")
def judge() -> Iterator[MathJudge]:
    judge = MathJudge(Symbolic(limit_s=30))  # these tests are about verdicts, not about time
    yield judge
    judge.close()


@pytest.fixture(scope="module")
def chosen() -> dict[str, list[tuple[str, str]]]:
    """Return pairs (gold, mutant) by kind of change: all, or a sample of the same size and seed each time."""
    by_kind: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for gold in GOLDS:
        for kind, mutant in mutants(gold):
            by_kind[kind].append((gold, mutant))
    return {kind: random.Random(0).sample(pairs, min(OF_EACH_KIND, len(pairs))) for kind, pairs in by_kind.items()}


def test_every_gold_in_a_box_is_right(judge: MathJudge) -> None:
    for end in ("", ".", ",", ";"):
        assert [gold for gold in GOLDS if judge.judge(rf"\boxed{{{gold}{end}}}", gold).outcome != "right"] == []


@pytest.mark.parametrize("kind", [mutation.__name__ for mutation in MUTATIONS])
def test_no_changed_gold_is_right(judge: MathJudge, chosen: dict[str, list[tuple[str, str]]], kind: str) -> None:
    pairs = chosen[kind]
    assert len(pairs) >= 45
    verdicts = [(gold, mutant, judge.judge(rf"It is $\boxed{{{mutant}}}$.", gold)) for gold, mutant in pairs]
    assert [each for each in verdicts if each[2].outcome != "wrong"] == []


def test_more_than_1500_changed_golds_are_judged(chosen: dict[str, list[tuple[str, str]]]) -> None:
    assert sum(map(len, chosen.values())) > 1500
