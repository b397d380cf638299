"""Parse one row of a trajectory file into the data for the figures and the data for the page.

Rows of older runs lack some fields (signal, pattern, steps). Missing fields are None or empty.
"""

from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

UNIT = 1e-4
"""Precision of the files, in nats. Signals, entropies and log-probabilities are embedded as whole multiples of it."""
LARGEST = 1e30
"""Largest accepted number. Single precision holds it, and sums of its squares are finite."""

VerdictName = Literal["right", "wrong", "ungraded"]
Compact = dict[str, Any]
"""A trajectory as the page embeds it: JSON without token ids, short enough to be embedded thousands of times."""


class UnreadableError(ValueError):
    """The row is not a trajectory; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class StepValues:
    d: float | None
    """Divergence from the teacher, in nats."""
    w: float | None
    """SOD's weight."""
    w_used: float | None
    """Mean weight of the teacher's signal in the run's own algorithm."""
    teacher_entropy: float | None
    """Entropy of the teacher, in nats."""


@dataclass(frozen=True, slots=True)
class ShownTrajectory:
    """The fields of a trajectory for filtering, sorting and drawing."""

    update: int
    problem: str
    sample: int
    verdict: VerdictName
    reward: float | None
    stop: str
    pattern: str | None
    answer: str | None
    calls: int
    errors: int
    tokens: int
    """Length of the response, observations included."""
    steps: tuple[StepValues, ...]
    signal: "array[float]"
    """log pi_teacher - log pi_student of every scored token, in nats."""

    @property
    def erroneous(self) -> bool:
        """True if any tool call failed."""
        return self.errors > 0


@dataclass(slots=True)
class TokenTotals:
    """Number of scored tokens and total |signal| per token text."""

    count: Counter[str] = field(default_factory=Counter)
    nats: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Sum of |signal|, in nats."""

    def add(self, texts: list[str], signal: list[float | None]) -> None:
        for text, value in zip(texts, signal, strict=True):
            if value is not None:
                self.count[text] += 1
                self.nats[text] += abs(value)


def parse_trajectory(row: object, update: int, totals: TokenTotals) -> tuple[ShownTrajectory, Compact]:
    """Parse a row, and add its tokens to `totals`. Raises UnreadableError."""
    if not isinstance(row, dict):
        raise UnreadableError("is not an object")
    pieces = row.get("pieces")
    if not isinstance(pieces, list) or not all(_is_piece(piece) for piece in pieces):
        raise UnreadableError("has no pieces of text")
    steps = tuple(_step(step) for step in _list(row, "steps") if isinstance(step, dict))
    own = [piece for before, piece in pairwise(pieces) if before["author"] != "teacher"]
    outcomes = [str(outcome) for piece in own for outcome in _list(piece, "outcomes")]
    signal = array("f")
    compact_pieces = [_piece(piece, signal, totals) for piece in pieces]
    trajectory = ShownTrajectory(
        update=update,
        problem=str(row.get("problem", "?")),
        sample=int(drawable(row.get("sample")) or 0),
        verdict="ungraded" if row.get("graded") is False else "right" if row.get("correct") else "wrong",
        reward=drawable(row.get("reward")),
        stop=str(row.get("stop", "?")),
        pattern=_text(row, "pattern"),
        answer=_text(row, "answer"),
        calls=len(outcomes),
        errors=sum(outcome != "ok" for outcome in outcomes),
        tokens=sum(len(_list(piece, "tokens")) for piece in pieces if piece["author"] != "prompt"),
        steps=steps,
        signal=signal,
    )
    compact: Compact = {
        "gold": _text(row, "gold"),
        "answer": trajectory.answer,
        "reason": _text(row, "reason"),
        "teacher": _text(row, "teacher"),
        "seconds": drawable(row.get("seconds")),
        "steps": [[step.d, step.w, step.teacher_entropy, step.w_used] for step in steps],
        "pieces": compact_pieces,
    }
    return trajectory, compact


def drawable(value: object) -> float | None:
    """Return a number that can be drawn and embedded; None for any other value."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= LARGEST else None  # NaN becomes None as well


def _is_piece(piece: object) -> bool:
    return isinstance(piece, dict) and isinstance(piece.get("author"), str) and isinstance(piece.get("text"), str)


def _step(step: Mapping[str, Any]) -> StepValues:
    d, w, w_used, entropy = (drawable(step.get(key)) for key in ("d", "w", "w_used", "teacher_entropy"))
    return StepValues(d=d, w=w, w_used=w_used, teacher_entropy=entropy)


def _piece(piece: Mapping[str, Any], signal: "array[float]", totals: TokenTotals) -> Compact:
    """Return a piece as the page embeds it. Adds its signal to `signal`, and its texts and signal to `totals`."""
    compact: Compact = {"author": piece["author"], "text": piece["text"]}
    if outcomes := _list(piece, "outcomes"):
        compact["outcomes"] = [str(outcome) for outcome in outcomes]
    texts = _list(piece, "token_texts")
    values = [drawable(value) for value in _list(piece, "signal")]
    signal.extend(value for value in values if value is not None)
    if not texts or not all(isinstance(text, str) for text in texts):
        return compact
    if "".join(texts) == piece["text"]:
        compact["cuts"] = [_utf16_length(text) for text in texts]
    else:  # a character split over several tokens has no text per token
        compact["texts"] = texts
    if len(values) == len(texts):
        totals.add(texts, values)
    for key in ("signal", "teacher_entropy", "logprobs"):
        column = _list(piece, key)
        if len(column) == len(texts):
            numbers = map(drawable, column)
            compact[key] = [None if value is None else round(value / UNIT) for value in numbers]
    return compact


def _utf16_length(text: str) -> int:
    """Return the length in UTF-16 code units, as in JavaScript."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


def _list(row: Mapping[str, Any], key: str) -> list[Any]:
    value = row.get(key)
    return value if isinstance(value, list) else []


def _text(row: Mapping[str, Any], key: str) -> str | None:
    value = row.get(key)
    return None if value is None else str(value)
