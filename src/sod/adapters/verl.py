"""SOD in verl: two distillation losses, as a plug-in (docs/verl.md).

    loss_mode      loss of a token                                             task term
    sod            clip(ratio) * coef * w_k * (log pi_teacher - log pi_old)    verl's own, clipped separately
    sod_one_clip   clip(ratio) * (A + coef * w_k * (log pi_teacher - log pi_old)), as in `sod train` and the paper's code

verl imports this module in every process, through the entry point `verl.plugins` or through VERL_USE_EXTERNAL_MODULES. It hides
errors of the import, so this module prints them on stderr. `python -m sod.adapters.verl` checks the installation.

verl's options accept no further fields. Additional settings are in the environment:
SOD_VERL="rule=drift,epsilon=1e-6,delta=0.2".
"""

import argparse
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, fields
from importlib.metadata import entry_points
from io import StringIO
from pathlib import Path
from typing import Any, Self

import torch
import verl  # pyright: ignore[reportMissingImports]
from hydra import compose, initialize_config_dir, initialize_config_module  # pyright: ignore[reportMissingImports]
from hydra.errors import HydraException, InstantiationException  # pyright: ignore[reportMissingImports]
from omegaconf import OmegaConf  # pyright: ignore[reportMissingImports]
from omegaconf.errors import OmegaConfBaseException  # pyright: ignore[reportMissingImports]
from torch import Tensor
from verl.trainer.distillation.losses import (  # pyright: ignore[reportMissingImports]
    DISTILLATION_LOSS_REGISTRY,
    DistillationLossSettings,
    register_distillation_loss,
)
from verl.trainer.ppo.utils import need_critic, need_reference_policy  # pyright: ignore[reportMissingImports]
from verl.utils.config import omega_conf_to_dataclass, validate_config  # pyright: ignore[reportMissingImports]
from verl.utils.metric import AggregationType, Metric  # pyright: ignore[reportMissingImports]
from verl.workers.utils.padding import no_padding_2_padding  # pyright: ignore[reportMissingImports]

from sod.adapters.verl_calls import check_calls
from sod.adapters.verl_settings import IN_RAY, IN_SHELL, Settings, which_settings
from sod.core import (
    RULES,
    StepInfo,
    Weights,
    clipped_policy_loss,
    masked_mean,
    per_token,
    step_divergence,
    step_ids,
    teacher_advantage,
)
from sod.errors import OptionError, SodError

MODULE = "sod.adapters.verl"
TESTED = ("0.9.1",)
"""Versions of verl with which the tests pass."""
UNTESTED = "SOD_VERL_UNTESTED"
"""Environment variable: 1 accepts any other version."""
TEACHERS = "distillation.teacher_models"
"""Key of the teachers in verl's configuration."""
REFUSALS = (HydraException, OmegaConfBaseException, AssertionError, NotImplementedError, TypeError, ValueError)
"""Exceptions that verl and its configuration libraries raise for invalid options."""
ALL_IS_WELL = "[validate_config]"
"""Prefix of the line that verl prints after successful checks."""


# Credit


@dataclass(frozen=True, slots=True)
class Scored:
    """A batch for the loss, padded on the right. No gradient."""

    old_BT: Tensor
    """The student's log-probabilities before the update."""
    teacher_BT: Tensor
    mask_BT: Tensor
    """True on the student's tokens. verl sets 0 on the tools' results, so runs of True are the steps."""
    advantage_BT: Tensor

    @classmethod
    def of(cls, data: Any) -> Self:
        """Convert verl's TensorDict, with nested or already padded tensors."""
        return cls(
            old_BT=_padded(data["old_log_probs"]),
            teacher_BT=no_padding_2_padding(data["teacher_logprobs"], data).squeeze(-1),
            mask_BT=_padded(data["response_mask"]).bool(),
            advantage_BT=_padded(data["advantages"]),
        )

    def teacher_weight(self, settings: Settings) -> Tensor:
        """Return w of every token from the settings' rule. -> (B, T), 0 off the mask"""
        ids_BT = step_ids(self.mask_BT)
        d_BK = step_divergence(self.old_BT, self.teacher_BT, ids_BT)
        info = StepInfo(
            ids_BT=ids_BT,
            signal_BT=self.signal_BT,
            teacher_entropy_BT=None,
            failed_BK=torch.zeros_like(d_BK, dtype=torch.bool),
            advantage_B=self._mean_advantage(),
            epsilon=settings.epsilon,
            delta=settings.delta,
            student_BT=self.old_BT,
            teacher_BT=self.teacher_BT,
        )
        w = Weights.of(RULES[settings.rule](d_BK, info)).teacher
        w_BT = per_token(w, ids_BT) if w.shape == d_BK.shape else w
        return w_BT.masked_fill(~self.mask_BT, 0)

    @property
    def signal_BT(self) -> Tensor:
        """log pi_teacher - log pi_old, in nats; 0 off the mask."""
        return teacher_advantage(self.old_BT, self.teacher_BT, self.mask_BT)

    def _mean_advantage(self) -> Tensor:
        """Return the advantage of each trajectory, which GRPO repeats on all its tokens. -> (B,)"""
        inside_BT = self.advantage_BT.masked_fill(~self.mask_BT, 0)
        return inside_BT.sum(-1) / self.mask_BT.sum(-1).clamp(min=1)


def _padded(tensor: Tensor) -> Tensor:
    return tensor.to_padded_tensor(0) if tensor.is_nested else tensor


# The two losses, with verl's signature


def sod(config: Any, distillation_config: Any, model_output: Any, data: Any) -> tuple[Tensor, dict[str, Any]]:
    """Return -w (log pi_teacher - log pi_old). verl uses its negative as an advantage and clips it. -> (B, T), metrics

    verl adds its task term, clipped separately, and multiplies this loss by distillation_loss_coef. Raises OptionError if its
    options contradict this.
    """
    del model_output
    check_switches("sod", config, distillation_config.distillation_loss)
    scored = Scored.of(data)
    weight_BT = scored.teacher_weight(Settings.of_environment())
    return -weight_BT * scored.signal_BT, _metrics(scored, weight_BT)


def sod_one_clip(config: Any, distillation_config: Any, model_output: Any, data: Any) -> tuple[Tensor, dict[str, Any]]:
    """Return `sod.core.clipped_policy_loss` of A + coef w (log pi_teacher - log pi_old), with gradient. -> (B, T), metrics

    The clip range is the actor's. verl differentiates this loss unchanged, and adds no other. Raises OptionError if its options
    contradict this.
    """
    options = distillation_config.distillation_loss
    check_switches("sod_one_clip", config, options)
    scored = Scored.of(data)
    weight_BT = scored.teacher_weight(Settings.of_environment())
    loss_BT = clipped_policy_loss(
        no_padding_2_padding(model_output["log_probs"], data),
        scored.old_BT,
        scored.advantage_BT + options.distillation_loss_coef * weight_BT * scored.signal_BT,
        clip_low=config.clip_ratio_low,
        clip_high=config.clip_ratio_high,
    )
    if "rollout_is_weights" in data:  # verl's rollout correction, which multiplies its policy loss as well
        loss_BT = loss_BT * _padded(data["rollout_is_weights"])
    return loss_BT.masked_fill(~scored.mask_BT, 0), _metrics(scored, weight_BT)


LOSSES = {"sod": sod, "sod_one_clip": sod_one_clip}


def _metrics(scored: Scored, weight_BT: Tensor) -> dict[str, Any]:
    values = {"sod/weight": weight_BT, "sod/abs_signal": scored.signal_BT.abs()}
    return {
        name: Metric(AggregationType.MEAN, masked_mean(value_BT, scored.mask_BT)) for name, value_BT in values.items()
    }


def check_switches(mode: str, actor: Any, options: Any) -> None:
    """Raises OptionError if verl's options would change the loss, with all options to change.

    `actor`: actor_rollout_ref.actor; `options`: distillation.distillation_loss.
    """
    at = "distillation.distillation_loss"
    if mode == "sod":
        wrong = {f"{at}.use_policy_gradient=true": not options.use_policy_gradient}
    else:
        wrong = {
            f"{at}.use_policy_gradient=false": options.use_policy_gradient,
            f"{at}.use_task_rewards=false": options.use_task_rewards,
            f"{at}.loss_max_clamp=null": options.loss_max_clamp is not None,
            "actor_rollout_ref.actor.entropy_coeff=0": actor.entropy_coeff != 0,
            "actor_rollout_ref.actor.use_kl_loss=false": actor.use_kl_loss,
        }
    if any(wrong.values()):
        raise OptionError(
            f"Loss mode {mode} requires other options of verl. Set "
            f"{' '.join(switch for switch, is_wrong in wrong.items() if is_wrong)}"
        )


# Registration, and whether it worked


def register() -> None:
    """Register both losses in verl. Raises OptionError for invalid settings and for an untested version of verl."""
    check_version(verl.__version__)
    Settings.of_environment()
    for name, loss in LOSSES.items():
        register_distillation_loss(DistillationLossSettings(names=[name], use_estimator=True))(loss)


def check_version(version: str) -> None:
    """Raises OptionError for an untested version, unless the environment variable UNTESTED is 1."""
    if version not in TESTED and os.environ.get(UNTESTED) != "1":
        raise OptionError(
            f"verl {version} is not tested with sod (tested: {', '.join(TESTED)}). Run pip install verl=={TESTED[-1]}, or "
            f"set {UNTESTED}=1 to continue anyway. To use verl without SOD, set VERL_USE_EXTERNAL_PLUGINS=none."
        )


def check_registration() -> str:
    """Describe what is registered. Raises OptionError if the losses would be missing in verl's workers."""
    check_version(verl.__version__)
    Settings.of_environment()
    importers = _importers()
    if not importers:
        raise OptionError(
            f"verl does not import {MODULE}: it is neither an entry point verl.plugins (not installed, or excluded by "
            f"VERL_USE_EXTERNAL_PLUGINS) nor in VERL_USE_EXTERNAL_MODULES. Install sod, or set "
            f"VERL_USE_EXTERNAL_MODULES={MODULE}."
        )
    missing = [name for name in LOSSES if DISTILLATION_LOSS_REGISTRY.get(name) is None]
    if missing:
        raise OptionError(
            f"verl has no loss {', '.join(missing)}, although {' and '.join(importers)} should import {MODULE}. Look for its "
            "error on stderr."
        )
    tested = "tested" if verl.__version__ in TESTED else f"NOT tested; tested: {', '.join(TESTED)}"
    return (
        f"verl {verl.__version__} ({tested}) has the losses {', '.join(LOSSES)}, imported by {' and '.join(importers)}."
    )


def _importers() -> list[str]:
    """Return the mechanisms by which verl imports this module in every process."""
    allowed = os.environ.get("VERL_USE_EXTERNAL_PLUGINS", "auto").strip().lower()
    names = [point.name for point in entry_points(group="verl.plugins") if point.value == MODULE]
    modules = os.environ.get("VERL_USE_EXTERNAL_MODULES", "").split(",")
    by_entry = any(allowed == "auto" or name in [part.strip() for part in allowed.split(",")] for name in names)
    return ["the entry point verl.plugins"] * by_entry + ["VERL_USE_EXTERNAL_MODULES"] * (MODULE in modules)


def check_overrides(overrides: Sequence[str], *, name: str = "ppo_trainer", folder: Path | None = None) -> str:
    """Compose and validate a configuration as verl's trainer would, and describe its effect on SOD. Raises OptionError.

    `folder`: directory of the configuration. Default: verl's own.
    """
    from sod.adapters.teachers import check_teachers  # Transformers, which a worker of verl may not need

    config = composed(overrides, name, folder)
    with _option_errors(f"{name}: verl refuses"), redirect_stdout(StringIO()) as heard:
        validate_config(config, need_reference_policy(config), need_critic(config))
        actor, distillation = (
            omega_conf_to_dataclass(part) for part in (config.actor_rollout_ref.actor, config.distillation)
        )
        configured = OmegaConf.select(config, IN_RAY)
    options = distillation.distillation_loss
    if not distillation.enabled or options.loss_mode not in LOSSES:
        raise OptionError(
            f"{name} does not use SOD: distillation.enabled={distillation.enabled}, "
            f"distillation.distillation_loss.loss_mode={options.loss_mode}. Set them to true and to one of {', '.join(LOSSES)}."
        )
    check_switches(options.loss_mode, actor, options)
    check_teachers(str(config.actor_rollout_ref.model.path), _teacher_models(config))
    turns = config.actor_rollout_ref.rollout.multi_turn
    calls = check_calls(Path(str(config.actor_rollout_ref.model.path)), str(turns.format)) if turns.enable else ""
    return "\n".join(
        [
            f"{name}: {options.loss_mode}, coef {options.distillation_loss_coef}.",
            which_settings(None if configured is None else str(configured)),
            *_warnings(config.actor_rollout_ref.rollout.temperature),
            *([calls] if calls else []),
            *(line for line in heard.getvalue().splitlines() if not line.startswith(ALL_IS_WELL)),
        ]
    )


def _teacher_models(config: Any) -> dict[str, str]:
    """Return the teachers of a configuration: name of the option -> model."""
    given = OmegaConf.select(config, TEACHERS) or {}
    models = {key: OmegaConf.select(config, f"{TEACHERS}.{key}.model_path") for key in given}
    return {f"{TEACHERS}.{key}.model_path": str(model) for key, model in models.items() if model}


def _warnings(temperature: Any) -> Iterator[str]:
    """Yield warnings about options that verl accepts but that distort the signal."""
    if temperature != 1:
        yield (
            f"Warning: actor_rollout_ref.rollout.temperature={temperature} only applies to the student; verl scores the teacher "
            "at 1, so the signal compares two temperatures. Set it to 1."
        )


@contextmanager
def _option_errors(what: str) -> Iterator[None]:
    """Convert verl's errors about options to an OptionError with the key, the reason, and the place of SOD's settings."""
    try:
        yield
    except REFUSALS as error:
        why = error.__cause__ or error if isinstance(error, InstantiationException) else error
        key = re.search(r"full_key: (\S+)", str(error))
        sentence = re.split(r"\s*full_key: ", str(why))[0] or type(why).__name__
        where = f"{key[1]}: " if key else ""
        raise OptionError(f"{what} {where}{_with_place(sentence)}") from error


def _with_place(sentence: str) -> str:
    """Return an error message of verl or hydra. If it is about a setting of SOD, add where to put the setting."""
    ours = re.search(rf"['.]({'|'.join(field.name for field in fields(Settings))})'", sentence)
    if not ours:
        return sentence
    complaint = sentence.splitlines()[0]  # hydra's second line gives advice that verl would refuse
    return f"{complaint}\n{ours[1]} is a setting of SOD. Pass it in {IN_SHELL}: ++{IN_RAY}=\"'{ours[1]}=...'\""


def composed(overrides: Sequence[str], name: str, folder: Path | None) -> Any:
    """Compose a configuration as verl's trainer would. Raises OptionError."""
    with _option_errors(f"{name} cannot be composed:"):
        if folder is None:
            with initialize_config_module("verl.trainer.config", version_base=None):
                return compose(name, list(overrides))
        with initialize_config_dir(str(folder.resolve()), version_base=None):
            return compose(name, ["hydra.searchpath=[pkg://verl.trainer.config]", *overrides])


def main(arguments: Sequence[str]) -> str:
    """Run `python -m sod.adapters.verl [--config-dir DIR] [--config-name NAME] [OVERRIDE ...]`, like verl's trainer."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {MODULE}",
        description="Check that SOD's losses are registered in verl. With arguments of verl.trainer.main_ppo, also check its "
        "configuration.",
    )
    parser.add_argument("--config-dir", type=Path, help="directory of the configuration. Default: verl's own")
    parser.add_argument(
        "--config-name", default="ppo_trainer", help="name of the configuration, without .yaml. Default: ppo_trainer"
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="verl's options")
    given = parser.parse_args(arguments)
    known = check_registration()
    if not arguments:
        return f"{known}\n{which_settings()}"
    return f"{known}\n{check_overrides(given.overrides, name=given.config_name, folder=given.config_dir)}"


if __name__ == "__main__":  # registers nothing; checks what the import of verl has registered
    try:
        print(main(sys.argv[1:]))
    except SodError as error:
        sys.exit(f"sod: {error}")
else:
    try:
        register()
    except SodError as error:
        print(f"sod: not registered in verl: {error}", file=sys.stderr)
        raise
