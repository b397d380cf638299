"""Align the tokens of two tokenizers by the bytes of one text. Standard library only.

A *span* is the shortest run of tokens that begins and ends at a token boundary of both sides. It is the smallest text of
which both models give a probability: the sum of the log-probabilities of its tokens. Where both sides have the same tokens,
every span is one token.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise


@dataclass(frozen=True, slots=True)
class Match:
    """A part of both texts with one meaning, as ranges of bytes.

    Ranges of equal length hold the same bytes, so each byte corresponds to one. Ranges of different length hold one character
    in two forms, such as a line break and its JSON escape; only their ends correspond.
    """

    ours: range
    theirs: range

    def points(self) -> Iterator[tuple[int, int]]:
        """Yield all pairs of corresponding offsets, both ends included."""
        if len(self.ours) == len(self.theirs):
            yield from zip(
                range(self.ours.start, self.ours.stop + 1), range(self.theirs.start, self.theirs.stop + 1), strict=True
            )
        else:
            yield self.ours.start, self.theirs.start
            yield self.ours.stop, self.theirs.stop


@dataclass(frozen=True, slots=True)
class Span:
    """The tokens of both sides that spell one text, as ranges of indices. Neither is empty."""

    ours: range
    theirs: range


def align(ours: Sequence[int], theirs: Sequence[int], matches: Sequence[Match]) -> list[Span]:
    """Return the spans of two token sequences, in order. Tokens outside all spans are not aligned.

    `ours`, `theirs`: length in bytes of each token. `matches`: in order, without overlaps. A span may cross from one match to
    the next if they touch on both sides. A token without bytes belongs to the span that begins at its place.

    Example: " wor|ld!" and " |world|!" share the boundaries after "world" and "!":
        >>> align([4, 2, 1], [1, 5, 1], [Match(range(0, 7), range(0, 7))])
        [Span(ours=range(0, 2), theirs=range(0, 2)), Span(ours=range(2, 3), theirs=range(2, 3))]
    """
    first, second = _boundaries(ours), _boundaries(theirs)
    spans: list[Span] = []
    for island in _islands(matches):
        common = [
            (first[one], second[other])
            for match in island
            for one, other in match.points()
            if one in first and other in second
        ]
        for (start, begin), (stop, end) in pairwise(dict.fromkeys(common)):
            spans.append(Span(range(start, stop), range(begin, end)))
    return spans


def _boundaries(lengths: Sequence[int]) -> dict[int, int]:
    """Return the first token that begins at each boundary, by its offset. The end of the last token is a boundary as well."""
    found: dict[int, int] = {}
    for index, offset in enumerate(accumulate(lengths, initial=0)):
        found.setdefault(offset, index)
    return found


def _islands(matches: Sequence[Match]) -> list[list[Match]]:
    """Group matches that touch on both sides."""
    islands: list[list[Match]] = []
    for match in matches:
        last = islands[-1][-1] if islands else None
        if last and (last.ours.stop, last.theirs.stop) == (match.ours.start, match.theirs.start):
            islands[-1].append(match)
        else:
            islands.append([match])
    return islands


def common_parts(ours: bytes, theirs: bytes) -> list[Match]:
    """Return what two almost equal texts share: all up to the first difference other than a space, and their common end.

    Some tokenizers put a space before each part of a text, and `sod.chat.harmless` puts one into a special token.
    """
    matches: list[Match] = []
    one = other = 0
    while one < len(ours) and other < len(theirs):
        size = _common_start(ours, theirs, one, other)
        if size:
            matches.append(Match(range(one, one + size), range(other, other + size)))
        one, other = one + size, other + size
        if theirs[other : other + 1] == b" ":
            other += 1
        elif ours[one : one + 1] == b" ":
            one += 1
        else:
            break
    rest = min(len(ours) - one, len(theirs) - other)
    back = next((at for at in range(rest) if ours[-1 - at] != theirs[-1 - at]), rest)
    if back:
        matches.append(Match(range(len(ours) - back, len(ours)), range(len(theirs) - back, len(theirs))))
    return matches


def _common_start(ours: bytes, theirs: bytes, one: int, other: int) -> int:
    """Return how many bytes are the same from these places on."""
    if ours[one:] == theirs[other:]:
        return len(ours) - one
    shorter = min(len(ours) - one, len(theirs) - other)
    return next((at for at in range(shorter) if ours[one + at] != theirs[other + at]), shorter)
