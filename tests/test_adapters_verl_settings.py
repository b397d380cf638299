"""The settings that SOD's plug-in for verl reads, and the rules that it offers, without verl."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sod.adapters.verl_settings import RULES_HERE, Settings, which_settings
from sod.core import RULES, StepInfo, Weights, per_token, step_divergence, step_ids, teacher_advantage
from sod.core.rules import MissingInputError
from sod.errors import OptionError

DOCUMENT = Path(__file__).parents[1] / "docs" / "verl.md"
LENGTHS = (40, 3, 17, 25, 9)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOD_VERL", raising=False)


def test_settings_are_read() -> None:
    assert Settings.parse("") == Settings(rule="drift", epsilon=1e-6, delta=0.2)
    assert Settings.parse(" rule = uniform, delta=0.5 ") == Settings(rule="uniform", delta=0.5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epsilom=1", "did you mean 'epsilon'"),
        ("rule=drifft", "did you mean 'drift'"),
        ("rule=per_error", "Use `sod train`"),
        ("delta=much", "must be a number"),
        ("delta", "must have the form KEY=VALUE"),
        ("delta=1,delta=2", "given twice"),
        ("epsilon=0", "above 0"),
        ("delta=nan", "delta at least 0"),
    ],
)
def test_settings_that_cannot_work_are_errors(text: str, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        Settings.parse(text)


@pytest.mark.parametrize(
    ("configured", "shell", "words"),
    [
        (None, None, "rule=drift, epsilon=1e-06, delta=0.2 (SOD_VERL is not set)"),
        (None, "rule=gated", "rule=gated, epsilon=1e-06, delta=0.2 (from this shell's SOD_VERL"),
        (
            "delta=0.5",
            None,
            "rule=drift, epsilon=1e-06, delta=0.5 (from the configuration's SOD_VERL, which Ray passes to its workers)",
        ),
        (
            "delta=0.5",
            "rule=gated",
            "delta=0.5 (from the configuration's.*; this shell's SOD_VERL=rule=gated is ignored)",
        ),
        ("", "rule=gated", "rule=drift, epsilon=1e-06, delta=0.2 (from the configuration's"),
    ],
)
def test_the_configurations_settings_count_before_the_shells(
    configured: str | None, shell: str | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shell is not None:
        monkeypatch.setenv("SOD_VERL", shell)
    assert re.search(words.replace("(", r"\(").replace(")", r"\)"), which_settings(configured))


def weights(rule: str, rows: slice, length: int, *, failed: bool = False, **others: int) -> Tensor:
    """Return a rule's weight of each token from log-probabilities and advantages alone, as verl's workers have them."""
    generator = torch.Generator().manual_seed(0)
    old_BT = -torch.randn(len(LENGTHS), max(LENGTHS), generator=generator).abs()
    teacher_BT = old_BT + torch.randn(old_BT.shape, generator=generator)
    advantage_B = torch.randn(len(LENGTHS), generator=generator)
    turns_T = torch.arange(max(LENGTHS)) % 5 < 3
    mask_BT = (turns_T & (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]))[rows, :length]
    old_BT, teacher_BT = old_BT[rows, :length], teacher_BT[rows, :length]
    ids_BT = step_ids(mask_BT)
    d_BK = step_divergence(old_BT, teacher_BT, ids_BT)
    info = StepInfo(
        ids_BT=ids_BT,
        signal_BT=teacher_advantage(old_BT, teacher_BT, mask_BT),
        teacher_entropy_BT=None,
        failed_BK=torch.full_like(d_BK, failed, dtype=torch.bool),
        advantage_B=advantage_B[rows],
        student_BT=old_BT,
        teacher_BT=teacher_BT,
        **others,
    )
    w = Weights.of(RULES[rule](d_BK, info)).teacher
    return (per_token(w, ids_BT) if w.shape == d_BK.shape else w).masked_fill(~mask_BT, 0)


def works_in_verl(rule: str) -> bool:
    """Whether a row has the same weights alone as in a batch, and no failed call, update or seed changes them."""
    try:
        whole_BT = weights(rule, slice(None), max(LENGTHS))
    except MissingInputError:
        return False
    others = ({"failed": True}, {"update": 1000}, {"seed": 1})
    alone = (weights(rule, slice(row, row + 1), length) for row, length in enumerate(LENGTHS))
    return all(torch.equal(whole_BT, weights(rule, slice(None), max(LENGTHS), **other)) for other in others) and all(
        torch.allclose(whole_BT[row : row + 1, : own_BT.shape[1]], own_BT) for row, own_BT in enumerate(alone)
    )


@pytest.mark.parametrize("rule", RULES)
def test_the_rules_offered_are_those_that_need_no_more_than_a_row(rule: str) -> None:
    assert works_in_verl(rule) == (rule in RULES_HERE)


def test_the_document_lists_the_rules_that_are_offered() -> None:
    [listed] = re.findall(r"^Rules: (.*?)\. The other rules", DOCUMENT.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert tuple(re.findall(r"`(\w+)`", listed)) == RULES_HERE
