"""A conversation with a tool call, on which the exported model is compared with its checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sod.chat.format import ChatFormat
from sod.config import ChatOptions, ModelOptions
from sod.errors import ModelError
from sod.export.model import plain_model
from sod.model.loading import check_embeddings, load_model, load_tokenizer
from sod.tools.python import interpreter_schema
from sod.types import Message

LIMIT = 1e-3
"""Allowed difference of a log-probability, in nats. Plain Transformers uses another attention kernel."""
SCHEMA = interpreter_schema()
_CALL = {"name": SCHEMA["function"]["name"], "arguments": {"code": "17 * 23"}}
CONVERSATION: list[Message] = [
    {"role": "user", "content": "What is 17 * 23? Put the answer in \\boxed{}."},
    {"role": "assistant", "content": "", "tool_calls": [{"function": _CALL}]},
    {"role": "tool", "name": _CALL["name"], "content": "391"},
    {"role": "assistant", "content": "It is \\boxed{391}."},
]


@dataclass(frozen=True)
class Probe:
    """The checkpoint's tokens and log-probabilities of the conversation, as a reference for the exported model."""

    text: str
    """The conversation as rendered by the tokenizer."""
    ids: list[int]
    logprobs_T: Tensor
    """Log-probability of every token except the first, from the checkpoint's weights, rounded like the exported ones."""
    rounding: float
    """Largest change of a log-probability by this rounding, in nats."""

    @classmethod
    def of(cls, checkpoint: Path, chat: ChatFormat, written: PreTrainedModel) -> "Probe":
        model = load_model(checkpoint, ModelOptions(device="cpu"))
        check_embeddings(model, chat.tokenizer, checkpoint)
        ids = rendered(chat)
        exact_T = _logprobs(model, ids)
        for parameter, rounded in zip(model.parameters(), written.parameters(), strict=True):
            parameter.data = parameter.data.to(rounded.dtype).float()
        logprobs_T = _logprobs(model, ids)
        return cls(str(chat.tokenizer.decode(ids)), ids, logprobs_T, (exact_T - logprobs_T).abs().max().item())

    def check(self, folder: Path, options: ChatOptions) -> float:
        """Load the exported model with plain Transformers. Return the largest difference of a log-probability, in nats.

        Raises ModelError if tokens or log-probabilities differ.
        """
        if rendered(ChatFormat.of(load_tokenizer(folder), options)) != self.ids:
            raise ModelError("The exported tokenizer returns other tokens than the checkpoint's. Nothing was exported.")
        gap = (_logprobs(plain_model(folder, "float32"), self.ids) - self.logprobs_T).abs().max().item()
        if not gap < LIMIT:  # also true for NaN
            raise ModelError(
                f"The exported model differs from the checkpoint: a log-probability is {gap:.2g} nats off (allowed: {LIMIT:g}). "
                "Nothing was exported."
            )
        return gap


def rendered(chat: ChatFormat) -> list[int]:
    """Return the conversation as tokens."""
    return [token for piece in chat.render(CONVERSATION, [SCHEMA]) for token in piece.tokens]


@torch.no_grad()
def _logprobs(model: PreTrainedModel, ids: Sequence[int]) -> Tensor:
    """Return log pi of every token except the first. -> (T - 1,)"""
    logits_TV = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
    return logits_TV.log_softmax(-1).gather(1, torch.tensor(ids)[1:, None])[:, 0]
