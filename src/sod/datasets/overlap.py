r"""Find shared text by word n-grams, the usual measure of contamination.

Words are runs of letters and digits, and single signs, in lower case. LaTeX for layout only (`\left`, `\,`, `\dfrac` for `\frac`)
is ignored. A benchmark's problem is found in a text that has at least a given share of the problem's n-grams. A problem too short
for an n-gram is found if it is the whole text. The time is linear in the length of the texts.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sod.datasets.wording import bare

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
        self._short: dict[Gram, int] = {}
        for number, problem in enumerate(problems):
            found = words(problem)
            grams = set(self._grams(found))
            self._sizes.append(len(grams))
            for gram in grams:
                self._places[gram].append(number)
            if not grams and found:
                self._short[tuple(found)] = number

    def overlaps(self, found: Sequence[str], share: float) -> Iterator[Overlap]:
        """Yield the problems of which a text has at least this share. `found`: the words of the text."""
        shared = [gram for gram in dict.fromkeys(self._grams(found)) if gram in self._places]
        counts = Counter(number for gram in shared for number in self._places[gram])
        for number, count in counts.items():
            if count >= share * self._sizes[number]:
                texts = tuple(" ".join(gram) for gram in shared if number in self._places[gram])
                yield Overlap(number, count / self._sizes[number], texts)
        if len(found) < self._n and (number := self._short.get(tuple(found))) is not None:
            yield Overlap(number, 1.0, (" ".join(found),))

    def _grams(self, found: Sequence[str]) -> Iterator[Gram]:
        if len(found) < self._n:
            return iter(())
        return zip(*(found[i:] for i in range(self._n)), strict=False)
