"""`sod data ...`: what the user sees of data sets."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from rich.box import SIMPLE
from rich.table import Table

from sod.config import (
    CheckOptions,
    ConvertOptions,
    DataListOptions,
    DecontaminateOptions,
    DescribeOptions,
    FetchOptions,
    MixOptions,
    SplitOptions,
)
from sod.data import Row, read_rows
from sod.datasets.checking import Checked, Inspector, unchecked_rows
from sod.datasets.columns import statement
from sod.datasets.contamination import Finding, Guarded, findings, guarded
from sod.datasets.describing import describe_file, histogram, ruler, tables
from sod.datasets.dividing import mix_rows, shares, split_rows
from sod.datasets.published import SETS, Published
from sod.datasets.storing import fetch_set, store
from sod.datasets.writing import lines, write
from sod.errors import DataError, OptionError
from sod.progress import Display, console, say

EXAMPLES = 3
"""Of bad rows, or of overlaps, that are shown."""
SHOWN = 160
"""Characters of a text that is shown."""


def list_sets(options: DataListOptions) -> None:
    width = max(map(len, SETS))
    for published in SETS.values():
        here = "here" if (options.data_dir / f"{published.name}.jsonl").exists() else ""
        rows = "" if published.rows is None else f"{published.rows:,}"
        gate = ", gated" if published.gated else ""
        say(f"{published.name:<{width}}  {rows:>6}  {here:<4}  {published.what}")
        indent = " " * (width + 16)
        say(f"{indent}{published.repo} @ {published.revision[:8]}{gate}; license: {published.license}")


def fetch(options: FetchOptions) -> None:
    for published in [_published(name) for name in options.names]:
        fetch_set(published, options.out, options.prompts, revision=options.revision)


def convert(options: ConvertOptions) -> None:
    published = None if options.name is None else _published(options.name)
    out = options.out or Path("data") / f"{options.name or options.file.stem}.jsonl"
    store(options.file, published, _jsonl(out), options.prompts, {"file": options.file.name})


def check(options: CheckOptions) -> None:
    """Raises DataError at the end if there are bad rows, and neither `good` nor `rejects` takes them apart."""
    for out in (options.good, options.rejects):
        if out is not None:
            _jsonl(out)
    good: list[Row] = []
    rejects: list[Row] = []
    for path in options.files:
        rows = _check_file(path)
        good += [row.content for row in rows if not row.why]
        rejects += [
            {"file": str(path), "row": row.number, "why": row.why, "content": row.content} for row in rows if row.why
        ]
    if options.good is not None:
        _write(options.good, good)
    if options.rejects is not None and rejects:
        _write(options.rejects, rejects)
    if rejects and options.good is None and options.rejects is None:
        raise DataError(
            f"{len(rejects)} of {len(good) + len(rejects)} rows are bad. --good FILE takes the others, --rejects FILE these."
        )


def describe(options: DescribeOptions) -> None:
    measure = ruler(options)
    for path in options.files:
        description = describe_file(path, measure)
        say(f"{path}: {description.rows} {description.what}")
        for table in tables(description):
            console.print(table)
        name, values = next(iter(description.lengths.items()))
        say(name)
        for line in histogram(values):
            say(line)


def decontaminate(options: DecontaminateOptions) -> None:
    for out in (options.out, options.report):
        if out is not None:
            _jsonl(out)
    rows = read_rows(options.file)
    benchmarks = guarded(options.against, options.data_dir, options.words)
    with Display("decontaminate", total=1) as display, display.phase("rows", len(rows)):
        found = findings(rows, benchmarks, options.share, display.advance)
    _say_overlaps(found, benchmarks, rows)
    dirty = {finding.row for finding in found}
    say(f"{len(dirty)} of {len(rows)} rows share {options.share:.0%} or more of a problem's {options.words}-grams")
    if options.report is not None:
        _write(options.report, [finding.as_row() for finding in found], may_be_empty=True)
    if options.out is not None:
        _write(options.out, [row for number, row in enumerate(rows, 1) if number not in dirty])


def split(options: SplitOptions) -> None:
    rows = read_rows(options.file)
    wanted = options.validation * len(rows) if options.validation < 1 else options.validation
    count = max(1, round(wanted))
    if (options.validation >= 1 and count != options.validation) or count >= len(rows):
        raise OptionError(
            f"validation = {options.validation:g} is no share below 1, and no number of rows below the {len(rows)} of "
            f"{options.file}."
        )
    folder = options.out or options.file.parent
    train, validation = split_rows(rows, count, options.seed)
    if not validation:
        raise DataError(f"{options.file} has no problem that is there {count} times or less: ask for more rows.")
    _write(folder / f"{options.file.stem}-train.jsonl", train)
    _write(folder / f"{options.file.stem}-validation.jsonl", validation)


def mix(options: MixOptions) -> None:
    _jsonl(options.out)
    if options.weights and len(options.weights) != len(options.files):
        raise OptionError(
            f"There are {len(options.weights)} weights for {len(options.files)} files; give one for each."
        )
    files = [[{**row, "source": row.get("source") or path.stem} for row in read_rows(path)] for path in options.files]
    sizes = [len(rows) for rows in files]
    counts = shares(sizes, options.weights or sizes, options.rows)
    for path, size, count in zip(options.files, sizes, counts, strict=True):
        say(f"{path}: {count} of {size} rows")
    if options.rows is not None and sum(counts) < options.rows:
        say(f"{options.rows} rows were asked for; a file is exhausted at {sum(counts)}.")
    _write(options.out, mix_rows(files, counts, options.seed))


# Parts


def _published(name: str) -> Published:
    if name not in SETS:
        near = get_close_matches(name, SETS, n=1, cutoff=0.5)
        raise OptionError(
            f"There is no set {name!r}; "
            + (f"did you mean {near[0]}?" if near else "`sod data list` shows those there are.")
        )
    return SETS[name]


def _jsonl(path: Path) -> Path:
    if path.suffix != ".jsonl":
        raise OptionError(f"{path} has the ending {path.suffix!r}; files are written as .jsonl.")
    return path


def _write(path: Path, rows: Sequence[Row], *, may_be_empty: bool = False) -> None:
    if not rows and not may_be_empty:
        raise DataError(f"No row is left for {path}; nothing was written.")
    is_new = write(path, lines(rows))
    say(f"{path}: {len(rows)} rows" + ("" if is_new else ", as it was"))


def _check_file(path: Path) -> list[Checked]:
    inspector = Inspector()
    unchecked = unchecked_rows(path)
    rows: list[Checked] = []
    with Display(f"check {path.name}", total=1) as display, display.phase("rows", len(unchecked)):
        for row in unchecked:
            rows.append(replace(row, why=row.why or inspector.fault(row.content, row.number)))
            display.advance()
    bad = [row for row in rows if row.why]
    say(f"{path}: {len(rows)} rows, {len(bad)} bad")
    for row in bad[:EXAMPLES]:
        say(f"  row {row.number}: {row.why}")
    if len(bad) > EXAMPLES:
        say(f"  ... and {len(bad) - EXAMPLES} more")
    if inspector.same_ids:
        say(f"  {inspector.same_ids} rows have another's id; they are read as ID#2, ID#3, ...")
    return rows


def _say_overlaps(found: Sequence[Finding], benchmarks: Sequence[Guarded], rows: Sequence[Row]) -> None:
    table = Table(box=SIMPLE)
    table.add_column("benchmark")
    for name in ("problems", "found", "in rows"):
        table.add_column(name, justify="right")
    for benchmark in benchmarks:
        here = [finding for finding in found if finding.benchmark is benchmark]
        problems, places = {finding.overlap.problem for finding in here}, {finding.row for finding in here}
        table.add_row(benchmark.name, str(benchmark.problems), str(len(problems)), str(len(places)))
    console.print(table)
    shown: Counter[str] = Counter()
    for finding in sorted(found, key=lambda finding: -finding.overlap.share):
        benchmark = finding.benchmark
        shown[benchmark.name] += 1
        if benchmark.private or shown[benchmark.name] > EXAMPLES:
            continue
        text = " ".join(statement(rows[finding.row - 1]).split())
        say(
            f"row {finding.row} has {finding.overlap.share:.0%} of {benchmark.name} {benchmark.ids[finding.overlap.problem]}:"
        )
        say(f"  {text[:SHOWN]}{'...' if len(text) > SHOWN else ''}")
