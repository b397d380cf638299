"""Log-probabilities of sampled tokens, by a model on this machine."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, overload

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sod.batching import Batch, microbatches
from sod.core import Head, token_logprobs, top_logprobs
from sod.model.forward import hidden_states, output_head


@dataclass(frozen=True, slots=True)
class Selected:
    """The inputs of the head for M tokens of a batch, row after row."""

    hidden_MD: Tensor
    """Hidden state at the position before each token."""
    head: Head
    targets_M: Tensor
    """Ids, (M,); with candidates (M, 1 + J): each token, then its candidates."""


def selected(
    model: PreTrainedModel, ids_BT: Tensor, mask_BT: Tensor, lengths_B: Tensor, candidates_BTJ: Tensor | None = None
) -> Selected:
    """Return the masked tokens' inputs for `sod.core.token_logprobs` or `token_loss`.

    Position t is predicted from the hidden state at t - 1. The head is computed only for masked tokens. The first token of
    a row has no prediction and must not be masked.
    """
    candidates_MJ = None if candidates_BTJ is None else candidates_BTJ[mask_BT].to(model.device)
    ids_BT, mask_BT = ids_BT.to(model.device), mask_BT.to(model.device)
    inside_BT = torch.arange(ids_BT.shape[1], device=ids_BT.device) < lengths_B[:, None].to(ids_BT.device)
    before_BT = torch.nn.functional.pad(mask_BT[:, 1:], (0, 1))
    hidden_ND = hidden_states(model, ids_BT, lengths_B)
    targets_M = ids_BT[mask_BT]
    if candidates_MJ is not None:
        targets_M = torch.cat([targets_M[:, None], candidates_MJ], 1)
    return Selected(hidden_ND[before_BT[inside_BT]], output_head(model), targets_M)


@overload
def score(
    model: PreTrainedModel, batch: Batch, temperature: float, microbatch_tokens: int, *, entropy: Literal[False] = False
) -> tuple[Tensor, None]: ...
@overload
def score(
    model: PreTrainedModel, batch: Batch, temperature: float, microbatch_tokens: int, *, entropy: Literal[True]
) -> tuple[Tensor, Tensor]: ...
@torch.no_grad()
def score(
    model: PreTrainedModel, batch: Batch, temperature: float, microbatch_tokens: int, *, entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Return a model's log-probabilities of a batch's sampled tokens and, if `entropy` is set, its entropies there.

    -> (B, T), (B, T), 0 outside the mask. With candidates the first is (B, T, 1 + J): the token's value, then theirs.
    """
    candidates = () if batch.candidates_BTJ is None else (1 + batch.candidates_BTJ.shape[2],)
    logprobs_BT, entropy_BT = torch.zeros(*batch.ids_BT.shape, *candidates), torch.zeros(batch.ids_BT.shape)
    for where, chosen in _parts(model, batch, microbatch_tokens):
        results = token_logprobs(
            chosen.hidden_MD, chosen.head, chosen.targets_M, temperature=temperature, entropy=entropy
        )
        for whole_BT, values_M in zip((logprobs_BT, entropy_BT), results, strict=True):
            if values_M is not None:
                whole_BT[where] = values_M.float().cpu()
    return logprobs_BT, entropy_BT if entropy else None


@torch.no_grad()
def score_top(
    model: PreTrainedModel, batch: Batch, temperature: float, microbatch_tokens: int, count: int
) -> tuple[Tensor, Tensor]:
    """Return ids and log-probabilities of each sampled token and of the model's `count` most probable tokens there.

    -> (B, T, 1 + J) int32, (B, T, 1 + J), 0 outside the mask
    """
    shape = (*batch.ids_BT.shape, 1 + count)
    ids_BTJ, logprobs_BTJ = torch.zeros(shape, dtype=torch.int32), torch.zeros(shape)
    for where, chosen in _parts(model, batch, microbatch_tokens):
        ids_MJ, logprobs_MJ = top_logprobs(
            chosen.hidden_MD, chosen.head, chosen.targets_M, count, temperature=temperature
        )
        ids_BTJ[where], logprobs_BTJ[where] = ids_MJ.int().cpu(), logprobs_MJ.float().cpu()
    return ids_BTJ, logprobs_BTJ


def _parts(
    model: PreTrainedModel, batch: Batch, microbatch_tokens: int
) -> Iterator[tuple[tuple[Tensor, Tensor], Selected]]:
    """Yield the sampled tokens of each micro-batch: their positions in the batch, and the inputs of the head."""
    for rows in microbatches(batch.lengths_B, microbatch_tokens):
        part = batch.rows(rows)
        row_M, at_M = part.mask_BT.nonzero(as_tuple=True)
        chosen = selected(model, part.ids_BT, part.mask_BT, part.lengths_B, part.candidates_BTJ)
        yield (rows[row_M], at_M), chosen
