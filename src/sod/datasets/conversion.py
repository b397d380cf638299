"""Convert a published file into checked rows in sod's columns."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from sod.datasets import columns, gpqa, livecodebench
from sod.datasets.choices import Numberings
from sod.datasets.identity import check_identity
from sod.datasets.published import Published, Reader
from sod.datasets.reading import published_rows
from sod.datasets.recognising import cells_of
from sod.datasets.rows import Row, option_count
from sod.errors import DataError
from sod.rewards.kinds import Prompts, check_gold

CONTRADICTORY = "two answers"
"""The `flag` of a problem that its set contains twice with different answers. The first answer is kept."""


@dataclass(frozen=True, slots=True)
class Converted:
    rows: list[Row]
    notes: tuple[str, ...]
    """Notes about rows that were left out."""


def convert_file(path: Path, published: Published | None, prompts: Prompts) -> Converted:
    """Convert a file into rows in sod's columns, each problem once, with answers that a judge can use.

    `published`: the set. Default: the columns decide, LiveCodeBench's own included. A benchmark gets no wording, and its identity
    is checked. Training problems get their wording.

    Raises DataError for an unusable file, and for an unusable row of a benchmark. Unusable rows of other files are left out and
    noted.
    """
    reader: Reader = "columns" if published is None else published.reader
    match reader:
        case "gpqa":
            done = _choices(published_rows(path), path)
        case "livecodebench":
            done = _programs(published_rows(path), published.since if published else "", path)
        case "columns":
            done = _by_columns(published, prompts, path)
    if published is not None and published.role == "benchmark":
        check_identity(done.rows, published, str(path))
    return done


def notes_of(rows: Sequence[Row], published: Published) -> tuple[str, ...]:
    """Return the notes to print beside every result on a set."""
    if published.role == "training":
        return published.notes
    days = sorted(row["date"] for row in rows if "date" in row)
    window = f", contests of {days[0]} to {days[-1]}" if days else ""
    public = published.reader == "livecodebench" and any(livecodebench.public_only(row["answer"]) for row in rows)
    return (
        f"{len(rows)} problems{window}",
        *(["public tests only: no LiveCodeBench score"] if public else []),
        *published.notes,
    )


def _by_columns(published: Published | None, prompts: Prompts, path: Path) -> Converted:
    """Convert rows by their columns: demonstrations or problems."""
    everything = enumerate(published_rows(path), 1)
    first = next(everything)
    everything = chain([first], everything)
    if published is None and livecodebench.has_columns(first[1]):
        return _programs((row for _, row in everything), "", path)
    unused: Counter[str] = Counter()

    def kept(found: tuple[Row, set[str]]) -> Row:
        unused.update(found[1])
        return found[0]

    if (published is not None and published.content == "demonstrations") or columns.holds_demonstration(first[1]):
        done = _collect(everything, lambda row, _: kept(columns.demonstration(row)), path, strict=False)
        return _with_unused(done, unused, published)
    integers = published is not None and published.integers
    kind = published.kind if published is not None else ""
    benchmark = published is not None and published.role == "benchmark"
    numberings = Numberings(lambda: map(cells_of, published_rows(path)))

    def ours(row: Row, number: int) -> Row:
        row = kept(columns.converted_problem(row, number, kind=kind, integers=integers, numberings=numberings))
        check_gold(row["kind"], row["answer"], option_count(row.get("choices"), columns.statement(row)))
        return row

    if benchmark:
        return _collect(everything, ours, path, strict=True)
    done = _each_once(_collect(_without_repetitions(everything), ours, path, strict=False))
    done = Converted([columns.question(row, prompts) for row in done.rows], done.notes)
    return _with_unused(done, unused, published)


def _with_unused(done: Converted, unused: Counter[str], published: Published | None) -> Converted:
    """Add a note on columns that are not kept, except for a published set."""
    if not unused or published is not None:
        return done
    names = ", ".join(f"`{name}` ({count})" for name, count in sorted(unused.items()))
    return Converted(
        done.rows, (*done.notes, f"columns that are not kept, with their number of non-empty rows: {names}")
    )


def _without_repetitions(rows: Iterable[tuple[int, Row]]) -> Iterator[tuple[int, Row]]:
    """Yield rows without exact repetitions. This is cheap if a file repeats every row a hundred times."""
    seen: set[bytes] = set()
    for number, row in rows:
        digest = hashlib.blake2b(repr(row).encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if digest not in seen:
            seen.add(digest)
            yield number, row


def _choices(rows: Iterator[Row], path: Path) -> Converted:
    try:
        return Converted(gpqa.questions(list(rows)), ())
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _programs(rows: Iterator[Row], since: str, path: Path) -> Converted:
    def ours(row: Row, _: int) -> Row:
        row = livecodebench.livecodebench_problem(row)
        check_gold(row["kind"], row["answer"])
        return row

    done = _collect(enumerate(rows, 1), ours, path, strict=True)
    return Converted([row for row in done.rows if row["date"] >= since], done.notes)


def _collect(
    rows: Iterable[tuple[int, Row]], convert: Callable[[Row, int], Row], path: Path, *, strict: bool
) -> Converted:
    """Convert numbered rows. Unusable rows are left out; they are an error if `strict`, or if no row is usable."""
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
    return Converted(good, (f"{len(bad)} unusable rows are left out; the first is {bad[0]}",) if bad else ())


def _each_once(done: Converted) -> Converted:
    """Keep the first of several problems with equal text, with a flag if their answers differ."""
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
        notes.append(f"{contradicted} problems have two answers; the first is kept (flag: {CONTRADICTORY})")
    return Converted(list(first.values()), (*done.notes, *notes))
