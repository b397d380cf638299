"""Tiny random models of every family that users bring: each is computed as Transformers computes it, or refused.

`python tests/test_families.py` writes the table of docs/models.md.
"""

import asyncio
import logging
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from families import FAMILIES, MULTIMODAL, VOCABULARY, tiny
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from sod.config import ModelOptions
from sod.core import token_loss
from sod.engines import Request
from sod.engines.hf import HFEngine
from sod.errors import ModelError
from sod.model.forward import hidden_states, logits_of
from sod.model.loading import load_model
from sod.model.lora import save_weights
from sod.model.scores import selected
from sod.model.traits import traits_of

TABLE = Path(__file__).parent.parent / "docs" / "models.md"
START = "| Family | Type in Transformers | How it is read |\n|---|---|---|\n"
LENGTHS = (9, 5, 12)
"""Lengths of the sequences; the windows of these models are shorter."""
SPREAD = 0.15
"""Spread of the weights: wide enough for a wrong number to show."""


@dataclass(frozen=True)
class Made:
    """A family's tiny model, as Transformers computes it and as it is loaded here."""

    theirs: PreTrainedModel
    ours: PreTrainedModel | None
    why: str
    """Why it is refused."""


@cache
def made(name: str) -> Made:
    kind, more = FAMILIES[name]
    theirs = tiny(kind, more, spread=SPREAD)
    theirs.set_attn_implementation("eager")
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        try:
            return Made(theirs, load_model(Path(folder), ModelOptions(device="cpu")), "")
        except ModelError as error:
            return Made(theirs, None, str(error).replace(folder, "FOLDER"))


def row_of(name: str) -> str:
    """A family's line of the table."""
    model, kind = made(name), FAMILIES[name][0]
    if model.ours is None:
        how = f"refused: {model.why.partition(' is not supported: ')[2].partition('.')[0]}"
    else:
        traits = traits_of(model.ours)
        how = "packed" if traits.packs else "one sequence per pass"
        how += "; cannot be sampled with `--engine.name hf`" if traits.no_sampling else ""
        how += f"; the text part, as `{model.ours.config.model_type}`" if kind in MULTIMODAL else ""
    return f"| {name} | `{kind}` | {how} |\n"


def sequences() -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(2, VOCABULARY - 12, (length,), generator=generator).tolist() for length in LENGTHS]


def batch() -> tuple[Tensor, Tensor]:
    rows = [torch.tensor(row) for row in sequences()]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor(LENGTHS)


def usable(name: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    model = made(name)
    if model.ours is None:
        pytest.skip(model.why)
    return model.theirs, model.ours


def alone(model: PreTrainedModel, ids: list[int]) -> Tensor:
    """Transformers' log-probabilities of one sequence. -> (T, V)"""
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)


@pytest.mark.parametrize("name", FAMILIES)
def test_sequences_are_scored_as_transformers_scores_each_alone(name: str) -> None:
    theirs, ours = usable(name)
    with torch.no_grad():
        expected = torch.cat([alone(theirs, row) for row in sequences()])
        found = logits_of(ours, hidden_states(ours, *batch())).log_softmax(-1)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("name", FAMILIES)
def test_samples_have_the_log_probabilities_of_a_full_pass(name: str) -> None:
    """Three trajectories, two of them with one prompt; a second turn brings several new tokens."""
    theirs, ours = usable(name)
    if traits_of(ours).no_sampling:
        with pytest.raises(ModelError, match="vllm"):
            HFEngine(ours, slots=1)
        return
    first, _, third = sequences()
    prompts = [first * 3, first * 3, third]

    async def turn(engine: HFEngine, number: int, ids: list[int]) -> list[int]:
        reply = await engine.sample(Request(ids=ids, max_tokens=3, stops=(), seed=number, trajectory=number))
        with torch.no_grad():
            scores = alone(theirs, [*ids, *reply.tokens])
        for at, (token, logprob) in enumerate(zip(reply.tokens, reply.logprobs, strict=True), len(ids) - 1):
            assert logprob == pytest.approx(scores[at, token].item(), abs=2e-4, rel=1e-3)
        return [*ids, *reply.tokens]

    async def run() -> None:
        engine = HFEngine(ours, slots=3)
        after = await asyncio.gather(*(turn(engine, number, ids) for number, ids in enumerate(prompts)))
        await asyncio.gather(*(turn(engine, number, [*ids, 7, 9]) for number, ids in enumerate(after)))

    asyncio.run(run())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_loss_has_the_gradient_of_transformers_own_logits(name: str) -> None:
    theirs, ours = usable(name)
    ids_BT, lengths_B = batch()
    mask_BT = torch.arange(ids_BT.shape[1]) < lengths_B[:, None]
    mask_BT[:, 0] = False
    chosen = selected(ours, ids_BT, mask_BT, lengths_B)
    loss, _, _ = token_loss(chosen.hidden_MD, chosen.head, chosen.targets_M, lambda logprobs, _: -logprobs)
    expected = torch.stack(
        [-alone(theirs, row)[:-1].gather(1, torch.tensor(row[1:])[:, None]).sum() for row in sequences()]
    )
    torch.testing.assert_close(loss, expected.sum(), rtol=1e-3, atol=1e-3)
    for total, model in ((loss, ours), (expected.sum(), theirs)):
        model.zero_grad()
        total.backward()
    norm, wanted = (embedding_gradient(model).norm() for model in (ours, theirs))
    assert wanted.isfinite()
    assert wanted > 0
    assert norm.item() == pytest.approx(wanted.item(), rel=1e-2)


def embedding_gradient(model: PreTrainedModel) -> Tensor:
    gradient = cast(Any, model.get_input_embeddings()).weight.grad
    assert gradient is not None
    return gradient


@pytest.mark.parametrize("name", FAMILIES)
def test_vllm_gets_what_a_published_checkpoint_holds(name: str, tmp_path: Path) -> None:
    """vLLM refuses some other names, and leaves its own values where a tensor is missing."""
    _, ours = usable(name)
    ours.save_pretrained(tmp_path / "published")
    (tmp_path / "sent").mkdir()
    save_weights(ours, tmp_path / "sent")
    expected, found = (load_file(tmp_path / folder / "model.safetensors") for folder in ("published", "sent"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_the_documents_table_is_what_was_found() -> None:
    written = TABLE.read_text(encoding="utf-8").partition(START)[2].partition("\n\n")[0].splitlines()
    found = [row_of(name).strip() for name in sorted(FAMILIES, key=str.lower)]
    assert written == found, "write the table again: python tests/test_families.py"


def write_table() -> None:
    logging.disable()
    before, _, after = TABLE.read_text(encoding="utf-8").partition(START)
    rows = "".join(row_of(name) for name in sorted(FAMILIES, key=str.lower))
    TABLE.write_text(before + START + rows + "\n" + after.partition("\n\n")[2], encoding="utf-8")


if __name__ == "__main__":
    write_table()
