r"""What is said around a problem: put there, recognised, and taken off again. The texts themselves are in `prompts.toml`.

Judges read mathematics and choices in `\boxed{}` and programs in a fenced block, so a problem that asks for its answer
anywhere else is asked anew.
"""

import re
import tomllib
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from sod.rewards.code_golds import tests_of

Prompts = Literal["clean", "paper"]

_FOREIGN = (
    # DAPO-Math-17k asks for a last line that begins with "Answer:", which no judge reads.
    re.compile(r"^Solve the following math problem[^\n]*Answer:[^\n]*\n\n"),
    re.compile(r"\n\nRemember to put your answer on its own line after [^\n]*$"),
    # A processed copy of it, whose braces were doubled.
    re.compile(r"\s*Please reason step by step, and put your final answer within \\boxed\{\{\}\}\.$"),
)
_ASKS_FOR = {"math": re.compile(r"\\boxed"), "choice": re.compile(r"\\boxed"), "code": re.compile(r"```|code block")}


def worded(problem: str, kind: str, prompts: Prompts, *, gold: str = "", starter: str = "") -> str:
    """A bare problem with what is said around it. Of code problems, the gold tells how the program is called."""
    fills = {"problem": problem.strip()}
    style = kind
    if kind == "code":
        names = sorted(tests_of(gold).names - {"Solution"})
        style = "code_function" if names else "code_stdin"
        fills["code"] = starter.strip("\n").rstrip() or "\n".join(f"def {name}(...):" for name in names)
    template = _templates()[prompts][style]
    return re.sub(r"\{(problem|code)\}", lambda hole: fills[hole[1]], template)


def asked(text: str, kind: str, prompts: Prompts, *, gold: str = "", starter: str = "") -> str:
    """A training problem as the student reads it: with the wording that it brings, or else with ours."""
    stripped = without_foreign(text)
    if stripped == text and _ASKS_FOR[kind].search(text):
        return text
    return worded(stripped, kind, prompts, gold=gold, starter=starter)


def without_foreign(text: str) -> str:
    """A text without the wordings of published sets that ask for an answer where no judge looks."""
    for pattern in _FOREIGN:
        text = pattern.sub("", text)
    return text


def bare(text: str) -> str:
    """A problem without any wording that is known here, ours included: for comparing what is asked."""
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
    """What stands before and after the problem in every wording that has nothing else in it."""
    texts = [text for style in _templates().values() for text in style.values() if "{code}" not in text]
    return [(before, after) for before, _, after in (text.partition("{problem}") for text in texts)]
