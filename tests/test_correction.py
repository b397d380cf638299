"""`learn.correction`: importance weights of tokens that the sampler drew with slightly other probabilities."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sod.batching import CreditedBatch, collate
from sod.config import EngineOptions, LearnOptions, TrainOptions
from sod.core import sampler_ratio, sampler_weights
from sod.credit.correction import correction_of, with_correction
from sod.errors import RunError
from sod.planning.checks import of_training
from sod.runs.alarms import raised
from sod.runs.directory import Run
from sod.types import Group, Piece, Problem, Trajectory

OLD = torch.tensor([[-1.0, -2.0, -3.0, -0.5], [-1.0, -1.0, -9.0, -9.0]], dtype=torch.float64)
SAMPLER = OLD - torch.tensor([[0.1, 1.0, -1.0, 9.0], [0.2, -0.3, 9.0, 9.0]], dtype=torch.float64)
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]], dtype=torch.bool)
RATIO = [[math.exp(0.1), math.exp(1), math.exp(-1), 0], [math.exp(0.2), math.exp(-0.3), 0, 0]]
WHOLE = [[math.exp(0.1)] * 3 + [0], [math.exp(-0.1)] * 2 + [0, 0]]


@pytest.mark.parametrize(("level", "expected"), [("token", RATIO), ("sequence", WHOLE)])
def test_the_ratio_is_of_a_token_or_the_product_over_its_sequence(level: Any, expected: list[list[float]]) -> None:
    found_BT = sampler_ratio(OLD, SAMPLER, MASK, level)
    torch.testing.assert_close(found_BT, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(
    ("correction", "expected"),
    [
        ("none", [1, 1, 1]),
        ("truncated", [math.exp(0.1), 2, math.exp(-1)]),
        ("masked", [math.exp(0.1), 0, math.exp(-1)]),
        ("icepop", [math.exp(0.1), 0, 0]),
    ],
)
def test_weights_are_those_of_verl_and_trl_by_hand(correction: Any, expected: list[float]) -> None:
    ratio_T = sampler_ratio(OLD, SAMPLER, MASK, "token")[0, :3]
    torch.testing.assert_close(sampler_weights(ratio_T, correction), torch.tensor(expected, dtype=torch.float64))


def test_a_missing_number_changes_nothing_and_a_large_one_stays_finite() -> None:
    old_BT, sampler_BT = torch.tensor([[-1.0, -1.0]]), torch.tensor([[math.nan, -5000.0]])
    ratio_BT = sampler_ratio(old_BT, sampler_BT, torch.ones(1, 2), "token")
    assert ratio_BT[0, 0] == 1
    assert ratio_BT[0, 1] == pytest.approx(math.exp(20))


def test_auto_corrects_engines_with_a_copy_of_the_weights_and_no_other() -> None:
    found = {
        name: correction_of(LearnOptions(), EngineOptions(name=name)) for name in ("hf", "auto", "vllm", "vllm_server")
    }
    assert found == {"hf": "none", "auto": "none", "vllm": "truncated", "vllm_server": "truncated"}


@pytest.fixture
def batch() -> CreditedBatch:
    problem = Problem(id="p", messages=(), answer="1")
    pieces = (
        Piece("prompt", (5, 6)),
        Piece("student", (7, 8), (-1.0, -2.0)),
        Piece("tool", (9,)),
        Piece("student", (3,), (-1.0,)),
    )
    whole = collate([Group(problem, [Trajectory(problem, 0, pieces, "answered", "")])])
    student_BT = torch.tensor([[0, 0, -1.0, -1.0, 0, -3.0]])
    return whole.scored(student_BT).credited(torch.tensor([[0, 0, 1.0, -1.0, 0, 2.0]]))


def test_the_credit_is_weighted_and_the_metrics_count_what_was_cut(batch: CreditedBatch) -> None:
    found, metrics = with_correction(batch, LearnOptions(), EngineOptions(name="vllm"))
    expected = torch.tensor([[0, 0, 1.0, -2.0, 0, 2 * math.exp(-2)]])
    torch.testing.assert_close(found.credit_BT, expected)
    assert metrics["sampler/weight_cut"] == pytest.approx(1 / 3)
    assert metrics["sampler/weight_max"] == pytest.approx(math.e)
    assert metrics["sampler/weight_mean"] == pytest.approx((1 + 2 + math.exp(-2)) / 3)
    assert metrics["sampler/kl"] == pytest.approx((0 - 1 + 2) / 3)
    weights = torch.tensor([1, 2, math.exp(-2)])
    assert metrics["sampler/effective_share"] == pytest.approx(float(weights.sum() ** 2 / (3 * weights.square().sum())))


def test_without_a_correction_the_batch_is_the_same_object(batch: CreditedBatch) -> None:
    found, metrics = with_correction(batch, LearnOptions(), EngineOptions(name="hf"))
    assert found is batch
    assert metrics == {}


def test_candidates_are_weighted_by_the_sequence_and_not_by_their_token(batch: CreditedBatch) -> None:
    taught = replace(batch, teacher_weight_BT=torch.ones(1, 6), candidates_BTJ=torch.zeros(1, 6, 2, dtype=torch.int32))
    by_level = {
        level: with_correction(taught, LearnOptions(correction_level=level), EngineOptions(name="vllm"))[0]
        for level in ("token", "sequence")
    }
    assert by_level["token"].teacher_weight_BT is taught.teacher_weight_BT
    weights_BT = by_level["sequence"].teacher_weight_BT
    assert weights_BT is not None
    assert weights_BT[0, [2, 3, 5]].tolist() == pytest.approx([math.exp(-1)] * 3)


def test_a_cap_below_the_floor_is_refused(tmp_path: Path) -> None:
    learn = {"correction": "icepop", "correction_cap": 0.4}
    options = TrainOptions.model_validate(
        {"student": "s", "data": "d", "out": tmp_path, "teacher": "t", "learn": learn}
    )
    assert any(
        "learn.correction_cap is 0.4, not above learn.correction_floor = 0.5" in each
        for each in of_training(options, 1)
    )


@pytest.mark.parametrize("engine", ["hf", "vllm"])
def test_a_run_with_vllm_of_an_older_version_is_not_corrected_unasked(engine: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "student": "s",
        "teacher": "t",
        "data": "d.jsonl",
        "out": tmp_path,
        "engine": {"name": engine},
    }
    stored = TrainOptions.model_validate(given).model_dump(mode="json")
    stored["learn"] = {name: value for name, value in stored["learn"].items() if not name.startswith("correction")}
    (tmp_path / "options.json").write_text(json.dumps(stored))
    if engine == "vllm":
        with pytest.raises(RunError, match=r"Give --learn\.correction none"):
            Run(tmp_path).check(TrainOptions.model_validate(given), resume=True)
        given |= {"learn": {"correction": "none"}}
    Run(tmp_path).check(TrainOptions.model_validate(given), resume=True)


def test_an_alarm_is_raised_if_many_weights_are_cut() -> None:
    assert "sampler_weights" in raised([{"sampler/weight_cut": 0.1}] * 3)
    assert "sampler_weights" not in raised([{"sampler/weight_cut": 0.01}] * 3)
