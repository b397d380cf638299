"""Check that a file is the benchmark of its name, for every public copy of it.

Copies differ in wording, in the order of rows and in the form of answers. All copies have the same number of problems and the
same answers in canonical form (for LiveCodeBench, the same ids). A fingerprint is the SHA-256 of the sorted answers or ids.
`marks.json` has the beginning of the SHA-256 of each one, so that an error can name the rows that differ.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from sod.config import MarksOptions
from sod.console.progress import echo
from sod.datasets.golds import vote
from sod.datasets.published import Published
from sod.datasets.rows import Row, read_rows
from sod.errors import DataError
from sod.rewards.kinds import KINDS, find_kind

MARK = 8
"""Hexadecimal digits of a mark."""
SHOWN = 8
"""Largest number of rows in an error."""


NEEDED = ("id", "problem", "answer", "kind")


def read_benchmark(published: Published, path: Path) -> list[Row]:
    """Read a benchmark's file in sod's columns. Raises DataError if it is not that benchmark."""
    rows = _read_converted(path, f"Move it away, and run `sod data convert FILE --name {published.name}` on it.")
    check_identity(rows, published, str(path))
    return rows


def show_marks(options: MarksOptions) -> None:
    """Print the entries of a new benchmark for `published.py` and `marks.json`."""
    rows = _read_converted(options.file, f"Run `sod data convert {options.file} --out OUT.jsonl` first.")
    marks = " ".join(sorted(map(mark, items(rows))))
    echo(f'published.py: rows={len(rows)}, fingerprint="{golds_fingerprint(rows)}"')
    echo(f'marks.json: "{options.file.stem}": "{marks}"')


def _read_converted(path: Path, advice: str) -> list[Row]:
    rows = read_rows(path)
    if any(name not in row for row in rows for name in NEEDED):
        raise DataError(f"{path} lacks some of the columns {', '.join(NEEDED)}: it is not converted. {advice}")
    return rows


def check_identity(rows: Sequence[Row], published: Published, where: str) -> None:
    """Raise DataError with the differences if rows are not the benchmark."""
    problems = list(_differences(rows, published))
    if problems:
        raise DataError(f"{where} is not {published.name}: {'; '.join(problems)}.")


def items(rows: Sequence[Row]) -> list[str]:
    """Return the items that all copies share: the votes of the answers, or the ids of problems without votes."""
    return [vote(row["kind"], row["answer"]) if find_kind(row["kind"]).vote else str(row["id"]) for row in rows]


def golds_fingerprint(rows: Sequence[Row]) -> str:
    """Return the SHA-256 of the sorted items of all rows."""
    return hashlib.sha256("\n".join(sorted(items(rows))).encode()).hexdigest()


def mark(item: str) -> str:
    """Return the first MARK digits of an item's SHA-256."""
    return hashlib.sha256(item.encode()).hexdigest()[:MARK]


def _differences(rows: Sequence[Row], published: Published) -> list[str]:
    found: list[str] = []
    if published.rows is not None and len(rows) != published.rows:
        found.append(f"it has {len(rows)} rows, not {published.rows}")
    if doubtful := [n for n, row in enumerate(rows, 1) if "choices" in row and len(set(row["choices"])) < 4]:
        found.append(f"{_rows(doubtful)} without four distinct choices")
    if (
        published.kind
        and KINDS[published.kind].has_options
        and (missing := [n for n, row in enumerate(rows, 1) if "choices" not in row])
    ):
        found.append(f"{_rows(missing)} without `choices`")
    if published.fingerprint and golds_fingerprint(rows) != published.fingerprint:
        found.append(_other_items(rows, published))
    return found


def _other_items(rows: Sequence[Row], published: Published) -> str:
    """Describe the rows with an answer, or an id, that the benchmark does not have, or has less often."""
    what = "an answer" if not published.kind or KINDS[published.kind].vote else "an id"
    places: defaultdict[str, list[int]] = defaultdict(list)
    for number, item in enumerate(items(rows), 1):
        places[mark(item)].append(number)
    known = Counter(_marks()[published.name].split())
    surplus = Counter({name: len(numbers) for name, numbers in places.items()}) - known
    unknown = [number for name in surplus if name not in known for number in places[name]]
    repeated = [number for name in surplus if name in known for number in places[name]]
    parts = [
        f"{_rows(sorted(unknown))} with {what} that the benchmark does not have" if unknown else "",
        f"{what} more often than in the benchmark, among {_rows(sorted(repeated))}" if repeated else "",
        f"{missing} of the benchmark's {what.split()[1]}s missing"
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
