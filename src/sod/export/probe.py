"""A conversation with a call, on which the exported model is held against its checkpoint."""

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
from sod.tools.python import schema
from sod.types import Message

LIMIT = 1e-3
"""Nats that a log-probability may differ outside this project: another attention kernel, the same numbers."""
SCHEMA = schema()
_CALL = {"name": SCHEMA["function"]["name"], "arguments": {"code": "17 * 23"}}
CONVERSATION: list[Message] = [
    {"role": "user", "content": "What is 17 * 23? Put the answer in \\boxed{}."},
    {"role": "assistant", "content": "", "tool_calls": [{"function": _CALL}]},
    {"role": "tool", "name": _CALL["name"], "content": "391"},
    {"role": "assistant", "content": "It is \\boxed{391}."},
]


@dataclass(frozen=True)
class Probe:
    """What the checkpoint makes of the conversation, to hold against what was written of it."""

    text: str
    """In the tokenizer's words."""
    ids: list[int]
    logprobs_T: Tensor
    """Of every token but the first, by the checkpoint's weights, rounded as those that are written."""
    rounding: float
    """Nats, the most that this rounding moved one of them."""

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
        """Load what was written as a stranger would. -> nats, the largest difference of a log-probability

        Raises ModelError where tokens or numbers are other ones.
        """
        if rendered(ChatFormat.of(load_tokenizer(folder), options)) != self.ids:
            raise ModelError(
                "The tokenizer that was written gives other tokens than the checkpoint's. Nothing was kept of it."
            )
        gap = (_logprobs(plain_model(folder, "float32"), self.ids) - self.logprobs_T).abs().max().item()
        if not gap < LIMIT:  # not a number neither
            raise ModelError(
                f"The model that was written is not the checkpoint's: a log-probability is {gap:.2g} nats off, where {LIMIT:g} "
                "are allowed. Nothing was kept of it."
            )
        return gap


def rendered(chat: ChatFormat) -> list[int]:
    """The conversation in tokens."""
    return [token for piece in chat.render(CONVERSATION, [SCHEMA]) for token in piece.tokens]


@torch.no_grad()
def _logprobs(model: PreTrainedModel, ids: Sequence[int]) -> Tensor:
    """log pi of every token but the first. -> (T - 1,)"""
    logits_TV = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
    return logits_TV.log_softmax(-1).gather(1, torch.tensor(ids)[1:, None])[:, 0]
