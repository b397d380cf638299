"""The student's own model as its teacher, told what the student is not: on-policy self-distillation (OPSD)."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sod.batching import Batch, collate
from sod.chat import ChatFormat, Schema
from sod.config import ModelOptions, SamplingOptions, ScoreOptions
from sod.errors import DataError, OptionError
from sod.lora import plain_parameters
from sod.models import positions_of
from sod.teachers import Scores
from sod.teachers.local import LocalTeacher
from sod.types import Group, Piece, Problem, Trajectory

Context = Literal["gt", "hint"]
"""What the teacher is told. gt: the answer, and the worked solution where there is one. hint: a hint."""

GT_TEMPLATE = """{question}

The correct answer is: {context}

Solve the problem step by step, as if you had not been told the answer."""
HINT_TEMPLATE = """{question}

Hint: {context}

Solve the problem step by step, as if you had not been given the hint."""
TEMPLATES: dict[Context, str] = {"gt": GT_TEMPLATE, "hint": HINT_TEMPLATE}

STATE = "teacher.pt"
"""The average in a checkpoint's folder. No safetensors: who loads the student may take every such file for a part of it."""


class PrivilegedTeacher(LocalTeacher):
    """Scores the student's tokens with the model in `folder`, which reads another prompt than the student did:

        log pi_teacher(y_t | c(x), y_<t)        instead of        log pi_teacher(y_t | x, y_<t)

    x is the student's prompt; c(x) is the same conversation with its last user message rewritten by `template`, where
    {question} stands for that message and {context} for what the student is not told (None: the template in
    `TEMPLATES`). y are the very tokens that follow x, observations included; they are never rendered again.

    `decay` None: the model stays as it was loaded. Otherwise it is the exponential moving average of the student's weights
    that `follow` makes, kept in float32 (4 more bytes a weight where `network.dtype` or `options.teacher_dtype` is another
    type), and is part of a checkpoint.
    """

    def __init__(
        self,
        folder: Path,
        chat: ChatFormat,
        tools: Sequence[Schema],
        network: ModelOptions,
        options: ScoreOptions,
        rollout: SamplingOptions,
        *,
        context: Context,
        template: str | None = None,
        decay: float | None = None,
        microbatch_tokens: int,
    ):
        self._template = TEMPLATES[context] if template is None else template
        if missing := [name for name in ("{question}", "{context}") if name not in self._template]:
            raise OptionError(
                f"The privileged teacher's template has no {missing[0]}; write {{question}} where the student's message "
                "and {context} where what it is not told is to stand."
            )
        super().__init__(folder, chat.tokenizer, network, options, rollout, microbatch_tokens=microbatch_tokens)
        self._chat = chat
        self._tools = tools
        self._context: Context = context
        self._decay = decay
        self._max_tokens = rollout.max_tokens
        # In bfloat16 a slow average would never move: a step of 1 - decay of a difference is rounded away.
        self._averages = [
            weight if weight.dtype == torch.float32 else weight.detach().float()
            for weight in (() if decay is None else self._model.parameters())
        ]

    # Prompts

    def check(self, problems: Sequence[Problem]) -> None:
        """Every problem has what the teacher is to be told, and the longest response fits behind it.

        `rollout.max_prompt_tokens` does not bound these prompts; the model's positions do. Raises DataError.
        """
        room = positions_of(self._model) - self._max_tokens
        lengths = {problem.id: len(self.prompt(problem)) for problem in problems}
        if long := {id: length for id, length in lengths.items() if length > room}:
            id = max(long, key=lambda id: long[id])
            raise DataError(
                f"{len(long)} of {len(problems)} prompts are too long with what the privileged teacher is told: that of "
                f"problem {id!r} has {long[id]} tokens, and rollout.max_tokens = {self._max_tokens} leaves {room} of the "
                "model's positions. Lower rollout.max_tokens, or shorten or leave out these problems."
            )

    def prompt(self, problem: Problem) -> list[int]:
        """c(x): what the teacher reads instead of the student's prompt. Raises DataError where it cannot be told."""
        messages = list(problem.messages)
        last = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=None)
        if last is None or not isinstance(question := messages[last].get("content"), str):
            raise DataError(
                f"Problem {problem.id!r} has no user message of text, so the privileged teacher cannot be told anything."
            )
        parts = {"question": question, "context": _privilege(problem, self._context)}
        told = re.sub(r"\{(question|context)\}", lambda found: parts[found[1]], self._template)
        messages[last] = messages[last] | {"content": told}
        return self._chat.prompt(messages, self._tools)

    # Scores

    def score_now(self, batch: Batch) -> Scores:
        """As any teacher's, at the places of `batch`, which stays as it is."""
        told = collate([Group(t.problem, [self._told(t)]) for t in batch.trajectories])
        if batch.candidates_BTJ is not None:
            told = replace(told, candidates_BTJ=_moved(batch.candidates_BTJ, batch.mask_BT, told.mask_BT))
        logprobs_BT, entropy_BT, candidates_BTJ = super().score_now(told)
        assert entropy_BT is not None
        return Scores(
            _moved(logprobs_BT, told.mask_BT, batch.mask_BT),
            _moved(entropy_BT, told.mask_BT, batch.mask_BT),
            None if candidates_BTJ is None else _moved(candidates_BTJ, told.mask_BT, batch.mask_BT),
        )

    def _told(self, trajectory: Trajectory) -> Trajectory:
        prompt = Piece("prompt", tuple(self.prompt(trajectory.problem)))
        return replace(trajectory, pieces=(prompt, *trajectory.pieces[1:]))

    # Weights

    @torch.no_grad()
    def follow(self, student: PreTrainedModel) -> None:
        """After an update: teacher = decay * teacher + (1 - decay) * student, in float32. A frozen teacher stays."""
        if self._decay is not None:
            for average, weight in zip(self._averages, plain_parameters(student), strict=True):
                average.lerp_(weight.to(average), 1 - self._decay)
            self._take_averages()

    def save(self, folder: Path) -> None:
        """Write the average to a checkpoint's folder; a frozen teacher has nothing to write."""
        if self._decay is not None:
            torch.save([average.detach() for average in self._averages], folder / STATE)

    @torch.no_grad()
    def restore(self, folder: Path) -> None:
        """Take up the average where `save` left it."""
        if self._decay is not None:
            saved = torch.load(folder / STATE, weights_only=True, map_location="cpu")
            for average, before in zip(self._averages, saved, strict=True):
                average.copy_(before)
            self._take_averages()

    def _take_averages(self) -> None:
        for average, weight in zip(self._averages, self._model.parameters(), strict=True):
            if average is not weight:
                weight.copy_(average)


def _moved(tensor_BT: Tensor, old_BT: Tensor, new_BT: Tensor) -> Tensor:
    """What stands at the places of one mask, at those of another, and 0 elsewhere. (B, T, ...) -> (B, T', ...)

    Each row has the same sampled tokens in both, in the same order; only where they stand differs.
    """
    moved = tensor_BT.new_zeros(new_BT.shape + tensor_BT.shape[2:])
    moved[new_BT] = tensor_BT[old_BT]
    return moved


def _privilege(problem: Problem, context: Context) -> str:
    """What the student is not told. A code problem's gold is its tests, which are nothing to tell."""
    if context == "hint":
        told = problem.hint
    elif problem.kind == "code":
        told = problem.solution
    else:
        told = f"{problem.answer}\n\n{problem.solution}" if problem.solution else problem.answer
    if not told.strip():
        column = "hint" if context == "hint" else "solution"
        raise DataError(
            f"Problem {problem.id!r} has no `{column}` to tell the privileged teacher. Add that column, or leave "
            "the problem out."
        )
    return told
