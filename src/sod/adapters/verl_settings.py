"""Settings of SOD in verl, which has no options for them: the environment variable SOD_VERL. Needs no verl."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, Self

from sod.core import RULES
from sod.errors import OptionError

IN_SHELL = "SOD_VERL"
"""Environment variable with the settings."""
IN_RAY = f"ray_kwargs.ray_init.runtime_env.env_vars.{IN_SHELL}"
"""Key of verl's configuration that passes the variable to all workers."""
RULES_HERE = (
    "drift",
    "drift_unclipped",
    "drift_with_floor",
    "drift_before",
    "uniform",
    "trust_region",
    "position",
    "sign_consistent",
    "gated",
    "middle_dropped",
    "iw_opd",
    "prefix",
    "prefix_teach",
    "tv_opd",
    "surprise",
    "power_opd",
    "opdvr",
    "ra_opd",
)
"""Rules that only need a trajectory's log-probabilities and its advantage. verl's workers have no data on failed calls, entropies
or the number of the update, and process a part of the batch at a time."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings without a field in verl's options. The defaults are the paper's."""

    rule: str = "drift"
    """Weighting rule, one of RULES_HERE; drift is SOD."""
    epsilon: float = 1e-6
    """Added to every divergence in Eq. 7, in nats."""
    delta: float = 0.2
    """The largest step weight is 1 + delta."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse text such as `rule=drift,delta=0.2`. Raises OptionError, with a similar name if there is one."""
        given: dict[str, Any] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            key, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals:
                raise OptionError(f"{IN_SHELL}: {part!r} must have the form KEY=VALUE.")
            _among(key, [field.name for field in fields(cls)], "setting")
            if key in given:
                raise OptionError(f"{IN_SHELL}: {key} is given twice. Remove one.")
            given[key] = value if key == "rule" else _number(key, value)
        settings = cls(**given)
        if settings.rule in RULES and settings.rule not in RULES_HERE:
            raise OptionError(
                f"{IN_SHELL}: rule {settings.rule!r} needs data that verl's workers do not have (tool errors, entropies, "
                f"the number of the update, the whole batch). Use `sod train`, or choose one of {', '.join(RULES_HERE)}."
            )
        _among(settings.rule, RULES_HERE, "rule")
        if not (settings.epsilon > 0 and settings.delta >= 0):
            raise OptionError(
                f"{IN_SHELL}: epsilon must be above 0 and delta at least 0, but the settings are {settings}."
            )
        return settings

    @classmethod
    def of_environment(cls) -> Self:
        return cls.parse(os.environ.get(IN_SHELL, ""))

    def __str__(self) -> str:
        return f"rule={self.rule}, epsilon={self.epsilon:g}, delta={self.delta:g}"


def _among(name: str, names: Sequence[str], what: str) -> None:
    if name not in names:
        near = get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(names)}."
        raise OptionError(f"{IN_SHELL}: {what} {name!r} is unknown; {hint}")


def _number(key: str, value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise OptionError(f"{IN_SHELL}: {key} must be a number, not {value!r}.") from error


def which_settings(configured: str | None = None) -> str:
    """Describe the settings in effect: those that Ray passes to its workers, else this shell's, else the paper's.

    `configured`: the settings in verl's configuration; None if it has none. Raises OptionError for invalid settings.
    """
    shell = os.environ.get(IN_SHELL)
    if configured is not None:
        ignored = f"; this shell's {IN_SHELL}={shell} is ignored" if shell else ""
        return (
            f"Settings: {Settings.parse(configured)} (from the configuration's {IN_SHELL}, which Ray passes to its "
            f"workers{ignored})."
        )
    if shell:
        return (
            f"Settings: {Settings.parse(shell)} (from this shell's {IN_SHELL}; for other nodes, pass it as ++{IN_RAY})."
        )
    return f"Settings: {Settings()} ({IN_SHELL} is not set)."
