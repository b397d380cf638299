"""The commands `sod data ...`."""

from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from math import isfinite
from pathlib import Path

from rich.box import SIMPLE, SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

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
from sod.console.progress import Display, console, echo
from sod.datasets.asking import unasked_lines
from sod.datasets.checking import Checked, Inspector, unchecked_rows
from sod.datasets.columns import statement
from sod.datasets.contamination import Finding, Guarded, findings, guarded
from sod.datasets.describing import describe_file, description_tables, histogram, one_line, ruler
from sod.datasets.dividing import mix_rows, shares, split_rows
from sod.datasets.published import SETS, Published
from sod.datasets.rows import Row, read_rows
from sod.datasets.storing import fetch_set, store
from sod.datasets.writing import lines, write_all
from sod.errors import DataError, OptionError
from sod.tools.python import INTERPRETER

EXAMPLES = 3
"""Number of bad rows, or of overlaps, to print."""
SHOWN = 160
"""Characters of a text to print."""
LICENSE = 13
"""Width of the license column in the catalogue. The longest license then takes two lines, like every set."""


def list_sets(options: DataListOptions) -> None:
    """Print a table on a terminal, and otherwise one line per set, with `-` for an empty cell."""
    here = {name for name in SETS if (options.data_dir / f"{name}.jsonl").exists()}
    if console.is_terminal:
        console.print(catalogue(here))
        return
    rows = [_cells(published, here) for published in SETS.values()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        console.print(line.rstrip(), soft_wrap=True)


def fetch(options: FetchOptions) -> None:
    for published in [_published(name) for name in options.names]:
        fetch_set(published, options.out, options.prompts, revision=options.revision)


def convert(options: ConvertOptions) -> None:
    published = None if options.name is None else _published(options.name)
    out = options.out or Path("data") / f"{options.name or options.file.stem}.jsonl"
    store(options.file, published, _jsonl(out), options.prompts, {"file": options.file.name})


def check(options: CheckOptions) -> None:
    """Check files of problems or demonstrations, and write the valid and the invalid rows.

    Raises DataError at the end if rows are invalid and the options have neither `good` nor `rejects`.
    """
    _outputs(options.good, options.rejects)
    total = 0
    good: list[Row] = []
    rejects: list[Row] = []
    for path in options.files:
        for row in _checked(path):
            total += 1
            if row.why:
                rejects.append({"file": str(path), "row": row.number, "why": row.why, "content": row.content})
            elif options.good is not None:
                good.append(row.content)
    written: dict[Path, list[Row]] = {}
    if options.good is not None:
        written[options.good] = good
    if options.rejects is not None and rejects:
        written[options.rejects] = rejects
    _write(written)
    if rejects and options.good is None and options.rejects is None:
        raise DataError(
            f"{len(rejects)} of {total} rows are invalid. Use --good FILE to save the valid rows, and --rejects FILE to save the "
            "invalid ones."
        )


def describe(options: DescribeOptions) -> None:
    measure = ruler(options)
    for path in options.files:
        description = describe_file(path, measure)
        echo(f"{path}: {description.rows} {description.what}")
        for table in description_tables(description):
            console.print(table)
        name, values = next(iter(description.lengths.items()))
        echo(name)
        for line in histogram(values):
            echo(line)


def decontaminate(options: DecontaminateOptions) -> None:
    _outputs(options.out, options.report)
    rows = read_rows(options.file)
    textless = sum(not statement(row).strip() for row in rows)
    if textless == len(rows):
        raise DataError(f"{options.file} has no text to compare. `sod data convert` reads more columns.")
    benchmarks = guarded(options.against, options.data_dir, options.words)
    with Display("decontaminate", total=1) as display, display.phase("rows", len(rows)):
        found = findings(rows, benchmarks, options.share, display.advance, options.file.parent)
    _print_overlaps(found, benchmarks, rows)
    dirty = {finding.row for finding in found}
    echo(f"{len(dirty)} of {len(rows)} rows share {options.share:.0%} or more of a problem's {options.words}-grams")
    if textless:
        echo(f"{textless} row{' has' if textless == 1 else 's have'} no text to compare; their overlaps are unknown")
    written: dict[Path, list[Row]] = {}
    if options.report is not None:
        written[options.report] = [finding.as_row() for finding in found]
    if options.out is not None:
        written[options.out] = [row for number, row in enumerate(rows, 1) if number not in dirty]
    _write(written, may_be_empty=options.report)


def split(options: SplitOptions) -> None:
    rows = read_rows(options.file)
    if options.validation >= 1 and not options.validation.is_integer():
        raise OptionError(
            f"validation = {options.validation:g} is not a whole number of rows. Give a share below 1, or a whole number."
        )
    count = max(1, round(options.validation * len(rows) if options.validation < 1 else options.validation))
    if count >= len(rows):
        raise OptionError(
            f"validation = {options.validation:g} takes {count} of the {len(rows)} rows of {options.file}, so no row is left for "
            "training. Give a smaller number."
        )
    folder = options.out or options.file.parent
    train, validation = split_rows(rows, count, options.seed)
    if not validation:
        raise DataError(
            f"{options.file} cannot be split with {count} rows for validation: every problem occurs more than {count} times, and "
            "equal problems stay on one side. Give a larger --validation."
        )
    parts = {"train": train, "validation": validation}
    _write({folder / f"{options.file.stem}-{part}.jsonl": rows for part, rows in parts.items()})


def mix(options: MixOptions) -> None:
    _jsonl(options.out)
    if options.weights and len(options.weights) != len(options.files):
        raise OptionError(
            f"There are {len(options.weights)} weights for {len(options.files)} files; give one weight per file."
        )
    if not isfinite(sum(options.weights)):
        raise OptionError("The sum of the weights is not finite; give smaller numbers.")
    if len({path.resolve() for path in options.files}) < len(options.files):
        raise OptionError("A file is given twice, but a mixture repeats no row. Give it once, with a larger weight.")
    files = [[{**row, "source": row.get("source") or path.stem} for row in read_rows(path)] for path in options.files]
    if len({"messages" in row for rows in files for row in rows}) > 1:
        raise DataError("Some rows are demonstrations and others are problems. Mix files of one type only.")
    sizes = [len(rows) for rows in files]
    counts = shares(sizes, options.weights or sizes, options.rows)
    for path, size, count in zip(options.files, sizes, counts, strict=True):
        echo(f"{path}: {count} of {size} rows")
    if options.rows is not None and sum(counts) < options.rows:
        echo(f"only {sum(counts)} of {options.rows} rows: a file has no more rows for its weight")
    _write({options.out: mix_rows(files, counts, options.seed)})


# Parts


def _published(name: str) -> Published:
    if name not in SETS:
        near = get_close_matches(name, SETS, n=1, cutoff=0.5)
        raise OptionError(
            f"{name!r} is not a known set; "
            + (f"did you mean {near[0]}?" if near else "`sod data list` shows all sets.")
        )
    return SETS[name]


def _jsonl(path: Path) -> Path:
    if path.suffix != ".jsonl":
        raise OptionError(
            f"{path} has the ending {path.suffix!r}, but the output is JSON lines; give a name with .jsonl."
        )
    return path


def _outputs(*paths: Path | None) -> None:
    """Raise OptionError for output files with a wrong ending, and for equal ones."""
    places = [_jsonl(path).resolve() for path in paths if path is not None]
    if len(set(places)) < len(places):
        raise OptionError(f"{places[0]} is given for two outputs; give each output its own file.")


def _write(files: Mapping[Path, Sequence[Row]], *, may_be_empty: Path | None = None) -> None:
    """Write all of the files, or none."""
    for path, rows in files.items():
        if not rows and path != may_be_empty:
            raise DataError(f"No row is left for {path}. Nothing was written.")
    new = write_all({path: lines(rows) for path, rows in files.items()})
    for path, rows in files.items():
        echo(f"{path}: {len(rows)} rows" + ("" if path in new else ", unchanged"))


def catalogue(here: Container[str]) -> Table:
    """Return a table of all sets, at most 80 columns wide.

    Each set has two lines: name, rows, description and license; then whether it is in the data directory, and its repository.
    """
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("name", no_wrap=True)
    table.add_column("rows", justify="right", no_wrap=True)
    table.add_column("description, repository", overflow="fold")
    table.add_column("license", min_width=LICENSE, max_width=LICENSE)
    for role in ("benchmark", "training"):
        for published in SETS.values():
            if published.role == role:
                name = Text.assemble(published.name, ("\n" + _here(published, here), "green"))
                what = Text.assemble(published.what, ("\n" + published.repo, "dim"))
                table.add_row(name, _rows(published), what, _license(published))
        table.add_section()
    return table


def _cells(published: Published, here: Container[str]) -> list[str]:
    """Return the cells of a set for output in one line."""
    place = f"{published.repo}@{published.revision[:8]}"
    cells = (published.name, _rows(published), _here(published, here), place, _license(published), published.what)
    return [cell or "-" for cell in cells]


def _here(published: Published, here: Container[str]) -> str:
    return "here" if published.name in here else ""


def _rows(published: Published) -> str:
    return "" if published.rows is None else f"{published.rows:,}"


def _license(published: Published) -> str:
    return published.license + (", gated" if published.gated else "")


def _checked(path: Path) -> Iterator[Checked]:
    """Yield the rows of a file with their faults, and print a summary at the end."""
    inspector = Inspector()
    total, bad = 0, list[Checked]()
    for row in unchecked_rows(path):
        total += 1
        row = replace(row, why=row.why or inspector.fault(row.content, row.number))
        bad += [row] if row.why else []
        yield row
    echo(f"{path}: {total} rows, {len(bad)} invalid")
    for row in bad[:EXAMPLES]:
        echo(f"  row {row.number}: {one_line(row.why)}")
    if len(bad) > EXAMPLES:
        echo(f"  ... and {len(bad) - EXAMPLES} more")
    for line in unasked_lines(inspector.kinds, inspector.quiet):
        echo(f"  warning: {line}")
    for warning in inspector.tool_use.warnings([INTERPRETER]):
        echo(f"  {warning}")
    if inspector.same_ids:
        echo(f"  {inspector.same_ids} rows have the id of another row; their ids become ID#2, ID#3, ...")


def _print_overlaps(found: Sequence[Finding], benchmarks: Sequence[Guarded], rows: Sequence[Row]) -> None:
    table = Table(box=SIMPLE)
    table.add_column("benchmark", overflow="fold")
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
        echo(
            f"row {finding.row} has {finding.overlap.share:.0%} of {benchmark.name} {benchmark.ids[finding.overlap.problem]}:"
        )
        echo(f"  {one_line(statement(rows[finding.row - 1]), SHOWN)}")
