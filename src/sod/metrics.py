"""What an update or an evaluation looked like, in numbers. Keys are area/name."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from sod.batching import Batch, pad
from sod.config import AlgorithmOptions
from sod.core import step_divergence, step_mean, step_weights
from sod.patterns import Pattern, pattern
from sod.types import Group, Outcome, Trajectory

NO_CALL: Sequence[Outcome] = ("malformed", "unknown_tool", "wrong_arguments")
"""Outcomes of what was meant as a call and is none."""
AGREES_NATS = 0.01
"""A first step with a smaller divergence hardly differs from the teacher."""
LONGEST_GOLD = 1000
"""Characters; the tests of a code problem are not repeated with every attempt at it."""

PATTERNS: Sequence[Pattern] = ("stable", "erroneous", "recovery")

Decode = Callable[[list[int]], object]


def of_rollout(groups: Sequence[Group]) -> dict[str, float]:
    """Rewards, lengths, tool errors and endings of the trajectories that survived."""
    trajectories = [trajectory for group in groups for trajectory in group]
    dropped = sum(group.dropped for group in groups)
    ungraded = sum(len(group.ungraded) for group in groups)
    if not trajectories:
        return {"rollout/dropped": dropped, "rollout/ungraded": ungraded}
    count = len(trajectories)
    stops = Counter(trajectory.stop for trajectory in trajectories)
    outcomes = sum((trajectory.outcomes for trajectory in trajectories), Counter())
    calls = sum(outcomes.values())
    failed = [trajectory for trajectory in trajectories if trajectory.tool_errors]
    clean = [trajectory for trajectory in trajectories if not trajectory.tool_errors]
    return {
        "rollout/reward": fmean(t.reward for t in trajectories),
        "rollout/solved": fmean(t.correct for t in trajectories),
        "rollout/answered": stops["answered"] / count,
        "rollout/turns": fmean(len(t.turns) for t in trajectories),
        "rollout/tokens": fmean(t.response_tokens for t in trajectories),
        "rollout/tokens_sampled": sum(sum(t.mask) for t in trajectories),
        "rollout/dropped": dropped,
        "rollout/ungraded": ungraded,
        "rollout/lost": (dropped + ungraded) / (count + dropped + ungraded),
        "rollout/groups_alike": fmean(len({t.reward for t in group}) == 1 for group in groups if len(group)),
        "tools/calls": calls / count,
        "tools/malformed": sum(outcomes[outcome] for outcome in NO_CALL) / max(1, calls),
        "tools/errors": fmean(t.tool_errors for t in trajectories),
        "tools/trajectories_with_error": len(failed) / count,
        "tools/solved_without_error": fmean(t.correct for t in clean) if clean else 0.0,
        "tools/solved_after_error": fmean(t.correct for t in failed) if failed else 0.0,
        **{f"stop/{stop}": n / count for stop, n in sorted(stops.items())},
        **{f"outcome/{outcome}": n / count for outcome, n in sorted(outcomes.items())},
    }


def of_steps(batch: Batch, options: AlgorithmOptions) -> dict[str, float]:
    """How far steps have drifted from the teacher, and what SOD weighs them. Measured under every algorithm."""
    if batch.student_BT is None or batch.teacher_BT is None:
        return {}
    d_BK, w_BK, exists_BK = steps(batch, options)
    patterns = Counter(p for p in map(pattern, _ragged(w_BK, exists_BK)) if p)
    later_BK = exists_BK.clone()
    later_BK[:, :1] = False
    log_ratio_N = (batch.teacher_BT - batch.student_BT)[batch.mask_BT].abs()
    outliers = log_ratio_N.topk(max(1, len(log_ratio_N) // 20)).values if len(log_ratio_N) else log_ratio_N
    return {
        "steps/d": _mean(d_BK[exists_BK]),
        "steps/d_1": _mean(d_BK[:, :1][exists_BK[:, :1]]),
        "steps/first_step_agrees": _mean((d_BK[:, 0][exists_BK[:, 1:].any(1)] < AGREES_NATS).float()),
        "steps/w_after_first": _mean(w_BK[later_BK]),
        **(
            {"steps/w_used_after_first": _mean(step_mean(batch.teacher_weight_BT, batch.steps_BT)[later_BK])}
            if batch.teacher_weight_BT is not None
            else {}
        ),
        **{f"pattern/{name}": patterns[name] / max(1, patterns.total()) for name in PATTERNS},
        "steps/w_capped": _mean((w_BK[later_BK] >= 1 + options.delta - 1e-6).float()),
        "steps/signal_in_top_5_percent_of_tokens": float(outliers.sum() / log_ratio_N.sum().clamp(min=1e-9)),
        "steps/teacher_entropy": _mean(batch.teacher_entropy_BT[batch.mask_BT])
        if batch.teacher_entropy_BT is not None
        else 0.0,
    }


def of_sampler(batch: Batch) -> dict[str, float]:
    """How far the sampler's log-probabilities are from a full forward pass of the same weights, in nats."""
    if batch.student_BT is None or batch.recomputed_B is None or not batch.recomputed_B.any():
        return {}
    sampled_BT = pad([t.sampler_logprobs for t in batch.trajectories], torch.float32)
    gap_N = (sampled_BT - batch.student_BT).abs()[batch.mask_BT & batch.recomputed_B[:, None]]
    return {"sampler/gap_mean": float(gap_N.mean()), "sampler/gap_max": float(gap_N.max())}


def of_time(batch: Batch, phases: dict[str, float], *, generate: float, score: float, tools: float) -> dict[str, float]:
    """Where an update's time went: seconds, tokens per second at work, and what share of its time each part stood still.

    `phases`: wall-clock seconds of sample, learn and sync, which follow each other. Within sample, `generate` and `score` are
    seconds of arithmetic, `tools` those during which any tool ran; they overlap.
    """
    sample, learn = phases["sample"], phases["learn"]
    update = sum(phases.values())
    tokens, sampled = int(batch.lengths_B.sum()), int(batch.mask_BT.sum())
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


def steps(batch: Batch, options: AlgorithmOptions) -> tuple[Tensor, Tensor, Tensor]:
    """d, w by SOD's rule, and whether the step exists. -> (B, K) each"""
    assert batch.student_BT is not None
    assert batch.teacher_BT is not None
    d_BK = step_divergence(batch.student_BT, batch.teacher_BT, batch.steps_BT)
    w_BK = step_weights(d_BK, epsilon=options.epsilon, delta=options.delta)
    return d_BK, w_BK, step_mean(torch.ones(batch.ids_BT.shape), batch.steps_BT) > 0


def rows(batch: Batch, options: AlgorithmOptions, text: Decode, limit: int) -> list[dict[str, Any]]:
    """The first `limit` trajectories as they are kept in a run directory; `text` decodes tokens.

    A piece's author says which tokens were sampled: the mask is true on the student's pieces.
    """
    kept = batch.rows(torch.arange(min(limit, len(batch))))
    made = unscored_rows(kept.trajectories, text)
    if kept.student_BT is None or kept.teacher_BT is None:
        return made
    d_BK, w_BK, exists_BK = steps(kept, options)
    by_step = {"d": d_BK, "w": w_BK}
    by_token = {"signal": kept.teacher_BT - kept.student_BT}
    if kept.teacher_entropy_BT is not None:
        by_token["teacher_entropy"] = kept.teacher_entropy_BT
        by_step["teacher_entropy"] = step_mean(kept.teacher_entropy_BT, kept.steps_BT)
    if kept.teacher_weight_BT is not None:
        by_step["w_used"] = step_mean(kept.teacher_weight_BT, kept.steps_BT)
    step_values = {name: _ragged(values_BK, exists_BK) for name, values_BK in by_step.items()}
    token_values = {name: _ragged(values_BT, kept.mask_BT) for name, values_BT in by_token.items()}
    for b, row in enumerate(made):
        row["steps"] = [
            dict(zip(step_values, step, strict=True))
            for step in zip(*(values[b] for values in step_values.values()), strict=True)
        ]
        row["pattern"] = pattern([step["w"] for step in row["steps"]])
        at = 0
        for piece in row["pieces"]:
            if piece["author"] == "student":
                end = at + len(piece["tokens"])
                piece["token_texts"] = [str(text([token])) for token in piece["tokens"]]
                piece |= {name: [round(v, 4) for v in values[b][at:end]] for name, values in token_values.items()}
                at = end
    return made


def _ragged(values_BX: Tensor, exists_BX: Tensor) -> list[list[float]]:
    """Each row's values where they exist."""
    return [values_X[exists_X].tolist() for values_X, exists_X in zip(values_BX, exists_BX, strict=True)]


def unscored_rows(trajectories: Iterable[Trajectory], text: Decode) -> list[dict[str, Any]]:
    """Trajectories as they are kept where no model has scored them: before it does, or because no judge could decide."""
    return [_row(trajectory, text) for trajectory in trajectories]


def _row(trajectory: Trajectory, text: Decode) -> dict[str, Any]:
    return {
        "problem": trajectory.problem.id,
        "sample": trajectory.sample,
        "gold": trajectory.problem.answer if len(trajectory.problem.answer) <= LONGEST_GOLD else None,
        "answer": trajectory.answer,
        "correct": trajectory.correct,
        "graded": trajectory.graded,
        "reason": trajectory.reason,
        "reward": trajectory.reward,
        "stop": trajectory.stop,
        "seconds": round(trajectory.seconds, 3),
        "pieces": [
            {
                "author": piece.author,
                "text": str(text(list(piece.tokens))),
                "tokens": list(piece.tokens),
                **({"logprobs": [round(p, 6) for p in piece.logprobs]} if piece.logprobs else {}),
                **({"outcomes": list(piece.outcomes)} if piece.outcomes else {}),
            }
            for piece in trajectory.pieces
        ],
        "steps": [],
    }


def _mean(values: Tensor) -> float:
    return float(values.mean()) if values.numel() else 0.0
