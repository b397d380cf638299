"""SOD inside verl: two distillation losses, as a plug-in (docs/verl.md).

    loss_mode      loss of a token                                             task term
    sod            clip(ratio) * coef * w_k * (log pi_teacher - log pi_old)    verl's own, clipped by itself
    sod_one_clip   clip(ratio) * (A + coef * w_k * (log pi_teacher - log pi_old)), as `sod train` and the paper's code

verl imports this module in every process: by the entry point `verl.plugins`, or by VERL_USE_EXTERNAL_MODULES. As it hides what
goes wrong there, this module says it on stderr itself, and `python -m sod.adapters.verl` looks whether all is well.

verl's options take no further fields, so what they lack is in the environment: SOD_VERL="rule=drift,epsilon=1e-6,delta=0.2".
"""

import argparse
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, fields
from difflib import get_close_matches
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

from sod.core import (
    RULES,
    StepInfo,
    clipped_policy_loss,
    masked_mean,
    per_token,
    step_divergence,
    step_ids,
    teacher_advantage,
)
from sod.errors import OptionError, SodError

NAME = "sod.adapters.verl"
TESTED = ("0.9.1",)
"""Versions of verl that the tests have passed with."""
UNTESTED = "SOD_VERL_UNTESTED"
"""Environment variable: 1 goes on with any other version."""
SETTINGS = "SOD_VERL"
"""Environment variable with the settings."""
IN_RAY = f"ray_kwargs.ray_init.runtime_env.env_vars.{SETTINGS}"
"""Where verl's configuration gives it to all workers."""
REFUSALS = (HydraException, OmegaConfBaseException, AssertionError, NotImplementedError, TypeError, ValueError)
"""What verl, and those who read its configuration, raise for options that they do not take."""
ALL_IS_WELL = "[validate_config]"
"""How the line begins with which verl ends its checks."""
RULES_HERE = (
    "drift",
    "drift_unclipped",
    "drift_with_floor",
    "uniform",
    "trust_region",
    "position",
    "sign_consistent",
    "gated",
)
"""Rules that need no more than a trajectory's log-probabilities and its advantage. verl's workers learn neither of failed calls
nor of the teacher's entropy nor of the update's number, and see a part of the batch at a time."""


# Settings


@dataclass(frozen=True, slots=True)
class Settings:
    """What verl's own options have no field for. The defaults are the paper's."""

    rule: str = "drift"
    """Weighting rule, one of RULES_HERE; drift is SOD."""
    epsilon: float = 1e-6
    """Added to every divergence in Eq. 7, in nats."""
    delta: float = 0.2
    """Largest step weight is 1 + delta."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `rule=drift,delta=0.2`. Raises OptionError, naming what is near."""
        given: dict[str, Any] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            key, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals:
                raise OptionError(f"{SETTINGS}: {part!r} is not KEY=VALUE.")
            _among(key, [field.name for field in fields(cls)], "setting")
            if key in given:
                raise OptionError(f"{SETTINGS}: {key} is given twice.")
            given[key] = value if key == "rule" else _number(key, value)
        settings = cls(**given)
        if settings.rule in RULES and settings.rule not in RULES_HERE:
            raise OptionError(
                f"{SETTINGS}: rule {settings.rule!r} needs what verl's workers do not know (tool errors, the teacher's entropy, "
                f"the whole batch); `sod train` has it. Here there are {', '.join(RULES_HERE)}."
            )
        _among(settings.rule, RULES_HERE, "rule")
        if not (settings.epsilon > 0 and settings.delta >= 0):
            raise OptionError(f"{SETTINGS}: epsilon must be above 0 and delta not below; they are {settings}.")
        return settings

    @classmethod
    def of_environment(cls) -> Self:
        return cls.parse(os.environ.get(SETTINGS, ""))

    def __str__(self) -> str:
        return f"rule={self.rule}, epsilon={self.epsilon:g}, delta={self.delta:g}"


def _among(name: str, names: Sequence[str], what: str) -> None:
    if name not in names:
        near = get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}."
        raise OptionError(f"{SETTINGS}: {what} {name!r} is unknown; {hint}")


def _number(key: str, value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise OptionError(f"{SETTINGS}: {key} must be a number, not {value!r}.") from error


# Credit


@dataclass(frozen=True, slots=True)
class Scored:
    """A batch as the loss reads it, padded on the right. No gradient."""

    old_BT: Tensor
    """The student's log-probabilities before the update."""
    teacher_BT: Tensor
    mask_BT: Tensor
    """True on what the student wrote; verl has 0 on tools' answers, so that its runs are the steps."""
    advantage_BT: Tensor

    @classmethod
    def of(cls, data: Any) -> Self:
        """From verl's TensorDict, whose tensors are nested, or padded already."""
        return cls(
            old_BT=_padded(data["old_log_probs"]),
            teacher_BT=no_padding_2_padding(data["teacher_logprobs"], data).squeeze(-1),
            mask_BT=_padded(data["response_mask"]).bool(),
            advantage_BT=_padded(data["advantages"]),
        )

    def teacher_weight(self, settings: Settings) -> Tensor:
        """w of every token by the settings' rule. -> (B, T), 0 off the mask"""
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
        )
        w = RULES[settings.rule](d_BK, info)
        w_BT = per_token(w, ids_BT) if w.shape == d_BK.shape else w
        return w_BT.masked_fill(~self.mask_BT, 0)

    @property
    def signal_BT(self) -> Tensor:
        """log pi_teacher - log pi_old, in nats; 0 off the mask."""
        return teacher_advantage(self.old_BT, self.teacher_BT, self.mask_BT)

    def _mean_advantage(self) -> Tensor:
        """GRPO gives every token of a trajectory the same. -> (B,)"""
        inside_BT = self.advantage_BT.masked_fill(~self.mask_BT, 0)
        return inside_BT.sum(-1) / self.mask_BT.sum(-1).clamp(min=1)


def _padded(tensor: Tensor) -> Tensor:
    return tensor.to_padded_tensor(0) if tensor.is_nested else tensor


# The two losses, with the arguments that verl calls them with


def sod(config: Any, distillation_config: Any, model_output: Any, data: Any) -> tuple[Tensor, dict[str, Any]]:
    """-w (log pi_teacher - log pi_old), whose negative verl takes for an advantage and clips. -> (B, T), metrics

    verl adds its task term, clipped by itself, and multiplies this one by distillation_loss_coef. Raises OptionError where its
    options say otherwise.
    """
    del model_output
    check_switches("sod", config, distillation_config.distillation_loss)
    scored = Scored.of(data)
    weight_BT = scored.teacher_weight(Settings.of_environment())
    return -weight_BT * scored.signal_BT, _metrics(scored, weight_BT)


def sod_one_clip(config: Any, distillation_config: Any, model_output: Any, data: Any) -> tuple[Tensor, dict[str, Any]]:
    """`sod.core.clipped_policy_loss` of A + coef w (log pi_teacher - log pi_old), with gradient. -> (B, T), metrics

    The clip is the actor's. verl differentiates this as it is, and adds nothing. Raises OptionError where its options say
    otherwise.
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
    if "rollout_is_weights" in data:  # of verl's rollout correction, which multiplies its policy loss, too
        loss_BT = loss_BT * _padded(data["rollout_is_weights"])
    return loss_BT.masked_fill(~scored.mask_BT, 0), _metrics(scored, weight_BT)


LOSSES = {"sod": sod, "sod_one_clip": sod_one_clip}


def _metrics(scored: Scored, weight_BT: Tensor) -> dict[str, Any]:
    values = {"sod/weight": weight_BT, "sod/abs_signal": scored.signal_BT.abs()}
    return {
        name: Metric(AggregationType.MEAN, masked_mean(value_BT, scored.mask_BT)) for name, value_BT in values.items()
    }


def check_switches(mode: str, actor: Any, options: Any) -> None:
    """Whether verl's options let the loss be what it is. Raises OptionError, naming all that must change.

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
            f"Loss mode {mode} needs {' '.join(switch for switch, is_wrong in wrong.items() if is_wrong)}"
        )


# Registration, and whether it worked


def register() -> None:
    """Make both losses known to verl. Raises OptionError for settings that cannot work and for a verl that is not tested."""
    check_version(verl.__version__)
    Settings.of_environment()
    for name, loss in LOSSES.items():
        register_distillation_loss(DistillationLossSettings(names=[name], use_estimator=True))(loss)


def check_version(version: str) -> None:
    """Raises OptionError for a version that is not tested, unless the environment says to go on."""
    if version not in TESTED and os.environ.get(UNTESTED) != "1":
        raise OptionError(
            f"verl {version} is not tested with sod, verl {', '.join(TESTED)} is; pip install verl=={TESTED[-1]}, or go on "
            f"anyway with {UNTESTED}=1. Without SOD: VERL_USE_EXTERNAL_PLUGINS=none."
        )


def check() -> str:
    """What is registered, in words. Raises OptionError if a worker of verl would not know the losses."""
    check_version(verl.__version__)
    Settings.of_environment()
    ways = _ways()
    if not ways:
        raise OptionError(
            f"Nothing makes verl import {NAME}: neither an entry point verl.plugins (is sod installed? does "
            f"VERL_USE_EXTERNAL_PLUGINS leave it out?) nor VERL_USE_EXTERNAL_MODULES={NAME}."
        )
    missing = [name for name in LOSSES if DISTILLATION_LOSS_REGISTRY.get(name) is None]
    if missing:
        raise OptionError(f"verl does not know {', '.join(missing)}, though {' and '.join(ways)} should import {NAME}.")
    tested = "tested" if verl.__version__ in TESTED else f"NOT tested; tested: {', '.join(TESTED)}"
    return f"verl {verl.__version__} ({tested}) knows the losses {', '.join(LOSSES)}, imported by {' and '.join(ways)}."


def _ways() -> list[str]:
    """What makes verl import this module in every process."""
    allowed = os.environ.get("VERL_USE_EXTERNAL_PLUGINS", "auto").strip().lower()
    names = [point.name for point in entry_points(group="verl.plugins") if point.value == NAME]
    modules = os.environ.get("VERL_USE_EXTERNAL_MODULES", "").split(",")
    by_entry = any(allowed == "auto" or name in [part.strip() for part in allowed.split(",")] for name in names)
    return ["the entry point verl.plugins"] * by_entry + ["VERL_USE_EXTERNAL_MODULES"] * (NAME in modules)


def which_settings(configured: str | None = None) -> str:
    """Which settings count, in words: those that Ray gives its workers, else this shell's, else the paper's.

    `configured`: the configuration's; None has none. Raises OptionError for some that cannot work.
    """
    shell = os.environ.get(SETTINGS)
    if configured is not None:
        beside = f"; this shell's {SETTINGS}={shell} does not count" if shell else ""
        return f"Settings: {Settings.parse(configured)} (the configuration's {SETTINGS}, which Ray gives its workers{beside})."
    if shell:
        return f"Settings: {Settings.parse(shell)} (this shell's {SETTINGS}; on other nodes, give it as ++{IN_RAY})."
    return f"Settings: {Settings()} ({SETTINGS} is not set)."


def check_config(overrides: Sequence[str], *, name: str = "ppo_trainer", folder: Path | None = None) -> str:
    """What SOD does under a configuration of verl, composed and validated as its trainer would, in words. Raises OptionError.

    `folder`: where the configuration is; None is among verl's own.
    """
    config = composed(overrides, name, folder)
    with _refusals_as_ours(f"{name}: verl refuses"), redirect_stdout(StringIO()) as heard:
        validate_config(config, need_reference_policy(config), need_critic(config))
        actor, distillation = (
            omega_conf_to_dataclass(part) for part in (config.actor_rollout_ref.actor, config.distillation)
        )
        configured = OmegaConf.select(config, IN_RAY)
    options = distillation.distillation_loss
    if not distillation.enabled or options.loss_mode not in LOSSES:
        raise OptionError(
            f"{name} is no SOD: distillation.enabled={distillation.enabled}, "
            f"distillation.distillation_loss.loss_mode={options.loss_mode}; set them to true and one of {', '.join(LOSSES)}."
        )
    check_switches(options.loss_mode, actor, options)
    return "\n".join(
        [
            f"{name}: {options.loss_mode}, coef {options.distillation_loss_coef}.",
            which_settings(None if configured is None else str(configured)),
            *_warnings(config.actor_rollout_ref.rollout.temperature),
            *(line for line in heard.getvalue().splitlines() if not line.startswith(ALL_IS_WELL)),
        ]
    )


def _warnings(temperature: Any) -> Iterator[str]:
    """Of what verl allows although it spoils the signal."""
    if temperature != 1:
        yield (
            f"Warning: actor_rollout_ref.rollout.temperature={temperature} is the student's alone; verl scores the teacher at 1, "
            "so the signal compares two temperatures. Set it to 1."
        )


@contextmanager
def _refusals_as_ours(what: str) -> Iterator[None]:
    """Turns what verl raises for options into an OptionError: the key, the last sentence, and where ours belong."""
    try:
        yield
    except REFUSALS as error:
        why = error.__cause__ or error if isinstance(error, InstantiationException) else error
        key = re.search(r"full_key: (\S+)", str(error))
        sentence = re.split(r"\s*full_key: ", str(why))[0] or type(why).__name__
        where = f"{key[1]}: " if key else ""
        raise OptionError(f"{what} {where}{_with_place_of_ours(sentence)}") from error


def _with_place_of_ours(sentence: str) -> str:
    """A sentence of verl's or hydra's; where it complains of a setting of ours, with the place that this goes into."""
    ours = re.search(rf"['.]({'|'.join(field.name for field in fields(Settings))})'", sentence)
    if not ours:
        return sentence
    complaint = sentence.splitlines()[0]  # hydra's second line advises what verl would refuse
    return f"{complaint}\n{ours[1]} goes into {SETTINGS}: ++{IN_RAY}=\"'{ours[1]}=...'\""


def composed(overrides: Sequence[str], name: str, folder: Path | None) -> Any:
    """A configuration as verl's trainer would get it. Raises OptionError."""
    with _refusals_as_ours(f"{name} cannot be composed:"):
        if folder is None:
            with initialize_config_module("verl.trainer.config", version_base=None):
                return compose(name, list(overrides))
        with initialize_config_dir(str(folder.resolve()), version_base=None):
            return compose(name, ["hydra.searchpath=[pkg://verl.trainer.config]", *overrides])


def main(arguments: Sequence[str]) -> str:
    """`python -m sod.adapters.verl [--config-dir DIR] [--config-name NAME] [OVERRIDE ...]`, as verl's trainer takes them."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {NAME}",
        description="Does verl know SOD's losses? With arguments of verl.trainer.main_ppo: is its configuration right for them?",
    )
    parser.add_argument("--config-dir", type=Path, help="folder of a configuration")
    parser.add_argument(
        "--config-name", default="ppo_trainer", help="its name, without .yaml (default: ppo_trainer, verl's own)"
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="verl's options")
    given = parser.parse_args(arguments)
    known = check()
    if not arguments:
        return f"{known}\n{which_settings()}"
    return f"{known}\n{check_config(given.overrides, name=given.config_name, folder=given.config_dir)}"


if __name__ == "__main__":  # registers nothing: it looks at what importing verl has done
    try:
        print(main(sys.argv[1:]))
    except OptionError as error:
        sys.exit(f"sod: {error}")
else:
    try:
        register()
    except SodError as error:
        print(f"sod: not registered in verl: {error}", file=sys.stderr)
        raise
