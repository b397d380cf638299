"""Compute log-probabilities of given tokens, and losses on them, from hidden states, chunk by chunk.

A 20,480-token trajectory over a vocabulary of 151,936 has 3.1e9 logits: 12 GB in fp32, and the same again for every
intermediate of a softmax. These functions only hold the logits of one chunk of tokens, forward and backward.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from sod.core.head import Head, wide

CHUNK_ELEMENTS = 1 << 26
"""Logits held at a time: 256 MiB in fp32. That is enough tokens for a matrix product to run at full speed on a CPU."""
GPU_ROWS, SMALL_GPU, BYTES_PER_LOGIT = 4096, 32 << 30, 128
"""On a GPU: tokens whose logits are held at a time, because every chunk reads and writes the head's gradient. At most one logit
for each of these bytes beyond a small GPU's memory."""

TokenLoss = Callable[[Tensor, slice], Tensor]
"""Computes the loss of each token, (n,), from log-probabilities, (n,), and the slice of these tokens among all tokens.
With several targets for each position, both are (n, J)."""


def token_logprobs(
    hidden_ND: Tensor,
    head: Tensor | Head,
    targets_N: Tensor,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return log softmax(logits / temperature) at the targets and, if requested, the entropies. -> (N,), (N,)

    `hidden_ND`: the model's last hidden state at the position *before* each target. `head`: the model's head, or the output
    embedding (V, D) of a head that is only this matrix.
    `targets_N` may be (N, J), several targets for each position; the log-probabilities are then (N, J) as well.
    Both results are in nats, in fp32 (fp64 for fp64 inputs). `chunk`: number of tokens to hold logits for at a time.
    The log-probabilities carry a gradient; the backward pass computes the logits again, chunk by chunk. The entropies
    carry none. If the loss is known in advance, `token_loss` is a quarter cheaper.
    """
    head = Head.of(head)
    return _TokenLogprobs.apply(  # type: ignore[no-any-return]
        hidden_ND, head.weight_VD, head.bias_V, targets_N, _Form(head.scale, head.cap, temperature), entropy, chunk
    )


def token_loss(
    hidden_ND: Tensor,
    head: Tensor | Head,
    targets_N: Tensor,
    loss: TokenLoss,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
    entropy_weights_N: Tensor | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the sum of `loss(log-probabilities, slice)` over all tokens, the log-probabilities, and the entropies.
    -> (), (N,), (N,)

    Same as `token_logprobs`, but the gradient is computed in the same pass as the loss, while the chunk's logits exist.
    This takes three matrix products, as with full logits, instead of four. Each token's loss term may depend only on its
    own log-probability, as in GRPO, SOD and imitation; with (N, J) targets, on those of its own position. Only the sum
    carries a gradient. The entropies are None unless requested.

    With `entropy_weights_N`, (N,), the sum also has the terms weight * entropy, with their gradient.
    """
    head = Head.of(head)
    form = _Form(head.scale, head.cap, temperature)
    return _TokenLoss.apply(  # type: ignore[no-any-return]
        hidden_ND, head.weight_VD, head.bias_V, targets_N, loss, form, entropy, entropy_weights_N, chunk
    )


@torch.no_grad()
def top_logprobs(
    hidden_ND: Tensor,
    head: Tensor | Head,
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
    head = Head.of(head)
    ids_NJ = targets_N.new_empty(len(targets_N), 1 + count)
    results = _Results(hidden_ND, ids_NJ, entropy=False)
    for rows in _chunks(hidden_ND, head.weight_VD, chunk):
        logits = _logits(hidden_ND[rows], head, temperature)
        ids_NJ[rows] = torch.cat([targets_N[rows, None], logits[0].topk(count).indices], 1)
        results.put(rows, _softmax(*logits, ids_NJ[rows]))
    return ids_NJ, results.logprobs_N


@dataclass(frozen=True, slots=True)
class _Form:
    """The numbers of a head, and the temperature."""

    scale: float
    cap: float | None
    temperature: float

    def head(self, weight_VD: Tensor, bias_V: Tensor | None) -> Head:
        return Head(weight_VD, bias_V, self.scale, self.cap)

    @property
    def factor(self) -> float:
        """Return the constant factor between a gradient of scaled logits and one of hidden @ weight^T + bias."""
        return self.scale / self.temperature


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        form: _Form,
        entropy: bool,
        chunk: int | None,
    ) -> tuple[Tensor, Tensor | None]:
        head = form.head(weight_VD, bias_V)
        results = _Results(hidden_ND, targets_N, entropy)
        for rows in _chunks(hidden_ND, weight_VD, chunk):
            # No name holds the logits, so that one matrix of them is alive at a time.
            softmax = _softmax(*_logits(hidden_ND[rows], head, form.temperature), targets_N[rows], entropy=entropy)
            results.put(rows, softmax)
            del softmax
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, targets_N)
        ctx.form, ctx.chunk = form, chunk
        if results.entropy_N is not None:
            ctx.mark_non_differentiable(results.entropy_N)
        return results.logprobs_N, results.entropy_N

    @staticmethod
    def backward(ctx: Any, gradient_N: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden_ND, weight_VD, bias_V, targets_N = ctx.saved_tensors
        head = ctx.form.head(weight_VD, bias_V)
        gradients = _Gradients(hidden_ND, head, ctx.needs_input_grad)
        for rows in _chunks(hidden_ND, weight_VD, ctx.chunk):
            softmax = _softmax(*_logits(hidden_ND[rows], head, ctx.form.temperature), targets_N[rows])
            gradients.add(rows, softmax, targets_N[rows], gradient_N[rows] * ctx.form.factor)
        return *gradients.of_inputs(), None, None, None, None


class _TokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        loss: TokenLoss,
        form: _Form,
        entropy: bool,
        entropy_weights_N: Tensor | None,
        chunk: int | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        head = form.head(weight_VD, bias_V)
        weighted = entropy_weights_N is not None
        results = _Results(hidden_ND, targets_N, entropy or weighted)
        total = results.logprobs_N.new_zeros(())
        gradients = _Gradients(hidden_ND, head, ctx.needs_input_grad)
        for rows in _chunks(hidden_ND, weight_VD, chunk):
            softmax = _softmax(
                *_logits(hidden_ND[rows], head, form.temperature),
                targets_N[rows],
                entropy=entropy or weighted,
                keep_logits=weighted,
            )
            results.put(rows, softmax)
            with torch.enable_grad():
                leaf_N = softmax.logprobs_N.detach().requires_grad_()
                part = loss(leaf_N, rows).sum()
            total += part.detach()
            (gradient_N,) = torch.autograd.grad(part, leaf_N)
            of_entropy_N = None
            if entropy_weights_N is not None and softmax.entropy_N is not None:
                total += (entropy_weights_N[rows] * softmax.entropy_N).sum()
                of_entropy_N = entropy_weights_N[rows] * form.factor
            gradients.add(rows, softmax, targets_N[rows], gradient_N * form.factor, of_entropy_N)
        ctx.save_for_backward(*gradients.of_inputs())
        ctx.mark_non_differentiable(*(each for each in (results.logprobs_N, results.entropy_N) if each is not None))
        return total, results.logprobs_N, results.entropy_N

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        scaled = [None if saved is None else saved * gradient.to(saved) for saved in ctx.saved_tensors]
        return *scaled, None, None, None, None, None, None


class _Gradients:
    """Accumulates the gradients of the hidden states and the head, chunk by chunk.

    The gradient with respect to a chunk's logits is gradient * (one-hot of the target - probabilities), summed over the
    targets of a position. A cap multiplies it by its derivative.
    """

    def __init__(self, hidden_ND: Tensor, head: Head, needed: Sequence[bool]):
        self._hidden_ND, self._weight_VD, self._bias_V = hidden_ND, head.weight_VD, head.bias_V
        self._of_hidden_ND = torch.empty_like(hidden_ND) if needed[0] else None
        # In full precision, because they are summed over chunks.
        self._of_weight_VD = torch.zeros_like(head.weight_VD, dtype=wide(head.weight_VD)) if needed[1] else None
        bias_V = head.bias_V if needed[2] else None
        self._of_bias_V = None if bias_V is None else torch.zeros_like(bias_V, dtype=wide(bias_V))

    def add(
        self,
        rows: slice,
        softmax: "_Softmax",
        targets_N: Tensor,
        gradient_N: Tensor,
        of_entropy_N: Tensor | None = None,
    ) -> None:
        """Add one chunk. `gradient_N` is with respect to the log-probabilities, times the form's factor; `of_entropy_N` the
        same with respect to the entropies.

        Overwrites `softmax.exp_NV` and `softmax.logits_NV`.
        """
        gradient_NJ = _columns(gradient_N)
        if of_entropy_N is None:
            of_logits_NV = softmax.exp_NV.mul_(-gradient_NJ.sum(1, keepdim=True) / softmax.total_N1)
        else:
            of_logits_NV = softmax.with_entropy(-gradient_NJ.sum(1, keepdim=True), of_entropy_N[:, None])
        of_logits_NV.scatter_add_(1, _columns(targets_N), gradient_NJ)
        if softmax.slope_NV is not None:
            of_logits_NV *= softmax.slope_NV
        if self._of_bias_V is not None:
            self._of_bias_V += of_logits_NV.sum(0)
        of_logits_NV = of_logits_NV.to(self._weight_VD.dtype)
        if self._of_hidden_ND is not None:
            torch.mm(of_logits_NV, self._weight_VD, out=self._of_hidden_ND[rows])
        if self._of_weight_VD is not None and self._of_weight_VD.dtype == of_logits_NV.dtype:
            self._of_weight_VD.addmm_(of_logits_NV.T, self._hidden_ND[rows])
        elif self._of_weight_VD is not None:
            self._of_weight_VD += of_logits_NV.T @ self._hidden_ND[rows]

    def of_inputs(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients of the hidden states, the weight and the bias."""
        return self._of_hidden_ND, _like(self._of_weight_VD, self._weight_VD), _like(self._of_bias_V, self._bias_V)


def _like(tensor: Tensor | None, other: Tensor | None) -> Tensor | None:
    return None if tensor is None or other is None else tensor.to(other.dtype)


@dataclass(slots=True)
class _Softmax:
    """exp(logits - row maximum), and the terms that normalise it to each token's distribution."""

    exp_NV: Tensor
    total_N1: Tensor
    logprobs_N: Tensor
    """Log-probabilities of the targets."""
    entropy_N: Tensor | None
    slope_NV: Tensor | None
    """Derivatives of capped logits; None without a cap."""
    logits_NV: Tensor | None = None
    """logits - row maximum; only kept for the gradient of the entropy."""

    def with_entropy(self, factor_N1: Tensor, of_entropy_N1: Tensor) -> Tensor:
        """Return p * (factor - of_entropy * (log p + H)), as the derivative of H is -p (log p + H). -> (n, V)

        Overwrites `exp_NV` and `logits_NV`.
        """
        assert self.logits_NV is not None
        assert self.entropy_N is not None
        shift_N1 = self.entropy_N[:, None] - self.total_N1.log()
        of_each_NV = self.logits_NV.add_(shift_N1).mul_(-of_entropy_N1).add_(factor_N1)
        return self.exp_NV.mul_(of_each_NV).div_(self.total_N1)


def _logits(hidden_ND: Tensor, head: Head, temperature: float) -> tuple[Tensor, Tensor | None]:
    """Return logits / temperature, minus each row's maximum, and the derivatives of capped logits."""
    logits_NV, slope_NV = head.logits_and_slope(hidden_ND)
    if temperature != 1:
        logits_NV /= temperature
    logits_NV -= logits_NV.amax(-1, keepdim=True)
    return logits_NV, slope_NV


def _softmax(
    logits_NV: Tensor,
    slope_NV: Tensor | None,
    targets_N: Tensor,
    *,
    entropy: bool = False,
    keep_logits: bool = False,
) -> _Softmax:
    """Return the softmax of logits from `_logits`. May overwrite them, unless the entropy is requested."""
    at_targets_NJ = logits_NV.gather(1, _columns(targets_N))
    exp_NV = logits_NV.exp() if entropy else logits_NV.exp_()
    total_N1 = exp_NV.sum(-1, keepdim=True)
    log_total_N1 = total_N1.log()
    logprobs_N = (at_targets_NJ - log_total_N1).view_as(targets_N)
    # -sum p log p, with log p = logits - log total; einsum multiplies row by row and allocates no third matrix
    entropy_N = log_total_N1[:, 0] - torch.einsum("nv,nv->n", exp_NV, logits_NV) / total_N1[:, 0] if entropy else None
    return _Softmax(exp_NV, total_N1, logprobs_N, entropy_N, slope_NV, logits_NV if keep_logits else None)


class _Results:
    """Log-probabilities and, if requested, entropies of all tokens, filled chunk by chunk."""

    def __init__(self, hidden_ND: Tensor, targets_N: Tensor, entropy: bool):
        self.logprobs_N = hidden_ND.new_empty(targets_N.shape, dtype=wide(hidden_ND))
        self.entropy_N = self.logprobs_N.new_empty(len(targets_N)) if entropy else None

    def put(self, rows: slice, softmax: _Softmax) -> None:
        self.logprobs_N[rows] = softmax.logprobs_N
        if self.entropy_N is not None and softmax.entropy_N is not None:
            self.entropy_N[rows] = softmax.entropy_N


def _columns(tensor_N: Tensor) -> Tensor:
    """Reshape (n,) to (n, 1); return (n, J) unchanged."""
    return tensor_N[:, None] if tensor_N.dim() == 1 else tensor_N


def _chunks(hidden_ND: Tensor, weight_VD: Tensor, chunk: int | None) -> Iterator[slice]:
    memory = _memory_of(hidden_ND.device) if hidden_ND.is_cuda else None
    size = chunk or max(1, chunk_elements(len(weight_VD), memory) // len(weight_VD))
    return (slice(start, start + size) for start in range(0, len(hidden_ND), size))


def chunk_elements(vocabulary: int, memory: int | None) -> int:
    """Return the number of logits to hold at a time. `memory`: bytes of the GPU; None for a CPU."""
    if memory is None:
        return CHUNK_ELEMENTS
    return max(CHUNK_ELEMENTS, min(GPU_ROWS * vocabulary, (memory - SMALL_GPU) // BYTES_PER_LOGIT))


@cache
def _memory_of(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[1]
