"""What goes wrong in on-policy training, seen in a run's metrics while it still can be mended.

An alarm compares the mean of the latest `WINDOW` updates with that of the first ones, or with a fixed limit, or both: what
is bad from the beginning cannot get twice as bad. It says what it saw, why that matters, and what to try. Adding one is a
function and a line in `ALARMS`. Standard library only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

WINDOW = 3
"""Updates that a mean is taken over."""
NOTHING_SOLVED = 0.01
"""Share of attempts; a student that solves less from the beginning has no right answer to learn from."""
ENOUGH_ATTEMPTS = 64
"""A student that solves 10 % fails all of these attempts once in 900 times."""

Metrics = dict[str, float]
History = Sequence[Metrics]


@dataclass(frozen=True, slots=True)
class Alarm:
    saw: Callable[[History], str | None]
    """What it sees in the metrics of all updates so far; None if all is well."""
    why: str
    remedy: str


def raised(history: History) -> dict[str, str]:
    """The alarms that the history gives cause for, by name: what was seen, why it matters, what to try."""
    found = {name: alarm.saw(history) for name, alarm in ALARMS.items()}
    return {name: f"{saw}: {ALARMS[name].why} Try {ALARMS[name].remedy}." for name, saw in found.items() if saw}


def cold_start(solved: float) -> str:
    """What to say of a start that solves this share of its problems; nothing unless it is hopeless."""
    if solved >= NOTHING_SOLVED:
        return ""
    alarm = ALARMS["cold_start"]
    return f"{solved:.1%} of the attempts are right at the start: {alarm.why} Try {alarm.remedy}."


def _latest(history: History, name: str) -> float | None:
    """Mean of the latest updates that know it; None before there are `WINDOW` of them."""
    values = [metrics[name] for metrics in history[-WINDOW:] if name in metrics]
    return fmean(values) if len(values) == WINDOW else None


def _first(history: History, name: str) -> float | None:
    """Mean of the first updates; None until the latest ones are others."""
    return _latest(history[:WINDOW], name) if len(history) >= 2 * WINDOW else None


def _fell(name: str, words: str, *, below: float, at_least: float) -> Callable[[History], str | None]:
    """Sees a mean that was `at_least` so large fall below a share of it."""

    def saw(history: History) -> str | None:
        first, latest = _first(history, name), _latest(history, name)
        if first is None or latest is None or first < at_least or latest >= below * first:
            return None
        return f"{words} fell from {first:.3g} to {latest:.3g}"

    return saw


def _rose(name: str, words: str, *, above: float, at_least: float) -> Callable[[History], str | None]:
    """Sees a mean that is `at_least` so large now rise above a multiple of what it was."""

    def saw(history: History) -> str | None:
        first, latest = _first(history, name), _latest(history, name)
        if first is None or latest is None or latest < at_least or latest <= above * first:
            return None
        return f"{words} rose from {first:.3g} to {latest:.3g}"

    return saw


def _above(name: str, words: str, limit: float) -> Callable[[History], str | None]:
    """Sees a mean above a fixed limit that is no share."""

    def saw(history: History) -> str | None:
        latest = _latest(history, name)
        return None if latest is None or latest <= limit else f"{latest:.2g} {words} (alarming from {limit:g})"

    return saw


def _over(name: str, words: str, limit: float) -> Callable[[History], str | None]:
    """Sees a share above a fixed limit."""

    def saw(history: History) -> str | None:
        latest = _latest(history, name)
        return None if latest is None or latest <= limit else f"{latest:.0%} of {words} (alarming from {limit:.0%})"

    return saw


def _or(*alarms: Callable[[History], str | None]) -> Callable[[History], str | None]:
    """Sees what the first of these does that sees anything."""

    def saw(history: History) -> str | None:
        return next((words for alarm in alarms if (words := alarm(history))), None)

    return saw


def _with_calls(alarm: Callable[[History], str | None]) -> Callable[[History], str | None]:
    """Sees what the alarm does where there are calls: a share of next to none of them is chance."""

    def saw(history: History) -> str | None:
        calls = _latest(history, "tools/calls")
        return None if calls is not None and calls < 0.1 else alarm(history)

    return saw


def _in_a_run_that_solves(alarm: Callable[[History], str | None]) -> Callable[[History], str | None]:
    """Sees what the alarm does unless the run has solved nothing since it began: `cold_start` says that."""

    def saw(history: History) -> str | None:
        return None if _nothing_solved(history) else alarm(history)

    return saw


def _nothing_solved(history: History) -> str | None:
    """Sees a run that has solved nothing since it began; after the first update, if that had attempts enough."""
    known = [metrics for metrics in history if "rollout/solved" in metrics]
    if any(metrics["rollout/solved"] >= NOTHING_SOLVED for metrics in known):
        return None
    attempts = sum(metrics.get("rollout/attempts", 0) for metrics in known)
    if len(known) < WINDOW and attempts < ENOUGH_ATTEMPTS:
        return None
    solved = fmean(metrics["rollout/solved"] for metrics in known)
    return f"{solved:.1%} of the attempts have been right since the start"


def _below(name: str, words: str, limit: float) -> Callable[[History], str | None]:
    """Sees a share below a fixed limit."""

    def saw(history: History) -> str | None:
        latest = _latest(history, name)
        return None if latest is None or latest >= limit else f"{latest:.0%} of {words} (alarming below {limit:.0%})"

    return saw


ALARMS = {
    "tool_calls": Alarm(
        _fell("tools/calls", "tool calls per trajectory", below=0.5, at_least=0.5),
        "the student is giving up its tool, which is how runs of this kind collapse.",
        "a lower learn.lr, and the outcomes of its calls in the trajectory files",
    ),
    "malformed_calls": Alarm(
        _with_calls(
            _or(
                _rose("tools/malformed", "the share of calls that are no valid call", above=2, at_least=0.1),
                _over("tools/malformed", "calls are no valid call", 0.3),
            )
        ),
        "the student does not know the format of a call, or is forgetting it.",
        "a longer cold start, a lower learn.lr, or reward.tool_use = ran, which pays nothing for such calls",
    ),
    "truncated": Alarm(
        _or(
            _rose("stop/max_tokens", "the share of trajectories cut off by the token limit", above=2, at_least=0.2),
            _over("stop/max_tokens", "trajectories are cut off by the token limit", 0.5),
        ),
        "what is cut off has no answer, so length alone decides the reward.",
        "a higher rollout.max_tokens or reward.overlong",
    ),
    "entropy_collapse": Alarm(
        _fell("learn/entropy", "entropy", below=0.25, at_least=1e-3),
        "the attempts at a problem become one attempt, and there is nothing left to compare.",
        "a lower learn.lr or a higher learn.clip_high",
    ),
    "entropy_explosion": Alarm(
        _rose("learn/entropy", "entropy", above=3, at_least=0.3),
        "the student is coming apart into noise.",
        "a lower learn.lr, and the sampler's log-probabilities (sampler/gap_mean)",
    ),
    "divergence": Alarm(
        _rose("steps/d", "the divergence from the teacher", above=2, at_least=0.5),
        "the student goes where the teacher has nothing to say.",
        "a lower learn.lr, or a student that was cold-started on the teacher's own trajectories",
    ),
    "silent_teacher": Alarm(
        _over(
            "steps/first_step_agrees", "trajectories agree with the teacher almost perfectly in their first step", 0.3
        ),
        "d_1 near 0 switches all their later supervision off (docs/algorithm.md).",
        "drift_with_floor or drift_from_median, which do not hang on the first step alone",
    ),
    "saturated_weights": Alarm(
        _over("steps/w_capped", "step weights stand at their cap 1 + delta", 0.9),
        "the weights no longer tell steps apart.",
        "opd to compare with; it should do the same",
    ),
    "outlier_tokens": Alarm(
        _over("steps/signal_in_top_5_percent_of_tokens", "the teacher's signal stands on 5 % of the tokens", 0.97),
        "a handful of tokens sets the direction of every update.",
        "trust_region, which bounds the signal of a token",
    ),
    "no_contrast": Alarm(
        _in_a_run_that_solves(_over("rollout/groups_alike", "groups have one verdict for all their attempts", 0.8)),
        "GRPO learns nothing about right and wrong from them; the problems are too easy or too hard.",
        "other problems, or a larger rollout.group",
    ),
    "cold_start": Alarm(
        _nothing_solved,
        "the reward cannot say what a right answer is, and GRPO then teaches length and calls alone.",
        "a longer cold start (`sod sft`), easier problems, or a larger rollout.group",
    ),
    "unsolved": Alarm(
        _in_a_run_that_solves(_below("rollout/groups_solved", "groups have a right answer", 0.1)),
        "the reward cannot tell right from wrong in the others.",
        "easier problems, a larger rollout.group, or a lower learn.lr if the student solved more before",
    ),
    "shaped_reward": Alarm(
        _over("rollout/advantage_shaped", "GRPO's advantage stands in groups with one verdict for all attempts", 0.5),
        "their rewards differ by the corrections for calls and length alone, and that is what is learnt.",
        "reward.tool_use = off, easier problems, or a longer cold start",
    ),
    "sampler_drift": Alarm(
        _above("sampler/gap_mean", "nats between the sampler's log-probabilities and a full forward pass", 0.05),
        "what is learnt from is not quite what the policy would write; rounding makes some 1e-2 of it at most.",
        "network.dtype float32, or score.student recompute",
    ),
    "lost_attempts": Alarm(
        _over("rollout/lost", "attempts were lost to our own machinery or left ungraded", 0.05),
        "what is lost is not lost at random.",
        "`sod doctor`, and sandbox/failure_rate in the metrics",
    ),
}
