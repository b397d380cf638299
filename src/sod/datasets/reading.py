"""Read published files row by row: .jsonl, .json, .parquet and .csv, and all but .parquet also with .gz."""

import csv
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from sod.console.progress import slow_bar
from sod.datasets.formats import check_format
from sod.datasets.rows import Row, each_row, unique_names
from sod.errors import DataError

csv.field_size_limit(1 << 30)  # the tests of one program are longer than the module's default of 128 KiB


def published_rows(path: Path) -> Iterator[Row]:
    """Return the rows of a file, at least one. Raises DataError with the position for a damaged file."""
    if not path.is_file():
        raise DataError(f"{path} does not exist, or is not a file. Give a published file.")
    check_format(path)
    ending = Path(path.stem).suffix + path.suffix if path.suffix == ".gz" else path.suffix
    match ending:
        case ".jsonl" | ".parquet":
            return each_row(path)
        case ".jsonl.gz":
            rows = _json_lines(path)
        case ".json" | ".json.gz":
            rows = _json(path)
        case ".csv" | ".csv.gz":
            rows = _csv(path)
        case _:
            raise DataError(
                f"{path} has the ending {ending!r}; give a .jsonl, .json, .parquet or .csv file. All but .parquet may end in .gz."
            )
    if not rows:
        raise DataError(f"{path} is empty: it has no rows.")
    return _shown(path, rows)


def _shown(path: Path, rows: list[Row]) -> Iterator[Row]:
    with slow_bar(path.name, "rows, %", 100) as at:
        for number, row in enumerate(rows, 1):
            yield row
            at(100 * number // len(rows))


def _json_lines(path: Path) -> list[Row]:
    rows: list[Row] = []
    for number, line in enumerate(_text(path).split("\n"), 1):
        try:
            row = json.loads(line, object_pairs_hook=unique_names) if line.strip() else {}
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: not JSON ({error}).") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: expected an object with named fields, found {type(row).__name__}.")
        rows += [row] if row else []
    return rows


def _json(path: Path) -> list[Row]:
    """Read a list of objects, or an object with exactly one such list."""
    try:
        content = json.loads(_text(path), object_pairs_hook=unique_names)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}.") from error
    lists = [content] if isinstance(content, list) else []
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
    if len(lists) != 1 or not all(isinstance(row, dict) for row in lists[0]):
        raise DataError(f"{path} is neither a list of objects nor an object with exactly one such list.")
    return lists[0]


def _csv(path: Path) -> list[Row]:
    lines = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    rows: list[Row] = []
    try:
        header = next(lines, [])
        if twice := [name for name, count in Counter(header).items() if name and count > 1]:
            raise DataError(f"{path} has two columns with the name {twice[0]!r}. Rename or remove one of them.")
        for cells in lines:
            if cells and len(cells) != len(header):
                raise DataError(
                    f"{path}, row {len(rows) + 1} (up to line {lines.line_num}) has {len(cells)} cells, but the header has "
                    f"{len(header)} columns: the file is damaged, or not separated by commas."
                )
            if cells:
                rows.append(dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise DataError(f"{path}, row {len(rows) + 1} (at line {lines.line_num}) is damaged: {error}.") from error
    return rows


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read, or is not a valid gzip file: {error}.") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}.") from error
