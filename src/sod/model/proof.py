"""Verify at load time that a model computes the same as in Transformers, by running a probe.

All computations of this project use packed tokens, or single tokens after a cached prefix. Both are correct only if tokens
influence each other through attention alone, and all attention goes through `sod.model.attention`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from sod.errors import ModelError, SodError
from sod.model.attention import ATTENTION, Packed, SlotCache
from sod.model.forward import forward

LENGTH = 5
"""Tokens in each sequence of the probe: longer than usual convolutions, and few, because loading waits for the probe."""
LARGEST_LOGIT = 100.0
"""Largest logit of the head's probe: large enough to reveal a cap on logits."""
EXACT, COARSE = 1e-3, 0.1
"""Largest relative error of a hidden state in float32, and in coarser types. Measured with bfloat16: 0.007 over two layers
and 0.016 over 28. Positions that are wrong by one cause 0.2 in the lab's teacher."""
FULL = {"full_attention", "attention"}
SLIDING = {"sliding_attention", "chunked_attention"}
"""Names of layer types: attention to all tokens, and to the latest ones, which `sod.model.attention` does not support."""
NEUTRAL = {"logits_scaling": 1, "logit_scale": 1, "lm_head_multiplier": 1, "final_logit_softcapping": None}
"""Configuration entries that scale or cap logits, with the value that has no effect."""
WAY_OUT = "Use a model whose layers are all full attention, such as Qwen3, Llama, or OLMo 2."


@torch.no_grad()
def prove_model(model: PreTrainedModel, folder: Path) -> None:
    """Raise ModelError if packed scoring, cached sampling or the head would return other numbers than Transformers."""
    check_finite(model, folder)
    try:
        _prove(model, folder)
    except SodError:
        raise
    except Exception as error:  # a model's code can raise any exception for unusual inputs
        reason = next(iter(str(error).splitlines()), "")
        raise ModelError(
            f"The model in {folder} (type {model.config.model_type}) cannot read packed sequences: "
            f"{type(error).__name__}: {reason} {WAY_OUT}"
        ) from error


def check_configuration(config: PreTrainedConfig, folder: Path) -> None:
    """Raise the ModelError of `prove` if the configuration already shows it. A model that passes may still fail `prove`.

    The attention is checked with a pass on PyTorch's meta device, which computes no numbers.
    """
    text: dict[str, Any] = config.get_text_config().to_dict()
    what = f"The model in {folder} (type {config.model_type})"
    if others := set(text.get("layer_types") or []) - FULL - SLIDING:
        raise ModelError(_leaks(what, others))
    if any(text.get(name, neutral) not in (neutral, None) for name, neutral in NEUTRAL.items()):
        raise ModelError(f"{what} {SCALED}")
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation=ATTENTION).eval()
            model(input_ids=torch.zeros(1, LENGTH, dtype=torch.long), use_cache=False)
    except ModelError:
        raise
    except Exception:  # a model's code may need real numbers
        return


SCALED = (
    "does not compute logits as hidden states times the output embedding: it scales or caps them, or adds a bias. Such "
    "models are not supported."
)


def _leaks(what: str, kinds: set[str]) -> str:
    named = f" ({', '.join(sorted(kinds))})" if kinds else ""
    return (
        f"{what} is not supported: packed sequences influence each other. Its layers carry a state or a convolution from "
        f"token to token{named}, or its attention ignores the arguments that keep sequences apart. {WAY_OUT}"
    )


def check_finite(model: PreTrainedModel, folder: Path) -> None:
    """Raise ModelError if a tensor holds a NaN or an infinity. The message names the first one."""
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if tensor.is_floating_point() and tensor.numel() and not tensor.sum(dtype=torch.float32).isfinite():
            raise ModelError(
                f"The weights in {folder} are not finite: {name} holds NaN or infinity. Use an earlier checkpoint."
            )


def _prove(model: PreTrainedModel, folder: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = model.get_output_embeddings().out_features  # type: ignore[union-attr]
    ids_BT = torch.randint(int(tokens), (3, LENGTH), generator=generator).to(model.device)
    expected_BTD = _as_transformers(model, ids_BT[:2], folder)
    tolerance = EXACT if model.dtype == torch.float32 else COARSE
    what = f"The model in {folder} (type {model.config.model_type})"
    packed_TD = _beside_nothing(model, ids_BT)
    if not packed_TD.isfinite().all():
        raise ModelError(_leaks(what, set(model.config.get_text_config().to_dict().get("layer_types") or []) - FULL))
    for how, found_TD, wanted_TD in (
        ("packed between others", packed_TD, expected_BTD[1]),
        ("token by token", *_token_by_token(model, ids_BT[:2], expected_BTD)),
    ):
        off = _off(found_TD, wanted_TD)
        if not off <= tolerance:
            raise ModelError(
                f"{what} is not supported: {how}, a sequence's hidden states differ by {off:.1%} from those of the single "
                f"sequence in Transformers. {WAY_OUT}"
            )


def _off(found_TD: Tensor, wanted_TD: Tensor) -> float:
    """Return the largest relative error of a token in float32, and the median one in coarser types.

    Rounding sometimes sends a token to another expert. A real error affects all tokens.
    """
    found_TD, wanted_TD = found_TD.float(), wanted_TD.float()
    off_T = (found_TD - wanted_TD).norm(dim=-1) / wanted_TD.norm(dim=-1).clamp(min=1e-9)
    return (off_T.max() if found_TD.dtype == torch.float32 else off_T.median()).item()


def _as_transformers(model: PreTrainedModel, ids_BT: Tensor, folder: Path) -> Tensor:
    """Return hidden states with Transformers' own attention, row by row. -> (B, T, D)

    Raise ModelError unless the head is only a matrix. In this pass the head gets two given hidden states: a large one
    reveals a scale or a cap, zeros reveal a bias.
    """
    weight_VD = model.get_output_embeddings().weight  # type: ignore[union-attr]
    probe_BTD = torch.randn(1, 2, weight_VD.shape[1], generator=torch.Generator().manual_seed(1))
    probe_BTD = probe_BTD.to(weight_VD)  # type: ignore[arg-type]
    expected_BTV = probe_BTD @ weight_VD.T
    scale = LARGEST_LOGIT / expected_BTV.abs().max().clamp(min=1e-9)
    for tensor in (probe_BTD, expected_BTV):
        tensor *= scale
        tensor[:, 0] = 0
    seen: list[Tensor] = []

    def exchange(_module: Any, _arguments: Any, output: Any) -> Any:
        seen.append(output.last_hidden_state)
        output.last_hidden_state = probe_BTD
        return output

    hook = model.base_model.register_forward_hook(exchange)
    model.set_attn_implementation("eager")
    try:
        logits_BTV = model(input_ids=ids_BT, use_cache=False).logits
    finally:
        hook.remove()
        model.set_attn_implementation(ATTENTION)
    if not seen:
        raise ModelError(
            f"The model in {folder} (type {model.config.model_type}) is not supported: its head does not read the hidden states "
            f"of its base model. {WAY_OUT}"
        )
    gap_BTV = (logits_BTV - expected_BTV).abs()
    if gap_BTV[:, 0].any() or not gap_BTV.max() <= LARGEST_LOGIT * (EXACT if model.dtype == torch.float32 else COARSE):
        raise ModelError(f"The model in {folder} (type {model.config.model_type}) {SCALED}")
    return seen[0]


def _beside_nothing(model: PreTrainedModel, ids_BT: Tensor) -> Tensor:
    """Return hidden states of the second of three packed sequences; the embeddings of the other two are NaN. -> (T, D)

    They are finite only if no other sequence has any influence, in any type. Neighbours of one token are enough, because
    they are adjacent.
    """
    here = slice(1, 1 + LENGTH)
    ids_N = torch.cat([ids_BT[0, :1], ids_BT[1], ids_BT[2, :1]])
    with _embeddings(model, here):
        layout = Packed([1, LENGTH, 1])
        return forward(model, ids_N, layout.positions(ids_BT.device), layout)[here]


@contextmanager
def _embeddings(model: PreTrainedModel, kept: slice) -> Iterator[None]:
    """Set all input embeddings to NaN except those in `kept`."""

    def break_others(_module: Any, _arguments: Any, output: Tensor) -> Tensor:
        broken = torch.full_like(output, torch.nan)
        broken[:, kept] = output[:, kept]
        return broken

    hook = model.get_input_embeddings().register_forward_hook(break_others)
    try:
        yield
    finally:
        hook.remove()


def _token_by_token(model: PreTrainedModel, ids_BT: Tensor, expected_BTD: Tensor) -> tuple[Tensor, Tensor]:
    """Read two sequences as the sampler does: prefixes into a cache, then one more token of one and two of the other.

    -> the hidden states of these three tokens, and the expected ones, (3, D) each
    """
    cache = SlotCache(2, ids_BT.device)
    known = [LENGTH - 1, LENGTH - 2]
    news = [row[:count] for row, count in zip(ids_BT, known, strict=True)]
    layout = cache.reading([1, 0], [0, 0], known)
    forward(model, torch.cat(news), layout.positions, layout)
    rest = [row[count:] for row, count in zip(ids_BT, known, strict=True)]
    layout = cache.reading([1, 0], known, list(map(len, rest)))
    found_TD = forward(model, torch.cat(rest), layout.positions, layout)
    return found_TD, torch.cat([row[count:] for row, count in zip(expected_BTD, known, strict=True)])
