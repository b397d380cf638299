r"""Check that prompts ask for the answer in the form that judges read: `\boxed{}`, or a block of code.

If a prompt asks for neither, right solutions count as wrong, without an error. All messages of the prompt count, and the chat
template's own text. A prompt without words (`gcd(84,36)?`) is a formula for a model trained on such prompts. It does not have to
ask.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sod.datasets.rows import ProblemFile
from sod.datasets.wording import asked, without_foreign
from sod.rewards import NO_ANSWER, NO_CODE
from sod.rewards.kinds import KINDS, is_silent
from sod.types import Problem, Trajectory

SHARE = 0.1
"""Smallest share of prompts that do not ask, for a warning."""
SILENCE = 0.9
"""Smallest share of samples without an answer, for a note with the causes."""
_WORD = re.compile(r"[^\W\d_]{4,}")
_CAUSES = {
    "max_tokens": "were cut off at the token limit",
    "max_turns": "used all turns",
    "repeated": "repeated themselves",
}


def load_asked(path: Path, limit: int | None = None) -> tuple[list[Problem], tuple[str, ...]]:
    """Return the problems of a file, and notes to print about them.

    Prompts are unchanged, except known wordings that ask for the answer in a form that no judge reads.
    """
    file = ProblemFile(path, limit)
    problems, changed = reworded(list(file))
    notes: list[str] = []
    if limit == len(problems):
        notes.append(f"the first {limit} problems of the file")
    if file.repetitions:
        one = file.repetitions == 1
        notes.append(
            f"{file.repetitions} {'row repeats another and is' if one else 'rows repeat others and are'} left out"
        )
    if changed:
        notes.append(
            rf"{changed} prompts ask for a line `Answer: ...`, but judges read only \boxed{{}}: their wording is replaced"
        )
    return problems, tuple(notes)


def reworded(problems: Sequence[Problem]) -> tuple[list[Problem], int]:
    """Return problems with these known wordings replaced, as `sod data convert` does, and the number of changed problems."""
    new = [_reworded(problem) for problem in problems]
    return new, sum(one is not other for one, other in zip(new, problems, strict=True))


def _reworded(problem: Problem) -> Problem:
    *before, last = problem.messages
    if last["role"] != "user" or without_foreign(last["content"]) == last["content"]:
        return problem
    text = asked(last["content"], problem.kind, "clean", gold=problem.answer)
    return replace(problem, messages=(*before, {**last, "content": text}))


def asks(problem: Problem) -> bool:
    """Return whether a prompt asks for the form that its judge reads, or is a formula."""
    texts = [message["content"] for message in problem.messages]
    return any(map(KINDS[problem.kind].asks.search, texts)) or not any(map(_WORD.search, texts))


def unasked(problems: Sequence[Problem], template: str = "") -> list[str]:
    """Return warnings about prompts that do not ask for the form that their judge reads.

    `template`: the text that the chat template adds to every prompt.
    """
    quiet = Counter(problem.kind for problem in problems if not asks(problem))
    quiet = Counter({kind: count for kind, count in quiet.items() if not KINDS[kind].asks.search(template)})
    return unasked_lines(Counter(problem.kind for problem in problems), quiet)


def unasked_lines(kinds: Counter[str], quiet: Counter[str]) -> list[str]:
    """Return the same warnings from counts by kind: all problems, and those that do not ask."""
    return [
        f"{count} of {kinds[kind]} prompts of kind {kind} do not ask for {KINDS[kind].place}, but the judge reads the answer "
        "only there. Add the wording with `sod data convert FILE`, unless the model is trained to answer in this form."
        for kind, count in quiet.items()
        if count and count >= SHARE * kinds[kind]
    ]


def silence(trajectories: Sequence[Trajectory]) -> Counter[str]:
    """Count attempts without an answer by cause."""
    return Counter(_cause(each) for each in trajectories if is_silent(each))


def _cause(trajectory: Trajectory) -> str:
    if trajectory.stop in _CAUSES:
        return _CAUSES[trajectory.stop]
    if trajectory.judged.reason in (NO_ANSWER, NO_CODE):
        return f"end without {KINDS[trajectory.problem.kind].place} in the last turn"
    return f"have an answer that cannot be parsed ({trajectory.judged.reason})"


def why_silent(causes: Counter[str], samples: int, problems: Sequence[Problem]) -> list[str]:
    """Return a note on an evaluation in which almost no sample has an answer; [] for any other."""
    if not samples or causes.total() < SILENCE * samples:
        return []
    parts = ", ".join(f"{count} {cause}" for cause, count in causes.most_common())
    quiet = sum(not asks(problem) for problem in problems)
    asking = "All prompts ask for it." if not quiet else f"{quiet} of {len(problems)} prompts do not ask for it."
    return [f"{causes.total()} of {samples} samples have no answer: {parts}. {asking}"]
