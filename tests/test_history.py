"""Facts from earlier updates: what a rule reads of them, and that a resumed run continues with the same."""

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from timings import untimed

from sod.batching import CreditedBatch, ScoredBatch, collate
from sod.config import TrainOptions
from sod.credit.history import HISTORY_FILE, RuleHistory
from sod.errors import RunError
from sod.lab import settings
from sod.runs.checkpoints import TRAINER
from sod.training.on_policy import train
from sod.types import Group, Piece, Problem, Trajectory, Verdict


def batch_of(verdicts: dict[str, list[bool]]) -> ScoredBatch:
    groups = []
    for id, right in verdicts.items():
        problem = Problem(id=id, messages=(), answer="1")
        pieces = (Piece("prompt", (1,)), Piece("student", (2,)))
        attempts = [
            Trajectory(problem, i, pieces, "answered", "", Verdict(outcome="right" if each else "wrong"))
            for i, each in enumerate(right)
        ]
        groups.append(Group(problem, attempts))
    batch = collate(groups)
    return batch.scored(torch.zeros(batch.ids_BT.shape))


def credited(batch: ScoredBatch, **state: float) -> CreditedBatch:
    return replace(batch, state=state).credited(torch.zeros(batch.ids_BT.shape))


def rates(batch: ScoredBatch) -> list[float | None]:
    assert batch.student_rates_B is not None
    return [None if math.isnan(rate) else rate for rate in batch.student_rates_B.tolist()]


def test_a_rate_is_that_of_earlier_updates_and_of_one_problem() -> None:
    history = RuleHistory(teacher_rates={"a": 0.75})
    first = history.add_to(batch_of({"a": [True, False], "b": [False]}), 0, 4)
    assert rates(first) == [None, None, None]
    assert (first.update, first.progress) == (0, 0.0)
    history.learn(credited(first, withdrawn=1.0))
    second = history.add_to(batch_of({"b": [True], "a": [True, True], "c": [True]}), 3, 4)
    assert rates(second) == [0.0, 0.5, 0.5, None]
    assert (second.update, second.progress, second.state) == (3, 0.75, {"withdrawn": 1.0})
    assert second.teacher_rates_B is not None
    assert second.teacher_rates_B[1:3].tolist() == [0.75, 0.75]
    assert second.teacher_rates_B[[0, 3]].isnan().all()
    history.learn(credited(second))
    assert history.attempts == {"a": (3, 4), "b": (1, 2), "c": (1, 1)}
    assert RuleHistory().add_to(first, 0, 4).teacher_rates_B is None


def test_a_checkpoint_holds_the_same_numbers_and_an_old_one_holds_none(tmp_path: Path) -> None:
    history = RuleHistory()
    history.learn(credited(batch_of({"a": [True, False], "b": [False]}), first_d=1 / 3))
    (tmp_path / TRAINER).mkdir()
    again = RuleHistory()
    again.restore(tmp_path)
    assert again == RuleHistory()
    history.save(tmp_path)
    again.restore(tmp_path)
    assert again == history
    (tmp_path / TRAINER / HISTORY_FILE).write_text('{"attempts": {"a": 1}}')
    with pytest.raises(RunError, match="cannot be read"):
        again.restore(tmp_path)


RULE = """
import torch
from sod.core import Weights, step_mean

def learning(d_BK, info):
    seen = info.state.get("seen", 0.0)
    rate_B = info.need("student_rates").nan_to_num(1.0)
    unsure_BK = step_mean(info.need("student_entropy"), info.ids_BT)
    weight_BK = (0.5 + rate_B[:, None]) * (1 + unsure_BK) * (1 + seen / 3)
    return Weights(weight_BK, 1 - info.need("progress").item() / 2, {"seen": seen + float(d_BK.mean())})
"""


@pytest.mark.slow
def test_a_resumed_run_with_a_rule_that_keeps_numbers_is_the_same_bit_for_bit(
    trembling: Callable[[Path, float], None], teacher: Path, problem_file: Path, tmp_path: Path
) -> None:
    trembling(tmp_path / "student", 0.02)
    (tmp_path / "mine.py").write_text(RULE)
    lines = problem_file.read_text().splitlines(keepends=True)
    (tmp_path / "few.jsonl").write_text("".join(lines[:4]))  # each problem comes again after two updates
    given = {
        "rollout": settings.ROLLOUT | {"problems": 2, "group": 2, "max_tokens": 100},
        "learn": {"lr": 1e-3, "minibatches": 2},
        "reward": settings.REWARD,
        "tool": settings.TOOL,
        "sandbox": {"workers": 2},
        "student": tmp_path / "student",
        "teacher": teacher,
        "data": tmp_path / "few.jsonl",
        "algorithm": {"name": f"{tmp_path / 'mine.py'}:learning"},
        "updates": 4,
        "save_every": 1,
        "keep": 4,
    }
    whole = train(TrainOptions.model_validate(given | {"out": tmp_path / "whole"}))
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    for checkpoint in sorted((tmp_path / "part" / "checkpoints").iterdir())[2:]:  # as if killed after two updates
        shutil.rmtree(checkpoint)
    resumed = train(TrainOptions.model_validate(given | {"out": tmp_path / "part", "resume": True}))
    assert [exact(row) for row in resumed.metrics()] == [exact(row) for row in whole.metrics()]
    ends = [run.newest_checkpoint() for run in (whole, resumed)]
    one, other = (end[1] for end in ends if end is not None)
    weights, others = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    history = RuleHistory()
    history.restore(one)
    assert (one / TRAINER / HISTORY_FILE).read_bytes() == (other / TRAINER / HISTORY_FILE).read_bytes()
    assert [count for _, count in history.attempts.values()] == [4, 4, 4, 4]
    assert history.state["seen"] > 0


def exact(row: dict[str, float]) -> dict[str, float]:
    """Leave out times, and the sampler's rounding, which depends on the sequences that were sampled side by side."""
    return {name: value for name, value in untimed(row).items() if not name.startswith("sampler/")}
