"""Demonstrations of a world by its expert, with slips and recoveries.

A slip is a plausible wrong action. Its consequences are those of the world; the expert then continues from the state that it
finds. The teacher's demonstrations have at most one slip, without loss, and all of them solve the task. The student's slips
have a loss, and its demonstrations may fail, like uncleaned data.
"""

import random
from dataclasses import dataclass, replace
from typing import Any

from sod.environments.worlds.base import LEVELS, Move, SmallWorld, turn_of, turns_of_expert
from sod.lab.demonstrations import STUDENT_STYLE, TEACHER_STYLE, Style
from sod.types import Message

SLOTS = (("ok", "so", "now", "well"), (" ", " then ", " next ", " here "))
WORLD_STUDENT_STYLE = replace(STUDENT_STYLE, slips=0.5)
WORLD_TEACHER_STYLE = replace(TEACHER_STYLE, slips=0.5)


@dataclass(frozen=True, slots=True)
class Episode:
    messages: list[Message]
    is_solved: bool
    slips: int


def episode_of(kind: type[SmallWorld], level: int, number: int, style: Style, rng: random.Random) -> Episode:
    """Let the expert play, with a slip in some of the demonstrations."""
    world = kind()
    opening = world.begin(level, number)
    slip_at = rng.randrange(turns_of_expert(kind, level, number)) if rng.random() < style.slips else -1
    messages: list[Message] = list(opening.conversation)
    turns, slips, is_over = 0, 0, False
    while not is_over:
        move = world.expert()
        wrong = [action for action in world.actions() if action != move.action]
        is_slip = turns == slip_at and bool(wrong) and not move.is_answer
        if is_slip:
            move = Move(move.thought, rng.choice(wrong))
            slips += 1
        message = _message(kind, move, style.thought(rng, move.thought, SLOTS))
        messages.append(message if style.careless or not is_slip else message | {"weight": 0})
        step = world.play(turn_of(move, kind))
        turns, is_over = turns + 1, step.is_over
        if not is_over:
            messages += [_answer(kind, observation.text) for observation in step.observations]
    is_solved = world.decide().is_right
    world.end()
    return Episode(messages, is_solved, slips)


def _message(kind: type[SmallWorld], move: Move, thought: str) -> Message:
    if kind.TOOL is None or move.is_answer:
        return {"role": "assistant", "content": f"{thought}\n{move.action}"}
    name, argument = kind.TOOL
    function: dict[str, Any] = {"name": name, "arguments": {argument: move.action}}
    return {"role": "assistant", "content": thought, "tool_calls": [{"type": "function", "function": function}]}


def _answer(kind: type[SmallWorld], text: str) -> Message:
    return (
        {"role": "user", "content": text}
        if kind.TOOL is None
        else {"role": "tool", "name": kind.TOOL[0], "content": text}
    )


def demonstration_at(kind: type[SmallWorld], done: float, style: Style, rng: random.Random) -> list[Message]:
    """Return a demonstration for the point `done` (0 to 1) of the curriculum, on a problem that no file of problems has.

    The first quarter has level 1, the second levels 1 and 2, the rest all levels. Slips start at `style.slips_from`.
    """
    if done < style.slips_from:
        style = replace(style, slips=0.0)
    while True:
        level = rng.choice(LEVELS[: 1 if done < 0.25 else 2 if done < 0.5 else 3])
        made = episode_of(kind, level, -1 - rng.randrange(1 << 40), style, rng)
        if made.is_solved or style.careless:
            return made.messages
