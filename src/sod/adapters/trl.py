"""SOD in TRL: `SODTrainer`, a GRPOTrainer with a credit for every token, and concurrent rollouts.

    pip install ".[trl]"   # in a checkout of sod

TRL samples, calls tools, computes rewards and trains as usual. Instead of one advantage per completion, its loss gets

    advantage_B + coef * w_BT * (log pi_teacher - log pi_student)        (B, T)

from any system or rule of `sod.credit.algorithms`. In TRL's loop of generation and tools, all completions wait for the slowest
one. `concurrent_rollouts` replaces this loop by this project's agents. docs/trl.md is the user's guide.
"""

# pyright: reportMissingImports=false

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from sod.adapters.teachers import check_teacher_kind
from sod.adapters.trl_rollouts import TRAJECTORY, HarnessSettings, Rollouts, concurrent_rollouts, referee_reward
from sod.batching import Batch, CreditedBatch, ScoredBatch
from sod.config import AlgorithmOptions
from sod.core import INPUTS, Rule, StepInfo, WholeCredit, step_ids
from sod.credit.algorithms import System, find, inputs_read, keeps_state, own_system
from sod.errors import ModelError, OptionError, TrainingError
from sod.model.attention import ATTENTION
from sod.model.loading import check_embeddings, check_same_vocabulary, load_tokenizer
from sod.moved import keep_old_names
from sod.runs.metrics import of_steps
from sod.training.on_policy import MAX_SAMPLER_GAP
from sod.types import Message, Outcome, Piece, Problem, Trajectory

TESTED = ("1.16.0",)
"""Versions of TRL with which tests/test_adapters_trl.py passes."""

try:
    import trl
    from accelerate.utils import gather_object
    from trl import GRPOConfig, GRPOTrainer
    from trl.models import prepare_deepspeed, prepare_fsdp
    from trl.models.utils import disable_gradient_checkpointing
    from trl.trainer.utils import add_fused_lm_head
except ImportError as error:
    raise ImportError(
        f'sod.adapters.trl requires TRL {TESTED[-1]} ({error}). Run pip install ".[trl]" in a checkout of sod.'
    ) from error

LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo")
"""Values of `loss_type` for which a token's loss depends only on its own advantage and ratio."""
LACKING = frozenset({"student_entropy", "right", "reward", "group", "student_rates", "teacher_rates", "anchors"})
"""Inputs of rules that TRL does not pass on: names in `sod.core.INPUTS`."""

Observations = Sequence[tuple[Outcome, ...]]
"""Outcomes of the calls of each turn with calls."""


__all__ = ["HarnessSettings", "Rollouts", "SODTrainer", "concurrent_rollouts", "referee_reward"]


# The trainer


def alarms_raised(text: str) -> bool:
    """Return True if a tool's message is TRL's message for a call that raised, or for an unknown tool."""
    return text.startswith("{'error': ")


class SODTrainer(GRPOTrainer):
    """GRPOTrainer that adds a teacher's weighted signal to GRPO's advantage of every sampled token.

    `teacher_model`: a model, a directory or a hub name, with the student's vocabulary; it is frozen. A given model object gets
    TRL's fused head, like the student, so that no (B, T, V) logits are computed.
    `sod`: the algorithm and its constants. `rule` replaces the algorithm's own rule.
    `teacher_processing_class`: the teacher's tokenizer. Default: the one stored with its weights.
    `call_failed`: returns True if a tool's message reports a failed call, for rules that need it. Trajectories of
    `concurrent_rollouts` already contain this information.
    `untested_version`: accept a version of TRL that is not in `TESTED`.
    All other arguments are GRPOTrainer's.

    Raises OptionError for options that do not support a credit for every token, ModelError for unsupported models.
    """

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: GRPOConfig | None = None,
        *others: Any,
        teacher_model: PreTrainedModel | str | Path,
        sod: AlgorithmOptions = AlgorithmOptions(),  # noqa: B008 (immutable)
        rule: Rule | WholeCredit | None = None,
        teacher_processing_class: PreTrainedTokenizerBase | None = None,
        call_failed: Callable[[str], bool] = alarms_raised,
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
        """Prepare the teacher in the same way as TRL's reference model."""
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
        batch = credit_in_trl(self._system, self._scored(output, self._observations(inputs)), self._sod)
        self._record(batch, output)
        return {**output, "advantages": batch.credit_BT.to(output["advantages"])}

    def _observations(self, inputs: list[dict[str, Any]]) -> list[Observations]:
        """Return the outcomes of each completion's calls, from its trajectory or, without one, from its messages."""
        if TRAJECTORY not in inputs[0]:
            return [observations(messages, self._call_failed) for messages in self._completions]
        trajectories: list[Trajectory | None] = [row[TRAJECTORY] for row in inputs]
        return [() if t is None else [piece.outcomes for piece in t.observations] for t in trajectories]

    @torch.no_grad()
    def _scored(self, output: dict[str, Any], of_calls: Sequence[Observations]) -> ScoredBatch:
        """Convert TRL's completions to a batch with both models' scores, on the CPU. T counts a completion's tokens."""
        ids_BT = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
        attended_BT = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
        _check_positions(self.teacher_model, attended_BT)
        width = output["completion_ids"].shape[1]
        training = self.model.training
        rows = self.args.per_device_train_batch_size if training else self.args.per_device_eval_batch_size
        student_BT = output.get("old_per_token_logps")
        if student_BT is None:  # TRL omits them if they equal those of the next forward pass
            with disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
                student_BT, *_ = self._get_per_token_logps_and_entropies(self.model, ids_BT, attended_BT, width, rows)
        teacher_BT, entropy_BT, *_ = self._get_per_token_logps_and_entropies(
            self.teacher_model, ids_BT, attended_BT, width, rows, compute_entropy=True
        )
        mask_BT = output["completion_mask"].bool()
        if "tool_mask" in output:
            mask_BT = mask_BT & output["tool_mask"].bool()
        mask_BT = mask_BT.cpu()
        batch = Batch(
            trajectories=[_trajectory(calls) for calls in of_calls],
            ids_BT=output["completion_ids"].cpu(),
            mask_BT=mask_BT,
            steps_BT=step_ids(mask_BT),
            lengths_B=output["completion_mask"].sum(1).cpu(),
            rewards_B=output["advantages"].float().cpu(),
            groups_B=torch.zeros(len(mask_BT), dtype=torch.long),
        )
        return replace(
            batch.scored(student_BT.float().cpu()),
            teacher_BT=teacher_BT.float().cpu(),
            teacher_entropy_BT=entropy_BT.float().cpu(),
            update=self._updates(),
            progress=self.state.global_step / max(1, self.state.max_steps),
        )

    def _updates(self) -> int:
        """Return the number of completed batches of rollouts."""
        passes = self.state.global_step * self.args.gradient_accumulation_steps
        return passes // (self.args.steps_per_generation * self.num_iterations)

    def _record(self, batch: ScoredBatch, output: dict[str, Any]) -> None:
        """Add metrics under sod/ to TRL's log: means over the processes that have them."""
        report = {f"sod/{name.removeprefix('steps/')}": value for name, value in of_steps(batch, self._sod).items()}
        report["sod/tool_errors"] = sum(t.tool_errors for t in batch.trajectories) / len(batch)
        if isinstance(self.rollout_func, Rollouts):
            report["sod/sampler_gap"] = sampler_gap(batch, output["sampling_per_token_logps"])
        reports = gather_object([report])
        metrics = self._metrics["train" if self.model.training else "eval"]
        for name in sorted({name for each in reports for name in each}):
            values = [each[name] for each in reports if name in each]
            metrics[name].append(sum(values) / len(values))


def credit_in_trl(system: System, batch: ScoredBatch, options: AlgorithmOptions) -> CreditedBatch:
    """Return the batch with its credit. `batch.rewards_B` already holds GRPO's advantage, as computed by TRL.

    A group may be spread over processes, and TRL has its own scaling (`scale_rewards`). Advantages are not recomputed.
    """
    rule, whole, advantage_B = system.rule, system.whole, batch.rewards_B

    def known(info: StepInfo) -> StepInfo:
        return replace(info, advantage_B=advantage_B, **{INPUTS[name].field: None for name in LACKING})

    given = System(
        outcome=None if system.outcome is None else lambda *_: advantage_B,
        rule=None if rule is None else lambda d_BK, info: rule(d_BK, known(info)),
        whole=None if whole is None else lambda info: whole(known(info)),
    )
    return given.give(batch, options)


def observations(completion: str | Sequence[Message], failed: Callable[[str], bool]) -> Observations:
    """Return the outcomes of each turn's calls, from the tools' messages."""
    if isinstance(completion, str):
        return []
    runs = groupby(completion, lambda message: message["role"] == "tool")
    return [
        tuple("error" if failed(str(message["content"])) else "ok" for message in messages)
        for of_tools, messages in runs
        if of_tools
    ]


def _trajectory(of_calls: Observations) -> Trajectory:
    """Return a trajectory with only the data that a rule may read: the outcomes of its calls."""
    pieces = [piece for outcomes in of_calls for piece in (Piece("student", ()), Piece("tool", (), outcomes=outcomes))]
    problem = Problem(id="", messages=(), answer="")
    return Trajectory(problem=problem, sample=0, pieces=tuple(pieces), stop="answered", final_text="")


def sampler_gap(batch: ScoredBatch, sampled_BT: Tensor) -> float:
    """Return the mean difference between the sampler's log-probabilities and TRL's forward pass, in nats.

    Raises TrainingError if it exceeds MAX_SAMPLER_GAP.
    """
    gap_N = (sampled_BT.cpu() - batch.student_BT).abs()[batch.mask_BT]
    gap = float(gap_N.mean()) if len(gap_N) else 0.0
    if gap > MAX_SAMPLER_GAP:
        raise TrainingError(
            f"The rollouts' log-probabilities differ from TRL's forward pass of the same weights by {gap:.2f} nats, so the "
            "samples are not the policy's. If the model scales or caps its logits, do not use concurrent_rollouts."
        )
    return gap


# Checks


def check_version(version: str, *, untested: bool) -> None:
    """Raises OptionError for an untested version of TRL, unless `untested` is True."""
    if version not in TESTED and not untested:
        raise OptionError(
            f"sod.adapters.trl uses private methods of GRPOTrainer and is tested with TRL {', '.join(TESTED)}; this is "
            f"{version}. Run pip install trl=={TESTED[-1]}. Or run tests/test_adapters_trl.py to find out what has changed, and "
            "pass SODTrainer(untested_version=True)."
        )


def check_arguments(args: GRPOConfig) -> None:
    """Raises OptionError for options of GRPOConfig that need one advantage per completion."""
    if args.loss_type not in LOSSES:
        why = "weighs whole completions by the sign of their advantage and " if args.loss_type == "vespo" else ""
        raise OptionError(
            f"loss_type = {args.loss_type!r} {why}cannot be used with a credit for every token. Choose one of "
            f"{', '.join(LOSSES)} (bnpo is the paper's mean over tokens)."
        )
    if args.importance_sampling_level != "token":
        raise OptionError(
            f"importance_sampling_level = {args.importance_sampling_level!r} uses one ratio for all tokens of a completion, "
            "which averages their credit. Set it to 'token'."
        )
    if args.off_policy_mask_threshold is not None:
        raise OptionError(
            "off_policy_mask_threshold drops whole completions by the sign of their advantage. Here every token has its own "
            "credit, so tokens would be dropped one by one. Remove this option."
        )


def system_in_trl(options: AlgorithmOptions, rule: Rule | WholeCredit | None = None) -> System:
    """Return the system named by the options, or GRPO combined with `rule`. Raises OptionError for unsupported systems."""
    if options.divergence == "exact":
        raise OptionError(
            "divergence = 'exact' gives credit to tokens that were not sampled, which TRL's loss does not support. Use "
            "'sampled'."
        )
    if options.advantage != "grpo" or options.kl_in_reward:
        raise OptionError(
            "algorithm.advantage and algorithm.kl_in_reward have no effect in TRL, which computes the advantage itself. Use "
            "GRPOConfig's scale_rewards and beta."
        )
    system = find(options.name) if rule is None else own_system(rule)
    if system.context is not None:
        raise OptionError(
            f"algorithm {options.name!r} needs a teacher with its own prompt, which is not supported in TRL. Use `sod train`."
        )
    if system.rule is None and (system.whole is None or not system.reads_signal):
        raise OptionError(
            f"algorithm {options.name!r} has no teacher. Use GRPOTrainer for grpo, `sod train` for the others."
        )
    if missing := sorted(inputs_read(system) & LACKING):
        what = " and ".join(INPUTS[name].what for name in missing)
        raise OptionError(
            f"algorithm {options.name!r} reads {what}, which TRL does not pass on. Use `sod train`, or choose another rule."
        )
    if keeps_state(system):
        raise OptionError(
            f"algorithm {options.name!r} keeps numbers from update to update, which are lost in TRL. Use `sod train`, or choose "
            "another rule."
        )
    return system


def _check_student(trainer: GRPOTrainer) -> None:
    """Raises ModelError for a multimodal model, or for an attention that would read TRL's padding."""
    if not isinstance(trainer.processing_class, PreTrainedTokenizerBase):
        raise ModelError(
            "SODTrainer only supports text models, because the teacher would not get the images. Pass a tokenizer as "
            "processing_class."
        )
    _check_attention(trainer.model, "student")


def _check_attention(model: Any, whose: str) -> None:
    if model.config._attn_implementation == ATTENTION:
        raise ModelError(
            f"The {whose} was loaded with this project's attention, which does not support the padding masks that TRL uses. Load "
            "it with AutoModelForCausalLM; concurrent_rollouts switches the attention while it samples."
        )


def _check_positions(teacher: Any, attended_BT: Tensor) -> None:
    longest, positions = int(attended_BT.sum(1).max()), teacher.config.max_position_embeddings
    if longest > positions:
        raise ModelError(
            f"The teacher has {positions} positions, but a completion with its prompt has {longest} tokens. Lower "
            "max_completion_length."
        )


def _teacher(
    teacher: PreTrainedModel | str | Path, tokenizer: PreTrainedTokenizerBase | None, trainer: GRPOTrainer
) -> PreTrainedModel:
    """Load and freeze the teacher. Raises ModelError if its vocabulary is unknown or differs from the student's."""
    check_teacher_kind(teacher, option="teacher_model")
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
    except (OSError, ValueError, ModelError) as error:  # no such directory or name, or no tokenizer there
        raise ModelError(
            f"The teacher in {where!r} has no tokenizer, so its vocabulary cannot be compared with the student's. Save the "
            "tokenizer there, or pass teacher_processing_class."
        ) from error


keep_old_names(__name__, WorldSettings="HarnessSettings")
