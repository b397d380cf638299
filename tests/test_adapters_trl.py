"""SOD inside TRL: the same credit, the same gradient, the same tools at the same time; and what cannot work is refused.

TRL has an environment of its own: `make test-trl`.
"""

# pyright: reportMissingImports=false

import asyncio
import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl", reason="TRL has an environment of its own: make test-trl")

import torch
from datasets import Dataset
from judging import Nowhere
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.chat_template_utils import qwen3_template

from sod.adapters.trl import (
    LACKING,
    LOSSES,
    HarnessSettings,
    Rollouts,
    SODTrainer,
    alarms_raised,
    check_arguments,
    check_version,
    concurrent_rollouts,
    credit_in_trl,
    observations,
    referee_reward,
    sampler_gap,
    system_in_trl,
)
from sod.batching import ScoredBatch, collate
from sod.config import AlgorithmOptions, GuidedOptions, ModelOptions, RewardOptions, RolloutOptions, SandboxOptions
from sod.core import StepInfo, clipped_policy_loss, group_advantage, masked_mean
from sod.credit import algorithms
from sod.credit.systems import SYSTEMS
from sod.environments.running import Environments
from sod.errors import DataError, InfrastructureError, ModelError, OptionError, SandboxError, TrainingError
from sod.lab import settings
from sod.lab.make import TEACHER_FOLDER
from sod.lab.make import problems as lab_problems
from sod.model.attention import ATTENTION
from sod.model.loading import load_model, load_tokenizer
from sod.model.scores import score
from sod.rewards import Verdict
from sod.rewards.referee import Referee
from sod.rollout.harness import Harness
from sod.tools import Toolbox
from sod.types import Group, Observation, Piece, Problem, Trajectory

pytestmark = [
    pytest.mark.filterwarnings("ignore:You are using 'rollout_func':UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

TASKS, _ = lab_problems(8, 0, seed=7)
PROBLEMS = [task.problem(f"p{i}") for i, task in enumerate(TASKS)]
ROWS = [{"prompt": [{"role": "user", "content": task.question}], "answer": str(task.answer)} for task in TASKS]
LIMITS = RolloutOptions.model_validate(settings.ROLLOUT | {"max_tokens": 120, "concurrency": 8})


@pytest.fixture(scope="session")
def student(trembling: Callable[[Path, float], None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a student that calls the tool, and errs."""
    folder = tmp_path_factory.mktemp("student")
    trembling(folder, 0.05)
    return folder


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


def code_interpreter(code: str) -> str:
    """Runs a Python program and returns what it prints.

    Args:
        code: The program.
    """
    return str(len(code))


def broken(code: str) -> str:
    """Runs a Python program and returns what it prints.

    Args:
        code: The program.
    """
    raise ZeroDivisionError(code[:1])


broken.__name__ = "code_interpreter"


def by_length(completions: list[Any], **others: Any) -> list[float]:
    """Another reward for each completion, so that no group is all alike."""
    del completions
    return [float(len(ids) % 7) for ids in others["completion_ids"]]


def arguments(folder: Path, **options: Any) -> GRPOConfig:
    small = {
        "output_dir": str(folder),
        "num_generations": 4,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "steps_per_generation": 2,
        "gradient_accumulation_steps": 1,
        "max_completion_length": 120,
        "max_tool_calling_iterations": 4,
        "learning_rate": 1e-3,
        "loss_type": "bnpo",
        "epsilon_high": 0.28,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    return GRPOConfig(**small | options)


@pytest.fixture
def trainer(
    student: Path, teacher: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> Callable[..., SODTrainer]:
    """A trainer on the lab's problems. `options` are GRPOConfig's; `tools` None is one that works."""

    def make(
        *,
        tools: list[Any] | None = None,
        teacher_model: Any = teacher,
        model: Any = None,
        others: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> SODTrainer:
        tokenizer.response_template = qwen3_template  # TRL reads calls only under templates that it knows
        given = {"reward_funcs": by_length, "train_dataset": Dataset.from_list(ROWS), "processing_class": tokenizer}
        return SODTrainer(
            model=model or load(student),
            args=arguments(tmp_path, **options),
            tools=[code_interpreter] if tools is None else tools,
            teacher_model=teacher_model,
            **given | dict(others or {}),
        )

    return make


class Log(TrainerCallback):
    """Everything that the trainer logs."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **others: Any) -> None:
        del args, state, control, others
        self.rows.append(dict(logs or {}))


def weights(model: Any) -> Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in model.parameters()])


# What is relied on


def test_trls_scored_batch_has_the_fields_that_are_read(trainer: Callable[..., SODTrainer]) -> None:
    built = trainer()
    output = GRPOTrainer._generate_and_score_completions(built, ROWS[:1] * 4 + ROWS[1:2] * 4)
    wanted = {"prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "tool_mask", "old_per_token_logps"}
    assert output.keys() >= wanted | {"advantages"}
    assert output["advantages"].shape == (8,)
    assert output["completion_mask"].shape == output["tool_mask"].shape == output["old_per_token_logps"].shape


def test_trls_methods_take_what_they_are_given() -> None:
    def names(function: Any) -> list[str]:
        return list(inspect.signature(function).parameters)

    scored = names(GRPOTrainer._get_per_token_logps_and_entropies)
    assert scored[:7] == [
        *("self", "model", "input_ids", "attention_mask"),
        *("logits_to_keep", "batch_size", "compute_entropy"),
    ]
    assert names(GRPOTrainer._calculate_rewards) == ["self", "inputs", "prompts", "completions", "completion_ids_list"]
    assert names(GRPOTrainer._generate_and_score_completions) == ["self", "inputs"]
    assert names(GRPOTrainer.__init__)[1:4] == ["model", "reward_funcs", "args"]


def test_trls_loss_still_takes_an_advantage_for_every_token() -> None:
    source = inspect.getsource(GRPOTrainer._compute_loss)
    assert re.search(r"if advantages\.dim\(\) == 1:\s+advantages = advantages\.unsqueeze\(1\)", source)


def test_another_version_is_refused_unless_it_is_wanted() -> None:
    with pytest.raises(OptionError, match=r"tested with TRL 1\.16\.0; this is 1\.17\.0.*untested_version=True"):
        check_version("1.17.0", untested=False)
    check_version("1.17.0", untested=True)
    check_version("1.16.0", untested=False)


# What is refused


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("loss_type", "vespo", "loss_type = 'vespo' weighs whole completions"),
        ("loss_type", "a new one", "loss_type = 'a new one' cannot be used"),
        ("importance_sampling_level", "sequence", "importance_sampling_level = 'sequence'"),
        ("off_policy_mask_threshold", 0.5, "off_policy_mask_threshold"),
    ],
)
def test_an_option_that_takes_one_advantage_for_a_completion_is_refused(
    option: str, value: Any, words: str, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=words):
        check_arguments(arguments(tmp_path, **{option: value}))


def test_it_is_refused_before_any_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="loss_type"):
        SODTrainer("no such model", by_length, arguments(tmp_path, loss_type="vespo"), teacher_model="nor this")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "grpo"}, "'grpo' has no teacher"),
        ({"name": "sham"}, "'sham' has no teacher"),
        ({"name": "gigpo"}, "'gigpo' has no teacher"),
        ({"name": "tide"}, "'tide' keeps numbers from update to update, which are lost in TRL"),
        ({"name": "opsd_gt"}, "needs a teacher with its own prompt"),
        ({"name": "sodd"}, "did you mean 'sod'"),
        ({"divergence": "exact"}, "were not sampled"),
        ({"advantage": "rloo"}, "scale_rewards and beta"),
        ({"kl_in_reward": 0.1}, "scale_rewards and beta"),
    ],
)
def test_an_algorithm_that_cannot_be_had_in_trl_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        system_in_trl(AlgorithmOptions(**options))


def test_a_model_with_packed_attention_is_refused(
    trainer: Callable[..., SODTrainer], student: Path, teacher: Path
) -> None:
    cpu = ModelOptions(device="cpu")
    with pytest.raises(ModelError, match="The student was loaded with this project's attention"):
        trainer(model=load_model(student, cpu))
    with pytest.raises(ModelError, match="The teacher was loaded with this project's attention"):
        trainer(teacher_model=load_model(teacher, cpu))


def test_a_teacher_with_another_vocabulary_or_none_is_refused(
    trainer: Callable[..., SODTrainer], teacher: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    folder = tmp_path / "teacher"
    load(teacher).save_pretrained(folder)
    with pytest.raises(ModelError, match="pass teacher_processing_class"):
        trainer(teacher_model=folder)
    other = AutoTokenizer.from_pretrained(teacher)  # not the shared one, which other tests use
    other.add_tokens(["a token more"])
    other.save_pretrained(folder)
    with pytest.raises(ModelError, match="different vocabularies"):
        trainer(teacher_model=folder)


def test_a_completion_beyond_the_teachers_positions_is_refused(
    trainer: Callable[..., SODTrainer], teacher: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    short = load(teacher)
    short.config.max_position_embeddings = 30
    built = trainer(teacher_model=short, others={"teacher_processing_class": tokenizer})
    with pytest.raises(ModelError, match="The teacher has 30 positions"):
        built._generate_and_score_completions([dict(row) for row in ROWS[:1] * 4 + ROWS[1:2] * 4])


# Credit


@pytest.fixture
def scored(random_groups: Callable[..., list[Group]]) -> ScoredBatch:
    """Random trajectories, of which some calls failed, and random scores of both models."""
    rows = [
        replace(
            t,
            pieces=tuple(
                replace(p, outcomes=("error" if sum(p.tokens) % 2 else "ok",)) if p.author == "tool" else p
                for p in t.pieces
            ),
        )
        for group in random_groups(3, 4)
        for t in group
    ]
    batch = collate([Group(rows[i].problem, rows[i : i + 4]) for i in (0, 4, 8)])
    generator = torch.Generator().manual_seed(0)
    draw = lambda: -3 * torch.rand(batch.ids_BT.shape, generator=generator)  # noqa: E731
    return replace(batch.scored(draw()), teacher_BT=draw(), teacher_entropy_BT=-draw(), update=7, progress=0.6)


WITH_TEACHER = [name for name, traits in SYSTEMS.items() if traits.needs_teacher]


@pytest.mark.parametrize("name", [name for name in WITH_TEACHER if SYSTEMS[name].reads & LACKING])
def test_a_rule_that_reads_what_trl_does_not_pass_on_is_refused_in_a_sentence(name: str) -> None:
    with pytest.raises(OptionError, match=f"algorithm '{name}' reads .*, which TRL does not pass on. Use `sod train`"):
        system_in_trl(AlgorithmOptions(name=name))


@pytest.mark.parametrize(
    "name", [name for name in WITH_TEACHER if not SYSTEMS[name].reads & LACKING | {name} & {"tide"}]
)
def test_the_credit_is_that_of_the_algorithm_on_the_same_numbers(name: str, scored: ScoredBatch) -> None:
    options = AlgorithmOptions(name=name, coef=0.7)
    ours = algorithms.give_credit(scored, options)
    advantage_B = group_advantage(scored.rewards_B, scored.groups_B)
    theirs = credit_in_trl(
        system_in_trl(options), replace(scored, rewards_B=advantage_B, groups_B=torch.zeros(12).long()), options
    )
    torch.testing.assert_close(theirs.credit_BT, ours.credit_BT)
    torch.testing.assert_close(theirs.teacher_weight_BT, ours.teacher_weight_BT)
    assert ours.credit_BT.abs().sum() > 0


def test_a_rule_of_ones_own_stands_in_for_the_algorithms(scored: ScoredBatch) -> None:
    def only_the_second(d_BK: Tensor, info: StepInfo) -> Tensor:
        assert info.update == 7
        return (torch.arange(d_BK.shape[1]) == 1).float().expand_as(d_BK)

    given = credit_in_trl(system_in_trl(AlgorithmOptions(), only_the_second), scored, AlgorithmOptions(coef=0.5))
    assert given.teacher_weight_BT is not None
    assert torch.equal(given.teacher_weight_BT, 0.5 * (scored.steps_BT == 2))


def test_the_trainers_credit_is_that_of_both_models_by_our_own_forward_passes(
    trainer: Callable[..., SODTrainer], student: Path, teacher: Path
) -> None:
    options = AlgorithmOptions(name="sod_mask_after_error", coef=2.0)
    built = trainer(tools=[broken], temperature=0.8, others={"sod": options})
    built.model.train()
    torch.manual_seed(0)
    inputs = [dict(row) for row in ROWS[:1] * 4 + ROWS[1:2] * 4]
    output = built._generate_and_score_completions(inputs)
    trajectories = [as_trajectory(output, row) for row in range(8)]
    assert max(len(t.turns) for t in trajectories) > 2
    batch = collate([Group(trajectories[i].problem, trajectories[i : i + 4]) for i in (0, 4)])
    cpu = ModelOptions(device="cpu")
    student_BT, _ = score(load_model(student, cpu), batch, 0.8, 4096)
    teacher_BT, _ = score(load_model(teacher, cpu), batch, 0.8, 4096)
    batch = replace(batch.scored(student_BT), teacher_BT=teacher_BT)
    credit_BT = algorithms.give_credit(batch, options).credit_BT
    mask_BT = (output["completion_mask"] * output["tool_mask"]).bool()
    # TRL adds 1e-4 to a group's deviation, where ours has 1e-6
    torch.testing.assert_close(output["advantages"][mask_BT], credit_BT[batch.mask_BT], atol=1e-3, rtol=1e-3)
    assert not output["advantages"][~mask_BT].any()


def as_trajectory(output: Mapping[str, Tensor], row: int) -> Trajectory:
    """TRL's row as a trajectory all of whose calls failed."""
    inside = output["completion_mask"][row].bool()
    ids, mask = output["completion_ids"][row][inside].tolist(), output["tool_mask"][row][inside].tolist()
    pieces = [Piece("prompt", tuple(output["prompt_ids"][row][output["prompt_mask"][row].bool()].tolist()))]
    for sampled, run in groupby(range(len(ids)), mask.__getitem__):
        tokens = tuple(ids[i] for i in run)
        pieces.append(Piece("student", tokens) if sampled else Piece("tool", tokens, outcomes=("error",)))
    [reward] = by_length([], completion_ids=[ids])
    problem = PROBLEMS[row // 4]
    return Trajectory(problem=problem, sample=row, pieces=tuple(pieces), stop="answered", final_text="", reward=reward)


def test_calls_that_failed_are_known_by_their_messages() -> None:
    messages = [
        {"role": "assistant", "content": "", "tool_calls": []},
        {"role": "tool", "name": "a", "content": "{'error': 'no'}"},
        {"role": "tool", "name": "a", "content": "error: 3"},
        {"role": "assistant", "content": ""},
        {"role": "tool", "name": "a", "content": "Traceback"},
    ]
    assert observations(messages, alarms_raised) == [("error", "ok"), ("ok",)]
    assert observations(messages, lambda text: "Trace" in text) == [("ok", "ok"), ("error",)]
    assert observations("plain text", alarms_raised) == []


# The loss


def loss_inputs(built: SODTrainer) -> dict[str, Any]:
    """A batch as TRL's loss gets it: four rows of two problems, learnt from in one step."""
    torch.manual_seed(0)
    built.model.train()
    output = built._generate_and_score_completions([dict(row) for row in ROWS[:1] * 4 + ROWS[1:2] * 4])
    built.current_gradient_accumulation_steps = 1
    return output


def gradient(model: Any, loss: Tensor) -> Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([parameter.grad.flatten().clone() for parameter in model.parameters()])


def logprobs(built: SODTrainer, inputs: Mapping[str, Tensor]) -> Tensor:
    ids_BT = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    attended_BT = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    width = inputs["completion_ids"].shape[1]
    return built._get_per_token_logps_and_entropies(built.model, ids_BT, attended_BT, width)[0]


def test_the_gradient_is_that_of_our_loss_also_where_the_ratio_is_clipped(trainer: Callable[..., SODTrainer]) -> None:
    built = trainer()
    inputs = loss_inputs(built)
    noise_BT = 0.4 * torch.randn(inputs["advantages"].shape, generator=torch.Generator().manual_seed(1))
    inputs["old_per_token_logps"] = inputs["old_per_token_logps"] + noise_BT
    before = {name: value.clone() for name, value in inputs.items()}
    theirs = gradient(built.model, built.compute_loss(built.model, inputs))
    for name, value in before.items():  # TRL learns from a batch more than once
        assert torch.equal(inputs[name], value), name

    mask_BT = (inputs["completion_mask"] * inputs["tool_mask"]).bool()
    loss_BT = clipped_policy_loss(logprobs(built, inputs), inputs["old_per_token_logps"], inputs["advantages"])
    ours = gradient(built.model, masked_mean(loss_BT, mask_BT))
    torch.testing.assert_close(theirs, ours, atol=1e-6, rtol=1e-4)
    assert ours.norm() > 0


@pytest.mark.parametrize("loss_type", LOSSES)
def test_in_every_loss_that_is_allowed_a_tokens_credit_moves_that_token_alone(
    loss_type: str, trainer: Callable[..., SODTrainer]
) -> None:
    assert one_tokens_gradient(trainer(loss_type=loss_type)) == pytest.approx(1, abs=1e-4)


def test_with_the_ratio_of_a_whole_completion_it_would_not(trainer: Callable[..., SODTrainer]) -> None:
    built = trainer()
    built.importance_sampling_level = "sequence"
    assert one_tokens_gradient(built) < 0.9


def one_tokens_gradient(built: SODTrainer) -> float:
    """The cosine between the loss's gradient, when one token alone has credit, and that of its log-probability."""
    inputs = loss_inputs(built)
    inputs["advantages"] = torch.zeros_like(inputs["advantages"])
    inputs["advantages"][2, 3] = 1.0
    theirs = gradient(built.model, built.compute_loss(built.model, inputs))
    ours = gradient(built.model, -logprobs(built, inputs)[2, 3])
    return float(torch.nn.functional.cosine_similarity(theirs, ours, dim=0))


# Training in TRL's own loop


@pytest.mark.parametrize("accumulated", [False, True])
def test_it_learns_with_tools_in_trls_own_loop(trainer: Callable[..., SODTrainer], accumulated: bool) -> None:
    # Accumulated, TRL leaves out log-probabilities that equal those of the coming pass: they are computed for the teacher.
    log = Log()
    options = {"gradient_accumulation_steps": 2} if accumulated else {}
    built = trainer(max_steps=3, others={"callbacks": [log]}, **options)
    before, teacher_before = weights(built.model), weights(built.teacher_model)
    built.train()
    rows = [row for row in log.rows if "sod/d" in row]
    assert rows
    assert all(
        {"sod/d_1", "sod/w_after_first", "sod/w_capped", "sod/teacher_entropy", "sod/tool_errors"} <= row.keys()
        for row in rows
    )
    assert all(row["sod/d"] > 0 for row in rows)
    assert max(row["tools/call_frequency"] for row in rows) > 0
    assert not torch.equal(weights(built.model), before)
    assert torch.equal(weights(built.teacher_model), teacher_before)


def test_tool_errors_are_counted_in_trls_own_loop(trainer: Callable[..., SODTrainer]) -> None:
    log = Log()
    trainer(tools=[broken], max_steps=1, others={"callbacks": [log]}).train()
    row = next(row for row in log.rows if "sod/d" in row)
    assert row["tools/failure_frequency"] == 1
    assert row["sod/tool_errors"] == pytest.approx(row["tools/call_frequency"], rel=0.5)
    assert row["sod/tool_errors"] > 0


def test_it_evaluates(trainer: Callable[..., SODTrainer]) -> None:
    built = trainer(others={"eval_dataset": Dataset.from_list(ROWS[:2])})
    assert built.evaluate()["eval_sod/d"] > 0


# Concurrent rollouts


class Together:
    """A code interpreter none of whose calls ends before `count` are under way."""

    schema = {  # noqa: RUF012
        "type": "function",
        "function": {
            "name": "code_interpreter",
            "parameters": {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]},
        },
    }

    def __init__(self, count: int):
        self.left = count
        self.enough: asyncio.Event | None = None

    async def __call__(self, arguments: Mapping[str, Any]) -> Observation:
        self.enough = self.enough or asyncio.Event()
        self.left -= 1
        if self.left <= 0:
            self.enough.set()
        await self.enough.wait()
        return Observation(text="7", outcome="ok")


class Lost(Together):
    """The first `count` calls fail through no fault of the student's."""

    async def __call__(self, arguments: Mapping[str, Any]) -> Observation:
        self.left -= 1
        if self.left >= 0:
            raise SandboxError("no process could be started")
        return Observation(text="7", outcome="ok")


@contextmanager
def opened(
    folder: Path,
    tool: Any = None,
    problems: Sequence[Problem] = PROBLEMS,
    referee: Referee | None = None,
    **limits: Any,
) -> Iterator[Rollouts]:
    """Concurrent rollouts in the lab's harness, or one with another tool or referee. `limits` are RolloutOptions'."""
    options = LIMITS.model_copy(update=limits)
    reward = RewardOptions(tool_use="off", overlong=0)
    settings = HarnessSettings(rollout=options, reward=reward, sandbox=SandboxOptions(workers=1))
    harness = Harness.of(folder, settings, problems)
    if tool is not None:
        tools = Toolbox([tool])
        harness = replace(harness, tools=tools, environments=Environments(tools))
    if referee is not None:
        harness = replace(harness, referee=referee)
    with concurrent_rollouts(harness, problems, options) as rollouts:
        yield rollouts


def concurrent(rollouts: Rollouts, **others: Any) -> dict[str, Any]:
    return {
        "rollout_func": rollouts,
        "train_dataset": Dataset.from_list(rollouts.rows),
        "reward_funcs": referee_reward,
        **others,
    }


def test_the_teacher_writes_no_turns_in_trl(student: Path) -> None:
    limits = {"guided": GuidedOptions(probability=0.5)}
    with pytest.raises(OptionError, match="guided needs `sod train`"), opened(student, **limits):
        pass


def test_it_learns_from_concurrent_rollouts(trainer: Callable[..., SODTrainer], student: Path) -> None:
    log = Log()
    with opened(student) as rollouts:
        # Two optimiser steps for each batch, so the third is of weights that have changed.
        built = trainer(tools=[], max_steps=3, others=concurrent(rollouts, callbacks=[log]))
        before = weights(built.model)
        built.train()
    rows = [row for row in log.rows if "sod/d" in row]
    assert len(rows) == 2
    assert all(row["sod/sampler_gap"] < 1e-4 for row in rows)
    assert all(row["rollout/turns"] > 1 and row["tools/calls"] > 0 for row in rows)
    assert all(row["sod/tool_errors"] == pytest.approx(row["tools/errors"]) for row in rows)
    assert all(row["rewards/referee_reward/mean"] == pytest.approx(row["rollout/reward"]) for row in rows)
    assert not torch.equal(weights(built.model), before)


def test_all_tools_run_at_the_same_time(trainer: Callable[..., SODTrainer], student: Path) -> None:
    with opened(student, Together(4), seconds=60.0) as rollouts:
        built = trainer(tools=[], others=concurrent(rollouts))
        result = rollouts([row["prompt"] for row in rollouts.rows], built)
    assert sum(t.outcomes.total() for t in result["trajectory"] if t is not None) >= 4


def test_rollouts_say_what_was_sampled_and_leave_the_model_as_it_was(
    trainer: Callable[..., SODTrainer], student: Path
) -> None:
    with opened(student) as rollouts:
        built = trainer(tools=[], others=concurrent(rollouts))
        built.model.train()
        result = rollouts([PROBLEMS[1].messages, PROBLEMS[0].messages, PROBLEMS[1].messages], built)
        again = rollouts([PROBLEMS[1].messages], built)
    assert [t.problem.id for t in result["trajectory"]] == ["p1", "p0", "p1"]
    for i, t in enumerate(result["trajectory"]):
        assert result["prompt_ids"][i] + result["completion_ids"][i] == t.ids
        assert list(map(bool, result["env_mask"][i])) == t.mask[len(result["prompt_ids"][i]) :]
        assert result["logprobs"][i] == t.sampler_logprobs[len(result["prompt_ids"][i]) :]
    assert result["trajectory"][0].ids != result["trajectory"][2].ids  # every attempt has a seed of its own
    assert again["trajectory"][0].ids != result["trajectory"][0].ids  # in every batch
    assert built.model.training
    assert built.model.config._attn_implementation != ATTENTION
    fresh = load(student)
    ids, attended = torch.tensor([[0, 0, 5, 6, 7]]), torch.tensor([[0, 0, 1, 1, 1]])
    assert torch.equal(built.model(ids, attention_mask=attended).logits, fresh(ids, attention_mask=attended).logits)


def test_an_attempt_that_was_lost_is_not_learnt_from(trainer: Callable[..., SODTrainer], student: Path) -> None:
    with opened(student, Lost(2), retries=0) as rollouts:
        built = trainer(tools=[], others=concurrent(rollouts))
        built.model.train()
        built.current_gradient_accumulation_steps = 1
        inputs: list[dict[str, Any]] = [{"prompt": PROBLEMS[i // 4].messages} for i in range(8)]
        output = built._generate_and_score_completions(inputs)
    lost = torch.tensor([row["trajectory"] is None for row in inputs])
    assert lost.sum() == 2
    assert not output["advantages"][lost].any()
    assert not (output["completion_mask"] * output["tool_mask"])[lost].any()
    assert output["advantages"][~lost].any()
    assert torch.isfinite(built.compute_loss(built.model, output))


def test_an_attempt_that_no_judge_can_decide_is_not_learnt_from(
    trainer: Callable[..., SODTrainer], student: Path
) -> None:
    class Unsure(Referee):
        async def judge(self, trajectory: Trajectory, response: Callable[[], str]) -> Verdict:
            if trajectory.problem.id == "p1":
                return Verdict(outcome="ungraded", reason="the judge gave up")
            return await super().judge(trajectory, response)

    with opened(student, referee=Unsure(Nowhere(), RewardOptions(), max_tokens=120)) as rollouts:
        built = trainer(tools=[], others=concurrent(rollouts))
        result = rollouts([PROBLEMS[0].messages, PROBLEMS[1].messages], built)
    assert [any(mask) for mask in result["env_mask"]] == [True, False]
    assert [t.judged.is_graded for t in result["trajectory"]] == [True, False]


def test_too_many_lost_attempts_stop_the_training(trainer: Callable[..., SODTrainer], student: Path) -> None:
    with opened(student, Lost(99), retries=0) as rollouts:
        built = trainer(tools=[], others=concurrent(rollouts))
        with pytest.raises(InfrastructureError, match="were lost to infrastructure failures"):
            rollouts([problem.messages for problem in PROBLEMS], built)


def test_a_sampler_that_is_not_the_policy_stops_the_training(scored: ScoredBatch) -> None:
    assert scored.student_BT is not None
    elsewhere_BT = torch.full_like(scored.student_BT, float("nan"))
    near_BT = torch.where(scored.mask_BT, scored.student_BT - 0.1, elsewhere_BT)
    assert sampler_gap(scored, near_BT) == pytest.approx(0.1, rel=1e-4)
    with pytest.raises(TrainingError, match=r"by 1\.00 nats"):
        sampler_gap(scored, scored.student_BT + 1)


def test_what_no_judge_can_decide_has_no_reward(trajectory: Callable[..., Trajectory]) -> None:
    rows = [
        trajectory(("student", [1]), correct=True),
        trajectory(("student", [1]), graded=False),
        None,
        trajectory(("student", [1])),
    ]
    logged: dict[str, float] = {}
    assert referee_reward(rows, logged.__setitem__) == [1.0, None, None, -1.0]
    assert (logged["rollout/dropped"], logged["rollout/ungraded"], logged["rollout/solved"]) == (1, 1, 0.5)


@pytest.mark.parametrize(
    ("options", "limits", "words"),
    [
        ({"temperature": 0.7}, {}, "temperature = 0.7, but the rollouts have 1.0"),
        ({"max_completion_length": 64}, {}, "max_tokens = 120 exceeds GRPOConfig's max_completion_length = 64"),
        ({"tools": [code_interpreter]}, {}, "Remove `tools` from the trainer"),
    ],
)
def test_a_trainer_that_says_otherwise_than_the_rollouts_is_refused(
    trainer: Callable[..., SODTrainer], student: Path, options: dict[str, Any], limits: dict[str, Any], words: str
) -> None:
    with opened(student, **limits) as rollouts, pytest.raises(OptionError, match=words):
        trainer(others=concurrent(rollouts), **{"tools": []} | options)


def test_a_prompt_that_is_no_problem_and_problems_that_ask_the_same_are_errors(
    trainer: Callable[..., SODTrainer], student: Path
) -> None:
    with opened(student, problems=PROBLEMS[:2]) as rollouts:
        built = trainer(tools=[], others=concurrent(rollouts))
        with pytest.raises(DataError, match="not among the problems"):
            rollouts([PROBLEMS[3].messages], built)
    twice = [PROBLEMS[0], replace(PROBLEMS[0], id="q", answer="1")]
    with pytest.raises(DataError, match="'p0' and 'q' have the same prompt"), opened(student, problems=twice):
        pass


def test_plain_grpo_takes_concurrent_rollouts_too(
    student: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    with opened(student) as rollouts:
        built = GRPOTrainer(
            model=load(student),
            args=arguments(tmp_path, max_steps=1),
            processing_class=tokenizer,
            **concurrent(rollouts),
        )
        before = weights(built.model)
        built.train()
    assert built.state.global_step == 1
    assert built.state.log_history[0]["reward"] <= 1
    assert before.shape == weights(built.model).shape


# The example


def test_the_example_runs(tmp_path: Path) -> None:
    example = Path(__file__).parents[1] / "examples" / "trl_sod.py"
    student = tmp_path / "student"
    done = subprocess.run([sys.executable, example, student], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "sod/w_after_first" in done.stdout
    assert re.fullmatch(rf"Reward .* -?\d\.\d\d before, .* after\. .* {student}", done.stdout.splitlines()[-1])
    assert weights(load(student)).shape == weights(load(TEACHER_FOLDER)).shape
    assert len(load_tokenizer(student)) == len(load_tokenizer(TEACHER_FOLDER))
