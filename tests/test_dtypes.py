"""network.dtype = auto and fastest: a type of the device, stored with the run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sod.config import EvalOptions, ModelOptions, SftOptions
from sod.errors import RunError
from sod.model import dtypes
from sod.model.dtypes import dtype_here, faster_type, with_dtype
from sod.model.loading import load_model
from sod.training.sft import sft


def processor(monkeypatch: pytest.MonkeyPatch, **features: bool) -> None:
    """Give the processor these features, and the machine no GPU."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def evaluation(tmp_path: Path, **network: Any) -> EvalOptions:
    return EvalOptions.model_validate({"model": "m", "data": "d.jsonl", "out": tmp_path / "run", "network": network})


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"avx2": True}, "float32"),
        ({"avx512_bf16": True}, "bfloat16"),
        ({"amx_bf16": True}, "bfloat16"),
        ({"avx512_f": True, "avx512_bf16": False}, "float32"),
        ({"bf16": True}, "bfloat16"),
    ],
)
def test_fastest_takes_bfloat16_where_the_processor_has_it_and_auto_never_does(
    features: dict[str, bool], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor(monkeypatch, **features)
    assert with_dtype(evaluation(tmp_path, dtype="fastest")).network.dtype == expected
    assert with_dtype(evaluation(tmp_path)).network.dtype == "float32"
    assert faster_type("cpu") == expected


def test_a_gpu_is_asked_about_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, avx512_bf16=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for answer, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation, answer=answer: answer)
        assert faster_type("auto") == faster_type("cuda:0") == expected
        assert with_dtype(evaluation(tmp_path)).network.dtype == expected
        assert with_dtype(evaluation(tmp_path, device="cpu")).network.dtype == "float32"
        assert faster_type("cpu") == "bfloat16"


def test_a_type_that_is_given_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, avx512_bf16=True)
    options = evaluation(tmp_path, dtype="float32")
    assert with_dtype(options) is options


def test_a_run_continues_in_its_type_on_another_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, avx2=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "options.json").write_text(json.dumps({"network": {"dtype": "bfloat16"}}))
    assert with_dtype(evaluation(tmp_path, dtype="auto")).network.dtype == "bfloat16"
    (tmp_path / "run" / "options.json").write_text("damaged")
    assert dtype_here(tmp_path / "run") == "float32"


def test_fine_tuning_stores_the_type_and_resumes_in_it(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "demonstrations.jsonl"
    messages = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]
    data.write_text(json.dumps({"messages": messages}) + "\n")
    fields: dict[str, Any] = {"model": untrained, "data": data, "out": tmp_path / "run", "steps": 2, "save_every": 1}
    fields |= {"network": {"dtype": "fastest", "device": "cpu"}, "keep": 3}
    processor(monkeypatch, avx512_bf16=True)
    run = sft(SftOptions.model_validate(fields))
    assert json.loads((run.folder / "options.json").read_text())["network"]["dtype"] == "bfloat16"
    checkpoints = sorted(path.name for path in (run.folder / "checkpoints").iterdir())
    assert checkpoints == ["update-0001", "update-0002"], "keep: none is deleted"
    assert all(row["learn/tokens"] > 0 and row["speed/learn_tokens_per_second"] > 0 for row in run.metrics())
    processor(monkeypatch, avx2=True)
    sft(SftOptions.model_validate(fields | {"resume": True}))  # the same type, so that it may continue
    with pytest.raises(RunError, match=r"network\.dtype"):
        sft(SftOptions.model_validate(fields | {"resume": True, "network": {"dtype": "float32", "device": "cpu"}}))


def test_a_model_that_is_loaded_by_itself_has_the_faster_type(untrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dtypes, "_has_bfloat16", lambda device: True)
    assert load_model(untrained, ModelOptions(dtype="fastest", device="cpu")).dtype == torch.bfloat16
