"""One row of a trajectory file: checked, with what figures need of it and what the page shows of it.

Rows of older runs know less (no signal, no pattern, no steps); whatever a row does not know is None or empty.
"""

from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

UNIT = 1e-4
"""Nats. Signals, entropies and log-probabilities are embedded as whole multiples of it, the precision of the files."""
LARGEST = 1e30
"""No number of a run is larger; single precision holds it, and sums of its squares are finite."""

Verdict = Literal["right", "wrong", "ungraded"]
Compact = dict[str, Any]
"""What the page shows of a trajectory: JSON without token ids, short enough to be embedded thousands of times."""


class UnreadableError(ValueError):
    """The row is no trajectory; the message says why."""


@dataclass(frozen=True, slots=True)
class Step:
    d: float | None
    """Divergence from the teacher, nats."""
    w: float | None
    """SOD's weight."""
    w_used: float | None
    """Mean weight that the run's own algorithm gave the teacher."""
    teacher_entropy: float | None
    """Nats."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """The facts about a trajectory that it is found, sorted and drawn by."""

    update: int
    problem: str
    sample: int
    verdict: Verdict
    reward: float | None
    stop: str
    pattern: str | None
    answer: str | None
    calls: int
    errors: int
    tokens: int
    """Length of the response, observations included."""
    steps: tuple[Step, ...]
    signal: "array[float]"
    """log pi_teacher - log pi_student of every scored token, nats."""

    @property
    def erroneous(self) -> bool:
        """Whether any tool call came back with something else than its result."""
        return self.errors > 0


@dataclass(slots=True)
class TokenTotals:
    """How often each text of a token was scored, and how much signal it carried in all."""

    count: Counter[str] = field(default_factory=Counter)
    nats: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Sum of |signal|."""

    def add(self, texts: list[str], signal: list[float | None]) -> None:
        for text, value in zip(texts, signal, strict=True):
            if value is not None:
                self.count[text] += 1
                self.nats[text] += abs(value)


def parse(row: object, update: int, totals: TokenTotals) -> tuple[Trajectory, Compact]:
    """Check a row, and add its tokens to `totals`. Raises UnreadableError."""
    if not isinstance(row, dict):
        raise UnreadableError("is no object")
    pieces = row.get("pieces")
    if not isinstance(pieces, list) or not all(_is_piece(piece) for piece in pieces):
        raise UnreadableError("has no pieces of text")
    steps = tuple(_step(step) for step in _list(row, "steps") if isinstance(step, dict))
    outcomes = [str(outcome) for piece in pieces for outcome in _list(piece, "outcomes")]
    signal = array("f")
    compact_pieces = [_piece(piece, signal, totals) for piece in pieces]
    trajectory = Trajectory(
        update=update,
        problem=str(row.get("problem", "?")),
        sample=int(number(row.get("sample")) or 0),
        verdict="ungraded" if row.get("graded") is False else "right" if row.get("correct") else "wrong",
        reward=number(row.get("reward")),
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
        "seconds": number(row.get("seconds")),
        "steps": [[step.d, step.w, step.teacher_entropy, step.w_used] for step in steps],
        "pieces": compact_pieces,
    }
    return trajectory, compact


def number(value: object) -> float | None:
    """A number that can be drawn and embedded; None for anything else that a file may hold in its place."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= LARGEST else None  # also not a number that is none


def _is_piece(piece: object) -> bool:
    return isinstance(piece, dict) and isinstance(piece.get("author"), str) and isinstance(piece.get("text"), str)


def _step(step: Mapping[str, Any]) -> Step:
    d, w, w_used, entropy = (number(step.get(key)) for key in ("d", "w", "w_used", "teacher_entropy"))
    return Step(d=d, w=w, w_used=w_used, teacher_entropy=entropy)


def _piece(piece: Mapping[str, Any], signal: "array[float]", totals: TokenTotals) -> Compact:
    """What the page shows of a piece. Its signal is added to `signal`, and with its texts to `totals`."""
    compact: Compact = {"author": piece["author"], "text": piece["text"]}
    if outcomes := _list(piece, "outcomes"):
        compact["outcomes"] = [str(outcome) for outcome in outcomes]
    texts = _list(piece, "token_texts")
    values = [number(value) for value in _list(piece, "signal")]
    signal.extend(value for value in values if value is not None)
    if not texts or not all(isinstance(text, str) for text in texts):
        return compact
    if "".join(texts) == piece["text"]:
        compact["cuts"] = [_utf16_length(text) for text in texts]
    else:  # characters of several tokens have no text of their own
        compact["texts"] = texts
    if len(values) == len(texts):
        totals.add(texts, values)
    for key in ("signal", "teacher_entropy", "logprobs"):
        column = _list(piece, key)
        if len(column) == len(texts):
            numbers = map(number, column)
            compact[key] = [None if value is None else round(value / UNIT) for value in numbers]
    return compact


def _utf16_length(text: str) -> int:
    """Length as JavaScript counts it."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


def _list(row: Mapping[str, Any], key: str) -> list[Any]:
    value = row.get(key)
    return value if isinstance(value, list) else []


def _text(row: Mapping[str, Any], key: str) -> str | None:
    value = row.get(key)
    return None if value is None else str(value)
