"""Convert trajectories to rows of a file and back."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from sod.batching import CreditedBatch, ScoredBatch
from sod.config import AlgorithmOptions
from sod.config.teachers import Route, route_for
from sod.core import step_mean
from sod.runs.metrics import ragged, steps
from sod.runs.patterns import pattern
from sod.types import Message, Piece, Problem, Trajectory, Verdict

LONGEST_GOLD = 1000
"""Longest reference answer that is saved, in characters. Tests of code problems are not repeated in every row."""

Record = dict[str, Any]
Decode = Callable[[list[int]], object]


def to_record(trajectory: Trajectory, text: Decode) -> Record:
    """Return a trajectory as a row of a run directory. `text` decodes tokens.

    The author of a piece shows which tokens were sampled: the mask is true on the student's pieces.
    """
    return {
        "problem": trajectory.problem.id,
        "sample": trajectory.sample,
        "gold": trajectory.problem.answer if len(trajectory.problem.answer) <= LONGEST_GOLD else None,
        **verdict_record(trajectory.judged),
        **reward_record(trajectory),
        **_beyond_default(trajectory),
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


def _beyond_default(trajectory: Trajectory) -> Record:
    """Return what an environment adds to a row."""
    parts = {
        "turn_rewards": list(trajectory.turn_rewards),
        "messages": list(trajectory.messages),
        "tools": list(trajectory.tools),
    }
    found: Record = {name: part for name, part in parts.items() if part}
    if trajectory.messages:
        own = trajectory.environment_verdict
        found["environment_verdict"] = None if own is None else verdict_record(own)
    return found


def reward_record(trajectory: Trajectory) -> Record:
    """Return a reward as keys of a record. Its parts are left out if there are none beside the verdict's."""
    parts = dict(trajectory.rewards)
    whole = {"reward": trajectory.reward}
    return whole if parts in ({}, {"verdict": trajectory.reward}) else whole | {"rewards": parts}


def scored_records(
    batch: ScoredBatch, options: AlgorithmOptions, text: Decode, limit: int, routes: Sequence[Route] = ()
) -> list[Record]:
    """Return rows of the first `limit` trajectories, with d, w and signal if both models have scored the batch.

    `routes`: the teachers, if there are several. A row then has the name of its own.
    """
    kept = batch.rows(torch.arange(min(limit, len(batch))))
    made = [to_record(trajectory, text) for trajectory in kept.trajectories]
    if kept.teacher_BT is None:
        return made
    d_BK, w_BK, exists_BK = steps(kept, options)
    by_step = {"d": d_BK, "w": w_BK}
    by_token = {"signal": kept.teacher_BT - kept.student_BT}
    if kept.span_share_BT is not None:
        by_token["span_share"] = kept.span_share_BT
    if kept.teacher_entropy_BT is not None:
        by_token["teacher_entropy"] = kept.teacher_entropy_BT
        by_step["teacher_entropy"] = step_mean(kept.teacher_entropy_BT, kept.steps_BT)
    if isinstance(kept, CreditedBatch) and kept.teacher_weight_BT is not None:
        by_step["w_used"] = step_mean(kept.teacher_weight_BT, kept.steps_BT)
    step_values = {name: ragged(values_BK, exists_BK) for name, values_BK in by_step.items()}
    token_values = {name: ragged(values_BT, kept.mask_BT) for name, values_BT in by_token.items()}
    for b, row in enumerate(made):
        if route := route_for(routes, kept.trajectories[b].problem):
            row["teacher"] = route.name
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


def written_messages(row: Mapping[str, Any]) -> list[Message]:
    """Return the text of each piece of a row as a message, for rewards of the user's own."""
    roles = {"prompt": "user", "student": "assistant", "teacher": "assistant"}
    return [{"role": roles.get(p["author"], p["author"]), "content": p["text"]} for p in row["pieces"]]


def verdict_record(verdict: Verdict) -> Record:
    """Return a verdict as four keys of a record."""
    return {
        "answer": verdict.answer,
        "correct": verdict.is_right,
        "graded": verdict.is_graded,
        "reason": verdict.reason,
    }


def verdict_of(row: Mapping[str, Any]) -> Verdict:
    """Return the verdict of a record. The inverse of `verdict_record`."""
    outcome = ("right" if row["correct"] else "wrong") if row["graded"] else "ungraded"
    return Verdict(outcome=outcome, answer=row["answer"], reason=row["reason"])


def from_record(row: Mapping[str, Any], problem: Problem, text: Callable[[Sequence[int]], str]) -> Trajectory:
    """Return the trajectory in a row. `text` decodes a turn without its end.

    Raise LookupError, TypeError or ValueError for a damaged row.
    """
    pieces = tuple(
        Piece(
            piece["author"],
            tuple(map(int, piece["tokens"])),
            tuple(map(float, piece.get("logprobs", ()))),
            tuple(piece.get("outcomes", ())),
        )
        for piece in row["pieces"]
    )
    return Trajectory(
        problem=problem,
        sample=int(row["sample"]),
        pieces=pieces,
        stop=row["stop"],
        final_text=text(pieces[-1].tokens) if row["stop"] == "answered" else "",
        verdict=verdict_of(row),
        reward=float(row["reward"]),
        rewards={name: float(value) for name, value in row.get("rewards", {"verdict": row["reward"]}).items()},
        turn_rewards=tuple(map(float, row.get("turn_rewards", ()))),
        messages=tuple(row.get("messages", ())),
        tools=tuple(row.get("tools", ())),
        environment_verdict=verdict_of(own) if (own := row.get("environment_verdict")) else None,
        seconds=float(row["seconds"]),
    )
