"""Verify at load time that a model computes the same as in Transformers, by running a probe.

Packed tokens, and tokens after a cached prefix, are read correctly only if tokens influence each other through attention
alone, and all attention goes through `sod.model.attention`. The probe finds out whether this holds. If it does not, the
model reads one sequence per pass, with Transformers' own attention and caches.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from sod.core import Head
from sod.errors import ModelError
from sod.model.attention import ATTENTION, Layout, Packed, SlotCache, Variant
from sod.model.caching import read_on
from sod.model.forward import alone, forward, output_head
from sod.model.fsdp import base_module, head_layer
from sod.model.traits import Traits, set_traits

logger = logging.getLogger(__name__)

R = TypeVar("R")

LENGTH = 5
"""Tokens in each sequence of the probe: longer than usual convolutions, and few, because loading waits for the probe."""
SHORT_WINDOW = 3
"""Sliding window during the probe, so that its sequences are longer than the window."""
WINDOWS = ("sliding_window", "attention_chunk_size")
"""Attributes of a configuration and of layers that limit how many tokens a token attends to."""
LARGEST_LOGITS = (0.1, 100.0, 1000.0)
"""Largest unscaled logit of each of the head's probes: the first measures a scale, the others reveal a cap."""
EXACT, COARSE = 1e-3, 0.1
"""Largest relative error of a hidden state in float32, and in coarser types. Measured with bfloat16: 0.007 over two layers
and 0.016 over 28. Positions that are wrong by one cause 0.2 in the lab's teacher."""
ROUNDING, ROUNDING_COARSE = 1e-5, 0.03
"""Relative errors that rounding explains, in float32 and in coarser types."""
COARSE_LOGITS = 0.02
"""The same of logits, which take one product, in coarser types."""
WAY_OUT = "Use another model, such as Qwen3, Llama, or OLMo 2."


@torch.no_grad()
def prove_model(model: PreTrainedModel, folder: Path) -> None:
    """Find the model's traits. Raise ModelError if scoring, sampling or the head would return other numbers than Transformers.

    A model that cannot read packed sequences gets Transformers' own attention.
    """
    check_finite(model, folder)
    what = f"The model in {folder} (type {model.config.model_type})"
    set_traits(model, Traits())
    try:
        with _short_windows(model):
            expected_BTD, traits = _as_transformers(model, _probe(model)[:2], what)
            why = _why_not_packed(model, expected_BTD)
            if why:
                traits = _proven_alone(model, expected_BTD, traits, what)
        if why:
            logger.info(f"{what} reads one sequence per pass, which is slower: {why}")
    except ModelError:
        raise
    except Exception as error:  # a model's code can raise any exception for unusual inputs
        raise ModelError(f"{what} is not supported: {_named(error)} {WAY_OUT}") from error
    set_traits(model, traits)


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def check_configuration(config: PreTrainedConfig) -> None:
    """Raise the ModelError of `prove_model` if a pass on PyTorch's meta device, which computes no numbers, shows it.

    A model that passes may still fail `prove_model`.
    """
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation=ATTENTION).eval()
            model(input_ids=torch.zeros(1, LENGTH, dtype=torch.long), use_cache=False)
    except ModelError:
        raise
    except Exception:  # a model's code may need real numbers
        return


def check_finite(model: PreTrainedModel, folder: Path) -> None:
    """Raise ModelError if a tensor holds a NaN or an infinity. The message names the first one."""
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if tensor.is_floating_point() and tensor.numel() and not tensor.sum(dtype=torch.float32).isfinite():
            raise ModelError(
                f"The weights in {folder} are not finite: {name} holds NaN or infinity. Use an earlier checkpoint."
            )


def _probe(model: PreTrainedModel) -> Tensor:
    """Return the ids of three sequences, (3, T)."""
    tokens = head_layer(model).out_features
    generator = torch.Generator().manual_seed(0)
    return torch.randint(int(tokens), (3, LENGTH), generator=generator).to(model.device)


@contextmanager
def _short_windows(model: PreTrainedModel) -> Iterator[None]:
    """Shorten the model's sliding windows to fewer tokens than the probe's sequences have."""
    changed: list[tuple[Any, str, Any]] = []
    for holder in (model.config, model.config.get_text_config(), *model.modules()):
        for name in WINDOWS:
            before = getattr(holder, name, None)
            if isinstance(before, int) and before > SHORT_WINDOW:
                changed.append((holder, name, before))
                setattr(holder, name, SHORT_WINDOW)
    try:
        yield
    finally:
        for holder, name, before in reversed(changed):
            setattr(holder, name, before)


def _why_not_packed(model: PreTrainedModel, expected_BTD: Tensor) -> str:
    """Return why the model cannot read packed sequences, as a sentence; "" if it can."""
    ids_BT = _probe(model)
    try:
        packed_TD, found_TD, wanted_TD = _packed_and_token_by_token(model, ids_BT, expected_BTD)
    except Exception as error:  # as in `prove_model`
        return f"its attention cannot keep packed sequences apart ({_named(error)})."
    if not packed_TD.isfinite().all():
        kinds = sorted(set(model.config.get_text_config().to_dict().get("layer_types") or []) - {"full_attention"})
        named = f" ({', '.join(kinds)})" if kinds else ""
        return (
            f"packed sequences influence each other. Its layers carry a state or a convolution from token to token{named}, or "
            "its attention ignores the arguments that keep sequences apart."
        )
    for how, found, wanted in (
        ("packed between others", packed_TD, expected_BTD[1]),
        ("token by token", found_TD, wanted_TD),
    ):
        if not _off(found, wanted) <= _tolerance(model):
            return (
                f"{how}, a sequence's hidden states differ by {_off(found, wanted):.1%} from those of the single sequence in "
                "Transformers."
            )
    return ""


def _tolerance(model: PreTrainedModel) -> float:
    return EXACT if model.dtype == torch.float32 else COARSE


def _proven_alone(model: PreTrainedModel, expected_BTD: Tensor, traits: Traits, what: str) -> Traits:
    """Return the traits of a model that reads one sequence per pass, and give it an attention with which it does.

    The first choice is `sod.model.attention`, which needs less memory than Transformers' plainest one. Raise ModelError if
    neither reads a single sequence.
    """
    ids_BT, reads = _probe(model), ""
    for attention in (ATTENTION, "eager"):
        _use_attention(model, attention)
        off = _attempt(lambda: _off(alone(model, ids_BT[1]), expected_BTD[1]))
        if off is None or not off <= _tolerance(model):
            continue
        reads = attention
        found = _attempt(lambda: _single_steps(model, ids_BT[:2], expected_BTD))
        if found is not None:
            return replace(traits, packs=False, single_steps=found)
    if not reads:
        raise ModelError(
            f"{what} is not supported: its hidden states differ from pass to pass, or from those of its plainest attention. "
            f"{WAY_OUT}"
        )
    _use_attention(model, reads)
    return replace(traits, packs=False, no_sampling="its cache does not return what a full pass returns.")


def _attempt(measure: Callable[[], R]) -> R | None:
    """Return the result, or None for an error: a model's code can raise any exception for unusual inputs."""
    try:
        return measure()
    except Exception:
        return None


def _single_steps(model: PreTrainedModel, ids_BT: Tensor, expected_BTD: Tensor) -> bool | None:
    """Return whether the model must read one token per pass after a cached prefix; None if even that is wrong.

    Two sequences are read with Transformers' caches: both prefixes, then the remaining two tokens of each. An error counts
    relative to the prefixes' whole effect, because a wrong state has a small error where this effect is small.
    """
    rows, known = ids_BT.tolist(), ids_BT.shape[1] - 2
    expected_TD = expected_BTD[:, known:].flatten(0, 1)
    states = [read_on(model, row[:known], 0, None)[1] for row in rows]

    def off(*, single: bool) -> float:
        set_traits(model, Traits(packs=False, single_steps=single))
        pairs = zip(rows, states, strict=True)
        return _off(torch.cat([read_on(model, row[known:], known, deepcopy(s))[0] for row, s in pairs]), expected_TD)

    one, many = off(single=True), _attempt(lambda: off(single=False))
    effect = _off(torch.cat([read_on(model, row[known:], 0, None)[0] for row in rows]), expected_TD)
    rounding = ROUNDING if model.dtype == torch.float32 else ROUNDING_COARSE
    if not (one <= _tolerance(model) and one <= max(effect / 4, rounding)):
        return None
    return many is None or not many <= 4 * one + ROUNDING


def _use_attention(model: PreTrainedModel, attention: str) -> None:
    model.set_attn_implementation(attention)
    if model.config._attn_implementation != attention:  # old models read it from the configuration
        model.config._attn_implementation = attention


def _off(found_TD: Tensor, wanted_TD: Tensor) -> float:
    """Return the largest relative error of a token in float32, and the median one in coarser types.

    Rounding sometimes sends a token to another expert. A real error affects all tokens.
    """
    found_TD, wanted_TD = found_TD.float(), wanted_TD.float()
    off_T = (found_TD - wanted_TD).norm(dim=-1) / wanted_TD.norm(dim=-1).clamp(min=1e-9)
    return (off_T.max() if found_TD.dtype == torch.float32 else off_T.median()).item()


def _as_transformers(model: PreTrainedModel, ids_BT: Tensor, what: str) -> tuple[Tensor, Traits]:
    """Return hidden states with Transformers' own attention, row by row, and the traits of the head. -> (B, T, D)

    In this pass the head reads given hidden states instead: zeros, which reveal a bias, and three others of rising size,
    which reveal a scale and a cap. Raise ModelError if no `sod.core.Head` returns the same logits.
    """
    head = replace(output_head(model), weight_VD=head_layer(model).weight)
    probe_D = torch.randn(head.weight_VD.shape[1], generator=torch.Generator().manual_seed(1)).to(head.weight_VD)
    largest = (head.weight_VD @ probe_D).float().abs().max().clamp(min=1e-9)
    sizes = torch.tensor([0.0, *LARGEST_LOGITS], device=model.device) / largest
    probe_ND = (sizes[:, None] * probe_D.float()).to(probe_D)
    seen: list[Tensor] = []

    def exchange(_module: Any, _arguments: Any, output: Any) -> Any:
        seen.append(output.last_hidden_state)
        output.last_hidden_state = probe_ND[None]
        return output

    hook = base_module(model).register_forward_hook(exchange)
    _use_attention(model, "eager")
    try:
        logits_NV = model(input_ids=ids_BT, use_cache=False).logits[0].float()
    finally:
        hook.remove()
        _use_attention(model, ATTENTION)
    if not seen:
        raise ModelError(
            f"{what} is not supported: its head does not read the hidden states of its base model. {WAY_OUT}"
        )
    return seen[0], _fitted(model, head, probe_ND, logits_NV, what)


def _fitted(model: PreTrainedModel, head: Head, probe_ND: Tensor, logits_NV: Tensor, what: str) -> Traits:
    """Return traits with the scale and cap of Transformers' logits. The model's configuration holds both numbers.

    Raise ModelError if no such head returns these logits.
    """
    numbers = _numbers(model.config.to_dict()) | _numbers(model.config.get_text_config().to_dict())
    plain_NV = head.logits(probe_ND)
    slope = (logits_NV[1] @ plain_NV[1] / (plain_NV[1] @ plain_NV[1])).item()
    scale = min({1.0} | numbers | {1 / number for number in numbers}, key=lambda each: abs(each - slope))
    heads = (replace(head, scale=scale, cap=cap) for cap in (None, *sorted(numbers)))
    tolerance = EXACT if model.dtype == torch.float32 else COARSE_LOGITS
    for fitted in heads:
        found_NV = fitted.logits(probe_ND)
        off_N = (found_NV - logits_NV).norm(dim=-1) / logits_NV.norm(dim=-1).clamp(min=1e-9)
        if (off_N <= tolerance).all():
            return Traits(scale=fitted.scale, cap=fitted.cap)
    raise ModelError(
        f"{what} computes logits in an unknown way: not as hidden states times the output embedding plus its bias, scaled and "
        f"capped with numbers of the configuration. {WAY_OUT}"
    )


def _numbers(entries: dict[str, Any]) -> set[float]:
    """Return the positive numbers of a configuration."""
    return {float(value) for value in entries.values() if type(value) in (int, float) and value > 0}


def _packed_and_token_by_token(
    model: PreTrainedModel, ids_BT: Tensor, expected_BTD: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Read the second of three packed sequences, and two sequences as the sampler does: prefixes, then the other tokens.

    The packed neighbours' embeddings are NaN, so the second sequence is finite only if no other has any influence, in any
    type. Neighbours of one token are enough, because they are adjacent. The prefixes are read in the same pass, to save time.

    -> hidden states of the packed sequence, (T, D); of the three tokens after the prefixes, and the expected ones, (3, D)
    """
    packed, cache, known = Packed([1, LENGTH, 1]), SlotCache(2, ids_BT.device), [LENGTH - 1, LENGTH - 2]
    prefixes = cache.reading([1, 0], [0, 0], known)
    news = [row[:count] for row, count in zip(ids_BT[:2], known, strict=True)]
    ids_N = torch.cat([ids_BT[0, :1], ids_BT[1], ids_BT[2, :1], *news])
    positions_1N = torch.cat([packed.positions(ids_BT.device), prefixes.positions], 1)
    with _broken_embeddings(model, [0, LENGTH + 1]):
        packed_TD = forward(model, ids_N, positions_1N, _Both(packed, LENGTH + 2, prefixes))[1 : 1 + LENGTH]
    rest = [row[count:] for row, count in zip(ids_BT[:2], known, strict=True)]
    layout = cache.reading([1, 0], known, list(map(len, rest)))
    found_TD = forward(model, torch.cat(rest), layout.positions, layout)
    return packed_TD, found_TD, torch.cat([row[count:] for row, count in zip(expected_BTD, known, strict=True)])


class _Both:
    """The layout of a row in which the first tokens have one layout, and the other tokens another."""

    def __init__(self, first: Layout, count: int, other: Layout):
        self._first, self._count, self._other = first, count, other

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None, variant: Variant | None = None
    ) -> Tensor:
        found = [
            layout.attend(layer, query[:, :, where], key[:, :, where], value[:, :, where], scale, variant)
            for layout, where in ((self._first, slice(self._count)), (self._other, slice(self._count, None)))
        ]
        return torch.cat(found, dim=2)


@contextmanager
def _broken_embeddings(model: PreTrainedModel, places: list[int]) -> Iterator[None]:
    """Set the input embeddings at these places to NaN."""

    def break_them(_module: Any, _arguments: Any, output: Tensor) -> Tensor:
        broken = output.clone()
        broken[:, places] = torch.nan
        return broken

    hook = model.get_input_embeddings().register_forward_hook(break_them)
    try:
        yield
    finally:
        hook.remove()
