"""SOD inside TRL: `SODTrainer`, a GRPOTrainer with a credit for every token, and rollouts that wait for nobody.

    pip install ".[trl]"   # in a checkout of sod

TRL samples, calls tools, rewards and learns as ever. In place of one advantage for a whole completion, its loss gets

    advantage_B + coef * w_BT * (log pi_teacher - log pi_student)        (B, T)

by any system or rule of `sod.algorithms`. `concurrent_rollouts` replaces TRL's loop of generation and tools, in which everybody
waits for the slowest, by this project's agents. docs/trl.md is the user's page.
"""

# pyright: reportMissingImports=false

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from sod.algorithms import System, find, grpo
from sod.attention import NAME as PACKED
from sod.batching import Batch
from sod.concurrency import Runner
from sod.config import (
    AlgorithmOptions,
    ChatOptions,
    Options,
    RewardOptions,
    SamplingOptions,
    SandboxOptions,
    ToolOptions,
)
from sod.core import Rule, step_ids
from sod.engines.hf import HFEngine
from sod.errors import DataError, ModelError, OptionError, TrainingError
from sod.metrics import of_rollout, of_steps
from sod.models import check_embeddings, check_same_vocabulary, load_tokenizer
from sod.rollout import attempt_seed, attempts
from sod.scoring import check_enough
from sod.train import MAX_SAMPLER_GAP
from sod.types import Group, Message, Outcome, Piece, Problem, Trajectory
from sod.world import World

TESTED = ("1.16.0",)
"""Versions of TRL that tests/test_adapters_trl.py passes with."""

try:
    import trl
    from accelerate.utils import gather_object
    from trl import GRPOConfig, GRPOTrainer
    from trl.models import prepare_deepspeed, prepare_fsdp
    from trl.models.utils import disable_gradient_checkpointing
    from trl.trainer.utils import add_fused_lm_head
except ImportError as error:
    raise ImportError(
        f'sod.adapters.trl needs TRL {TESTED[-1]} ({error}): pip install ".[trl]" in a checkout of sod.'
    ) from error

LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo")
"""Values of `loss_type` whose loss of a token is a function of that token's own advantage and ratio."""
TRAJECTORY = "trajectory"
"""The column in which `Rollouts` hands its trajectories to reward functions; None for an attempt that was lost."""

Observations = Sequence[tuple[Outcome, ...]]
"""What became of the calls of each turn that called."""


# The trainer


def raised(text: str) -> bool:
    """Whether a tool's message is what TRL writes for a call that raised, or for a tool that does not exist."""
    return text.startswith("{'error': ")


class SODTrainer(GRPOTrainer):
    """GRPOTrainer whose loss gets, for every sampled token, GRPO's advantage plus the weighted signal of a teacher.

    `teacher_model`: a model, a folder or a name on the hub; it is frozen, and has the student's vocabulary. A model that is
    passed in gets TRL's fused head, as the student does, so that no (B, T, V) logits are made.
    `sod`: which algorithm, and its constants; `rule` stands in for the algorithm's own.
    `teacher_processing_class`: the teacher's tokenizer; None takes the one beside its weights.
    `call_failed` says of a tool's message whether its call had failed, for rules that want to know. (Trajectories of
    `concurrent_rollouts` know it themselves.)
    `untested_version`: go on with a version of TRL that is not in `TESTED`.
    Whatever else there is, is GRPOTrainer's.

    Raises OptionError for options under which a credit for every token cannot work, ModelError for models that cannot.
    """

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: GRPOConfig | None = None,
        *others: Any,
        teacher_model: PreTrainedModel | str | Path,
        sod: AlgorithmOptions = AlgorithmOptions(),  # noqa: B008 (immutable)
        rule: Rule | None = None,
        teacher_processing_class: PreTrainedTokenizerBase | None = None,
        call_failed: Callable[[str], bool] = raised,
        untested_version: bool = False,
        **named: Any,
    ):
        check_version(trl.__version__, untested=untested_version)
        self._system = system_in_trl(sod, rule)
        if args is not None:
            check_arguments(args)
        super().__init__(model, reward_funcs, args, *others, **named)
        self._sod = sod
        self._call_failed = call_failed
        self._completions: Sequence[Any] = []
        _check_student(self)
        if isinstance(self.rollout_func, Rollouts):
            self.rollout_func.check(self)
        self.teacher_model = self._prepared(_teacher(teacher_model, teacher_processing_class, self))

    def _prepared(self, teacher: PreTrainedModel) -> Any:
        """The teacher as TRL prepares its reference model."""
        add_fused_lm_head(teacher, temperature=self.temperature, outputs=("log_probs", "entropy"))
        if self.is_deepspeed_enabled:
            return prepare_deepspeed(teacher, self.accelerator)
        if self.is_fsdp_enabled:
            return prepare_fsdp(teacher, self.accelerator)
        return self.accelerator.prepare_model(teacher, evaluation_mode=True)

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        self._completions = completions
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        batch = give_credit(self._system, self._scored(output, self._observations(inputs)), self._sod)
        assert batch.credit_BT is not None
        self._record(batch, output)
        return {**output, "advantages": batch.credit_BT.to(output["advantages"])}

    def _observations(self, inputs: list[dict[str, Any]]) -> list[Observations]:
        """What became of each completion's calls: from its trajectory, or else from its messages."""
        if TRAJECTORY not in inputs[0]:
            return [observations(messages, self._call_failed) for messages in self._completions]
        trajectories: list[Trajectory | None] = [row[TRAJECTORY] for row in inputs]
        return [() if t is None else [piece.outcomes for piece in t.observations] for t in trajectories]

    @torch.no_grad()
    def _scored(self, output: dict[str, Any], of_calls: Sequence[Observations]) -> Batch:
        """TRL's completions as a batch that both models have scored, on the CPU; T counts a completion's tokens."""
        ids_BT = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
        attended_BT = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
        _check_positions(self.teacher_model, attended_BT)
        width = output["completion_ids"].shape[1]
        training = self.model.training
        rows = self.args.per_device_train_batch_size if training else self.args.per_device_eval_batch_size
        student_BT = output.get("old_per_token_logps")
        if student_BT is None:  # TRL leaves them out where they are those of the coming forward pass
            with disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
                student_BT, *_ = self._get_per_token_logps_and_entropies(self.model, ids_BT, attended_BT, width, rows)
        teacher_BT, entropy_BT, *_ = self._get_per_token_logps_and_entropies(
            self.teacher_model, ids_BT, attended_BT, width, rows, compute_entropy=True
        )
        mask_BT = output["completion_mask"].bool()
        if "tool_mask" in output:
            mask_BT = mask_BT & output["tool_mask"].bool()
        mask_BT = mask_BT.cpu()
        return Batch(
            trajectories=[_trajectory(calls) for calls in of_calls],
            ids_BT=output["completion_ids"].cpu(),
            mask_BT=mask_BT,
            steps_BT=step_ids(mask_BT),
            lengths_B=output["completion_mask"].sum(1).cpu(),
            rewards_B=output["advantages"].float().cpu(),
            groups_B=torch.zeros(len(mask_BT), dtype=torch.long),
            student_BT=student_BT.float().cpu(),
            teacher_BT=teacher_BT.float().cpu(),
            teacher_entropy_BT=entropy_BT.float().cpu(),
            update=self._updates(),
        )

    def _updates(self) -> int:
        """Batches of rollouts that the run has behind it."""
        passes = self.state.global_step * self.args.gradient_accumulation_steps
        return passes // (self.args.steps_per_generation * self.num_iterations)

    def _record(self, batch: Batch, output: dict[str, Any]) -> None:
        """Metrics for TRL's log, under sod/: means over the processes that have them."""
        report = {f"sod/{name.removeprefix('steps/')}": value for name, value in of_steps(batch, self._sod).items()}
        report["sod/tool_errors"] = sum(t.tool_errors for t in batch.trajectories) / len(batch)
        if isinstance(self.rollout_func, Rollouts):
            report["sod/sampler_gap"] = sampler_gap(batch, output["sampling_per_token_logps"])
        reports = gather_object([report])
        metrics = self._metrics["train" if self.model.training else "eval"]
        for name in sorted({name for each in reports for name in each}):
            values = [each[name] for each in reports if name in each]
            metrics[name].append(sum(values) / len(values))


def give_credit(system: System, batch: Batch, options: AlgorithmOptions) -> Batch:
    """The batch with its credit, where `batch.rewards_B` is GRPO's advantage already, as TRL has computed it.

    TRL compares a group that may be spread over processes, by rules of its own (`scale_rewards`); nothing is compared anew.
    """
    rule, advantage_B = system.rule, batch.rewards_B
    assert rule is not None
    given = System(
        outcome=None if system.outcome is None else lambda _: advantage_B,
        rule=lambda d_BK, info: rule(d_BK, replace(info, advantage_B=advantage_B)),
    )
    weight_BT = given.teacher_weight(batch, options)
    return replace(batch, credit_BT=given.credit(batch, weight_BT), teacher_weight_BT=weight_BT)


def observations(completion: str | Sequence[Message], failed: Callable[[str], bool]) -> Observations:
    """What became of the calls of each turn, by the messages that answer them."""
    if isinstance(completion, str):
        return []
    runs = groupby(completion, lambda message: message["role"] == "tool")
    return [
        tuple("error" if failed(str(message["content"])) else "ok" for message in messages)
        for of_tools, messages in runs
        if of_tools
    ]


def _trajectory(of_calls: Observations) -> Trajectory:
    """As much of a trajectory as a rule may ask for: what became of its calls."""
    pieces = tuple(Piece("tool", (), outcomes=outcomes) for outcomes in of_calls)
    problem = Problem(id="", messages=(), answer="")
    return Trajectory(problem=problem, sample=0, pieces=pieces, stop="answered", final_text="")


def sampler_gap(batch: Batch, sampled_BT: Tensor) -> float:
    """Nats between the sampler's log-probabilities and TRL's forward pass. Raises TrainingError if they are too many."""
    assert batch.student_BT is not None
    gap_N = (sampled_BT.cpu() - batch.student_BT).abs()[batch.mask_BT]
    gap = float(gap_N.mean()) if len(gap_N) else 0.0
    if gap > MAX_SAMPLER_GAP:
        raise TrainingError(
            f"The rollouts' log-probabilities are {gap:.2f} nats off TRL's forward pass of the same weights; what they sample "
            "is not the policy's. Does the model scale or cap its logits? Then leave concurrent_rollouts out."
        )
    return gap


# What is refused


def check_version(version: str, *, untested: bool) -> None:
    """Raises OptionError for a version of TRL that nobody has tried, unless it is wanted so."""
    if version not in TESTED and not untested:
        raise OptionError(
            f"sod.adapters.trl works on private methods of GRPOTrainer and is tested with TRL {', '.join(TESTED)}; this is "
            f"{version}. pip install trl=={TESTED[-1]}; or run tests/test_adapters_trl.py, which says what has changed, and "
            "go on with SODTrainer(untested_version=True)."
        )


def check_arguments(args: GRPOConfig) -> None:
    """Raises OptionError for options of GRPOConfig that take one advantage for a whole completion."""
    if args.loss_type not in LOSSES:
        why = "weighs whole completions by the sign of their advantage, " if args.loss_type == "vespo" else ""
        raise OptionError(
            f"loss_type = {args.loss_type!r} {why}cannot be used with a credit for every token; choose one of "
            f"{', '.join(LOSSES)} (bnpo is the paper's mean over tokens)."
        )
    if args.importance_sampling_level != "token":
        raise OptionError(
            f"importance_sampling_level = {args.importance_sampling_level!r} gives all tokens of a completion one ratio, and so "
            "the gradient of their mean credit; set it to 'token'."
        )
    if args.off_policy_mask_threshold is not None:
        raise OptionError(
            "off_policy_mask_threshold drops whole completions by the sign of their advantage, which would become that of each "
            "token's credit; leave it out."
        )


def system_in_trl(options: AlgorithmOptions, rule: Rule | None = None) -> System:
    """The system that the options name, or the rule beside GRPO. Raises OptionError for what cannot be had in TRL."""
    if options.divergence == "exact":
        raise OptionError(
            "divergence = 'exact' judges tokens that were not sampled, of which TRL's loss knows nothing; use 'sampled'."
        )
    if rule is not None:
        return System(grpo, rule)
    system = find(options.name)
    if system.told is not None:
        raise OptionError(
            f"algorithm {options.name!r} has a teacher that reads another prompt than the student; use `sod train`."
        )
    if system.rule is None:
        raise OptionError(f"algorithm {options.name!r} has no teacher; use GRPOTrainer for grpo, `sod train` for sham.")
    return system


def _check_student(trainer: GRPOTrainer) -> None:
    """Raises ModelError for a model with pictures, or whose attention would read TRL's padding."""
    if not isinstance(trainer.processing_class, PreTrainedTokenizerBase):
        raise ModelError("SODTrainer is for models of text; the teacher would not see the pictures.")
    _check_attention(trainer.model, "student")


def _check_attention(model: Any, whose: str) -> None:
    if model.config._attn_implementation == PACKED:
        raise ModelError(
            f"The {whose} was loaded with this project's attention, which takes no padding masks, and TRL pads. Load it with "
            "AutoModelForCausalLM; concurrent_rollouts changes the attention by itself while it samples."
        )


def _check_positions(teacher: Any, attended_BT: Tensor) -> None:
    longest, positions = int(attended_BT.sum(1).max()), teacher.config.max_position_embeddings
    if longest > positions:
        raise ModelError(
            f"The teacher has {positions} positions, but a completion with its prompt has {longest}; lower "
            "max_completion_length."
        )


def _teacher(
    teacher: PreTrainedModel | str | Path, tokenizer: PreTrainedTokenizerBase | None, trainer: GRPOTrainer
) -> PreTrainedModel:
    """The frozen teacher. Raises ModelError if its vocabulary is not the student's, or cannot be found."""
    model = (
        teacher
        if isinstance(teacher, PreTrainedModel)
        else AutoModelForCausalLM.from_pretrained(
            teacher, dtype=trainer.model.dtype, trust_remote_code=False, use_safetensors=True
        )
    )
    _check_attention(model, "teacher")
    theirs = _tokenizer_beside(model) if tokenizer is None else tokenizer
    check_same_vocabulary(trainer.processing_class, theirs)
    check_embeddings(model, theirs, Path(str(model.name_or_path)))
    return model.requires_grad_(False).eval()


def _tokenizer_beside(teacher: PreTrainedModel) -> PreTrainedTokenizerBase:
    where = str(teacher.name_or_path)
    try:
        if where and Path(where).is_dir():
            return load_tokenizer(Path(where))
        return AutoTokenizer.from_pretrained(where, trust_remote_code=False)
    except (OSError, ValueError, ModelError) as error:  # no such folder or name, or no tokenizer there
        raise ModelError(
            f"There is no tokenizer beside the teacher in {where!r}, so its vocabulary cannot be compared with the student's; "
            "save it there, or give teacher_processing_class."
        ) from error


# Rollouts


class WorldSettings(Options):
    """What `World.of` wants to know: who runs programs, what they are worth, how long a trajectory may be."""

    rollout: SamplingOptions = SamplingOptions()
    tool: ToolOptions = ToolOptions()
    reward: RewardOptions = RewardOptions()
    sandbox: SandboxOptions = SandboxOptions()
    chat: ChatOptions = ChatOptions()


@contextmanager
def concurrent_rollouts(
    world: World, problems: Sequence[Problem], limits: SamplingOptions, *, seed: int = 0
) -> "Iterator[Rollouts]":
    """A `rollout_func` for GRPOTrainer or SODTrainer, in whose world the sandbox is open meanwhile.

    `problems`: all that the trainer's dataset asks; `Rollouts.rows` is such a dataset.
    """
    with Runner() as loop, world.sandbox.working_in(loop):
        yield Rollouts(loop, world, problems, limits, seed)


class Rollouts:
    """Trajectories by this project's agents on the trainer's own weights: tools of all run at the same time, and a turn costs
    its new tokens alone.

    Reward functions get each attempt as `trajectory` (None if it was lost; return None for it); `referee_reward` is one.
    """

    def __init__(self, loop: Runner, world: World, problems: Sequence[Problem], limits: SamplingOptions, seed: int):
        self._loop = loop
        self._world = world
        self._limits = limits
        self._seed = seed
        self._calls = 0
        self._problems = _by_prompt(problems)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The problems as rows of a dataset for TRL."""
        return [{"prompt": [dict(message) for message in problem.messages]} for problem in self._problems.values()]

    def check(self, trainer: GRPOTrainer) -> None:
        """Raises OptionError for a trainer that cannot be sampled from, or whose options say otherwise."""
        if not isinstance(trainer.model, PreTrainedModel) or trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise OptionError(
                "concurrent_rollouts samples from the trainer's own model, which must be whole: no PEFT, FSDP or DeepSpeed."
            )
        if trainer.tools:
            raise OptionError("With concurrent_rollouts the tools are the world's; leave the trainer's `tools` out.")
        if trainer.temperature != self._limits.temperature:
            raise OptionError(
                f"GRPOConfig has temperature = {trainer.temperature}, but the rollouts' is {self._limits.temperature}; the "
                "policy ratio needs one for both."
            )
        if self._limits.max_tokens > trainer.max_completion_length:
            raise OptionError(
                f"The rollouts' max_tokens = {self._limits.max_tokens} is more than GRPOConfig's max_completion_length = "
                f"{trainer.max_completion_length}; raise the latter."
            )

    def __call__(self, prompts: Sequence[Sequence[Message]], trainer: GRPOTrainer) -> dict[str, list[Any]]:
        """TRL's contract: an attempt at each prompt, in their order."""
        self.check(trainer)
        first = trainer.accelerator.process_index * len(prompts)
        jobs = [(self._problem(prompt), sample) for sample, prompt in enumerate(prompts, first)]
        self._calls += 1
        seed = attempt_seed(self._seed, trainer.state.global_step, "call", self._calls)
        ended: dict[int, Trajectory | None] = {}

        def hear(problem: Problem, sample: int, trajectory: Trajectory | None) -> None:
            del problem
            ended[sample] = trajectory

        with _as_the_engine_needs(trainer.model), trainer.accelerator.autocast():
            engine = HFEngine(trainer.model, slots=self._limits.concurrency)
            agent = self._world.agent(engine, self._limits)
            self._loop.run(attempts(agent, jobs, seed=seed, on_trajectory=hear))
        trajectories = [ended[sample] for _, sample in jobs]
        _check_enough(trajectories)
        rows = [self._row(problem, t) for (problem, _), t in zip(jobs, trajectories, strict=True)]
        return {name: [row[name] for row in rows] for name in rows[0]}

    def _problem(self, prompt: Sequence[Message]) -> Problem:
        try:
            return self._problems[_key(prompt)]
        except KeyError:
            raise DataError(
                f"The dataset asks what none of the problems of concurrent_rollouts does: {str(prompt)[:200]}. Make it with "
                "Dataset.from_list(rollouts.rows)."
            ) from None

    def _row(self, problem: Problem, trajectory: Trajectory | None) -> dict[str, Any]:
        """What TRL is told of an attempt. One that was lost, or that no judge could decide, is masked: not learnt from."""
        if trajectory is None:
            prompt, end = (
                self._world.chat.prompt(problem.messages, self._world.tools.schemas),
                self._world.chat.end_of_turn,
            )
            return _columns(prompt, [end], [0.0], [False], None)
        start = len(trajectory.pieces[0].tokens)
        mask = [sampled and trajectory.graded for sampled in trajectory.mask]
        sampler = trajectory.sampler_logprobs
        return _columns(trajectory.ids[:start], trajectory.ids[start:], sampler[start:], mask[start:], trajectory)


def referee_reward(
    trajectory: Sequence[Trajectory | None], log_metric: Callable[[str, float], None], **others: Any
) -> list[float | None]:
    """The world's own verdicts as a reward function; None where there is none. Logs what the rollouts were like."""
    del others
    for name, value in of_rollout(_groups(trajectory)).items():
        log_metric(name, value)
    return [t.reward if t is not None and t.graded else None for t in trajectory]


@contextmanager
def _as_the_engine_needs(model: PreTrainedModel) -> Iterator[None]:
    """The same weights with packed attention, and without dropout and checkpointing; then as before, for TRL's padded rows."""
    attention, training = model.config._attn_implementation, model.training
    assert attention is not None
    model.set_attn_implementation(PACKED)
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
    """A row under the names that TRL wants."""
    return {
        "prompt_ids": list(prompt),
        "completion_ids": list(completion),
        "logprobs": list(logprobs),
        "env_mask": list(map(int, sampled)),
        TRAJECTORY: trajectory,
    }


def _by_prompt(problems: Sequence[Problem]) -> dict[str, Problem]:
    """Raises DataError where two problems ask the same: TRL hands on the prompt alone."""
    counts = Counter(_key(problem.messages) for problem in problems)
    if twice := [problem.id for problem in problems if counts[_key(problem.messages)] > 1]:
        raise DataError(
            f"Problems {twice[0]!r} and {twice[1]!r} ask the same; TRL could not tell them apart. Leave one out."
        )
    return {_key(problem.messages): problem for problem in problems}


def _key(messages: Sequence[Mapping[str, Any]]) -> str:
    """A conversation as text. Datasets fill up fields that a message lacks with None."""
    return json.dumps(
        [{name: value for name, value in m.items() if value is not None} for m in messages], sort_keys=True
    )


def _check_enough(trajectories: Sequence[Trajectory | None]) -> None:
    there = [t for t in trajectories if t is not None]
    graded = sum(t.graded for t in there)
    check_enough(kept=graded, dropped=len(trajectories) - len(there), ungraded=len(there) - graded)


def _groups(trajectories: Sequence[Trajectory | None]) -> list[Group]:
    """This process's attempts, problem by problem; those that were lost are counted with the first."""
    by_problem: dict[str, list[Trajectory]] = defaultdict(list)
    there = [t for t in trajectories if t is not None]
    for t in there:
        by_problem[t.problem.id].append(t)
    groups = [
        Group(ts[0].problem, [t for t in ts if t.graded], ungraded=[t for t in ts if not t.graded])
        for ts in by_problem.values()
    ]
    return [replace(groups[0], dropped=len(trajectories) - len(there)), *groups[1:]] if groups else []
