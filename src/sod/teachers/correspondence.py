"""Find the parts of a turn that stand in the student's form and in the teacher's.

They are the thought, the text, and the names and values of calls. A value may be written verbatim or as JSON. Standard library
only.
"""

import json
from collections.abc import Iterator, Sequence

from sod.teachers.alignment import Match
from sod.types import ToolCall


def corresponding(raw: bytes, written: str, thought: str, content: str, calls: Sequence[ToolCall]) -> list[Match]:
    """Return the parts of a turn that are in the student's and in the teacher's form, in order.

    `raw`: the student's form, as bytes. `written`: the teacher's.
    """
    ours, theirs = raw.decode(errors="surrogateescape"), written
    wanted: list[object] = [text for text in (thought, content) if text]
    for call in calls:
        wanted.append(call.name)
        for key, value in call.arguments.items():
            wanted += [key, value]
    matches: list[Match] = []
    one = other = 0
    for value in wanted:
        first, second = _find(ours, value, one), _find(theirs, value, other)
        if first is None or second is None:
            continue
        matches += _joined(ours, theirs, first, second)
        one, other = first[0] + sum(map(len, first[1])), second[0] + sum(map(len, second[1]))
    return _with_space(raw, written.encode(), matches)


def _with_space(ours: bytes, theirs: bytes, matches: Sequence[Match]) -> list[Match]:
    """Extend the matches over the same white space around them, which may be in one token with their first or last byte."""
    made: list[Match] = []
    for at, match in enumerate(matches):
        one, other = (made[-1].ours.stop, made[-1].theirs.stop) if made else (0, 0)
        before = _same_space(ours[one : match.ours.start][::-1], theirs[other : match.theirs.start][::-1])
        end = matches[at + 1] if at + 1 < len(matches) else Match(range(len(ours), 0), range(len(theirs), 0))
        after = _same_space(ours[match.ours.stop : end.ours.start], theirs[match.theirs.stop : end.theirs.start])
        if len(match.ours) != len(match.theirs):
            before = after = 0
        made.append(
            Match(
                range(match.ours.start - before, match.ours.stop + after),
                range(match.theirs.start - before, match.theirs.stop + after),
            )
        )
    return made


def _same_space(ours: bytes, theirs: bytes) -> int:
    """Return the length of the white space that begins both texts."""
    pairs = zip(ours, theirs, strict=False)
    return next(
        (at for at, (one, other) in enumerate(pairs) if one != other or one not in b" \n\t"),
        min(len(ours), len(theirs)),
    )


WrittenAt = tuple[int, list[str]]
"""Where a value stands in a text, and how each of its characters is written."""


def _find(text: str, value: object, start: int) -> WrittenAt | None:
    """Return the first place of a value, verbatim or in JSON."""
    places = [(at, form) for form in _forms(value) if (at := text.find("".join(form), start)) >= 0]
    return min(places, key=lambda place: (place[0], -sum(map(len, place[1]))), default=None)


def _forms(value: object) -> Iterator[list[str]]:
    """Yield the ways to write a value, character by character."""
    if isinstance(value, str):
        if value:
            yield list(value)
            yield [json.dumps(character, ensure_ascii=False)[1:-1] for character in value]
            yield [json.dumps(character)[1:-1] for character in value]
        return
    yield list(json.dumps(value, ensure_ascii=False))
    yield list(json.dumps(value))
    yield list(str(value))


def _joined(ours: str, theirs: str, first: WrittenAt, second: WrittenAt) -> Iterator[Match]:
    """Yield the matches of a value that both texts contain. A character in two forms is a match of its own."""
    one, other = bytes_before(ours, first[0]), bytes_before(theirs, second[0])
    if len(first[1]) != len(second[1]):
        return
    run = 0
    for mine, yours in zip(first[1], second[1], strict=True):
        if mine == yours:
            run += len(mine.encode())
            continue
        if run:
            yield Match(range(one, one + run), range(other, other + run))
        one, other, run = one + run, other + run, 0
        sizes = len(mine.encode()), len(yours.encode())
        if sizes[0] != sizes[1]:
            yield Match(range(one, one + sizes[0]), range(other, other + sizes[1]))
        one, other = one + sizes[0], other + sizes[1]
    if run:
        yield Match(range(one, one + run), range(other, other + run))


def bytes_before(text: str, at: int) -> int:
    """Return the number of bytes of a text before a character. Half characters are surrogate escapes."""
    return len(text[:at].encode(errors="surrogateescape"))
