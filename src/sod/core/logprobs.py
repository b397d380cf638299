"""Compute log-probabilities of given tokens, and losses on them, from hidden states, chunk by chunk.

A 20,480-token trajectory over a vocabulary of 151,936 has 3.1e9 logits: 12 GB in fp32, and the same again for every
intermediate of a softmax. These functions only hold the logits of one chunk of tokens, forward and backward.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 26
"""Logits held at a time: 256 MiB in fp32. That is enough tokens for a matrix product to run at full speed."""

TokenLoss = Callable[[Tensor, slice], Tensor]
"""Computes the loss of each token, (n,), from log-probabilities, (n,), and the slice of these tokens among all tokens.
With several targets for each position, both are (n, J)."""


def token_logprobs(
    hidden_ND: Tensor,
    head_VD: Tensor,
    targets_N: Tensor,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return log softmax(hidden @ head^T / temperature) at the targets and, if requested, the entropies. -> (N,), (N,)

    `hidden_ND`: the model's last hidden state at the position *before* each target. `head_VD`: the output embedding.
    `targets_N` may be (N, J), several targets for each position; the log-probabilities are then (N, J) as well.
    Both results are in nats, in fp32 (fp64 for fp64 inputs). `chunk`: number of tokens to hold logits for at a time.
    The log-probabilities carry a gradient; the backward pass computes the logits again, chunk by chunk. The entropies
    carry none. If the loss is known in advance, `token_loss` is a quarter cheaper.
    """
    return _TokenLogprobs.apply(hidden_ND, head_VD, targets_N, temperature, entropy, chunk)  # type: ignore[no-any-return]


def token_loss(
    hidden_ND: Tensor,
    head_VD: Tensor,
    targets_N: Tensor,
    loss: TokenLoss,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the sum of `loss(log-probabilities, slice)` over all tokens, the log-probabilities, and the entropies.
    -> (), (N,), (N,)

    Same as `token_logprobs`, but the gradient is computed in the same pass as the loss, while the chunk's logits exist.
    This takes three matrix products, as with full logits, instead of four. Each token's loss term may depend only on its
    own log-probability, as in GRPO, SOD and imitation; with (N, J) targets, on those of its own position. Only the sum
    carries a gradient. The entropies are None unless requested.
    """
    return _TokenLoss.apply(hidden_ND, head_VD, targets_N, loss, temperature, entropy, chunk)  # type: ignore[no-any-return]


@torch.no_grad()
def top_logprobs(
    hidden_ND: Tensor,
    head_VD: Tensor,
    targets_N: Tensor,
    count: int,
    *,
    temperature: float = 1.0,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return each target followed by the `count` likeliest tokens of its distribution, and the log-probabilities of all.
    -> (N, 1 + J) int64, (N, 1 + J)

    The likeliest token comes first. Log-probabilities are from the whole vocabulary's softmax, as in `token_logprobs`. No
    gradient.
    """
    ids_NJ = targets_N.new_empty(len(targets_N), 1 + count)
    results = _Results(hidden_ND, ids_NJ, entropy=False)
    for rows in _chunks(hidden_ND, head_VD, chunk):
        logits_NV = _logits(hidden_ND[rows], head_VD, temperature)
        ids_NJ[rows] = torch.cat([targets_N[rows, None], logits_NV.topk(count).indices], 1)
        results.put(rows, _softmax(logits_NV, ids_NJ[rows]))
    return ids_NJ, results.logprobs_N


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        head_VD: Tensor,
        targets_N: Tensor,
        temperature: float,
        entropy: bool,
        chunk: int | None,
    ) -> tuple[Tensor, Tensor | None]:
        results = _Results(hidden_ND, targets_N, entropy)
        for rows in _chunks(hidden_ND, head_VD, chunk):
            results.put(
                rows, _softmax(_logits(hidden_ND[rows], head_VD, temperature), targets_N[rows], entropy=entropy)
            )
        ctx.save_for_backward(hidden_ND, head_VD, targets_N)
        ctx.temperature, ctx.chunk = temperature, chunk
        if results.entropy_N is not None:
            ctx.mark_non_differentiable(results.entropy_N)
        return results.logprobs_N, results.entropy_N

    @staticmethod
    def backward(ctx: Any, gradient_N: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden_ND, head_VD, targets_N = ctx.saved_tensors
        gradients = _Gradients(hidden_ND, head_VD, ctx.needs_input_grad)
        for rows in _chunks(hidden_ND, head_VD, ctx.chunk):
            softmax = _softmax(_logits(hidden_ND[rows], head_VD, ctx.temperature), targets_N[rows])
            gradients.add(rows, softmax, targets_N[rows], gradient_N[rows] / ctx.temperature)
        return *gradients.of_inputs(), None, None, None, None


class _TokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        head_VD: Tensor,
        targets_N: Tensor,
        loss: TokenLoss,
        temperature: float,
        entropy: bool,
        chunk: int | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        results = _Results(hidden_ND, targets_N, entropy)
        total = results.logprobs_N.new_zeros(())
        gradients = _Gradients(hidden_ND, head_VD, ctx.needs_input_grad)
        for rows in _chunks(hidden_ND, head_VD, chunk):
            softmax = _softmax(_logits(hidden_ND[rows], head_VD, temperature), targets_N[rows], entropy=entropy)
            results.put(rows, softmax)
            with torch.enable_grad():
                leaf_N = softmax.logprobs_N.detach().requires_grad_()
                part = loss(leaf_N, rows).sum()
            total += part.detach()
            (gradient_N,) = torch.autograd.grad(part, leaf_N)
            gradients.add(rows, softmax, targets_N[rows], gradient_N / temperature)
        ctx.save_for_backward(*gradients.of_inputs())
        ctx.mark_non_differentiable(*(each for each in (results.logprobs_N, results.entropy_N) if each is not None))
        return total, results.logprobs_N, results.entropy_N

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        of_hidden_ND, of_head_VD, of_targets = ctx.saved_tensors
        scaled = [None if saved is None else saved * gradient.to(saved) for saved in (of_hidden_ND, of_head_VD)]
        return *scaled, of_targets, None, None, None, None


class _Gradients:
    """Accumulates the gradients of the hidden states and the head, chunk by chunk.

    The gradient with respect to a chunk's logits is gradient * (one-hot of the target - probabilities), summed over the
    targets of a position.
    """

    def __init__(self, hidden_ND: Tensor, head_VD: Tensor, needed: tuple[bool, ...]):
        self._hidden_ND, self._head_VD = hidden_ND, head_VD
        self._of_hidden_ND = torch.empty_like(hidden_ND) if needed[0] else None
        # In full precision, because it is summed over chunks.
        self._of_head_VD = torch.zeros_like(head_VD, dtype=_wide(head_VD)) if needed[1] else None

    def add(self, rows: slice, softmax: "_Softmax", targets_N: Tensor, gradient_N: Tensor) -> None:
        """Add one chunk. `gradient_N` is with respect to the log-probabilities, divided by the temperature.

        Overwrites `softmax.exp_NV`.
        """
        gradient_NJ = _columns(gradient_N)
        of_logits_NV = softmax.exp_NV.mul_(-gradient_NJ.sum(1, keepdim=True) / softmax.total_N1)
        of_logits_NV.scatter_add_(1, _columns(targets_N), gradient_NJ)
        of_logits_NV = of_logits_NV.to(self._head_VD.dtype)
        if self._of_hidden_ND is not None:
            torch.mm(of_logits_NV, self._head_VD, out=self._of_hidden_ND[rows])
        if self._of_head_VD is not None and self._of_head_VD.dtype == of_logits_NV.dtype:
            self._of_head_VD.addmm_(of_logits_NV.T, self._hidden_ND[rows])
        elif self._of_head_VD is not None:
            self._of_head_VD += of_logits_NV.T @ self._hidden_ND[rows]

    def of_inputs(self) -> tuple[Tensor | None, Tensor | None, None]:
        """Return the gradients of hidden_ND, head_VD and targets_N."""
        return self._of_hidden_ND, None if self._of_head_VD is None else self._of_head_VD.to(self._head_VD.dtype), None


@dataclass(slots=True)
class _Softmax:
    """exp(logits - row maximum), and the terms that normalise it to each token's distribution."""

    exp_NV: Tensor
    total_N1: Tensor
    logprobs_N: Tensor
    """Log-probabilities of the targets."""
    entropy_N: Tensor | None


def _logits(hidden_ND: Tensor, head_VD: Tensor, temperature: float) -> Tensor:
    """Return hidden @ head^T / temperature, minus each row's maximum."""
    logits_NV = hidden_ND @ head_VD.T
    logits_NV = logits_NV.to(_wide(logits_NV))
    if temperature != 1:
        logits_NV /= temperature
    logits_NV -= logits_NV.amax(-1, keepdim=True)
    return logits_NV


def _softmax(logits_NV: Tensor, targets_N: Tensor, *, entropy: bool = False) -> _Softmax:
    """Return the softmax of logits from `_logits`. May overwrite them."""
    at_targets_NJ = logits_NV.gather(1, _columns(targets_N))
    exp_NV = logits_NV.exp() if entropy else logits_NV.exp_()
    total_N1 = exp_NV.sum(-1, keepdim=True)
    log_total_N1 = total_N1.log()
    logprobs_N = (at_targets_NJ - log_total_N1).view_as(targets_N)
    # -sum p log p, with log p = logits - log total; einsum multiplies row by row and allocates no third matrix
    entropy_N = log_total_N1[:, 0] - torch.einsum("nv,nv->n", exp_NV, logits_NV) / total_N1[:, 0] if entropy else None
    return _Softmax(exp_NV, total_N1, logprobs_N, entropy_N)


class _Results:
    """Log-probabilities and, if requested, entropies of all tokens, filled chunk by chunk."""

    def __init__(self, hidden_ND: Tensor, targets_N: Tensor, entropy: bool):
        self.logprobs_N = hidden_ND.new_empty(targets_N.shape, dtype=_wide(hidden_ND))
        self.entropy_N = self.logprobs_N.new_empty(len(targets_N)) if entropy else None

    def put(self, rows: slice, softmax: _Softmax) -> None:
        self.logprobs_N[rows] = softmax.logprobs_N
        if self.entropy_N is not None and softmax.entropy_N is not None:
            self.entropy_N[rows] = softmax.entropy_N


def _columns(tensor_N: Tensor) -> Tensor:
    """Reshape (n,) to (n, 1); return (n, J) unchanged."""
    return tensor_N[:, None] if tensor_N.dim() == 1 else tensor_N


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _chunks(hidden_ND: Tensor, head_VD: Tensor, chunk: int | None) -> Iterator[slice]:
    size = chunk or max(1, CHUNK_ELEMENTS // len(head_VD))
    return (slice(start, start + size) for start in range(0, len(hidden_ND), size))
