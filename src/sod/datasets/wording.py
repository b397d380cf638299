r"""Add, recognise and remove the wording around a problem. The texts are in `prompts.toml`.

Judges read answers of mathematics and choices in `\boxed{}`, and programs in a fenced block. The wording of a problem that asks
for another form is replaced.
"""

import re
import tomllib
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from sod.rewards.code_golds import tests_of

Prompts = Literal["clean", "paper"]

_FOREIGN = (
    # DAPO-Math-17k asks for a last line that begins with "Answer:". No judge reads it.
    re.compile(r"^Solve the following math problem[^\n]*Answer:[^\n]*\n\n"),
    re.compile(r"\n\nRemember to put your answer on its own line after [^\n]*$"),
    # A processed copy of it with doubled braces.
    re.compile(r"\s*Please reason step by step, and put your final answer within \\boxed\{\{\}\}\.$"),
)
_ASKS_FOR = {"math": re.compile(r"\\boxed"), "choice": re.compile(r"\\boxed"), "code": re.compile(r"```|code block")}


def worded(problem: str, kind: str, prompts: Prompts, *, gold: str = "", starter: str = "") -> str:
    """Return a problem with its wording. The gold of a code problem determines whether a function or a program is asked for."""
    fills = {"problem": problem.strip()}
    style = kind
    if kind == "code":
        names = sorted(tests_of(gold).names - {"Solution"})
        style = "code_function" if names else "code_stdin"
        fills["code"] = starter.strip("\n").rstrip() or "\n".join(f"def {name}(...):" for name in names)
    template = _templates()[prompts][style]
    return re.sub(r"\{(problem|code)\}", lambda hole: fills[hole[1]], template)


def asked(text: str, kind: str, prompts: Prompts, *, gold: str = "", starter: str = "") -> str:
    """Return a training problem as the student reads it: with its own wording, or with sod's if it has none."""
    stripped = without_foreign(text)
    if stripped == text and _ASKS_FOR[kind].search(text):
        return text
    return worded(stripped, kind, prompts, gold=gold, starter=starter)


def without_foreign(text: str) -> str:
    """Remove wordings of published sets that ask for the answer in a form that no judge reads."""
    for pattern in _FOREIGN:
        text = pattern.sub("", text)
    return text


def bare(text: str) -> str:
    """Return a problem without any known wording, including sod's, to compare questions."""
    text = without_foreign(text.strip())
    for before, after in _frames():
        if text.startswith(before) and text.endswith(after) and len(text) >= len(before) + len(after):
            return text[len(before) : len(text) - len(after)].strip()
    return text


@cache
def _templates() -> dict[str, dict[str, str]]:
    content: dict[str, Any] = tomllib.loads(files("sod.datasets").joinpath("prompts.toml").read_text(encoding="utf-8"))
    return content


@cache
def _frames() -> list[tuple[str, str]]:
    """Return the text before and after the problem, for every wording without other fields."""
    texts = [text for style in _templates().values() for text in style.values() if "{code}" not in text]
    return [(before, after) for before, _, after in (text.partition("{problem}") for text in texts)]
