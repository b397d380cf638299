"""Advice of `sod diagnose`: each piece is a pure function of measured findings. Standard library and intervals only.

A piece of advice follows from the findings by the reasoning in its text. Where SOD's conditions hold, `choose` follows what was
measured on other pairs. Where an interval permits both conclusions, the advice is "not known".
"""

import math
from dataclasses import dataclass
from typing import Literal

from sod.evaluation.intervals import Interval

Confidence = Literal["clear", "not known"]
"""clear: the 95 % interval permits one conclusion. not known: it permits both, or nothing was measured."""

LITTLE_CONTRAST = 0.1
"""Share of groups with contrast below which GRPO has little to learn from. A choice of this project."""
FLAT = 0.1
"""Largest change of d after the first step, as a share of d_1, that counts as none. A choice of this project."""
FLAT_NATS = 0.01
"""The same in nats, for models that nearly agree. A choice of this project."""


@dataclass(frozen=True, slots=True)
class StepDivergence:
    """Mean step divergence of one step number. Only trajectories of one kind count."""

    step: int
    trajectories: int
    d: float


@dataclass(frozen=True, slots=True)
class Findings:
    """What was measured on a pair of student and teacher. None: not measured."""

    problems: int
    samples: int
    student: Interval
    """Solve rate."""
    teacher: Interval | None
    ahead: Interval | None
    """Teacher's solve rate minus the student's, paired by problem."""
    contrast: Interval
    """Share of groups with both right and wrong attempts."""
    first: Interval
    """d_1, nats."""
    growth: Interval | None
    """Mean of d_2 ... d_K minus d_1, nats, over trajectories of several steps."""
    clean: tuple[StepDivergence, ...]
    """Trajectories without a failed tool call."""
    erroneous: tuple[StepDivergence, ...]
    agreement: float
    """Mean of min(1, pi_teacher / pi_student) over sampled tokens: the overlap of both distributions; NaN without tokens."""
    decisive: float
    """Share of sampled tokens whose probability differs between both models by a factor of e or more."""
    rescue: Interval | None
    """Share of continuations after an error that the teacher solves, where the student failed."""
    harm: Interval | None
    """Share of continuations after an error that the teacher fails, where the student succeeded."""
    fall: Interval | None
    """Solved share of the teacher's continuations without an earlier error, minus that after errors, paired by problem. Within a
    problem, attempts with errors may be the worse ones for other reasons, too."""
    unmeasured: tuple[str, ...] = ()
    """Why values are None."""


@dataclass(frozen=True, slots=True)
class Advice:
    """One conclusion, with the numbers that led to it."""

    topic: str
    holds: bool | None
    """Whether the topic's statement holds. None: not known."""
    text: str
    numbers: str

    @property
    def confidence(self) -> Confidence:
        return "not known" if self.holds is None else "clear"


def _concluded(topic: str, holds: bool | None, numbers: str, *, yes: str, no: str, unknown: str) -> Advice:
    return Advice(topic, holds, {True: yes, False: no, None: unknown}[holds], numbers)


def percent(interval: Interval | None) -> str:
    """Return an interval of a share as text: "41 [30, 52] %"."""
    return _in_words(interval, "%", factor=100, digits=0)


def nats(interval: Interval | None) -> str:
    """Return an interval of a divergence as text: "0.41 [0.30, 0.52] nats"."""
    return _in_words(interval, "nats", factor=1, digits=2)


def _in_words(interval: Interval | None, unit: str, *, factor: float, digits: int) -> str:
    if interval is None:
        return "not measured"
    mean, low, high = (f"{factor * value:.{digits}f}" for value in (interval.mean, interval.low, interval.high))
    return f"{mean} {unit}" if math.isnan(interval.low) else f"{mean} [{low}, {high}] {unit}"


def _above(interval: Interval | None, limit: float) -> bool | None:
    """Return whether the value is above the limit. None: the interval contains the limit, or is unknown."""
    if interval is None or math.isnan(interval.low):
        return None
    return True if interval.low > limit else False if interval.high < limit else None


def teacher_is_better(found: Findings) -> Advice:
    """Return whether the teacher solves more than the student: without that, its tokens are no improvement on average."""
    holds = _above(found.ahead, 0.0)
    return _concluded(
        "teacher better",
        holds,
        f"teacher minus student {percent(found.ahead)}",
        yes="The teacher is better: distillation has something to teach.",
        no="The teacher is worse: do not distil from it.",
        unknown="The teacher is not shown to be better.",
    )


def groups_have_contrast(found: Findings) -> Advice:
    """Return whether groups have both outcomes: GRPO's advantage is 0 in a group without."""
    holds = _above(found.contrast, LITTLE_CONTRAST)
    return _concluded(
        "groups with contrast",
        holds,
        f"{percent(found.contrast)} of groups of {found.samples}",
        yes="GRPO has a signal.",
        no="GRPO has next to no signal; OPD and SOD do not need it.",
        unknown="Whether GRPO has enough signal is open.",
    )


def divergence_changes(found: Findings) -> Advice:
    """Return whether d changes over steps: SOD's weights are functions of d_k / d_1, and equal if d is flat."""
    numbers = f"d_1 {nats(found.first)}, change after it {nats(found.growth)}"
    growth, limit = found.growth, max(FLAT_NATS, FLAT * found.first.mean)
    holds = None
    if growth is not None and not math.isnan(growth.low):
        if growth.low > limit or growth.high < -limit:
            holds = True
        elif -limit <= growth.low and growth.high <= limit:
            holds = False
    return _concluded(
        "d changes",
        holds,
        numbers,
        yes="d changes over steps: SOD's weights differ from OPD's.",
        no="d is flat over steps: SOD is nearly OPD.",
        unknown="Whether d changes over steps is open.",
    )


def success_falls(found: Findings) -> Advice:
    """Return whether the teacher's continuations fail more after errors: then its advice there deserves less weight."""
    holds = _above(found.fall, 0.0)
    return _concluded(
        "success falls",
        holds,
        f"fall {percent(found.fall)}",
        yes="The teacher solves less after errors: weights may help.",
        no="The teacher solves no less after errors: no need of weights.",
        unknown="Whether the teacher solves less after errors is open.",
    )


ADVISERS = (teacher_is_better, groups_have_contrast, divergence_changes, success_falls)


SOD_MINUS_OPD = (
    Interval(0.006, -0.033, 0.043),  # sums
    Interval(-0.005, -0.027, 0.016),  # household, three pairs of models
    Interval(-0.031, -0.048, -0.014),
    Interval(-0.010, -0.027, 0.008),
    Interval(-0.019, -0.038, 0.001),  # shop, two pairs
    Interval(0.078, 0.020, 0.134),
    Interval(0.052, 0.035, 0.070),  # maze, three pairs
    Interval(0.018, 0.001, 0.035),
    Interval(0.029, 0.009, 0.048),
)
"""Differences of solve rates between trained students, in worlds where SOD's conditions hold (docs/results.md)."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    system: str | None
    """The system to take. None: the findings do not decide."""
    why: str
    gain: str = "not known"
    """What is known about the gain, in points."""


def choose(found: Findings) -> Recommendation:
    """Return the system that the findings suggest, by reasoning and by what was measured on other pairs."""
    better, contrast, changes, falls = (adviser(found).holds for adviser in ADVISERS)
    if better is None:
        also = ", but grpo has a signal." if contrast else "."
        return Recommendation(None, f"The teacher is not shown to be better{also}")
    if not better:
        if contrast:
            return Recommendation("grpo", "The teacher is worse. The outcomes have a signal.")
        return Recommendation(None, "The teacher is worse, and contrast of the groups is not shown.")
    also = " grpo" if contrast is not False else ""
    ahead = "not known" if found.ahead is None else f"not known; the teacher is {found.ahead.in_points()} points ahead"
    if changes is False:
        return Recommendation("opd", "The teacher is better. d is flat, so SOD's weights change little.", ahead)
    if changes and falls:
        points = [100 * each.mean for each in SOD_MINUS_OPD]
        why = f"SOD's conditions hold; SOD - OPD had both signs: compare sod opd{also}."
        gain = f"SOD - OPD elsewhere: {min(points):+.1f} to {max(points):+.1f} in {len(points)} pairs"
        return Recommendation(None, why, gain)
    if falls is False:
        return Recommendation("opd", "The teacher is better, and solves no less after errors.", ahead)
    return Recommendation(None, f"The teacher is better. The rule is open: compare sod opd{also}.")
