"""TRL's GRPOTrainer doing the lab's work: a peer to compare with, to be imported by other benchmarks.

    pip install trl==1.16.0        # beside sod; nothing else in the project needs it

`rollout` runs TRL's own loop of generation and tools on a batch of prompts, nothing more. `update` trains with SOD, written
as a user of TRL would write it (`SODTrainer`), with the hyper-parameters of the lab. Both say how much work was done.

Set for speed on a CPU: float32 (bf16 slows the sampling of small models), no gradient checkpointing, no logging, saving or
progress bar, a batch generated whole and learnt from a minibatch at a time. Continuous batching stays off, for on a CPU it
samples at a third of the speed, and so does the static cache, at half. The caller chooses the number of threads.

What TRL does otherwise, and no setting changes:

- One rollout's tools after another's, async ones too, and all rollouts wait for the last before any writes on.
- Every turn reads its whole conversation anew: no keys and values are kept while tools run.
- Log-probabilities take every position through the head, prompts, observations and padding included (without Triton).
- A rollout whose call is malformed, or holds a raw line break, ends there, as an answer. (sod tells the student.)
- A turn that is cut off after a whole call goes on, without an end of turn. Nothing ends a rollout that repeats itself.
- A minibatch is drawn from all rollouts, not of whole groups; a group's deviation gets 1e-4 added, not 1e-6; the first
  optimiser step, of the warm-up, has a rate of 0.
"""

# pyright: reportMissingImports=false

import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PrinterCallback
from trl import GRPOConfig, GRPOTrainer
from trl.chat_template_utils import qwen3_template
from trl.trainer.utils import add_fused_lm_head

from sod.core import per_token, step_divergence, step_ids, step_weights, teacher_advantage
from sod.lab import settings
from sod.lab.tasks import Task

LEARN = settings.TRAIN["learn"]
Chat = list[dict[str, Any]]
Tool = Callable[..., Any]
"""A function, or a coroutine function, with type hints and a docstring in Google's style."""


@dataclass(slots=True, kw_only=True)
class Statistics:
    """What one batch of rollouts was, and in an update, where its seconds went."""

    trajectories: int
    turns: int
    tokens_sampled: int
    tool_calls: int
    tool_failures: int
    """Calls that raised: unknown tools, wrong arguments."""
    answered: int
    """Trajectories whose last turn ended by itself and called nothing (a malformed call is an answer to TRL)."""
    rollout_seconds: float
    score_seconds: float = 0.0
    """Log-probabilities of student and teacher, rewards, step weights."""
    learn_seconds: float = 0.0
    reward: float = 0.0


def code_interpreter(run: Callable[[str], str]) -> Tool:
    """The tool as TRL wants it; `run` turns a program into what the student reads."""

    def code_interpreter(code: str) -> str:
        """Runs a Python program and returns what it prints. Nothing is kept between calls.

        Args:
            code: The program.
        """
        return run(code)

    return code_interpreter


def rollout(
    model_folder: Path,
    prompts: Sequence[Chat],
    tools: Sequence[Tool],
    *,
    group: int = 8,
    rounds: int = 1,
    warm: bool = True,
    **options: Any,
) -> list[Statistics]:
    """What TRL does for `group` rollouts of each prompt, and in which time, `rounds` times; once more before, to warm up.

    `options` are GRPOConfig's, over the lab's; so they are in `update`.
    """
    batch = [prompt for prompt in prompts for _ in range(group)]
    config = _config(group=group, rollouts=len(batch), minibatches=1, **options)
    trainer = _build(_RecordedGRPO, config, model_folder, [{"prompt": prompt} for prompt in prompts], tools)
    trainer.model.train()  # as while training; the model has no dropout
    # `_generate_and_score_completions` fills these in before it calls `_generate`.
    by_kind: dict[bool, dict[str, Tool]] = {False: {}, True: {}}
    for tool in tools:
        by_kind[iscoroutinefunction(tool)][tool.__name__] = tool
    trainer._sync_tool_dicts, trainer._async_tool_dicts = [by_kind[False]] * len(batch), [by_kind[True]] * len(batch)
    for _ in range(rounds + warm):
        trainer._generate(batch)
    return trainer.batches[-rounds:]


class SODTrainer(GRPOTrainer):
    """SOD on TRL: GRPO's advantage plus w_k * (log pi_teacher - log pi_student) on every sampled token."""

    def __init__(self, *args: Any, teacher: PreTrainedModel, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.teacher = teacher.requires_grad_(False).eval()
        add_fused_lm_head(self.teacher, temperature=self.temperature)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super()._generate_and_score_completions(inputs)
        ids_BT = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        attended_BT = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        mask_BT = (batch["completion_mask"] * batch["tool_mask"]).bool()
        rows, width = self.args.per_device_train_batch_size, mask_BT.shape[1]
        with torch.no_grad():
            teacher_BT, *_ = self._get_per_token_logps_and_entropies(self.teacher, ids_BT, attended_BT, width, rows)
        # TRL has these whenever one batch of rollouts is learnt from in several optimiser steps.
        student_BT: Tensor = batch["old_per_token_logps"]
        steps_BT = step_ids(mask_BT)
        w_BT = per_token(step_weights(step_divergence(student_BT, teacher_BT, steps_BT)), steps_BT)
        batch["advantages"] = batch["advantages"][:, None] + w_BT * teacher_advantage(student_BT, teacher_BT, mask_BT)
        return batch


def update(
    model_folder: Path,
    teacher_folder: Path,
    problems: Sequence[Task],
    tools: Sequence[Tool],
    *,
    group: int = 8,
    problems_per_update: int = 8,
    updates: int = 6,
    **options: Any,
) -> tuple[list[float], list[Statistics]]:
    """Seconds and statistics of each SOD update, on the problems in their order. The first update warms caches."""
    minibatches = LEARN["minibatches"]
    options = {"max_steps": updates * minibatches} | options
    config = _config(group=group, rollouts=group * problems_per_update, minibatches=minibatches, **options)
    rows = [
        {"prompt": [{"role": "user", "content": task.question}], "answer": str(task.answer)}
        for task in problems[: updates * problems_per_update]
    ]
    trainer = _build(_RecordedSOD, config, model_folder, rows, tools, teacher=_load(teacher_folder))
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    ends = [*trainer.starts[1:], time.perf_counter()]
    seconds = [end - start for start, end in zip(trainer.starts, ends, strict=True)]
    for batch, total in zip(trainer.batches, seconds, strict=True):
        batch.learn_seconds = total - batch.rollout_seconds - batch.score_seconds
    return seconds, trainer.batches


def _config(*, group: int, rollouts: int, minibatches: int, **options: Any) -> GRPOConfig:
    """`rollouts` generated at a time and learnt from once, in `minibatches` optimiser steps, with the lab's settings."""
    shape = {
        "num_generations": group,
        "per_device_train_batch_size": rollouts // minibatches,
        "steps_per_generation": minibatches,
        "gradient_accumulation_steps": 1,
        "shuffle_dataset": False,
    }
    limits = {
        "max_completion_length": settings.ROLLOUT["max_tokens"],  # observations included, as in sod
        "max_tool_calling_iterations": settings.ROLLOUT["max_turns"],
        # TRL has no limit on a turn, but its sampler has. Without one, all wait for the row that talks longest.
        "generation_kwargs": {"max_new_tokens": settings.ROLLOUT["max_turn_tokens"]},
    }
    learn = {
        "learning_rate": LEARN["lr"],
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": LEARN["warmup"],
        "adam_beta1": LEARN["betas"][0],
        "adam_beta2": LEARN["betas"][1],
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "loss_type": "bnpo",  # the mean over a minibatch's tokens, as in sod
        "epsilon": 0.2,
        "epsilon_high": 0.28,
        "beta": 0.0,
    }
    speed = {
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "output_dir": tempfile.gettempdir(),  # must exist; nothing is written
    }
    return GRPOConfig(**shape | limits | learn | speed | options)


def _build(
    kind: type[Any], config: GRPOConfig, folder: Path, rows: list[dict[str, Any]], tools: Sequence[Tool], **others: Any
) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    # TRL reads calls by itself only under the templates that it ships; the lab's tokenizer writes them as Qwen3's does.
    tokenizer.response_template = qwen3_template
    data = {"train_dataset": Dataset.from_list(rows), "processing_class": tokenizer, "tools": list(tools)}
    return kind(model=_load(folder), reward_funcs=_correct, args=config, **data, **others)


def _load(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


def _correct(completions: list[Chat], answer: list[str], **others: Any) -> list[float]:
    """1 where the last \\boxed{} of the final answer is the gold, -1 elsewhere."""
    del others
    boxed = [re.findall(r"\\boxed\{([^{}]*)\}", _answer(turns)) for turns in completions]
    return [1.0 if found[-1:] == [gold] else -1.0 for found, gold in zip(boxed, answer, strict=True)]


def _answer(turns: Chat) -> str:
    """The last turn's text, if it calls nothing. (A rollout cut off right after a call ends with the tool's words.)"""
    last = turns[-1]
    return last["content"] if last["role"] == "assistant" and not last.get("tool_calls") else ""


class _Recorded:
    """Put before a trainer among the base classes: notes when each batch began, and what it was."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.starts: list[float] = []
        self.batches: list[Statistics] = []

    def _generate(self: Any, prompts: list[Chat]) -> tuple[Any, ...]:
        start = time.perf_counter()
        result = super()._generate(prompts)  # type: ignore[misc]
        seconds = time.perf_counter() - start
        _, ids, masks, chats, *_ = result
        calls = self._last("tools/call_frequency") * len(ids)
        statistics = Statistics(
            trajectories=len(ids),
            turns=sum(message["role"] == "assistant" for turns in chats for message in turns),
            tokens_sampled=sum(map(sum, masks)) if masks else sum(map(len, ids)),  # no mask without tools
            tool_calls=round(calls),
            tool_failures=round(self._last("tools/failure_frequency") * calls),
            answered=sum(
                row[-1] in self.eos_token_ids and not turns[-1].get("tool_calls")
                for row, turns in zip(ids, chats, strict=True)
            ),
            rollout_seconds=seconds,
        )
        self.batches.append(statistics)
        return result

    def _generate_and_score_completions(self: Any, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        start = time.perf_counter()
        batch = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        self.starts.append(start)
        self.batches[-1].score_seconds = time.perf_counter() - start - self.batches[-1].rollout_seconds
        self.batches[-1].reward = self._last("reward")
        return batch

    def _last(self: Any, metric: str) -> float:
        return (self._metrics["train"][metric] or [0.0])[-1]  # without tools, TRL has no metrics of them


class _RecordedGRPO(_Recorded, GRPOTrainer):
    pass


class _RecordedSOD(_Recorded, SODTrainer):
    pass
