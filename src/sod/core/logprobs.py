"""Log-probabilities of given tokens from hidden states, without ever holding all logits at once."""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def token_logprobs(
    hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, *, temperature: float = 1.0, chunk: int = 1024
) -> tuple[Tensor, Tensor]:
    """log softmax(hidden @ head^T / temperature) at the targets, and the entropy of each distribution. -> (N,), (N,)

    `hidden_ND`: the model's last hidden state at the position *before* each target; `head_VD`: the output embedding.
    Logits exist for `chunk` tokens at a time, in fp32, forward and backward (they are computed again there), so memory
    is chunk * V and not N * V. The entropy, in nats, carries no gradient.
    """
    if len(hidden_ND) <= chunk:  # one chunk: computing it twice would save nothing
        return _chunk_logprobs(hidden_ND, head_VD, targets_N, temperature)
    parts = [
        checkpoint(_chunk_logprobs, hidden, head_VD, targets, temperature, use_reentrant=False)
        for hidden, targets in zip(hidden_ND.split(chunk), targets_N.split(chunk), strict=True)
    ]
    logprobs, entropies = zip(*parts, strict=True)
    return torch.cat(logprobs), torch.cat(entropies)


def _chunk_logprobs(hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    logits_NV = hidden_ND @ head_VD.T
    logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32)) / temperature
    logprobs_NV = logits_NV.log_softmax(-1)
    with torch.no_grad():
        entropy_N = -(logprobs_NV.exp() * logprobs_NV).sum(-1)
    return logprobs_NV.gather(1, targets_N[:, None])[:, 0], entropy_N
