"""A sharded model is the model that the first process loaded, and only the first process loads it."""

from pathlib import Path

from families import FAMILIES, tiny
from warm import launch

SHARED = (
    "Gemma 3 (text)",
    "Gemma 4 (text)",
    "GPT-OSS",
    "Granite 3",
    "Mistral 3, Ministral 3 (image and text)",
    "Qwen 3",
)
"""Tied embeddings, buffers, windows, experts in one tensor, scaled logits, a text part of a multimodal model."""

SCRIPT = """
import sys
from pathlib import Path
import torch
from sod.config import ModelOptions
from sod.model.forward import head, hidden_states, logits_of
from sod.model.fsdp import load_sharded, whole
from sod.model.loading import load_model
from sod.model.traits import traits_of
from sod.processes.distributed import joined

TOKENS = 40  # fewer than the rows of the head

def load():
    assert ranks.is_first, "another process reads the files"
    return read(folder)

def read(folder):
    model = load_model(folder, ModelOptions(dtype="float32", device="cpu")).requires_grad_(False)
    model.get_output_embeddings().out_features = TOKENS
    return model

with joined(2, "cpu") as ranks, torch.no_grad():
    for folder in map(Path, sys.argv[1:]):
        model, expected = load_sharded(load, ranks), read(folder)
        assert not any(weight.requires_grad for weight in model.parameters())
        assert traits_of(model) == traits_of(expected)
        assert sum(weight.to_local().numel() for weight in model.parameters()) < 0.6 * expected.num_parameters()
        for (name, part), (other, weight) in zip(model.named_parameters(), expected.named_parameters(), strict=True):
            assert name == other and torch.equal(whole(part), weight), name
        for (name, buffer), (other, wanted) in zip(model.named_buffers(), expected.named_buffers(), strict=True):
            assert name == other and torch.equal(buffer, wanted), name
        ids, lengths = torch.randint(TOKENS, (2, 9)), torch.tensor([9, 5])
        found, wanted = (logits_of(each, hidden_states(each, ids, lengths)) for each in (model, expected))
        assert found.shape == (14, TOKENS)
        assert (found - wanted).abs().max() < 1e-5, (folder, (found - wanted).abs().max())
    print("the same", ranks.rank)
"""


def test_every_process_has_its_part_of_the_model_that_the_first_loaded(tmp_path: Path) -> None:
    folders = []
    for number, name in enumerate(SHARED):
        folders.append(tmp_path / str(number))
        tiny(*FAMILIES[name], spread=0.2).save_pretrained(folders[-1])
    result = launch(2, ["-c", SCRIPT, *folders])
    assert result.returncode == 0, result.stdout + result.stderr
    assert sorted(result.stdout.split()) == ["0", "1", "same", "same", "the", "the"]


def test_a_model_that_the_first_process_cannot_load_ends_all(tmp_path: Path) -> None:
    result = launch(2, ["-c", SCRIPT, tmp_path / "nothing"])
    assert result.returncode != 0
    assert "config.json is missing" in result.stderr
    assert "the same" not in result.stdout
