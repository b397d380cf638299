"""vLLM frees its memory while the student learns: the calls of its protocol, what a plan counts, and what is refused."""

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sod.config import TrainOptions
from sod.engines import SleepingEngine
from sod.engines.vllm import VLLMEngine, _without_expandable_segments
from sod.errors import TrainingError
from sod.planning.budgets import SERVED_FIXED, by_part, memory_of_training, room_of_vllm, sampling_bytes
from sod.planning.checks import of_training
from sod.planning.inventory import ON_HUB
from sod.planning.memory import learning_bytes, scoring_bytes

GPU = 80 << 30


class LLM:
    """vLLM's engine, by a model in this process: it answers only while it is awake."""

    def __init__(self, model: Any, *, forgets: bool = False):
        self.model, self.forgets = model, forgets
        self.asleep = False
        self.calls: list[str] = []

    async def sleep(self, level: int = 1) -> None:
        self.calls.append(f"sleep {level}")
        self.asleep = True

    async def wake_up(self) -> None:
        self.calls.append("wake_up")
        self.asleep = False

    async def collective_rpc(self, method: str, args: Sequence[str] = ()) -> None:
        assert not self.asleep
        self.calls.append(method)
        if method == "load_policy" and not self.forgets:
            self.model.load_state_dict(load_file(Path(args[0], "model.safetensors")), strict=False)

    async def reset_prefix_cache(self) -> bool:
        return True


class Engine(VLLMEngine):
    """The engine, without an import of vLLM."""

    @contextmanager
    def _failures(self) -> Iterator[None]:
        yield

    async def _generate(self, ids: Sequence[int], parameters: dict[str, Any]) -> tuple[list[int], list[float]]:
        assert not self._llm.asleep, "a request while vLLM sleeps"
        tokens = [2] * parameters["max_tokens"]
        with torch.no_grad():
            logits_TV = self._llm.model(torch.tensor([[*ids, *tokens]])).logits[0, -len(tokens) - 1 : -1]
        return tokens, logits_TV.log_softmax(-1)[:, 2].tolist()


def engine(random_model: Any, **fields: Any) -> tuple[Engine, LLM]:
    made = Engine(random_model(1), temperature=1.0, top_p=1.0, exchange=None)
    made._context = 512
    made._llm = llm = LLM(random_model(0), **fields)
    return made, llm


def test_vllm_sleeps_until_the_next_weights_and_is_proved_when_it_wakes(random_model: Any) -> None:
    made, llm = engine(random_model)
    assert isinstance(made, SleepingEngine)

    async def work() -> None:
        await made.sleep()
        await made.refresh()
        await made.refresh()

    asyncio.run(work())
    weights = ["load_policy", "renew_tied_head"]
    assert llm.calls == ["sleep 1", "wake_up", *weights, *weights]
    assert made.gap < 1e-5


def test_weights_that_vllm_lost_in_its_sleep_are_found_out(random_model: Any) -> None:
    made, _ = engine(random_model, forgets=True)

    async def work() -> None:
        await made.sleep()
        await made.refresh()

    with pytest.raises(TrainingError, match="differ from the policy's"):
        asyncio.run(work())


def test_children_that_sleep_start_without_expandable_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True,max_split_size_mb:64")
    with _without_expandable_segments():
        assert os.environ["PYTORCH_ALLOC_CONF"] == "max_split_size_mb:64"
    assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True,max_split_size_mb:64"
    monkeypatch.delenv("PYTORCH_ALLOC_CONF")
    with _without_expandable_segments():
        assert "PYTORCH_ALLOC_CONF" not in os.environ


def options(**engine: Any) -> TrainOptions:
    return TrainOptions.model_validate(
        {
            "student": "s",
            "teacher": "t",
            "data": "d",
            "out": "o",
            "network": {"dtype": "bfloat16"},
            "engine": {"name": "vllm"} | engine,
        }
    )


def test_a_plan_counts_vllms_memory_once_with_what_learning_needs_beyond_it() -> None:
    student, teacher = ON_HUB["Qwen/Qwen3-0.6B"], ON_HUB["Qwen/Qwen3-4B"]
    usual, sleeping = options(memory_share=0.5), options(memory_share=0.5, sleep=True)
    apart, shared = (memory_of_training(each, student, [teacher], GPU) for each in (usual, sleeping))
    learning = learning_bytes(student, 23_040, 2, usual.learn, GPU)
    assert sum(apart["peak"].values()) == learning
    freed = GPU // 2 - SERVED_FIXED
    assert sum(shared["peak"].values()) == max(
        learning - freed, scoring_bytes(student, 23_040, 2, GPU), scoring_bytes(teacher, 23_040, 2, GPU)
    )
    assert sum(by_part(shared).values()) < sum(by_part(apart).values())
    # Without a GPU there is nothing to free.
    assert memory_of_training(sleeping, student, [teacher], None) == memory_of_training(usual, student, [teacher], None)


def test_keys_and_values_of_8_bits_take_half_the_memory() -> None:
    student = ON_HUB["Qwen/Qwen3-0.6B"]
    (weights, wide), (same, narrow) = (sampling_bytes(each, student) for each in (options(), options(kv_dtype="fp8")))
    assert (weights, wide) == (same, 2 * narrow)
    assert room_of_vllm(options(), student, GPU) == room_of_vllm(options(kv_dtype="fp8"), student, GPU)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"engine": {"name": "vllm", "sleep": True}, "network": {"device": "cpu"}},
            "engine.sleep frees memory of a GPU",
        ),
        ({"engine": {"name": "vllm", "sleep": True}, "rollout": {"ahead": 1}}, "and engine.sleep does not"),
        (
            {"engine": {"name": "vllm", "kv_dtype": "fp8"}, "learn": {"correction": "none"}},
            "engine.kv_dtype = fp8 changes",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], words: str) -> None:
    given = {"student": "s", "teacher": "t", "data": "d", "out": "o"} | changes
    assert any(words in refusal for refusal in of_training(TrainOptions.model_validate(given), 1))
