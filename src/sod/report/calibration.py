"""The figure of a calibration.json from `sod calibrate`: whether low weights mark the steps where the teacher fails."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sod.credit.systems import SOD_RULE
from sod.report.drawing import WIDE, panels, visible, whole_numbers
from sod.report.palette import LIGHT, SERIES
from sod.report.reading import RunRecord
from sod.report.trajectories import drawable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINES = 5
"""Number of rules with a line; AUCs are shown for all rules."""
LARGEST_WEIGHT = 1.5
"""Upper end of the weight axis. Weights of some rules are larger and not drawn."""


@dataclass(frozen=True, slots=True)
class RuleResult:
    """How well a rule's weights separate the steps from which the teacher succeeds from those from which it fails."""

    name: str
    auc: float | None
    interval: tuple[float, float] | None
    """95 % interval of the AUC, if the file has one."""
    within: float | None
    """AUC among steps with the same number of earlier tool errors."""
    bins: tuple[tuple[float, float, float], ...]
    """(middle of the weights, share solved, standard error of it), by weight."""


def calibration(runs: Sequence[RunRecord]) -> "Figure | None":
    """Draw the solve rate of the teacher's continuations by weight and by earlier errors, and the AUCs; a row per run."""
    calibrated = [(run, found) for run in runs if (found := rules(run.calibration))]
    if not calibrated:
        return None
    most = max(len(found) for _, found in calibrated)
    figure, axes = panels(len(calibrated), 3, width=WIDE, height=max(2.8, 0.8 + 0.19 * most))
    for (run, found), by_weight, by_errors, aucs in zip(calibrated, axes[::3], axes[1::3], axes[2::3], strict=True):
        _by_weight(by_weight, found)
        _by_errors(by_errors, run.calibration)
        _aucs(aucs, found)
        for panel in (by_weight, by_errors):
            panel.set(ylim=(0, 100), ylabel="teacher solves it, %")
        by_weight.set_title((f"{visible(run.name)}: " if len(runs) > 1 else "") + "by the step's weight")
    return figure


def rules(content: dict[str, Any]) -> list[RuleResult]:
    """Return the rules of a calibration, highest AUC first. Skips entries of another shape."""
    entries = content.get("rules")
    found = [_rule(str(name), entry) for name, entry in _dict(entries).items() if isinstance(entry, dict)]
    return sorted((rule for rule in found if rule.bins), key=lambda rule: -(rule.auc or 0.0))


def _rule(name: str, entry: dict[str, Any]) -> RuleResult:
    low, high = drawable(entry.get("auc_low")), drawable(entry.get("auc_high"))
    bins: list[tuple[float, float, float]] = []
    for row in _dicts(entry.get("bins")):
        least, most, solved, error = (drawable(row.get(key)) for key in ("low", "high", "solved", "se"))
        if least is not None and most is not None and solved is not None:
            bins.append(((least + most) / 2, solved, error or 0.0))
    return RuleResult(
        name=name,
        auc=drawable(entry.get("auc")),
        interval=(low, high) if low is not None and high is not None else None,
        within=drawable(entry.get("same_errors")),
        bins=tuple(sorted(bins)),
    )


def _by_weight(axes: "Axes", found: Sequence[RuleResult]) -> None:
    several = [rule for rule in found if len(rule.bins) > 1]  # a rule with one weight for all steps has no line
    chosen = sorted(several, key=lambda rule: rule.name != SOD_RULE)[:LINES]
    for rule, colour in zip(chosen, SERIES, strict=False):
        weights, solved, errors = zip(*rule.bins, strict=True)
        label = visible(rule.name) + (f" {rule.auc:.2f}" if rule.auc is not None else "")
        axes.errorbar(
            weights,
            [100 * share for share in solved],
            yerr=[100 * error for error in errors],
            color=colour,
            marker="o",
            markersize=4,
            elinewidth=1,
            label=label,
        )
    axes.set_xlabel("weight")
    if max((weight for rule in chosen for weight, _, _ in rule.bins), default=0.0) > LARGEST_WEIGHT:
        axes.set_xlim(right=LARGEST_WEIGHT)
    if chosen:
        legend = axes.legend(title="AUC", loc="upper left", fontsize=7.5, handlelength=1.2)
        legend.set_alignment("left")


def _by_errors(axes: "Axes", content: dict[str, Any]) -> None:
    for row in _dicts(content.get("by_errors")):
        errors, solved, count, error = (drawable(row.get(key)) for key in ("errors", "solved", "n", "se"))
        if errors is None or solved is None or not 0 <= solved <= 1:
            continue
        if error is None and count:
            error = math.sqrt(solved * (1 - solved) / count)
        bar = None if error is None else 100 * error
        axes.bar(errors, 100 * solved, yerr=bar, color=LIGHT["clean"], ecolor=LIGHT["ink"], width=0.6)
    axes.set(title="by tool errors before it", xlabel="tool errors")
    whole_numbers(axes)


def _aucs(axes: "Axes", found: Sequence[RuleResult]) -> None:
    """Draw each rule's AUC with its interval; a hollow point is the AUC among steps with equally many earlier errors."""
    known = [(rule, rule.auc) for rule in found if rule.auc is not None]
    for place, (rule, auc) in enumerate(known):
        colour = LIGHT["series-1"] if rule.name == SOD_RULE else LIGHT["muted"]
        if rule.interval:
            axes.plot(rule.interval, (place, place), color=colour, linewidth=1)
        axes.plot([auc], [place], "o", color=colour, markersize=4.5)
        if rule.within is not None:
            axes.plot([rule.within], [place], "o", color=colour, markersize=4.5, fillstyle="none")
    axes.axvline(0.5, color=LIGHT["muted"], linewidth=0.8, linestyle=(0, (2, 2)))
    axes.set_yticks(range(len(known)), [visible(rule.name) for rule, _ in known], color=LIGHT["ink"], fontsize=7.5)
    axes.invert_yaxis()
    axes.set(title="AUC of the weights", xlabel="0.5: no information", xlim=(0, 1))
    axes.grid(visible=False, axis="y")


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: object) -> list[dict[str, Any]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []
