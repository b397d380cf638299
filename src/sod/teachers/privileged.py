"""The student's own model as teacher, with privileged information: on-policy self-distillation (OPSD)."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sod.batching import Batch, ScoredBatch, collate
from sod.chat.format import ChatFormat
from sod.config import AlgorithmOptions
from sod.credit.systems import Context
from sod.environments.choosing import DEFAULT
from sod.environments.tools import with_files
from sod.errors import DataError, OptionError
from sod.model.loading import positions_of
from sod.model.lora import plain_parameters
from sod.rewards.kinds import KINDS
from sod.teachers import Scores, TeacherSetup
from sod.teachers.feedback import feedback, has_fault
from sod.teachers.local import LocalTeacher
from sod.types import Group, Message, Piece, Problem, Schema, Trajectory

GT_TEMPLATE = """{question}

The correct answer is: {context}

Solve the problem step by step, as if you had not been told the answer."""
HINT_TEMPLATE = """{question}

Hint: {context}

Solve the problem step by step, as if you had not been given the hint."""
FEEDBACK_TEMPLATE = """{question}

An earlier attempt went wrong:
{context}

Solve the problem step by step, without these mistakes and as if you had not been told of them."""
TEMPLATES: dict[Context, str] = {
    "gt": GT_TEMPLATE,
    "hint": HINT_TEMPLATE,
    "unrelated": GT_TEMPLATE,
    "feedback": FEEDBACK_TEMPLATE,
}
FEEDBACK_TOKENS = 256
"""Most tokens of faults, if the model's positions have room for them. The beginning of a longer text is left out."""
REJOINED_TOKENS = 4
"""Tokens that a cut text may have more inside a prompt than alone."""
ANSWER = "The correct answer is: {answer}"
"""End of the feedback with `opsd.tell_answer`."""

STATE = "teacher.pt"
"""File of the average in a checkpoint. Not safetensors, because loaders of the student may read every such file."""


class PrivilegedTeacher(LocalTeacher):
    """Scores the student's tokens with the model in `setup.folder`, under a prompt with privileged information:

        log pi_teacher(y_t | c(x), y_<t)        instead of        log pi_teacher(y_t | x, y_<t)

    x is the student's prompt. c(x) is the same conversation with its last user message rewritten by `template`, where
    {question} stands for that message and {context} for the privileged information. Default template: from `TEMPLATES`.
    y are the original tokens after x, observations included; they are never rendered again. With `context` = feedback, c(x)
    differs between the attempts at a problem (`sod.teachers.feedback`); an attempt without a fault is scored under x.
    `tell_answer`: the feedback ends with the gold answer. `is_default`: whether a problem's own messages are its prompt; an
    environment writes the others, and the trajectory has them.

    Without `decay` the model stays frozen. With `decay` it is the exponential moving average of the student's weights,
    updated by `follow` and saved in checkpoints. The average is kept in float32, which takes 4 more bytes per weight if
    `network.dtype` or `score.teacher_dtype` is another type.
    """

    writes_turns = False

    def __init__(
        self,
        setup: TeacherSetup,
        chat: ChatFormat,
        tools: Sequence[Schema],
        *,
        context: Context,
        template: str | None = None,
        decay: float | None = None,
        tell_answer: bool = False,
        is_default: Callable[[Problem], bool] = lambda problem: problem.environment in ("", DEFAULT),
    ):
        self._template = TEMPLATES[context] if template is None else template
        if missing := [name for name in ("{question}", "{context}") if name not in self._template]:
            raise OptionError(
                f"The privileged teacher's template has no {missing[0]}. Write {{question}} in place of the student's message "
                "and {context} in place of the privileged information."
            )
        super().__init__(setup)
        self._chat = chat
        self._tools = tools
        self._context: Context = context
        self._tell_answer = tell_answer
        self._is_default = is_default
        self._others: dict[str, Problem] = {}
        self._decay = decay
        self._limits = setup.rollout
        # In bfloat16 a slow average would never change: (1 - decay) * difference is rounded to 0. The averages of an offloaded
        # teacher are its weights in CPU memory, not the parameters, which move to the GPU.
        self._averages = [
            weight if weight.dtype == torch.float32 and self._home is None else weight.detach().float()
            for weight in (() if decay is None else self._model.parameters())
        ]

    # Prompts

    def check(self, problems: Sequence[Problem]) -> None:
        """Raises DataError if a problem lacks its privileged information, or if its prompt leaves no room for a response.

        The limit of these prompts is the model's number of positions, not `rollout.max_prompt_tokens`. Faults are cut to the room
        that a trajectory leaves, so only the prompt without them counts. Of a prompt that an environment writes, only what is
        added to it is known here.
        """
        if self._context == "unrelated":
            self._others = _other_problems(problems)
        room = positions_of(self._model) - self._limits.max_tokens
        lengths = {problem.id: self._length(problem) for problem in problems}
        if long := {id: length for id, length in lengths.items() if length > room}:
            id = max(long, key=lambda id: long[id])
            raise DataError(
                f"{len(long)} of {len(problems)} prompts of the privileged teacher are too long: the prompt of "
                f"problem {id!r} has {long[id]} tokens, but rollout.max_tokens = {self._limits.max_tokens} leaves {room} of the "
                "model's positions. Lower rollout.max_tokens, or shorten or remove these problems."
            )

    def _length(self, problem: Problem) -> int:
        """Return the length of the teacher's prompt, without what an environment or the feedback adds."""
        privilege = self._known(problem)
        if self._is_default(problem):
            return len(self.prompt(problem, privilege))
        return len(self._chat.tokenizer.encode(self._filled("", privilege), add_special_tokens=False))

    def _known(self, problem: Problem) -> str:
        """Return the privileged information that is known before an attempt."""
        if self._context == "feedback":
            return ANSWER.format(answer=_privilege(problem, "gt")) if self._tell_answer else ""
        return _privilege(self._others[problem.id] if self._context == "unrelated" else problem, self._context)

    def _filled(self, question: str, privilege: str) -> str:
        """Return the template with both texts in their places."""
        parts = {"question": question, "context": privilege}
        return re.sub(r"\{(question|context)\}", lambda found: parts[found[1]], self._template)

    def prompt(self, problem: Problem, privilege: str | None = None) -> list[int]:
        """Return c(x) of a problem in the default environment. Raises DataError if it has no text message to rewrite.

        `privilege`: the privileged information. Default: that of the problem.
        """
        privilege = self._known(problem) if privilege is None else privilege
        return self._rewritten(problem, with_files(problem).messages, self._tools, privilege)

    def _rewritten(
        self, problem: Problem, messages: Sequence[Message], tools: Sequence[Schema], privilege: str
    ) -> list[int]:
        """Return the prompt of a conversation with its last user message rewritten."""
        messages = list(messages)
        last = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=None)
        if last is None or not isinstance(question := messages[last].get("content"), str):
            raise DataError(
                f"Problem {problem.id!r} has no user message of text to add the privileged information to. Add one, or "
                "remove the problem."
            )
        messages[last] = messages[last] | {"content": self._filled(question, privilege)}
        return self._chat.prompt(messages, tools)

    # Scores

    def score_now(self, batch: Batch) -> Scores:
        """Score the batch under the privileged prompts; return scores at the positions of `batch`."""
        privileged = collate([Group(t.problem, [self._privileged(t)]) for t in batch.trajectories])
        if batch.candidates_BTJ is not None:
            candidates_BTJ = _moved(batch.candidates_BTJ, batch.mask_BT, privileged.mask_BT)
            privileged = replace(privileged, candidates_BTJ=candidates_BTJ)
        logprobs_BT, entropy_BT, scores_BTJ = super().score_now(privileged)
        return Scores(
            _moved(logprobs_BT, privileged.mask_BT, batch.mask_BT),
            None if entropy_BT is None else _moved(entropy_BT, privileged.mask_BT, batch.mask_BT),
            None if scores_BTJ is None else _moved(scores_BTJ, privileged.mask_BT, batch.mask_BT),
        )

    def _privileged(self, trajectory: Trajectory) -> Trajectory:
        """Replace the trajectory's prompt by the teacher's."""
        messages, tools = trajectory.messages, trajectory.tools
        if not messages:
            messages, tools = with_files(trajectory.problem).messages, self._tools
        rewritten = partial(self._rewritten, trajectory.problem, messages, tools)
        privilege, room = self._known(trajectory.problem), positions_of(self._model) - len(trajectory.response)
        if self._context == "feedback":
            if not has_fault(trajectory):
                return trajectory
            faults = self._faults(trajectory, tools, room - len(rewritten(privilege)) - REJOINED_TOKENS)
            privilege = "\n\n".join(filter(None, (faults, privilege)))
            if not privilege:  # no position is left
                return trajectory
        prompt = rewritten(privilege)
        if len(prompt) > room:
            raise DataError(
                f"The privileged teacher's prompt of problem {trajectory.problem.id!r} has {len(prompt)} tokens, and an attempt "
                f"leaves {room} of the model's positions. Lower rollout.max_tokens, or remove the problem."
            )
        return replace(trajectory, pieces=(Piece("prompt", tuple(prompt)), *trajectory.pieces[1:]))

    def _faults(self, trajectory: Trajectory, tools: Sequence[Schema], room: int) -> str:
        """Return what went wrong in an attempt, cut to the room."""
        tokenizer = self._chat.tokenizer
        told = feedback(trajectory, self._chat, tools, tell_answer=self._tell_answer)
        ids = tokenizer.encode(told, add_special_tokens=False)
        kept = ids[len(ids) - min(len(ids), FEEDBACK_TOKENS, max(0, room)) :]
        return str(tokenizer.decode(kept)).lstrip("\N{REPLACEMENT CHARACTER}")

    def metrics(self, batch: ScoredBatch, options: AlgorithmOptions) -> dict[str, float]:
        """Return the share of the attempts with a fault, which the teacher reads, for feedback."""
        del options
        if self._context != "feedback" or not len(batch):
            return {}
        return {"teacher/told_share": sum(map(has_fault, batch.trajectories)) / len(batch)}

    # Weights

    @torch.no_grad()
    def follow(self, student: PreTrainedModel) -> None:
        """Set teacher = decay * teacher + (1 - decay) * student, in float32, after an update. Skips a frozen teacher."""
        if self._decay is not None:
            for average, weight in zip(self._averages, plain_parameters(student), strict=True):
                average.lerp_(weight.to(average), 1 - self._decay)
            self._take_averages()

    def save(self, folder: Path) -> None:
        """Write the average to a checkpoint's directory. Skips a frozen teacher."""
        if self._decay is not None:
            torch.save([average.detach() for average in self._averages], folder / STATE)

    @torch.no_grad()
    def restore(self, folder: Path) -> None:
        """Load the average that `save` wrote."""
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
    """Move the values at one mask to the positions of another, with 0 elsewhere. (B, T, ...) -> (B, T', ...)

    Each row has the same sampled tokens in both masks, in the same order; only their positions differ.
    """
    moved = tensor_BT.new_zeros(new_BT.shape + tensor_BT.shape[2:])
    moved[new_BT] = tensor_BT[old_BT]
    return moved


def _other_problems(problems: Sequence[Problem]) -> dict[str, Problem]:
    """Return, by the id of each problem, the next problem with another answer. Raise DataError if there is none."""
    others: dict[str, Problem] = {}
    for number, problem in enumerate(problems):
        following = (problems[(number + step) % len(problems)] for step in range(1, len(problems)))
        other = next((each for each in following if each.answer != problem.answer), None)
        if other is None:
            raise DataError(
                f"All problems have the answer {problem.answer!r}, so no problem can be given another one's. Add problems with "
                "other answers."
            )
        others[problem.id] = other
    return others


def _privilege(problem: Problem, context: Context) -> str:
    """Return the privileged information of a problem. Excludes the answer of a code problem, which is its tests."""
    if context == "hint":
        privilege = problem.hint
    elif not KINDS[problem.kind].gold_is_answer:
        privilege = problem.solution
    else:
        privilege = f"{problem.answer}\n\n{problem.solution}" if problem.solution else problem.answer
    if not privilege.strip():
        column = "hint" if context == "hint" else "solution"
        raise DataError(
            f"Problem {problem.id!r} has no `{column}`, which the privileged teacher needs. Add that column, or remove "
            "the problem."
        )
    return privilege
