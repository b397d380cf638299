"""A Transformers model as this project uses it: loaded, checked, and asked for log-probabilities."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from sod.attention import NAME as ATTENTION
from sod.attention import Packed, check_attention
from sod.batching import Batch, microbatches
from sod.config import ModelOptions, RolloutOptions
from sod.core import token_logprobs, top_logprobs
from sod.errors import ModelError
from sod.sharding import base_of

logging.disable_progress_bar()  # progress is sod.progress's business


def load_model(folder: Path, options: ModelOptions) -> PreTrainedModel:
    """A causal language model from a directory, checked to compute its logits as hidden @ head^T."""
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} holds no model: config.json is missing. Give the directory of a Hugging Face model."
        )
    device = options.device if options.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, options.dtype), attn_implementation=ATTENTION, local_files_only=True
        )
        model.to(torch.device(device))  # type: ignore[arg-type]
    except Exception as error:  # a damaged file makes the libraries below raise anything
        raise ModelError(f"The model in {folder} cannot be loaded: {error}") from error
    model = cast(PreTrainedModel, model).eval()
    _check_head(model, folder)
    return model


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    if not (folder / "tokenizer_config.json").is_file():
        raise ModelError(
            f"{folder} holds no tokenizer: tokenizer_config.json is missing. Save the tokenizer beside the model."
        )
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # as above
        raise ModelError(f"The tokenizer in {folder} cannot be loaded: {error}") from error


def check_embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Every id of the tokenizer must have an embedding."""
    rows, highest = head(model).shape[0], max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise ModelError(f"The model in {folder} has {rows} embeddings, but its tokenizer has ids up to {highest}.")


def check_same_vocabulary(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> None:
    """Student and teacher must give every id the same token; otherwise their log-probabilities are of different things."""
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    if ours == theirs:
        return
    example = next(iter(sorted(set(ours.items()) ^ set(theirs.items()))))
    raise ModelError(
        f"Student and teacher have different vocabularies ({len(ours)} and {len(theirs)} tokens; they differ at "
        f"{example[0]!r}, id {example[1]}). Choose a teacher with the student's tokenizer."
    )


def check_context(model: PreTrainedModel, options: RolloutOptions, whose: str = "model") -> None:
    """The longest trajectory must fit into the model's positions."""
    longest = options.max_prompt_tokens + options.max_tokens
    positions = model.config.max_position_embeddings
    if longest > positions:
        raise ModelError(
            f"The {whose} has {positions} positions, but rollout.max_prompt_tokens + rollout.max_tokens is {longest}; lower "
            "one of them."
        )


@torch.no_grad()
def _check_head(model: PreTrainedModel, folder: Path) -> None:
    """`token_logprobs` assumes logits = hidden @ head^T; a model that scales or caps them must not pass in silence."""
    ids = torch.arange(1, 9, device=model.device)[None] % model.config.vocab_size
    logits = model(input_ids=ids, use_cache=False).logits
    ours = hidden_states(model, ids, torch.tensor([ids.shape[1]])) @ head(model).T
    if not torch.allclose(logits[0], ours, atol=1e-3, rtol=1e-3):
        raise ModelError(
            f"The model in {folder} does not compute logits as hidden states times the output embedding (it may scale or "
            "cap them, or add a bias); such models are not supported."
        )


def head(model: PreTrainedModel) -> Tensor:
    """The output embedding. -> (V, D)"""
    return cast(torch.nn.Linear, model.get_output_embeddings()).weight


def hidden_states(model: PreTrainedModel, ids_BT: Tensor, lengths_B: Tensor) -> Tensor:
    """The last hidden states, before the head, of the rows' first `lengths_B` tokens, end to end. -> (N, D)"""
    check_attention(model)
    lengths = lengths_B.tolist()
    layout = Packed(lengths)
    return base_of(model)(
        input_ids=torch.cat([row[:length] for row, length in zip(ids_BT, lengths, strict=True)])[None],
        position_ids=layout.positions(ids_BT.device),
        use_cache=False,
        layout=layout,
    ).last_hidden_state[0]


@dataclass(frozen=True, slots=True)
class Selected:
    """What the head needs for some tokens of a batch, M of them, row after row."""

    hidden_MD: Tensor
    """The hidden state at the position before each."""
    head_VD: Tensor
    targets_M: Tensor
    """(M,); with candidates (M, 1 + J), each token before its own."""


def selected(
    model: PreTrainedModel, ids_BT: Tensor, mask_BT: Tensor, lengths_B: Tensor, candidates_BTJ: Tensor | None = None
) -> Selected:
    """The masked tokens, ready for `sod.core.token_logprobs` or `token_loss`.

    Position t is predicted from the hidden state at t - 1; only masked tokens go through the head. The first token of a
    row has no prediction and must not be masked.
    """
    candidates_MJ = None if candidates_BTJ is None else candidates_BTJ[mask_BT].to(model.device)
    ids_BT, mask_BT = ids_BT.to(model.device), mask_BT.to(model.device)
    inside_BT = torch.arange(ids_BT.shape[1], device=ids_BT.device) < lengths_B[:, None].to(ids_BT.device)
    before_BT = torch.nn.functional.pad(mask_BT[:, 1:], (0, 1))
    hidden_ND = hidden_states(model, ids_BT, lengths_B)
    targets_M = ids_BT[mask_BT]
    if candidates_MJ is not None:
        targets_M = torch.cat([targets_M[:, None], candidates_MJ], 1)
    return Selected(hidden_ND[before_BT[inside_BT]], head(model), targets_M)


@torch.no_grad()
def score(
    model: PreTrainedModel, batch: Batch, temperature: float, microbatch_tokens: int, *, entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities of a batch's sampled tokens under a model and, if asked, its entropies there.

    -> (B, T), (B, T), 0 off the mask. If the batch has candidates, the first is (B, T, 1 + J): each token's, then theirs.
    """
    candidates = () if batch.candidates_BTJ is None else (1 + batch.candidates_BTJ.shape[2],)
    logprobs_BT, entropy_BT = torch.zeros(*batch.ids_BT.shape, *candidates), torch.zeros(batch.ids_BT.shape)
    for where, chosen in _parts(model, batch, microbatch_tokens):
        results = token_logprobs(
            chosen.hidden_MD, chosen.head_VD, chosen.targets_M, temperature=temperature, entropy=entropy
        )
        for whole_BT, values_M in zip((logprobs_BT, entropy_BT), results, strict=True):
            if values_M is not None:
                whole_BT[where] = values_M.float().cpu()
    return logprobs_BT, entropy_BT if entropy else None


@torch.no_grad()
def score_top(
    model: PreTrainedModel, batch: Batch, temperature: float, microbatch_tokens: int, count: int
) -> tuple[Tensor, Tensor]:
    """At each sampled token that token, then the model's `count` likeliest: ids and log-probabilities.

    -> (B, T, 1 + J) int32, (B, T, 1 + J), 0 off the mask
    """
    shape = (*batch.ids_BT.shape, 1 + count)
    ids_BTJ, logprobs_BTJ = torch.zeros(shape, dtype=torch.int32), torch.zeros(shape)
    for where, chosen in _parts(model, batch, microbatch_tokens):
        ids_MJ, logprobs_MJ = top_logprobs(
            chosen.hidden_MD, chosen.head_VD, chosen.targets_M, count, temperature=temperature
        )
        ids_BTJ[where], logprobs_BTJ[where] = ids_MJ.int().cpu(), logprobs_MJ.float().cpu()
    return ids_BTJ, logprobs_BTJ


def _parts(
    model: PreTrainedModel, batch: Batch, microbatch_tokens: int
) -> Iterator[tuple[tuple[Tensor, Tensor], Selected]]:
    """The sampled tokens, micro-batch by micro-batch: where they stand in the batch, and what the head needs."""
    for rows in microbatches(batch.lengths_B, microbatch_tokens):
        part = batch.rows(rows)
        row_M, at_M = part.mask_BT.nonzero(as_tuple=True)
        chosen = selected(model, part.ids_BT, part.mask_BT, part.lengths_B, part.candidates_BTJ)
        yield (rows[row_M], at_M), chosen
