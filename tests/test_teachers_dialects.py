"""A teacher on SGLang, llama.cpp or completions with echo gives the scores of the same teacher here.

The servers are real ones on this machine. They follow the documentation of each kind and compute with the lab's teacher.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_teachers_server import CPU, Serving, local, with_teacher
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sod.batching import Batch, ScoredBatch, collate
from sod.config import AlgorithmOptions
from sod.errors import ModelError, OptionError
from sod.model.loading import load_model
from sod.runs.metrics import of_steps
from sod.teachers.dialects import upper_bound
from sod.teachers.server import ServerTeacher

Tokenizer = PreTrainedTokenizerBase


class Other(Serving):
    """A server of another kind than vLLM. `fault` changes its responses."""

    def __init__(self, model: PreTrainedModel, tokenizer: Tokenizer, kind: str):
        super().__init__(model, tokenizer)
        self.kind, self.fault = kind, ""

    def _logprobs(self, ids: list[int]) -> Tensor:
        with torch.no_grad():
            return self._model(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)

    def _values(self, ids: list[int]) -> list[float | None]:
        told_TV = self._logprobs(ids)
        values: list[Any] = [None, *(told_TV[at, id].item() for at, id in enumerate(ids[1:]))]
        if self.fault == "shift":
            values = [None, *values[2:], -1.0]
        if self.fault == "late":
            values = [None, -1.0, *values[1:-1]]
        if self.fault == "null":
            values[-1] = None
        return values

    async def _answer(self, path: str, body: Any, trouble: str) -> tuple[int, Any]:
        if path == "/v1/models":
            return 200, {"object": "list", "data": [{"id": "tiny"}]}
        if path == "/tokenize" and self.kind == "llamacpp":
            return 200, {"tokens": self._tokenizer.encode(body["content"], add_special_tokens=False)}
        found = {"/props": "llamacpp", "/get_model_info": "sglang", "/generate": "sglang", "/completion": "llamacpp"}
        if path == "/v1/completions":
            return self._completions(body)
        if found.get(path) != self.kind:
            return 404, {"error": "not found"}
        if path == "/props":
            return 200, {"total_slots": 2, "default_generation_settings": {"n_ctx": 1024}}
        if path == "/get_model_info":
            return 200, {"model_path": "tiny", "is_generation": True}
        self.asked.append(body)
        return 200, self._generate(body) if self.kind == "sglang" else self._complete(body)

    def _completions(self, body: Any) -> tuple[int, Any]:
        if self.kind == "strict" and ("prompt_logprobs" in body or body["max_tokens"] == 0):
            return 400, {"error": "unknown or invalid field"}
        ids, choice = body["prompt"], {"index": 0, "text": "x", "logprobs": None, "finish_reason": "length"}
        if body.get("echo") and self.kind in ("openai", "strict"):
            self.asked.append(body)
            more = [7] * body["max_tokens"]
            if self.fault == "others":
                ids = [id + 1 for id in ids]
            texts = [self._tokenizer.decode([id]) for id in [*ids, *more]]
            choice["logprobs"] = {"tokens": texts, "token_logprobs": [*self._values(ids), *(-0.5 for _ in more)]}
        return 200, {"choices": [choice], "usage": {"prompt_tokens": len(body["prompt"])}}

    def _generate(self, body: Any) -> Any:
        ids, start = body["input_ids"], body["logprob_start_len"]
        values = self._values(ids)
        values[start] = None
        shown = [id + 1 for id in ids] if self.fault == "others" else ids
        rows = [[value, id, None] for value, id in zip(values, shown, strict=True)][start:]
        return {"text": "", "meta_info": {"input_token_logprobs": rows, "cached_tokens": 0, "prompt_tokens": len(ids)}}

    def _complete(self, body: Any) -> Any:
        told_V = self._logprobs(body["prompt"])[-1]
        top = told_V.topk(min(body["n_probs"], len(told_V)))
        rows = [
            {"id": id, "logprob": math.nan if self.fault == "null" else value, "token": "", "bytes": []}
            for value, id in zip(top.values.tolist(), top.indices.tolist(), strict=True)
        ]
        (forced, _), *_ = body["logit_bias"]
        if "\N{REPLACEMENT CHARACTER}" in self._tokenizer.decode([forced]):
            return {"content": "\N{REPLACEMENT CHARACTER}", "tokens_evaluated": len(body["prompt"])}
        read = len(body["prompt"]) + (self.fault == "others")
        return {
            "content": "x",
            "completion_probabilities": [rows[0] | {"top_logprobs": rows}],
            "tokens_evaluated": read,
        }


@pytest.fixture(scope="module")
def model(teacher: Path) -> PreTrainedModel:
    return load_model(teacher, CPU)


@pytest.fixture
def batch(random_groups: Callable[..., list[Any]]) -> Batch:
    return collate(random_groups(2, 3, vocabulary=500, longest=40))


@pytest.mark.parametrize("kind", ["sglang", "openai", "strict", "llamacpp"])
def test_scores_are_those_of_the_same_teacher_here(
    model: PreTrainedModel, teacher: Path, tokenizer: Tokenizer, batch: Batch, kind: str
) -> None:
    """llama.cpp is asked for the whole vocabulary, so that nothing is outside."""
    server = Other(model, tokenizer, kind)
    found = with_teacher(server, teacher, tokenizer, lambda opened: opened.score(batch), teacher_top=100_000)
    torch.testing.assert_close(found.logprobs_BT, local(teacher, tokenizer, batch), atol=1e-5, rtol=0)
    assert not found.logprobs_BT[~batch.mask_BT].any()


def test_what_is_outside_the_top_has_the_signal_nearest_to_zero(
    model: PreTrainedModel, teacher: Path, tokenizer: Tokenizer, batch: Batch
) -> None:
    exact_BT = local(teacher, tokenizer, batch)
    student_BT = (exact_BT + torch.linspace(-3, 3, exact_BT.shape[1])).clamp(max=-0.01).masked_fill(~batch.mask_BT, 0)
    given = batch.scored(student_BT)

    async def work(opened: ServerTeacher) -> ScoredBatch:
        assert not opened.scores_tokens
        return await opened.scored(given)

    found = with_teacher(Other(model, tokenizer, "llamacpp"), teacher, tokenizer, work, teacher_top=20)
    assert found.outside_BT is not None
    outside_BT = found.outside_BT > 0
    assert 0 < int(outside_BT.sum()) < int(batch.mask_BT.sum())
    signal_BT, true_BT = found.teacher_BT - student_BT, exact_BT - student_BT
    inside_BT = batch.mask_BT & ~outside_BT
    torch.testing.assert_close(signal_BT[inside_BT], true_BT[inside_BT], atol=1e-5, rtol=0)
    assert (exact_BT.exp() <= found.outside_BT + 1e-6)[outside_BT].all()
    assert (signal_BT[outside_BT] <= 0).all()
    assert (signal_BT[outside_BT] >= torch.minimum(true_BT, torch.zeros(()))[outside_BT] - 1e-5).all()
    measured = of_steps(found, AlgorithmOptions())
    assert measured["teacher/outside_top"] == pytest.approx(int(outside_BT.sum()) / int(batch.mask_BT.sum()))
    assert measured["teacher/outside_width"] == pytest.approx(found.outside_BT[outside_BT].mean().item())


def test_the_bound_is_the_smaller_of_the_last_one_and_of_what_is_left() -> None:
    assert upper_bound([math.log(0.5), math.log(0.1)]) == pytest.approx(math.log(0.1))
    assert upper_bound([math.log(0.6), math.log(0.39)]) == pytest.approx(math.log(0.01), abs=1e-3)
    assert math.isnan(upper_bound([-1.0, math.nan]))


@pytest.mark.parametrize(
    ("kind", "fault", "message"),
    [
        ("openai", "shift", "belong to other positions"),
        ("openai", "late", "belong to other positions"),
        ("sglang", "shift", "belong to other positions"),
        ("openai", "others", "other tokens than the ones that it received|echo and logprobs"),
        ("sglang", "others", "other tokens than the ones that it received"),
        ("llamacpp", "others", "other tokens than the ones that it received"),
        ("sglang", "null", "log-probabilities such as nan"),
        ("openai", "null", "log-probabilities such as nan"),
        ("llamacpp", "null", "log-probabilities such as nan"),
    ],
)
def test_a_faulty_server_is_refused_at_the_start(
    model: PreTrainedModel, teacher: Path, tokenizer: Tokenizer, kind: str, fault: str, message: str
) -> None:
    server = Other(model, tokenizer, kind)
    server.fault = fault
    with pytest.raises((ModelError, OptionError), match=message):
        with_teacher(server, teacher, tokenizer)


def test_a_server_without_log_probabilities_of_given_tokens_is_refused(
    model: PreTrainedModel, teacher: Path, tokenizer: Tokenizer
) -> None:
    with pytest.raises(OptionError, match="does not return the log-probabilities of the tokens that it receives"):
        with_teacher(Other(model, tokenizer, "chat"), teacher, tokenizer)


def test_sglang_is_asked_from_the_token_before_the_first_wanted_one(
    model: PreTrainedModel, teacher: Path, tokenizer: Tokenizer, batch: Batch
) -> None:
    server = Other(model, tokenizer, "sglang")
    one = replace(batch.rows(torch.tensor([0])))
    with_teacher(server, teacher, tokenizer, lambda opened: opened.score(one))
    asked = server.asked[-1]
    assert asked["input_ids"] == one.trajectories[0].ids
    assert asked["logprob_start_len"] == int(one.mask_BT[0].int().argmax()) - 1
