"""Whether a file is the benchmark that it is called, whichever copy it came from.

Copies differ in their wording, in the order of their rows and in how they write answers. What they share is the number of
problems and, in canonical form, their answers; for LiveCodeBench, the ids. A fingerprint is the SHA-256 of these, sorted;
`marks.json` has the beginning of the SHA-256 of each, so that it can be said which ones are others.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from sod.datasets.golds import vote
from sod.datasets.published import Published
from sod.datasets.rows import Row, read_rows
from sod.errors import DataError

MARK = 8
"""Hexadecimal digits of a mark."""
SHOWN = 8
"""Rows that an error names."""


NEEDED = ("id", "problem", "answer", "kind")


def read_benchmark(published: Published, path: Path) -> list[Row]:
    """The rows of a benchmark's file of ours. Raises DataError if it is not that benchmark."""
    rows = read_rows(path)
    if any(name not in row for row in rows for name in NEEDED):
        raise DataError(
            f"{path} lacks some of the columns {', '.join(NEEDED)}: it is a file as it is published. Move it away, and run "
            f"`sod data convert FILE --name {published.name}` on it."
        )
    check_identity(rows, published, str(path))
    return rows


def check_identity(rows: Sequence[Row], published: Published, where: str) -> None:
    """Rows of ours must be the benchmark. Raises DataError, with what differs."""
    problems = list(_differences(rows, published))
    if problems:
        raise DataError(f"{where} is not {published.name}: {'; '.join(problems)}.")


def items(rows: Sequence[Row]) -> list[str]:
    """What every copy shares: answers as votes count them, or the ids of code problems."""
    return [str(row["id"]) if row["kind"] == "code" else vote(row["kind"], row["answer"]) for row in rows]


def fingerprint(rows: Sequence[Row]) -> str:
    return hashlib.sha256("\n".join(sorted(items(rows))).encode()).hexdigest()


def mark(item: str) -> str:
    return hashlib.sha256(item.encode()).hexdigest()[:MARK]


def _differences(rows: Sequence[Row], published: Published) -> list[str]:
    found: list[str] = []
    if published.rows is not None and len(rows) != published.rows:
        found.append(f"it has {len(rows)} rows, not {published.rows}")
    if doubtful := [n for n, row in enumerate(rows, 1) if "choices" in row and len(set(row["choices"])) < 4]:
        found.append(f"{_rows(doubtful)} without four distinct choices")
    if published.kind == "choice" and (missing := [n for n, row in enumerate(rows, 1) if "choices" not in row]):
        found.append(f"{_rows(missing)} without `choices`")
    if published.fingerprint and fingerprint(rows) != published.fingerprint:
        found.append(_other_items(rows, published))
    return found


def _other_items(rows: Sequence[Row], published: Published) -> str:
    """Which rows have an answer, or an id, that the benchmark has not, or not so often."""
    what = "an id" if published.kind == "code" else "an answer"
    places: defaultdict[str, list[int]] = defaultdict(list)
    for number, item in enumerate(items(rows), 1):
        places[mark(item)].append(number)
    known = Counter(_marks()[published.name].split())
    surplus = Counter({name: len(numbers) for name, numbers in places.items()}) - known
    strange = [number for name in surplus if name not in known for number in places[name]]
    often = [number for name in surplus if name in known for number in places[name]]
    parts = [
        f"{_rows(sorted(strange))} with {what} that it has nowhere" if strange else "",
        f"{what} more often than there, among {_rows(sorted(often))}" if often else "",
        f"{missing} of its {what.split()[1]}s missing"
        if (missing := (known - Counter({name: len(n) for name, n in places.items()})).total())
        else "",
    ]
    return ", ".join(part for part in parts if part)


def _rows(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:SHOWN]))
    return f"row{'s' if len(numbers) > 1 else ''} {shown}{', ...' if len(numbers) > SHOWN else ''}"


@cache
def _marks() -> dict[str, str]:
    return json.loads(files("sod.datasets").joinpath("marks.json").read_text(encoding="utf-8"))
