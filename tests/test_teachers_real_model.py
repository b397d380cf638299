"""SmolLM2-135M as the student of teachers with another tokenizer, in the folder SOD_REAL_MODEL (`make test-real`)."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from other_tokenizers import save_permuted
from safetensors.torch import load_file
from test_real_tokenizers import real
from test_teachers_served_training import distance, weights
from transformers import Qwen3Config, Qwen3ForCausalLM

from sod.config import ModelOptions, TrainOptions
from sod.model.loading import load_model, load_tokenizer
from sod.training.on_policy import train

STUDENT = Path(os.environ.get("SOD_REAL_MODEL", ""))
pytestmark = [
    pytest.mark.skipif(
        not (os.environ.get("SOD_REAL_MODEL") and os.environ.get("SOD_REAL_TOKENIZERS")),
        reason="SOD_REAL_MODEL and SOD_REAL_TOKENIZERS are not set: run `make test-real`",
    ),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    data = tmp_path_factory.mktemp("data") / "data.jsonl"
    asked = (
        ("A farmer has 17 sheep and buys 3 pens of 8 places. How many places stay empty?", "7"),
        ("12 * 12 + 5?", "149"),
    )
    data.write_text("".join(json.dumps({"question": text, "answer": answer}) + "\n" for text, answer in asked))
    rollout = {"problems": 1, "group": 2, "concurrency": 2, "max_turns": 2, "max_turn_tokens": 24, "max_tokens": 48}
    return {
        "student": STUDENT,
        "chat": {"template": "hermes"},
        "data": data,
        "updates": 3,
        "rollout": rollout | {"max_prompt_tokens": 500, "temperature": 1.0},
        "learn": {"lr": 1e-5, "minibatches": 1, "microbatch_tokens": 1024},
        "network": {"device": "cpu"},
    }


def test_it_learns_from_a_random_model_with_the_tokenizer_of_qwen3(options: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = real("qwen3")
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True}
    Qwen3ForCausalLM(Qwen3Config(vocab_size=len(tokenizer), **small, **heads)).save_pretrained(tmp_path / "qwen3")
    tokenizer.save_pretrained(tmp_path / "qwen3")
    run = train(TrainOptions.model_validate(options | {"teacher": tmp_path / "qwen3", "out": tmp_path / "run"}))
    rows = run.metrics()
    assert len(rows) == 3
    for row in rows:
        assert row["teacher/aligned_share"] == 1
        assert row["steps/d"] > 5, "a random teacher gives a token about 1 of 150,000"
        assert row["learn/grad_norm"] > 0
        assert row["learn/skipped"] == 0
    assert distance(weights(run), load_file(STUDENT / "model.safetensors")) > 0.01


def test_a_teacher_of_its_family_with_other_ids_gives_the_plain_result(options: dict[str, Any], tmp_path: Path) -> None:
    """The teacher is the student with noise in its weights, so that there is a signal."""
    model, generator = load_model(STUDENT, ModelOptions(device="cpu")), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.02 * weight.std() * torch.randn(weight.shape, generator=generator))
    model.save_pretrained(tmp_path / "teacher")
    load_tokenizer(STUDENT).save_pretrained(tmp_path / "teacher")
    other = save_permuted(tmp_path / "teacher", tmp_path / "other")
    plain, spans = (
        train(TrainOptions.model_validate(options | {"out": tmp_path / name, "teacher": folder, "score": score}))
        for name, folder, score in (
            ("plain", tmp_path / "teacher", {}),
            ("spans", other, {"teacher_template": "hermes"}),
        )
    )
    for one, expected in zip(spans.metrics(), plain.metrics(), strict=True):
        assert one["teacher/aligned_share"] == 1
        for name in ("steps/d", "learn/loss"):
            assert one[name] == pytest.approx(expected[name], abs=1e-5), name
