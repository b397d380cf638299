"""Alarms: detect known failures of on-policy training in a run's metrics, early enough to correct them.

An alarm compares the mean of the latest `WINDOW` updates with the mean of the first ones, with a fixed limit, or with both.
A fixed limit also detects values that are bad from the beginning. The text of an alarm has the finding, its consequence and
a remedy. To add an alarm, add a function and a line in `ALARMS`. Standard library only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

WINDOW = 3
"""Number of updates in a mean."""
NOTHING_SOLVED = 0.01
"""Share of solved attempts below which a student has no right answers to learn from."""
ENOUGH_ATTEMPTS = 64
"""Number of attempts: a student that solves 10 % fails all of them with a probability of 1/900."""

Metrics = dict[str, float]
History = Sequence[Metrics]


@dataclass(frozen=True, slots=True)
class Alarm:
    """A detector with its explanation."""

    saw: Callable[[History], str | None]
    """Return the finding in the metrics of all updates so far, or None."""
    why: str
    """The consequence: a clause with a full stop."""
    remedy: str
    """Completes "Try ...", without a full stop."""


def raised(history: History) -> dict[str, str]:
    """Return the raised alarms by name: the finding, its consequence and the remedy."""
    found = {name: alarm.saw(history) for name, alarm in ALARMS.items()}
    return {name: f"{saw}: {ALARMS[name].why} Try {ALARMS[name].remedy}." for name, saw in found.items() if saw}


def cold_start(solved: float) -> str:
    """Return a warning about a student that initially solves this share of its problems, or "" if that is enough."""
    if solved >= NOTHING_SOLVED:
        return ""
    alarm = ALARMS["cold_start"]
    return f"{solved:.1%} of the attempts are right before training: {alarm.why} Try {alarm.remedy}."


def _latest(history: History, name: str) -> float | None:
    """Return the mean of the latest `WINDOW` updates, or None if one of them lacks the metric."""
    values = [metrics[name] for metrics in history[-WINDOW:] if name in metrics]
    return fmean(values) if len(values) == WINDOW else None


def _first(history: History, name: str) -> float | None:
    """Return the mean of the first `WINDOW` updates, or None while they overlap with the latest ones."""
    return _latest(history[:WINDOW], name) if len(history) >= 2 * WINDOW else None


def _fell(name: str, words: str, *, below: float, at_least: float) -> Callable[[History], str | None]:
    """Return a detector of a mean that began with `at_least` and fell below the share `below` of its first value."""

    def saw(history: History) -> str | None:
        first, latest = _first(history, name), _latest(history, name)
        if first is None or latest is None or first < at_least or latest >= below * first:
            return None
        return f"{words} fell from {first:.3g} to {latest:.3g}"

    return saw


def _rose(name: str, words: str, *, above: float, at_least: float) -> Callable[[History], str | None]:
    """Return a detector of a mean that is now `at_least` and more than `above` times its first value."""

    def saw(history: History) -> str | None:
        first, latest = _first(history, name), _latest(history, name)
        if first is None or latest is None or latest < at_least or latest <= above * first:
            return None
        return f"{words} rose from {first:.3g} to {latest:.3g}"

    return saw


def _above(name: str, words: str, limit: float) -> Callable[[History], str | None]:
    """Return a detector of a mean above a fixed limit. The mean is not a share."""

    def saw(history: History) -> str | None:
        latest = _latest(history, name)
        return None if latest is None or latest <= limit else f"{latest:.2g} {words} (limit: {limit:g})"

    return saw


def _over(name: str, words: str, limit: float) -> Callable[[History], str | None]:
    """Return a detector of a share above a fixed limit."""

    def saw(history: History) -> str | None:
        latest = _latest(history, name)
        return None if latest is None or latest <= limit else f"{latest:.0%} of {words} (upper limit: {limit:.0%})"

    return saw


def _or(*alarms: Callable[[History], str | None]) -> Callable[[History], str | None]:
    """Return a detector with the first finding of several detectors."""

    def saw(history: History) -> str | None:
        return next((words for alarm in alarms if (words := alarm(history))), None)

    return saw


def _with_calls(alarm: Callable[[History], str | None]) -> Callable[[History], str | None]:
    """Return the detector, disabled if there are almost no calls: shares of few calls are noise."""

    def saw(history: History) -> str | None:
        calls = _latest(history, "tools/calls")
        return None if calls is not None and calls < 0.1 else alarm(history)

    return saw


def _in_a_run_that_solves(alarm: Callable[[History], str | None]) -> Callable[[History], str | None]:
    """Return the detector, disabled if the run has solved nothing since its start, which `cold_start` reports."""

    def saw(history: History) -> str | None:
        return None if _nothing_solved(history) else alarm(history)

    return saw


def _nothing_solved(history: History) -> str | None:
    """Detect a run that has solved nothing since its start: after `WINDOW` updates, or after `ENOUGH_ATTEMPTS` attempts."""
    known = [metrics for metrics in history if "rollout/solved" in metrics]
    if any(metrics["rollout/solved"] >= NOTHING_SOLVED for metrics in known):
        return None
    attempts = sum(metrics.get("rollout/attempts", 0) for metrics in known)
    if len(known) < WINDOW and attempts < ENOUGH_ATTEMPTS:
        return None
    solved = fmean(metrics["rollout/solved"] for metrics in known)
    return f"{solved:.1%} of the attempts since the start are right"


def _below(name: str, words: str, limit: float) -> Callable[[History], str | None]:
    """Return a detector of a share below a fixed limit."""

    def saw(history: History) -> str | None:
        latest = _latest(history, name)
        return None if latest is None or latest >= limit else f"{latest:.0%} of {words} (lower limit: {limit:.0%})"

    return saw


ALARMS = {
    "tool_calls": Alarm(
        _fell("tools/calls", "tool calls per trajectory", below=0.5, at_least=0.5),
        "the student stops using its tool, a common way for such runs to collapse.",
        "a lower learn.lr, and look at the outcomes of its calls in the trajectory files",
    ),
    "malformed_calls": Alarm(
        _with_calls(
            _or(
                _rose("tools/malformed", "the share of malformed calls", above=2, at_least=0.1),
                _over("tools/malformed", "calls are malformed", 0.3),
            )
        ),
        "the student has not learned the format of a call, or is forgetting it.",
        "a longer cold start, a lower learn.lr, or reward.tool_use = ran, which gives no reward for such calls",
    ),
    "truncated": Alarm(
        _or(
            _rose("stop/max_tokens", "the share of trajectories truncated by the token limit", above=2, at_least=0.2),
            _over("stop/max_tokens", "trajectories are truncated by the token limit", 0.5),
        ),
        "truncated trajectories have no answer, so length alone decides the reward.",
        "a higher rollout.max_tokens, or reward.overlong",
    ),
    "entropy_collapse": Alarm(
        _fell("learn/entropy", "entropy", below=0.25, at_least=1e-3),
        "all attempts at a problem become equal, and GRPO has nothing left to compare.",
        "a lower learn.lr or a higher learn.clip_high",
    ),
    "entropy_explosion": Alarm(
        _rose("learn/entropy", "entropy", above=3, at_least=0.3),
        "the student's tokens become random.",
        "a lower learn.lr, and look at the error of the sampler's log-probabilities (sampler/gap_mean)",
    ),
    "divergence": Alarm(
        _rose("steps/d", "the divergence from the teacher", above=2, at_least=0.5),
        "the student is reaching states on which the teacher gives no useful signal.",
        "a lower learn.lr, or a student with a cold start on the teacher's own trajectories",
    ),
    "silent_teacher": Alarm(
        _over(
            "steps/first_step_agrees", "trajectories agree with the teacher almost perfectly in their first step", 0.3
        ),
        "with d_1 near 0, all their later steps get almost no weight (docs/algorithm.md).",
        "drift_with_floor or drift_from_median, which do not depend on the first step alone",
    ),
    "saturated_weights": Alarm(
        _over("steps/w_capped", "step weights are at their cap 1 + delta", 0.9),
        "the weights no longer distinguish steps.",
        "a comparison with opd, which should give the same result",
    ),
    "outlier_tokens": Alarm(
        _over("steps/signal_in_top_5_percent_of_tokens", "the teacher's signal is on 5 % of the tokens", 0.97),
        "a few tokens decide the direction of every update.",
        "trust_region, which bounds the signal of a token",
    ),
    "no_contrast": Alarm(
        _in_a_run_that_solves(_over("rollout/groups_alike", "groups have the same verdict for all attempts", 0.8)),
        "GRPO cannot learn right from wrong on them; the problems are too easy or too hard.",
        "other problems, or a larger rollout.group",
    ),
    "cold_start": Alarm(
        _nothing_solved,
        "the reward has no right answers to prefer, so GRPO only teaches length and calls.",
        "a longer cold start (`sod sft`), easier problems, or a larger rollout.group",
    ),
    "unsolved": Alarm(
        _in_a_run_that_solves(_below("rollout/groups_solved", "groups have a right answer", 0.1)),
        "GRPO cannot learn right from wrong on the other groups.",
        "easier problems, a larger rollout.group, or a lower learn.lr if the student solved more before",
    ),
    "shaped_reward": Alarm(
        _over("rollout/advantage_shaped", "GRPO's advantage is in groups with the same verdict for all attempts", 0.5),
        "their rewards differ only by the corrections for calls and length, so GRPO mostly teaches these.",
        "algorithm.advantage = verdict, reward.tool_use = off, easier problems, or a longer cold start",
    ),
    "sampler_drift": Alarm(
        _above("sampler/gap_mean", "nats between the sampler's log-probabilities and a full forward pass", 0.05),
        "the training data are not samples of the policy; rounding explains about 1e-2 nats at most.",
        "network.dtype float32, or score.student recompute",
    ),
    "misaligned_teacher": Alarm(
        _below("teacher/aligned_share", "sampled tokens are aligned with the teacher's tokens", 0.9),
        "the other tokens get no signal from the teacher.",
        "a teacher whose chat template writes calls and thoughts as the student's does (score.teacher_template)",
    ),
    "sampler_weights": Alarm(
        _over(
            "sampler/weight_cut", "sampled tokens have a truncated or masked importance weight (learn.correction)", 0.02
        ),
        "the sampler and the policy disagree about more than rounding, and the correction no longer is a small one.",
        "`sod doctor`, the version of vLLM, network.dtype float32, or fewer learn.minibatches",
    ),
    "lost_attempts": Alarm(
        _over("rollout/lost", "attempts were lost to infrastructure failures or left ungraded", 0.05),
        "attempts are not lost at random, so the remaining ones are biased.",
        "`sod doctor`, and look at sandbox/failure_rate in the metrics",
    ),
}
