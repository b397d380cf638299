"""Find rows of a file that share text with problems of benchmarks."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sod.datasets.columns import statement
from sod.datasets.identity import read_benchmark
from sod.datasets.overlap import Index, Overlap, words
from sod.datasets.published import SETS
from sod.datasets.rows import Row, read_rows
from sod.errors import DataError


@dataclass(frozen=True, slots=True)
class Guarded:
    """A benchmark, or a file, that must not be in training data."""

    name: str
    ids: list[str]
    """The id of each row, or its number if it has none."""
    index: Index
    private: bool
    """Whether its text must not be printed."""

    @property
    def problems(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Finding:
    """A row that shares text with a problem."""

    row: int
    """The number of the row, from 1."""
    benchmark: Guarded
    overlap: Overlap

    def as_row(self) -> Row:
        """Return the row of a report. It has no text of a private benchmark."""
        found: Row = {
            "row": self.row,
            "benchmark": self.benchmark.name,
            "problem": self.overlap.problem + 1,
            "id": self.benchmark.ids[self.overlap.problem],
            "share": round(self.overlap.share, 4),
        }
        return found if self.benchmark.private else found | {"grams": list(self.overlap.grams)}


def guarded(names: Sequence[str], data_dir: Path, n: int) -> list[Guarded]:
    """Load benchmarks by name from `data_dir`, and files. Raises DataError for missing ones."""
    places = {name: data_dir / f"{name}.jsonl" if name in SETS else Path(name) for name in names}
    if missing := [name for name, path in places.items() if not path.exists()]:
        known = [name for name in missing if name in SETS]
        raise DataError(
            f"{', '.join(missing)}: neither a benchmark in {data_dir} nor a file. "
            + (f"Run `sod data fetch {' '.join(known)} --out {data_dir}`, or leave" if known else "Leave")
            + " them out with --against."
        )
    return [_guarded(name, path, n) for name, path in places.items()]


def findings(
    rows: Sequence[Row], benchmarks: Sequence[Guarded], share: float, advance: Callable[[], None]
) -> list[Finding]:
    """Return all overlaps of rows with benchmarks, in the order of the rows. `advance` is called after each row."""
    return list(_findings(rows, benchmarks, share, advance))


def _guarded(name: str, path: Path, n: int) -> Guarded:
    published = SETS.get(name)
    benchmark = published if published is not None and published.role == "benchmark" else None
    rows = read_benchmark(benchmark, path) if benchmark else read_rows(path)
    ids = [str(row.get("id", number)) for number, row in enumerate(rows, 1)]
    questions = [_question(row) for row in rows]
    if empty := [number for number, question in enumerate(questions, 1) if not words(question)]:
        raise DataError(
            f"{path}: {len(empty)} of {len(rows)} rows have no text to compare in `prompt`, `problem`, `question` or "
            f"`messages`; the first is row {empty[0]}. `sod data convert` reads more columns."
        )
    return Guarded(name, ids, Index(questions, n), benchmark is not None and benchmark.private)


def _question(row: Row) -> str:
    """Return the question of a row without its choices, because other copies may have other choices or none."""
    text = statement(row)
    return text.rpartition("\n\n(A) ")[0] if "choices" in row else text


def _findings(
    rows: Sequence[Row], benchmarks: Sequence[Guarded], share: float, advance: Callable[[], None]
) -> Iterator[Finding]:
    for number, row in enumerate(rows, 1):
        found = words(statement(row))
        for benchmark in benchmarks:
            for overlap in benchmark.index.overlaps(found, share):
                yield Finding(number, benchmark, overlap)
        advance()


def count_shared(held_out: Sequence[str], training: Sequence[str], n: int, share: float) -> tuple[int, int]:
    """Return how many held-out questions are also training questions, and how many others share text with one.

    `n` and `share`: see `sod.datasets.overlap.Index`.
    """
    index = Index(held_out, n)
    numbers: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, question in enumerate(held_out):
        numbers[tuple(words(question))].append(number)
    same: set[int] = set()
    similar: set[int] = set()
    for question in training:
        found = words(question)
        same.update(numbers.get(tuple(found), ()))
        similar.update(overlap.problem for overlap in index.overlaps(found, share))
    return len(same), len(similar - same)
