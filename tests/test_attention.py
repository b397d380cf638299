"""Sequences end to end see what each would see alone: against Transformers' own attention, one sequence at a time."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MinistralConfig,
    MinistralForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from sod.config import ModelOptions
from sod.engines.hf import HFEngine
from sod.errors import ModelError
from sod.model.attention import ATTENTION, Packed, SlotCache
from sod.model.forward import hidden_states
from sod.model.loading import load_model

VOCABULARY = 24
SIZE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.4,
}
WINDOWED = {"layer_types": ["sliding_attention", "full_attention"]}


def qwen(heads: int) -> PreTrainedModel:
    return Qwen3ForCausalLM(Qwen3Config(**SIZE, num_key_value_heads=heads))


def llama(heads: int) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**SIZE, num_key_value_heads=heads))


def windows_and_caps(heads: int) -> PreTrainedModel:
    window = {"sliding_window": 5, "attn_logit_softcapping": 2.0}
    return Gemma2ForCausalLM(Gemma2Config(**SIZE, **WINDOWED, **window, num_key_value_heads=heads))


def windows_alone(heads: int) -> PreTrainedModel:
    return MinistralForCausalLM(MinistralConfig(**SIZE, **WINDOWED, sliding_window=5, num_key_value_heads=heads))


def sinks(heads: int) -> PreTrainedModel:
    few = {"num_local_experts": 2, "num_experts_per_tok": 1}
    return GptOssForCausalLM(GptOssConfig(**SIZE, **WINDOWED, **few, sliding_window=5, num_key_value_heads=heads))


MODELS = [
    (qwen, 1),
    (qwen, 2),
    (qwen, 4),
    (llama, 2),
    (windows_alone, 2),
    (windows_and_caps, 2),
    (sinks, 2),
    (sinks, 4),
]


@pytest.fixture(params=MODELS, ids=lambda param: f"{param[0].__name__}-{param[1]}")
def model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> PreTrainedModel:
    """Models whose keys and values are shared by four, two, or no other heads, and models with variants of attention."""
    monkeypatch.setattr("sod.model.attention.BLOCK", 8)
    make, heads = request.param
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make(heads).eval()


def alone(model: PreTrainedModel, ids: Sequence[int]) -> Tensor:
    """Transformers' own, plainest attention over one sequence. -> (T, D)"""
    model.set_attn_implementation("eager")
    hidden = model.base_model(input_ids=torch.tensor([list(ids)])).last_hidden_state[0]
    model.set_attn_implementation(ATTENTION)
    return hidden


def sequences(*lengths: int, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(VOCABULARY) for _ in range(length)] for length in lengths]


# Whole sequences


def test_packed_sequences_and_their_gradients_are_those_of_each_alone(model: PreTrainedModel) -> None:
    rows = sequences(7, 1, 12, 3)
    ids_BT = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    weights_ND = torch.randn(23, 16, generator=torch.Generator().manual_seed(1))
    expected_ND = torch.cat([alone(model, row) for row in rows])
    expected = torch.autograd.grad((weights_ND * expected_ND).sum(), list(model.base_model.parameters()))

    hidden_ND = hidden_states(model, ids_BT, torch.tensor([7, 1, 12, 3]))
    found = torch.autograd.grad((weights_ND * hidden_ND).sum(), list(model.base_model.parameters()))

    torch.testing.assert_close(hidden_ND, expected_ND, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_positions_begin_anew_with_each_sequence() -> None:
    assert Packed([3, 1, 2]).positions(torch.device("cpu")).tolist() == [[0, 1, 2, 0, 0, 1]]


def test_without_a_layout_a_row_is_one_whole_sequence(model: PreTrainedModel) -> None:
    (row,) = sequences(9)
    expected = alone(model, row)
    torch.testing.assert_close(model.base_model(input_ids=torch.tensor([row])).last_hidden_state[0], expected)


def test_a_mask_is_refused_and_not_ignored(model: PreTrainedModel) -> None:
    model.set_attn_implementation(ATTENTION)
    with pytest.raises(AssertionError, match="packed, not masked"):
        model.base_model(input_ids=torch.tensor([[1, 2]]), attention_mask=torch.ones(1, 1, 2, 2, dtype=torch.bool))


def test_a_model_with_another_attention_is_refused(model: PreTrainedModel) -> None:
    model.set_attn_implementation("eager")
    with pytest.raises(ModelError, match="attn_implementation='sod'"):
        hidden_states(model, torch.ones(1, 3, dtype=torch.long), torch.tensor([3]))
    with pytest.raises(ModelError, match="attn_implementation='sod'"):
        HFEngine(model, slots=1)


def test_a_model_that_sees_a_window_only_is_loaded(tmp_path: Path) -> None:
    config = Qwen3Config(**SIZE, num_key_value_heads=2, use_sliding_window=True, sliding_window=4, max_window_layers=0)
    Qwen3ForCausalLM(config).save_pretrained(tmp_path)
    loaded = load_model(tmp_path, ModelOptions(device="cpu"))
    assert loaded.config.sliding_window == 4
    (row,) = sequences(20)
    found = hidden_states(loaded, torch.tensor([row]), torch.tensor([20]))
    torch.testing.assert_close(found, alone(loaded, row), atol=1e-5, rtol=1e-4)


# Sequences whose beginnings are remembered


class Reader:
    """Reads sequences into slots piece by piece, and checks each piece against the whole."""

    def __init__(self, model: PreTrainedModel, slots: int):
        self.model = model
        self.cache = SlotCache(slots, torch.device("cpu"))
        self.read: dict[int, int] = {}
        self._alone: dict[tuple[int, ...], torch.Tensor] = {}

    def _states(self, row: list[int]) -> torch.Tensor:
        """Hidden states of a row that is read at once."""
        key = tuple(row)
        if key not in self._alone:
            self._alone[key] = alone(self.model, row).detach()
        return self._alone[key]

    def __call__(self, rows: dict[int, list[int]], upto: dict[int, int]) -> None:
        """Read each slot's row up to a place; single tokens first."""
        counts = {slot: end - self.read.get(slot, 0) for slot, end in upto.items()}
        slots = sorted(upto, key=lambda slot: counts[slot] > 1)
        starts = [self.read.get(slot, 0) for slot in slots]
        new = [token for slot in slots for token in rows[slot][self.read.get(slot, 0) : upto[slot]]]
        with torch.inference_mode():
            layout = self.cache.reading(slots, starts, [counts[slot] for slot in slots])
            hidden_ND = self.model.base_model(
                input_ids=torch.tensor([new]), position_ids=layout.positions, use_cache=False, layout=layout
            ).last_hidden_state[0]
        expected = [self._states(rows[slot])[start : upto[slot]] for slot, start in zip(slots, starts, strict=True)]
        torch.testing.assert_close(hidden_ND.clone(), torch.cat(expected), atol=2e-5, rtol=1e-4)
        self.read |= upto


@pytest.mark.parametrize("seed", range(6))
def test_what_is_read_in_pieces_is_what_is_read_at_once(model: PreTrainedModel, seed: int) -> None:
    """Any slots, any number of new tokens each, many single ones or few, while the cache grows."""
    model.set_attn_implementation(ATTENTION)
    rng = random.Random(seed)
    rows = dict(enumerate(sequences(*(rng.randint(60, 150) for _ in range(7)), seed=seed)))
    reader = Reader(model, slots=7)
    for _ in range(30):
        chosen = [slot for slot in rows if rng.random() < rng.choice([0.2, 0.9])]
        left = {slot: len(rows[slot]) - reader.read.get(slot, 0) for slot in chosen}
        upto = {slot: reader.read.get(slot, 0) + min(n, rng.choice([1, 1, 1, 9])) for slot, n in left.items() if n}
        if upto:
            reader(rows, upto)
    assert sum(reader.read.values()) > 150


def test_a_slot_may_begin_as_another_does(model: PreTrainedModel) -> None:
    model.set_attn_implementation(ATTENTION)
    first, second = sequences(40, 40)
    rows = {0: first, 1: [*first[:25], *second[25:]]}
    reader = Reader(model, slots=2)
    reader(rows, {0: 30})
    reader.cache.copy(0, 1, 25)
    reader.read[1] = 25
    reader(rows, {0: 31, 1: 26})
    reader(rows, {0: 40, 1: 40})


def test_a_slot_is_read_anew_over_what_stood_there(model: PreTrainedModel) -> None:
    model.set_attn_implementation(ATTENTION)
    first, second = sequences(50, 20)
    reader = Reader(model, slots=1)
    reader({0: first}, {0: 50})
    reader.read[0] = 0
    reader({0: second}, {0: 10})
    reader({0: second}, {0: 11})


# Memory


def test_scoring_builds_no_matrix_of_tokens_by_tokens(random_model: Callable[..., Qwen3ForCausalLM]) -> None:
    """A mask over packed rows would have N x N elements."""
    model = random_model()
    seen: list[object] = []
    model.base_model.layers[0].self_attn.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["attention_mask"]), with_kwargs=True
    )
    hidden_states(model, torch.ones(4, 100, dtype=torch.long), torch.tensor([100] * 4))
    assert seen == [None]
