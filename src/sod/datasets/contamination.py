"""Find rows of a file that share text with problems of benchmarks."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sod.datasets.columns import statement
from sod.datasets.identity import read_benchmark
from sod.datasets.overlap import Index, Overlap, ProblemIdentity, may_be_one, surroundings_key, words
from sod.datasets.published import SETS
from sod.datasets.rows import SURROUNDINGS, Row, read_rows
from sod.errors import DataError


@dataclass(frozen=True, slots=True)
class Guarded:
    """A benchmark, or a file, that must not be in training data."""

    name: str
    ids: list[str]
    """The id of each row, or its number if it has none."""
    index: Index
    surroundings: list[str]
    """The surroundings of each row (`sod.datasets.overlap.ProblemIdentity`)."""
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
    rows: Sequence[Row],
    benchmarks: Sequence[Guarded],
    share: float,
    advance: Callable[[], None],
    folder: Path = Path(),
) -> list[Finding]:
    """Return all overlaps of rows with benchmarks, in the order of the rows. `advance` is called after each row.

    `folder`: of the file of the rows, for the paths in it.
    """
    return list(_findings(rows, benchmarks, share, advance, folder))


def _guarded(name: str, path: Path, n: int) -> Guarded:
    published = SETS.get(name)
    benchmark = published if published is not None and published.role == "benchmark" else None
    rows = read_benchmark(benchmark, path) if benchmark else read_rows(path)
    ids = [str(row.get("id", number)) for number, row in enumerate(rows, 1)]
    questions = [_question(row) for row in rows]
    around = [row_surroundings(row, path.parent) for row in rows]
    if empty := [number for number, question in enumerate(questions, 1) if not words(question)]:
        raise DataError(
            f"{path}: {len(empty)} of {len(rows)} rows have no text to compare in `prompt`, `problem`, `question` or "
            f"`messages`; the first is row {empty[0]}. `sod data convert` reads more columns."
        )
    return Guarded(name, ids, Index(questions, n), around, benchmark is not None and benchmark.private)


def row_surroundings(row: Row, folder: Path = Path()) -> str:
    """Return the surroundings of the problem in a row. `folder`: of the file of the row."""
    environment, setting, files = (row.get(name) or "" for name in SURROUNDINGS)
    return surroundings_key(environment, setting, files, folder)


def _question(row: Row) -> str:
    """Return the question of a row without its choices, because other copies may have other choices or none."""
    text = statement(row)
    return text.rpartition("\n\n(A) ")[0] if "choices" in row else text


def _findings(
    rows: Sequence[Row], benchmarks: Sequence[Guarded], share: float, advance: Callable[[], None], folder: Path
) -> Iterator[Finding]:
    for number, row in enumerate(rows, 1):
        found, around = words(statement(row)), row_surroundings(row, folder)
        for benchmark in benchmarks:
            for overlap in benchmark.index.overlaps(found, share):
                if may_be_one(around, benchmark.surroundings[overlap.problem]):
                    yield Finding(number, benchmark, overlap)
        advance()


def same_questions(held_out: Sequence[ProblemIdentity], training: Sequence[ProblemIdentity]) -> set[int]:
    """Return the numbers of the held-out questions that are also training questions."""
    around = _by_words(training)
    return {
        number
        for number, question in enumerate(held_out)
        if _is_among(question, around.get(tuple(words(question.text)), set()))
    }


def count_shared(
    held_out: Sequence[ProblemIdentity], training: Sequence[ProblemIdentity], n: int, share: float
) -> tuple[int, int]:
    """Return how many held-out questions are also training questions, and how many others share text with one.

    `n` and `share`: see `sod.datasets.overlap.Index`.
    """
    index = Index([question.text for question in held_out], n)
    same, similar = same_questions(held_out, training), set[int]()
    for found, around in _by_words(training).items():
        numbers = (overlap.problem for overlap in index.overlaps(found, share))
        similar.update(number for number in numbers if _is_among(held_out[number], around))
    return len(same), len(similar - same)


def _by_words(questions: Sequence[ProblemIdentity]) -> dict[tuple[str, ...], set[str]]:
    """Return the surroundings of the questions by their words, because many worlds have one text."""
    around: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
    for question in questions:
        around[tuple(words(question.text))].add(question.surroundings)
    return dict(around)


def _is_among(question: ProblemIdentity, around: set[str]) -> bool:
    """Return whether a question is the same problem as one of equal text with one of these surroundings."""
    own = question.surroundings
    return own in around or "" in around or (not own and bool(around))
