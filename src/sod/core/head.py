"""The output head of a language model: the function from a hidden state to logits."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """logits = capped(scale * (hidden @ weight^T + bias)), with capped(x) = cap * tanh(x / cap), or x without a cap."""

    weight_VD: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None

    @classmethod
    def of(cls, head: "Tensor | Head") -> "Head":
        """Return the head itself, or the head that only has this weight."""
        return head if isinstance(head, Head) else cls(head)

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.weight_VD)

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Return the logits, in fp32 (fp64 for fp64 inputs). -> (N, V)"""
        return self.logits_and_slope(hidden_ND)[0]

    def logits_and_slope(self, hidden_ND: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the logits, and the derivative of `capped` at each of them; None without a cap, where it is 1.

        -> (N, V), (N, V)
        """
        logits_NV = _product(hidden_ND, self.weight_VD)
        if self.bias_V is not None:
            logits_NV += self.bias_V
        if self.scale != 1:
            logits_NV *= self.scale
        if self.cap is None:
            return logits_NV, None
        tanh_NV = logits_NV.div_(self.cap).tanh_()
        slope_NV = 1 - tanh_NV * tanh_NV
        return tanh_NV.mul_(self.cap), slope_NV


def _product(hidden_ND: Tensor, weight_VD: Tensor) -> Tensor:
    """Return hidden @ weight^T in fp32 or wider. A GPU sums in fp32, and its kernel can return the sums unrounded. -> (N, V)"""
    if hidden_ND.is_cuda and hidden_ND.dtype == weight_VD.dtype != wide(hidden_ND):
        return torch.mm(hidden_ND, weight_VD.T, out_dtype=torch.float32)
    logits_NV = hidden_ND @ weight_VD.T
    return logits_NV.to(wide(logits_NV))


def wide(tensor: Tensor) -> torch.dtype:
    """Return the type for sums of the tensor's numbers: fp32, or fp64 for fp64."""
    return torch.promote_types(tensor.dtype, torch.float32)
