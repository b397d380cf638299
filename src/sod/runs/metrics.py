"""Compute the metrics of an update or an evaluation: no file is read or written. Keys are area/name."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from sod.batching import Batch, CreditedBatch, ScoredBatch, pad
from sod.config import AlgorithmOptions
from sod.config.reward import VERDICT
from sod.core import ADVANTAGES, step_divergence, step_mean, step_weights
from sod.runs.patterns import Pattern, pattern
from sod.types import NO_CALL, Group, Outcome

AGREES_NATS = 0.01
"""Divergence of a first step, in nats, below which it counts as agreeing with the teacher."""

PATTERNS: Sequence[Pattern] = ("stable", "erroneous", "recovery")


class SumsByName(dict[str, float]):
    """Sums of numbers, positive or negative, by name."""

    def __add__(self, other: Mapping[str, float]) -> "SumsByName":
        return SumsByName({name: self.get(name, 0.0) + other.get(name, 0.0) for name in self.keys() | other.keys()})


@dataclass
class RolloutTotals:
    """Sums of rewards, lengths, tool errors and endings of trajectories, added group by group."""

    advantage_of: str = "grpo"
    """Value of `algorithm.advantage`."""
    count: int = 0
    dropped: int = 0
    ungraded: int = 0
    groups: int = 0
    """Number of groups with at least one trajectory."""
    alike: int = 0
    """Number of groups in which all verdicts are the same."""
    solved: int = 0
    """Number of groups with at least one right answer."""
    contrast: int = 0
    """Number of groups with different rewards."""
    shaped: int = 0
    """Number of groups with equal verdicts but different rewards, caused only by the reward's corrections. Groups with further
    parts of the reward do not count."""
    advantage: float = 0.0
    """Sum of |advantage|, without the divergence that `algorithm.kl_in_reward` subtracts."""
    advantage_shaped: float = 0.0
    """The part of `advantage` in groups that are `shaped`."""
    reward: float = 0.0
    rewards: "SumsByName" = field(default_factory=lambda: SumsByName())
    """Sum of each part of the reward, before it is weighted."""
    rewarded: Counter[str] = field(default_factory=Counter)
    """Number of trajectories that have the part."""
    turns: int = 0
    guided: int = 0
    """Number of turns that the teacher wrote."""
    alone: Counter[bool] = field(default_factory=Counter)
    """Number of trajectories without such a turn, by verdict."""
    tokens: int = 0
    sampled: int = 0
    errors: int = 0
    stops: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    clean: Counter[bool] = field(default_factory=Counter)
    """Number of trajectories without a tool error, by verdict. `failed`: the same for those with an error."""
    failed: Counter[bool] = field(default_factory=Counter)

    def add(self, group: Group) -> None:
        self.dropped += group.dropped
        self.ungraded += len(group.ungraded)
        self._compare(group)
        for trajectory in group:
            self.count += 1
            self.reward += trajectory.reward
            self.rewards += trajectory.rewards
            self.rewarded.update(trajectory.rewards.keys())
            self.turns += len(trajectory.turns)
            self.guided += trajectory.guided
            self.alone[trajectory.judged.is_right] += not trajectory.guided
            self.tokens += trajectory.response_tokens
            self.sampled += sum(trajectory.mask)
            self.errors += trajectory.tool_errors
            self.stops[trajectory.stop] += 1
            self.outcomes += trajectory.outcomes
            (self.failed if trajectory.tool_errors else self.clean)[trajectory.judged.is_right] += 1

    def _compare(self, group: Group) -> None:
        """Count whether GRPO learns right from wrong on the group, or only the reward's corrections."""
        if not len(group):
            return
        verdicts = {trajectory.judged.is_right for trajectory in group}
        rewards_B = torch.tensor([trajectory.reward for trajectory in group], dtype=torch.float64)
        right_B = torch.tensor([trajectory.judged.is_right for trajectory in group])
        advantage_B = ADVANTAGES[self.advantage_of](rewards_B, right_B, torch.zeros(len(group), dtype=torch.long))
        advantage = float(advantage_B.abs().sum())
        alike, contrast = group.is_alike, bool((rewards_B != rewards_B[0]).any())
        corrected = alike and all(trajectory.rewards.keys() <= {VERDICT} for trajectory in group)
        self.groups += 1
        self.alike += alike
        self.solved += True in verdicts
        self.contrast += contrast
        self.shaped += corrected and contrast
        self.advantage += advantage
        self.advantage_shaped += advantage if corrected else 0.0

    def __add__(self, other: "RolloutTotals") -> "RolloutTotals":
        counted = [each.name for each in fields(self) if each.name != "advantage_of"]
        return RolloutTotals(
            self.advantage_of, **{name: getattr(self, name) + getattr(other, name) for name in counted}
        )

    def metrics(self) -> dict[str, float]:
        """Return means over the trajectories, without dropped and ungraded ones."""
        count, calls = self.count, self.outcomes.total()
        lost: dict[str, float] = {"rollout/dropped": self.dropped, "rollout/ungraded": self.ungraded}
        if not count:
            return lost
        return {
            "rollout/reward": self.reward / count,
            **self._parts(),
            "rollout/solved": (self.clean[True] + self.failed[True]) / count,
            "rollout/answered": self.stops["answered"] / count,
            "rollout/turns": self.turns / count,
            **self._guidance(),
            "rollout/tokens": self.tokens / count,
            "rollout/tokens_sampled": self.sampled,
            **lost,
            "rollout/lost": (self.dropped + self.ungraded) / (count + self.dropped + self.ungraded),
            "rollout/attempts": count,
            "rollout/groups_alike": self.alike / self.groups,
            "rollout/groups_solved": self.solved / self.groups,
            "rollout/groups_shaped": _ratio(self.shaped, self.contrast),
            "rollout/advantage_shaped": _ratio(self.advantage_shaped, self.advantage),
            "tools/calls": calls / count,
            "tools/malformed": sum(self.outcomes[outcome] for outcome in NO_CALL) / max(1, calls),
            "tools/errors": self.errors / count,
            "tools/trajectories_with_error": self.failed.total() / count,
            "tools/solved_without_error": _ratio(self.clean[True], self.clean.total()),
            "tools/solved_after_error": _ratio(self.failed[True], self.failed.total()),
            **{f"stop/{stop}": n / count for stop, n in sorted(self.stops.items())},
            **{f"outcome/{outcome}": n / count for outcome, n in sorted(self.outcomes.items())},
        }

    def _guidance(self) -> dict[str, float]:
        """Return the teacher's turns per trajectory, and how much the student solves without any; {} without such turns."""
        if not self.guided:
            return {}
        found = {"guided/turns": self.guided / self.count, "guided/trajectories": 1 - self.alone.total() / self.count}
        return found | ({"guided/solved_alone": self.alone[True] / self.alone.total()} if self.alone.total() else {})

    def _parts(self) -> dict[str, float]:
        """Return the mean of each part of the reward over the trajectories that have it. The verdict alone is no part."""
        if self.rewarded.keys() <= {VERDICT}:
            return {}
        return {f"reward/{name}": self.rewards[name] / count for name, count in sorted(self.rewarded.items())}


def of_rollout(groups: Iterable[Group], advantage: str = "grpo") -> dict[str, float]:
    """Return the metrics of an update's trajectories. `advantage`: value of `algorithm.advantage`."""
    totals = RolloutTotals(advantage)
    for group in groups:
        totals.add(group)
    return totals.metrics()


OF_LEARNING = ("rollout/groups_alike", "rollout/groups_shaped", "rollout/advantage_shaped")
"""Metrics about what GRPO learns from a group."""


def of_resampling(groups: Sequence[Group], learnt: Collection[str], advantage: str = "grpo") -> dict[str, float]:
    """Return the metrics of an update that sampled more problems than it learns from, those with the ids `learnt`.

    Solve rates, lengths and errors are of all sampled problems, because a rate over the chosen ones does not describe the
    student.
    Metrics of what GRPO learns are of the chosen problems.
    """
    chosen = of_rollout((group for group in groups if group.problem.id in learnt), advantage)
    return of_rollout(groups, advantage) | {
        **{name: chosen[name] for name in OF_LEARNING if name in chosen},
        "resample/problems": len(groups),
        "resample/alike": _ratio(sum(group.is_alike for group in groups), len(groups)),
        "resample/left_out": len(groups) - len(learnt),
    }


@dataclass
class StepTotals:
    """Sums of step divergences and SOD's step weights, added batch by batch.

    Means are over all steps, trajectories or tokens that have the quantity. Quantities that none of them has are left out.
    """

    options: AlgorithmOptions
    _sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _counts: Counter[str] = field(default_factory=Counter)
    _patterns: Counter[Pattern] = field(default_factory=Counter)

    def add(self, batch: ScoredBatch) -> None:
        """Add a batch. It is skipped unless a teacher has scored it."""
        if batch.teacher_BT is None or not len(batch):
            return
        d_BK, w_BK, exists_BK = steps(batch, self.options)
        later_BK = exists_BK.clone()
        later_BK[:, :1] = False
        self._add("steps/d", d_BK[exists_BK])
        self._add("steps/d_1", d_BK[:, :1][exists_BK[:, :1]])
        self._add("steps/first_step_agrees", d_BK[:, 0][exists_BK[:, 1:].any(1)] < AGREES_NATS)
        self._add("steps/w_after_first", w_BK[later_BK])
        if isinstance(batch, CreditedBatch) and batch.teacher_weight_BT is not None:
            self._add("steps/w_used_after_first", step_mean(batch.teacher_weight_BT, batch.steps_BT)[later_BK])
        self._add("steps/w_capped", w_BK[later_BK] >= 1 + self.options.delta - 1e-6)
        log_ratio_N = (batch.teacher_BT - batch.student_BT)[batch.mask_BT].abs()
        if total := float(log_ratio_N.sum()):
            outliers = log_ratio_N.topk(max(1, len(log_ratio_N) // 20)).values
            self._sums["steps/signal_in_top_5_percent_of_tokens"] += float(outliers.sum()) / total * len(log_ratio_N)
            self._counts["steps/signal_in_top_5_percent_of_tokens"] += len(log_ratio_N)
        if batch.span_share_BT is not None:
            self._add("teacher/aligned_share", batch.span_share_BT[batch.mask_BT] > 0)
        if batch.outside_BT is not None:
            outside_N = batch.outside_BT[batch.mask_BT]
            self._add("teacher/outside_top", outside_N > 0)
            self._add("teacher/outside_width", outside_N[outside_N > 0])
        if batch.teacher_entropy_BT is not None:
            self._add("steps/teacher_entropy", batch.teacher_entropy_BT[batch.mask_BT])
        self._patterns.update(p for p in map(pattern, ragged(w_BK, exists_BK)) if p)

    def metrics(self) -> dict[str, float]:
        total = self._patterns.total()
        return {name: self._sums[name] / count for name, count in self._counts.items() if count} | (
            {f"pattern/{name}": self._patterns[name] / total for name in PATTERNS} if total else {}
        )

    def _add(self, name: str, values: Tensor) -> None:
        self._sums[name] += float(values.sum())
        self._counts[name] += values.numel()


def of_steps(batch: ScoredBatch, options: AlgorithmOptions) -> dict[str, float]:
    """Return the metrics of an update's steps, for every algorithm with a teacher."""
    totals = StepTotals(options)
    totals.add(batch)
    return totals.metrics()


def of_sampler(batch: ScoredBatch) -> dict[str, float]:
    """Return the differences between the sampler's log-probabilities and a full forward pass with the same weights, in nats."""
    if not batch.recomputed_B.any():
        return {}
    sampled_BT = pad([t.sampler_logprobs for t in batch.trajectories], torch.float32)
    gap_N = (sampled_BT - batch.student_BT).abs()[batch.mask_BT & batch.recomputed_B[:, None]]
    return {"sampler/gap_mean": float(gap_N.mean()), "sampler/gap_max": float(gap_N.max())}


def of_time(
    batch: Batch, phases: dict[str, float], *, sampled: float, generate: float, score: float, tools: float
) -> dict[str, float]:
    """Return the timing of an update: seconds, tokens per second, and the share of time that each part waited.

    `phases`: wall-clock seconds of sample, learn and sync, which run one after another. Within sample, `generate` and
    `score` are seconds of computation, `tools` are seconds with at least one tool running; they overlap. `sampled`: number of
    sampled tokens, those of problems that the update does not learn from included.
    """
    sample, learn = phases["sample"], phases["learn"]
    update = sum(phases.values())
    tokens = int(batch.lengths_B.sum())
    return {
        **{f"seconds/{name}": value for name, value in phases.items()},
        "seconds/generate": generate,
        "seconds/score": score,
        "seconds/tools": tools,
        "seconds/waiting": max(0.0, sample - generate - score),
        "seconds/update": update,
        "speed/tokens_per_second": _ratio(sampled, update),
        "speed/generate_tokens_per_second": _ratio(sampled, generate),
        "speed/score_tokens_per_second": _ratio(tokens, score),
        "speed/learn_tokens_per_second": _ratio(tokens, learn),
        "speed/padding_spared": 1 - _ratio(tokens, batch.ids_BT.numel()),
        "waited/generate": 1 - min(1.0, _ratio(generate, sample)),
        "waited/score": 1 - min(1.0, _ratio(score, sample)),
        "waited/tools": 1 - min(1.0, _ratio(tools, sample)),
        "waited/learn": 1 - _ratio(learn, update),
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def steps(batch: ScoredBatch, options: AlgorithmOptions) -> tuple[Tensor, Tensor, Tensor]:
    """Return d, w by SOD's rule, and whether the step exists. -> (B, K) each"""
    d_BK = step_divergence(*batch.pair_BT, batch.steps_BT, batch.span_share_BT)
    w_BK = step_weights(d_BK, epsilon=options.epsilon, delta=options.delta)
    return d_BK, w_BK, step_mean(torch.ones(batch.ids_BT.shape), batch.steps_BT) > 0


def ragged(values_BX: Tensor, exists_BX: Tensor) -> list[list[float]]:
    """Return the existing values of each row."""
    return [values_X[exists_X].tolist() for values_X, exists_X in zip(values_BX, exists_BX, strict=True)]
