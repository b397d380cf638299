"""The figures. Each is one function of the runs. To add one, write a function and a line in `FIGURES`."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from heapq import nlargest
from typing import TYPE_CHECKING

from sod.report.calibration import calibration
from sod.report.drawing import WIDE, Drawing, legend, panels, small_multiples, visible, whole_numbers
from sod.report.palette import LIGHT, SERIES
from sod.report.reading import RunRecord
from sod.report.trajectories import ShownTrajectory, StepValues
from sod.report.validation import validation_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEWEST = 10
"""Fewest trajectories that must have a step for it to be drawn."""
SMOOTH = 5
"""Number of updates averaged for a curve's thick line."""
OUTLIERS = 0.05
"""Share of tokens, those with the largest |signal|, to compare with the rest."""
TOP_TEXTS = 8
"""Number of tokens to name."""
PATTERNS = ("stable", "recovery", "erroneous")
PHASES = ("generate", "score", "waiting", "learn", "sync")
"""Phases that add up to an update; see sod.runs.metrics.of_time. Tools run in parallel to them."""

# Statistics


def mean_and_error(values: Sequence[float], groups: Sequence[str]) -> tuple[float, float]:
    """Return the mean and its standard error, clustered by group, because attempts at one problem are correlated."""
    mean = math.fsum(values) / len(values)
    deviations: dict[str, float] = defaultdict(float)
    for value, group in zip(values, groups, strict=True):
        deviations[group] += value - mean
    count = len(deviations)
    if count < 2:
        return mean, math.nan
    return mean, math.sqrt(sum(d * d for d in deviations.values()) * count / (count - 1)) / len(values)


def by_step(
    trajectories: Sequence[ShownTrajectory], value: Callable[[StepValues], float | None]
) -> tuple[list[int], list[float], list[float]]:
    """Return step numbers, means and standard errors, for steps that at least `FEWEST` trajectories have."""
    known: dict[int, list[tuple[float, str]]] = defaultdict(list)
    for trajectory in trajectories:
        for k, step in enumerate(trajectory.steps, start=1):
            if (seen := value(step)) is not None:
                known[k].append((seen, trajectory.problem))
    numbers = [k for k in sorted(known) if len(known[k]) >= FEWEST]
    statistics = [mean_and_error(*zip(*known[k], strict=True)) for k in numbers]
    return numbers, [mean for mean, _ in statistics], [error for _, error in statistics]


def smooth(values: Sequence[float], width: int = SMOOTH) -> list[float]:
    """Return the running mean over each value and the `width` - 1 values before it."""
    windows = [values[max(0, i - width + 1) : i + 1] for i in range(len(values))]
    return [math.fsum(window) / len(window) for window in windows]


# Figures


def divergence(runs: Sequence[RunRecord]) -> "Figure | None":
    """Draw d and the teacher's entropy by step; a row of panels per run."""
    runs = [run for run in runs if any(by_step(run.trajectories, lambda step: step.d))]
    if not runs:
        return None
    figure, axes = panels(len(runs), 2, width=WIDE, sharex=True, sharey="col")
    for run, d, entropy in zip(runs, axes[::2], axes[1::2], strict=True):
        name = f"{visible(run.name)}: " if len(runs) > 1 else ""
        _clean_and_erroneous(d, run, lambda step: step.d)
        _clean_and_erroneous(entropy, run, lambda step: step.teacher_entropy)
        d.set(title=f"{name}divergence from the teacher", ylabel="d, nats")
        entropy.set(title=f"{name}entropy of the teacher", ylabel="nats")
    for panel in axes[-2:]:
        panel.set_xlabel("step")
    axes[0].set_ylim(bottom=0)
    axes[1].set_ylim(bottom=0)
    legend(figure, axes)
    return figure


def learning_figure(runs: Sequence[RunRecord]) -> "Figure | None":
    """Draw metrics over the updates; a curve per run."""
    metrics = (
        ("rollout/solved", "solved", "%", 100),
        ("learn/entropy", "entropy of the student", "nats", 1),
        ("tools/calls", "tool calls", "per trajectory", 1),
        ("tools/errors", "tool errors", "per trajectory", 1),
    )
    learners = [(i, run) for i, run in enumerate(runs) if len(run.curve("rollout/solved")[0]) > 1]
    if not learners:
        return None
    figure, axes = panels(2, 2, width=WIDE, sharex=True)
    for axis, (key, title, unit, scale) in zip(axes, metrics, strict=True):
        for i, run in learners:
            updates, values = run.curve(key)
            values = [scale * value for value in values]
            colour = SERIES[i % len(SERIES)]
            axis.plot(updates, values, color=colour, linewidth=0.8, alpha=0.35)
            axis.plot(updates, smooth(values), color=colour, label=visible(run.name))
        axis.set(title=title, ylabel=unit)
        axis.set_ylim(bottom=0)
        whole_numbers(axis)
    for axis in axes[2:]:
        axis.set_xlabel("update")
    if len(runs) > 1:
        legend(figure, axes)
    return figure


def patterns(runs: Sequence[RunRecord]) -> "Figure | None":
    """Draw the shares of the three patterns among trajectories of several steps, stacked; a panel per run."""
    runs = [run for run in runs if any(run.curve(f"pattern/{name}")[0] for name in PATTERNS)]
    if not runs:
        return None
    figure, axes = small_multiples(runs)
    colours = {"stable": LIGHT["clean"], "recovery": LIGHT["recovery"], "erroneous": LIGHT["erroneous"]}
    for axis, run in zip(axes, runs, strict=True):
        _stack(axis, run, [(name, f"pattern/{name}", colours[name]) for name in PATTERNS], scale=100)
        axis.set(ylabel="% of trajectories", ylim=(0, 100))
    legend(figure, axes)
    return figure


def weights(runs: Sequence[RunRecord]) -> "Figure | None":
    """Draw w by step, and the weight that the run's algorithm used if it differs; a panel per run."""
    runs = [run for run in runs if any(by_step(run.trajectories, lambda step: step.w))]
    if not runs:
        return None
    figure, axes = small_multiples(runs, sharex=True)
    for axis, run in zip(axes, runs, strict=True):
        axis.tick_params(labelbottom=True)
        _clean_and_erroneous(axis, run, lambda step: step.w)
        if any(_differ(step) for trajectory in run.trajectories for step in trajectory.steps):
            _clean_and_erroneous(axis, run, lambda step: step.w_used, label=" (used)", dashed=True)
        axis.set(xlabel="step", ylabel="step weight")
    axes[0].set_ylim(bottom=0)
    legend(figure, axes)
    return figure


def signal_figure(runs: Sequence[RunRecord]) -> "Figure | None":
    """Draw the distribution of the per-token signal, and the tokens with the largest share of it; a row per run."""
    import numpy as np

    runs = [run for run in runs if any(trajectory.signal for trajectory in run.trajectories)]
    if not runs:
        return None
    figure, axes = panels(len(runs), 2, width=WIDE, height=2.9)
    for run, spread, named in zip(runs, axes[::2], axes[1::2], strict=True):
        name = f"{visible(run.name)}: " if len(runs) > 1 else ""
        values = np.concatenate([np.asarray(trajectory.signal) for trajectory in run.trajectories])
        sizes = np.sort(np.abs(values))
        top = sizes[-max(1, int(OUTLIERS * len(sizes))) :]
        share = float(top.sum() / max(sizes.sum(), 1e-9))
        spread.hist(values, bins=80, color=LIGHT["series-1"], histtype="stepfilled", log=True)
        for limit in (-top[0], top[0]):
            if values.min() < limit < values.max():
                spread.axvline(limit, color=LIGHT["erroneous"], linewidth=1, linestyle=(0, (4, 2)))
        spread.set_title(f"{name}|signal| ≥ {top[0]:.2g}: {OUTLIERS:.0%} of tokens, {share:.0%} of the signal")
        spread.set(xlabel="log π teacher − log π student, nats", ylabel="tokens")
        spread.yaxis.set_major_formatter("{x:,.0f}")
        _name_tokens(named, run)
    return figure


def time(runs: Sequence[RunRecord]) -> "Figure | None":
    """Draw the seconds per update by phase; a panel per run."""
    runs = [run for run in runs if len(run.curve("seconds/learn")[0]) > 1]
    if not runs:
        return None
    figure, axes = small_multiples(runs)
    for axis, run in zip(axes, runs, strict=True):
        _stack(axis, run, [(name, f"seconds/{name}", SERIES[i]) for i, name in enumerate(PHASES)])
        axis.set(ylabel="seconds")
    legend(figure, axes)
    return figure


FIGURES = (
    Drawing(
        "learning",
        "Learning",
        f"Thin lines: each update. Thick lines: the mean of {SMOOTH} updates.",
        "at least two updates of `sod train`",
        learning_figure,
    ),
    Drawing(
        "validation",
        "Validation",
        "Scores on held-out data while training. Bars: 95 % intervals for new problems of the same kind. Rings: RUN/best.",
        "a run with --validate.data",
        validation_figure,
    ),
    Drawing(
        "divergence",
        "Drift after tool errors",
        "Clean trajectories have no tool error, erroneous ones at least one. Bars: standard errors, clustered by problem. "
        f"Only steps that at least {FEWEST} trajectories have.",
        "trajectories with a teacher's scores",
        divergence,
    ),
    Drawing(
        "weights",
        "Step weights",
        "SOD's weight of each step: w = min(d₁ / d, 1 + δ). Dashed: the weight that the run's own algorithm used, if it differs.",
        "trajectories with a teacher's scores",
        weights,
    ),
    Drawing(
        "patterns",
        "Patterns",
        "Shares among trajectories with at least two steps, classified by how their weights change over the steps.",
        "metrics pattern/... (older runs do not have them)",
        patterns,
    ),
    Drawing(
        "signal",
        "Signal of the teacher, token by token",
        "Left: counts on a logarithmic axis. Right of zero, a token is likelier under the teacher than under the student. Right: "
        "the tokens with the largest share of the total |signal|, and how often each was sampled.",
        "the teacher's signal in the trajectory files (older runs do not have it)",
        signal_figure,
    ),
    Drawing(
        "calibration",
        "Calibration of the weights",
        "Do low weights mark the steps from which the teacher itself fails? Solve rate of the teacher's continuations, by the "
        "weight of the step at which they start. Bars: standard errors. Right: 95 % intervals; hollow points: AUC among steps "
        "with the same number of earlier errors.",
        "a calibration.json from `sod calibrate`",
        calibration,
    ),
    Drawing(
        "time",
        "Time",
        "Seconds of each update. Waiting: neither model computes, mostly because tools run.",
        "at least two updates of `sod train`",
        time,
    ),
)


def _clean_and_erroneous(
    axes: "Axes", run: RunRecord, value: Callable[[StepValues], float | None], *, label: str = "", dashed: bool = False
) -> None:
    for erroneous, name, marker in ((False, "clean", "o"), (True, "erroneous", "s")):
        chosen = [trajectory for trajectory in run.trajectories if trajectory.erroneous == erroneous]
        steps, means, errors = by_step(chosen, value)
        if steps:
            axes.errorbar(
                steps,
                means,
                yerr=errors,
                color=LIGHT[name],
                marker=marker,
                markersize=4,
                elinewidth=1,
                linestyle="--" if dashed else "-",
                fillstyle="none" if dashed else "full",
                label=f"{name}{label}",
            )
    whole_numbers(axes)


def _differ(step: StepValues) -> bool:
    return step.w is not None and step.w_used is not None and abs(step.w - step.w_used) > 1e-3


def _stack(axes: "Axes", run: RunRecord, parts: Sequence[tuple[str, str, str]], scale: float = 1) -> None:
    """Draw (label, metric, colour) parts stacked over the updates. Skips metrics that the run does not have."""
    keys = [key for _, key, _ in parts]
    rows = [row for row in run.metrics if any(key in row for key in keys)]
    edges = [row["update"] - 0.5 for row in rows] + [rows[-1]["update"] + 0.5]
    base = [0.0] * len(edges)
    for label, key, colour in parts:
        heights = [scale * row.get(key, 0.0) for row in rows]
        top = [low + height for low, height in zip(base, [*heights, heights[-1]], strict=True)]
        if any(heights):
            axes.fill_between(edges, base, top, step="post", color=colour, linewidth=0, label=label)
        base = top
    axes.set(xlabel="update", xlim=(edges[0], edges[-1]))
    whole_numbers(axes)
    if len(rows) == 1:
        axes.set_xticks([rows[0]["update"]])
    axes.grid(visible=False)


def _name_tokens(axes: "Axes", run: RunRecord) -> None:
    """Draw bars of the tokens with the largest share of the total signal."""
    whole = sum(run.totals.nats.values())
    named = nlargest(TOP_TEXTS, run.totals.nats.items(), key=lambda item: item[1])
    axes.grid(visible=False)
    if not named or not whole:
        axes.text(
            0.5, 0.5, "these files hold no token texts", ha="center", color=LIGHT["muted"], transform=axes.transAxes
        )
        axes.set(xticks=[], yticks=[])
        return
    shares = [100 * nats / whole for _, nats in named]
    axes.barh(range(len(named)), shares, color=LIGHT["series-1"], height=0.62)
    axes.set_yticks(range(len(named)), [visible(text) for text, _ in named], color=LIGHT["ink"])
    for i, (text, _) in enumerate(named):
        count = f"{run.totals.count[text]:,} ×"
        axes.annotate(
            count, (shares[i], i), (4, 0), textcoords="offset points", va="center", color=LIGHT["muted"], fontsize=8
        )
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set(xlabel="% of all |signal|", title="tokens with the largest share")
