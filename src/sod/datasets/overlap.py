r"""Find shared text by word n-grams, the usual measure of contamination.

Words are runs of letters and digits, and single signs, in lower case. LaTeX for layout only (`\left`, `\,`, `\dfrac` for `\frac`)
is ignored. A benchmark's problem is found in a text that has at least a given share of the problem's n-grams. A problem too short
for an n-gram is found if it is the whole text. The time is linear in the length of the texts.

Two problems of equal text are different ones if both have an environment, a setting or files, and those differ.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from sod.datasets.wording import bare
from sod.runs.files import sha256_of_file
from sod.types import Message, Problem

_LOOKS = re.compile(
    r"\\(?:left|right|[bB]igg?[lr]?|(?:display|text|script)style|q?quad|limits|thinspace)(?![a-zA-Z])|\\[,;:!> ]|~"
)
_BRACKETS = re.compile(r"\\[()\[\]]|\$\$")
_FRACTION = re.compile(r"\\[dtc]frac(?![a-z])")
_WORD = re.compile(r"[^\W_]+|[^\w\s]|_")

Gram = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Overlap:
    """A problem of a benchmark that was found in a text."""

    problem: int
    """The number of the problem, from 0."""
    share: float
    """Share of the problem's n-grams that are in the text; 1 for a short problem that is the whole text."""
    grams: tuple[str, ...]
    """The shared n-grams, or the whole short problem."""


class ProblemIdentity(NamedTuple):
    """What defines a problem: its text, and what the text is about."""

    text: str
    surroundings: str = ""
    """Environment, setting and contents of the files, as JSON; empty for a problem without them."""

    @classmethod
    def of(cls, problem: Problem) -> "ProblemIdentity":
        around = surroundings_key(problem.environment, problem.setting, problem.files)
        return cls(text_of_prompt(problem.messages), around)


def text_of_prompt(messages: Sequence[Message]) -> str:
    """Return what the user says in a prompt, or its last message if the user says nothing."""
    asked = [message["content"] for message in messages if message["role"] == "user"]
    return "\n".join(asked or [message["content"] for message in messages[-1:]])


def surroundings_key(environment: object, setting: object, files: object, folder: Path = Path()) -> str:
    """Return what makes problems of equal text different, as JSON, or an empty text. `folder`: of relative paths.

    Files count with their contents, and those that cannot be read with their paths.
    """
    parts = [environment, _mapping(setting), {}]
    named = _mapping(files)
    if isinstance(named, Mapping):
        parts[2] = {str(name): _content(folder / str(path)) for name, path in named.items()}
    return json.dumps(parts, sort_keys=True, default=str) if any(parts) else ""


def _mapping(cell: object) -> Any:
    """Return a cell that may be JSON text as the object in it."""
    if isinstance(cell, str):
        with suppress(ValueError, RecursionError):
            return json.loads(cell)
    return cell


def _content(path: Path) -> str:
    try:
        state = path.stat()
        return _digest(path, state.st_size, state.st_mtime_ns)
    except OSError:
        return str(path)


@lru_cache(maxsize=65536)
def _digest(path: Path, size: int, changed: int) -> str:
    del size, changed  # keys of the cache
    return sha256_of_file(path)


def may_be_one(one: str, other: str) -> bool:
    """Return whether problems of equal text with these surroundings may be the same problem."""
    return one == other or not one or not other


def words(text: str) -> list[str]:
    """Return the words of a problem in order, without known wordings around it."""
    text = _FRACTION.sub(r"\\frac", _BRACKETS.sub("$", _LOOKS.sub(" ", bare(text))))
    return _WORD.findall(text.casefold())


def key(text: str) -> str:
    """Return a key that is equal for texts with the same question."""
    return " ".join(words(text))


class Index:
    """Map each n-gram to the benchmark's problems that contain it."""

    def __init__(self, problems: Sequence[str], n: int) -> None:
        self._n = n
        self._places: defaultdict[Gram, list[int]] = defaultdict(list)
        self._sizes: list[int] = []
        self._short: defaultdict[Gram, list[int]] = defaultdict(list)
        for number, problem in enumerate(problems):
            found = words(problem)
            grams = set(self._grams(found))
            self._sizes.append(len(grams))
            for gram in grams:
                self._places[gram].append(number)
            if not grams and found:
                self._short[tuple(found)].append(number)

    def overlaps(self, found: Sequence[str], share: float) -> Iterator[Overlap]:
        """Yield the problems of which a text has at least this share. `found`: the words of the text."""
        shared = [gram for gram in dict.fromkeys(self._grams(found)) if gram in self._places]
        counts = Counter(number for gram in shared for number in self._places[gram])
        for number, count in counts.items():
            if count >= share * self._sizes[number]:
                texts = tuple(" ".join(gram) for gram in shared if number in self._places[gram])
                yield Overlap(number, count / self._sizes[number], texts)
        for number in self._short.get(tuple(found), ()) if len(found) < self._n else ():
            yield Overlap(number, 1.0, (" ".join(found),))

    def _grams(self, found: Sequence[str]) -> Iterator[Gram]:
        if len(found) < self._n:
            return iter(())
        return zip(*(found[i:] for i in range(self._n)), strict=False)
