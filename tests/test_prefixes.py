"""The common start of rows is read once, with the results and gradients of full rows."""

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, Qwen3ForCausalLM

from sod.model import prefixes
from sod.model.attention import ATTENTION
from sod.model.forward import hidden_states
from sod.model.prefixes import LARGEST_MASK, SHORTEST, Family, find_families, worth_sharing

MakeModel = Callable[..., Qwen3ForCausalLM]


def rows(*parts: tuple[int, list[int]], seed: int = 0) -> tuple[Tensor, list[int]]:
    """Padded rows of families, each (tokens of the start, tokens of each rest), and their lengths."""
    rng = random.Random(seed)
    drawn = lambda count: [rng.randrange(2, 24) for _ in range(count)]  # noqa: E731
    made: list[list[int]] = []
    for start, rests in parts:
        shared = drawn(start)
        for number, rest in enumerate(rests):
            made.append([*shared, number % 2, *drawn(rest - 1)])
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in made], batch_first=True), [*map(len, made)]


def count_tokens(model: PreTrainedModel) -> list[int]:
    """Return a list to which every pass adds the number of tokens that it reads."""
    read: list[int] = []
    model.get_input_embeddings().register_forward_hook(lambda _module, ids, _output: read.append(ids[0].numel()))
    return read


PARTS = (20, [5, 9, 1, 30]), (0, [12]), (17, [3, 3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hidden_states_and_gradients_are_those_of_full_rows(
    random_model: MakeModel, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    model = random_model(dtype=dtype)
    model.set_attn_implementation(ATTENTION)
    ids_BT, lengths = rows(*PARTS)
    weights_ND = torch.randn(sum(lengths), 16, dtype=dtype, generator=torch.Generator().manual_seed(1))
    read = count_tokens(model)
    found: list[tuple[Tensor, tuple[Tensor, ...]]] = []
    for worth in (0.1, 2.0):
        monkeypatch.setattr(prefixes, "WORTH_SHARING", worth)
        hidden_ND = hidden_states(model, ids_BT, torch.tensor(lengths))
        found.append((hidden_ND, torch.autograd.grad((weights_ND * hidden_ND).sum(), [*model.base_model.parameters()])))
    assert read == [20 + 45 + 12 + 17 + 6, sum(lengths)]
    (shared_ND, shared), (whole_ND, whole) = found
    tolerance = 2e-5  # also in float64, because norms compute in float32
    torch.testing.assert_close(shared_ND, whole_ND, atol=tolerance, rtol=tolerance)
    for one, other in zip(shared, whole, strict=True):
        assert (one - other).norm() <= 1e-6 * other.norm()


def test_families_are_the_adjacent_rows_with_a_common_start() -> None:
    ids_BT, lengths = rows(*PARTS)
    assert find_families(ids_BT, lengths) == [Family(20, [5, 9, 1, 30]), Family(0, [12]), Family(17, [3, 3])]


def test_a_row_joins_a_family_with_a_shorter_start_if_that_spares_more() -> None:
    """Prompts of several problems begin with the same system prompt."""
    system, questions = [7] * 40, [[8] * 4, [9] * 4]
    made = [[*system, *question, 1, sample] for question in questions for sample in (2, 3)]
    (family,) = find_families(torch.tensor(made), [46] * 4)
    assert family == Family(40, [6] * 4)


@pytest.mark.parametrize("start", [SHORTEST - 1, 0])
def test_short_starts_are_read_again(start: int) -> None:
    ids_BT, lengths = rows((start, [5, 9]))
    assert [family.start for family in find_families(ids_BT, lengths)] == [0, 0]


def test_a_start_that_saves_little_and_rows_with_a_large_mask_are_read_again() -> None:
    assert not worth_sharing([Family(SHORTEST, [400, 400])])
    assert worth_sharing([Family(100, [400, 400])])
    long = int(LARGEST_MASK**0.5) + 1
    ids_BT = torch.ones(2, 20 + long, dtype=torch.long)
    ids_BT[1, 20] = 2
    assert find_families(ids_BT, [20 + long] * 2) == [Family(0, [20 + long])] * 2


def test_one_row_may_be_the_start_of_another_or_equal_it(random_model: MakeModel) -> None:
    model = random_model(dtype=torch.float64)
    model.set_attn_implementation(ATTENTION)
    ids_BT, _ = rows((30, [10]))
    ids_BT = ids_BT.expand(3, -1)
    lengths = [25, 40, 40]
    found_ND = hidden_states(model, ids_BT, torch.tensor(lengths))
    alone = [hidden_states(model, ids_BT[:1], torch.tensor([length])) for length in lengths]
    torch.testing.assert_close(found_ND, torch.cat(alone))
