r"""Add, recognise and remove the wording around a problem. The texts are those of its kind (`sod.rewards.kinds`).

Judges read answers of mathematics and choices in `\boxed{}`, and programs in a fenced block. The wording of a problem that asks
for another form is replaced.
"""

import re
from collections.abc import Iterator

from sod.rewards.kinds import KINDS, Prompts

_FOREIGN = (
    # DAPO-Math-17k asks for a last line that begins with "Answer:". No judge reads it.
    re.compile(r"^Solve the following math problem[^\n]*Answer:[^\n]*\n\n"),
    re.compile(r"\n\nRemember to put your answer on its own line after [^\n]*$"),
    # A processed copy of it with doubled braces.
    re.compile(r"\s*Please reason step by step, and put your final answer within \\boxed\{\{\}\}\.$"),
)


def worded(problem: str, kind: str, prompts: Prompts, *, gold: str = "", starter: str = "") -> str:
    """Return a problem with its wording. The gold of a code problem determines whether a function or a program is asked for.

    `starter`: the code that the answer begins with. Default: the signature of the kind.
    """
    own = KINDS[kind]
    wording, code = own.wording, own.signature(gold) if own.signature else ""
    if code and own.code_wording:
        wording = own.code_wording
    fills = {"problem": problem.strip(), "code": starter.strip("\n").rstrip() or code}
    return re.sub(r"\{(problem|code)\}", lambda hole: fills[hole[1]], wording[prompts])


def asked(text: str, kind: str, prompts: Prompts, *, gold: str = "", starter: str = "") -> str:
    """Return a training problem as the student reads it: with its own wording, or with sod's if it has none."""
    stripped = without_foreign(text)
    if stripped == text and KINDS[kind].asks_exactly.search(text):
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


def _frames() -> Iterator[tuple[str, str]]:
    """Yield the text before and after the problem, for every wording without other fields."""
    for text in [text for kind in KINDS.values() for text in kind.wording.values()]:
        before, _, after = text.partition("{problem}")
        if before or after:
            yield before, after
