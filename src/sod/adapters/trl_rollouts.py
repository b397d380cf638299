"""Rollouts of this project's agents for TRL's trainers: the tools of all trajectories run concurrently."""

# pyright: reportMissingImports=false

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from sod.config import ChatOptions, Options, RewardOptions, RolloutOptions, SamplingOptions, SandboxOptions, ToolOptions
from sod.engines.hf import HFEngine
from sod.environments.choosing import DEFAULT
from sod.errors import DataError, OptionError
from sod.model.attention import ATTENTION
from sod.processes.concurrency import Runner
from sod.rollout.groups import attempt_seed, attempts
from sod.rollout.harness import Harness
from sod.runs.metrics import of_rollout
from sod.scoring import check_enough
from sod.types import Group, Message, Problem, Trajectory

if TYPE_CHECKING:
    from trl import GRPOTrainer

TRAJECTORY = "trajectory"
"""Column in which `Rollouts` passes its trajectories to reward functions; None for a lost attempt."""


class HarnessSettings(Options):
    """Options of `Harness.of`: sandbox, tools, rewards, chat format and limits of a trajectory."""

    rollout: SamplingOptions = SamplingOptions()
    tool: ToolOptions = ToolOptions()
    reward: RewardOptions = RewardOptions()
    sandbox: SandboxOptions = SandboxOptions()
    chat: ChatOptions = ChatOptions()
    environment: str = DEFAULT


@contextmanager
def concurrent_rollouts(
    harness: Harness, problems: Sequence[Problem], limits: SamplingOptions, *, seed: int = 0
) -> "Iterator[Rollouts]":
    """Yield a `rollout_func` for GRPOTrainer or SODTrainer. The harness's sandbox is open inside the block.

    `problems`: all problems of the trainer's dataset. `Rollouts.rows` returns such a dataset.
    """
    with Runner() as loop, harness.working_in(loop):
        yield Rollouts(loop, harness, problems, limits, seed)


class Rollouts:
    """Samples trajectories with this project's agents and the trainer's own weights.

    Tools of all trajectories run concurrently, and a turn only costs its new tokens. Reward functions get each attempt as
    `trajectory`. It is None for a lost attempt; return None for it. `referee_reward` is such a function.
    """

    def __init__(self, loop: Runner, harness: Harness, problems: Sequence[Problem], limits: SamplingOptions, seed: int):
        if isinstance(limits, RolloutOptions) and limits.guided.probability > 0:
            raise OptionError("rollout.guided needs `sod train`: in TRL, the teacher writes no turns. Leave it out.")
        self._loop = loop
        self._harness = harness
        self._limits = limits
        self._seed = seed
        self._calls = 0
        self._problems = _by_prompt(problems)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The problems as rows of a TRL dataset."""
        return [{"prompt": [dict(message) for message in problem.messages]} for problem in self._problems.values()]

    def check(self, trainer: "GRPOTrainer") -> None:
        """Raises OptionError for a trainer with an unsupported model, or with options that contradict the rollouts'."""
        if not isinstance(trainer.model, PreTrainedModel) or trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise OptionError(
                "concurrent_rollouts samples from the trainer's own model, which must not be wrapped or sharded. Use it without "
                "PEFT, FSDP and DeepSpeed."
            )
        if trainer.tools:
            raise OptionError("concurrent_rollouts uses the tools of its harness. Remove `tools` from the trainer.")
        if trainer.temperature != self._limits.temperature:
            raise OptionError(
                f"GRPOConfig has temperature = {trainer.temperature}, but the rollouts have {self._limits.temperature}. The "
                "policy ratio needs equal temperatures; set both to the same value."
            )
        if self._limits.max_tokens > trainer.max_completion_length:
            raise OptionError(
                f"The rollouts' max_tokens = {self._limits.max_tokens} exceeds GRPOConfig's max_completion_length = "
                f"{trainer.max_completion_length}. Raise max_completion_length."
            )

    def __call__(self, prompts: Sequence[Sequence[Message]], trainer: "GRPOTrainer") -> dict[str, list[Any]]:
        """Sample one attempt per prompt, in order, as TRL requires of a `rollout_func`."""
        self.check(trainer)
        first = trainer.accelerator.process_index * len(prompts)
        jobs = [(self._problem(prompt), sample) for sample, prompt in enumerate(prompts, first)]
        self._calls += 1
        seed = attempt_seed(self._seed, trainer.state.global_step, "call", self._calls)
        ended: dict[int, Trajectory | None] = {}

        def keep(problem: Problem, sample: int, trajectory: Trajectory | None) -> None:
            del problem
            ended[sample] = trajectory

        with _as_the_engine_needs(trainer.model), trainer.accelerator.autocast():
            engine = HFEngine(trainer.model, slots=self._limits.concurrency)
            agent = self._harness.agent(engine, self._limits)
            self._loop.run(attempts(agent, jobs, seed=seed, on_trajectory=keep))
        trajectories = [ended[sample] for _, sample in jobs]
        _check_enough(trajectories)
        rows = [self._row(problem, t) for (problem, _), t in zip(jobs, trajectories, strict=True)]
        return {name: [row[name] for row in rows] for name in rows[0]}

    def _problem(self, prompt: Sequence[Message]) -> Problem:
        try:
            return self._problems[_key(prompt)]
        except KeyError:
            raise DataError(
                f"The dataset has a prompt that is not among the problems of concurrent_rollouts: {str(prompt)[:200]}. Create "
                "the dataset with Dataset.from_list(rollouts.rows)."
            ) from None

    def _row(self, problem: Problem, trajectory: Trajectory | None) -> dict[str, Any]:
        """Return TRL's row for an attempt. Lost and ungraded attempts are masked and not trained on."""
        if trajectory is None:
            prompt, end = (
                self._harness.chat.prompt(problem.messages, self._harness.tools.schemas),
                self._harness.chat.end_of_turn,
            )
            return _columns(prompt, [end], [0.0], [False], None)
        start = len(trajectory.pieces[0].tokens)
        mask = [sampled and trajectory.judged.is_graded for sampled in trajectory.mask]
        sampler = trajectory.sampler_logprobs
        return _columns(trajectory.ids[:start], trajectory.ids[start:], sampler[start:], mask[start:], trajectory)


def referee_reward(
    trajectory: Sequence[Trajectory | None], log_metric: Callable[[str, float], None], **others: Any
) -> list[float | None]:
    """Return the harness's own rewards, None for attempts without one. Logs metrics of the rollouts."""
    del others
    for name, value in of_rollout(_groups(trajectory)).items():
        log_metric(name, value)
    return [t.reward if t is not None and t.judged.is_graded else None for t in trajectory]


@contextmanager
def _as_the_engine_needs(model: PreTrainedModel) -> Iterator[None]:
    """Switch the model to packed attention, without dropout and checkpointing; then back for TRL's padded rows."""
    attention, training = model.config._attn_implementation, model.training
    assert attention is not None
    model.set_attn_implementation(ATTENTION)
    model.eval()
    try:
        yield
    finally:
        model.set_attn_implementation(attention)
        model.train(training)


def _columns(
    prompt: Sequence[int],
    completion: Sequence[int],
    logprobs: Sequence[float],
    sampled: Sequence[bool],
    trajectory: Trajectory | None,
) -> dict[str, Any]:
    """Return a row with TRL's column names."""
    return {
        "prompt_ids": list(prompt),
        "completion_ids": list(completion),
        "logprobs": list(logprobs),
        "env_mask": list(map(int, sampled)),
        TRAJECTORY: trajectory,
    }


def _by_prompt(problems: Sequence[Problem]) -> dict[str, Problem]:
    """Index problems by prompt. Raises DataError for two equal prompts, because TRL only passes the prompt."""
    counts = Counter(_key(problem.messages) for problem in problems)
    if twice := [problem.id for problem in problems if counts[_key(problem.messages)] > 1]:
        raise DataError(
            f"Problems {twice[0]!r} and {twice[1]!r} have the same prompt, so TRL cannot distinguish them. Remove one."
        )
    return {_key(problem.messages): problem for problem in problems}


def _key(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return a conversation as text. Omits None, with which datasets fill the missing fields of a message."""
    return json.dumps(
        [{name: value for name, value in m.items() if value is not None} for m in messages], sort_keys=True
    )


def _check_enough(trajectories: Sequence[Trajectory | None]) -> None:
    there = [t for t in trajectories if t is not None]
    graded = sum(t.judged.is_graded for t in there)
    check_enough(kept=graded, dropped=len(trajectories) - len(there), ungraded=len(there) - graded)


def _groups(trajectories: Sequence[Trajectory | None]) -> list[Group]:
    """Group this process's attempts by problem. All lost attempts are counted in the first group."""
    by_problem: dict[str, list[Trajectory]] = defaultdict(list)
    there = [t for t in trajectories if t is not None]
    for t in there:
        by_problem[t.problem.id].append(t)
    groups = [Group.of(ts[0].problem, ts) for ts in by_problem.values()]
    return [replace(groups[0], dropped=len(trajectories) - len(there)), *groups[1:]] if groups else []
