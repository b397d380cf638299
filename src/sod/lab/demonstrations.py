"""Generate demonstrations of the lab's tasks, the training data of the cold start.

A demonstration is a sequence of thought, call and result, up to the boxed answer. Thoughts vary from turn to turn, so that
even the first step has entropy, as in real reasoning. Teacher and student see different mixtures of the same phrases, like
two models of different origin. They therefore disagree a little everywhere, not only after the student's errors.

A *slip* is one wrong call, its real error message, and the correct call after it. A demonstration has at most one. The
teacher's slips have no loss, so the teacher learns to recover from one error without learning to make it. Like any teacher,
it is unreliable in states it has not seen. The student's slips have a loss, like errors in uncleaned data.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from sod.chat.format import parse_calls
from sod.lab.tasks import Call, Task
from sod.moved import keep_old_names
from sod.types import MalformedCall, Message

TOOL = "code_interpreter"

SLOTS = (
    ("ok ", "so ", "now ", "well "),
    ("let me ", "i will ", "we can ", "i should "),
    ("find ", "work out ", "compute ", "get "),
    ("", "the value of ", "what is ", "next "),
)


@dataclass(frozen=True, slots=True)
class Style:
    """The writing style of a demonstrator."""

    odds: tuple[tuple[float, ...], ...]
    """Odds of each slot's phrases."""
    slips: float
    """Share of demonstrations with a slip."""
    kinds: tuple[str, ...]
    """Kinds of slips; repetitions are odds."""
    slips_from: float
    """Share of the curriculum before slips start. With earlier slips, a model that cannot copy yet learns not to copy."""
    careless: bool
    """Train on slips as well."""

    def thought(self, rng: random.Random, subject: str, slots: Sequence[Sequence[str]] = SLOTS) -> str:
        """Return a thought: a phrase of each slot, then the subject. There may be fewer slots than odds."""
        phrases = (rng.choices(slot, odds)[0] for slot, odds in zip(slots, self.odds, strict=False))
        return "".join(phrases) + subject + "."


ANY_SLIP = ("name", "name", "name", "unclosed", "operator", "json")
STUDENT_STYLE = Style(odds=((1, 1, 1, 1),) * 4, slips=0.4, kinds=("unclosed", "json"), slips_from=0.6, careless=True)
TEACHER_STYLE = Style(
    odds=((8, 1, 1, 1), (1, 8, 1, 1), (1, 1, 8, 1), (8, 1, 1, 1)),
    slips=0.5,
    kinds=ANY_SLIP,
    slips_from=0.4,
    careless=False,
)


def solution_of(task: Task, style: Style, rng: random.Random) -> list[Message]:
    """Return a solution of the task in the given style: user, assistant, tool, ..., assistant."""
    slip_at = rng.randrange(len(task.calls)) if rng.random() < style.slips else None
    messages: list[Message] = [{"role": "user", "content": task.question}]
    for i, call in enumerate(task.calls):
        if i == slip_at:
            slip = _slip(call, style.thought(rng, call.subject), rng.choice(style.kinds), rng)
            messages += slip if style.careless else [slip[0] | {"weight": 0}, slip[1]]
        messages += [_assistant(style.thought(rng, call.subject), call.lines), _tool(str(call.result))]
    messages.append({"role": "assistant", "content": f"the answer is \\boxed{{{task.answer}}}"})
    return messages


def _assistant(thought: str, lines: tuple[str, ...]) -> Message:
    function: dict[str, Any] = {"name": TOOL, "arguments": {"code": "\n".join(lines)}}
    return {"role": "assistant", "content": thought, "tool_calls": [{"type": "function", "function": function}]}


def _tool(content: str) -> Message:
    return {"role": "tool", "name": TOOL, "content": content}


def _slip(call: Call, thought: str, kind: str, rng: random.Random) -> list[Message]:
    """Return a call that fails, and the error message of the interpreter or the parser."""
    if kind == "json":
        return _malformed(call, thought, rng)
    if kind == "name" and "=" in call.lines[-2:][0]:
        lines, error = _wrong_name(call, rng)
    elif kind == "operator" and any(operator in call.lines[-2:][0] for operator in "+*-%"):
        lines = tuple(
            _double_operator(line) if i == max(0, len(call.lines) - 2) else line for i, line in enumerate(call.lines)
        )
        error = "SyntaxError: invalid syntax"
    else:
        lines, error = (*call.lines[:-1], call.lines[-1][:-1]), "SyntaxError: '(' was never closed"
    return [_assistant(thought, lines), _tool(error)]


def _wrong_name(call: Call, rng: random.Random) -> tuple[tuple[str, ...], str]:
    """Change one letter of one name, at a place where that raises a NameError. Return the lines and the error message."""
    known = [line.split("=")[0] for line in call.lines[:-1]]
    definition = call.lines[-2].split("=")[1]
    used = [name for name in known[:-1] if name in definition]
    right = rng.choice([*used, call.subject])
    wrong = right
    while wrong in known:
        first, second = rng.choice(ascii_uppercase[:13]), rng.choice(ascii_uppercase[13:])
        wrong = first + right[1] if rng.random() < 0.5 else right[0] + second
    if right == call.subject:
        lines = (
            (*call.lines[:-1], f"print({wrong})")
            if rng.random() < 0.5
            else (
                *call.lines[:-2],
                f"{wrong}={definition}",
                call.lines[-1],
            )
        )
    elif rng.random() < 0.5:
        lines = (*call.lines[:-2], f"{call.subject}={definition.replace(right, wrong)}", call.lines[-1])
    else:
        lines = tuple(line.replace(f"{right}=", f"{wrong}=") for line in call.lines)
    return lines, name_error(lines, suggest=rng.random() < 0.5)


def name_error(lines: tuple[str, ...], *, suggest: bool) -> str:
    """Return CPython's error message for these lines. Some versions suggest a similar name, others do not."""
    scope: dict[str, Any] = {}
    try:
        exec("\n".join(lines), {"print": lambda value: None}, scope)
    except NameError as error:
        near = [name for name in scope if sum(a != b for a, b in zip(name, str(error.name), strict=True)) == 1]
        return f"NameError: {error.args[0]}" + (f". Did you mean: '{near[0]}'?" if suggest and near else "")
    raise ValueError(f"no NameError in {lines}")


def _double_operator(line: str) -> str:
    return "".join(char + "*/" if char in "+*-%" else char for char in line)


def _malformed(call: Call, thought: str, rng: random.Random) -> list[Message]:
    """Return a call with broken JSON, and the parser's error message."""
    code = "\\n".join(call.lines)
    broken = rng.choice((f"{code}}}}}", f'{code}"}}', f'{code}"'))
    text = f'{thought}\n<tool_call>\n{{"name": "{TOOL}", "arguments": {{"code": "{broken}\n</tool_call>'
    (parsed,) = parse_calls(text)
    assert isinstance(parsed, MalformedCall), text
    return [{"role": "assistant", "content": text}, _tool(parsed.complaint)]


keep_old_names(__name__, demonstrate="solution_of", STUDENT="STUDENT_STYLE", TEACHER="TEACHER_STYLE")
