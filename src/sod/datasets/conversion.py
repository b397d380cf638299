"""From a published file to rows of ours, checked."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from sod.data import Row
from sod.datasets import columns, gpqa, livecodebench
from sod.datasets.golds import check_gold
from sod.datasets.identity import check_identity
from sod.datasets.published import Published
from sod.datasets.reading import published_rows
from sod.datasets.wording import Prompts
from sod.errors import DataError
from sod.progress import Display

CONTRADICTORY = "two answers"
"""The `flag` of a problem that its set asks twice, with different answers; the first is kept."""


@dataclass(frozen=True, slots=True)
class Converted:
    rows: list[Row]
    notes: tuple[str, ...]
    """What became of rows that are not here."""


def convert_file(path: Path, published: Published | None, prompts: Prompts) -> Converted:
    """A file in our columns, each problem once, all with answers that a judge can use.

    `published` says which set it is; without it, the columns tell. A benchmark stays bare, and must be it; training
    problems are worded. Raises DataError for a file, or a benchmark's row, that cannot be used; other such rows are left
    out, and noted.
    """
    count, rows = published_rows(path)
    bar = Display(f"convert {path.name}", total=1)
    with bar, bar.phase("rows", count):
        rows = _counted(rows, bar.advance)
        match published:
            case Published(kind="choice"):
                done = _choices(rows, path)
            case Published(kind="code", since=since):
                done = _programs(rows, since, path)
            case _:
                done = _by_columns(rows, published, prompts, path)
    if published is not None and published.role == "benchmark":
        check_identity(done.rows, published, str(path))
    return done


def notes_of(rows: Sequence[Row], published: Published) -> tuple[str, ...]:
    """What must be said beside any number, by what is in a set."""
    if published.role == "training":
        return published.notes
    days = sorted(row["date"] for row in rows if "date" in row)
    window = f", contests of {days[0]} to {days[-1]}" if days else ""
    public = any(row["kind"] == "code" and livecodebench.public_only(row["answer"]) for row in rows)
    return (
        f"{len(rows)} problems{window}",
        *(["public tests only: no LiveCodeBench score"] if public else []),
        *published.notes,
    )


def _counted(rows: Iterator[Row], advance: Callable[[], None]) -> Iterator[Row]:
    for row in rows:
        yield row
        advance()


def _by_columns(rows: Iterator[Row], published: Published | None, prompts: Prompts, path: Path) -> Converted:
    """Rows whose columns say what they are: demonstrations or problems."""
    first = next(rows)
    names = set(map(columns.normal, first))
    everything = enumerate(chain([first], rows), 1)
    if "messages" in names or (published is not None and published.kind == "demonstrations"):
        return _collect(everything, lambda row, _: columns.demonstration(row), path, strict=False)
    integers = published is not None and published.integers
    kind = published.kind if published is not None and published.kind != "mixed" else ""
    benchmark = published is not None and published.role == "benchmark"

    def ours(row: Row, number: int) -> Row:
        row = columns.problem(row, number, kind=kind, integers=integers)
        check_gold(row["kind"], row["answer"])
        return row

    if benchmark:
        return _collect(everything, ours, path, strict=True)
    done = _each_once(_collect(_without_repetitions(everything), ours, path, strict=False))
    return Converted([columns.question(row, prompts) for row in done.rows], done.notes)


def _without_repetitions(rows: Iterable[tuple[int, Row]]) -> Iterator[tuple[int, Row]]:
    """Rows that are equal in every cell, once: cheap, where a file has each a hundred times."""
    seen: set[str] = set()
    for number, row in rows:
        text = repr(row)
        if text not in seen:
            seen.add(text)
            yield number, row


def _choices(rows: Iterator[Row], path: Path) -> Converted:
    try:
        return Converted(gpqa.questions(list(rows)), ())
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _programs(rows: Iterator[Row], since: str, path: Path) -> Converted:
    def ours(row: Row, _: int) -> Row:
        row = livecodebench.problem(row)
        check_gold(row["kind"], row["answer"])
        return row

    done = _collect(enumerate(rows, 1), ours, path, strict=True)
    return Converted([row for row in done.rows if row["date"] >= since], done.notes)


def _collect(
    rows: Iterable[tuple[int, Row]], convert: Callable[[Row, int], Row], path: Path, *, strict: bool
) -> Converted:
    """All numbered rows converted; those that cannot be are left out, or all of them an error if `strict` or if none can."""
    good: list[Row] = []
    bad: list[str] = []
    for number, row in rows:
        try:
            columns.check_characters(row)
            good.append(convert(row, number))
        except DataError as error:
            bad.append(f"row {number}: {error}")
    if bad and (strict or not good):
        raise DataError(f"{path}: {len(bad)} of {len(good) + len(bad)} rows cannot be used; the first is {bad[0]}")
    return Converted(good, (f"{len(bad)} rows that cannot be used are left out; the first is {bad[0]}",) if bad else ())


def _each_once(done: Converted) -> Converted:
    """Problems that are asked more often in the same words, once: the first; flagged where answers differ."""
    first: dict[tuple[str, str], Row] = {}
    contradicted = 0
    for row in done.rows:
        kept = first.setdefault((repr(row["problem"]), row["kind"]), row)
        if kept["answer"] != row["answer"] and kept.get("flag") != CONTRADICTORY:
            kept["flag"] = CONTRADICTORY
            contradicted += 1
    repeated = len(done.rows) - len(first)
    notes = [f"{repeated} repetitions of a problem are left out"] if repeated else []
    if contradicted:
        notes.append(f"{contradicted} problems have two answers, of which the first is kept (flag: {CONTRADICTORY})")
    return Converted(list(first.values()), (*done.notes, *notes))
