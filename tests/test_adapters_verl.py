"""SOD inside verl: registered in every process, the same loss and gradient, and recipes that verl takes.

verl has an environment of its own (it wants another Transformers): `make test-verl`.
"""

import asyncio
import json
import os
import subprocess
import sys
import warnings
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

with warnings.catch_warnings(action="ignore"):  # verl's own and Ray's, when they are imported
    pytest.importorskip("verl", reason="verl has an environment of its own: make test-verl")
    pytest.importorskip("verl.experimental.agent_loop")

import ray
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from verl import DataProto
from verl.experimental.agent_loop.agent_loop import DictConfigWrap, ToolListWrap
from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop
from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager
from verl.tools.tool_registry import initialize_tools_from_config
from verl.trainer.constants_ppo import get_ppo_ray_runtime_env
from verl.trainer.distillation.losses import distillation_ppo_loss
from verl.trainer.ppo.reward import get_custom_reward_fn, resolve_reward_manager_cls
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.dataset.rl_dataset import RLHFDataset
from verl.workers.rollout.replica import TokenOutput

from sod.adapters.verl import (
    LOSSES,
    TESTED,
    Scored,
    check_overrides,
    check_registration,
    check_version,
    composed,
    main,
)
from sod.adapters.verl_reward import RewardManager, compute_score
from sod.adapters.verl_settings import RULES_HERE, Settings
from sod.config import TrainOptions
from sod.config.recipes import read_recipe
from sod.core import RULES, clipped_policy_loss, masked_mean, per_token, step_divergence, step_ids, step_weights
from sod.datasets.rows import load_problems
from sod.errors import DataError, OptionError

pytestmark = pytest.mark.filterwarnings("default")  # verl's own

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "recipes" / "verl"
RECIPES = ("sod-0.6b", "sod-1.7b")
HARDWARE = ("8-gpus", "4-nodes")
LENGTHS = (23, 9, 30, 14)
TWO_CLIPS = [
    "distillation.distillation_loss.loss_mode=sod",
    "distillation.distillation_loss.use_task_rewards=true",
    "distillation.distillation_loss.use_policy_gradient=true",
    "distillation.distillation_loss.clip_ratio_low=0.2",
    "distillation.distillation_loss.clip_ratio_high=0.28",
]


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SOD_VERL", "SOD_VERL_UNTESTED", "VERL_USE_EXTERNAL_MODULES", "VERL_USE_EXTERNAL_PLUGINS"):
        monkeypatch.delenv(name, raising=False)


# A batch as verl's actor sees it


def mask_of(length: int) -> Tensor:
    """Turns of three tokens, observations of two."""
    return torch.tensor([i % 5 < 3 for i in range(length)])


def nested(rows: list[Tensor]) -> Tensor:
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def batch_of(seed: int = 0, *, drift: float = 0.1, lengths: tuple[int, ...] = LENGTHS, prompt: int = 4) -> TensorDict:
    """Random log-probabilities; `drift` is how far the policy has moved since it sampled, in nats."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    old = [-normal(n).abs() for n in lengths]
    # verl gives whole sequences, each value at the position before its token
    whole = lambda rows: nested([torch.cat([normal(prompt - 1), row, normal(1)]) for row in rows])  # noqa: E731
    data = TensorDict(
        {
            "prompts": nested([torch.zeros(prompt, dtype=torch.long) for _ in lengths]),
            "responses": nested([torch.zeros(n, dtype=torch.long) for n in lengths]),
            "response_mask": nested([mask_of(n).long() for n in lengths]),
            "old_log_probs": nested(old),
            "advantages": nested([normal(1).expand(n).clone() for n in lengths]),
            "teacher_logprobs": nested(
                [row[:, None] for row in whole([row + normal(len(row)) for row in old]).unbind()]
            ),
            "log_probs": whole([row + drift * normal(len(row)) for row in old]),
        },
        batch_size=len(lengths),
    )
    count = sum(int(mask_of(n).sum()) for n in lengths)
    tu.assign_non_tensor(data, dp_size=1, batch_num_tokens=count, global_batch_size=len(lengths))
    return data


def tensors(data: TensorDict) -> list[str]:
    return [name for name, value in data.items() if isinstance(value, Tensor)]


def rows(data: TensorDict, *which: int) -> TensorDict:
    part = TensorDict({name: nested([data[name][i] for i in which]) for name in tensors(data)}, len(which))
    tu.assign_non_tensor(part, dp_size=1, batch_num_tokens=data["batch_num_tokens"], global_batch_size=len(data))
    return part


def configs(*overrides: str) -> tuple[Any, Any]:
    """The actor's and the distillation's, as verl makes them of our recipe."""
    config = composed(overrides, name="sod-1.7b", folder=FOLDER)
    return omega_conf_to_dataclass(config.actor_rollout_ref.actor), omega_conf_to_dataclass(config.distillation)


def loss_in_verl(data: TensorDict, *overrides: str) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """-> (), its gradient by the log-probability of every token (T of all rows, end to end), metrics"""
    actor, distillation = configs(*overrides)
    leaf = data["log_probs"].values().clone().requires_grad_()
    output = {"log_probs": torch.nested.nested_tensor_from_jagged(leaf, data["log_probs"].offsets())}
    loss, metrics = distillation_ppo_loss(actor, distillation, output, data.exclude("log_probs"))
    loss.backward()
    assert leaf.grad is not None
    return loss.detach(), leaf.grad, metrics


def loss_of_ours(data: TensorDict, coef: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """By sod.core from plain rows. -> (), gradient as above, task advantages and teacher's credit of every response token"""
    total, gradients, tasks, credits = torch.zeros(()), [], [], []
    for i in range(len(data)):
        mask_BT = data["response_mask"][i].bool()[None]
        old_BT, advantage_BT = data["old_log_probs"][i][None], data["advantages"][i][None]
        prompt = len(data["prompts"][i])
        teacher_BT = data["teacher_logprobs"][i][prompt - 1 : -1, 0][None]
        leaf = data["log_probs"][i].clone().requires_grad_()
        ids_BT = step_ids(mask_BT)
        w_BT = per_token(step_weights(step_divergence(old_BT, teacher_BT, ids_BT)), ids_BT)
        teacher_credit_BT = coef * w_BT * (teacher_BT - old_BT) * mask_BT
        loss_BT = clipped_policy_loss(leaf[prompt - 1 : -1][None], old_BT, advantage_BT + teacher_credit_BT)
        loss = masked_mean(loss_BT, mask_BT) * mask_BT.sum() / data["batch_num_tokens"]
        loss.backward()
        assert leaf.grad is not None
        total, gradients = total + loss.detach(), [*gradients, leaf.grad]
        tasks, credits = [*tasks, advantage_BT[0] * mask_BT[0]], [*credits, teacher_credit_BT[0]]
    return total, torch.cat(gradients), torch.cat(tasks), torch.cat(credits)


# The loss


@pytest.mark.parametrize("drift", [0.0, 0.1, 1.0])
def test_one_clip_is_our_loss_and_our_gradient(drift: float) -> None:
    data = batch_of(drift=drift)
    loss, gradient, _ = loss_in_verl(data)
    ours, our_gradient, *_ = loss_of_ours(data)
    torch.testing.assert_close(loss, ours, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, our_gradient, rtol=1e-12, atol=1e-12)
    assert our_gradient.abs().sum() > 0


def test_the_coefficient_is_verls() -> None:
    data = batch_of(drift=0.5)
    for mode in ([], TWO_CLIPS):
        loss, *_ = loss_in_verl(batch_of(drift=0.0), *mode, "distillation.distillation_loss.distillation_loss_coef=0.3")
        torch.testing.assert_close(loss, loss_of_ours(batch_of(drift=0.0), coef=0.3)[0], rtol=1e-12, atol=1e-12)
    loss, *_ = loss_in_verl(data, "distillation.distillation_loss.distillation_loss_coef=0.3")
    torch.testing.assert_close(loss, loss_of_ours(data, coef=0.3)[0], rtol=1e-12, atol=1e-12)


def test_two_clips_are_one_while_the_ratio_is_within() -> None:
    data = batch_of(drift=0.05)
    ratio = (data["log_probs"].values() - batch_of(drift=0.0)["log_probs"].values()).exp()
    assert 0.8 < ratio.min() < ratio.max() < 1.28
    loss, gradient, _ = loss_in_verl(data, *TWO_CLIPS)
    ours, our_gradient, *_ = loss_of_ours(data)
    torch.testing.assert_close(loss, ours, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradient, our_gradient, rtol=1e-9, atol=1e-9)


def test_two_clips_differ_by_what_the_smaller_of_two_opposed_terms_is_worth() -> None:
    data = batch_of(drift=0.3, lengths=(400, 400))
    _, gradient, _ = loss_in_verl(data, *TWO_CLIPS)
    _, our_gradient, task, teacher = loss_of_ours(data)
    prompt = len(data["prompts"][0])
    inside = [slice(i * (400 + prompt) + prompt - 1, (i + 1) * (400 + prompt) - 1) for i in range(2)]
    of_response = lambda values: torch.cat([values[where] for where in inside])  # noqa: E731
    difference = of_response(gradient - our_gradient).abs() * data["batch_num_tokens"]
    ratio = (of_response(data["log_probs"].values()) - data["old_log_probs"].values()).exp()
    assert ratio.max() < 3  # where verl's dual clip begins
    is_outside = (ratio < 0.8) | (ratio > 1.28)
    bound = torch.where(is_outside & (task * teacher < 0), ratio * torch.minimum(task.abs(), teacher.abs()), 0.0)
    assert (difference <= bound + 1e-9).all()
    assert (difference > 1e-3).any()


@pytest.mark.parametrize("mode", [[], TWO_CLIPS])
def test_micro_batches_sum_to_the_whole(mode: list[str]) -> None:
    data = batch_of(drift=0.5)
    whole, *_ = loss_in_verl(data, *mode)
    parts = [loss_in_verl(rows(data, *which), *mode)[0] for which in ((2, 0), (1,), (3,))]
    torch.testing.assert_close(sum(parts), whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mode", [[], TWO_CLIPS])
def test_rows_that_only_fill_a_batch_up_count_for_nothing(mode: list[str]) -> None:
    data = batch_of(drift=0.5, lengths=(23, 1))
    data["response_mask"] = nested([mask_of(23).long(), torch.zeros(1, dtype=torch.long)])
    loss, gradient, metrics = loss_in_verl(data, *mode)
    alone, own_gradient, own_metrics = loss_in_verl(rows(data, 0), *mode)
    torch.testing.assert_close(loss, alone)
    torch.testing.assert_close(gradient, torch.cat([own_gradient, torch.zeros(5, dtype=torch.float64)]))
    assert metrics["sod/weight"].aggregate() == pytest.approx(own_metrics["sod/weight"].aggregate())


def test_weights_by_hand_and_their_metrics() -> None:
    data = batch_of(lengths=(8,))
    data["old_log_probs"] = nested([torch.full((8,), -1.0)])
    signal = torch.tensor(
        [0.1, -0.1, 0.1, 9.0, 9.0, -0.4, 0.4, 0.4]
    )  # two steps; the observation between has any value
    data["teacher_logprobs"] = nested([torch.cat([torch.zeros(3), signal - 1.0, torch.zeros(1)])[:, None]])
    weight_BT = Scored.of(data).teacher_weight(Settings())
    torch.testing.assert_close(weight_BT, torch.tensor([[1, 1, 1, 0, 0, 0.25, 0.25, 0.25]]), atol=1e-5, rtol=0)
    _, _, metrics = loss_in_verl(data)
    assert metrics["sod/weight"].aggregate() == pytest.approx(0.625, abs=1e-5)
    assert metrics["sod/abs_signal"].aggregate() == pytest.approx(0.25, abs=1e-5)


@pytest.mark.parametrize("rule", RULES_HERE)
def test_every_rule_that_is_offered_works(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOD_VERL", f"rule={rule}")
    loss, gradient, _ = loss_in_verl(batch_of())
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert rule in RULES


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["distillation.distillation_loss.use_task_rewards=true"], "use_task_rewards=false"),
        (["distillation.distillation_loss.use_policy_gradient=true"], "use_policy_gradient=false"),
        (["distillation.distillation_loss.loss_max_clamp=1"], "loss_max_clamp=null"),
        (["actor_rollout_ref.actor.entropy_coeff=0.1"], "entropy_coeff=0"),
        (["actor_rollout_ref.actor.use_kl_loss=true"], "use_kl_loss=false"),
        ([*TWO_CLIPS, "distillation.distillation_loss.use_policy_gradient=false"], "use_policy_gradient=true"),
    ],
)
def test_switches_that_would_change_the_loss_are_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        check_overrides(overrides, name="sod-1.7b", folder=FOLDER)
    with pytest.raises(OptionError, match=words):
        loss_in_verl(batch_of(), *overrides)


# Versions


def test_an_untested_verl_is_an_error_that_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    check_version(TESTED[0])
    with pytest.raises(OptionError, match=r"0\.8\.0 is not tested.*0\.9\.1.*SOD_VERL_UNTESTED=1"):
        check_version("0.8.0")
    monkeypatch.setenv("SOD_VERL_UNTESTED", "1")
    check_version("0.8.0")


# Registration


def fresh(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A Python process that knows nothing of ours but what is installed, as a worker of Ray."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("SOD_", "VERL_", "PYTHON"))
    }
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "sod.adapters.verl"]
    return subprocess.run(command, env=environment | variables, capture_output=True, text=True, cwd="/")


KNOWN = """
import verl
from verl.trainer.distillation.losses import DISTILLATION_LOSS_REGISTRY
print(sorted(name for name in DISTILLATION_LOSS_REGISTRY if name.startswith("sod")))
"""


@pytest.mark.parametrize(
    ("variables", "known"),
    [
        ({}, ["sod", "sod_one_clip"]),
        (
            {"VERL_USE_EXTERNAL_PLUGINS": "none", "VERL_USE_EXTERNAL_MODULES": "sod.adapters.verl"},
            ["sod", "sod_one_clip"],
        ),
        ({"VERL_USE_EXTERNAL_MODULES": "sod.adapters.verl"}, ["sod", "sod_one_clip"]),
        ({"VERL_USE_EXTERNAL_PLUGINS": "none"}, []),
    ],
)
def test_a_fresh_process_knows_the_losses_by_either_way_alone(variables: dict[str, str], known: list[str]) -> None:
    process = fresh(KNOWN, **variables)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == str(known)


def test_what_verl_hides_is_said_on_stderr() -> None:
    process = fresh(KNOWN, SOD_VERL="rul=drift")
    assert process.stdout.splitlines()[-1] == "[]"
    assert "sod: not registered in verl: SOD_VERL: setting 'rul' is unknown; did you mean 'rule'?" in process.stderr


def test_the_check_says_what_is_registered_and_fails_where_nothing_is() -> None:
    said = check_registration()
    assert "verl 0.9.1 (tested)" in said
    assert "entry point" in said
    process = fresh("", SOD_VERL="delta=0.5")
    assert process.returncode == 0, process.stderr
    assert "rule=drift, epsilon=1e-06, delta=0.5" in process.stdout
    process = fresh("", VERL_USE_EXTERNAL_PLUGINS="none")
    assert process.returncode == 1
    assert "verl does not import sod.adapters.verl" in process.stderr


def said_of(*overrides: str, name: str = "sod-0.6b", **variables: str) -> subprocess.CompletedProcess[str]:
    """The check in a process of its own, with one of our recipes."""
    command = [
        sys.executable,
        "-m",
        "sod.adapters.verl",
        "--config-dir",
        str(FOLDER),
        "--config-name",
        name,
        *overrides,
    ]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)


def test_the_check_prints_what_the_docs_show_and_nothing_else() -> None:
    shown = (ROOT / "docs" / "verl.md").read_text()
    process = said_of(name="sod-1.7b")
    assert process.returncode == 0, process.stderr
    assert f"--config-name sod-1.7b\n{process.stdout}```" in shown
    assert process.stderr == ""


def test_an_error_of_the_check_is_all_that_is_printed() -> None:
    process = said_of("+distillation.distillation_loss.rule=gated")
    assert process.returncode == 1
    assert process.stdout == ""
    complaint, advice = process.stderr.splitlines()
    assert complaint.startswith("sod: sod-0.6b: verl refuses distillation.distillation_loss: ")
    assert complaint.endswith("unexpected keyword argument 'rule'")
    assert advice.startswith("rule is a setting of SOD. Pass it in SOD_VERL: ++ray_kwargs.")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "distillation.distillation_loss.loss_mode=k1",
            "distillation.distillation_loss: Directly backpropagating k1 loss",
        ),
        (
            "distillation.distillation_loss.loss_mode=sodd",
            "distillation.distillation_loss: Unsupported loss mode: sodd",
        ),
        (
            "+distillation.distillation_loss.epsilon=1",
            r"'epsilon'\nepsilon is a setting of SOD\. Pass it in SOD_VERL: \+\+ray_kwargs",
        ),
        (
            "distillation.distillation_loss.delta=1",
            r"delta'\.\ndelta is a setting of SOD\. Pass it in SOD_VERL: \+\+ray_kwargs",
        ),
        (
            "actor_rollout_ref.actor.use_dynamic_bsz=false",
            "verl refuses actor_rollout_ref.actor: .*ppo_micro_batch_size",
        ),
        ("actor_rollout_ref.rollout.temperature=0", "verl refuses validation gen temperature should be greater than 0"),
        ("trainer.nnodes=???", "verl refuses trainer.nnodes: Missing mandatory value"),
        ("++ray_kwargs.ray_init.runtime_env.env_vars.SOD_VERL=3", "SOD_VERL: '3' must have the form KEY=VALUE"),
    ],
)
def test_what_verl_refuses_is_an_error_of_ours_with_its_key(
    override: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OptionError, match=words):
        check_overrides([override], name="sod-0.6b", folder=FOLDER)
    assert capsys.readouterr().out == ""


def test_a_temperature_that_the_teacher_does_not_share_is_warned_of() -> None:
    assert "temperature" not in check_overrides([], name="sod-0.6b", folder=FOLDER)
    said = check_overrides(["actor_rollout_ref.rollout.temperature=0.7"], name="sod-0.6b", folder=FOLDER)
    assert "Warning: actor_rollout_ref.rollout.temperature=0.7 only applies to the student" in said


def test_what_verl_warns_of_is_still_said() -> None:
    said = check_overrides(["+data.val_batch_size=3"], name="sod-0.6b", folder=FOLDER)
    assert "WARNING: val_batch_size is deprecated" in said
    assert "passed successfully" not in said


@pytest.mark.slow
def test_workers_of_ray_know_the_losses_and_get_the_recipes_settings() -> None:
    config = composed((), name="sod-1.7b", folder=FOLDER)
    environment = OmegaConf.merge(get_ppo_ray_runtime_env(config), config.ray_kwargs.ray_init.runtime_env)

    def asked() -> tuple[list[str], str]:
        import verl.trainer.distillation.losses as losses

        return [name for name in losses.DISTILLATION_LOSS_REGISTRY if name.startswith("sod")], os.environ["SOD_VERL"]

    ray.init(
        num_cpus=1,
        include_dashboard=False,
        object_store_memory=100 << 20,
        runtime_env=OmegaConf.to_container(environment),
    )
    try:
        assert ray.get(ray.remote(asked).remote()) == (list(LOSSES), "rule=drift,epsilon=1e-6,delta=0.2")
    finally:
        ray.shutdown()


# Recipes


@pytest.mark.parametrize("hardware", HARDWARE)
@pytest.mark.parametrize("name", RECIPES)
def test_verl_takes_every_recipe_and_its_numbers_are_those_of_sod_train(name: str, hardware: str) -> None:
    overrides = [f"hardware={hardware}"]
    assert f"{name}: sod_one_clip, coef 1" in check_overrides(overrides, name=name, folder=FOLDER)
    config = composed(overrides, name=name, folder=FOLDER)
    recipe = read_recipe(ROOT / "recipes" / f"{name}.toml")
    options = TrainOptions(**{key: value for key, value in recipe.items() if key != "about"})
    rollout, actor, learn = config.actor_rollout_ref.rollout, config.actor_rollout_ref.actor, options.learn
    assert config.data.train_batch_size == options.rollout.problems
    assert config.data.train_batch_size == actor.ppo_mini_batch_size * learn.minibatches
    assert config.data.max_prompt_length == options.rollout.max_prompt_tokens
    assert config.data.max_response_length == options.rollout.max_tokens
    assert (rollout.n, rollout.temperature, rollout.top_p) == (options.rollout.group, 1.0, options.rollout.top_p)
    assert rollout.multi_turn.max_user_turns == options.rollout.max_turns == rollout.multi_turn.max_assistant_turns - 1
    assert (actor.optim.lr, actor.optim.weight_decay) == (learn.lr, learn.weight_decay)
    assert (actor.clip_ratio_low, actor.clip_ratio_high, actor.grad_clip) == (
        learn.clip_low,
        learn.clip_high,
        learn.clip_grad,
    )
    assert tuple(actor.optim.betas) == learn.betas
    assert config.trainer.total_training_steps == options.updates
    settings = Settings.parse(config.ray_kwargs.ray_init.runtime_env.env_vars.SOD_VERL)
    assert settings == Settings("drift", options.algorithm.epsilon, options.algorithm.delta)
    ranks = config.trainer.nnodes * config.trainer.n_gpus_per_node
    assert actor.ppo_mini_batch_size * rollout.n % ranks == 0, "verl would fill batches up with empty rows"
    assert omega_conf_to_dataclass(rollout).multi_turn.enable


def test_the_check_takes_the_trainers_arguments() -> None:
    said = main(["--config-dir", str(FOLDER), "--config-name", "sod-0.6b", "hardware=4-nodes"])
    assert "sod-0.6b: sod_one_clip" in said
    with pytest.raises(OptionError, match="ppo_trainer does not use SOD"):
        main(
            [
                "algorithm.adv_estimator=grpo",
                "actor_rollout_ref.rollout.name=vllm",
                "actor_rollout_ref.actor.use_dynamic_bsz=true",
            ]
        )
    with pytest.raises(OptionError, match="cannot be composed"):
        main(["distillation.distillation_loss.lossmode=sod"])


# Tools and rewards


class ScriptedServer:
    """Takes the place of verl's client of vLLM: it has the replies already."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, replies: list[str]):
        self._replies = [
            [*tokenizer.encode(reply, add_special_tokens=False), tokenizer.eos_token_id] for reply in replies
        ]

    async def generate(self, request_id: str, **_: Any) -> TokenOutput:
        tokens = self._replies.pop(0)
        return TokenOutput(token_ids=tokens, log_probs=[-0.5] * len(tokens))


def call(code: str) -> str:
    return f"<tool_call>\n{json.dumps({'name': 'code_interpreter', 'arguments': {'code': code}})}\n</tool_call>"


def test_in_verls_agent_loop_our_tool_answers_and_the_masks_runs_are_the_steps(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    config = composed((), name="sod-1.7b", folder=FOLDER)
    replies = [call("print(6 * 7)"), call("1 / 0"), "The answer is 42."]

    async def run() -> Any:
        [tool] = initialize_tools_from_config(FOLDER / "tools.yaml")
        loop = ToolAgentLoop(
            trainer_config=DictConfigWrap(config),
            server_manager=ScriptedServer(tokenizer, replies),
            tokenizer=tokenizer,
            processor=None,
            hf_model_type="qwen3",
            dataset_cls=RLHFDataset,
            data_config=DictConfigWrap(config.data),
            tools=ToolListWrap([tool]),
        )
        try:
            return await loop.run({}, raw_prompt=[{"role": "user", "content": "What is 6 * 7?"}])
        finally:
            await tool.close()

    output = asyncio.run(run())
    ids_T = step_ids(torch.tensor([output.response_mask]))[0]
    texts = [
        (step, tokenizer.decode([token for token, _ in run]))
        for step, run in groupby(zip(output.response_ids, ids_T.tolist(), strict=True), key=lambda pair: pair[1])
    ]
    assert [(step, text) for step, text in texts if step] == [
        (i + 1, f"{reply}<|im_end|>") for i, reply in enumerate(replies)
    ]
    observations = [text for step, text in texts if not step]
    assert "<tool_response>\n42\n</tool_response>" in observations[0]
    assert "ZeroDivisionError" in observations[1]
    assert output.num_turns == 6


def test_options_of_the_tool_that_do_not_exist_are_errors(tmp_path: Path) -> None:
    config = OmegaConf.load(FOLDER / "tools.yaml")
    config.tools[0].config.tool.second = 3
    OmegaConf.save(config, tmp_path / "tools.yaml")
    with pytest.raises(OptionError, match=r"CodeInterpreter.*\n.*second"):
        initialize_tools_from_config(tmp_path / "tools.yaml")


RIGHT = "We get \\boxed{0.5}."
RESULT = "<tool_response>\n1\n</tool_response> So. "
BROKEN = "<tool_response>\nWrong arguments for code_interpreter: code is missing\n</tool_response> Again. "


@pytest.mark.parametrize(
    ("response", "extra", "score"),
    [
        (RIGHT, {"num_turns": 2}, 1.0),
        (f"{RIGHT}\n{RESULT} I do not know.", {"num_turns": 4}, -0.9),
        ("\\boxed{7}", {"num_turns": 2}, -1.0),
        (f"{RESULT * 16}\\boxed{{7}}", {"num_turns": 34}, -0.6),
        (f"{RESULT * 16}\\boxed{{7}}", {"num_turns": 2}, -1.0),  # written by the student, not by a tool
        (f"{BROKEN * 4}\\boxed{{7}}", {"num_turns": 10}, -1.0),
        (f"{BROKEN}I see. {RESULT}\\boxed{{7}}", {"num_turns": 6}, -0.9),
        ("The answer is \\boxed{B}.", {"num_turns": 2, "kind": "choice"}, -1.0),
        (RIGHT, None, 1.0),
    ],
)
def test_scores_are_those_of_our_judges(response: str, extra: dict[str, Any] | None, score: float) -> None:
    gold = "A" if extra and "kind" in extra else "\\frac{1}{2}"
    result = asyncio.run(compute_score("somewhere", response, gold, extra))
    assert result["score"] == pytest.approx(score)
    assert result["acc"] == float(score > 0)


@pytest.mark.parametrize("told", [{"options": 10}, {"choices": list("1234567890")}, {}])
def test_a_choice_may_have_more_options_than_four(told: dict[str, Any]) -> None:
    for answer, acc in (("J", 1.0), ("C", 0.0), ("K", 0.0)):
        result = asyncio.run(compute_score("somewhere", f"\\boxed{{{answer}}}", "J", {"kind": "choice", **told}))
        assert result["acc"] == acc


def test_a_program_is_judged_by_its_tests() -> None:
    gold = json.dumps({"inputs": ["3\n"], "outputs": ["9\n"]})
    answer = "```python\nprint(int(input()) ** 2)\n```"
    result = asyncio.run(compute_score("somewhere", answer, gold, {"num_turns": 2, "kind": "code"}))
    assert result["score"] == 1.0


def test_a_row_that_cannot_be_judged_is_an_error() -> None:
    with pytest.raises(DataError, match="kind 'poem'"):
        asyncio.run(compute_score("somewhere", RIGHT, "1", {"kind": "poem"}))


@pytest.mark.parametrize(("tokens", "penalty"), [(100, 0.0), (190, 0.0), (195, 0.5), (200, 1.0)])
def test_the_reward_manager_of_the_recipe_takes_the_overlong_penalty_off(
    tokens: int, penalty: float, tokenizer: PreTrainedTokenizerBase
) -> None:
    config = composed(["data.max_response_length=200"], name="sod-1.7b", folder=FOLDER)
    assert resolve_reward_manager_cls(config) is RewardManager
    assert issubclass(RewardManager, NaiveRewardManager)
    words = tokenizer.encode(RIGHT, add_special_tokens=False)
    response = torch.tensor([[*words, *[tokenizer.eos_token_id] * (200 - len(words))]])

    async def run() -> dict[str, Any]:
        manager = RewardManager(config, tokenizer, get_custom_reward_fn(config))
        data = DataProto.from_dict(
            {
                "responses": response,
                "attention_mask": torch.tensor([[1] * 5 + [int(i < tokens) for i in range(200)]]),
                "prompts": torch.zeros(1, 5, dtype=torch.long),
            },
            non_tensors={
                "data_source": ["somewhere"],
                "reward_model": [{"ground_truth": "1/2"}],
                "extra_info": [{}],
                "__num_turns__": [2],
            },
        )
        return await manager.run_single(data)

    assert len(words) <= tokens
    result = asyncio.run(run())
    assert result["reward_score"] == pytest.approx(1.0 - penalty)
    assert result["reward_extra_info"]["overlong"] == pytest.approx(penalty)


def test_verl_reads_our_problems_as_the_example_writes_them(
    tmp_path: Path, problem_file: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    target = tmp_path / "problems.parquet"
    command = [sys.executable, str(ROOT / "examples" / "verl_data.py"), str(problem_file), str(target)]
    assert "8 problems" in subprocess.run(command, check=True, capture_output=True, text=True).stdout
    config = composed([f"++data.cache_dir={tmp_path}"], name="sod-1.7b", folder=FOLDER)
    row = RLHFDataset([str(target)], tokenizer, config.data)[0]
    problem = load_problems(problem_file)[0]
    assert row["raw_prompt"] == list(problem.messages)
    assert row["reward_model"]["ground_truth"] == problem.answer
    assert row["extra_info"]["kind"] == "math"


@pytest.mark.parametrize("place", ["nowhere/problems.parquet", "file/problems.parquet", "folder"])
def test_problems_that_cannot_be_written_are_one_line_and_leave_nothing(
    place: str, tmp_path: Path, problem_file: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    command = [sys.executable, str(ROOT / "examples" / "verl_data.py"), str(problem_file), str(tmp_path / place)]
    process = subprocess.run(command, check=False, capture_output=True, text=True)
    assert process.returncode == 1
    assert process.stderr.startswith(f"sod: {tmp_path / place} cannot be written: ")
    assert len(process.stderr.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before
